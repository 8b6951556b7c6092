//! How far a cluster's history has come, and whether it can be the one that was known before.
//!
//! None of it proves that it is: a cluster that was restored and then written to for long has everything of a later
//! one. It rules out the others, and costs next to nothing; the records themselves are the proof.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::member::Member;
use crate::error::{ErrorKind, Result};
use crate::revision::{ClusterId, Revision};

/// Between two questions to a member that cannot answer yet, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How far the history of a cluster has come. Each number only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The cluster. One that was restored may have the id of the one that it was restored from.
    pub cluster: ClusterId,
    /// The revision.
    pub revision: Revision,
    /// Raft's term.
    pub raft_term: u64,
    /// Raft's committed index.
    pub raft_index: u64,
}

/// Why a history is another one than was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discontinuity {
    /// It is another cluster's.
    Cluster {
        /// What was known.
        known: ClusterId,
        /// What is.
        found: ClusterId,
    },
    /// It has not come as far.
    Revision {
        /// What was known.
        known: Revision,
        /// What is.
        found: Revision,
    },
    /// Its raft term is lower.
    RaftTerm {
        /// What was known.
        known: u64,
        /// What is.
        found: u64,
    },
    /// Its raft log is shorter.
    RaftIndex {
        /// What was known.
        known: u64,
        /// What is.
        found: u64,
    },
}

impl fmt::Display for Discontinuity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster { known, found } => write!(f, "this is cluster {found}, not {known}"),
            Self::Revision { known, found } => write!(f, "the cluster is at revision {found}, and was at {known}"),
            Self::RaftTerm { known, found } => write!(f, "the cluster is in raft term {found}, and was in {known}"),
            Self::RaftIndex { known, found } => write!(f, "the cluster is at raft index {found}, and was at {known}"),
        }
    }
}

impl Standing {
    /// Whether this can be what became of `known`, which any member of the cluster said at any time before.
    ///
    /// # Errors
    /// The first reason why it cannot.
    pub fn follows(&self, known: &Self) -> Result<(), Discontinuity> {
        let Self { cluster, revision, raft_term, raft_index } = *self;
        if cluster != known.cluster {
            Err(Discontinuity::Cluster { known: known.cluster, found: cluster })
        } else if revision < known.revision {
            Err(Discontinuity::Revision { known: known.revision, found: revision })
        } else if raft_term < known.raft_term {
            Err(Discontinuity::RaftTerm { known: known.raft_term, found: raft_term })
        } else if raft_index < known.raft_index {
            Err(Discontinuity::RaftIndex { known: known.raft_index, found: raft_index })
        } else {
            Ok(())
        }
    }
}

impl Member {
    /// How far the cluster's history has come, as this member has applied it. The read before is linearizable: the
    /// member answers it once it has caught up with all that any member had committed, so that one which lags is
    /// waited for, and what it says then is no less than what any other ever said. A member that cannot answer yet
    /// (it lags far, an election is under way) is asked again for `patience`.
    ///
    /// # Errors
    /// As every question; `Unavailable` after `patience`.
    pub async fn standing(&self, patience: Duration) -> Result<Standing> {
        let deadline = Instant::now() + patience;
        let (mut pause, longest) = PAUSES;
        loop {
            match self.ask_standing().await {
                Err(error) if error.kind() == ErrorKind::Unavailable && Instant::now() + pause < deadline => {
                    sleep(pause).await;
                    pause = longest.min(pause * 2);
                }
                asked => return asked,
            }
        }
    }

    async fn ask_standing(&self) -> Result<Standing> {
        let revision = self.linearizable_revision().await?;
        // In this order: the status is not linearizable, and later than the read.
        let status = self.status().await?;
        Ok(Standing {
            cluster: status.cluster,
            revision: revision.max(status.revision),
            raft_term: status.raft_term,
            raft_index: status.raft_index,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_can_betray_another_history() {
        let known = Standing { cluster: ClusterId(1), revision: Revision(100), raft_term: 3, raft_index: 200 };
        assert_eq!(known.follows(&known), Ok(()));
        let later = Standing { revision: Revision(101), raft_term: 4, raft_index: 202, ..known };
        assert_eq!(later.follows(&known), Ok(()));
        let told = |found: Standing| found.follows(&known).unwrap_err().to_string();
        assert_eq!(told(Standing { cluster: ClusterId(0x1f), ..later }), "this is cluster 1f, not 1");
        assert!(told(Standing { revision: Revision(99), ..later }).contains("revision 99, and was at 100"));
        assert!(told(Standing { raft_term: 2, ..later }).contains("term 2"));
        assert!(told(Standing { raft_index: 199, ..later }).contains("index 199"));
    }
}
