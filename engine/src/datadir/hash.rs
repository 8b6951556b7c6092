//! etcd's HashKV, computed from records: what an etcd that holds them answers.
//!
//! The server's answer depends on how far it has compacted, so both revisions are needed. Records that the server has
//! dropped already may still be there: they are passed over, and the answer is the server's.
//!
//! Memory is about 50 bytes for each user key that has a record at or below the compact revision; none without one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crc_fast::{CrcAlgorithm, Digest};

use super::mvcc::{StoredKey, record_key_parts, stored_key};
use crate::error::Result;
use crate::record::Change;
use crate::revision::Revision;

/// HashKV of `records` at revision `at`, by a server that is compacted at `compact`.
///
/// `records` gives all entries of the `key` bucket (key and value), in order, and is called two or three times; once
/// where `compact` is `None`.
///
/// # Errors
/// Those of `records`; `Damaged` where one does not parse.
pub fn hash_kv<K, V, I>(mut records: impl FnMut() -> Result<I>, at: Revision, compact: Option<Revision>) -> Result<u32>
where
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
    I: Iterator<Item = Result<(K, V)>>,
{
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(b"key");
    let newest = match compact {
        None => None,
        Some(floor) => {
            let newest = Newest::find(records()?, at, floor)?;
            // With no key alive the server hashes whatever compaction has left: its newest at the floor.
            let left = if newest.alive > 0 { newest } else { Newest::find(records()?, floor.min(at), floor)? };
            Some((floor, left))
        }
    };
    for record in records()? {
        let (key, value) = record?;
        let (key, value) = (key.as_ref(), value.as_ref());
        let (main, sub, change) = record_key_parts(key)?;
        if main > at {
            break;
        }
        if let Some((floor, newest)) = newest.as_ref().filter(|(floor, _)| main <= *floor) {
            let tombstone_at_floor = main == *floor && change == Change::Tombstone;
            if tombstone_at_floor || !newest.keeps(stored_key(main, value)?.key, main, sub) {
                continue;
            }
        }
        digest.update(key);
        digest.update(value);
    }
    Ok(digest.finalize() as u32)
}

/// The newest record of every key that has one at or below the floor.
struct Newest {
    /// Random per run: users choose key names, and two of them must not meet here.
    hashers: [RandomState; 2],
    /// Main and sub; `None` once the key is gone.
    by_key: HashMap<u128, Option<(Revision, i64)>>,
    /// Keys that are alive, those above the floor included.
    alive: i64,
}

