//! What capture tells of its source at one time: a mark, the leases, the compact revision.

use etcdbr_proto::etcdbr::v1 as stored;

use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// At this time the source stood at this revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeMark {
    /// When.
    pub time: UnixMillis,
    /// The revision that had been reached, and not passed.
    pub revision: Revision,
}

/// How a lease's time to live was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseTtl {
    /// The source told it.
    Granted,
    /// The lease was gone before it could be asked: a default.
    Assumed,
}

/// A lease of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseGrant {
    /// Its id.
    pub id: i64,
    /// The time to live that it was granted, seconds.
    pub ttl_s: i64,
    /// How that is known.
    pub known: LeaseTtl,
}

/// What a list of leases is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LeaseList {
    /// Those that were first seen since the object before.
    #[default]
    New,
    /// All that the source had when the last time mark was made; others are gone.
    Complete,
}

/// What was known of the source at one time mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// When, and at which revision.
    pub mark: TimeMark,
    /// By id.
    pub leases: Vec<LeaseGrant>,
    /// What `leases` are.
    pub lease_list: LeaseList,
    /// The greatest compact revision that had been seen.
    pub compact_revision: Option<Revision>,
}

impl TimeMark {
    pub(super) fn store(&self) -> stored::TimeMark {
        stored::TimeMark { revision: self.revision.0, unix_ms: self.time.0 }
    }

    pub(super) fn load(mark: &stored::TimeMark) -> Self {
        Self { time: UnixMillis(mark.unix_ms), revision: Revision(mark.revision) }
    }
}

impl LeaseGrant {
    pub(super) fn store(&self) -> stored::Lease {
        stored::Lease { id: self.id, granted_ttl_s: self.ttl_s, assumed: self.known == LeaseTtl::Assumed }
    }

    pub(super) fn load(lease: &stored::Lease) -> Self {
        let known = if lease.assumed { LeaseTtl::Assumed } else { LeaseTtl::Granted };
        Self { id: lease.id, ttl_s: lease.granted_ttl_s, known }
    }
}

impl LeaseList {
    pub(super) fn load(complete: bool) -> Self {
        if complete { Self::Complete } else { Self::New }
    }
}

impl Told {
    pub(super) fn store(&self) -> stored::Told {
        stored::Told {
            mark: Some(self.mark.store()),
            leases: self.leases.iter().map(LeaseGrant::store).collect(),
            leases_complete: self.lease_list == LeaseList::Complete,
            compact_revision: self.compact_revision.map_or(0, |revision| revision.0),
        }
    }

    /// # Errors
    /// `Damaged` without a mark.
    pub(super) fn load(told: &stored::Told) -> Result<Self> {
        let mark = told
            .mark
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Damaged, "its footer tells of leases at no time"))?;
        Ok(Self {
            mark: TimeMark::load(mark),
            leases: told.leases.iter().map(LeaseGrant::load).collect(),
            lease_list: LeaseList::load(told.leases_complete),
            compact_revision: (told.compact_revision > 0).then_some(Revision(told.compact_revision)),
        })
    }
}
