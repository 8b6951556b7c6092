//! What one look at an archive finds covered, and what the next one may believe of it.
//!
//! # Why two writers do not cover each other away
//! A delta counts as covered only by a rollup whose footer names it, with the digests that its own footer has; or, among rollups of
//! the same revisions that name the same parts, by the one whose name comes first. Neither leads in a circle. And it must
//! have been found by two looks: between them, whoever removed the rollup would have had to find it covered in turn.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use crate::archive::{Archive, BackupEntry, BackupReader, Catalogue};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BackupName, HistoryDigest, RolledUp};
use crate::retention::{Candidate, Covered};
use crate::run::RunContext;

/// Footers that are fetched at once.
const FOOTERS_AT_ONCE: usize = 8;
/// Rollups whose parts are looked at in one sweep; the next sweep takes the others.
const MAX_ROLLUPS: usize = 400;

/// What earlier sweeps of this process have found. Objects never change, so that what a footer said still holds.
#[derive(Debug, Clone, Default)]
pub struct SweepMemory {
    /// What the last look found covered, and by what.
    covered: BTreeMap<BackupName, BackupName>,
    rollups: BTreeMap<BackupName, Rolled>,
    /// Those that are named by nobody, or cannot be read: not asked again while they are listed.
    unnamed: BTreeSet<(BackupName, BackupName)>,
}

/// A delta's history, and what it was made of.
#[derive(Debug, Clone)]
struct Rolled {
    history: (HistoryDigest, HistoryDigest),
    parts: Vec<RolledUp>,
}

impl Rolled {
    fn of(reader: &BackupReader) -> Self {
        let facts = &reader.footer().facts;
        let parts = facts.capture.rollup.as_ref().map(|rollup| rollup.parts.clone()).unwrap_or_default();
        Self { history: facts.history, parts }
    }
}

impl SweepMemory {
    /// Looks which of `candidates` are covered: reads the footers of those that may cover, and of those that they name.
    ///
    /// # Errors
    /// Those of the store; `Key` where the archive is encrypted and its key is not given.
    pub(super) async fn look(
        &mut self,
        archive: &Archive,
        catalogue: &Catalogue,
        candidates: &[Candidate],
        context: &RunContext,
    ) -> Result<Covered> {
        let listed: BTreeMap<BackupName, &BackupEntry> =
            catalogue.lineages.values().flat_map(|lineage| &lineage.backups).map(|entry| (entry.name, entry)).collect();
        self.rollups.retain(|name, _| listed.contains_key(name));
        self.unnamed.retain(|(narrow, wide)| listed.contains_key(narrow) && listed.contains_key(wide));
        let before = std::mem::take(&mut self.covered);
        self.read_rollups(archive, &listed, candidates, context).await?;
        let named: Vec<(&Candidate, BackupName)> =
            candidates.iter().filter_map(|candidate| Some((candidate, self.names(candidate)?))).collect();
        let mut asked = Vec::new();
        for (candidate, by) in named {
            let narrow = candidate.narrow.name;
            if before.get(&narrow) == Some(&by) {
                self.covered.insert(narrow, by);
            } else {
                asked.push((candidate, by));
            }
        }
        let opening = stream::iter(asked).map(|(candidate, by)| async move {
            Ok::<_, Error>((candidate.narrow.name, by, opened(archive, &candidate.narrow).await?))
        });
        let mut opening = opening.buffered(FOOTERS_AT_ONCE).boxed();
        while let Some((narrow, by, rolled)) = context.unless_stopped(opening.try_next()).await? {
            if rolled.is_some_and(|rolled| self.covers(&by, &narrow, &rolled)) {
                self.covered.insert(narrow, by);
            } else {
                self.unnamed.insert((narrow, by));
            }
        }
        let seen = self.covered.keys().filter(|narrow| before.contains_key(narrow)).copied().collect();
        Ok(Covered { by: self.covered.clone(), before: seen })
    }

    async fn read_rollups(
        &mut self,
        archive: &Archive,
        listed: &BTreeMap<BackupName, &BackupEntry>,
        candidates: &[Candidate],
        context: &RunContext,
    ) -> Result<()> {
        let wide: BTreeSet<BackupName> = candidates.iter().flat_map(|candidate| &candidate.wide).copied().collect();
        let unread = wide.iter().filter(|name| !self.rollups.contains_key(name)).filter_map(|name| listed.get(name));
        let unread: Vec<_> = unread.take(MAX_ROLLUPS).collect();
        let opening = stream::iter(unread).map(|entry| async { Ok((entry.name, opened(archive, entry).await?)) });
        let mut opening = opening.buffered(FOOTERS_AT_ONCE).boxed();
        while let Some((name, rolled)) = context.unless_stopped(opening.try_next()).await? {
            if let Some(rolled) = rolled {
                self.rollups.insert(name, rolled);
            }
        }
        Ok(())
    }

