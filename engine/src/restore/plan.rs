//! What a restore will do, settled before anything is touched.

use std::path::PathBuf;

use crate::archive::{Archive, BackupEntry, BackupReader, ReadLimits, Selection, select};
use crate::datadir::{Membership, MembershipRequest, StageOptions, WAL_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::replay::Thoroughness;

/// Room for the pages that a restore adds to the image, and for the `.snap` file: a few hundred KiB in truth.
const ADDED_BYTES: u64 = 16 << 20;

/// Whether the plan will be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It will.
    Restore,
    /// It is only shown.
    DryRun,
}

/// What the operator wants.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Which backup.
    pub selection: Selection,
    /// Which member of which cluster the data directory is for.
    pub membership: MembershipRequest,
    /// Where it shall be.
    pub data_dir: PathBuf,
    /// Bounds.
    pub limits: ReadLimits,
    /// How much is proven before anything is installed.
    pub thoroughness: Thoroughness,
    /// How it is written; the default is for data that somebody will rely on.
    pub staging: StageOptions,
    /// Run, or only shown.
    pub purpose: Purpose,
}

/// A restore that can be run; nothing has been written.
#[derive(Debug)]
pub struct RestorePlan {
    /// The full.
    pub backup: BackupEntry,
    /// The new cluster, and which member of it this is.
    pub membership: Membership,
    /// Where the data directory shall be.
    pub data_dir: PathBuf,
    /// Free bytes that the file system must have.
    pub needed_bytes: u64,
    pub(super) reader: BackupReader,
    pub(super) limits: ReadLimits,
    pub(super) thoroughness: Thoroughness,
    pub(super) staging: StageOptions,
}

/// Plans a restore: one LIST for each 1,000 objects, then two or three GETs.
///
/// # Errors
/// `Invalid` for a membership that cannot be; `Refused` where a cluster of several members would be restored from
/// "latest": each operator could get another history; those of selecting and opening the backup.
pub async fn plan_restore(archive: &Archive, request: RestoreRequest) -> Result<RestorePlan> {
    let membership = Membership::resolve(&request.membership)?;
    let explicit = matches!(request.selection, Selection::Backup(_));
    if membership.members().len() > 1 && !explicit && request.purpose == Purpose::Restore {
        let what = format!(
            "--initial-cluster names {} members: every one must be restored from the same backup",
            membership.members().len()
        );
        return Err(Error::new(ErrorKind::Refused, what)
            .hint("name it with --backup; the same command with --dry-run prints the line to paste on each member"));
    }
    let catalogue = archive.catalogue().await?;
    let backup = select(&catalogue, &request.selection)?.clone();
    let reader = archive.open(&backup.name).await?;
    let needed_bytes = reader.footer().plain_bytes + WAL_BYTES + ADDED_BYTES;
    let RestoreRequest { data_dir, limits, thoroughness, staging, .. } = request;
    Ok(RestorePlan { backup, membership, data_dir, needed_bytes, reader, limits, thoroughness, staging })
}

impl RestorePlan {
    /// The opened backup.
    pub fn reader(&self) -> &BackupReader {
        &self.reader
    }

    /// The most memory that the transfer uses for data, bytes.
    pub fn memory_bytes(&self) -> u64 {
        let chunk_bytes = u64::from(self.reader.header().chunk_bytes);
        self.limits.read_bytes * (self.limits.parallel_reads as u64 + 1)
            + chunk_bytes * 2 * (self.limits.threads as u64 + 2)
    }
}
