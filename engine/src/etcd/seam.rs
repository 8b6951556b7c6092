//! The records of one revision, as a watch gives them: the seam between a full and what follows it.
//!
//! A watch of the whole key space delivers a transaction's changes in the order of their sub-revisions, so that the
//! n-th event of a revision is its record n; nothing less than the whole key space would. A seam is a proof, not
//! data: the image holds the same records. So where it is not to be had the full goes on without it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::member::Member;
use super::probe::Readable;
use super::watch::{WatchEnd, WatchLimits};
use crate::error::Result;
use crate::record::Record;
use crate::revision::Revision;

/// How long the watch is given at most (less where a request is given less). etcd serves late watchers every 100 ms; an etcd that needs seconds is in trouble.
pub const SEAM_WAIT: Duration = Duration::from_secs(10);

/// The most that a seam may take in memory. It is held while the image is streamed and is encoded into the footer,
/// so it counts against the memory of a backup; ten requests of etcd's default size fit. A larger transaction (the
/// delete of a hundred thousand keys at once) goes without a proof, and the next full has one.
pub const SEAM_BYTES_MAX: usize = 16 << 20;

/// What is known of the records at a seam.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeamCapture {
    /// The seam.
    pub revision: Revision,
    /// All records of that revision in order of `sub` where it is proven; none otherwise.
    pub records: Vec<Record>,
    /// Whether they are known.
    pub proof: Proof,
}

/// Whether the records of a seam are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// All of them.
    Proven,
    /// None, for this reason.
    Unproven(Unproven),
}

/// Why a seam has no records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unproven {
    /// Nothing was ever written.
    NothingWritten,
    /// The revision is compacted, or is the compaction's own, of which old etcds lose tombstones.
    Compacted,
    /// The watch did not give them within [`SEAM_WAIT`].
    Silent,
    /// They would take more than [`SEAM_BYTES_MAX`].
    TooLarge,
    /// The watch passed the revision by, or gave an event that is no change of a key.
    Incomplete,
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingWritten => "nothing was ever written",
            Self::Compacted => "the revision is compacted",
            Self::Silent => "the watch gave no records in time",
            Self::TooLarge => "the transaction is too large",
            Self::Incomplete => "the watch did not give all records",
        })
    }
}

impl Member {
    /// The records of `revision` as a watch gives them, which is what proves later that capture met this history.
    /// `revision` is what [`Self::linearizable_revision`] gave. Waits [`SEAM_WAIT`] at most and keeps
    /// [`SEAM_BYTES_MAX`] at most; where the records are not to be had it says so and is no error.
    ///
    /// # Errors
    /// As every question.
    pub async fn seam(&self, revision: Revision) -> Result<SeamCapture> {
        let unproven = |reason| Ok(SeamCapture { revision, records: Vec::new(), proof: Proof::Unproven(reason) });
        if revision <= Revision::EMPTY {
            return unproven(Unproven::NothingWritten);
        }
        let before = Revision(revision.0 - 1);
        if self.readable(before).await? == Readable::Compacted {
            return unproven(Unproven::Compacted);
        }
        let wait = SEAM_WAIT.min(self.session().request_timeout());
        let watched = timeout(wait, first_of_a_watch(self, revision)).await.unwrap_or(Ok(Err(Unproven::Silent)));
        // The watch is dropped by now.
        match watched? {
            Err(reason) => unproven(reason),
            // Asked again, because a compaction at the very revision may have come between and cancels no watch.
            Ok(_) if self.readable(before).await? == Readable::Compacted => unproven(Unproven::Compacted),
            Ok(records) => Ok(SeamCapture { revision, records, proof: Proof::Proven }),
        }
    }
}

async fn first_of_a_watch(member: &Member, revision: Revision) -> Result<Result<Vec<Record>, Unproven>> {
    let limits = WatchLimits { revision_bytes_max: SEAM_BYTES_MAX };
    let given = async { member.watch(revision, limits).await?.next().await };
    match given.await {
        Ok(revisions) => {
            let own = revisions.records.into_iter().take_while(|record| record.main == revision);
            // Copied: the seam is held while an image is streamed, and must not hold a whole response with it.
            Ok(Ok(own.map(|record| Record { value: Bytes::copy_from_slice(&record.value), ..record }).collect()))
        }
        Err(WatchEnd::Compacted { .. }) => Ok(Err(Unproven::Compacted)),
        Err(WatchEnd::TooLarge { .. }) => Ok(Err(Unproven::TooLarge)),
        Err(WatchEnd::Gap { .. } | WatchEnd::Contradiction { .. }) => Ok(Err(Unproven::Incomplete)),
        Err(end) => Err(end.into_error()),
    }
}
