//! What an etcd must hold, as a client that is not ours was told: every record of every revision, to the byte; what a
//! compaction leaves of it; and the HashKV of that.
//!
//! Nothing in here knows the engine: records, compaction and hash are written once more, the plainest way.

use std::collections::{BTreeMap, BTreeSet};

use crc_fast::{CrcAlgorithm, Digest};
use etcd_client::{Event, EventType};
use etcdbr_proto::mvccpb::KeyValue;
use prost::Message;

use crate::database::Entries;

/// What a put has left of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// The revision that created it.
    pub create_revision: i64,
    /// How often it was written since.
    pub version: i64,
    /// Its lease, 0 for none.
    pub lease: i64,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The revision.
    pub main: i64,
    /// Its place within the revision.
    pub sub: i64,
    /// The key that it is about.
    pub key: Vec<u8>,
    /// What the key is afterwards; nothing for a tombstone.
    pub live: Option<Live>,
    /// Key and value in the bucket `key`.
    pub stored: (Vec<u8>, Vec<u8>),
}

/// A history from revision 2 on, without a gap.
#[derive(Debug, Clone, Default)]
pub struct Model {
    records: Vec<Known>,
    newest: BTreeMap<Vec<u8>, (i64, Option<Live>)>,
}

impl Model {
    /// The newest revision; 1 is that of an etcd in which nothing has happened.
    pub fn revision(&self) -> i64 {
        self.records.last().map_or(1, |record| record.main)
    }

    /// Takes what one response of a watch brings; revisions that are known already are passed over.
    ///
    /// # Errors
    /// Where etcd contradicts itself: a gap, or versions that do not count on.
    pub fn take(&mut self, events: &[Event]) -> Result<(), String> {
        let known = self.revision();
        for event in events {
            let kv = event.kv().ok_or("an event without a key")?;
            if kv.mod_revision() <= known {
                continue;
            }
            let put = event.event_type() == EventType::Put;
            let live = Live { create_revision: kv.create_revision(), version: kv.version(), lease: kv.lease() };
            self.push(kv.mod_revision(), kv.key(), put.then_some((live, kv.value())))?;
            if let Some(before) = event.prev_kv() {
                self.was(kv.key(), kv.mod_revision(), before.mod_revision())?;
            }
        }
        Ok(())
    }

    /// Adds a record of the newest revision or of the next one.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn push(&mut self, main: i64, key: &[u8], put: Option<(Live, &[u8])>) -> Result<(), String> {
        let last = self.revision();
        let sub = match main - last {
            0 => self.records.last().map_or(0, |record| record.sub + 1),
            1 => 0,
            _ => return Err(format!("revision {main} follows on {last}")),
        };
        let live = put.map(|(live, _)| live);
        let before = self.newest.insert(key.to_vec(), (main, live)).and_then(|(_, live)| live);
        let counted = |live: Live| match before {
            Some(before) => live.version == before.version + 1 && live.create_revision == before.create_revision,
            None => live.version == 1 && live.create_revision == main,
        };
        if live.is_some_and(|live| !counted(live)) || (live.is_none() && before.is_none()) {
            return Err(format!("{main}/{sub}: {} becomes {live:?} after {before:?}", show(key)));
        }
        let mut kv = KeyValue { key: key.to_vec().into(), ..KeyValue::default() };
        if let Some((live, value)) = put {
            kv.create_revision = live.create_revision;
            kv.mod_revision = main;
            kv.version = live.version;
            kv.value = value.to_vec().into();
            kv.lease = live.lease;
        }
        let stored = (stored_key(main, sub, live.is_none()), kv.encode_to_vec());
        self.records.push(Known { main, sub, key: key.to_vec(), live, stored });
        Ok(())
    }

    /// etcd says that before `main` the newest put of `key` was that of revision `before`.
    fn was(&self, key: &[u8], main: i64, before: i64) -> Result<(), String> {
        let ours = self.records.iter().rev().find(|record| record.main < main && record.key == key);
        match ours {
            Some(ours) if ours.main == before && ours.live.is_some() => Ok(()),
            _ => Err(format!("before {main} {} was of revision {before}, not of {ours:?}", show(key))),
        }
    }

    /// Every record up to `revision`.
    pub fn upto(&self, revision: i64) -> &[Known] {
        &self.records[..self.records.partition_point(|record| record.main <= revision)]
    }

    /// The records up to `revision` that a compaction at `floor` (-1: none) leaves: all behind it, and the newest one
    /// of each key at or before it where that is a put. What is left of a key is always the end of its history.
    pub fn left(&self, revision: i64, floor: i64) -> Vec<&Known> {
        let records = self.upto(revision);
        let below = records.iter().filter(|record| record.main <= floor);
        let newest: BTreeMap<&[u8], &Known> = below.map(|record| (record.key.as_slice(), record)).collect();
        let stays = |record: &&Known| {
            record.main > floor || (record.live.is_some() && newest[record.key.as_slice()].stored == record.stored)
        };
        records.iter().filter(stays).collect()
    }

    /// Each of these as the database stores it.
    pub fn entries(&self, revision: i64, floor: i64) -> Entries {
        self.left(revision, floor).into_iter().map(|record| record.stored.clone()).collect()
    }

    /// The keys that are alive at `revision`.
    pub fn alive(&self, revision: i64) -> BTreeMap<Vec<u8>, Live> {
        let mut alive = BTreeMap::new();
        for record in self.upto(revision) {
            match record.live {
                Some(live) => alive.insert(record.key.clone(), live),
                None => alive.remove(&record.key),
            };
        }
        alive
    }

    /// Every key that was ever written up to `revision`.
    pub fn keys(&self, revision: i64) -> BTreeSet<Vec<u8>> {
        self.upto(revision).iter().map(|record| record.key.clone()).collect()
    }

    /// HashKV at `revision` of an etcd that is compacted at `floor` (-1: nowhere).
    pub fn hash(&self, revision: i64, floor: i64) -> u32 {
        let left = self.left(revision, floor);
        let newest: BTreeMap<&[u8], &Known> = left.iter().map(|record| (record.key.as_slice(), *record)).collect();
        let nothing_lives = newest.values().all(|record| record.live.is_none());
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(b"key");
        for record in left {
            let counts = record.main > floor || nothing_lives || newest[record.key.as_slice()].stored == record.stored;
            if counts {
                digest.update(&record.stored.0);
                digest.update(&record.stored.1);
            }
        }
        digest.finalize() as u32
    }
}

