//! The first bytes of an object: preamble and header.
//!
//! ```text
//! 0   8  magic 89 45 54 43 44 42 52 0a  ("\x89ETCDBR\n")
//! 8   2  format version, little-endian
//! 10  2  zero
//! 12  4  header length H, little-endian, at most 65,536
//! 16  H  protobuf ObjectHeader
//! ```
//! The header is read first and trusted last: it is bounds-checked, chooses the key, and is proven when the first
//! frame opens, because every frame is bound to the SHA-256 of these bytes.

use std::ops::RangeInclusive;

use etcdbr_proto::etcdbr::v1 as stored;
use prost::Message;
use sha2::{Digest, Sha256};

use super::FORMAT_VERSION;
use super::key::{KeyId, Salt};
use super::name::{BackupName, LineageId, NameKind, ObjectNonce};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// Bytes before the header's protobuf.
pub const PREAMBLE_BYTES: usize = 16;
/// Longest header protobuf.
pub const MAX_HEADER_BYTES: usize = 64 << 10;
/// Plaintext bytes of a chunk unless told otherwise.
pub const DEFAULT_CHUNK_BYTES: u32 = 4 << 20;
/// Largest chunk that a reader takes, because it must hold a few in memory.
pub const MAX_CHUNK_BYTES: u32 = 64 << 20;

/// What every object begins with.
pub const OBJECT_MAGIC: [u8; 8] = *b"\x89ETCDBR\n";
const CHUNK_BYTES: RangeInclusive<u32> = 1..=MAX_CHUNK_BYTES;
/// Features that this code understands; none exist yet.
const KNOWN_FEATURES: [&str; 0] = [];

/// The two kinds of backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An image.
    Full,
    /// Records of a range of revisions.
    Delta,
}

/// How chunks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    Stored,
    /// Each chunk is a zstd frame.
    Zstd,
}

/// How frames are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protection {
    /// Checksums only.
    Checksum,
    /// AES-256-GCM.
    Aes256Gcm {
        /// The archive key.
        key_id: KeyId,
        /// Makes the object's key from it.
        salt: Salt,
    },
}

/// What is known before the first byte of data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHeader {
    /// Full or delta.
    pub kind: Kind,
    /// As in the name.
    pub lineage: LineageId,
    /// As in the name.
    pub nonce: ObjectNonce,
    /// As in the name.
    pub created: UnixMillis,
    /// Of a full its seam L, of a delta its first revision.
    pub revision_floor: Revision,
    /// Seal.
    pub protection: Protection,
    /// Compression.
    pub codec: Codec,
    /// No chunk is longer.
    pub chunk_bytes: u32,
}

/// A header as it is stored, preamble included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedHeader {
    /// Preamble and protobuf.
    pub bytes: Vec<u8>,
    /// SHA-256 of `bytes`, which binds the frames to them.
    pub sha256: [u8; 32],
}

impl ObjectHeader {
    /// The stored form.
    pub fn encode(&self) -> EncodedHeader {
        self.encode_with_features(Vec::new())
    }

    fn encode_with_features(&self, required_features: Vec<String>) -> EncodedHeader {
        let (seal, key_id, salt) = match &self.protection {
            Protection::Checksum => (stored::Seal::Checksum, Vec::new(), Vec::new()),
            Protection::Aes256Gcm { key_id, salt } => (stored::Seal::Aes256Gcm, key_id.0.to_vec(), salt.0.to_vec()),
        };
        let message = stored::ObjectHeader {
            kind: match self.kind {
                Kind::Full => stored::Kind::Full,
                Kind::Delta => stored::Kind::Delta,
            }
            .into(),
            lineage: self.lineage.to_string(),
            nonce: self.nonce.0.to_vec(),
            seal: seal.into(),
            key_id,
            salt,
            codec: match self.codec {
                Codec::Stored => stored::Codec::Stored,
                Codec::Zstd => stored::Codec::Zstd,
            }
            .into(),
            chunk_bytes: self.chunk_bytes,
            required_features,
            revision_floor: self.revision_floor.0,
            created_unix_ms: self.created.0,
        };
        let mut bytes = Vec::with_capacity(PREAMBLE_BYTES + message.encoded_len());
        bytes.extend_from_slice(&OBJECT_MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(
            &u32::try_from(message.encoded_len()).expect("a header is a few hundred bytes").to_le_bytes(),
        );
        message.encode_raw(&mut bytes);
        let sha256 = Sha256::digest(&bytes).into();
        EncodedHeader { bytes, sha256 }
    }

    /// Reads a header from the first bytes of an object.
    ///
    /// # Errors
    /// `Damaged` for bytes that are no header; `Invalid` for a format version or a required feature that is newer
    /// than this code.
    pub fn decode(start: &[u8]) -> Result<(Self, EncodedHeader)> {
        let header_bytes = Self::stored_bytes(start)?;
        let bytes = start.get(..header_bytes).ok_or_else(|| damaged("it ends within its header"))?.to_vec();
        let message = stored::ObjectHeader::decode(&bytes[PREAMBLE_BYTES..])
            .map_err(|error| damaged("the header does not parse").caused_by(error))?;
        let header = Self::checked(message)?;
        let sha256 = Sha256::digest(&bytes).into();
        Ok((header, EncodedHeader { bytes, sha256 }))
    }

    /// Bytes of preamble and header, told by the preamble.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn stored_bytes(start: &[u8]) -> Result<usize> {
        let preamble: &[u8; PREAMBLE_BYTES] =
            start.first_chunk().ok_or_else(|| damaged("it ends within its preamble"))?;
        if preamble[..8] != OBJECT_MAGIC {
            return Err(damaged("it does not begin as a backup of etcdbr"));
        }
        let version = u16::from_le_bytes([preamble[8], preamble[9]]);
        if version != FORMAT_VERSION {
            return Err(too_new(format!("it has format version {version}, this etcdbr reads {FORMAT_VERSION}")));
        }
        let length = u32::from_le_bytes([preamble[12], preamble[13], preamble[14], preamble[15]]) as usize;
        if preamble[10..12] != [0; 2] || length > MAX_HEADER_BYTES {
            return Err(damaged("its preamble is not valid"));
        }
        Ok(PREAMBLE_BYTES + length)
    }

