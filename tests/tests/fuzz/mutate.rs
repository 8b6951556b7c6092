//! One input made from another: bits, integers, blocks and lengths.

use etcdbr_tests::load::Noise;

/// No input becomes longer.
pub(crate) const MAX_BYTES: usize = 256 << 10;
/// Structures of page files begin at multiples of it.
const PAGE: usize = 1024;
/// Of a page, what is likely to be structure rather than data.
const HEAD: u64 = 160;

/// Changes `input` in one to eight places; `other` is an input to take pieces from.
pub(crate) fn mutate(noise: &mut Noise, input: &mut Vec<u8>, other: &[u8]) {
    let changes = 1 + (noise.next_u64() % 64).trailing_zeros().min(7);
    for _ in 0..changes {
        change(noise, input, other);
    }
    input.truncate(MAX_BYTES);
}

/// A number below `bound`, or 0.
pub(crate) fn below(noise: &mut Noise, bound: usize) -> usize {
    if bound == 0 { 0 } else { (noise.next_u64() % bound as u64) as usize }
}

/// A place in an input of `len` bytes; half of the time where a page begins.
fn place(noise: &mut Noise, len: usize) -> usize {
    if noise.next_u64().is_multiple_of(2) {
        return below(noise, len);
    }
    let at = below(noise, len.div_ceil(PAGE)) * PAGE + (noise.next_u64() % HEAD) as usize;
    if at < len { at } else { below(noise, len) }
}

fn change(noise: &mut Noise, input: &mut Vec<u8>, other: &[u8]) {
    let len = input.len();
    let at = place(noise, len);
    match noise.next_u64() % 18 {
        0..=1 if len > 0 => input[at] ^= 1 << (noise.next_u64() % 8),
        2..=3 if len > 0 => input[at] = noise.next_u64() as u8,
        4..=6 => integer(noise, input, at),
        7..=8 => add(noise, input, at),
        9 => {
            // A block of this input over another place.
            let block = block_of(noise, &input.clone());
            overwrite(input, at, &block);
        }
        10 => {
            let block = block_of(noise, other);
            overwrite(input, at, &block);
        }
        11 => {
            // The same place of another input: structures meet.
            let end = (at + 1 + below(noise, 2 * PAGE)).min(other.len());
            let block = other.get(at..end).unwrap_or_default().to_vec();
            overwrite(input, at, &block);
        }
        12 => input.truncate(at),
        13 => {
            let filler = [0, 0xff, noise.next_u64() as u8][below(noise, 3)];
            let more = below(noise, 3 * PAGE);
            input.resize(len + more, filler);
        }
        14..=15 => word(noise, input, at),
        16 => drop(input.drain(at..(at + 1 + below(noise, 64)).min(len).max(at))),
        _ => {
            let block = block_of(noise, &input.clone());
            drop(input.splice(at..at, block));
        }
    }
}

fn block_of(noise: &mut Noise, from: &[u8]) -> Vec<u8> {
    let at = place(noise, from.len());
    let len = [1, 8, 16, 32, 64, PAGE][below(noise, 6)];
    from[at.min(from.len())..(at + len).min(from.len())].to_vec()
}

fn overwrite(input: &mut [u8], at: usize, block: &[u8]) {
    for (place, byte) in input.iter_mut().skip(at).zip(block) {
        *place = *byte;
    }
}

/// Bytes of an integer: 1, 2, 4 or 8.
fn width(noise: &mut Noise) -> usize {
    1 << below(noise, 4)
}

/// Writes an integer that is likely to be an edge of something.
fn integer(noise: &mut Noise, input: &mut [u8], at: usize) {
    let (len, width) = (input.len() as u64, width(noise));
    let small = noise.next_u64() % 64;
    let value = match noise.next_u64() % 10 {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX - small,
        3 => 1 << (noise.next_u64() % 64),
        4 => (1 << (noise.next_u64() % 64)) - 1,
        5 => len,
        6 => len.wrapping_sub(at as u64),
        7 => len.div_ceil(PAGE as u64).wrapping_sub(small % 4),
        _ => small,
    };
    let bytes = if noise.next_u64().is_multiple_of(4) {
        value.to_be_bytes()[8 - width..].to_vec()
    } else {
        value.to_le_bytes()[..width].to_vec()
    };
    overwrite(input, at, &bytes);
}

/// Copies an aligned word: such as the number of a page to where a page is referred to.
fn word(noise: &mut Noise, input: &mut [u8], at: usize) {
    const WORD: usize = 8;
    let from = place(noise, input.len());
    let from = if noise.next_u64().is_multiple_of(2) { from / PAGE * PAGE } else { from / WORD * WORD };
    let word = input.get(from..from + WORD).unwrap_or_default().to_vec();
    overwrite(input, at / WORD * WORD, &word);
}

/// Adds a little to an integer, or takes it away.
fn add(noise: &mut Noise, input: &mut [u8], at: usize) {
    let width = width(noise);
    let Some(place) = input.get_mut(at..at + width) else { return };
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(place);
    let delta = 1 + noise.next_u64() % 35;
    let value = u64::from_le_bytes(bytes);
    let value = if noise.next_u64().is_multiple_of(2) { value.wrapping_add(delta) } else { value.wrapping_sub(delta) };
    place.copy_from_slice(&value.to_le_bytes()[..width]);
}
