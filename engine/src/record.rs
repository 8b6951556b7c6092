//! One MVCC record: what etcd's `key` bucket holds for one change of one key.

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

impl Record {
    /// The record's key in the `key` bucket: main, `_`, sub, and `t` on a tombstone (17 or 18 bytes).
    pub fn bucket_key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(18);
        key.extend_from_slice(&self.main.0.to_be_bytes());
        key.push(b'_');
        key.extend_from_slice(&self.sub.to_be_bytes());
        if self.change == Change::Tombstone {
            key.push(b't');
        }
        key
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
