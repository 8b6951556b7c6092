//! Figures of a sidecar at work, for whoever shows them.
//!
//! They are filled where things happen, and capture decides nothing by them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::durations::Durations;
use crate::clock::UnixMillis;
use crate::format::{LineageId, TimeMark};
use crate::revision::Revision;

/// A full that became durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastFull {
    /// Its seam.
    pub revision: Revision,
    /// When it was begun.
    pub begun: UnixMillis,
    /// When it was durable.
    pub finished: UnixMillis,
    /// Bytes of its object.
    pub stored_bytes: u64,
}

/// A HashKV that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastHashKv {
    /// What it is of.
    pub revision: Revision,
    /// When the full that has it was durable.
    pub stored: UnixMillis,
    /// How long the source stood still for it, milliseconds.
    pub took_ms: u64,
}

/// What an object that was stored is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoredKind {
    /// An image.
    Full,
    /// Records.
    Delta,
    /// Time marks and leases alone.
    Mark,
}

/// How much was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Attempts at one thing, and how long they took.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attempts {
    /// Those that came to something.
    pub succeeded: Durations,
    /// The others.
    pub failed: Durations,
}

/// How often something was tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retries {
    /// Uploads of deltas.
    pub deltas: u64,
    /// Fulls beside capture.
    pub fulls: u64,
    /// Sessions with a member.
    pub sessions: u64,
}

/// What has become of the archive beside capture.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpkeepFigures {
    /// Rollups that were written.
    pub rollups: u64,
    /// Deltas that they were made of.
    pub rolled_up: u64,
    /// Objects that retention removed (true) and that the store would not part with (false), by the kind of object as
    /// `etcdbrctl` names it.
    pub removals: BTreeMap<(&'static str, bool), u64>,
    /// Abandoned uploads that were aborted.
    pub aborted_uploads: u64,
    /// When the last sweep ended that did all it had to do, but for what the store would not part with; or one had nothing to
    /// do, because nothing was stored since.
    pub last_sweep: Option<UnixMillis>,
    /// Chores that failed, by their name.
    pub failures: BTreeMap<&'static str, u64>,
}

/// What a sidecar has come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    /// Of etcdbr; empty where it has not begun.
    pub version: String,
    /// The lineage that is written, once it is open.
    pub lineage: Option<LineageId>,
    /// When the source's history was last shown to be the lineage's.
    pub proven: Option<UnixMillis>,
    /// The last revision that is durable, and when the source stood there.
    pub durable: Option<TimeMark>,
    /// The source's own, as far as it was heard of.
    pub source_revision: Revision,
    /// Bytes that wait for the store, compressed and sealed.
    pub waiting_bytes: u64,
    /// How many may.
    pub waiting_limit_bytes: u64,
    /// How often a watch has gone on with a lineage.
    pub watch_resumes: u64,
    /// Fulls that were begun, by the reason.
    pub fulls: BTreeMap<&'static str, u64>,
    /// Since when a full is due or under way.
    pub full_due: Option<UnixMillis>,
    /// What has come of fulls.
    pub full_attempts: Attempts,
    /// What has come of uploads of deltas.
    pub delta_attempts: Attempts,
    /// What was tried again.
    pub retries: Retries,
    /// What was stored.
    pub stored: BTreeMap<StoredKind, Stored>,
    /// Deltas that became part of a wider one while they waited.
    pub merged_deltas: u64,
    /// The newest full that was taken here.
    pub last_full: Option<LastFull>,
    /// The seam of the newest full, whoever took it, and when it was begun.
    pub newest_full: Option<TimeMark>,
    /// The last HashKV.
    pub last_hash_kv: Option<LastHashKv>,
    /// Rollups, sweeps and what they came to.
    pub upkeep: UpkeepFigures,
    /// Whether the member leads its cluster, where that decides who captures.
    pub leads: Option<bool>,
}

impl Figures {
    /// Where capture stands is not known any more: others may have gone on.
    pub fn forget_position(&mut self) {
        let Self { lineage, proven, durable, newest_full, full_due, .. } = self;
        (*lineage, *proven, *durable, *newest_full, *full_due) = (None, None, None, None, None);
        self.source_revision = Revision(0);
    }

    /// An object of so many bytes was stored.
    pub fn count_stored(&mut self, kind: StoredKind, bytes: u64) {
        let stored = self.stored.entry(kind).or_default();
        *stored = Stored { objects: stored.objects + 1, bytes: stored.bytes + bytes };
    }

    /// Objects that capture has stored, of any kind.
    pub fn captured_objects(&self) -> u64 {
        self.stored.values().map(|stored| stored.objects).sum()
    }
}

impl Attempts {
    /// One more that came to something, or did not.
    pub fn add<T, E>(&mut self, came_to: &Result<T, E>, took: Duration) {
        match came_to {
            Ok(_) => self.succeeded.add(took),
            Err(_) => self.failed.add(took),
        }
    }
}

/// The figures, shared.
#[derive(Debug, Clone, Default)]
pub struct Gauges(Arc<Mutex<Figures>>);

impl Gauges {
    /// What they show now.
    pub fn figures(&self) -> Figures {
        self.lock().clone()
    }

    /// Changes them.
    pub fn note(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
