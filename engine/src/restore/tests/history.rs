//! Random histories as an etcd would make them, and what compaction leaves of them.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use etcdbr_proto::mvccpb::KeyValue;
use prost::Message;

use crate::format::{HistoryDigest, HistoryFold, LineageId};
use crate::record::{Change, Record};
use crate::revision::Revision;

/// Chance that a test can repeat.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `below`.
    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % below
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Alive {
    create: i64,
    version: i64,
}

/// Every record of a source since its birth, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    pub(super) records: Vec<Record>,
    pub(super) alive: BTreeMap<String, Alive>,
    pub(super) last: i64,
}

impl History {
    /// `revisions` transactions of up to four changes of a few keys: puts, deletes, keys that come back, leases.
    pub(super) fn random(dice: &mut Dice, revisions: i64) -> Self {
        let mut history = Self { last: 1, ..Self::default() };
        while history.last <= revisions {
            let changes = 1 + dice.roll(4) * dice.roll(2);
            let mut keys: Vec<u64> = (0..changes).map(|_| dice.roll(12)).collect();
            keys.sort_unstable();
            keys.dedup();
            history.begin();
            for (sub, key) in keys.into_iter().enumerate() {
                let key = format!("/key/{key}");
                if dice.roll(4) == 0 && history.alive.contains_key(&key) {
                    history.delete(sub as i64, &key);
                } else {
                    let lease = if dice.roll(5) == 0 { 1 + dice.roll(4) as i64 } else { 0 };
                    let value = vec![b'v'; dice.roll(300) as usize];
                    history.put(sub as i64, &key, &value, lease);
                }
            }
        }
        history
    }

    pub(super) fn begin(&mut self) {
        self.last = self.last.max(1) + 1;
    }

    pub(super) fn put(&mut self, sub: i64, key: &str, value: &[u8], lease: i64) {
        let before = self.alive.get(key).copied().unwrap_or(Alive { create: self.last, version: 0 });
        let now = Alive { version: before.version + 1, ..before };
        self.alive.insert(key.to_owned(), now);
        let kv = KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            create_revision: now.create,
            mod_revision: self.last,
            version: now.version,
            value: Bytes::copy_from_slice(value),
            lease,
        };
        self.push(sub, Change::Put, &kv);
    }

    pub(super) fn delete(&mut self, sub: i64, key: &str) {
        self.alive.remove(key);
        let kv = KeyValue { key: Bytes::copy_from_slice(key.as_bytes()), ..KeyValue::default() };
        self.push(sub, Change::Tombstone, &kv);
    }

    fn push(&mut self, sub: i64, change: Change, kv: &KeyValue) {
        self.records.push(Record { main: Revision(self.last), sub, change, value: kv.encode_to_vec().into() });
    }

    /// Records of `first..=last`.
    pub(super) fn between(&self, first: i64, last: i64) -> Vec<Record> {
        self.records.iter().filter(|record| (first..=last).contains(&record.main.0)).cloned().collect()
    }

    /// What an etcd at `last` that was compacted at `floor` (0: never) holds.
    pub(super) fn compacted(&self, last: i64, floor: i64) -> Vec<Record> {
        let key = |record: &Record| KeyValue::decode(&*record.value).unwrap().key;
        let records = self.between(0, last);
        let newest: HashMap<_, _> =
            records.iter().filter(|record| record.main.0 <= floor).map(|record| (key(record), record)).collect();
        let stays = |record: &&Record| {
            record.main.0 > floor || (newest[&key(record)] == *record && record.change == Change::Put)
        };
        records.iter().filter(stays).cloned().collect()
    }

    /// D of every revision from the seam on.
    pub(super) fn digests(&self, lineage: &LineageId, seam: i64) -> BTreeMap<i64, HistoryDigest> {
        let start = HistoryDigest::at_seam(lineage, Revision(seam));
        let mut fold = HistoryFold::after(Revision(seam), start);
        let mut digests = BTreeMap::from([(seam, start)]);
        for record in self.between(seam + 1, i64::MAX) {
            fold.push(&record.as_ref()).unwrap();
            let (revision, digest) = fold.clone().finish();
            digests.insert(revision.0, digest);
        }
        digests
    }
}
