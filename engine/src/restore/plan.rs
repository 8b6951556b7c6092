//! What a restore will do, settled before anything is touched.

use std::path::PathBuf;

use super::point::{PointPlan, PointRequest, Target, plan_point};
use crate::archive::{Archive, ReadLimits, Selection};
use crate::datadir::{Membership, MembershipRequest, RevisionBump, StageOptions, WAL_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::foreign::PlainSnapshot;
use crate::replay::Thoroughness;
use crate::run::RunContext;

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
    /// Granted to leases that live keys name and that nobody knows, in seconds.
    pub missing_lease_ttl_s: i64,
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
    pub(super) missing_lease_ttl_s: i64,
}

/// What a restore reads.
#[derive(Debug)]
pub enum RestoreSource {
    /// A moment of a history in the archive.
    Point(Box<PointPlan>),
    /// A snapshot from outside.
    Plain(PlainSnapshot),
}

/// Plans a restore of what `point` means: one LIST for each 1,000 objects, then a few GETs.
///
/// # Errors
/// `Invalid` for a membership that cannot be, or a target that does not go with the selection; `Refused` where a cluster of
/// several members would be restored from "latest": each operator could get another history; where revisions are
/// missing; those of reading the archive; `Interrupted`.
pub async fn plan_restore(
    archive: &Archive,
    point: &PointRequest,
    request: RestoreRequest,
    context: &RunContext,
) -> Result<RestorePlan> {
    let membership = Membership::resolve(&request.membership)?;
    if matches!(point.selection, Selection::Backup(_)) && point.target != Target::Newest {
        return Err(Error::new(ErrorKind::Invalid, "a backup that is named is restored alone, as it is")
            .hint("name the lineage instead; the plan chooses what leads to a moment of it"));
    }
    if membership.members().len() > 1 && !PointPlan::is_explicit(point) && request.purpose == Purpose::Restore {
        let what = format!(
            "--initial-cluster names {} members: every one must be restored to the same moment of the same history",
            membership.members().len()
        );
        return Err(Error::new(ErrorKind::Refused, what).hint(
            "name it with --backup, or with --lineage and --revision; the same command with --dry-run prints the line to \
             paste on each member",
        ));
    }
    let reading = (request.limits, request.data_dir.as_path());
    let found = context.unless_stopped(plan_point(archive, point, Vec::new(), reading, context)).await?;
    Ok(plan(RestoreSource::Point(Box::new(found)), membership, request))
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
    let needed_bytes = source.needed_bytes();
    let RestoreRequest { data_dir, limits, thoroughness, bump, staging, missing_lease_ttl_s, .. } = request;
    RestorePlan { source, membership, data_dir, needed_bytes, limits, thoroughness, bump, staging, missing_lease_ttl_s }
}

impl RestoreSource {
    /// The backup's name, the snapshot's path, or its URL without what is secret.
    pub fn name(&self) -> String {
        match self {
            Self::Point(point) => point.chain.full.name.to_string(),
            Self::Plain(snapshot) => snapshot.name().to_owned(),
        }
    }

    /// Bytes of the image.
    pub fn image_bytes(&self) -> u64 {
        match self {
            Self::Point(point) => point.sizes.image_bytes,
            Self::Plain(snapshot) => snapshot.image_bytes(),
        }
    }

    /// Bytes of the database that will be written, about.
    pub fn written_bytes(&self) -> u64 {
        match self {
            Self::Point(point) => point.sizes.needed_bytes(point.way),
            Self::Plain(snapshot) => snapshot.image_bytes(),
        }
    }

    /// All bytes that will be written at one time, at most.
    pub(super) fn needed_bytes(&self) -> u64 {
        match self {
            Self::Point(point) => Self::needed_bytes_of(point),
            Self::Plain(snapshot) => snapshot.image_bytes() + WAL_BYTES + ADDED_BYTES,
        }
    }

    /// The same of a moment.
    pub(super) fn needed_bytes_of(point: &PointPlan) -> u64 {
        point.sizes.needed_bytes(point.way) + WAL_BYTES + ADDED_BYTES
    }
}

impl RestorePlan {
    /// The most memory that the transfer uses for data, bytes.
    pub fn memory_bytes(&self) -> u64 {
        let reads = self.limits.read_bytes * (self.limits.parallel_reads as u64 + 1);
        match &self.source {
            RestoreSource::Point(point) => {
                let chunk_bytes = u64::from(point.reader().header().chunk_bytes);
                // Those that are opened, and on their way to the file: in two queues, at two threads, in its own block.
                reads + chunk_bytes * (self.limits.threads as u64 + 8) + point.replay_bytes()
            }
            // What waits for the file comes on top of what is read.
            RestoreSource::Plain(_) => reads + 8 * self.limits.read_bytes,
        }
    }
}
