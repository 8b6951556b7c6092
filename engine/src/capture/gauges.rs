//! Figures of a sidecar at work, for whoever shows them.
//!
//! They are filled where things happen, and decide nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::UnixMillis;
use crate::format::TimeMark;
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

/// What a sidecar has come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    /// The last revision that is durable, and when the source stood there.
    pub durable: Option<TimeMark>,
    /// The source's own, as far as it was heard of.
    pub source_revision: Revision,
    /// Bytes that wait for the store, compressed and sealed.
    pub waiting_bytes: u64,
    /// How often a watch has gone on with a lineage.
    pub watch_resumes: u64,
    /// Fulls that were begun, by the reason.
    pub fulls: BTreeMap<&'static str, u64>,
    /// Fulls that failed.
    pub failed_fulls: u64,
    /// Uploads of deltas that were tried again.
    pub upload_retries: u64,
    /// Deltas that became part of a wider one while they waited.
    pub merged_deltas: u64,
    /// The newest full.
    pub last_full: Option<LastFull>,
    /// How long the source stood still for the last HashKV, milliseconds.
    pub last_hash_kv_ms: Option<u64>,
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
