//! Which objects lead to a revision: a full, and the fewest deltas that follow it without a gap. A pure decision.
//!
//! Within one lineage a revision's content is a fact, so overlapping and doubled deltas are redundant, never
//! contradictory: the one that reaches farthest is taken. That they agree is proven by their history digests when they
//! are read.

use super::catalogue::{BackupEntry, Lineage};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::format::NameKind;
use crate::revision::Revision;

/// Where a chain shall lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainTarget {
    /// The newest revision of the lineage.
    Newest,
    /// This one.
    Revision(Revision),
}

/// What to do about revisions that are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnGap {
    /// Nothing is restored.
    #[default]
    Refuse,
    /// What lies before them is.
    StopBefore,
}

/// Revisions that no object of a lineage holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gap {
    /// The first missing one.
    pub first: Revision,
    /// The last missing one.
    pub last: Revision,
}

/// A full and the deltas that lead on from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Where it begins.
    pub full: BackupEntry,
    /// What follows, in order of revisions.
    pub deltas: Vec<BackupEntry>,
    /// Objects without records that lie before its end, oldest first: they know of leases and compactions.
    pub marks: Vec<BackupEntry>,
    /// The revision that it leads to. Where it is below the full's seam, or inside the full, the full's image is cut.
    pub reaches: Revision,
    /// What stopped it before its target.
    pub gap: Option<Gap>,
}

impl Chain {
    /// The seam of its full.
    pub fn seam(&self) -> Revision {
        seam(&self.full).unwrap_or(Revision::EMPTY)
    }

    /// Its objects: those with data, then those without.
    pub fn objects(&self) -> impl Iterator<Item = &BackupEntry> {
        std::iter::once(&self.full).chain(&self.deltas).chain(&self.marks)
    }

    /// Bytes of all its objects.
    pub fn stored_bytes(&self) -> u64 {
        self.objects().map(|entry| entry.stored_bytes).sum()
    }
}

/// The chain of `lineage` that leads to `target`.
///
/// # Errors
/// `Refused` for a gap, naming the missing revisions; `NotFound` for a target that the lineage does not reach, and for a
/// lineage without a full.
pub fn chain_to(lineage: &Lineage, target: ChainTarget, on_gap: OnGap) -> Result<Chain> {
    let goal = match target {
        ChainTarget::Newest => newest(lineage),
        ChainTarget::Revision(revision) => Some(revision),
    };
    let (Some(full), Some(goal)) = (base(lineage, goal), goal) else {
        let what = format!("the archive does not hold a full in lineage {}", lineage.id);
        return Err(Error::new(ErrorKind::NotFound, what).hint("`etcdbr list` shows what is there"));
    };
    let (deltas, reached) = cover(lineage, seam(full).unwrap_or(Revision::EMPTY), goal);
    let mut chain = Chain { full: full.clone(), deltas, marks: Vec::new(), reaches: reached.min(goal), gap: None };
    if reached < goal {
        let Some(gap) = gap_behind(lineage, reached) else {
            let what = format!("lineage {} ends at revision {reached}: it does not reach {goal}", lineage.id);
            return Err(Error::new(ErrorKind::NotFound, what).hint("ask for that revision, or an earlier one"));
        };
        if on_gap == OnGap::Refuse {
            let what = format!("revisions {} to {} are missing in lineage {}", gap.first, gap.last, lineage.id);
            return Err(Error::new(ErrorKind::Refused, what).hint(format!(
                "--allow-partial stops at revision {reached}, before them; `etcdbr list` shows all gaps"
            )));
        }
        chain.gap = Some(gap);
    }
    chain.marks = marks(lineage, chain.reaches);
    Ok(chain)
}

/// What follows `full`, one of `lineage`, up to `goal`, or as far as there is anything: without a gap, or up to one.
pub fn chain_from(lineage: &Lineage, full: &BackupEntry, goal: Option<Revision>) -> Chain {
    let from = seam(full).unwrap_or(Revision::EMPTY);
    let goal = goal.or_else(|| newest(lineage)).unwrap_or(from).max(from);
    let (deltas, reached) = cover(lineage, from, goal);
    let reaches = reached.min(goal);
    let gap = (reached < goal).then(|| gap_behind(lineage, reached)).flatten();
    Chain { full: full.clone(), deltas, marks: marks(lineage, reaches), reaches, gap }
}

/// The revisions that are missing behind `reached`; `None` where there is nothing behind them.
fn gap_behind(lineage: &Lineage, reached: Revision) -> Option<Gap> {
    let begins = ranges(lineage).map(|(first, _, _)| first).chain(seams(lineage).map(|(seam, _)| seam));
    let next = begins.filter(|first| *first > reached.next()).min()?;
    Some(Gap { first: reached.next(), last: Revision(next.0 - 1) })
}

