//! The records of the `key` bucket: revision keys and stored `mvccpb.KeyValue`s.

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::record::{BucketKey, Change, Record, RecordRef};
use crate::revision::Revision;

/// Bytes of a revision key without mark: main u64 BE, `_`, sub u64 BE.
const REVISION_BYTES: usize = 17;
/// Follows the revision in the key of a tombstone.
const TOMBSTONE_MARK: u8 = b't';

/// Takes a key of the `key` bucket apart: main, sub, and what it does.
///
/// # Errors
/// `Damaged`, naming the key in hex, where it is none: etcd would not start on it.
pub fn record_key_parts(key: &[u8]) -> Result<(Revision, i64, Change)> {
    let parsed = || {
        let (main, rest) = key.split_first_chunk()?;
        let (b'_', rest) = rest.split_first()? else { return None };
        let (sub, mark) = rest.split_first_chunk()?;
        let change = match mark {
            [] => Change::Put,
            [TOMBSTONE_MARK] => Change::Tombstone,
            _ => return None,
        };
        Some((Revision(i64::from_be_bytes(*main)), i64::from_be_bytes(*sub), change))
    };
    parsed().filter(|parts| parts.0.0 >= 0 && parts.1 >= 0).ok_or_else(|| {
        let hex: String = key.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
        Error::new(ErrorKind::Damaged, format!("{hex} in the bucket key of the database is not a revision"))
    })
}

/// The record that an entry of the `key` bucket is.
///
/// # Errors
/// As [`record_key_parts`].
pub fn decode_record(key: &[u8], value: &[u8]) -> Result<Record> {
    let (main, sub, change) = record_key_parts(key)?;
    Ok(Record { main, sub, change, value: Bytes::copy_from_slice(value) })
}

/// The key of a revision: how the `meta` bucket writes one, and the least key of its records.
pub(super) fn revision_key(revision: Revision) -> BucketKey {
    RecordRef { main: revision, sub: 0, change: Change::Put, value: &[] }.bucket_key()
}

/// The main revision that a value of the `meta` bucket (scheduled or finished compaction) holds.
pub(super) fn compact_revision(value: &[u8]) -> Result<Revision> {
    // A value of another length would make etcd itself stop.
    if value.len() != REVISION_BYTES {
        return Err(Error::new(ErrorKind::Damaged, "a compact revision in the bucket meta is not a revision"));
    }
    record_key_parts(value).map(|parts| parts.0)
}

/// What a stored `mvccpb.KeyValue` is about; its value is passed over, not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredKey<'a> {
    /// The user's key; empty only in the marker of a revision bump.
    pub(super) key: &'a [u8],
    /// The lease that it is attached to; 0 for none.
    pub(super) lease: i64,
    /// How many puts its life has seen; 0 in a tombstone.
    pub(super) version: i64,
}

/// Reads key, lease and version of a stored `mvccpb.KeyValue`.
///
/// # Errors
/// `Damaged` where it does not parse: etcd would not start on it.
pub(super) fn stored_key(revision: Revision, stored: &[u8]) -> Result<StoredKey<'_>> {
    scan(stored).ok_or_else(|| {
        Error::new(ErrorKind::Damaged, format!("a record of revision {revision} in the database does not parse"))
    })
}

/// The user's key that `record` is about; empty only in the marker of a revision bump.
///
/// # Errors
/// As [`decode_record`], for its value.
pub fn user_key<'a>(record: &RecordRef<'a>) -> Result<&'a [u8]> {
    stored_key(record.main, record.value).map(|stored| stored.key)
}

fn scan(mut rest: &[u8]) -> Option<StoredKey<'_>> {
    let mut found = StoredKey { key: &[], lease: 0, version: 0 };
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let (field, wire_type) = (tag >> 3, tag & 7);
        match (field, wire_type) {
            (1 | 5, 2) => {
                let len = usize::try_from(varint(&mut rest)?).ok()?;
                let (bytes, behind) = rest.split_at_checked(len)?;
                rest = behind;
                if field == 1 {
                    found.key = bytes;
                }
            }
            (2 | 3, 0) => drop(varint(&mut rest)?),
            (4, 0) => found.version = varint(&mut rest)? as i64,
            (6, 0) => found.lease = varint(&mut rest)? as i64, // two's complement, as protobuf has it
            _ => return None,
        }
    }
    Some(found)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_record_key_round_trips() {
        for change in [Change::Put, Change::Tombstone] {
            let record = Record { main: Revision(7), sub: 300, change, value: Bytes::from_static(b"v") };
            assert_eq!(decode_record(&record.bucket_key(), b"v").unwrap(), record);
        }
    }

    #[test]
    fn what_is_not_a_record_key_is_refused() {
        let good = Record { main: Revision(7), sub: 0, change: Change::Put, value: Bytes::new() }.bucket_key();
        for len in 0..good.len() {
            assert!(record_key_parts(&good[..len]).is_err());
        }
        let mut mark = good.clone();
        mark.push(b'x');
        let mut bar = good.clone();
        bar[8] = b'-';
        let mut negative = good;
        negative[0] = 0xff;
        for key in [mark, bar, negative] {
            assert_eq!(record_key_parts(&key).unwrap_err().kind(), ErrorKind::Damaged);
        }
    }

    #[test]
    fn a_stored_key_is_found_as_prost_finds_it() {
        for lease in [0, 7, -5, i64::MAX, i64::MIN] {
            let kv = etcdbr_proto::mvccpb::KeyValue {
                key: Bytes::from_static(b"/a"),
                create_revision: 2,
                mod_revision: 300,
                version: 4,
                value: Bytes::from(vec![9; 1000]),
                lease,
            };
            let stored = kv.encode_to_vec();
            assert_eq!(stored_key(Revision(2), &stored).unwrap(), StoredKey { key: b"/a", lease, version: 4 });
        }
        assert_eq!(stored_key(Revision(2), b"").unwrap(), StoredKey { key: b"", lease: 0, version: 0 });
        for broken in [&b"\x0a\x05ab"[..], b"\x30", b"\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0b"] {
            assert_eq!(stored_key(Revision(2), broken).unwrap_err().kind(), ErrorKind::Damaged);
        }
    }
}
