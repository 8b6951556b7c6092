//! Removes the copies that earlier calls have left.
//!
//! # Why this takes nothing else away
//! Only objects whose keys are exactly a prefix of ours, which no archive lies under, and a name as we build it. None of
//! them is a backup: each was made from one, which stays. A copy that is being fetched breaks off; it can be made again.

use std::time::Duration;

use crate::archive::{Archive, PlainCopy, UnfinishedCopy};
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::format::PlainCopyName;
use crate::run::RunContext;
use crate::store::Removal;

/// An upload that was begun less than this ago may be under way.
const UPLOAD_GRACE: Duration = Duration::from_secs(6 * 3600);

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweepRequest {
    /// Copies that are younger stay.
    pub older_than: Duration,
}

/// What will be removed; nothing has been changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SweepPlan {
    /// Copies, the oldest first.
    pub delete: Vec<PlainCopy>,
    /// Uploads that nobody goes on with, the oldest first.
    pub abort: Vec<UnfinishedCopy>,
    /// Copies and uploads that are too young.
    pub kept: usize,
    /// What lies there and has no name of ours.
    pub foreign: usize,
}

/// Plans what to remove: one LIST for each 1,000 copies, and one of uploads.
///
/// # Errors
/// Those of the store.
pub async fn plan_sweep(archive: &Archive, request: SweepRequest, context: &RunContext) -> Result<SweepPlan> {
    let found = context.unless_stopped(archive.copies()).await?;
    let now = context.clock.now();
    let listed = found.copies.len() + found.unfinished.len();
    let old = |name: &PlainCopyName, age| is_older(name.created, age, now);
    let delete: Vec<_> = found.copies.into_iter().filter(|copy| old(&copy.name, request.older_than)).collect();
    let grace = request.older_than.max(UPLOAD_GRACE);
    let abort: Vec<_> = found.unfinished.into_iter().filter(|copy| old(&copy.name, grace)).collect();
    let kept = listed - delete.len() - abort.len();
    Ok(SweepPlan { delete, abort, kept, foreign: found.foreign })
}

fn is_older(created: UnixMillis, age: Duration, now: UnixMillis) -> bool {
    let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    // No age at all means every one, also one of a clock that is ahead of ours.
    age_ms == 0 || now.0.saturating_sub(created.0) >= age_ms
}

/// Runs a plan. What has gone meanwhile is no error. `Hidden` where the store keeps versions of what was removed: they are as plain
/// as it was.
///
/// # Errors
/// Those of the store; `Interrupted`. The next run takes the rest.
pub async fn run_sweep(archive: &Archive, plan: &SweepPlan, context: &RunContext) -> Result<Removal> {
    let names: Vec<_> = plan.delete.iter().map(|copy| copy.name).collect();
    let removal = context.unless_stopped(archive.delete_copies(&names)).await?;
    for unfinished in &plan.abort {
        context.unless_stopped(archive.discard_copy(unfinished)).await?;
    }
    Ok(removal)
}
