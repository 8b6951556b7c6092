//! Small questions about what was compacted; each costs etcd one look into its index, or less.

use std::time::Duration;

use etcdbr_proto::etcdserverpb::RangeRequest;
use tokio::time::timeout;

use super::fault::{self, Fault};
use super::feed::Feed;
use super::member::{Member, NO_KEY};
use super::session::Session;
use crate::error::Result;
use crate::revision::Revision;

/// Whether a revision can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// It can: no compaction is above it.
    Yes,
    /// A compaction is above it.
    Compacted,
    /// The member has not got there.
    NotYet,
}

impl Member {
    /// Whether `revision` (1 at least) can be read at this member, as it is: it may lag.
    ///
    /// # Errors
    /// As every question.
    pub async fn readable(&self, revision: Revision) -> Result<Readable> {
        let question = RangeRequest {
            key: NO_KEY.into(),
            limit: 1,
            revision: revision.0,
            serializable: true,
            keys_only: true,
            ..Default::default()
        };
        match self.range(question).await {
            Ok(answer) => self.check_header(answer.header.as_ref()).map(|()| Readable::Yes),
            Err(fault) if fault.is_compacted() => Ok(Readable::Compacted),
            Err(fault) if fault.is_ahead() => Ok(Readable::NotYet),
            Err(fault) => Err(self.session().error(fault, "read a revision")),
        }
    }

    /// The compact revision; `None` where nothing was ever compacted. No answer of etcd's names it but the
    /// cancellation of a watch on what is gone; and where nothing is gone, such a watch would read everything: so a
    /// read at revision 1 comes first.
    ///
    /// # Errors
    /// As every question.
    pub async fn compact_revision(&self) -> Result<Option<Revision>> {
        if self.readable(Revision::EMPTY).await? != Readable::Compacted {
            return Ok(None);
        }
        let limit = self.session().request_timeout();
        let cancelled = timeout(limit, cancellation(self.session(), limit)).await;
        let revision = cancelled.unwrap_or(Err(Fault::Deadline(limit)));
        revision.map(Some).map_err(|fault| self.session().error(fault, "read its compact revision"))
    }
}

/// Opens a watch on what is compacted and waits until it is cancelled for that.
async fn cancellation(session: &Session, limit: Duration) -> Result<Revision, Fault> {
    let mut feed = Feed::open(session, Revision::EMPTY).await?;
    loop {
        let response = feed.next().await?;
        match (response.canceled, response.compact_revision) {
            (_, revision) if revision > 0 => return Ok(Revision(revision)),
            (true, _) => return Err(fault::cancelled(&response.cancel_reason)),
            // Events, where everything should be gone: let go at once.
            (false, _) if !response.events.is_empty() => return Err(Fault::Deadline(limit)),
            (false, _) => {}
        }
    }
}
