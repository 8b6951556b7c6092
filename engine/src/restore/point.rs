//! Which objects lead to a moment of a history, and how a database is made of them: settled by names, sizes and a few
//! footers.

use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};

use crate::archive::{
    Archive, BackupEntry, BackupReader, Catalogue, Chain, ChainTarget, HELD_BYTES, Lineage, OnGap, READ_AHEAD_BYTES,
    ReadLimits, Selection, chain_to, select, select_lineage,
};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BackupName, NameKind, TimeMark};
use crate::replay::{Goal, Learned, last_deletion, moment};
use crate::revision::Revision;
use crate::run::RunContext;

use super::way::{Sizes, Way, WayWanted};

/// Deltas whose footers say what the source was like at the end of a chain.
const TAIL: usize = 4;
/// Deltas whose footers say how well the others are compressed.
const SAMPLES: u64 = 8;
/// Footers that are fetched at once.
const FOOTERS_AHEAD: usize = 8;

/// A moment of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The newest one that the archive holds.
    Newest,
    /// This revision.
    Revision(Revision),
    /// The last one that is known to have been reached at this time.
    At(UnixMillis),
    /// The one before this key was deleted last.
    BeforeDelete(Vec<u8>),
}

/// What the operator wants of an archive.
#[derive(Debug, Clone)]
pub struct PointRequest {
    /// Which history; a backup is restored alone, and goes with [`Target::Newest`] only.
    pub selection: Selection,
    /// Which moment of it.
    pub target: Target,
    /// What to do where revisions are missing before that.
    pub on_gap: OnGap,
    /// How the database is made.
    pub way: WayWanted,
}

impl PointRequest {
    /// The newest moment of what `selection` means.
    pub fn newest(selection: Selection) -> Self {
        Self { selection, target: Target::Newest, on_gap: OnGap::default(), way: WayWanted::default() }
    }
}

/// How a target was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// By its revision.
    Revision,
    /// By the last time mark at or before the time that was asked for.
    Marked {
        /// What was asked for.
        asked: UnixMillis,
        /// The mark.
        mark: TimeMark,
    },
    /// By the revision that deleted the key.
    DeletedAt(Revision),
}

impl Resolved {
    /// The time mark that it was found by.
    pub fn mark(&self) -> Option<TimeMark> {
        match self {
            Self::Marked { mark, .. } => Some(*mark),
            Self::Revision | Self::DeletedAt(_) => None,
        }
    }

    /// The deletion that it was found by.
    pub fn deletion(&self) -> Option<Revision> {
        match self {
            Self::DeletedAt(revision) => Some(*revision),
            Self::Revision | Self::Marked { .. } => None,
        }
    }
}

/// A moment that can be restored: nothing of it but footers has been read.
#[derive(Debug)]
pub struct PointPlan {
    /// What is read.
    pub chain: Chain,
    /// Where that leads.
    pub goal: Goal,
    /// How that was found.
    pub resolved: Resolved,
    /// What decides about the way.
    pub sizes: Sizes,
    /// How the database is made, and why.
    pub way: Way,
    pub(super) reader: BackupReader,
    /// Of the full and the last deltas.
    pub(super) foreseen: Learned,
    pub(super) archive: Archive,
    pub(super) request: PointRequest,
    /// Fulls that have turned out not to reach back far enough.
    pub(super) without: Vec<BackupName>,
}

impl PointPlan {
    /// The opened full.
    pub fn reader(&self) -> &BackupReader {
        &self.reader
    }

    /// The most memory that the replay of its deltas takes beside reading an image, bytes. A rewrite also remembers keys.
    pub(super) fn replay_bytes(&self) -> u64 {
        let stored: u64 = self.chain.deltas.iter().map(|delta| delta.stored_bytes).sum();
        let held = if matches!(self.way, Way::Append) { 0 } else { stored.min(HELD_BYTES) };
        stored.min(READ_AHEAD_BYTES) + held
    }

    /// Whether everything of the restore is named by what was asked for, so that it means the same on every member.
    pub(super) fn is_explicit(request: &PointRequest) -> bool {
        match request.selection {
            Selection::Backup(_) => true,
            Selection::Lineage(_) => matches!(request.target, Target::Revision(_)),
            Selection::Latest => false,
        }
    }

    /// What says the same as the request, where time has gone on: a time or a key is not looked for again.
    pub(super) fn same_point(&self) -> PointRequest {
        let mut request = self.request.clone();
        if let Goal::Exactly(revision) = self.goal {
            request.selection = Selection::Lineage(self.chain.full.name.lineage);
            request.target = Target::Revision(revision);
        }
        request
    }

    /// What says the same as the request, on every member and later.
    pub fn explicit(&self) -> (Selection, Target) {
        match self.goal {
            // Without deltas the image is all there is, and it may reach beyond its name.
            Goal::AtLeast(_) if self.chain.deltas.is_empty() => {
                (Selection::Backup(self.chain.full.name), Target::Newest)
            }
            goal => (Selection::Lineage(self.chain.full.name.lineage), Target::Revision(goal.upto())),
        }
    }
}

