//! The database of a moment, in a stage: image and records, proven.

use crate::archive::ReadLimits;
use crate::datadir::{Ending, Examined, Extent, Image, LeaseChanges, Scratch, Scrutiny, StagedDataDir, TakesImage};
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::{Event, Phase};
use crate::replay::{
    Goal, Learned, Proof, Proving, Replayed, Rewriting, Stretch, Thoroughness, append, learn_marks, move_image, prove,
    rewrite, told_behind,
};
use crate::revision::Revision;
use crate::run::{RunContext, blocking};

use super::point::PointPlan;
use super::way::Way;

/// A stage whose database is that of a moment.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) stage: StagedDataDir,
    pub(super) image: Image,
    pub(super) examined: Examined,
    pub(super) proof: Proof,
    pub(super) ending: Ending,
    pub(super) replayed: Replayed,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Setback {
    /// For good.
    Failed(Error),
    /// An object is gone since it was listed.
    Gone(Error),
    /// The image is compacted behind the moment, at this revision.
    BelowFloor(Revision),
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// How it is made.
#[derive(Clone, Copy)]
pub(super) struct Making<'a> {
    pub(super) plan: &'a PointPlan,
    pub(super) limits: ReadLimits,
    pub(super) thoroughness: Thoroughness,
    pub(super) missing_ttl_s: i64,
    pub(super) context: &'a RunContext,
}

/// Makes the database of a plan in `stage`.
pub(super) async fn stage_database(stage: StagedDataDir, making: Making<'_>) -> Result<Staged, Setback> {
    let Making { plan, context, .. } = making;
    let learned = Learned::of_full(&plan.reader, plan.goal.upto());
    let marks = learn_marks(&plan.archive, &plan.chain.full, &plan.chain.marks, learned);
    let learned = context.unless_stopped(marks).await?;
    let (mut staged, expected) = match plan.way {
        Way::Append => appended(stage, learned, making).await?,
        Way::RewriteAsked | Way::RewriteChurned => rewritten(stage, learned, making).await?,
    };
    let reached = staged.examined.facts.revision;
    if reached != expected {
        let what = format!("the restored database is at revision {reached}, not at {expected}");
        return Err(Error::new(ErrorKind::Internal, what).into());
    }
    look_for_leases(&mut staged, plan, context).await?;
    Ok(staged)
}

/// Looks behind the moment for leases that live keys name and of which nothing up to there tells. Behind the newest one there
/// is nothing to be looked at.
async fn look_for_leases(staged: &mut Staged, plan: &PointPlan, context: &RunContext) -> Result<()> {
    let leases = &mut staged.ending.leases;
    let mut missing = staged.examined.missing_leases();
    missing.retain(|id| !leases.later.contains_key(id) && !leases.granted.contains_key(id));
    if missing.is_empty() || matches!(plan.goal, Goal::AtLeast(_)) {
        return Ok(());
    }
    let catalogue = context.unless_stopped(plan.archive.catalogue()).await?;
    let Some(lineage) = catalogue.lineages.get(&plan.chain.full.name.lineage) else { return Ok(()) };
    let upto = staged.examined.facts.revision;
    let told = context.unless_stopped(told_behind(&plan.archive, lineage, upto, &missing)).await?;
    leases.later.extend(told);
    Ok(())
}