    fn checked(message: stored::ObjectHeader) -> Result<Self> {
        let unknown: Vec<_> = message
            .required_features
            .iter()
            .filter(|feature| !KNOWN_FEATURES.contains(&feature.as_str()))
            .cloned()
            .collect();
        if !unknown.is_empty() {
            return Err(too_new(format!(
                "it requires features that this etcdbr does not have: {}",
                unknown.join(", ")
            )));
        }
        let kind = match message.kind() {
            stored::Kind::Full => Kind::Full,
            stored::Kind::Delta => Kind::Delta,
            stored::Kind::Unspecified => return Err(damaged("the header names no known kind")),
        };
        let codec = match message.codec() {
            stored::Codec::Stored => Codec::Stored,
            stored::Codec::Zstd => Codec::Zstd,
            stored::Codec::Unspecified => return Err(damaged("the header names no known codec")),
        };
        let bytes_of = |field: &str| damaged(&format!("the header's {field} has the wrong length"));
        let protection = match message.seal() {
            stored::Seal::Checksum => Protection::Checksum,
            stored::Seal::Aes256Gcm => Protection::Aes256Gcm {
                key_id: KeyId(message.key_id.as_slice().try_into().map_err(|_| bytes_of("key id"))?),
                salt: Salt(message.salt.as_slice().try_into().map_err(|_| bytes_of("salt"))?),
            },
            stored::Seal::Unspecified => return Err(damaged("the header names no known seal")),
        };
        if !CHUNK_BYTES.contains(&message.chunk_bytes) {
            return Err(damaged("the header's chunk size is out of bounds"));
        }
        Ok(Self {
            kind,
            lineage: message
                .lineage
                .parse()
                .map_err(|error: Error| damaged("the header's lineage").caused_by(error))?,
            nonce: ObjectNonce(message.nonce.as_slice().try_into().map_err(|_| bytes_of("nonce"))?),
            created: UnixMillis(message.created_unix_ms),
            revision_floor: Revision(message.revision_floor),
            protection,
            codec,
            chunk_bytes: message.chunk_bytes,
        })
    }

    /// Whether this header belongs to an object of that name. The footer proves the name; this notices at once.
    pub fn matches(&self, name: &BackupName) -> bool {
        let (kind, floor) = match name.kind {
            NameKind::Full { seam } => (Kind::Full, seam),
            NameKind::Delta { first, .. } => (Kind::Delta, first),
        };
        (self.kind, self.revision_floor, self.lineage, self.nonce, self.created)
            == (kind, floor, name.lineage, name.nonce, name.created)
    }
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Damaged, what).hint("use another backup; `etcdbr list` shows them")
}

fn too_new(what: String) -> Error {
    Error::new(ErrorKind::Invalid, what).hint("use a newer etcdbr for this backup")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(protection: Protection) -> ObjectHeader {
        ObjectHeader {
            kind: Kind::Full,
            lineage: "1763724000000-00000000cafe0001-0badf00d".parse().unwrap(),
            nonce: ObjectNonce([9; 8]),
            created: UnixMillis(1),
            revision_floor: Revision(42),
            protection,
            codec: Codec::Zstd,
            chunk_bytes: DEFAULT_CHUNK_BYTES,
        }
    }

    #[test]
    fn headers_round_trip() {
        for protection in [Protection::Checksum, Protection::Aes256Gcm { key_id: KeyId([1; 8]), salt: Salt([2; 32]) }] {
            let header = sample(protection);
            let encoded = header.encode();
            let mut object = encoded.bytes.clone();
            object.extend_from_slice(b"frames follow");
            assert_eq!(ObjectHeader::decode(&object).unwrap(), (header, encoded));
        }
    }

    #[test]
    fn an_unknown_required_feature_is_refused_by_name() {
        let encoded = sample(Protection::Checksum).encode_with_features(vec!["time-travel".to_owned()]);
        let error = ObjectHeader::decode(&encoded.bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("time-travel"));
    }

    #[test]
    fn another_format_version_is_refused() {
        let mut bytes = sample(Protection::Checksum).encode().bytes;
        bytes[8] = 2;
        assert!(ObjectHeader::decode(&bytes).unwrap_err().to_string().contains("format version 2"));
    }

    #[test]
    fn truncated_and_oversized_headers_are_damaged() {
        let bytes = sample(Protection::Checksum).encode().bytes;
        for length in 0..bytes.len() {
            assert_eq!(ObjectHeader::decode(&bytes[..length]).unwrap_err().kind(), ErrorKind::Damaged, "{length}");
        }
        let mut huge = bytes;
        huge[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(ObjectHeader::decode(&huge).unwrap_err().kind(), ErrorKind::Damaged);
    }
}
