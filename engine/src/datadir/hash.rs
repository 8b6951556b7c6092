//! etcd's HashKV, computed from records: what an etcd that holds them answers.
//!
//! The server's answer depends on how far it has compacted, so both revisions are needed. Records that the server has
//! dropped already may still be there: they are passed over, and the answer is the server's.
//!
//! The records are read once where nothing was compacted, else twice: [`Survey`] finds those at or below the compact
//! revision that still count, [`KvDigest`] hashes. Memory is 36 bytes at most (54 while it grows) for each user key that
//! has a record at or below the compact revision, and two bits for each of these records.

use crc_fast::{CrcAlgorithm, Digest};

use super::keys::{Bits, KeyMap};
use super::mvcc::{StoredKey, record_key_parts, stored_key};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Change, RecordRef};
use crate::revision::Revision;

/// Which of etcd's answers: records up to `revision`, by a server that is compacted at `compact`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashPoint {
    /// The revision that is hashed.
    pub revision: Revision,
    /// How far the server has compacted; `None` where it never has.
    pub compact: Option<Revision>,
}

/// HashKV of `records` at `point`.
///
/// `records` gives all entries of the `key` bucket (key and value), in order, and is called twice; once where nothing
/// was compacted.
///
/// # Errors
/// Those of `records`; `Damaged` where one does not parse.
pub fn hash_kv<K, V, I>(mut records: impl FnMut() -> Result<I>, point: HashPoint) -> Result<u32>
where
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
    I: Iterator<Item = Result<(K, V)>>,
{
    let mut digest = match Survey::of(point) {
        None => KvDigest::unpruned(point),
        Some(mut survey) => {
            for record in records()? {
                let (key, value) = record?;
                let (main, _, change) = record_key_parts(key.as_ref())?;
                if main > point.revision {
                    break;
                }
                survey.see(main, change, &stored_key(main, value.as_ref())?)?;
            }
            survey.finish()
        }
    };
    for record in records()? {
        let (key, value) = record?;
        if digest.push(key.as_ref(), value.as_ref())? == Reach::Beyond {
            break;
        }
    }
    Ok(digest.finish())
}

/// HashKV of records that are not in one file: the first reading.
pub struct HashSurvey(Survey);

/// The second one.
pub struct HashReading(KvDigest);

impl HashSurvey {
    /// For the answer at `point`.
    pub fn of(point: HashPoint) -> Self {
        Self(Survey::new(point, point.compact.unwrap_or_default()))
    }

    /// Takes the next record, in order.
    ///
    /// # Errors
    /// `Damaged` where it does not parse; `Refused` for more records than any etcd holds.
    pub fn see(&mut self, record: &RecordRef<'_>) -> Result<()> {
        self.0.see(record.main, record.change, &stored_key(record.main, record.value)?)
    }

    /// The second reading: of the same records.
    pub fn finish(self) -> HashReading {
        HashReading(self.0.finish())
    }
}

impl HashReading {
    /// Takes the next record, in order.
    ///
    /// # Errors
    /// `Damaged` where it does not parse.
    pub fn push(&mut self, record: &RecordRef<'_>) -> Result<()> {
        self.0.push(&record.bucket_key(), record.value).map(drop)
    }

    /// The hash.
    pub fn finish(self) -> u32 {
        self.0.finish()
    }
}

/// Marks of a [`Survey`] for a key that has no record at or below the floor that counts.
const GONE: u32 = u32::MAX;
const ABOVE: u32 = u32::MAX - 1;

/// The first reading: which records at or below the compact revision (the floor) still count.
pub(super) struct Survey {
    point: HashPoint,
    floor: Revision,
    /// For every key with a record at or below the floor: the ordinal of the one that counts, or a mark.
    by_key: KeyMap<u32>,
    /// By ordinal: the records that count at the point.
    kept: Bits,
    /// The same for the floor itself.
    left: Option<Bits>,
    /// Keys that are alive, those above the floor included.
    alive: i64,
}