/// Plans what `request` asks for: one LIST for each 1,000 objects, then at most 14 footers; more where a time or a deleted
/// key must be found.
///
/// # Errors
/// `NotFound` for what the archive does not hold; `Refused` where revisions are missing, or where the history is not
/// clear; those of reading.
pub(super) async fn plan_point(
    archive: &Archive,
    request: &PointRequest,
    without: Vec<BackupName>,
    (limits, data_dir): (ReadLimits, &Path),
    context: &RunContext,
) -> Result<PointPlan> {
    let catalogue = archive.catalogue().await?;
    let found = match (&request.selection, &request.target) {
        (Selection::Backup(_), _) => {
            let full = select(&catalogue, &request.selection)?.clone();
            let seam = full_seam(&full);
            let chain = Chain { full, deltas: Vec::new(), marks: Vec::new(), reaches: seam, gap: None };
            (chain, Goal::AtLeast(seam), Resolved::Revision)
        }
        (_, Target::Newest) => {
            let lineage = select_lineage(&catalogue, &request.selection)?.without(&without);
            let chain = chain_to(&lineage, ChainTarget::Newest, request.on_gap)?;
            let reaches = chain.reaches;
            (chain, Goal::AtLeast(reaches), Resolved::Revision)
        }
        (_, target) => {
            let (lineage, revision, resolved) = match target {
                Target::At(time) => at(archive, &catalogue, request, *time).await?,
                Target::BeforeDelete(key) => {
                    before_delete(archive, &catalogue, request, key, (limits, data_dir), context).await?
                }
                Target::Revision(revision) => {
                    (select_lineage(&catalogue, &request.selection)?, *revision, Resolved::Revision)
                }
                Target::Newest => return Err(Error::new(ErrorKind::Internal, "the newest moment was not planned")),
            };
            let chain = chain_to(&lineage.without(&without), ChainTarget::Revision(revision), request.on_gap)?;
            let reaches = chain.reaches;
            (chain, Goal::Exactly(reaches), resolved)
        }
    };
    measured(archive, request, without, found).await
}

fn full_seam(full: &BackupEntry) -> Revision {
    match full.name.kind {
        NameKind::Full { seam } => seam,
        NameKind::Delta { first, .. } => first,
    }
}

/// Adds what a few footers tell.
async fn measured(
    archive: &Archive,
    request: &PointRequest,
    without: Vec<BackupName>,
    (chain, goal, resolved): (Chain, Goal, Resolved),
) -> Result<PointPlan> {
    let reader = archive.open_listed(&chain.full).await?;
    let mut foreseen = Learned::of_full(&reader, goal.upto());
    let sampled = sampled(&chain.deltas);
    let mut opened = stream::iter(&sampled).map(|n| archive.open_listed(&chain.deltas[*n])).buffered(FOOTERS_AHEAD);
    let mut sizes = Sizes::of_image(&reader);
    let mut density = Vec::new();
    let mut index = 0;
    while let Some(delta) = opened.try_next().await? {
        let footer = delta.footer();
        foreseen.note(delta.name(), &footer.facts);
        sizes.source_bytes =
            Some(footer.facts.source.db_bytes).filter(|bytes| *bytes > 0).unwrap_or(sizes.source_bytes);
        let stored = chain.deltas[sampled[index]].stored_bytes.max(1);
        density.push(footer.plain_bytes as f64 / stored as f64);
        index += 1;
    }
    drop(opened);
    sizes.add_deltas(&chain, &density);
    let way = Way::choose(&sizes, &chain, request.way);
    let (archive, request) = (archive.clone(), request.clone());
    Ok(PointPlan { chain, goal, resolved, sizes, way, reader, foreseen, archive, request, without })
}

/// The last deltas, and some that stand for all by their bytes; all where there are few. In order.
fn sampled(deltas: &[BackupEntry]) -> Vec<usize> {
    let total: u64 = deltas.iter().map(|delta| delta.stored_bytes).sum();
    let mut chosen: Vec<usize> = (deltas.len().saturating_sub(TAIL)..deltas.len()).collect();
    let mut passed = 0;
    let mut next = 0;
    for (n, delta) in deltas.iter().enumerate() {
        passed += delta.stored_bytes;
        while next < SAMPLES && passed * SAMPLES * 2 > total * (2 * next + 1) {
            chosen.push(n);
            next += 1;
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// The lineage that was alive at `time`, and the revision that it had reached.
async fn at<'c>(
    archive: &Archive,
    catalogue: &'c Catalogue,
    request: &PointRequest,
    time: UnixMillis,
) -> Result<(&'c Lineage, Revision, Resolved)> {
    let mut of_then = catalogue.as_of(time);
    while !of_then.lineages.is_empty() {
        let id = select_lineage(&of_then, &request.selection)?.id;
        let lineage = select_lineage(catalogue, &Selection::Lineage(id))?;
        if let Some(mark) = moment(archive, lineage, time).await? {
            return Ok((lineage, mark.revision, Resolved::Marked { asked: time, mark }));
        }
        // It had begun, and its first full was not there yet.
        if request.selection != Selection::Latest {
            break;
        }
        of_then.lineages.remove(&id);
    }
    let what = format!("the archive does not hold anything of {time}");
    Err(Error::new(ErrorKind::NotFound, what).hint("`etcdbr list` shows when each lineage begins"))
}

async fn before_delete<'c>(
    archive: &Archive,
    catalogue: &'c Catalogue,
    request: &PointRequest,
    key: &[u8],
    (limits, data_dir): (ReadLimits, &Path),
    context: &RunContext,
) -> Result<(&'c Lineage, Revision, Resolved)> {
    let lineage = select_lineage(catalogue, &request.selection)?;
    let dir = data_dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("."));
    let Some(deleted) = last_deletion(archive, lineage, key, (limits, dir), context).await? else {
        let key = String::from_utf8_lossy(key);
        let what = format!("nothing in lineage {} shows that {key} was deleted", lineage.id);
        return Err(Error::new(ErrorKind::NotFound, what).hint(
            "what was compacted before the first backup of the lineage is not known; check the spelling of the key",
        ));
    };
    Ok((lineage, Revision(deleted.0 - 1), Resolved::DeletedAt(deleted)))
}
