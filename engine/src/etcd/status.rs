//! What a member says about itself.

use std::fmt;

use etcdbr_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use etcdbr_proto::etcdserverpb::{StatusRequest, StatusResponse};

use super::fault::Fault;
use super::session::Session;
use crate::revision::{ClusterId, MemberId, Revision};

/// What a member does in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It orders the writes.
    Leader,
    /// It votes and follows.
    Follower,
    /// It follows and does not vote yet.
    Learner,
    /// It sees no leader: nothing linearizable can be asked of it.
    Leaderless,
}

/// An alarm that is raised in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// A member's database has reached its quota: the cluster takes no writes.
    NoSpace(MemberId),
    /// A member's data differs from that of the others.
    Corrupt(MemberId),
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace(member) => write!(f, "alarm NOSPACE: member {member} has reached its quota"),
            Self::Corrupt(member) => write!(f, "alarm CORRUPT: member {member} differs from the others"),
        }
    }
}

/// One answer of `Maintenance.Status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub member: MemberId,
    /// The version of its etcd, as in `3.5.35`.
    pub version: String,
    /// What it does.
    pub role: Role,
    /// The revision that it has applied; another member may be ahead.
    pub revision: Revision,
    /// Raft's term.
    pub raft_term: u64,
    /// Raft's committed index.
    pub raft_index: u64,
    /// Bytes of its database file.
    pub db_bytes: u64,
    /// Bytes of it in use.
    pub db_bytes_in_use: u64,
    /// What etcd itself lists as wrong, alarms included, in its own words.
    pub errors: Vec<String>,
}

impl MemberStatus {
    /// The alarms among [`Self::errors`].
    pub fn alarms(&self) -> Vec<Alarm> {
        self.errors.iter().filter_map(|text| parse_alarm(text)).collect()
    }

    fn read(answer: StatusResponse) -> Self {
        let header = answer.header.unwrap_or_default();
        let role = if answer.is_learner {
            Role::Learner
        } else if answer.leader == 0 {
            Role::Leaderless
        } else if answer.leader == header.member_id {
            Role::Leader
        } else {
            Role::Follower
        };
        Self {
            cluster: ClusterId(header.cluster_id),
            member: MemberId(header.member_id),
            version: answer.version,
            role,
            revision: Revision(header.revision),
            raft_term: answer.raft_term,
            raft_index: answer.raft_index,
            db_bytes: u64::try_from(answer.db_size).unwrap_or(0),
            db_bytes_in_use: u64::try_from(answer.db_size_in_use).unwrap_or(0),
            errors: answer.errors,
        }
    }
}

/// Asks the member behind `session`.
pub(super) async fn ask_status(session: &Session) -> Result<MemberStatus, Fault> {
    let answer = session
        .ask(StatusRequest {}, session.request_timeout(), |channel, request| async move {
            MaintenanceClient::new(channel).status(request).await
        })
        .await?;
    Ok(MemberStatus::read(answer))
}

/// Reads `memberID:123 alarm:NOSPACE`; newer etcds put one space or two between.
fn parse_alarm(text: &str) -> Option<Alarm> {
    let field = |name: &str| text.split_whitespace().find_map(|word| word.strip_prefix(name));
    let member = MemberId(field("memberID:").and_then(|id| id.parse().ok()).unwrap_or(0));
    match field("alarm:")? {
        "NOSPACE" => Some(Alarm::NoSpace(member)),
        "CORRUPT" => Some(Alarm::Corrupt(member)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_read_from_etcds_text() {
        assert_eq!(parse_alarm("memberID:26 alarm:NOSPACE "), Some(Alarm::NoSpace(MemberId(26))));
        assert_eq!(parse_alarm("memberID:26  alarm:CORRUPT"), Some(Alarm::Corrupt(MemberId(26))));
        assert_eq!(parse_alarm("etcdserver: no leader"), None);
        assert_eq!(Alarm::NoSpace(MemberId(26)).to_string(), "alarm NOSPACE: member 1a has reached its quota");
    }
}
