//! Abandoned uploads: parts that the store keeps, and somebody pays for, without an object.
//!
//! # Why this takes nothing away
//! Only uploads are aborted, each by its own id, and only those under the archive's prefix whose key is the name of a
//! backup. What has been completed is an object and no upload any more. One that is still under way is younger than the
//! grace; were it not, its backup would fail with an error and be taken again, and no other backup would notice.

use std::time::Duration;

use crate::archive::{Archive, UnfinishedBackup, UnfinishedBackups};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::run::RunContext;

/// What the operator wants.
#[derive(Debug, Clone, Copy)]
pub struct UploadsRequest {
    /// Uploads that were begun less than this ago may be under way, and are kept.
    pub older_than: Duration,
}

/// Which uploads will be aborted; nothing has been changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UploadsPlan {
    /// Begun long enough ago, the oldest first.
    pub abort: Vec<UnfinishedBackup>,
    /// Begun since then, or at a time that the store does not tell.
    pub keep: Vec<UnfinishedBackup>,
    /// Uploads under the prefix that are not ours to judge.
    pub foreign: usize,
}

impl UploadsPlan {
    fn of(found: UnfinishedBackups, older_than: Duration, now: UnixMillis) -> Self {
        let grace_ms = i64::try_from(older_than.as_millis()).unwrap_or(i64::MAX);
        let abandoned = |unfinished: &UnfinishedBackup| {
            unfinished.begun.is_some_and(|begun| now.0.saturating_sub(begun.0) >= grace_ms)
        };
        let (abort, keep) = found.ours.into_iter().partition(abandoned);
        Self { abort, keep, foreign: found.foreign }
    }
}

/// Plans which uploads to abort: one listing.
///
/// # Errors
/// Those of the store.
pub async fn plan_uploads(archive: &Archive, request: UploadsRequest, context: &RunContext) -> Result<UploadsPlan> {
    let found = context.unless_stopped(archive.unfinished()).await?;
    Ok(UploadsPlan::of(found, request.older_than, context.clock.now()))
}

/// Runs a plan. An upload that has ended meanwhile is no error.
///
/// # Errors
/// Those of the store; `Interrupted`. Uploads before the one that is named are gone then, and the next run takes the rest.
pub async fn abort_uploads(archive: &Archive, plan: &UploadsPlan, context: &RunContext) -> Result<()> {
    for unfinished in &plan.abort {
        if context.stop.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "stopped by a signal"));
        }
        archive.discard(unfinished).await?;
    }
    Ok(())
}
