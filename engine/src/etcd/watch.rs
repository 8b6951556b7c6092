//! Everything that happens in etcd, from one revision on, as etcd itself records it.
//!
//! A [`WatchStream`] gives whole revisions without a gap, or it ends and says why. A new one at
//! [`WatchStream::next_revision`] goes on where it ended, also at another member of the same cluster: what was only
//! partly given is given again, and what was given before is dropped.

use std::fmt;

use etcdbr_proto::etcdserverpb::WatchResponse;

use super::assemble::{Assembler, Flaw, Revisions};
use super::fault::{self, Fault};
use super::feed::Feed;
use super::member::Member;
use super::probe::Readable;
use super::session::MESSAGE_BYTES_MAX;
use crate::error::{Error, ErrorKind};
use crate::revision::Revision;

const ACTION: &str = "watch";

/// What a watch may take of our memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchLimits {
    /// The most bytes that one revision may take; a larger one ends the watch. Beside it there is at most one
    /// response of etcd's (2 MiB, or etcd's `--max-request-bytes` and half a MiB), and what the connection may have
    /// in flight (8 MiB).
    pub revision_bytes_max: usize,
}

impl WatchLimits {
    /// Default of `revision_bytes_max`: sixty requests of etcd's default size.
    pub const REVISION_BYTES_MAX: usize = 96 << 20;
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self { revision_bytes_max: Self::REVISION_BYTES_MAX }
    }
}

/// Why a watch has ended. What it gave before remains true.
#[derive(Debug)]
pub enum WatchEnd {
    /// Revisions that were not given yet are compacted, or may have lost records to a compaction at the first of
    /// them: at `at`, where the member said so. No watch can give them any more.
    Compacted {
        /// The compact revision.
        at: Option<Revision>,
    },
    /// The watch passed revisions by: events of `expected` were due, and `got` came. That is loss, or the jump of a
    /// restore with a revision bump.
    Gap {
        /// The first missing revision.
        expected: Revision,
        /// The revision that came instead.
        got: Revision,
    },
    /// What the member sent of `revision` cannot be true. A new watch may give it right.
    Contradiction {
        /// The revision.
        revision: Revision,
        /// What is wrong.
        why: &'static str,
    },
    /// A revision, or one message of etcd's, is larger than it may be.
    TooLarge {
        /// The revision.
        revision: Revision,
        /// The limit.
        limit_bytes: usize,
    },
    /// etcd ended the watch, for this reason.
    Cancelled {
        /// In etcd's words.
        reason: String,
    },
    /// The member is gone, has lost its leader, or does not answer: it may come back, and others may be there.
    Unavailable(Error),
    /// The token has expired and a new one did not help; or the user may not read everything.
    Denied(Error),
    /// The member may not be asked: it is a learner, or it is another one than was pinned.
    Refused(Error),
}

impl fmt::Display for WatchEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compacted { at: Some(at) } => write!(f, "etcd has compacted what follows, at revision {at}"),
            Self::Compacted { at: None } => f.write_str("etcd has compacted what follows"),
            Self::Gap { expected, got } => write!(f, "the watch gave revision {got} where {expected} was due"),
            Self::Contradiction { revision, why } => write!(f, "the watch gave revision {revision} wrong: {why}"),
            Self::TooLarge { revision, limit_bytes } => {
                write!(f, "revision {revision} takes more than {limit_bytes} bytes")
            }
            Self::Cancelled { reason } => write!(f, "etcd cancelled the watch: {reason}"),
            Self::Unavailable(error) | Self::Denied(error) | Self::Refused(error) => error.fmt(f),
        }
    }
}

impl WatchEnd {
    /// The same for one who cannot go on without the watch.
    pub fn into_error(self) -> Error {
        let kind = match self {
            Self::Unavailable(error) | Self::Denied(error) | Self::Refused(error) => return error,
            Self::Compacted { .. } => ErrorKind::NotFound,
            Self::Gap { .. } | Self::Contradiction { .. } => ErrorKind::Damaged,
            Self::TooLarge { .. } => ErrorKind::Refused,
            Self::Cancelled { .. } => ErrorKind::Unavailable,
        };
        Error::new(kind, self.to_string())
    }
}

impl From<Error> for WatchEnd {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Unavailable => Self::Unavailable(error),
            ErrorKind::Denied => Self::Denied(error),
            _ => Self::Refused(error),
        }
    }
}

impl From<Flaw> for WatchEnd {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Gap { expected, got } => Self::Gap { expected, got },
            Flaw::Contradiction { revision, why } => Self::Contradiction { revision, why },
            Flaw::TooLarge { revision, limit_bytes } => Self::TooLarge { revision, limit_bytes },
        }
    }
}

