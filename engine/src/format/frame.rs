//! Frames: what surrounds one chunk, or the footer, in an object.
//!
//! ```text
//! 0   4  frame number, from 0            all little-endian
//! 4   4  payload length n
//! 8   4  plaintext length
//! 12  4  role: 0 chunk, 1 footer
//! 16  n  payload: the compressed chunk, encrypted where the object is
//! 16+n 16 tag
//! ```
//! The nonce counts frames and carries the role, which only the last frame has: a frame that is missing, doubled,
//! moved or taken from another object does not open (the STREAM construction).

use crate::error::{Error, ErrorKind, Result};

/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 16;
/// Bytes of the tag behind the payload.
pub const TAG_BYTES: usize = 16;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameRole {
    /// A chunk of the backup.
    Chunk,
    /// The footer: the last frame.
    Footer,
}

/// The first bytes of a frame; all of them are authenticated with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameHeader {
    /// Place in the object, from 0.
    pub number: u32,
    /// Bytes between this header and the tag.
    pub payload_bytes: u32,
    /// Bytes of the plaintext.
    pub plain_bytes: u32,
    /// Chunk or footer.
    pub role: FrameRole,
}

impl FrameHeader {
    /// The stored form.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let role: u32 = match self.role {
            FrameRole::Chunk => 0,
            FrameRole::Footer => 1,
        };
        let mut bytes = [0; FRAME_HEADER_BYTES];
        for (place, value) in bytes.chunks_exact_mut(4).zip([self.number, self.payload_bytes, self.plain_bytes, role]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// The frame at the beginning of `bytes`, which is to be frame `number`. Nothing of it is proven yet.
    ///
    /// # Errors
    /// `Damaged` where there is not a whole one.
    pub fn first(bytes: &[u8], number: u32, role: FrameRole) -> Result<&[u8]> {
        let payload_bytes = bytes.get(4..8).and_then(|word| word.first_chunk()).map(|word| u32::from_le_bytes(*word));
        let whole = payload_bytes.and_then(|payload| bytes.get(..FRAME_HEADER_BYTES + payload as usize + TAG_BYTES));
        let frame = whole.ok_or_else(|| Error::new(ErrorKind::Damaged, format!("frame {number} is cut short")))?;
        Self::split(frame, number, role)?;
        Ok(frame)
    }

    /// Reads the header of frame `number` and splits the frame into payload and tag.
    ///
    /// # Errors
    /// `Damaged` where the bytes are not exactly one frame of that number and role.
    pub fn split(frame: &[u8], number: u32, role: FrameRole) -> Result<(Self, &[u8], &[u8; TAG_BYTES])> {
        let damaged = |what: &str| Error::new(ErrorKind::Damaged, format!("frame {number} {what}"));
        let (head, rest) = frame.split_first_chunk::<FRAME_HEADER_BYTES>().ok_or_else(|| damaged("is cut short"))?;
        let (payload, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or_else(|| damaged("is cut short"))?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let header = Self { number, payload_bytes: word(4), plain_bytes: word(8), role };
        if header.encode() != *head {
            return Err(damaged("is not where it belongs"));
        }
        if header.payload_bytes as usize != payload.len() {
            return Err(damaged("has another length than its header says"));
        }
        Ok((header, payload, tag))
    }
}

/// The nonce of a frame: three zero bytes, the number in eight bytes big-endian, and 1 for the footer.
pub fn frame_nonce(header: &FrameHeader) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&u64::from(header.number).to_be_bytes());
    nonce[11] = u8::from(header.role == FrameRole::Footer);
    nonce
}

/// What a frame is bound to: SHA-256 of the object's header, the frame header (which holds the number), and for the
/// footer the archive-relative name, so that an object under another name does not open.
pub fn frame_aad(object_header_sha256: &[u8; 32], header: &FrameHeader, name: Option<&str>) -> Vec<u8> {
    let mut aad = Vec::with_capacity(32 + FRAME_HEADER_BYTES + name.map_or(0, str::len));
    aad.extend_from_slice(object_header_sha256);
    aad.extend_from_slice(&header.encode());
    aad.extend_from_slice(name.unwrap_or_default().as_bytes());
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Vec<u8> {
        let header = FrameHeader { number: 3, payload_bytes: 5, plain_bytes: 9, role: FrameRole::Chunk };
        [&header.encode()[..], b"hello", &[7; TAG_BYTES]].concat()
    }

    #[test]
    fn frames_split_into_header_payload_and_tag() {
        let frame = frame();
        let (header, payload, tag) = FrameHeader::split(&frame, 3, FrameRole::Chunk).unwrap();
        assert_eq!((header.plain_bytes, payload, tag), (9, &b"hello"[..], &[7; TAG_BYTES]));
    }

    #[test]
    fn another_number_role_or_length_is_refused() {
        let frame = frame();
        assert!(FrameHeader::split(&frame, 4, FrameRole::Chunk).is_err());
        assert!(FrameHeader::split(&frame, 3, FrameRole::Footer).is_err());
        for length in 0..frame.len() {
            assert!(FrameHeader::split(&frame[..length], 3, FrameRole::Chunk).is_err(), "{length}");
        }
    }

    #[test]
    fn nonces_differ_by_number_and_role() {
        let nonce = |number, role| frame_nonce(&FrameHeader { number, payload_bytes: 0, plain_bytes: 0, role });
        assert_eq!(nonce(258, FrameRole::Footer), [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1]);
        assert_ne!(nonce(1, FrameRole::Chunk), nonce(1, FrameRole::Footer));
    }
}
