//! Responses of a watch on the whole key space, joined into complete revisions without a gap.
//!
//! What holds of what is given out: revisions are contiguous from the one that was asked for, each is whole, and
//! `sub` is the ordinal of an event among those of its revision, over all fragments. A revision is whole when an
//! event of the next one follows, or a response ends that is no fragment. What a header says of revisions plays no
//! part in that: it is the server's, far ahead of the events of a late watcher.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use etcdbr_proto::etcdserverpb::WatchResponse;

use super::event::Stored;
use crate::record::Record;
use crate::revision::Revision;

/// A set of so many keys is thrown away after its revision, because emptying it costs as much as it is large.
const KEPT_KEYS_MAX: usize = 4096;

/// One or more whole revisions, in order and without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revisions {
    /// The first one.
    pub first: Revision,
    /// The last one.
    pub last: Revision,
    /// All their records, in the order of (main, sub). The values are slices of few large buffers, which stay in
    /// memory as long as any of their values does: what is to be kept for long is copied.
    pub records: Vec<Record>,
    /// The leases that puts among them attach their keys to, ascending, each once.
    pub leases: Vec<i64>,
    /// What they take in memory, in bytes.
    pub held_bytes: usize,
    /// Where the member itself was when it sent them: ahead of `last` while the watch catches up.
    pub member_revision: Revision,
    /// Raft's term at the member then.
    pub raft_term: u64,
}

/// Why no revision follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The events of `expected` and what follows it, up to `got`, were not given.
    Gap { expected: Revision, got: Revision },
    /// What was given of a revision cannot be true.
    Contradiction { revision: Revision, why: &'static str },
    /// A revision takes more memory than it may.
    TooLarge { revision: Revision, limit_bytes: usize },
}

/// What the responses so far come to.
pub(super) struct Assembler {
    /// The revision whose events are awaited or being gathered; all before it are whole.
    next: Revision,
    revision_bytes_max: usize,
    /// Whole revisions, and from `open_at` on the records of `next`.
    records: Vec<Record>,
    open_at: usize,
    open_bytes: usize,
    open_leases: Vec<i64>,
    open_keys: HashSet<u64>,
    whole_bytes: usize,
    whole_leases: Vec<i64>,
    hasher: RandomState,
}

impl Assembler {
    /// Begins with `start`; no revision may take more than `revision_bytes_max` in memory.
    pub(super) fn new(start: Revision, revision_bytes_max: usize) -> Self {
        Self {
            next: start,
            revision_bytes_max,
            records: Vec::new(),
            open_at: 0,
            open_bytes: 0,
            open_leases: Vec::new(),
            open_keys: HashSet::new(),
            whole_bytes: 0,
            whole_leases: Vec::new(),
            hasher: RandomState::new(),
        }
    }

    /// Takes one response; gives the revisions that are whole by it, and after them what is wrong with the rest. After
    /// a flaw nothing more can be taken.
    pub(super) fn take(&mut self, response: WatchResponse) -> (Option<Revisions>, Option<Flaw>) {
        let first = self.next;
        let header = response.header.unwrap_or_default();
        let more_follow = response.fragment;
        self.records.reserve(response.events.len());
        let taken = response.events.into_iter().try_for_each(|event| {
            let why = "an event is no change that etcd makes";
            let stored = Stored::read(event).ok_or(Flaw::Contradiction { revision: self.next, why })?;
            self.push(stored, Revision(header.revision))
        });
        if taken.is_ok() && !more_follow && self.is_open() {
            self.close();
        }
        if taken.is_err() {
            self.records.truncate(self.open_at);
        }
        let whole = (self.open_at > 0).then(|| {
            let open = self.records.split_off(self.open_at);
            self.open_at = 0;
            let mut leases = std::mem::take(&mut self.whole_leases);
            leases.sort_unstable();
            leases.dedup();
            Revisions {
                first,
                last: Revision(self.next.0 - 1),
                records: std::mem::replace(&mut self.records, open),
                leases,
                held_bytes: std::mem::take(&mut self.whole_bytes),
                member_revision: Revision(header.revision),
                raft_term: header.raft_term,
            }
        });
        (whole, taken.err())
    }

    /// Whether records of `next` are held whose end has not been seen.
    fn is_open(&self) -> bool {
        self.records.len() > self.open_at
    }

