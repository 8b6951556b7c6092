//! The pinned member: who it is, and where its history stands.
//!
//! Its other questions are methods in the files of their answers: `watch.rs`, `probe.rs`, `lease.rs` and others.

use std::fmt;

use std::sync::Arc;

use etcdbr_proto::etcdserverpb::cluster_client::ClusterClient;
use etcdbr_proto::etcdserverpb::kv_client::KvClient;
use etcdbr_proto::etcdserverpb::{MemberListRequest, RangeRequest, RangeResponse, ResponseHeader};

use super::endpoint::EtcdOptions;
use super::fault::Fault;
use super::pin;
use super::session::Session;
use super::snapshot::SnapshotStream;
use super::status::{MemberStatus, ask_status};
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::Monitor;
use crate::revision::{ClusterId, MemberId, Revision};

/// A key that nobody has: asking for it costs etcd one look into its index.
pub(super) const NO_KEY: &[u8] = b"\0";

/// Who the pinned member is; it does not change while it is pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub member: MemberId,
    /// Its name, where it has one and the member list may be read.
    pub name: Option<String>,
    /// Where it is asked, as `scheme://host:port`.
    pub endpoint: String,
    /// The version of its etcd when it was pinned, as in `3.5.35`.
    pub version: String,
}

/// One member, to which everything that a full needs is asked.
#[derive(Clone)]
pub struct Member {
    session: Arc<Session>,
    identity: Identity,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Member({})", self.identity().endpoint)
    }
}

impl Member {
    /// Asks all endpoints who they are and keeps one of them: a follower where there is one. Endpoints that do not
    /// answer are told to `monitor` and skipped; so are learners; alarms are told.
    ///
    /// # Errors
    /// `Invalid` for a bad endpoint or TLS file; `Unavailable` where nobody answers, `Denied` where credentials are
    /// wanted or wrong; `Refused` for endpoints of two clusters and for learners alone.
    pub async fn pin(options: &EtcdOptions, monitor: &dyn Monitor) -> Result<Self> {
        let chosen = pin::choose(options, monitor).await?;
        let session = chosen.session;
        session.renew_token().await.map_err(|fault| session.error(fault, "authenticate"))?;
        let status = chosen.status;
        let identity = Identity {
            cluster: status.cluster,
            member: status.member,
            name: name_of(&session, status.member).await,
            endpoint: session.endpoint().to_string(),
            version: status.version,
        };
        Ok(Self { session, identity })
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How it is now.
    ///
    /// # Errors
    /// As every question: `Unavailable`, `Denied`; `Refused` where another member answers.
    pub async fn status(&self) -> Result<MemberStatus> {
        let status = ask_status(&self.session).await.map_err(|fault| self.session.error(fault, "read its status"))?;
        self.check_ids(status.cluster, status.member)?;
        Ok(status)
    }

    /// The cluster's current revision, which this member has applied when this returns: a linearizable read through
    /// it. 1 where nothing was ever written.
    ///
    /// # Errors
    /// As every question; `Unavailable` also where the cluster has no quorum.
    pub async fn linearizable_revision(&self) -> Result<Revision> {
        let question = RangeRequest { key: NO_KEY.into(), limit: 1, keys_only: true, ..Default::default() };
        let answer = self.range(question).await.map_err(|fault| self.session.error(fault, "read its revision"))?;
        self.check_header(answer.header.as_ref())?;
        Ok(Revision(answer.header.unwrap_or_default().revision))
    }

    /// Begins to stream the member's database. The server forces a commit first, so that the image holds at least
    /// the revision that [`Self::linearizable_revision`] gave before.
    ///
    /// # Errors
    /// As every question; `Denied` where the user is not root.
    pub async fn snapshot(&self) -> Result<SnapshotStream> {
        SnapshotStream::open(&self.session).await
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Refuses an answer that another member gave.
    pub(super) fn check_header(&self, header: Option<&ResponseHeader>) -> Result<()> {
        let header = header.copied().unwrap_or_default();
        self.check_ids(ClusterId(header.cluster_id), MemberId(header.member_id))
    }

    fn check_ids(&self, cluster: ClusterId, member: MemberId) -> Result<()> {
        let Identity { cluster: pinned_cluster, member: pinned, endpoint, .. } = &self.identity;
        if (cluster, member) == (*pinned_cluster, *pinned) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Refused,
            format!(
                "{endpoint}: member {member} of cluster {cluster} answered where member {pinned} of cluster \
                 {pinned_cluster} was asked"
            ),
        )
        .hint(
            "a load balancer or a service name stands before several members: name a member's own URL in --endpoints",
        ))
    }

    pub(super) async fn range(&self, question: RangeRequest) -> Result<RangeResponse, Fault> {
        let limit = self.session.request_timeout();
        self.session
            .ask(question, limit, |channel, request| async move { KvClient::new(channel).range(request).await })
            .await
    }
}

/// A name is an ornament of the backup: a denial costs no more than that.
async fn name_of(session: &Session, member: MemberId) -> Option<String> {
    let question = MemberListRequest { linearizable: false };
    let answer = session
        .ask(question, session.request_timeout(), |channel, request| async move {
            ClusterClient::new(channel).member_list(request).await
        })
        .await
        .ok()?;
    let listed = answer.members.into_iter().find(|listed| listed.id == member.0)?;
    (!listed.name.is_empty()).then_some(listed.name)
}
