//! Which objects go, and why every other one stays.
//!
//! # Why nothing is taken away that was promised
//! *Time.* "Now" is the store's clock as its newest object shows it, and never later than our own: both would have to be wrong to
//! make something old. An object is as old as the younger of its name and of the store's date; one without a date is
//! never old. An archive that nobody writes to does not age.
//!
//! *The newest chain.* Of each cluster, the newest full of the lineage that was written last stays, and every delta that reaches
//! beyond its seam.
//!
//! *A window.* For a revision that the source had at some time in it, a restore needs a full whose seam is not later, and the
//! deltas from there on. The newest full that was in the store when the window began is such a full for every revision of the window:
//! its seam was read before. So it stays, with every later full and every delta that reaches beyond its seam. Where a lineage
//! that was written to in the window has no full so old, all of it stays; and so does, from such a full on, the lineage that had been
//! written last when the window began, whether or not it ever was again.
//!
//! *Covered deltas.* One goes only for an object that stays, that was read to say so in its own footer, naming the delta with its
//! digests; that has been in the store for the grace; and that an earlier look had found too. What replaces it may be
//! replaced in turn, but only by what holds it whole, and never in a circle: a rollup is made of what was there before.
//!
//! *Order.* Deltas that are covered go first: each is replaced by what stays. Then, lineage by lineage, deltas from the newest to the
//! oldest, then fulls likewise: whatever a stop leaves behind of them is restorable, or was condemned with what it needs.

use std::collections::BTreeMap;
use std::fmt;

use super::covered::Covered;
use super::fulls;
use super::policy::RetentionPolicy;
use crate::archive::{BackupEntry, Catalogue, Lineage};
use crate::clock::UnixMillis;
use crate::format::{BackupName, NameKind};
use crate::revision::{ClusterId, Revision};

/// Deltas of a lineage that has no full are left alone for so long: their full may be on its way into a listing.
const ORPHANS_MS: i64 = 24 * 3_600_000;
/// Objects that replace each other, one after the other, at most.
const MAX_REPLACEMENTS: usize = 16;

/// Why something stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepReason {
    /// It belongs to the newest chain of its cluster.
    NewestChain,
    /// A revision in the window needs it.
    Window,
    /// `Exponential` or `LimitBased` keeps this full.
    Fulls,
    /// A revision of the retention of deltas needs it.
    DeltaRetention,
    /// Its age is not known, or its full may not be listed yet.
    Young,
    /// It is covered by this object, which was not seen twice.
    CoveredOnce(BackupName),
}

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteReason {
    /// No policy keeps it.
    Expired,
    /// Its lineage has no full.
    NoFull,
    /// This object holds all that it does.
    Covered(BackupName),
}

/// What becomes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It stays.
    Keep(KeepReason),
    /// It goes.
    Delete(DeleteReason),
}

impl Decision {
    /// Whether it goes.
    pub fn deletes(&self) -> bool {
        matches!(self, Self::Delete(_))
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep(KeepReason::NewestChain) => f.write_str("part of the newest chain"),
            Self::Keep(KeepReason::Window) => f.write_str("within the window"),
            Self::Keep(KeepReason::Fulls) => f.write_str("kept by the policy for fulls"),
            Self::Keep(KeepReason::DeltaRetention) => f.write_str("within the retention of deltas"),
            Self::Keep(KeepReason::Young) => f.write_str("too young, or of unknown age"),
            Self::Keep(KeepReason::CoveredOnce(by)) => write!(f, "covered by {by}, to be seen once more"),
            Self::Delete(DeleteReason::Expired) => f.write_str("no policy keeps it"),
            Self::Delete(DeleteReason::NoFull) => f.write_str("its lineage has no full"),
            Self::Delete(DeleteReason::Covered(by)) => write!(f, "covered by {by}"),
        }
    }
}

/// One object, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The object.
    pub entry: BackupEntry,
    /// What becomes of it.
    pub decision: Decision,
}

/// What becomes of every object of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetentionPlan {
    /// Every object; those that go come first, in the order in which they must.
    pub objects: Vec<Decided>,
    /// The fulls that deletions rely on, by cluster: one that cannot be opened saves all others of its cluster.
    pub relied_on: BTreeMap<ClusterId, Vec<BackupName>>,
    /// The time that it was made for.
    pub now: UnixMillis,
}

impl RetentionPlan {
    /// What goes, in order.
    pub fn deletions(&self) -> impl Iterator<Item = &Decided> {
        self.objects.iter().filter(|decided| decided.decision.deletes())
    }
}

