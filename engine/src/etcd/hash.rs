//! etcd's hash of its records, at one revision.

use std::time::{Duration, Instant};

use etcdbr_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use etcdbr_proto::etcdserverpb::{HashKvRequest, HashKvResponse};

use super::fault::Fault;
use super::member::Member;
use super::probe::Readable;
use crate::error::{ErrorKind, Result};
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

/// What came of asking for the HashKV of a seam.
#[derive(Debug)]
pub struct SeamHash {
    /// From question to answer, also where it was none.
    pub took: Duration,
    /// An answer for the seam's revision that holds for whoever has the records; or why there is none.
    pub answer: Result<HashAnswer, String>,
}

impl Member {
    /// etcd's own hash of all records. Stalls the member's writes (0.6 s a GiB): ask rarely, and a follower.
    ///
    /// # Errors
    /// As every question; `NotFound` for a revision that is compacted.
    pub async fn hash_kv(&self, at: HashAt) -> Result<HashAnswer> {
        let begun = Instant::now();
        let answer = self.ask_hash(at).await.map_err(|fault| self.session().error(fault, "read its HashKV"))?;
        self.check_header(answer.header.as_ref())?;
        Ok(read(&answer, begun.elapsed()))
    }

    /// The hash of `seam`'s revision, after the image was streamed. Whatever is in the way of it is no error of this.
    ///
    /// A revision that is or was a compaction's is answered from a cache, which knows the compaction before it: such an
    /// answer is of other records than the image has. So an answer counts only where it names the seam itself as its
    /// compaction, or where the revision before the seam is still there to be read: then nothing at or above the seam
    /// was ever compacted.
    ///
    /// # Errors
    /// `Refused` where another member answers.
    pub async fn hash_kv_at_seam(&self, seam: Revision) -> Result<SeamHash> {
        let begun = Instant::now();
        let asked = self.ask_hash(HashAt::Revision(seam)).await;
        let took = begun.elapsed();
        let none = |why: String| Ok(SeamHash { took, answer: Err(why) });
        let answer = match asked {
            Ok(answer) => answer,
            Err(fault) if fault.is_compacted() => return none(format!("revision {seam} is compacted")),
            Err(fault) => return none(self.session().error(fault, "read its HashKV").to_string()),
        };
        self.check_header(answer.header.as_ref())?;
        let answer = read(&answer, took);
        if answer.hash_revision.is_some_and(|hashed| hashed != seam) {
            return none(format!("revision {seam} was asked, another one answered"));
        }
        if answer.compact_revision != Some(seam) && seam > Revision::EMPTY {
            match self.readable(Revision(seam.0 - 1)).await {
                Ok(Readable::Yes) => {}
                Ok(_) => return none(format!("revision {seam} is one that the member is compacted at")),
                Err(error) if error.kind() == ErrorKind::Refused => return Err(error),
                Err(error) => return none(error.to_string()),
            }
        }
        Ok(SeamHash { took, answer: Ok(answer) })
    }

    async fn ask_hash(&self, at: HashAt) -> Result<HashKvResponse, Fault> {
        let revision = match at {
            HashAt::Current => 0,
            HashAt::Revision(revision) => revision.0,
        };
        let question = HashKvRequest { revision };
        self.session()
            .ask(question, HASH_TIMEOUT, |channel, request| async move {
                MaintenanceClient::new(channel).hash_kv(request).await
            })
            .await
    }
}

fn read(answer: &HashKvResponse, took: Duration) -> HashAnswer {
    HashAnswer {
        hash: answer.hash,
        compact_revision: (answer.compact_revision > 0).then_some(Revision(answer.compact_revision)),
        hash_revision: (answer.hash_revision > 0).then_some(Revision(answer.hash_revision)),
        header_revision: Revision(answer.header.unwrap_or_default().revision),
        took,
    }
}
