//! What the footers of a chain tell besides records, as of one revision: compactions, leases, HashKV.

use std::collections::BTreeMap;

use crate::archive::BackupReader;
use crate::clock::UnixMillis;
use crate::datadir::{LeaseChanges, LeaseScope};
use crate::format::{BackupName, FooterFacts, HashKvAnswer, LeaseGrant, LeaseList, LeaseTtl, TimeMark, Told};
use crate::revision::Revision;

/// What is known of a source at one revision, beside its records.
///
/// Memory: 24 bytes for each lease that was granted since the image was taken or, if later, since the last whole list.
#[derive(Debug, Clone)]
pub struct Learned {
    upto: Revision,
    compact: Option<Revision>,
    answers: Vec<HashKvAnswer>,
    newest_answer: Option<HashKvAnswer>,
    last_mark: Option<TimeMark>,
    leases: LeaseBook,
}

impl Learned {
    /// What the footer of an opened full tells of the source at `upto`.
    pub fn of_full(full: &BackupReader, upto: Revision) -> Self {
        let facts = &full.footer().facts;
        let begun = facts.capture.time_marks.last().map_or(facts.started, |mark| mark.time);
        // Marks may be of another clock than these two.
        let done = UnixMillis(begun.0.saturating_add(facts.finished.0.saturating_sub(facts.started.0)));
        let mut learned = Self {
            upto,
            compact: None,
            answers: facts.hash_kv.clone(),
            newest_answer: None,
            last_mark: None,
            leases: LeaseBook { image: (begun, done), ..LeaseBook::default() },
        };
        learned.note_marks(facts);
        facts.capture.told(full.name()).iter().for_each(|told| learned.note_compaction(told));
        learned
    }

    /// Notes the footer of an object of the same lineage, in any order.
    pub fn note(&mut self, name: &BackupName, facts: &FooterFacts) {
        self.note_marks(facts);
        let answers = facts.hash_kv.iter().copied().filter(|answer| answer.revision <= self.upto);
        self.newest_answer =
            answers.chain(self.newest_answer).max_by_key(|answer| (answer.revision, answer.compact_revision));
        for told in facts.capture.told(name) {
            self.note_compaction(&told);
            if told.mark.revision <= self.upto {
                self.leases.note(told.mark.time, told.lease_list, &told.leases);
            } else {
                self.leases.later.extend(granted(&told.leases));
            }
        }
    }

    /// The greatest compact revision that the source was seen to have at the revision or before it.
    pub fn compact_revision(&self) -> Option<Revision> {
        self.compact
    }

    /// The last time at which the source is known to have stood at the revision, or before it.
    pub fn last_mark(&self) -> Option<TimeMark> {
        self.last_mark
    }

    /// The source's own answers about the records of an image that has reached `revision`.
    pub fn answers(&self, revision: Revision) -> Vec<HashKvAnswer> {
        let answers = self.answers.iter().copied().chain(self.newest_answer);
        answers.filter(|answer| answer.revision <= revision).collect()
    }

    /// The newest of these.
    pub fn newest_answer(&self, revision: Revision) -> Option<HashKvAnswer> {
        self.answers(revision).into_iter().max_by_key(|answer| (answer.revision, answer.compact_revision))
    }

    /// What became of the leases that the image has. Those that live keys name and that nobody knows get `missing_ttl_s`.
    pub fn leases(&self, missing_ttl_s: i64) -> LeaseChanges {
        let LeaseBook { whole_at, granted, later, .. } = &self.leases;
        LeaseChanges {
            scope: if whole_at.is_some() { LeaseScope::All } else { LeaseScope::Added },
            granted: granted.iter().map(|(id, grant)| (*id, grant.ttl_s)).collect(),
            later: later.clone(),
            missing_ttl_s,
        }
    }

    /// Whether a whole list of the leases was found: nothing that is older adds to it.
    pub(super) fn knows_all_leases(&self) -> bool {
        self.leases.whole_at.is_some()
    }

    fn note_marks(&mut self, facts: &FooterFacts) {
        let mark = facts.capture.time_marks.iter().rfind(|mark| mark.revision <= self.upto);
        self.last_mark = self.last_mark.max(mark.copied());
    }

