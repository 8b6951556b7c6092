//! One watch on the whole key space, as etcd's responses; it is the server's for exactly as long as it is ours.

use etcdbr_proto::etcdserverpb::watch_client::WatchClient;
use etcdbr_proto::etcdserverpb::watch_request::RequestUnion;
use etcdbr_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use futures::{StreamExt, stream};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::MetadataValue;
use tonic::{Request, Streaming};

use super::fault::{self, Fault};
use super::session::{MESSAGE_BYTES_MAX, Session};
use crate::revision::Revision;

/// First and last key of a watch on everything.
const WHOLE_KEY_SPACE: &[u8] = b"\0";
/// Asks etcd to end the watch where the member has lost its leader: such a member would be silent for ever.
const WANTS_LEADER: &str = "hasleader";

/// An open watch; dropped, it ends at the server too.
pub(super) struct Feed {
    responses: Streaming<WatchResponse>,
    /// The answer to the creation, where it says more than that.
    first: Option<WatchResponse>,
    /// Ends the request stream. The HTTP/2 stream is reset only once both its halves are let go: without this the
    /// sending half would stay, and with it a watcher that nobody reads.
    _requests: DropGuard,
}

impl Feed {
    /// Opens a watch from `start` on; it is registered at the member when this returns. A token that has expired is
    /// renewed once: etcd checks it when a watch is created, and answers with a cancellation instead of an error.
    ///
    /// # Errors
    /// What etcd answers.
    pub(super) async fn open(session: &Session, start: Revision) -> Result<Self, Fault> {
        match Self::open_once(session, start).await {
            // Up to some 3.4 and 3.5 the reason is "permission denied" whatever was wrong with the token.
            Err(fault) if session.has_credentials() && (fault.wants_token() || fault.is_denied()) => {
                session.renew_token().await?;
                Self::open_once(session, start).await
            }
            opened => opened,
        }
    }

    async fn open_once(session: &Session, start: Revision) -> Result<Self, Fault> {
        let create = WatchCreateRequest {
            key: WHOLE_KEY_SPACE.into(),
            range_end: WHOLE_KEY_SPACE.into(),
            start_revision: start.0,
            // Without it one response may hold a thousand transactions.
            fragment: true,
            ..Default::default()
        };
        let closing = CancellationToken::new();
        let requests = closing.clone().drop_guard();
        let limit = session.request_timeout();
        let opened = session.ask(create, limit, |channel, request| {
            let closed = closing.clone().cancelled_owned();
            async move {
                let (mut metadata, extensions, create) = request.into_parts();
                metadata.insert(WANTS_LEADER, MetadataValue::from_static("true"));
                let first = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
                let requests = stream::iter([first]).chain(stream::pending()).take_until(Box::pin(closed));
                WatchClient::new(channel)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .watch(Request::from_parts(metadata, extensions, requests))
                    .await
            }
        });
        let mut feed = Self { responses: opened.await?, first: None, _requests: requests };
        let created = timeout(limit, feed.next()).await.map_err(|_| Fault::Deadline(limit))??;
        if created.canceled && created.compact_revision == 0 {
            return Err(fault::cancelled(&created.cancel_reason));
        }
        if created.canceled || !created.events.is_empty() {
            feed.first = Some(created);
        }
        Ok(feed)
    }

    /// The next response. A call that is dropped loses nothing.
    ///
    /// # Errors
    /// A fault where the stream ends: nothing follows it.
    pub(super) async fn next(&mut self) -> Result<WatchResponse, Fault> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        self.responses.message().await?.ok_or(Fault::Ended)
    }
}
