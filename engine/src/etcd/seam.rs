//! The records of one revision, as a watch gives them: the seam between a full and what follows it.
//!
//! A watch of the whole key space delivers a transaction's changes in the order of their sub-revisions, so that the
//! n-th event of a revision is its record n; nothing less than the whole key space would. A seam is a proof, not
//! data: the image holds the same records. So where it is not to be had the full goes on without it.

use std::fmt;
use std::time::Duration;

use etcdbr_proto::etcdserverpb::watch_client::WatchClient;
use etcdbr_proto::etcdserverpb::watch_request::RequestUnion;
use etcdbr_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use etcdbr_proto::mvccpb::event::EventType;
use etcdbr_proto::mvccpb::{Event, KeyValue};
use futures::{StreamExt, stream};
use prost::Message;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Streaming};

use super::fault::{self, Fault};
use super::member::Member;
use super::session::MESSAGE_BYTES_MAX;
use crate::error::Result;
use crate::record::{Change, Record};
use crate::revision::Revision;

/// How long the watch is given at most (less where a request is given less). etcd serves late watchers every 100 ms; an etcd that needs seconds is in trouble.
pub const SEAM_WAIT: Duration = Duration::from_secs(10);

/// The most that a seam may take in memory. It is held while the image is streamed and is encoded into the footer,
/// so it counts against the memory of a backup; ten requests of etcd's default size fit. A larger transaction (the
/// delete of a hundred thousand keys at once) goes without a proof, and the next full has one.
pub const SEAM_BYTES_MAX: usize = 16 << 20;

/// First and last key of a watch on everything.
const WHOLE_KEY_SPACE: &[u8] = b"\0";

const ACTION: &str = "watch";

/// What is known of the records at a seam.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeamCapture {
    /// The seam.
    pub revision: Revision,
    /// All records of that revision in order of `sub` where it is proven; none otherwise.
    pub records: Vec<Record>,
    /// Whether they are known.
    pub proof: Proof,
}

/// Whether the records of a seam are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// All of them.
    Proven,
    /// None, for this reason.
    Unproven(Unproven),
}

/// Why a seam has no records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unproven {
    /// Nothing was ever written.
    NothingWritten,
    /// The revision is compacted, or is the compaction's own, of which old etcds lose tombstones.
    Compacted,
    /// The watch did not give them within [`SEAM_WAIT`].
    Silent,
    /// They would take more than [`SEAM_BYTES_MAX`].
    TooLarge,
    /// The watch passed the revision by, or gave an event that is no change of a key.
    Incomplete,
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingWritten => "nothing was ever written",
            Self::Compacted => "the revision is compacted",
            Self::Silent => "the watch gave no records in time",
            Self::TooLarge => "the transaction is too large",
            Self::Incomplete => "the watch did not give all records",
        })
    }
}

impl Member {
    /// The records of `revision` as a watch gives them, which is what proves later that capture met this history.
    /// `revision` is what [`Self::linearizable_revision`] gave. Waits [`SEAM_WAIT`] at most and keeps
    /// [`SEAM_BYTES_MAX`] at most; where the records are not to be had it says so and is no error.
    ///
    /// # Errors
    /// As every question.
    pub async fn seam(&self, revision: Revision) -> Result<SeamCapture> {
        let unproven = |reason| Ok(SeamCapture { revision, records: Vec::new(), proof: Proof::Unproven(reason) });
        if revision <= Revision::EMPTY {
            return unproven(Unproven::NothingWritten);
        }
        let before = Revision(revision.0 - 1);
        if !self.is_readable(before).await? {
            return unproven(Unproven::Compacted);
        }
        let mut collector = Collector::new(revision);
        let wait = SEAM_WAIT.min(self.session().request_timeout());
        let watched = match timeout(wait, collect(self, &mut collector)).await {
            Ok(outcome) => outcome?,
            Err(_) => Outcome::Unproven(Unproven::Silent),
        };
        // The watch is dropped by now.
        match watched {
            Outcome::Unproven(reason) => unproven(reason),
            // Asked again, because a compaction at the very revision may have come between and cancels no watch.
            Outcome::Complete if self.is_readable(before).await? => {
                Ok(SeamCapture { revision, records: collector.records, proof: Proof::Proven })
            }
            Outcome::Complete => unproven(Unproven::Compacted),
        }
    }
}

