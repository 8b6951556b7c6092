//! Whether the pinned member leads its cluster, asked so that a leader of yesterday cannot pass.
//!
//! # Why a deposed leader cannot pass
//! What a member says of itself is what it heard last: one that was cut off, or stood still, calls itself leader until
//! it hears of another. A linearizable read alone does not betray it either: it finds out while it is asked, and has
//! its successor answer. So it is asked for its status, then for such a read, then for its status again, and leads
//! where it calls itself so both times, in one raft term:
//!
//! * The term of a status is that of the newest entry which the member has applied. A member that leads in term T has
//!   applied no later one: the first status says T at most.
//! * The read is answered after a quorum has confirmed, once it was asked, whoever leads in some term U; the member
//!   that was leader in T takes no answer from below it, so U is T at least. Nor is it answered before an entry of U
//!   is committed and the member has applied it: the second status says U at least.
//! * So where both say the same, T is U; a term has one leader; and it was confirmed after it was asked.

use std::time::Duration;

use tokio::time::timeout;

use super::member::Member;
use super::status::{MemberStatus, Role};
use crate::error::{ErrorKind, Result};

/// What is known of a member's leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// It led in this raft term, after it was asked.
    Leads {
        /// No other member has led, or ever will, in this term.
        raft_term: u64,
    },
    /// It says itself that it does not.
    Follows,
    /// It says that it does, and nobody has confirmed that in time.
    Unconfirmed,
}

impl Member {
    /// Whether it leads its cluster. One small question where it does not, three where it does, of which the cluster
    /// has `patience` to confirm it.
    ///
    /// # Errors
    /// As every question, where nothing can be told of its status.
    pub async fn leadership(&self, patience: Duration) -> Result<Leadership> {
        let before = self.status().await?;
        if before.role != Role::Leader {
            return Ok(Leadership::Follows);
        }
        let confirming = async {
            self.linearizable_revision().await?;
            self.status().await
        };
        match timeout(patience, confirming).await {
            Ok(Ok(after)) if leads_in(&after, before.raft_term) => {
                Ok(Leadership::Leads { raft_term: before.raft_term })
            }
            Ok(Ok(after)) if after.role != Role::Leader => Ok(Leadership::Follows),
            Ok(Err(error)) if error.kind() != ErrorKind::Unavailable => Err(error),
            // A new leader's own entry may have been applied meanwhile: the next question is answered.
            _ => Ok(Leadership::Unconfirmed),
        }
    }

    /// Whether it has heard of no end to its leadership in `raft_term`. One small question; a member that was cut off
    /// hears of it late.
    ///
    /// # Errors
    /// As every question.
    pub async fn still_leads(&self, raft_term: u64) -> Result<bool> {
        Ok(leads_in(&self.status().await?, raft_term))
    }
}

fn leads_in(status: &MemberStatus, raft_term: u64) -> bool {
    status.role == Role::Leader && status.raft_term == raft_term
}
