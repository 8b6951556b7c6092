//! What a compaction leaves of the records of an image and of those that follow it.
//!
//! At or below the compact revision every key keeps its newest record, and not even that where it is a tombstone; all later
//! ones stay. So what is left of a key is always the end of its history, which is what etcd counts versions from.
//!
//! The records are read twice: [`Survey`](PruneSurvey) finds which are the newest, [`Pruning`] says of each whether it
//! stays. Memory is 36 bytes at most (54 while it grows) for each user key that has a record above what the image was
//! compacted at and not above the compact revision, and a bit for each of these records.

use super::keys::{Bits, KeyMap};
use super::mvcc::stored_key;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Change, RecordRef};
use crate::revision::Revision;

/// Marks a key that is not alive at the compact revision.
const GONE: u32 = u32::MAX;

/// The first reading.
#[derive(Debug)]
pub struct PruneSurvey {
    /// Up to here the image holds no two records of a key.
    finished: Revision,
    at: Revision,
    /// The ordinal of the newest record of every key that has one in between.
    newest: KeyMap<u32>,
    kept: Bits,
}

/// The second reading.
#[derive(Debug)]
pub struct Pruning {
    survey: PruneSurvey,
    ordinal: usize,
}

impl PruneSurvey {
    /// For a compaction at `at` (0: none) of an image that was compacted at `finished`.
    pub fn new(finished: Revision, at: Revision) -> Self {
        Self { finished, at, newest: KeyMap::default(), kept: Bits::default() }
    }

    /// Takes the next record, in order.
    ///
    /// # Errors
    /// `Damaged` where it does not parse; `Refused` for more records than any etcd holds.
    pub fn see(&mut self, record: &RecordRef<'_>) -> Result<()> {
        if record.main <= self.finished || record.main > self.at {
            return Ok(());
        }
        let stored = stored_key(record.main, record.value)?;
        let ordinal = self.kept.push(record.change == Change::Put);
        let ordinal = u32::try_from(ordinal).ok().filter(|ordinal| *ordinal < GONE);
        let ordinal = ordinal.ok_or_else(|| Error::new(ErrorKind::Refused, "the chain has too many records"))?;
        let now = if record.change == Change::Put { ordinal } else { GONE };
        if let Some(before) = self.newest.insert(stored.key, now).filter(|before| *before != GONE) {
            self.kept.clear(before as usize);
        }
        Ok(())
    }

    /// The second reading.
    pub fn finish(self) -> Pruning {
        Pruning { survey: self, ordinal: 0 }
    }
}

impl Pruning {
    /// Whether the next record, in order, stays.
    ///
    /// # Errors
    /// `Damaged` where it does not parse.
    pub fn keeps(&mut self, record: &RecordRef<'_>) -> Result<bool> {
        let survey = &self.survey;
        if record.main > survey.at {
            return Ok(true);
        }
        if record.main <= survey.finished {
            let superseded = || Ok(survey.newest.has(stored_key(record.main, record.value)?.key));
            return Ok(record.change == Change::Put && !superseded()?);
        }
        self.ordinal += 1;
        Ok(survey.kept.has(self.ordinal - 1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use etcdbr_proto::mvccpb::KeyValue;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::record::Record;

    fn record(main: i64, sub: i64, key: u8, change: Change) -> Record {
        let value = KeyValue { key: vec![key].into(), ..KeyValue::default() }.encode_to_vec().into();
        Record { main: Revision(main), sub, change, value }
    }

    /// What etcd leaves.
    fn compacted(records: &[Record], at: i64) -> Vec<Record> {
        let newest: HashMap<_, _> =
            records.iter().filter(|record| record.main.0 <= at).map(|record| (record.value.clone(), record)).collect();
        let stays =
            |record: &&Record| record.main.0 > at || (newest[&record.value] == *record && record.change == Change::Put);
        records.iter().filter(stays).cloned().collect()
    }

    fn pruned(records: &[Record], finished: i64, at: i64) -> Vec<Record> {
        let mut survey = PruneSurvey::new(Revision(finished), Revision(at));
        records.iter().for_each(|record| survey.see(&record.as_ref()).unwrap());
        let mut pruning = survey.finish();
        records.iter().filter(|record| pruning.keeps(&record.as_ref()).unwrap()).cloned().collect()
    }

    proptest! {
        #[test]
        fn what_stays_is_what_etcd_leaves(
            changes in proptest::collection::vec((0..6_u8, any::<bool>(), any::<bool>()), 0..60),
            finished in 0..70_i64,
            more in 0..70_i64,
        ) {
            let (mut main, mut sub, mut history) = (1, 0, Vec::new());
            for (key, put, same) in changes {
                (main, sub) = if same && main > 1 { (main, sub + 1) } else { (main + 1, 0) };
                history.push(record(main, sub, key, if put { Change::Put } else { Change::Tombstone }));
            }
            // A compaction in two steps is one at the later revision.
            let at = finished + more;
            prop_assert_eq!(pruned(&compacted(&history, finished), finished, at), compacted(&history, at));
        }
    }
}