/// Revisions of a lineage that can be restored, each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The seam of a full.
    pub first: Revision,
    /// As far as the deltas lead on from there.
    pub last: Revision,
    /// When that full was begun, by its name.
    pub from: UnixMillis,
    /// The last time that an object tells of the end, by its name.
    pub until: UnixMillis,
}

/// What can be restored of `lineage`, in order; between two windows revisions are missing. None where it has no full.
///
/// An image may reach a little further, on both sides, than the seam that its name tells.
pub fn windows(lineage: &Lineage) -> Vec<Window> {
    let mut fulls: Vec<_> = seams(lineage).collect();
    fulls.sort_unstable_by_key(|(seam, full)| (*seam, full.name));
    let end = newest(lineage).unwrap_or_default();
    let mut windows: Vec<Window> = Vec::new();
    for (seam, full) in fulls {
        if windows.last().is_some_and(|window| seam <= window.last) {
            continue;
        }
        let last = cover(lineage, seam, end).1;
        let told = lineage.backups.iter().filter(|entry| (seam..=last).contains(&told_last(entry)));
        let from = full.name.created;
        let until = told.map(|entry| entry.name.created).max().unwrap_or(from);
        windows.push(Window { first: seam, last, from, until });
    }
    windows
}

/// The last revision that an object tells about, by its name.
fn told_last(entry: &BackupEntry) -> Revision {
    match entry.name.kind {
        NameKind::Full { seam } => seam,
        NameKind::Delta { last, .. } => last,
    }
}

/// The revisions that are missing between the first full of `lineage` and its end.
pub fn gaps(lineage: &Lineage) -> Vec<Gap> {
    let mut have: Vec<_> = ranges(lineage).map(|(first, last, _)| (first, last)).collect();
    have.extend(seams(lineage).map(|(revision, _)| (revision, revision)));
    have.sort_unstable();
    let mut gaps = Vec::new();
    let mut reached = have.first().map_or(Revision::EMPTY, |(first, _)| Revision(first.0 - 1));
    for (first, last) in have {
        if first > reached.next() {
            gaps.push(Gap { first: reached.next(), last: Revision(first.0 - 1) });
        }
        reached = reached.max(last);
    }
    gaps
}

/// The newest full that does not lie behind `goal`; where all do, the oldest, whose image may reach back to it.
fn base(lineage: &Lineage, goal: Option<Revision>) -> Option<&BackupEntry> {
    let before = seams(lineage).filter(|(seam, _)| goal.is_none_or(|goal| *seam <= goal));
    before
        .max_by_key(|(seam, full)| (*seam, full.name))
        .or_else(|| seams(lineage).min_by_key(|(seam, full)| (*seam, full.name)))
        .map(|found| found.1)
}

/// The fewest deltas of `lineage` that lead from `seam` to `goal`, and how far they do.
///
/// The one that reaches farthest is taken each time, and no other choice could do with fewer: whatever another one covers
/// up to its end, this one does too. Of several that reach as far the narrowest is taken, because more of it is new; of
/// equal ones the one that was begun last, because it may know more.
pub fn cover(lineage: &Lineage, seam: Revision, goal: Revision) -> (Vec<BackupEntry>, Revision) {
    let mut all: Vec<_> = ranges(lineage).collect();
    all.sort_unstable_by_key(|(first, last, entry)| (*first, *last, entry.name));
    let (mut chosen, mut reached, mut next) = (Vec::new(), seam, 0);
    let mut farthest: Option<(Revision, &BackupEntry)> = None;
    while reached < goal {
        while let Some((_, last, entry)) = all.get(next).filter(|(first, _, _)| *first <= reached.next()) {
            let rank = |entry: &BackupEntry| (entry.name.kind, entry.name.created, entry.name.nonce);
            if farthest.is_none_or(|(_, best)| rank(entry) > rank(best)) {
                farthest = Some((*last, entry));
            }
            next += 1;
        }
        match farthest.filter(|(last, _)| *last > reached) {
            Some((last, entry)) => {
                chosen.push(entry.clone());
                reached = last;
            }
            None => break,
        }
    }
    (chosen, reached)
}

/// Objects without records at or before `reaches`, oldest first.
fn marks(lineage: &Lineage, reaches: Revision) -> Vec<BackupEntry> {
    let is_mark = |entry: &&BackupEntry| match entry.name.kind {
        NameKind::Delta { first, last } => first > last && last <= reaches,
        NameKind::Full { .. } => false,
    };
    // A lineage has its backups in order of time.
    lineage.backups.iter().filter(is_mark).cloned().collect()
}

