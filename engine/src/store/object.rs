//! What a store says about objects and is told about their bytes: plain values.

use bytes::Bytes;

use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};

/// A version of an object, as its store names it. Quotes and all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ETag(pub String);

/// Which bytes of an object to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// Exactly `len` bytes (at least 1) from `start`; an object that ends sooner is an error.
    Exact {
        /// First byte.
        start: u64,
        /// Number of bytes.
        len: u64,
    },
    /// The last `len` bytes (at least 1), or the whole object where it is shorter.
    Suffix(u64),
}

impl ByteRange {
    /// First byte and number of bytes of this range in an object of `object_bytes`.
    ///
    /// # Errors
    /// `Invalid` for a range of no bytes, `Damaged` for an object that ends before it.
    pub(super) fn within(self, key: &str, object_bytes: u64) -> Result<(u64, u64)> {
        self.check(key)?;
        match self {
            Self::Suffix(len) => Ok((object_bytes.saturating_sub(len), len.min(object_bytes))),
            Self::Exact { start, len } if start.checked_add(len).is_some_and(|end| end <= object_bytes) => {
                Ok((start, len))
            }
            Self::Exact { start, len } => Err(Error::new(
                ErrorKind::Damaged,
                format!("{key} is too short: {len} bytes from {start} were asked for, it has {object_bytes}"),
            )),
        }
    }

    /// # Errors
    /// `Invalid` for a range of no bytes.
    pub(super) fn check(self, key: &str) -> Result<()> {
        match self {
            Self::Suffix(0) | Self::Exact { len: 0, .. } => {
                Err(Error::new(ErrorKind::Invalid, format!("{key}: a range of 0 bytes")))
            }
            _ => Ok(()),
        }
    }
}

/// The answer to a ranged read.
#[derive(Debug, Clone)]
pub struct ReadAnswer {
    /// The bytes: all that were asked for.
    pub bytes: Bytes,
    /// Where in the object they begin.
    pub start: u64,
    /// Size of the whole object, bytes.
    pub object_bytes: u64,
    /// The version that was read.
    pub etag: ETag,
}

/// What LIST and HEAD tell of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key.
    pub key: String,
    /// Size, bytes.
    pub bytes: u64,
    /// When the store took it, by the store's clock.
    pub modified: UnixMillis,
    /// Its version.
    pub etag: ETag,
}

/// What a removal leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Removal {
    /// Nothing.
    #[default]
    Gone,
    /// The store keeps versions: what was removed lies behind a delete marker, locked or not, and takes room.
    Hidden,
}

/// Whether a container locks its objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ObjectLock {
    /// It does not, or the store knows no such thing.
    #[default]
    Off,
    /// Objects may be locked one by one.
    On,
    /// Every new object is locked.
    EveryObject {
        /// `GOVERNANCE` or `COMPLIANCE`, as the store says it.
        mode: String,
        /// For how long: `30 days`.
        time: String,
    },
}

/// A part's place in an upload, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartNumber(pub u32);

impl PartNumber {
    /// S3's limit.
    pub const MAX: Self = Self(10_000);
}