    /// The one that says of itself that it holds `candidate`, or that may be its double.
    fn names(&self, candidate: &Candidate) -> Option<BackupName> {
        let narrow = candidate.narrow.name;
        let may = |wide: &&BackupName| {
            !self.unnamed.contains(&(narrow, **wide))
                && self.rollups.get(*wide).is_some_and(|rolled| {
                    let named = rolled.parts.iter().any(|part| part.name(narrow.lineage) == narrow);
                    named || (wide.kind == narrow.kind && **wide < narrow && !rolled.parts.is_empty())
                })
        };
        candidate.wide.iter().find(may).copied()
    }

    /// Whether `by` holds all of `narrow`, whose footer gave `rolled`.
    fn covers(&self, by: &BackupName, narrow: &BackupName, rolled: &Rolled) -> bool {
        let Some(wide) = self.rollups.get(by) else { return false };
        if let Some(part) = wide.parts.iter().find(|part| part.name(narrow.lineage) == *narrow) {
            return part.history == rolled.history;
        }
        let same_parts = !rolled.parts.is_empty() && rolled.parts.iter().all(|part| wide.parts.contains(part));
        by.kind == narrow.kind && by < narrow && wide.history == rolled.history && same_parts
    }
}

/// What the footer of `entry` tells; `None` where it is gone or damaged.
async fn opened(archive: &Archive, entry: &BackupEntry) -> Result<Option<Rolled>> {
    match archive.open_listed(entry).await {
        Ok(reader) => Ok(Some(Rolled::of(&reader))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Damaged | ErrorKind::Invalid) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::format::{LineageId, NameKind, ObjectNonce};
    use crate::revision::{ClusterId, Revision};

    const LINEAGE: LineageId = LineageId { birth: UnixMillis(1), cluster: ClusterId(1), random: 1 };

    fn digests(before: u8, after: u8) -> (HistoryDigest, HistoryDigest) {
        (HistoryDigest([before; 32]), HistoryDigest([after; 32]))
    }

    fn part(first: i64, last: i64, history: (HistoryDigest, HistoryDigest)) -> RolledUp {
        let nonce = ObjectNonce([first as u8; 8]);
        RolledUp { revisions: (Revision(first), Revision(last)), created: UnixMillis(last), nonce, history }
    }

    fn wide(nonce: u8) -> BackupName {
        let kind = NameKind::Delta { first: Revision(11), last: Revision(14) };
        BackupName { lineage: LINEAGE, kind, created: UnixMillis(14), nonce: ObjectNonce([nonce; 8]) }
    }

    fn parts() -> Vec<RolledUp> {
        vec![part(11, 12, digests(1, 2)), part(13, 14, digests(2, 3))]
    }

    fn memory(rollups: &[(BackupName, Rolled)]) -> SweepMemory {
        SweepMemory { rollups: rollups.iter().cloned().collect(), ..SweepMemory::default() }
    }

    #[test]
    fn a_delta_of_another_history_than_the_rollup_read_is_not_covered() {
        let memory = memory(&[(wide(50), Rolled { history: digests(1, 3), parts: parts() })]);
        let narrow = parts()[0].name(LINEAGE);
        let has = |history| memory.covers(&wide(50), &narrow, &Rolled { history, parts: Vec::new() });
        assert!(has(digests(1, 2)));
        assert!(!has(digests(1, 9)) && !has(digests(9, 2)));
        let unnamed = part(12, 13, digests(1, 2)).name(LINEAGE);
        assert!(!memory.covers(&wide(50), &unnamed, &Rolled { history: digests(1, 2), parts: Vec::new() }));
    }

    #[test]
    fn of_two_rollups_of_the_same_the_later_name_is_covered_and_only_where_they_are_of_one_history() {
        let rolled = |history| Rolled { history, parts: parts() };
        let memory = memory(&[(wide(50), rolled(digests(1, 3))), (wide(51), rolled(digests(1, 3)))]);
        assert!(memory.covers(&wide(50), &wide(51), &rolled(digests(1, 3))));
        assert!(!memory.covers(&wide(51), &wide(50), &rolled(digests(1, 3))), "in a circle");
        assert!(!memory.covers(&wide(50), &wide(51), &rolled(digests(1, 9))));
        let fewer = Rolled { history: digests(1, 3), parts: vec![part(11, 14, digests(1, 3))] };
        assert!(!memory.covers(&wide(50), &wide(51), &fewer), "made of something else");
    }
}