impl Newest {
    fn find<K, V>(records: impl Iterator<Item = Result<(K, V)>>, at: Revision, floor: Revision) -> Result<Self>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut newest = Self { hashers: [RandomState::new(), RandomState::new()], by_key: HashMap::new(), alive: 0 };
        for record in records {
            let (key, value) = record?;
            let (main, sub, change) = record_key_parts(key.as_ref())?;
            if main > at {
                break;
            }
            let StoredKey { key, version, .. } = stored_key(main, value.as_ref())?;
            let hash = newest.hash(key);
            let now = (change == Change::Put).then_some((main, sub));
            if main <= floor {
                let before = newest.by_key.insert(hash, now).flatten();
                newest.alive += i64::from(now.is_some()) - i64::from(before.is_some());
            } else if let Some(known) = newest.by_key.get_mut(&hash) {
                let before = std::mem::replace(known, now);
                newest.alive += i64::from(now.is_some()) - i64::from(before.is_some());
            } else {
                // Not remembered: its first record is above the floor, so that each of its lives starts at version 1.
                newest.alive += if now.is_none() { -1 } else { i64::from(version == 1) };
            }
        }
        Ok(newest)
    }

    fn keeps(&self, key: &[u8], main: Revision, sub: i64) -> bool {
        self.by_key.get(&self.hash(key)).is_some_and(|newest| *newest == Some((main, sub)))
    }

    fn hash(&self, key: &[u8]) -> u128 {
        let [high, low] = &self.hashers;
        u128::from(high.hash_one(key)) << 64 | u128::from(low.hash_one(key))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use etcdbr_proto::mvccpb::KeyValue;
    use prost::Message;

    use super::*;
    use crate::record::Record;

    fn hash(records: &[Record], at: i64, compact: i64) -> u32 {
        let compact = (compact >= 0).then_some(Revision(compact));
        let entries = || Ok(records.iter().map(|record| Ok((record.bucket_key(), record.value.clone()))));
        hash_kv(entries, Revision(at), compact).unwrap()
    }

    fn put(main: i64, sub: i64, key: &str, value: &str, create: i64, version: i64, lease: i64) -> Record {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
        let kv = KeyValue { key, create_revision: create, mod_revision: main, version, value, lease };
        Record { main: Revision(main), sub, change: Change::Put, value: kv.encode_to_vec().into() }
    }

    fn delete(main: i64, sub: i64, key: &str) -> Record {
        let kv = KeyValue { key: Bytes::copy_from_slice(key.as_bytes()), ..KeyValue::default() };
        Record { main: Revision(main), sub, change: Change::Tombstone, value: kv.encode_to_vec().into() }
    }

    fn history() -> Vec<Record> {
        vec![
            put(2, 0, "a", "1", 2, 1, 0),
            put(3, 0, "b", "2", 3, 1, 0),
            put(4, 0, "a", "3", 2, 2, 0),
            delete(4, 1, "b"),
            put(4, 2, "c", "", 4, 1, 0),
            delete(5, 0, "a"),
            put(6, 0, "d", "5", 6, 1, 7),
        ]
    }

    #[test]
    fn hashes_are_those_of_real_servers() {
        let puts: Vec<_> = (0..5).map(|n| put(n + 2, 0, &format!("k{n}"), "v", n + 2, 1, 0)).collect();
        assert_eq!(hash(&puts, 6, -1), 4_219_602_881);
        let history = history();
        for (at, compact, expected) in [
            (2, -1, 2_587_454_935),
            (3, -1, 1_827_592_406),
            (4, -1, 183_077_655),
            (5, -1, 562_319_497),
            (6, -1, 2_932_001_488),
            (5, 4, 2_946_651_748),
            (6, 4, 732_378_724),
            (6, 5, 1_091_953_821),
        ] {
            assert_eq!(hash(&history, at, compact), expected, "at {at}, compacted at {compact}");
        }
    }

    /// What compaction at `floor` leaves.
    fn compacted(records: &[Record], floor: i64) -> Vec<Record> {
        let key = |record: &Record| stored_key(record.main, &record.value).unwrap().key.to_vec();
        let newest: HashMap<_, _> =
            records.iter().filter(|record| record.main.0 <= floor).map(|r| (key(r), r)).collect();
        let kept = |record: &&Record| {
            record.main.0 > floor || (newest[&key(record)] == *record && record.change == Change::Put)
        };
        records.iter().filter(kept).cloned().collect()
    }

    #[test]
    fn what_compaction_drops_changes_no_hash() {
        let mut history = history();
        history.extend([delete(7, 0, "c"), delete(8, 0, "d"), put(9, 0, "e", "6", 9, 1, 0), delete(10, 0, "e")]);
        for floor in 2..=10 {
            for at in floor..=10 {
                let left = compacted(&history, floor);
                assert_eq!(hash(&history, at, floor), hash(&left, at, floor), "at {at}, compacted at {floor}");
            }
        }
    }

    #[test]
    fn with_no_key_alive_all_that_compaction_left_counts() {
        let history = [put(2, 0, "a", "1", 2, 1, 0), put(3, 0, "a", "2", 2, 2, 0), delete(4, 0, "a")];
        assert_eq!(hash(&history, 4, 3), hash(&history[1..], 4, -1));
        assert_eq!(hash(&history[1..], 4, 3), hash(&history[1..], 4, -1));
        // An alive one that compaction does not reach makes the difference.
        let mut history = history.to_vec();
        history.push(put(5, 0, "b", "1", 5, 1, 0));
        assert_eq!(hash(&history, 5, 3), hash(&history[2..], 5, -1));
    }
}