/// How a collection ends.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Complete,
    Unproven(Unproven),
}

async fn collect(member: &Member, collector: &mut Collector) -> Result<Outcome> {
    let mut watch = OpenWatch::open(member, collector.revision).await?;
    loop {
        let failed = |fault| member.session().error(fault, ACTION);
        let Some(response) = watch.responses.message().await.map_err(|status| failed(status.into()))? else {
            return Ok(Outcome::Unproven(Unproven::Incomplete));
        };
        if response.canceled {
            if response.compact_revision > 0 {
                return Ok(Outcome::Unproven(Unproven::Compacted));
            }
            return Err(failed(fault::cancelled(&response.cancel_reason)));
        }
        member.check_header(response.header.as_ref())?;
        if let Some(outcome) = collector.take(response) {
            return Ok(outcome);
        }
    }
}

/// A watch on the whole key space; dropped, it ends at the server too.
struct OpenWatch {
    responses: Streaming<WatchResponse>,
    /// Ends the request stream. The HTTP/2 stream is reset only once both its halves are let go: without this the
    /// sending half would stay, and with it a watcher that nobody reads.
    _requests: DropGuard,
}

impl OpenWatch {
    async fn open(member: &Member, start: Revision) -> Result<Self> {
        let create = WatchCreateRequest {
            key: WHOLE_KEY_SPACE.into(),
            range_end: WHOLE_KEY_SPACE.into(),
            start_revision: start.0,
            // Without it one response may hold a thousand transactions.
            fragment: true,
            ..Default::default()
        };
        let session = member.session();
        let closing = CancellationToken::new();
        let requests = closing.clone().drop_guard();
        let opened = session.ask(create, session.request_timeout(), |channel, request| {
            let closed = closing.clone().cancelled_owned();
            async move {
                let (metadata, extensions, create) = request.into_parts();
                let first = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
                let requests = stream::iter([first]).chain(stream::pending()).take_until(Box::pin(closed));
                WatchClient::new(channel)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .watch(Request::from_parts(metadata, extensions, requests))
                    .await
            }
        });
        let responses = opened.await.map_err(|fault: Fault| session.error(fault, ACTION))?;
        Ok(Self { responses, _requests: requests })
    }
}

/// Gathers the events of one revision over responses and their fragments.
struct Collector {
    revision: Revision,
    records: Vec<Record>,
    held_bytes: usize,
}

impl Collector {
    fn new(revision: Revision) -> Self {
        Self { revision, records: Vec::new(), held_bytes: 0 }
    }

    /// Takes one response; says when it was the last that is needed. The header's revision plays no part: it is
    /// the server's, far ahead of the events of a late watcher.
    fn take(&mut self, response: WatchResponse) -> Option<Outcome> {
        for event in response.events {
            let Some(kv) = event.kv.as_ref() else { return Some(Outcome::Unproven(Unproven::Incomplete)) };
            match kv.mod_revision.cmp(&self.revision.0) {
                // Some versions repeat older events.
                std::cmp::Ordering::Less => continue,
                std::cmp::Ordering::Greater => return Some(self.end()),
                std::cmp::Ordering::Equal => {}
            }
            let sub = i64::try_from(self.records.len()).unwrap_or(i64::MAX);
            let Some(record) = record(self.revision, sub, event) else {
                return Some(Outcome::Unproven(Unproven::Incomplete));
            };
            self.held_bytes += size_of::<Record>() + record.value.len();
            if self.held_bytes > SEAM_BYTES_MAX {
                self.records = Vec::new();
                return Some(Outcome::Unproven(Unproven::TooLarge));
            }
            self.records.push(record);
        }
        // Only fragments split a revision, and the last fragment says that it is the last.
        (!response.fragment && !self.records.is_empty()).then_some(Outcome::Complete)
    }