/// The time that an archive's store shows, as far as that can be told from its objects; never later than `clock`.
pub fn store_now(catalogue: &Catalogue, clock: UnixMillis) -> UnixMillis {
    let all = catalogue.lineages.values().flat_map(|lineage| &lineage.backups);
    all.map(|entry| entry.modified).max().map_or(clock, |newest| newest.min(clock))
}

/// When an object was written, at the latest; far in the future where the store does not say.
pub fn written(entry: &BackupEntry) -> UnixMillis {
    if entry.modified.0 <= 0 { UnixMillis(i64::MAX) } else { entry.modified.max(entry.name.created) }
}

/// Decides about every object of `catalogue`.
pub fn plan(catalogue: &Catalogue, policy: &RetentionPolicy, covered: &Covered, now: UnixMillis) -> RetentionPlan {
    let mut kept = Kept { reasons: BTreeMap::new(), relied_on: BTreeMap::new() };
    let mut clusters: BTreeMap<ClusterId, Vec<&Lineage>> = BTreeMap::new();
    for lineage in catalogue.lineages.values() {
        clusters.entry(lineage.id.cluster).or_default().push(lineage);
    }
    for lineages in clusters.values() {
        kept.newest_chain(lineages);
        if let Some(within) = policy.keep_within {
            kept.window(lineages, before(now, within), KeepReason::Window);
        }
        if let Some(wanted) = policy.fulls {
            kept.fulls(lineages, |times| fulls::kept(times, wanted, policy.max_backups, now));
            if !policy.delta_retention.is_zero() {
                kept.window(lineages, before(now, policy.delta_retention), KeepReason::DeltaRetention);
            }
        }
        kept.young(lineages, now);
    }
    let mut objects: Vec<Decided> = Vec::new();
    for lineage in catalogue.lineages.values() {
        let orphans = lineage.latest_full().is_none();
        objects.extend(lineage.backups.iter().map(|entry| Decided {
            entry: entry.clone(),
            decision: kept.decide(entry, covered, if orphans { DeleteReason::NoFull } else { DeleteReason::Expired }),
        }));
    }
    objects.sort_by_key(order);
    RetentionPlan { objects, relied_on: kept.relied_on, now }
}

