//! Runs a plan: stage, image, etcd's own files, install.
//!
//! # Why a failed restore leaves the target as it was
//! Everything is written into a stage of its own, which the target's `member` becomes by one rename at the very end. A
//! stage that is dropped before removes itself; one that a killed process left behind is removed by the next restore.

use std::path::PathBuf;

use super::image::stage_image;
use super::plan::RestorePlan;
use crate::archive::BackupEntry;
use crate::clock::random_bytes;
use crate::datadir::{ImageFacts, Membership, StageOptions, StagedDataDir};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Protection;
use crate::monitor::{Event, Phase};
use crate::run::RunContext;

/// A data directory that etcd can be started on.
#[derive(Debug)]
pub struct RestoreSummary {
    /// What it was restored from.
    pub backup: BackupEntry,
    /// The new cluster, and which member of it this is.
    pub membership: Membership,
    /// Where it is.
    pub data_dir: PathBuf,
    /// What held its bytes together in the archive.
    pub protection: Protection,
    /// What the image turned out to be.
    pub facts: ImageFacts,
    /// From the first write to the installed directory.
    pub duration_ms: i64,
}

/// Runs a plan.
///
/// # Errors
/// `Refused` for a data directory that must not be touched; `Damaged` for a backup that is not sound; those of the store
/// and the file system; `Interrupted`. The target is as it was then.
pub async fn run_restore(plan: RestorePlan, context: &RunContext) -> Result<RestoreSummary> {
    let started = context.clock.now();
    let id = format!("{:016x}", u64::from_be_bytes(random_bytes()?));
    let (data_dir, needed_bytes) = (plan.data_dir.clone(), plan.needed_bytes);
    let stage = blocking(move || StagedDataDir::create(&data_dir, needed_bytes, &StageOptions::durable(id))).await?;
    let stage = stage_image(&plan, stage, context).await?;

    let RestorePlan { backup, membership, data_dir, reader, .. } = plan;
    context.monitor.tell(Event::Begin { phase: Phase::Sync, total_bytes: 0 });
    let ready = {
        let membership = membership.clone();
        blocking(move || stage.finish(&membership)).await.map_err(|error| error.about(backup.name))?
    };
    let facts = ready.facts().clone();
    let seam = reader.footer().facts.revisions.1;
    if facts.revision < seam {
        let what =
            format!("{}: its image is at revision {}, older than the {seam} of its name", backup.name, facts.revision);
        return Err(Error::new(ErrorKind::Damaged, what).hint("use another backup"));
    }
    if context.stop.is_cancelled() {
        return Err(Error::new(ErrorKind::Interrupted, "stopped by a signal"));
    }
    blocking(move || ready.install()).await?;
    context.monitor.tell(Event::End(Phase::Sync));
    let duration_ms = context.clock.now().0 - started.0;
    let protection = reader.header().protection;
    Ok(RestoreSummary { backup, membership, data_dir, protection, facts, duration_ms })
}

/// Runs file work off the threads that serve the network.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, "a task of the restore ended by itself").caused_by(error))?
}