impl Survey {
    /// `None` where nothing was compacted: then every record counts.
    pub(super) fn of(point: HashPoint) -> Option<Self> {
        point.compact.map(|floor| Self::new(point, floor))
    }

    /// For all records of a database that is compacted at `floor`.
    pub(super) fn at_floor(floor: Revision) -> Self {
        Self::new(HashPoint { revision: Revision(i64::MAX), compact: Some(floor) }, floor)
    }

    fn new(point: HashPoint, floor: Revision) -> Self {
        Self { point, floor, by_key: KeyMap::default(), kept: Bits::default(), left: None, alive: 0 }
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// `Refused` for more records than any etcd holds.
    pub(super) fn see(&mut self, main: Revision, change: Change, stored: &StoredKey<'_>) -> Result<()> {
        if main > self.point.revision {
            return Ok(());
        }
        let before = if main <= self.floor {
            let ordinal = self.kept.push(change == Change::Put);
            let ordinal = u32::try_from(ordinal).ok().filter(|ordinal| *ordinal < ABOVE);
            let ordinal = ordinal.ok_or_else(|| Error::new(ErrorKind::Refused, "the database has too many records"))?;
            let now = if change == Change::Put { ordinal } else { GONE };
            self.alive += i64::from(now != GONE);
            self.by_key.insert(stored.key, now).unwrap_or(GONE)
        } else {
            self.left.get_or_insert_with(|| self.kept.clone());
            let now = if change == Change::Put { ABOVE } else { GONE };
            match self.by_key.find(stored.key) {
                Some(known) => {
                    self.alive += i64::from(now != GONE);
                    std::mem::replace(known, now)
                }
                // Not remembered: its first record is above the floor, so that each of its lives starts at version 1
                // (the marker of a revision bump has none).
                None => {
                    self.alive += if now == GONE { -1 } else { i64::from(stored.version <= 1) };
                    GONE
                }
            }
        };
        self.alive -= i64::from(before != GONE);
        if before < ABOVE {
            self.kept.clear(before as usize);
        }
        Ok(())
    }

    /// Keys that are alive at the point.
    pub(super) fn alive(&self) -> u64 {
        self.alive.unsigned_abs()
    }

    /// The second reading.
    pub(super) fn finish(self) -> KvDigest {
        // With no key alive the server hashes whatever compaction has left: its newest at the floor.
        let kept = if self.alive > 0 { self.kept } else { self.left.unwrap_or(self.kept) };
        KvDigest { kept: Some((self.floor, kept, 0)), ..KvDigest::unpruned(self.point) }
    }
}

/// Whether more records can count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Yes.
    Within,
    /// No: they are later than the revision that is hashed.
    Beyond,
}

/// The last reading.
pub(super) struct KvDigest {
    point: HashPoint,
    /// The floor, which records at or below it count, and how many of them have come.
    kept: Option<(Revision, Bits, usize)>,
    digest: Digest,
}

impl KvDigest {
    /// Every record up to the point counts.
    pub(super) fn unpruned(point: HashPoint) -> Self {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(b"key");
        Self { point, kept: None, digest }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// `Damaged` where its key is not a revision.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<Reach> {
        let (main, _, _) = record_key_parts(key)?;
        if main > self.point.revision {
            return Ok(Reach::Beyond);
        }
        if let Some((floor, kept, ordinal)) = &mut self.kept
            && main <= *floor
        {
            *ordinal += 1;
            if !kept.has(*ordinal - 1) {
                return Ok(Reach::Within);
            }
        }
        self.digest.update(key);
        self.digest.update(value);
        Ok(Reach::Within)
    }

