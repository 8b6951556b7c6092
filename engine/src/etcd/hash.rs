//! etcd's hash of its records, at one revision.

use std::time::{Duration, Instant};

use etcdbr_proto::etcdserverpb::HashKvRequest;
use etcdbr_proto::etcdserverpb::maintenance_client::MaintenanceClient;

use super::member::Member;
use crate::error::Result;
use crate::revision::Revision;

/// The member reads its whole database for the answer: 0.6 s a GiB from memory, much longer from a slow disk.
const HASH_TIMEOUT: Duration = Duration::from_secs(120);

/// The revision to hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAt {
    /// What the member is at.
    Current,
    /// This one. One that is or was a compaction's may be answered from a cache, with the compact revision before.
    Revision(Revision),
}

/// The member's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashAnswer {
    /// CRC-32C over the records.
    pub hash: u32,
    /// The compaction that it assumes; `None` where nothing was ever compacted.
    pub compact_revision: Option<Revision>,
    /// The revision that was hashed, as etcd says from 3.6 on.
    pub hash_revision: Option<Revision>,
    /// The member's revision when it answered.
    pub header_revision: Revision,
    /// From question to answer.
    pub took: Duration,
}

impl Member {
    /// etcd's own hash of all records. Stalls the member's writes (0.6 s a GiB): ask rarely, and a follower.
    ///
    /// # Errors
    /// As every question; `NotFound` for a revision that is compacted.
    pub async fn hash_kv(&self, at: HashAt) -> Result<HashAnswer> {
        let revision = match at {
            HashAt::Current => 0,
            HashAt::Revision(revision) => revision.0,
        };
        let begun = Instant::now();
        let answer = self
            .session()
            .ask(HashKvRequest { revision }, HASH_TIMEOUT, |channel, request| async move {
                MaintenanceClient::new(channel).hash_kv(request).await
            })
            .await
            .map_err(|fault| self.session().error(fault, "read its HashKV"))?;
        let took = begun.elapsed();
        self.check_header(answer.header.as_ref())?;
        Ok(HashAnswer {
            hash: answer.hash,
            compact_revision: (answer.compact_revision > 0).then_some(Revision(answer.compact_revision)),
            hash_revision: (answer.hash_revision > 0).then_some(Revision(answer.hash_revision)),
            header_revision: Revision(answer.header.unwrap_or_default().revision),
            took,
        })
    }
}