    fn note_compaction(&mut self, told: &Told) {
        let of_then = |compact: &Revision| told.mark.revision <= self.upto && *compact <= self.upto;
        self.compact = self.compact.max(told.compact_revision.filter(of_then));
    }
}

/// The leases that were granted since an image was taken.
#[derive(Debug, Clone, Default)]
struct LeaseBook {
    /// When the image was begun, and when it was there.
    image: (UnixMillis, UnixMillis),
    /// The time of the last whole list.
    whole_at: Option<UnixMillis>,
    granted: BTreeMap<i64, Grant>,
    /// What objects that tell of later revisions know.
    later: BTreeMap<i64, i64>,
}

#[derive(Debug, Clone, Copy)]
struct Grant {
    ttl_s: i64,
    at: UnixMillis,
}

impl LeaseBook {
    fn note(&mut self, at: UnixMillis, list: LeaseList, leases: &[LeaseGrant]) {
        // What is older than the image is in it, or was gone by then.
        if at <= self.image.0 || self.whole_at.is_some_and(|whole_at| at <= whole_at) {
            return;
        }
        // A list that was made while the image was is not later than all of it.
        if list == LeaseList::Complete && at > self.image.1 {
            self.granted.retain(|_, grant| grant.at > at);
            self.whole_at = Some(at);
        }
        for (id, ttl_s) in granted(leases) {
            let grant = Grant { ttl_s, at };
            let known = self.granted.entry(id).or_insert(grant);
            if known.at < at {
                *known = grant;
            }
        }
    }
}

/// Ids and seconds, where the source has told them. What capture assumed of a lease that was gone when it asked is nobody's
/// knowledge: a live key that names such a lease gets the operator's default, and is counted.
pub(super) fn granted(leases: &[LeaseGrant]) -> impl Iterator<Item = (i64, i64)> {
    leases.iter().filter(|lease| lease.known == LeaseTtl::Granted).map(|lease| (lease.id, lease.ttl_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(ids: &[i64]) -> Vec<LeaseGrant> {
        ids.iter().map(|&id| LeaseGrant { id, ttl_s: id * 10, known: LeaseTtl::Granted }).collect()
    }

    fn book(notes: &[(i64, LeaseList, &[i64])]) -> (Option<i64>, Vec<i64>) {
        let mut book = LeaseBook { image: (UnixMillis(100), UnixMillis(110)), ..LeaseBook::default() };
        for (at, list, ids) in notes {
            book.note(UnixMillis(*at), *list, &grants(ids));
        }
        (book.whole_at.map(|at| at.0), book.granted.into_keys().collect())
    }

    #[test]
    fn new_leases_add_up_and_a_whole_list_replaces_them() {
        use LeaseList::{Complete, New};
        assert_eq!(book(&[(101, New, &[1]), (120, New, &[2])]), (None, vec![1, 2]));
        assert_eq!(book(&[(101, New, &[1]), (120, Complete, &[2, 3]), (130, New, &[4])]), (Some(120), vec![2, 3, 4]));
        // In any order.
        let notes: [(i64, LeaseList, &[i64]); 4] =
            [(130, New, &[4]), (120, Complete, &[2, 3]), (115, Complete, &[9]), (101, New, &[1])];
        assert_eq!(book(&notes), (Some(120), vec![2, 3, 4]));
    }

    #[test]
    fn what_was_assumed_is_not_known() {
        let mut book = LeaseBook { image: (UnixMillis(100), UnixMillis(110)), ..LeaseBook::default() };
        let assumed = LeaseGrant { id: 1, ttl_s: 3600, known: LeaseTtl::Assumed };
        book.note(UnixMillis(120), LeaseList::New, &[assumed]);
        assert!(book.granted.is_empty());
        book.note(UnixMillis(130), LeaseList::New, &grants(&[1]));
        book.note(UnixMillis(140), LeaseList::New, &[assumed]);
        assert_eq!(book.granted[&1].ttl_s, 10);
    }

    #[test]
    fn what_is_older_than_the_image_does_not_count() {
        use LeaseList::{Complete, New};
        assert_eq!(book(&[(99, New, &[1]), (100, Complete, &[2])]), (None, vec![]));
        assert_eq!(book(&[(105, Complete, &[3])]), (None, vec![3]));
    }
}
