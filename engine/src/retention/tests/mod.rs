//! Decisions over generated archives: names, sizes and times, under a clock of the tests' own.

mod decisions;
mod model;
mod week;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::archive::{BackupEntry, Catalogue, ChainTarget, Lineage, OnGap, chain_to};
use crate::clock::UnixMillis;
use crate::format::{BackupName, LineageId, NameKind, ObjectNonce};
use crate::revision::{ClusterId, Revision};
use crate::rollup::{RollupPolicy, Span, plan as plan_rollups};

/// 2025-11-21, eleven o'clock UTC.
const BIRTH: i64 = 1_763_722_800_000;
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

fn ms(duration: i64) -> Duration {
    Duration::from_millis(duration.unsigned_abs())
}

/// An archive of names, and what rollups were made of.
#[derive(Debug, Clone, Default)]
struct Shelf {
    objects: BTreeMap<BackupName, BackupEntry>,
    parts: BTreeMap<BackupName, BTreeSet<BackupName>>,
    nonce: u64,
}

impl Shelf {
    fn put(&mut self, lineage: LineageId, kind: NameKind, created: i64, modified: i64) -> BackupName {
        self.nonce += 1;
        let nonce = ObjectNonce(self.nonce.to_be_bytes());
        let name = BackupName { lineage, kind, created: UnixMillis(created), nonce };
        let stored_bytes = if matches!(kind, NameKind::Full { .. }) { 50 << 20 } else { 2_000 };
        self.objects.insert(name, BackupEntry { name, stored_bytes, modified: UnixMillis(modified) });
        name
    }

    fn catalogue(&self) -> Catalogue {
        Catalogue::of(self.objects.values().cloned())
    }

    /// Writes what `span` becomes, where all of it is there; as the writer does.
    fn roll(&mut self, span: &Span, now: i64) {
        if span.parts().any(|part| !self.objects.contains_key(&part.name)) {
            return;
        }
        let known: BTreeSet<BackupName> =
            span.chain.iter().filter_map(|part| self.parts.get(&part.name)).flatten().copied().collect();
        let parts: BTreeSet<BackupName> =
            span.parts().map(|part| part.name).filter(|name| !known.contains(name)).collect();
        if parts.len() < 2 {
            return;
        }
        let created = parts.iter().map(|name| name.created.0).max().unwrap();
        let (first, last) = span.revisions;
        let name = self.put(span.lineage, NameKind::Delta { first, last }, created, now);
        let bytes = span.parts().map(|part| part.stored_bytes).sum();
        self.objects.get_mut(&name).unwrap().stored_bytes = bytes;
        self.parts.insert(name, parts);
    }

    fn roll_all(&mut self, policy: &RollupPolicy, now: i64) {
        for span in plan_rollups(&self.catalogue(), policy, UnixMillis(now)).spans {
            self.roll(&span, now);
        }
    }
}

/// A sweeper that looks at a shelf as `gc` looks at a store.
#[derive(Debug, Clone, Default)]
struct Looks(BTreeMap<BackupName, BackupName>);

impl Looks {
    fn plan(&mut self, shelf: &Shelf, policy: &RetentionPolicy, clock: i64) -> RetentionPlan {
        let catalogue = shelf.catalogue();
        let now = store_now(&catalogue, UnixMillis(clock));
        let none = BTreeSet::new();
        let mut by = BTreeMap::new();
        for candidate in candidates(&catalogue, now, policy.covered_grace) {
            let narrow = candidate.narrow.name;
            let own = shelf.parts.get(&narrow).unwrap_or(&none);
            let holds = |wide: &&BackupName| {
                let parts = shelf.parts.get(*wide).unwrap_or(&none);
                let double = wide.kind == narrow.kind && **wide < narrow && !own.is_empty();
                parts.contains(&narrow) || (double && own.is_subset(parts))
            };
            if let Some(wide) = candidate.wide.iter().find(holds) {
                by.insert(narrow, *wide);
            }
        }
        let before = by.keys().filter(|narrow| self.0.contains_key(narrow)).copied().collect();
        self.0 = by.clone();
        plan(&catalogue, policy, &Covered { by, before }, now)
    }
}

fn plans(lineage: Option<&Lineage>, revision: i64) -> bool {
    lineage.is_some_and(|lineage| chain_to(lineage, ChainTarget::Revision(Revision(revision)), OnGap::Refuse).is_ok())
}

/// Chance that a test can repeat.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self, below: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % below.unsigned_abs()) as i64
    }
}