    /// The hash.
    pub(super) fn finish(self) -> u32 {
        self.digest.finalize() as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use etcdbr_proto::mvccpb::KeyValue;
    use prost::Message;

    use super::*;
    use crate::record::Record;

    fn hash(records: &[Record], at: i64, compact: i64) -> u32 {
        let compact = (compact >= 0).then_some(Revision(compact));
        let entries = || Ok(records.iter().map(|record| Ok((record.bucket_key(), record.value.clone()))));
        hash_kv(entries, HashPoint { revision: Revision(at), compact }).unwrap()
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

    /// The specification, word for word: slow, and it holds everything.
    fn specified(records: &[Record], at: i64, compact: i64) -> u32 {
        let newest_at = |at: i64| {
            let mut newest = HashMap::new();
            for record in records.iter().filter(|record| record.main.0 <= at) {
                newest.insert(stored_key(record.main, &record.value).unwrap().key.to_vec(), record);
            }
            newest.retain(|_, record| record.change == Change::Put);
            newest
        };
        let mut kept = newest_at(at);
        if kept.is_empty() {
            kept = newest_at(compact);
        }
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(b"key");
        for record in records.iter().filter(|record| record.main.0 <= at) {
            if record.main.0 > compact || kept.values().any(|kept| *kept == record) {
                digest.update(&record.bucket_key());
                digest.update(&record.value);
            }
        }
        digest.finalize() as u32
    }

    /// The records of transactions on six keys: each entry puts (even) or deletes (odd) its key; 12 bumps the revision.
    fn history_of(transactions: &[Vec<u8>]) -> Vec<Record> {
        let mut records = Vec::new();
        let mut lives: HashMap<u8, (i64, i64)> = HashMap::new();
        let mut main = 1;
        for transaction in transactions {
            main += 1;
            let mut touched = Vec::new();
            for &op in transaction {
                let (key, name) = (op / 2, format!("key-{}", op / 2));
                let sub = touched.len() as i64;
                if touched.contains(&key) {
                    continue;
                }
                match (op, lives.get(&key).copied()) {
                    (12.., _) if touched.is_empty() => {
                        main += 5;
                        let marker = Record { main: Revision(main), sub: 0, change: Change::Put, value: Bytes::new() };
                        records.push(marker);
                        main += 1;
                        continue;
                    }
                    (12.., _) => continue,
                    (_, Some(_)) if op % 2 == 1 => {
                        lives.remove(&key);
                        records.push(delete(main, sub, &name));
                    }
                    (_, None) if op % 2 == 1 => continue,
                    (_, life) => {
                        let (create, version) = life.unwrap_or((main, 0));
                        lives.insert(key, (create, version + 1));
                        records.push(put(main, sub, &name, "value", create, version + 1, 0));
                    }
                }
                touched.push(key);
            }
        }
        records
    }

    proptest::proptest! {
        #[test]
        fn any_history_hashes_as_specified(
            transactions in proptest::collection::vec(proptest::collection::vec(0..=12_u8, 1..4), 0..25),
            at in 1..60_i64,
            floor in 1..60_i64,
        ) {
            let history = history_of(&transactions);
            proptest::prop_assert_eq!(hash(&history, at, -1), specified(&history, at, -1));
            if floor <= at {
                let expected = specified(&history, at, floor);
                proptest::prop_assert_eq!(hash(&history, at, floor), expected);
                // And where the history is compacted already: half way, or as far as the server itself.
                for done in [floor / 2, floor] {
                    proptest::prop_assert_eq!(hash(&compacted(&history, done), at, floor), expected);
                }
            }
        }
    }

    #[test]
    fn a_million_keys_are_told_apart_in_little_memory() {
        let mut survey = Survey::at_floor(Revision(i64::MAX));
        for n in 0..1_000_000_i64 {
            let key = n.to_be_bytes();
            survey.see(Revision(n), Change::Put, &StoredKey { key: &key, lease: 0, version: 1 }).unwrap();
        }
        assert_eq!(survey.alive(), 1_000_000);
        assert_eq!(size_of::<([u32; 3], u32)>(), 16);
        assert!(survey.by_key.capacity() < 2_000_000);
    }
}
