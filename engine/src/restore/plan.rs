//! What a restore will do, settled before anything is touched.

use std::path::PathBuf;

use crate::archive::{Archive, BackupEntry, BackupReader, ReadLimits, Selection, select};
use crate::datadir::{Membership, MembershipRequest, RevisionBump, StageOptions, WAL_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::foreign::PlainSnapshot;
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

/// What the operator wants, beside what is restored.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
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
    /// Whether the revisions go on further up.
    pub bump: Option<RevisionBump>,
    /// Run, or only shown.
    pub purpose: Purpose,
}

/// A restore that can be run; nothing has been written.
#[derive(Debug)]
pub struct RestorePlan {
    /// What is restored.
    pub source: RestoreSource,
    /// The new cluster, and which member of it this is.
    pub membership: Membership,
    /// Where the data directory shall be.
    pub data_dir: PathBuf,
    /// Free bytes that the file system must have.
    pub needed_bytes: u64,
    /// How much is proven before anything is installed.
    pub thoroughness: Thoroughness,
    /// Whether the revisions go on further up.
    pub bump: Option<RevisionBump>,
    pub(super) limits: ReadLimits,
    pub(super) staging: StageOptions,
}

/// What a restore reads.
#[derive(Debug)]
pub enum RestoreSource {
    /// A full of the archive.
    Backup {
        /// As it is listed.
        entry: BackupEntry,
        /// As it is opened.
        reader: Box<BackupReader>,
    },
    /// A snapshot from outside.
    Plain(PlainSnapshot),
}

/// Plans a restore of what `selection` means: one LIST for each 1,000 objects, then two or three GETs.
///
/// # Errors
/// `Invalid` for a membership that cannot be; `Refused` where a cluster of several members would be restored from
/// "latest": each operator could get another history; those of selecting and opening the backup.
pub async fn plan_restore(archive: &Archive, selection: &Selection, request: RestoreRequest) -> Result<RestorePlan> {
    let membership = Membership::resolve(&request.membership)?;
    let explicit = matches!(selection, Selection::Backup(_));
    if membership.members().len() > 1 && !explicit && request.purpose == Purpose::Restore {
        let what = format!(
            "--initial-cluster names {} members: every one must be restored from the same backup",
            membership.members().len()
        );
        return Err(Error::new(ErrorKind::Refused, what)
            .hint("name it with --backup; the same command with --dry-run prints the line to paste on each member"));
    }
    let catalogue = archive.catalogue().await?;
    let entry = select(&catalogue, selection)?.clone();
    let reader = Box::new(archive.open(&entry.name).await?);
    Ok(plan(RestoreSource::Backup { entry, reader }, membership, request))
}

/// Plans the restore of a plain snapshot, which has been opened: nothing more is read.
///
/// Several members may be restored from it, for it names itself: the same file is the same history.
///
/// # Errors
/// `Invalid` for a membership that cannot be.
pub fn plan_plain_restore(snapshot: PlainSnapshot, request: RestoreRequest) -> Result<RestorePlan> {
    let membership = Membership::resolve(&request.membership)?;
    Ok(plan(RestoreSource::Plain(snapshot), membership, request))
}

fn plan(source: RestoreSource, membership: Membership, request: RestoreRequest) -> RestorePlan {
    let needed_bytes = source.image_bytes() + WAL_BYTES + ADDED_BYTES;
    let RestoreRequest { data_dir, limits, thoroughness, bump, staging, .. } = request;
    RestorePlan { source, membership, data_dir, needed_bytes, limits, thoroughness, bump, staging }
}

impl RestoreSource {
    /// The backup's name, the snapshot's path, or its URL without what is secret.
    pub fn name(&self) -> String {
        match self {
            Self::Backup { entry, .. } => entry.name.to_string(),
            Self::Plain(snapshot) => snapshot.name().to_owned(),
        }
    }

    /// Bytes of the image.
    pub fn image_bytes(&self) -> u64 {
        match self {
            Self::Backup { reader, .. } => reader.footer().plain_bytes,
            Self::Plain(snapshot) => snapshot.image_bytes(),
        }
    }
}

impl RestorePlan {
    /// The most memory that the transfer uses for data, bytes.
    pub fn memory_bytes(&self) -> u64 {
        let reads = self.limits.read_bytes * (self.limits.parallel_reads as u64 + 1);
        match &self.source {
            RestoreSource::Backup { reader, .. } => {
                let chunk_bytes = u64::from(reader.header().chunk_bytes);
                reads + chunk_bytes * 2 * (self.limits.threads as u64 + 2)
            }
            // What waits for the file comes on top of what is read.
            RestoreSource::Plain(_) => reads + 3 * self.limits.read_bytes,
        }
    }
}