fn before(now: UnixMillis, duration: std::time::Duration) -> UnixMillis {
    UnixMillis(now.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
}

/// The order of deletions: covered deltas, then each lineage from its newest delta to its oldest full; then what stays.
fn order(decided: &Decided) -> (u8, BackupNameOrder) {
    let name = decided.entry.name;
    let (kind, reach) = match name.kind {
        NameKind::Delta { last, .. } => (0, last),
        NameKind::Full { seam } => (1, seam),
    };
    let turn = match decided.decision {
        Decision::Delete(DeleteReason::Covered(_)) => 0,
        Decision::Delete(_) => 1,
        Decision::Keep(_) => 2,
    };
    (turn, (name.lineage, kind, std::cmp::Reverse(reach), std::cmp::Reverse(name)))
}

type BackupNameOrder = (crate::format::LineageId, u8, std::cmp::Reverse<Revision>, std::cmp::Reverse<BackupName>);

/// What policies keep.
struct Kept {
    reasons: BTreeMap<BackupName, KeepReason>,
    relied_on: BTreeMap<ClusterId, Vec<BackupName>>,
}

impl Kept {
    fn keep(&mut self, entry: &BackupEntry, reason: KeepReason) {
        self.reasons.entry(entry.name).or_insert(reason);
    }

    /// Keeps `full`, and what leads on from it.
    fn chain(&mut self, lineage: &Lineage, full: &BackupEntry, reason: KeepReason) {
        let from = seam(full).unwrap_or_default();
        for entry in lineage.backups.iter().filter(|entry| leads_on(entry, from)) {
            self.keep(entry, reason);
        }
        self.keep(full, reason);
        let relied_on = self.relied_on.entry(lineage.id.cluster).or_default();
        if !relied_on.contains(&full.name) {
            relied_on.push(full.name);
        }
    }

    fn newest_chain(&mut self, lineages: &[&Lineage]) {
        let with_full = lineages.iter().filter(|lineage| newest_full(lineage, None).is_some());
        let newest = with_full.max_by_key(|lineage| (lineage.last_written(), lineage.id));
        if let Some((lineage, full)) = newest.and_then(|lineage| Some((lineage, newest_full(lineage, None)?))) {
            self.chain(lineage, full, KeepReason::NewestChain);
        }
    }

    /// Keeps what any revision since `begin` needs.
    fn window(&mut self, lineages: &[&Lineage], begin: UnixMillis, reason: KeepReason) {
        let alive = |lineage: &&&Lineage| lineage.backups.iter().any(|entry| written(entry) > begin);
        let mut needed: Vec<&Lineage> = lineages.iter().filter(alive).copied().collect();
        // The one that "latest" meant when the window began. That it has been written to since (by a rollup, too) says nothing
        // about the others.
        let last_write = |lineage: &Lineage| {
            let by_then = lineage.backups.iter().map(|entry| entry.name.created).filter(|created| *created <= begin);
            (by_then.max(), lineage.id)
        };
        let then = lineages.iter().filter(|lineage| newest_full(lineage, Some(begin)).is_some());
        needed.extend(then.max_by_key(|lineage| last_write(lineage)));
        for lineage in needed {
            match newest_full(lineage, Some(begin)) {
                Some(full) => self.chain(lineage, full, reason),
                None => lineage.backups.iter().for_each(|entry| self.keep(entry, reason)),
            }
            for entry in lineage.backups.iter().filter(|entry| written(entry) > begin) {
                self.keep(entry, reason);
            }
        }
    }

    /// Keeps the fulls, and they alone, that `choose` wants of their times, newest first.
    fn fulls(&mut self, lineages: &[&Lineage], choose: impl Fn(&[UnixMillis]) -> Vec<bool>) {
        let mut fulls: Vec<&BackupEntry> =
            lineages.iter().flat_map(|lineage| &lineage.backups).filter(|entry| seam(entry).is_some()).collect();
        fulls.sort_by_key(|entry| std::cmp::Reverse((written(entry), entry.name)));
        let times: Vec<_> = fulls.iter().map(|entry| written(entry)).collect();
        for (full, wanted) in fulls.into_iter().zip(choose(&times)) {
            if wanted {
                self.keep(full, KeepReason::Fulls);
            }
        }
    }

    /// Keeps what the store gives no date, and what may lack its full only in this listing.
    fn young(&mut self, lineages: &[&Lineage], now: UnixMillis) {
        for lineage in lineages {
            let orphans = lineage.latest_full().is_none();
            for entry in &lineage.backups {
                let unknown = written(entry).0 == i64::MAX;
                if unknown || (orphans && now.0.saturating_sub(written(entry).0) < ORPHANS_MS) {
                    self.keep(entry, KeepReason::Young);
                }
            }
        }
    }

    fn decide(&self, entry: &BackupEntry, covered: &Covered, otherwise: DeleteReason) -> Decision {
        let Some(reason) = self.reasons.get(&entry.name) else { return Decision::Delete(otherwise) };
        match covered.by.get(&entry.name).filter(|_| self.is_replaced(&entry.name, covered)) {
            Some(by) if covered.before.contains(&entry.name) => Decision::Delete(DeleteReason::Covered(*by)),
            Some(by) => Decision::Keep(KeepReason::CoveredOnce(*by)),
            None => Decision::Keep(*reason),
        }
    }

    /// Whether what covers `name`, or covers that in turn, stays.
    fn is_replaced(&self, name: &BackupName, covered: &Covered) -> bool {
        let mut by = name;
        for _ in 0..MAX_REPLACEMENTS {
            match covered.by.get(by) {
                Some(next) if self.reasons.contains_key(next) => by = next,
                Some(_) => return false,
                None => return by != name,
            }
        }
        false
    }
}

/// The full of `lineage` with the greatest seam, of those that were in the store at `by`.
fn newest_full(lineage: &Lineage, by: Option<UnixMillis>) -> Option<&BackupEntry> {
    let there = |entry: &&BackupEntry| by.is_none_or(|by| written(entry) <= by);
    let fulls = lineage.backups.iter().filter(there).filter_map(|entry| Some((seam(entry)?, entry)));
    fulls.max_by_key(|(seam, entry)| (*seam, entry.name)).map(|(_, entry)| entry)
}

fn seam(entry: &BackupEntry) -> Option<Revision> {
    match entry.name.kind {
        NameKind::Full { seam } => Some(seam),
        NameKind::Delta { .. } => None,
    }
}

/// Whether a restore that begins with a full at `from` may read `entry`.
fn leads_on(entry: &BackupEntry, from: Revision) -> bool {
    match entry.name.kind {
        NameKind::Full { seam } => seam > from,
        NameKind::Delta { first, last } if first <= last => last > from,
        NameKind::Delta { last, .. } => last >= from,
    }
}
