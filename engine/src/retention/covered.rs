//! Deltas that some other one may hold: who is asked, by names alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::archive::{BackupEntry, Catalogue};
use crate::clock::UnixMillis;
use crate::format::{BackupName, NameKind};
use crate::revision::Revision;

/// A delta, and those that may hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The narrower one.
    pub narrow: BackupEntry,
    /// Deltas of the same lineage whose revisions include its own, and which have been in the store for the grace.
    pub wide: Vec<BackupName>,
}

/// What is known to be covered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Covered {
    /// Each by one object, as both footers say, that was there when it was looked for.
    pub by: BTreeMap<BackupName, BackupName>,
    /// Those that an earlier look had found covered.
    pub before: BTreeSet<BackupName>,
}

/// The deltas of `catalogue` that may be covered by one that is `grace` old by the store's clock.
pub fn candidates(catalogue: &Catalogue, now: UnixMillis, grace: Duration) -> Vec<Candidate> {
    let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
    let settled = |entry: &BackupEntry| entry.modified.0 > 0 && now.0.saturating_sub(entry.modified.0) >= grace_ms;
    let mut found = Vec::new();
    for lineage in catalogue.lineages.values() {
        let mut deltas: Vec<(Place, &BackupEntry)> =
            lineage.backups.iter().filter_map(|entry| Some((place(entry)?, entry))).collect();
        deltas.sort_by_key(|(place, entry)| (place.from, std::cmp::Reverse(place.to), entry.name));
        // Those that reach up to what is looked at, or beyond.
        let mut open: Vec<(Place, &BackupEntry)> = Vec::new();
        for group in deltas.chunk_by(|one, other| (one.0.from, one.0.to) == (other.0.from, other.0.to)) {
            open.retain(|(place, _)| place.to >= group[0].0.from);
            open.extend(group);
            for (own, entry) in group {
                let holds = |(place, wide): &&(Place, &BackupEntry)| {
                    place.to >= own.to
                        && wide.name != entry.name
                        && wide.name.created >= entry.name.created
                        && (place.records || !own.records)
                        && settled(wide)
                };
                let wide: Vec<_> = open.iter().filter(holds).map(|(_, wide)| wide.name).collect();
                if !wide.is_empty() {
                    found.push(Candidate { narrow: (*entry).clone(), wide });
                }
            }
        }
    }
    found
}

/// Where a delta lies: its revisions; of an object without records the one that it marks.
#[derive(Debug, Clone, Copy)]
struct Place {
    from: Revision,
    to: Revision,
    records: bool,
}

fn place(entry: &BackupEntry) -> Option<Place> {
    match entry.name.kind {
        NameKind::Delta { first, last } => Some(Place { from: first.min(last), to: last, records: first <= last }),
        NameKind::Full { .. } => None,
    }
}