/// A key of the bucket `key`.
fn stored_key(main: i64, sub: i64, tombstone: bool) -> Vec<u8> {
    let mut key = [&main.to_be_bytes()[..], b"_", &sub.to_be_bytes()[..]].concat();
    if tombstone {
        key.push(b't');
    }
    key
}

/// A key for people.
pub fn show(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(create_revision: i64, version: i64, lease: i64, value: &str) -> Option<(Live, &[u8])> {
        Some((Live { create_revision, version, lease }, value.as_bytes()))
    }

    fn history() -> Model {
        let mut model = Model::default();
        let records = [
            (2, "a", put(2, 1, 0, "1")),
            (3, "b", put(3, 1, 0, "2")),
            (4, "a", put(2, 2, 0, "3")),
            (4, "b", None),
            (4, "c", put(4, 1, 0, "")),
            (5, "a", None),
            (6, "d", put(6, 1, 7, "5")),
        ];
        for (main, key, put) in records {
            model.push(main, key.as_bytes(), put).unwrap();
        }
        model
    }

    #[test]
    fn the_hashes_are_those_that_etcd_answers() {
        let model = history();
        let never = [2, 3, 4, 5, 6].map(|revision| model.hash(revision, -1));
        assert_eq!(never, [2_587_454_935, 1_827_592_406, 183_077_655, 562_319_497, 2_932_001_488]);
        assert_eq!([5, 6].map(|revision| model.hash(revision, 4)), [2_946_651_748, 732_378_724]);
        assert_eq!(model.hash(6, 5), 1_091_953_821);
    }

    #[test]
    fn a_compaction_leaves_the_end_of_every_history() {
        let places = |revision, floor| -> Vec<(i64, i64)> {
            history().left(revision, floor).iter().map(|record| (record.main, record.sub)).collect()
        };
        assert_eq!(places(6, -1).len(), 7);
        assert_eq!(places(6, 4), [(4, 0), (4, 2), (5, 0), (6, 0)]);
        assert_eq!(places(5, 5), [(4, 2)]);
        assert_eq!(places(3, 3), [(2, 0), (3, 0)]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut model = history();
        assert!(model.push(8, b"a", put(8, 1, 0, "")).is_err());
        assert!(model.clone().push(7, b"d", put(6, 3, 0, "")).is_err());
        assert!(model.clone().push(7, b"a", None).is_err());
        model.push(7, b"a", put(7, 1, 0, "")).unwrap();
        assert!(model.was(b"a", 8, 7).is_ok() && model.was(b"a", 8, 4).is_err());
    }
}