/// The greatest revision that any object holds.
fn newest(lineage: &Lineage) -> Option<Revision> {
    ranges(lineage).map(|(_, last, _)| last).chain(seams(lineage).map(|(seam, _)| seam)).max()
}

/// First, last and entry of every delta that holds records.
fn ranges(lineage: &Lineage) -> impl Iterator<Item = (Revision, Revision, &BackupEntry)> {
    lineage.backups.iter().filter_map(|entry| match entry.name.kind {
        NameKind::Delta { first, last } if first <= last => Some((first, last, entry)),
        _ => None,
    })
}

fn seams(lineage: &Lineage) -> impl Iterator<Item = (Revision, &BackupEntry)> {
    lineage.backups.iter().filter_map(|entry| seam(entry).map(|seam| (seam, entry)))
}

fn seam(entry: &BackupEntry) -> Option<Revision> {
    match entry.name.kind {
        NameKind::Full { seam } => Some(seam),
        NameKind::Delta { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::{BackupName, LineageId, ObjectNonce};
    use crate::revision::ClusterId;

    fn id() -> LineageId {
        LineageId { birth: UnixMillis(1_763_724_000_000), cluster: ClusterId(1), random: 1 }
    }

    fn lineage(seams: &[i64], deltas: &[(i64, i64)]) -> Lineage {
        let fulls = seams.iter().map(|seam| NameKind::Full { seam: Revision(*seam) });
        let deltas =
            deltas.iter().map(|(first, last)| NameKind::Delta { first: Revision(*first), last: Revision(*last) });
        let entry = |(n, kind): (usize, NameKind)| BackupEntry {
            name: BackupName {
                lineage: id(),
                kind,
                created: UnixMillis(1_763_724_000_000 + n as i64),
                nonce: ObjectNonce([n as u8; 8]),
            },
            stored_bytes: 10,
            modified: UnixMillis(0),
        };
        Lineage { id: id(), backups: fulls.chain(deltas).enumerate().map(entry).collect() }
    }

    fn ranges_of(chain: &Chain) -> Vec<(i64, i64)> {
        chain
            .deltas
            .iter()
            .map(|entry| match entry.name.kind {
                NameKind::Delta { first, last } => (first.0, last.0),
                NameKind::Full { .. } => panic!("a full among the deltas"),
            })
            .collect()
    }

    fn to(lineage: &Lineage, revision: i64) -> Result<Chain> {
        chain_to(lineage, ChainTarget::Revision(Revision(revision)), OnGap::Refuse)
    }

    #[test]
    fn the_fewest_objects_that_cover_are_taken() {
        let lineage = lineage(&[10], &[(11, 12), (13, 14), (11, 20), (15, 22), (21, 30), (11, 20), (29, 29)]);
        let chain = chain_to(&lineage, ChainTarget::Newest, OnGap::Refuse).unwrap();
        assert_eq!((ranges_of(&chain), chain.reaches), (vec![(11, 20), (21, 30)], Revision(30)));
        assert_eq!(ranges_of(&to(&lineage, 20).unwrap()), [(11, 20)]);
        assert_eq!(ranges_of(&to(&lineage, 21).unwrap()), [(11, 20), (21, 30)]);
        assert_eq!(to(&lineage, 21).unwrap().reaches, Revision(21));
        assert_eq!(ranges_of(&to(&lineage, 10).unwrap()), []);
    }

    #[test]
    fn a_delta_that_begins_inside_the_full_follows_it() {
        let lineage = lineage(&[10], &[(8, 12), (12, 15)]);
        assert_eq!(ranges_of(&to(&lineage, 15).unwrap()), [(8, 12), (12, 15)]);
    }

    #[test]
    fn the_newest_full_before_the_target_is_the_base() {
        let lineage = lineage(&[10, 20], &[(11, 25)]);
        assert_eq!(to(&lineage, 19).unwrap().seam(), Revision(10));
        assert_eq!(to(&lineage, 20).unwrap().seam(), Revision(20));
        assert_eq!(to(&lineage, 25).unwrap().seam(), Revision(20));
        // The image of the oldest full may reach back.
        let chain = to(&lineage, 4).unwrap();
        assert_eq!((chain.seam(), chain.deltas.len(), chain.reaches), (Revision(10), 0, Revision(4)));
    }

    #[test]
    fn a_gap_is_refused_with_what_is_missing() {
        let lineage = lineage(&[10], &[(11, 12), (16, 20)]);
        let error = chain_to(&lineage, ChainTarget::Newest, OnGap::Refuse).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("revisions 13 to 15 are missing"), "{error}");
        let chain = chain_to(&lineage, ChainTarget::Newest, OnGap::StopBefore).unwrap();
        assert_eq!((chain.reaches, chain.gap), (Revision(12), Some(Gap { first: Revision(13), last: Revision(15) })));
        assert_eq!(to(&lineage, 12).unwrap().gap, None);
        assert_eq!(gaps(&lineage), [Gap { first: Revision(13), last: Revision(15) }]);
    }

    #[test]
    fn what_lies_between_two_fulls_is_missing_too() {
        let lineage = lineage(&[10, 20], &[(11, 12), (21, 30)]);
        let error = to(&lineage, 15).unwrap_err();
        assert!(error.to_string().contains("revisions 13 to 19 are missing"), "{error}");
        let fulls: Vec<_> = seams(&lineage).map(|(_, full)| full).collect();
        let first = chain_from(&lineage, fulls[0], Some(Revision(20)));
        assert_eq!((ranges_of(&first), first.reaches), (vec![(11, 12)], Revision(12)));
        assert_eq!(first.gap, Some(Gap { first: Revision(13), last: Revision(19) }));
        let second = chain_from(&lineage, fulls[1], None);
        assert_eq!((ranges_of(&second), second.reaches, second.gap), (vec![(21, 30)], Revision(30), None));
    }

    #[test]
    fn windows_are_what_lies_between_gaps() {
        let span = |window: &Window| (window.first.0, window.last.0, window.from.0 % 1000, window.until.0 % 1000);
        let spans = |lineage: &Lineage| windows(lineage).iter().map(span).collect::<Vec<_>>();
        // Fulls 0 to 2, then deltas 3 to 8; the last one marks time.
        let deltas = [(8, 12), (13, 25), (21, 22), (30, 31), (41, 45), (46, 45)];
        assert_eq!(spans(&lineage(&[10, 20, 40], &deltas)), [(10, 25, 0, 5), (40, 45, 2, 8)]);
        assert_eq!(spans(&lineage(&[10], &[])), [(10, 10, 0, 0)]);
        assert_eq!(spans(&lineage(&[], &[(2, 3)])), []);
    }

    #[test]
    fn a_revision_that_was_never_captured_is_not_found() {
        let lineage = lineage(&[10], &[(11, 12)]);
        assert_eq!(to(&lineage, 13).unwrap_err().kind(), ErrorKind::NotFound);
        let none = Lineage { backups: lineage.backups[1..].to_vec(), ..lineage };
        assert_eq!(to(&none, 12).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn objects_that_only_mark_time_extend_nothing() {
        let lineage = lineage(&[10], &[(11, 12), (13, 12), (16, 15)]);
        let chain = chain_to(&lineage, ChainTarget::Newest, OnGap::Refuse).unwrap();
        assert_eq!((chain.reaches, chain.deltas.len(), chain.marks.len()), (Revision(12), 1, 1));
        assert_eq!(gaps(&lineage), []);
    }

    proptest! {
        /// Against the naive answer: the revisions that are there, one by one.
        #[test]
        fn a_chain_covers_every_revision_or_there_is_a_gap(
            deltas in proptest::collection::vec((1..40_i64, 0..10_i64), 0..20),
            target in 10..50_i64,
        ) {
            let deltas: Vec<_> = deltas.into_iter().map(|(first, more)| (first, first + more)).collect();
            let lineage = lineage(&[10], &deltas);
            let has = |revision| deltas.iter().any(|(first, last)| (*first..=*last).contains(&revision));
            let whole = (11..=target).all(has);
            match to(&lineage, target) {
                Ok(chain) => {
                    prop_assert!(whole);
                    let mut reached = 10;
                    for (first, last) in ranges_of(&chain) {
                        prop_assert!(first <= reached + 1 && last > reached && reached < target);
                        reached = last;
                    }
                    prop_assert!(reached >= target);
                    // As far as any choice of so many deltas leads, one more each time.
                    let (mut far, mut fewest) = (10, 0);
                    while far < target {
                        let ends = deltas.iter().filter(|(first, _)| *first <= far + 1).map(|(_, last)| *last);
                        far = ends.max().unwrap_or(far);
                        fewest += 1;
                    }
                    prop_assert_eq!(chain.deltas.len(), fewest);
                }
                Err(_) => prop_assert!(!whole),
            }
            for gap in gaps(&lineage) {
                prop_assert!((gap.first.0..=gap.last.0).all(|revision| !has(revision)));
            }
        }
    }
}
