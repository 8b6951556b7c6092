//! Going on with a lineage: the proof that a watch gives the history that the lineage holds.
//!
//! # Why histories are never mixed
//! Three things must hold before anything is appended, at every connect and reconnect, all of them through the very
//! member that will be watched. The cluster id is the same, and revision, raft term and raft index have not gone back (a
//! restored cluster begins anew in raft). The watch, opened at an anchor behind the position, gives records that fold
//! into the digest of the position: byte for byte what the lineage holds. And among them is at least one put, because
//! tombstones look alike in many histories. Whatever cannot be shown, a compaction included, ends the lineage: a new
//! full opens another one.

use std::fmt;
use std::time::Duration;

use tokio::time::timeout;

use super::trail::{Anchor, ProofStart, Trail};
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::{Discontinuity, Member, Revisions, WatchEnd, WatchLimits, WatchStream};
use crate::format::HistoryFold;
use crate::record::{Change, Record};
use crate::revision::Revision;

/// How long a member may take to catch up before it is asked where it stands.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest silence of a watch whose revisions are known to be there.
const SILENCE: Duration = Duration::from_secs(30);
/// A watch that is farther behind costs etcd more than a full does: each of its rounds reads all that is missing.
const CATCH_UP_REVISIONS: i64 = 50_000;

/// A watch that has proven itself.
#[derive(Debug)]
pub struct Resumed {
    /// The next thing that it gives follows on `ahead`.
    pub watch: WatchStream,
    /// What it has given beyond the position already.
    pub ahead: Option<Revisions>,
    /// The revision before the position, where the proof came by it.
    pub penultimate: Option<Anchor>,
}

/// Why a lineage cannot be continued.
#[derive(Debug)]
pub enum Unproven {
    /// The cluster's numbers have gone back, or it is another one.
    Discontinuity(Discontinuity),
    /// What would prove it is compacted.
    Compacted,
    /// The records are others.
    OtherRecords,
    /// There is no put among the records.
    NoPut,
    /// The lineage is so far behind that a full is cheaper.
    FarBehind(i64),
    /// The watch passed revisions by, or gave what cannot be.
    Broken(WatchEnd),
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discontinuity(why) => why.fmt(f),
            Self::Compacted => f.write_str("etcd has compacted what would prove it"),
            Self::OtherRecords => f.write_str("etcd holds other records at the same revisions"),
            Self::NoPut => f.write_str("nothing was put lately that would prove it"),
            Self::FarBehind(revisions) => write!(f, "it is {revisions} revisions behind"),
            Self::Broken(end) => end.fmt(f),
        }
    }
}

impl Unproven {
    /// The word for what is compacted.
    pub const COMPACTED: &'static str = "compacted";
    /// The word for a watch that is broken.
    pub const BROKEN_WATCH: &'static str = "broken-watch";
    /// All words.
    pub const REASONS: [&'static str; 6] =
        ["discontinuity", Self::COMPACTED, "other-records", "no-put", "far-behind", Self::BROKEN_WATCH];

    /// A word for the reason, for counters.
    pub fn reason(&self) -> &'static str {
        let [discontinuity, compacted, other_records, no_put, far_behind, broken_watch] = Self::REASONS;
        match self {
            Self::Discontinuity(_) => discontinuity,
            Self::Compacted => compacted,
            Self::OtherRecords => other_records,
            Self::NoPut => no_put,
            Self::FarBehind(_) => far_behind,
            Self::Broken(_) => broken_watch,
        }
    }
}

/// How an attempt to go on ended.
#[derive(Debug)]
pub enum Resumption {
    /// The watch goes on from the trail's position.
    Proven(Box<Resumed>),
    /// The lineage has ended.
    Unproven(Unproven),
}

/// Opens a watch at `member` that goes on from the position of `trail`, and proves that it does.
///
/// # Errors
/// Where nothing can be told now: `Unavailable`, `Denied` and what else the member answers. Trying again may help.
pub async fn resume(member: &Member, trail: &mut Trail, limits: WatchLimits) -> Result<Resumption> {
    let standing = member.standing(PATIENCE).await?;
    if let Err(why) = standing.follows(&trail.standing) {
        return Ok(Resumption::Unproven(Unproven::Discontinuity(why)));
    }
    let position = trail.position();
    let behind = standing.revision.0 - position.revision.0;
    if behind > CATCH_UP_REVISIONS {
        return Ok(Resumption::Unproven(Unproven::FarBehind(behind)));
    }
    let start = trail.proof_start();
    let proven = match member.watch(start.revision(), limits).await {
        Ok(watch) => prove(watch, trail, start).await?,
        Err(end) => unproven(end)?,
    };
    if matches!(proven, Resumption::Proven(_)) {
        trail.learn(standing);
    }
    Ok(proven)
}

async fn prove(mut watch: WatchStream, trail: &Trail, start: ProofStart) -> Result<Resumption> {
    let position = trail.position();
    let (ProofStart::Seam(anchor) | ProofStart::Behind(anchor)) = start;
    let mut fold = HistoryFold::after(anchor.revision, anchor.digest);
    let mut puts = 0;
    let mut seam = match start {
        ProofStart::Seam(_) => Some(Vec::new()),
        ProofStart::Behind(_) => None,
    };
    loop {
        // With nothing but the anchor to prove there is no revision to wait for.
        if position.revision < start.revision() {
            return Ok(Resumption::Unproven(Unproven::NoPut));
        }
        let given = match timeout(SILENCE, watch.next()).await {
            Ok(Ok(given)) => given,
            Ok(Err(end)) => return unproven(end),
            Err(_) => return Err(silent(position.revision)),
        };
        let known = given.records.partition_point(|record| record.main <= position.revision);
        for record in &given.records[..known] {
            puts += usize::from(record.change == Change::Put);
            match &mut seam {
                Some(records) if record.main == anchor.revision => records.push(record.clone()),
                _ => fold.push(&record.as_ref())?,
            }
        }
        if given.last >= position.revision {
            let same_seam = seam.is_none_or(|records| records == trail.seam.records);
            let (revision, digest) = fold.closed();
            let penultimate = (revision < position.revision).then_some(Anchor { revision, digest });
            if !same_seam || fold.finish() != (position.revision, position.digest) {
                return Ok(Resumption::Unproven(Unproven::OtherRecords));
            }
            if puts == 0 {
                return Ok(Resumption::Unproven(Unproven::NoPut));
            }
            return Ok(Resumption::Proven(Box::new(Resumed { watch, ahead: behind(given, known), penultimate })));
        }
    }
}

/// What follows the first `known` records.
fn behind(given: Revisions, known: usize) -> Option<Revisions> {
    let records: Vec<Record> = given.records[known..].to_vec();
    let first = records.first()?.main;
    Some(Revisions { first, records, ..given })
}

fn silent(revision: Revision) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the watch did not give revision {revision}, which etcd has reached"))
}

/// What an end says of the lineage; an error where it says nothing.
fn unproven(end: WatchEnd) -> Result<Resumption> {
    match end {
        WatchEnd::Compacted { .. } => Ok(Resumption::Unproven(Unproven::Compacted)),
        WatchEnd::Gap { .. } | WatchEnd::Contradiction { .. } | WatchEnd::TooLarge { .. } => {
            Ok(Resumption::Unproven(Unproven::Broken(end)))
        }
        end => Err(end.into_error()),
    }
}
