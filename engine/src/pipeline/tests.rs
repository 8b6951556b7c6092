//! Every way in which a frame can be wrong, on frames with and without encryption.

use super::*;
use crate::clock::UnixMillis;
use crate::error::ErrorKind;
use crate::format::{KeyId, Kind, ObjectHeader, ObjectNonce, Protection, Salt};
use crate::revision::Revision;
use crate::secret::SecretKey;

const NAME: &str = "1763724000000-00000000cafe0001-0badf00d/full/x";

fn header(encrypted: bool, level: CompressionLevel) -> ObjectHeader {
    ObjectHeader {
        kind: Kind::Full,
        lineage: "1763724000000-00000000cafe0001-0badf00d".parse().unwrap(),
        nonce: ObjectNonce([9; 8]),
        created: UnixMillis(1),
        revision_floor: Revision(42),
        protection: if encrypted {
            Protection::Aes256Gcm { key_id: KeyId([1; 8]), salt: Salt([2; 32]) }
        } else {
            Protection::Checksum
        },
        codec: level.codec(),
        chunk_bytes: 1 << 20,
    }
}

fn pair(encrypted: bool, level: CompressionLevel) -> (Sealer, Opener) {
    let encoded = header(encrypted, level).encode();
    let key = encrypted.then(|| SecretKey::new([5; 32]));
    (
        Sealer::new(Protector::new(&encoded, key.as_ref()), level),
        Opener::new(Protector::new(&encoded, key.as_ref()), level.codec()),
    )
}

const LEVELS: [CompressionLevel; 2] = [CompressionLevel::None, CompressionLevel::Zstd(1)];

fn each(check: impl Fn(&Sealer, &Opener)) {
    for encrypted in [false, true] {
        for level in LEVELS {
            let (sealer, opener) = pair(encrypted, level);
            check(&sealer, &opener);
        }
    }
}

#[test]
fn chunks_round_trip() {
    each(|sealer, opener| {
        for plain in [&b"x"[..], &[7; 100_000], &(0..=255).cycle().take(70_001).collect::<Vec<u8>>()] {
            let (mut frame, mut back) = (Vec::new(), Vec::new());
            sealer.chunk(3, plain, &mut frame).unwrap();
            opener.chunk(3, &frame, 1 << 20, &mut back).unwrap();
            assert_eq!(back, plain);
        }
    });
}

#[test]
fn every_flipped_byte_and_every_truncation_is_damage() {
    each(|sealer, opener| {
        let (mut frame, mut back) = (Vec::new(), Vec::new());
        sealer.chunk(0, b"a chunk with some text in it", &mut frame).unwrap();
        for place in 0..frame.len() {
            let mut bad = frame.clone();
            bad[place] ^= 0x40;
            assert_eq!(
                opener.chunk(0, &bad, 1 << 20, &mut back).unwrap_err().kind(),
                ErrorKind::Damaged,
                "byte {place}"
            );
            assert!(opener.chunk(0, &frame[..place], 1 << 20, &mut back).is_err(), "cut at {place}");
        }
    });
}

#[test]
fn reordered_duplicated_and_spliced_frames_do_not_open() {
    each(|sealer, opener| {
        let (mut zero, mut one, mut back) = (Vec::new(), Vec::new(), Vec::new());
        sealer.chunk(0, b"zero", &mut zero).unwrap();
        sealer.chunk(1, b"one!", &mut one).unwrap();
        assert!(opener.chunk(0, &one, 99, &mut back).is_err());
        assert!(opener.chunk(1, &zero, 99, &mut back).is_err());
        // With its number rewritten it is in place, but not genuine.
        one[..4].copy_from_slice(&0_u32.to_le_bytes());
        assert!(opener.chunk(0, &one, 99, &mut back).unwrap_err().to_string().contains("belongs elsewhere"));
    });
}

#[test]
fn a_frame_of_another_object_does_not_open() {
    for encrypted in [false, true] {
        let (sealer, _) = pair(encrypted, LEVELS[1]);
        let mut other = header(encrypted, LEVELS[1]);
        other.nonce = ObjectNonce([8; 8]);
        let key = encrypted.then(|| SecretKey::new([5; 32]));
        let opener = Opener::new(Protector::new(&other.encode(), key.as_ref()), LEVELS[1].codec());
        let (mut frame, mut back) = (Vec::new(), Vec::new());
        sealer.chunk(0, b"spliced", &mut frame).unwrap();
        assert!(opener.chunk(0, &frame, 99, &mut back).is_err());
    }
}

#[test]
fn a_footer_opens_only_under_its_name_and_never_as_a_chunk() {
    each(|sealer, opener| {
        let (mut frame, mut back) = (Vec::new(), Vec::new());
        sealer.footer(2, NAME, b"footer", &mut frame).unwrap();
        opener.footer(2, NAME, &frame, 99, &mut back).unwrap();
        assert_eq!(back, b"footer");
        assert!(opener.footer(2, "another/full/name", &frame, 99, &mut back).is_err());
        assert!(opener.chunk(2, &frame, 99, &mut back).is_err());
    });
}

#[test]
fn a_chunk_that_would_outgrow_its_bound_is_refused() {
    each(|sealer, opener| {
        let (mut frame, mut back) = (Vec::new(), Vec::new());
        sealer.chunk(0, &[0; 5000], &mut frame).unwrap();
        assert!(opener.chunk(0, &frame, 4999, &mut back).unwrap_err().to_string().contains("longer"));
    });
}

#[test]
fn the_plaintext_is_not_in_an_encrypted_frame() {
    let (sealer, _) = pair(true, CompressionLevel::None);
    let mut frame = Vec::new();
    sealer.chunk(0, b"canary-canary-canary", &mut frame).unwrap();
    assert!(!frame.windows(6).any(|window| window == b"canary"));
}

#[test]
fn a_cutter_gives_equal_pieces_and_a_rest() {
    let mut cutter = Cutter::new(4, 1);
    let mut input = &b"abcdefghij"[..];
    let mut pieces = Vec::new();
    while !input.is_empty() {
        pieces.extend(cutter.push(&mut input).map(|piece| piece.to_vec()));
    }
    pieces.extend(cutter.finish().map(|piece| piece.to_vec()));
    assert_eq!(pieces, [&b"abcd"[..], b"efgh", b"ij"]);
}

#[test]
fn buffers_come_back_to_their_pool() {
    let pool = Pool::new(8, 1);
    let mut buffer = pool.take();
    buffer.extend_from_slice(b"12345678");
    let address = buffer.as_ptr();
    drop(buffer.into_bytes());
    let again = pool.take();
    assert!(again.is_empty());
    assert_eq!(again.as_ptr(), address);
}
