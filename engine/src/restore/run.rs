//! Runs a plan: stage, image, proof, etcd's own files, install.
//!
//! # Why a failed restore leaves the target as it was
//! Everything is written into a stage of its own, which the target's `member` becomes by one rename at the very end. A
//! stage that is dropped before removes itself; one that a killed process left behind is removed by the next restore.

use std::path::{Path, PathBuf};

use super::database::{Making, Setback, Staged, stage_database};
use super::plan::{RestorePlan, RestoreSource};
use super::point::{PointPlan, Resolved, plan_point};
use super::way::Way;
use crate::archive::{Chain, ReadLimits};
use crate::datadir::{DatabaseFacts, Ending, LeaseChanges, Membership, StageOptions, StagedDataDir};
use crate::error::{Error, ErrorKind, Result};
use crate::format::TimeMark;
use crate::monitor::{Event, Phase};
use crate::replay::{Proof, Proving, Thoroughness, move_plain, prove};
use crate::run::{RunContext, blocking};

/// Times that a restore is planned anew where objects vanish under it, or an image does not reach back far enough.
const MOST_PLANS: usize = 5;

/// A data directory that etcd can be started on.
#[derive(Debug)]
pub struct RestoreSummary {
    /// What it was restored from.
    pub restored: Restored,
    /// The new cluster, and which member of it this is.
    pub membership: Membership,
    /// Where it is.
    pub data_dir: PathBuf,
    /// What was proven of it.
    pub proof: Proof,
    /// What the image turned out to be, and what was made of it.
    pub facts: DatabaseFacts,
    /// From the first write to the installed directory.
    pub duration_ms: i64,
}

/// What was restored.
#[derive(Debug)]
pub enum Restored {
    /// A moment of a history in the archive.
    Point(Box<RestoredPoint>),
    /// A snapshot from outside: its path, or its URL without what is secret.
    Plain(String),
}

/// A moment of a history, as it was restored.
#[derive(Debug)]
pub struct RestoredPoint {
    /// What was read.
    pub chain: Chain,
    /// How the moment was found.
    pub resolved: Resolved,
    /// How the database was made.
    pub way: Way,
    /// Records of deltas that were handed to it.
    pub records: u64,
    /// The last time at which the source is known to have stood there, or before.
    pub mark: Option<TimeMark>,
}

/// Runs a plan.
///
/// # Errors
/// `Refused` for a data directory that must not be touched, and where the archive holds several histories, or a moment
/// that was compacted away; `Damaged` for a backup that is not sound; those of the store and the file system;
/// `Interrupted`. The target is as it was then.
pub async fn run_restore(plan: RestorePlan, context: &RunContext) -> Result<RestoreSummary> {
    let started = context.clock.now();
    let RestorePlan { source, membership, data_dir, needed_bytes, limits, thoroughness, bump, staging, .. } = plan;
    let missing_ttl_s = plan.missing_lease_ttl_s;
    let name = source.name();
    let (stage, image, examined, proof, mut ending, restored) = match source {
        RestoreSource::Point(point) => {
            let site = Site { data_dir: &data_dir, needed_bytes, staging, limits, thoroughness, missing_ttl_s };
            let (staged, restored) = stage_point(*point, site, context).await?;
            let Staged { stage, image, examined, proof, ending, .. } = staged;
            (stage, image, examined, proof, ending, Restored::Point(Box::new(restored)))
        }
        RestoreSource::Plain(snapshot) => {
            let stage = create_stage(&data_dir, needed_bytes, staging).await?;
            let (stage, checked) = move_plain(snapshot, stage, Phase::Restore, context).await?;
            let proven = prove(stage, Proving::of_plain(checked, thoroughness), context).await;
            let (stage, image, examined, proof) = proven.map_err(|error| error.about(&name))?;
            let leases = LeaseChanges { missing_ttl_s, ..LeaseChanges::default() };
            (stage, image, examined, proof, Ending { leases, ..Ending::default() }, Restored::Plain(name.clone()))
        }
    };
    ending.bump = bump;
    context.monitor.tell(Event::Begin { phase: Phase::Sync, total_bytes: 0 });
    let ready = {
        let membership = membership.clone();
        let finished = blocking(move || stage.finish(image, examined, &membership, &ending)).await;
        finished.map_err(|error| error.about(&name))?
    };
    let facts = ready.facts().clone();
    context.check_stop()?;
    blocking(move || ready.install()).await?;
    context.monitor.tell(Event::End(Phase::Sync));
    let duration_ms = context.clock.now().0 - started.0;
    Ok(RestoreSummary { restored, membership, data_dir, proof, facts, duration_ms })
}

