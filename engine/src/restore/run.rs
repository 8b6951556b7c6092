//! Runs a plan: stage, image, proof, etcd's own files, install.
//!
//! # Why a failed restore leaves the target as it was
//! Everything is written into a stage of its own, which the target's `member` becomes by one rename at the very end. A
//! stage that is dropped before removes itself; one that a killed process left behind is removed by the next restore.

use std::path::PathBuf;

use super::plan::{RestorePlan, RestoreSource};
use crate::archive::BackupEntry;
use crate::datadir::{DatabaseFacts, Membership, StagedDataDir};
use crate::error::Result;
use crate::monitor::{Event, Phase};
use crate::replay::{Proof, Proving, move_image, move_plain, prove};
use crate::run::{RunContext, blocking};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// A full of the archive.
    Backup(BackupEntry),
    /// A snapshot from outside: its path, or its URL without what is secret.
    Plain(String),
}

/// Runs a plan.
///
/// # Errors
/// `Refused` for a data directory that must not be touched; `Damaged` for a backup that is not sound; those of the store
/// and the file system; `Interrupted`. The target is as it was then.
pub async fn run_restore(plan: RestorePlan, context: &RunContext) -> Result<RestoreSummary> {
    let started = context.clock.now();
    let RestorePlan { source, membership, data_dir, needed_bytes, limits, thoroughness, bump, staging } = plan;
    let stage = {
        let data_dir = data_dir.clone();
        blocking(move || StagedDataDir::create(&data_dir, needed_bytes, staging)).await?
    };
    let name = source.name();
    let (stage, proving, restored) = match source {
        RestoreSource::Backup { entry, reader } => {
            let stage = move_image(&reader, limits, stage, Phase::Restore, context).await?;
            (stage, Proving::of_full(&reader, thoroughness), Restored::Backup(entry))
        }
        RestoreSource::Plain(snapshot) => {
            let (stage, checked) = move_plain(snapshot, stage, Phase::Restore, context).await?;
            (stage, Proving::of_plain(checked, thoroughness), Restored::Plain(name.clone()))
        }
    };
    let (stage, image, examined, proof) = prove(stage, proving, context).await.map_err(|error| error.about(&name))?;
    context.monitor.tell(Event::Begin { phase: Phase::Sync, total_bytes: 0 });
    let ready = {
        let membership = membership.clone();
        let finished = blocking(move || stage.finish(image, examined, &membership, bump)).await;
        finished.map_err(|error| error.about(&name))?
    };
    let facts = ready.facts().clone();
    context.check_stop()?;
    blocking(move || ready.install()).await?;
    context.monitor.tell(Event::End(Phase::Sync));
    let duration_ms = context.clock.now().0 - started.0;
    Ok(RestoreSummary { restored, membership, data_dir, proof, facts, duration_ms })
}