    fn push(&mut self, stored: Stored, member_revision: Revision) -> Result<(), Flaw> {
        let revision = Revision(stored.mod_revision);
        let contradiction = |why| Err(Flaw::Contradiction { revision, why });
        if revision > member_revision {
            return contradiction("the member sent it before it was there");
        }
        if revision < self.next {
            // Some versions repeat events or step back in time. What was whole stays so; but within fragments nobody
            // could tell whether the rest goes on or begins anew.
            return if self.is_open() { contradiction("an older event came amid its fragments") } else { Ok(()) };
        }
        if revision > self.next && self.is_open() {
            self.close();
        }
        if revision > self.next {
            return Err(Flaw::Gap { expected: self.next, got: revision });
        }
        // etcd refuses a transaction that changes a key twice: so this is an event that came twice, and each `sub`
        // after it would be wrong.
        if !self.open_keys.insert(self.hasher.hash_one(stored.key())) {
            return contradiction("two events change the same key");
        }
        if stored.lease != 0 {
            self.open_leases.push(stored.lease);
        }
        self.open_bytes += size_of::<Record>() + stored.value.len();
        if self.open_bytes > self.revision_bytes_max {
            return Err(Flaw::TooLarge { revision, limit_bytes: self.revision_bytes_max });
        }
        let sub = (self.records.len() - self.open_at) as i64;
        self.records.push(Record { main: revision, sub, change: stored.change, value: stored.value });
        Ok(())
    }

