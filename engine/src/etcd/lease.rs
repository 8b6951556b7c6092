//! Leases, of which a watch tells no more than their ids.

use etcdbr_proto::etcdserverpb::lease_client::LeaseClient;
use etcdbr_proto::etcdserverpb::{LeaseLeasesRequest, LeaseTimeToLiveRequest};
use futures::{Stream, StreamExt, stream};

use super::member::Member;
use super::session::MESSAGE_BYTES_MAX;
use crate::error::Result;

/// How many leases are asked about at once: followers pass each question on to the leader, which has other work.
const ASKED_AT_ONCE: usize = 8;

impl Member {
    /// The ids of all leases that are alive, in no order. Memory: about 50 bytes each, while they arrive.
    ///
    /// # Errors
    /// As every question; `Refused` from a learner.
    pub async fn leases(&self) -> Result<Vec<i64>> {
        let session = self.session();
        let answer = session
            .ask(LeaseLeasesRequest {}, session.request_timeout(), |channel, request| async move {
                LeaseClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).lease_leases(request).await
            })
            .await
            .map_err(|fault| session.error(fault, "list its leases"))?;
        self.check_header(answer.header.as_ref())?;
        Ok(answer.leases.into_iter().map(|lease| lease.id).collect())
    }

    /// The TTL in seconds that lease `id` was granted with; `None` where it is gone.
    ///
    /// # Errors
    /// As every question; `Unavailable` also where there is no leader.
    pub async fn lease_ttl_s(&self, id: i64) -> Result<Option<i64>> {
        let session = self.session();
        let question = LeaseTimeToLiveRequest { id, keys: false };
        let answer = session
            .ask(question, session.request_timeout(), |channel, request| async move {
                LeaseClient::new(channel).lease_time_to_live(request).await
            })
            .await;
        match answer {
            Ok(answer) => {
                self.check_header(answer.header.as_ref())?;
                // One that has expired and is not yet revoked still has its TTL.
                Ok((answer.granted_ttl > 0).then_some(answer.granted_ttl))
            }
            Err(fault) if fault.is_unknown_lease() => Ok(None),
            Err(fault) => Err(session.error(fault, "read a lease")),
        }
    }

    /// [`Self::lease_ttl_s`] of each of `ids`, in the order of the answers; eight are asked at once, and no more
    /// than the stream is read.
    pub fn lease_ttls_s<'a>(
        &'a self,
        ids: impl IntoIterator<Item = i64, IntoIter: 'a>,
    ) -> impl Stream<Item = Result<(i64, Option<i64>)>> + 'a {
        let asked = move |id| async move { Ok((id, self.lease_ttl_s(id).await?)) };
        stream::iter(ids).map(asked).buffer_unordered(ASKED_AT_ONCE)
    }
}