impl Member {
    /// Opens a watch on everything from `start` on (1 and below: from the first write). It is registered at the
    /// member when this returns. `start` may lie ahead of the member: it is silent until it gets there.
    ///
    /// # Errors
    /// Why there is none; [`WatchEnd::Compacted`] too where `start` is the compact revision itself, of which old
    /// versions lose records without a word.
    pub async fn watch(&self, start: Revision, limits: WatchLimits) -> Result<WatchStream, WatchEnd> {
        let start = start.max(Revision::EMPTY.next());
        let feed = Feed::open(self.session(), start).await.map_err(|fault| end_of(self, fault, start))?;
        let stream = WatchStream {
            member: self.clone(),
            feed: Some(feed),
            assembler: Assembler::new(start, limits.revision_bytes_max),
            held: None,
            end: None,
            next: start,
        };
        // Asked after the watch was registered: a compaction that comes later is told to it.
        stream.prove_uncompacted(start).await?;
        Ok(stream)
    }
}

/// All revisions from one on; dropped, it ends at the member too.
///
/// It reads only when it is asked: one that is not asked for long is a burden to etcd, and should be dropped.
pub struct WatchStream {
    member: Member,
    /// None once it has ended.
    feed: Option<Feed>,
    assembler: Assembler,
    /// Whole revisions that wait for their proof.
    held: Option<Revisions>,
    /// The end that follows on what is held.
    end: Option<WatchEnd>,
    /// The first revision that was not given out.
    next: Revision,
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WatchStream({}, next {})", self.member.identity().endpoint, self.next)
    }
}

impl WatchStream {
    /// The next revisions, as many as are there, each whole. Waits for as long as nothing happens in etcd. A call
    /// that is dropped while it waits loses nothing.
    ///
    /// # Errors
    /// Why no more follow; the watch is gone from the member by then.
    pub async fn next(&mut self) -> Result<Revisions, WatchEnd> {
        let advanced = self.advance().await;
        match &advanced {
            Ok(revisions) => self.next = revisions.last.next(),
            Err(_) => self.close(),
        }
        advanced
    }

    /// The first revision that was not given: where another watch goes on.
    pub fn next_revision(&self) -> Revision {
        self.next
    }

    async fn advance(&mut self) -> Result<Revisions, WatchEnd> {
        loop {
            if let Some(held) = &self.held {
                self.prove_uncompacted(held.first).await?;
                if let Some(revisions) = self.held.take() {
                    return Ok(revisions);
                }
            }
            if let Some(end) = self.end.take() {
                return Err(end);
            }
            let Some(feed) = &mut self.feed else {
                let message = "a watch that has ended was read on";
                return Err(WatchEnd::Refused(Error::new(ErrorKind::Internal, message)));
            };
            let response = feed.next().await.map_err(|fault| end_of(&self.member, fault, self.next))?;
            self.take(response)?;
        }
    }

    fn take(&mut self, response: WatchResponse) -> Result<(), WatchEnd> {
        if response.canceled {
            return Err(cancellation(&self.member, &response, self.next));
        }
        self.member.check_header(response.header.as_ref())?;
        let (revisions, flaw) = self.assembler.take(response);
        self.held = revisions;
        self.end = flaw.map(Into::into);
        Ok(())
    }

    /// Refuses revisions from `first` on where `first` is the compact revision or lies before it. A watch that is
    /// late reads its member's database, and in that old versions do not find the tombstones of the compact revision
    /// itself (before 3.4.34 and 3.5.16). A watch that is not late is given its events as they are made, and is not
    /// asked about: a response of several revisions, or from the past, is a late watch's.
    async fn prove_uncompacted(&self, first: Revision) -> Result<(), WatchEnd> {
        let live = self.held.as_ref().is_some_and(|held| held.first == held.last && held.last == held.member_revision);
        if live {
            return Ok(());
        }
        match self.member.readable(Revision(first.0 - 1)).await? {
            // No compaction can be ahead of the member.
            Readable::Yes | Readable::NotYet => Ok(()),
            // Where, is for the operator: without it the end is the same.
            Readable::Compacted => {
                Err(WatchEnd::Compacted { at: self.member.compact_revision().await.unwrap_or_default() })
            }
        }
    }

    fn close(&mut self) {
        self.feed = None;
        self.held = None;
        self.end = None;
    }
}

/// Why etcd cancelled, when `next` was due.
fn cancellation(member: &Member, response: &WatchResponse, next: Revision) -> WatchEnd {
    if response.compact_revision > 0 {
        return WatchEnd::Compacted { at: Some(Revision(response.compact_revision)) };
    }
    let fault = fault::cancelled(&response.cancel_reason);
    match end_of(member, fault, next) {
        WatchEnd::Unavailable(_) => WatchEnd::Cancelled { reason: response.cancel_reason.clone() },
        end => end,
    }
}

fn end_of(member: &Member, fault: Fault, next: Revision) -> WatchEnd {
    if fault.is_compacted() {
        return WatchEnd::Compacted { at: None };
    }
    if fault.is_too_large() {
        return WatchEnd::TooLarge { revision: next, limit_bytes: MESSAGE_BYTES_MAX };
    }
    member.session().error(fault, ACTION).into()
}
