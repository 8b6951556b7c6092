//! Which backups will be verified.

use std::path::PathBuf;

use crate::archive::{Archive, BackupEntry, ReadLimits, Selection, select};
use crate::error::{Error, ErrorKind, Result};
use crate::format::NameKind;

/// Which backups.
#[derive(Debug, Clone)]
pub enum Scope {
    /// The one that a restore with this selection would take.
    One(Selection),
    /// Every one of every lineage.
    All,
}

/// What a backup that is not sound means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnFailure {
    Stop,
    GoOn,
}

/// What the operator wants.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// Which backups.
    pub scope: Scope,
    /// Where the image may lie, in the clear and without a name, while it is looked at.
    pub scratch_dir: PathBuf,
    /// Bounds.
    pub limits: ReadLimits,
}

/// What will be verified.
#[derive(Debug, Clone)]
pub struct VerifyPlan {
    /// The fulls, oldest first.
    pub fulls: Vec<BackupEntry>,
    /// Deltas in the scope that are left out.
    pub deltas_left_out: usize,
    pub(super) on_failure: OnFailure,
    pub(super) scratch_dir: PathBuf,
    pub(super) limits: ReadLimits,
}

/// Plans to verify: one LIST for each 1,000 objects.
///
/// # Errors
/// Those of listing and selecting; `NotFound` where there is no full.
pub async fn plan_verify(archive: &Archive, request: VerifyRequest) -> Result<VerifyPlan> {
    let catalogue = archive.catalogue().await?;
    let VerifyRequest { scope, scratch_dir, limits } = request;
    let (mut entries, on_failure) = match scope {
        Scope::One(selection) => (vec![select(&catalogue, &selection)?.clone()], OnFailure::Stop),
        Scope::All => (catalogue.newest_first().into_iter().cloned().collect(), OnFailure::GoOn),
    };
    entries.reverse();
    let (fulls, deltas): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| matches!(entry.name.kind, NameKind::Full { .. }));
    if fulls.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "the archive holds no full backup")
            .hint("check --store-container and --store-prefix; `etcdbr list` shows what is there"));
    }
    Ok(VerifyPlan { fulls, deltas_left_out: deltas.len(), on_failure, scratch_dir, limits })
}