    /// `next` is whole.
    fn close(&mut self) {
        self.next = self.next.next();
        self.open_at = self.records.len();
        self.whole_bytes += std::mem::take(&mut self.open_bytes);
        self.whole_leases.append(&mut self.open_leases);
        if self.open_keys.len() > KEPT_KEYS_MAX {
            self.open_keys = HashSet::new();
        } else {
            self.open_keys.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use etcdbr_proto::etcdserverpb::ResponseHeader;
    use etcdbr_proto::mvccpb::event::EventType;
    use etcdbr_proto::mvccpb::{Event, KeyValue};
    use prost::Message;

    use super::*;
    use crate::record::Change;

    fn event(kind: EventType, key: &str, revision: i64) -> Event {
        let put = kind == EventType::Put;
        let kv = KeyValue {
            key: key.to_owned().into(),
            create_revision: if put { revision } else { 0 },
            mod_revision: revision,
            version: i64::from(put),
            value: if put { "v".into() } else { "".into() },
            lease: 0,
        };
        Event { r#type: kind.into(), kv: kv.encode_to_vec().into() }
    }

    fn put(key: &str, revision: i64) -> Event {
        event(EventType::Put, key, revision)
    }

    fn leased(key: &str, revision: i64, lease: i64) -> Event {
        let kv = KeyValue {
            key: key.to_owned().into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease,
            ..Default::default()
        };
        Event { r#type: EventType::Put.into(), kv: kv.encode_to_vec().into() }
    }

    fn response(fragment: bool, events: Vec<Event>) -> WatchResponse {
        let header = Some(ResponseHeader { revision: 1_000_000, raft_term: 3, ..Default::default() });
        WatchResponse { header, fragment, events, ..Default::default() }
    }

    fn assembler() -> Assembler {
        Assembler::new(Revision(5), usize::MAX)
    }

    /// (main, sub) of each record.
    fn shape(revisions: &Revisions) -> Vec<(i64, i64)> {
        revisions.records.iter().map(|record| (record.main.0, record.sub)).collect()
    }

    fn whole(taken: (Option<Revisions>, Option<Flaw>)) -> Revisions {
        assert_eq!(taken.1, None);
        taken.0.unwrap()
    }

    #[test]
    fn a_response_may_hold_many_revisions() {
        let events = vec![put("a", 5), event(EventType::Delete, "b", 5), put("c", 6), put("a", 7)];
        let revisions = whole(assembler().take(response(false, events)));
        assert_eq!((revisions.first, revisions.last), (Revision(5), Revision(7)));
        assert_eq!(shape(&revisions), [(5, 0), (5, 1), (6, 0), (7, 0)]);
        assert_eq!(revisions.records[1].change, Change::Tombstone);
        assert_eq!((revisions.member_revision, revisions.raft_term), (Revision(1_000_000), 3));
        let values: usize = revisions.records.iter().map(|record| record.value.len()).sum();
        assert_eq!(revisions.held_bytes, values + 4 * size_of::<Record>());
    }

    #[test]
    fn fragments_are_joined_and_sub_counts_on() {
        let mut assembler = assembler();
        assert_eq!(assembler.take(WatchResponse { created: true, ..response(false, vec![]) }), (None, None));
        assert_eq!(assembler.take(response(true, vec![put("old", 4), put("a", 5)])), (None, None));
        assert_eq!(assembler.take(response(true, vec![event(EventType::Delete, "b", 5)])), (None, None));
        let revisions = whole(assembler.take(response(false, vec![put("c", 5)])));
        assert_eq!(shape(&revisions), [(5, 0), (5, 1), (5, 2)]);
    }

    #[test]
    fn a_later_event_ends_a_revision_within_a_fragment() {
        let mut assembler = assembler();
        let revisions = whole(assembler.take(response(true, vec![put("a", 5), leased("a", 6, 8)])));
        assert_eq!((shape(&revisions), revisions.leases), (vec![(5, 0)], vec![]));
        let revisions = whole(assembler.take(response(true, vec![put("b", 6), put("c", 7)])));
        assert_eq!((shape(&revisions), revisions.leases), (vec![(6, 0), (6, 1)], vec![8]));
        let revisions = whole(assembler.take(response(false, vec![put("d", 7)])));
        assert_eq!(shape(&revisions), [(7, 0), (7, 1)]);
    }

    #[test]
    fn leases_are_named_once() {
        let events = vec![leased("a", 5, 7), leased("b", 5, -3), leased("c", 6, 7), put("d", 7)];
        assert_eq!(whole(assembler().take(response(false, events))).leases, [-3, 7]);
    }

    #[test]
    fn what_was_given_before_is_dropped() {
        let mut assembler = assembler();
        whole(assembler.take(response(false, vec![put("a", 5), put("a", 6)])));
        assert_eq!(assembler.take(response(false, vec![put("a", 5), put("a", 6)])), (None, None));
        let revisions = whole(assembler.take(response(false, vec![put("a", 6), put("a", 7)])));
        assert_eq!(shape(&revisions), [(7, 0)]);
    }

    #[test]
    fn a_gap_is_told_after_what_came_before_it() {
        let gap = |expected, got| Some(Flaw::Gap { expected: Revision(expected), got: Revision(got) });
        assert_eq!(assembler().take(response(false, vec![put("a", 6)])), (None, gap(5, 6)));
        let (whole, flaw) = assembler().take(response(false, vec![put("a", 5), put("a", 6), put("a", 8)]));
        assert_eq!((shape(&whole.unwrap()), flaw), (vec![(5, 0), (6, 0)], gap(7, 8)));
        let mut over_responses = assembler();
        over_responses.take(response(true, vec![put("a", 5)]));
        let (whole, flaw) = over_responses.take(response(false, vec![put("a", 7)]));
        assert_eq!((shape(&whole.unwrap()), flaw), (vec![(5, 0)], gap(6, 7)));
    }

    fn contradiction(taken: (Option<Revisions>, Option<Flaw>), of: i64) -> Option<Revisions> {
        assert!(matches!(taken.1, Some(Flaw::Contradiction { revision, .. }) if revision.0 == of), "{taken:?}");
        taken.0
    }

    #[test]
    fn a_step_back_amid_fragments_is_a_contradiction() {
        let mut assembler = assembler();
        assembler.take(response(true, vec![put("a", 5)]));
        assert_eq!(contradiction(assembler.take(response(false, vec![put("a", 4), put("b", 5)])), 4), None);
    }

    #[test]
    fn an_event_that_comes_twice_is_a_contradiction() {
        let events = vec![put("a", 5), put("a", 6), put("b", 6), put("a", 6)];
        let before = contradiction(assembler().take(response(false, events)), 6).unwrap();
        assert_eq!((shape(&before), before.last), (vec![(5, 0)], Revision(5)));
    }

    #[test]
    fn an_event_above_its_header_is_a_contradiction() {
        let header = Some(ResponseHeader { revision: 5, ..Default::default() });
        let ahead = WatchResponse { header, ..response(false, vec![put("a", 5), put("a", 6)]) };
        assert_eq!(contradiction(assembler().take(ahead), 6), None);
    }

    #[test]
    fn an_event_without_a_change_is_a_contradiction() {
        let empty = Event { r#type: EventType::Put.into(), kv: bytes::Bytes::new() };
        assert_eq!(contradiction(assembler().take(response(false, vec![empty])), 5), None);
    }

    #[test]
    fn memory_of_one_revision_is_bounded() {
        let limit_bytes = 3 * (size_of::<Record>() + put("a", 5).kv.len());
        let mut assembler = Assembler::new(Revision(5), limit_bytes);
        whole(assembler.take(response(false, vec![put("a", 5), put("b", 5), put("c", 5), put("a", 6)])));
        assert_eq!(assembler.take(response(true, vec![put("a", 7), put("b", 7)])), (None, None));
        let (none, flaw) = assembler.take(response(true, vec![put("c", 7), put("d", 7)]));
        assert_eq!((none, flaw), (None, Some(Flaw::TooLarge { revision: Revision(7), limit_bytes })));
    }
}
