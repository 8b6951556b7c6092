//! Where capture stands in a lineage, and by what it can prove that a watch goes on from there.
//!
//! A revision number says nothing about *which* history it belongs to: a cluster that was restored from a backup uses
//! the same numbers again, and often the same ids. What tells histories apart is what they hold. So a trail keeps
//! digests of the history at places far enough back: a watch that is opened there must give records that fold from
//! one of them into the last one.

use std::collections::VecDeque;

use crate::etcd::Standing;
use crate::format::{HistoryDigest, LineageId, Seam, SeamProof};
use crate::revision::Revision;

/// So many revisions are given anew, and compared, before anything is appended to a lineage; fewer only where they
/// reach back to its seam.
const PROVEN_REVISIONS: i64 = 256;

/// A digest of the history at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The revision.
    pub revision: Revision,
    /// D of it.
    pub digest: HistoryDigest,
}

/// A position in a lineage, with anchors behind it.
#[derive(Debug, Clone)]
pub struct Trail {
    /// The lineage.
    pub lineage: LineageId,
    /// Where its first full meets it.
    pub seam: Seam,
    /// Whatever any member said of the cluster; it can only have grown since.
    pub standing: Standing,
    /// Oldest first, never empty: the last one is the position.
    anchors: VecDeque<Anchor>,
}

impl Trail {
    /// At the seam of a lineage's first full, behind which nothing is known yet.
    pub fn at_seam(lineage: LineageId, seam: Seam, standing: Standing) -> Self {
        let start = Anchor { revision: seam.revision, digest: HistoryDigest::at_seam(&lineage, seam.revision) };
        Self { lineage, seam, standing, anchors: VecDeque::from([start]) }
    }

    /// As the footers of a lineage tell it: `seam` and D of it are those of its newest full; `anchors` follow, and reach
    /// back to the seam where they are all.
    pub(super) fn read(
        lineage: LineageId,
        (seam, digest): (Seam, HistoryDigest),
        standing: Standing,
        anchors: impl IntoIterator<Item = Anchor>,
        reach: Reach,
    ) -> Self {
        let start = Anchor { revision: seam.revision, digest };
        let mut trail = Self { lineage, seam, standing, anchors: VecDeque::from([start]) };
        let mut anchors: Vec<_> = anchors.into_iter().collect();
        // Deltas may overlap, and begin inside the full.
        anchors.retain(|anchor| anchor.revision > trail.seam.revision);
        anchors.sort_unstable_by_key(|anchor| anchor.revision);
        anchors.dedup();
        if reach == Reach::Tail && !anchors.is_empty() {
            trail.anchors.clear();
        }
        anchors.into_iter().for_each(|anchor| trail.advance(anchor));
        trail
    }

    /// The last revision, and D of it.
    pub fn position(&self) -> Anchor {
        *self.anchors.back().expect("a trail is never empty")
    }

    /// Goes on to `anchor`, which is later.
    pub fn advance(&mut self, anchor: Anchor) {
        self.anchors.push_back(anchor);
        // The first of the two is needed only while the second is not far enough back.
        while self.anchors.get(1).is_some_and(|second| second.revision.0 <= anchor.revision.0 - PROVEN_REVISIONS) {
            self.anchors.pop_front();
        }
    }

    /// What was learned of the cluster meanwhile.
    pub fn learn(&mut self, standing: Standing) {
        let known = &mut self.standing;
        known.revision = known.revision.max(standing.revision);
        known.raft_term = known.raft_term.max(standing.raft_term);
        known.raft_index = known.raft_index.max(standing.raft_index);
    }

    /// Where a watch must begin to prove itself: the anchor behind it. At the seam the seam's own records count too.
    pub fn proof_start(&self) -> ProofStart {
        let oldest = *self.anchors.front().expect("a trail is never empty");
        if oldest.revision == self.seam.revision && self.seam.proof == SeamProof::Proven {
            ProofStart::Seam(oldest)
        } else {
            ProofStart::Behind(oldest)
        }
    }
}

/// How far back the anchors of a lineage were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// To its seam.
    Seam,
    /// Not all of them.
    Tail,
}

/// Where a proof begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofStart {
    /// With the records of the seam, which must be those that it holds.
    Seam(Anchor),
    /// With the revision behind this anchor.
    Behind(Anchor),
}

impl ProofStart {
    /// The first revision that the watch must give.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Seam(anchor) => anchor.revision,
            Self::Behind(anchor) => anchor.revision.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::revision::ClusterId;

    fn anchor(revision: i64) -> Anchor {
        Anchor { revision: Revision(revision), digest: HistoryDigest([revision as u8; 32]) }
    }

    fn trail(proof: SeamProof) -> Trail {
        let lineage = LineageId { birth: UnixMillis(1), cluster: ClusterId(1), random: 1 };
        let seam = Seam { revision: Revision(10), records: Vec::new(), proof };
        let standing = Standing { cluster: ClusterId(1), revision: Revision(10), raft_term: 2, raft_index: 20 };
        Trail::at_seam(lineage, seam, standing)
    }

    #[test]
    fn a_young_trail_is_proven_from_its_seam() {
        let mut young = trail(SeamProof::Proven);
        assert_eq!(young.proof_start().revision(), Revision(10));
        young.advance(anchor(100));
        assert_eq!(young.proof_start().revision(), Revision(10));
        assert_eq!(young.position(), anchor(100));
        let mut unproven = trail(SeamProof::Unproven);
        unproven.advance(anchor(100));
        assert_eq!(unproven.proof_start().revision(), Revision(11));
    }

    #[test]
    fn an_old_trail_keeps_enough_and_no_more() {
        let mut old = trail(SeamProof::Proven);
        for revision in (20..=5000).step_by(20) {
            old.advance(anchor(revision));
            let behind = revision - old.anchors[0].revision.0;
            assert!(behind >= PROVEN_REVISIONS.min(revision - 10) && behind < PROVEN_REVISIONS + 20, "{revision}");
        }
        assert!(matches!(old.proof_start(), ProofStart::Behind(_)));
        assert!(old.anchors.len() < 16);
    }
}