    /// A later revision has begun. Every revision has an event, so none of ours means that they were lost.
    fn end(&self) -> Outcome {
        if self.records.is_empty() { Outcome::Unproven(Unproven::Incomplete) } else { Outcome::Complete }
    }
}

/// The record that `event` leaves in etcd's `key` bucket: a put's `KeyValue` as it is, of a delete the key alone.
fn record(main: Revision, sub: i64, event: Event) -> Option<Record> {
    let kind = EventType::try_from(event.r#type).ok()?;
    let kv = event.kv?;
    let (change, stored) = match kind {
        EventType::Put => (Change::Put, kv),
        EventType::Delete => (Change::Tombstone, KeyValue { key: kv.key, ..Default::default() }),
    };
    Some(Record { main, sub, change, value: stored.encode_to_vec().into() })
}

#[cfg(test)]
mod tests {
    use etcdbr_proto::etcdserverpb::ResponseHeader;

    use super::*;

    fn event(kind: EventType, key: &str, revision: i64) -> Event {
        let put = kind == EventType::Put;
        let kv = KeyValue {
            key: key.to_owned().into(),
            create_revision: if put { revision } else { 0 },
            mod_revision: revision,
            version: i64::from(put),
            value: if put { "v".into() } else { "".into() },
            lease: 0,
        };
        Event { r#type: kind.into(), kv: Some(kv), prev_kv: None }
    }

    fn response(fragment: bool, events: Vec<Event>) -> WatchResponse {
        let header = Some(ResponseHeader { revision: 1_000_000, ..Default::default() });
        WatchResponse { header, fragment, events, ..Default::default() }
    }

    #[test]
    fn records_are_what_the_key_bucket_holds() {
        let put = record(Revision(5), 0, event(EventType::Put, "a", 5)).unwrap();
        assert_eq!(put.value.as_ref(), b"\x0a\x01a\x10\x05\x18\x05\x20\x01\x2a\x01v");
        let deleted = record(Revision(5), 1, event(EventType::Delete, "b", 5)).unwrap();
        assert_eq!((deleted.value.as_ref(), deleted.change), (b"\x0a\x01b".as_ref(), Change::Tombstone));
    }

    #[test]
    fn fragments_are_joined_and_sub_counts_on() {
        let mut collector = Collector::new(Revision(5));
        assert_eq!(collector.take(WatchResponse { created: true, ..response(false, vec![]) }), None);
        let older = event(EventType::Put, "old", 4);
        assert_eq!(collector.take(response(true, vec![older, event(EventType::Put, "a", 5)])), None);
        assert_eq!(collector.take(response(true, vec![event(EventType::Delete, "b", 5)])), None);
        let last = response(false, vec![event(EventType::Put, "c", 5)]);
        assert_eq!(collector.take(last), Some(Outcome::Complete));
        assert_eq!(collector.records.iter().map(|record| record.sub).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_later_event_ends_a_revision_within_a_fragment() {
        let mut collector = Collector::new(Revision(5));
        let both = response(true, vec![event(EventType::Put, "a", 5), event(EventType::Put, "a", 6)]);
        assert_eq!(collector.take(both), Some(Outcome::Complete));
        assert_eq!(collector.records.len(), 1);
    }

    #[test]
    fn a_revision_that_was_passed_by_is_incomplete() {
        let mut collector = Collector::new(Revision(5));
        let outcome = collector.take(response(false, vec![event(EventType::Put, "a", 6)]));
        assert_eq!(outcome, Some(Outcome::Unproven(Unproven::Incomplete)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut collector = Collector::new(Revision(5));
        let mut big = event(EventType::Put, "a", 5);
        big.kv.as_mut().unwrap().value = vec![0; SEAM_BYTES_MAX / 2].into();
        assert_eq!(collector.take(response(true, vec![big.clone()])), None);
        assert_eq!(collector.take(response(true, vec![big])), Some(Outcome::Unproven(Unproven::TooLarge)));
        assert!(collector.records.is_empty());
    }
}