async fn appended(stage: StagedDataDir, learned: Learned, making: Making<'_>) -> Result<(Staged, Revision), Setback> {
    let Making { plan, limits, thoroughness, missing_ttl_s, context } = making;
    let mut stage = move_image(&plan.reader, limits, stage, Phase::Restore, context).await?;
    let extent;
    (stage, extent) = extent_of(stage).await?;
    let reached = reachable(plan.goal, &extent)?;
    // What is cut off later is proven with the rest: nobody answers for the image as it is then.
    let mut whole = None;
    if reached < extent.revision {
        let proven = prove(stage, Proving::of_full(&plan.reader, thoroughness), context).await?;
        stage = proven.0;
        whole = Some(proven.3);
    }
    let (stage, replayed, leases) = if plan.chain.deltas.is_empty() && whole.is_none() && plan.chain.marks.is_empty() {
        (stage, Replayed { learned, records: 0 }, LeaseChanges { missing_ttl_s, ..LeaseChanges::default() })
    } else {
        begin_replay(plan, context);
        let grown = append(stage, stretch(plan, limits), plan.goal, learned, missing_ttl_s, context).await?;
        context.monitor.tell(Event::End(Phase::Replay));
        grown
    };
    let answers = if whole.is_some() { Vec::new() } else { replayed.learned.answers(reached) };
    let proving = Proving { promised: reached, answers, ..Proving::of_full(&plan.reader, thoroughness) };
    let (stage, image, examined, proof) = prove(stage, proving, context).await?;
    let ending = Ending { compact: replayed.learned.compact_revision(), leases, bump: None };
    Ok((Staged { stage, image, examined, proof: whole.unwrap_or(proof), ending, replayed }, reached))
}

async fn rewritten(stage: StagedDataDir, learned: Learned, making: Making<'_>) -> Result<(Staged, Revision), Setback> {
    let Making { plan, limits, thoroughness, missing_ttl_s, context } = making;
    let (stage, scratch) = blocking(move || {
        let scratch = stage.scratch()?;
        Ok((stage, scratch))
    })
    .await?;
    let scratch: Scratch = move_image(&plan.reader, limits, scratch, Phase::Restore, context).await?;
    let (scratch, extent) = extent_of(scratch).await?;
    let reached = reachable(plan.goal, &extent)?;
    let full = thoroughness == Thoroughness::Full;
    let rewriting = Rewriting {
        goal: plan.goal,
        compact: plan.foreseen.compact_revision().max(learned.compact_revision()),
        answer: plan.foreseen.newest_answer(reached).filter(|_| full),
        scrutiny: if full { Scrutiny::Strict } else { Scrutiny::Readable },
        missing_ttl_s,
    };
    begin_replay(plan, context);
    // It reads them twice.
    let archive = plan.archive.holding();
    let deltas = Stretch { archive: &archive, ..stretch(plan, limits) };
    let done = rewrite(stage, scratch, deltas, rewriting, learned, context).await?;
    context.monitor.tell(Event::End(Phase::Replay));
    let proving = Proving { promised: reached, answers: Vec::new(), ..Proving::of_full(&plan.reader, thoroughness) };
    let (stage, image, examined, mut proof) = prove(done.stage, proving, context).await?;
    if full {
        proof.hash_kv = done.hash_kv;
    }
    let ending = Ending { compact: done.replayed.learned.compact_revision(), leases: done.leases, bump: None };
    Ok((Staged { stage, image, examined, proof, ending, replayed: done.replayed }, reached))
}

fn stretch(plan: &PointPlan, limits: ReadLimits) -> Stretch<'_> {
    let PointPlan { archive, reader, chain, goal, .. } = plan;
    Stretch { archive, full: reader, deltas: &chain.deltas, upto: goal.upto(), limits }
}

fn begin_replay(plan: &PointPlan, context: &RunContext) {
    context.monitor.tell(Event::Begin { phase: Phase::Replay, total_bytes: plan.sizes.plain_bytes });
}

/// How far the image that `taker` has reaches.
async fn extent_of<T: TakesImage + Send + 'static>(mut taker: T) -> Result<(T, Extent)> {
    blocking(move || {
        let extent = taker.image()?.extent()?;
        Ok((taker, extent))
    })
    .await
}

/// Where `goal` leads from an image.
fn reachable(goal: Goal, image: &Extent) -> Result<Revision, Setback> {
    let reached = goal.reached(image.revision);
    match image.compact_floor {
        Some(floor) if floor > reached => Err(Setback::BelowFloor(floor)),
        _ => Ok(reached),
    }
}