async fn create_stage(data_dir: &Path, needed_bytes: u64, staging: StageOptions) -> Result<StagedDataDir> {
    let data_dir = data_dir.to_owned();
    blocking(move || StagedDataDir::create(&data_dir, needed_bytes, staging)).await
}

/// Where and how a database is staged.
#[derive(Debug, Clone, Copy)]
struct Site<'a> {
    data_dir: &'a Path,
    needed_bytes: u64,
    staging: StageOptions,
    limits: ReadLimits,
    thoroughness: Thoroughness,
    missing_ttl_s: i64,
}

/// Stages the database of `plan`, or of what takes its place where objects of it are gone, or where its image does not
/// reach back far enough.
async fn stage_point(mut plan: PointPlan, mut site: Site<'_>, context: &RunContext) -> Result<(Staged, RestoredPoint)> {
    for _ in 1..MOST_PLANS {
        let setback = match try_point(&plan, site, context).await {
            Err(setback @ (Setback::Gone(_) | Setback::BelowFloor(_))) => setback,
            done => return concluded(plan, done),
        };
        let mut without = plan.without.clone();
        match &setback {
            Setback::BelowFloor(_) => without.push(plan.chain.full.name),
            Setback::Gone(error) => context.note(format!("planning again, for an object is gone: {error}")),
            Setback::Failed(_) => {}
        }
        let reading = (site.limits, site.data_dir);
        let same = plan.same_point();
        let again = plan_point(&plan.archive, &same, without, reading, context);
        plan = match context.unless_stopped(again).await {
            // What is compacted at the floor of one full is so in every later one.
            Ok(again) if matches!(setback, Setback::BelowFloor(_)) && again.chain.seam() >= plan.chain.seam() => {
                return Err(concluding(&plan, setback, None));
            }
            Ok(again) => PointPlan { resolved: plan.resolved, ..again },
            Err(error) => return Err(concluding(&plan, setback, Some(error))),
        };
        site.needed_bytes = RestoreSource::needed_bytes_of(&plan);
    }
    let done = try_point(&plan, site, context).await;
    concluded(plan, done)
}

async fn try_point(plan: &PointPlan, site: Site<'_>, context: &RunContext) -> Result<Staged, Setback> {
    let stage = create_stage(site.data_dir, site.needed_bytes, site.staging).await?;
    let Site { limits, thoroughness, missing_ttl_s, .. } = site;
    let making = Making { plan, limits, thoroughness, missing_ttl_s, context };
    // Whatever is missing now was listed, and an object is never rewritten: it was deleted since.
    stage_database(stage, making).await.map_err(|setback| match setback {
        Setback::Failed(error) if error.kind() == ErrorKind::NotFound => Setback::Gone(error),
        other => other,
    })
}

fn concluded(plan: PointPlan, done: Result<Staged, Setback>) -> Result<(Staged, RestoredPoint)> {
    let staged = done.map_err(|setback| concluding(&plan, setback, None))?;
    let PointPlan { chain, resolved, way, .. } = plan;
    let (records, mark) = (staged.replayed.records, staged.replayed.learned.last_mark());
    Ok((staged, RestoredPoint { chain, resolved, way, records, mark }))
}

/// What is told of `setback`, where planning again came to `again`.
fn concluding(plan: &PointPlan, setback: Setback, again: Option<Error>) -> Error {
    match (setback, again) {
        (Setback::Failed(error), _) | (Setback::Gone(_), Some(error)) | (Setback::Gone(error), None) => error,
        (Setback::BelowFloor(floor), again) => {
            let (full, wanted) = (plan.chain.full.name, plan.goal.upto());
            let what = format!(
                "revision {wanted} is not in {full}, which is compacted at {floor}, and nothing else leads to it"
            );
            let error = Error::new(ErrorKind::Refused, what)
                .hint(format!("ask for revision {floor} or a later one, or name another lineage"));
            if let Some(again) = again { error.caused_by(again) } else { error }
        }
    }
}
