//! One MVCC record: what etcd's `key` bucket holds for one change of one key.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use crate::revision::Revision;

/// Whether a record sets its key or ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// The key has a new value.
    Put,
    /// The key is gone.
    Tombstone,
}

/// (main, sub, change) and the stored `mvccpb.KeyValue`, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The transaction.
    pub main: Revision,
    /// The ordinal of this change among those of the transaction, from 0.
    pub sub: i64,
    /// Put or tombstone.
    pub change: Change,
    /// The stored value; empty only in the marker that a revision bump leaves.
    pub value: Bytes,
}

/// A record whose value lies elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// The transaction.
    pub main: Revision,
    /// The ordinal of this change among those of the transaction, from 0.
    pub sub: i64,
    /// Put or tombstone.
    pub change: Change,
    /// The stored value.
    pub value: &'a [u8],
}

/// A record's key in the `key` bucket: main, `_`, sub, and `t` on a tombstone (17 or 18 bytes).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketKey {
    bytes: [u8; 18],
    len: u8,
}

impl Record {
    /// The record's key in the `key` bucket, see [`BucketKey`].
    pub fn bucket_key(&self) -> Vec<u8> {
        self.as_ref().bucket_key().to_vec()
    }

    /// The same without its own value.
    pub fn as_ref(&self) -> RecordRef<'_> {
        RecordRef { main: self.main, sub: self.sub, change: self.change, value: &self.value }
    }
}

impl RecordRef<'_> {
    /// The record's key in the `key` bucket.
    pub fn bucket_key(&self) -> BucketKey {
        let mut bytes = [0; 18];
        bytes[..8].copy_from_slice(&self.main.0.to_be_bytes());
        bytes[8] = b'_';
        bytes[9..17].copy_from_slice(&self.sub.to_be_bytes());
        bytes[17] = b't';
        BucketKey { bytes, len: if self.change == Change::Tombstone { 18 } else { 17 } }
    }
}

impl Deref for BucketKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl AsRef<[u8]> for BucketKey {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for BucketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_keys_sort_by_main_and_sub() {
        let record = |main, sub, change| Record { main: Revision(main), sub, change, value: Bytes::new() }.bucket_key();
        assert_eq!(record(2, 0, Change::Put), b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0");
        assert!(record(2, 1, Change::Tombstone) < record(2, 2, Change::Put));
        assert!(record(2, 300, Change::Put) < record(3, 0, Change::Tombstone));
    }
}
