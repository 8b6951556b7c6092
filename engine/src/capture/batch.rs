//! The delta that is being gathered.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::UnixMillis;
use crate::etcd::Revisions;
use crate::format::TimeMark;
use crate::record::Record;
use crate::revision::Revision;

/// Time marks are at least so far apart within one delta.
const MARK_EVERY_MS: i64 = 1000;

/// When a delta is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutLimits {
    /// Since its first record was received.
    pub period: Duration,
    /// Bytes of its records in memory.
    pub bytes: usize,
}

/// Records that wait to be sealed, and the times at which they came.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) first: Revision,
    pub(super) last: Revision,
    pub(super) records: Vec<Record>,
    pub(super) marks: Vec<TimeMark>,
    pub(super) begun: UnixMillis,
    bytes: usize,
    opened: Option<Instant>,
}

impl Batch {
    /// An empty one behind revision `last`.
    pub(super) fn after(last: Revision) -> Self {
        Self {
            first: last.next(),
            last,
            records: Vec::new(),
            marks: Vec::new(),
            begun: UnixMillis(0),
            bytes: 0,
            opened: None,
        }
    }

    /// Takes what follows; `now` is when it was received, and never goes back.
    pub(super) fn push(&mut self, revisions: Revisions, now: UnixMillis) {
        if self.opened.is_none() {
            self.opened = Some(Instant::now());
            self.begun = now;
        }
        self.last = revisions.last;
        self.bytes += revisions.held_bytes;
        self.records.extend(revisions.records);
        if self.marks.last().is_none_or(|mark| now.0 - mark.time.0 >= MARK_EVERY_MS) {
            self.mark(now);
        }
    }

    /// At `now` the source stands at the last revision.
    pub(super) fn mark(&mut self, now: UnixMillis) {
        self.marks.push(TimeMark { time: now, revision: self.last });
    }

    /// Whether there is nothing to seal.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether it must be cut now.
    pub(super) fn is_full(&self, limits: &CutLimits) -> bool {
        self.bytes >= limits.bytes
    }

    /// When it must be cut at the latest; `None` while it is empty.
    pub(super) fn due(&self, limits: &CutLimits) -> Option<Instant> {
        self.opened.map(|opened| opened + limits.period)
    }
}
