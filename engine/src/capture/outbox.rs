//! Sealed deltas on their way into the store.
//!
//! What was captured is kept until the store has it, however long that takes; etcd is not asked to wait. A few uploads
//! are under way at once, and each is repeated until it succeeds: a name has its own nonce, so that a repeated PUT
//! writes the same bytes again.
//!
//! # Why durable means durable
//! The durable revision moves only when an upload has been acknowledged, and only over deltas all of whose
//! predecessors have been: the oldest is always waited for first. Deltas of a lineage whose first full is not durable
//! are held back, because a lineage opens with its full.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::archive::{Archive, SealedDelta};
use crate::error::{Error, ErrorKind, Result};
use crate::format::NameKind;
use crate::monitor::Event;
use crate::revision::Revision;
use crate::run::RunContext;

/// Uploads under way at once.
const PARALLEL_UPLOADS: usize = 4;
/// Between two attempts of an upload, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Memory that a waiting delta takes besides its bytes.
const ENTRY_BYTES: u64 = 1024;

/// Whether the full that opens a lineage is durable; deltas are held back until it is, and dropped if it never will be.
#[derive(Debug, Clone)]
pub struct Gate(watch::Receiver<GateState>);

/// Opens a [`Gate`]; dropped, it condemns what waits behind it.
#[derive(Debug)]
pub struct GateKeeper(watch::Sender<GateState>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GateState {
    Closed,
    Open,
}

impl Gate {
    /// A closed gate.
    pub fn closed() -> (GateKeeper, Self) {
        let (keeper, gate) = watch::channel(GateState::Closed);
        (GateKeeper(keeper), Self(gate))
    }

    /// A gate that is open.
    pub fn open() -> Self {
        Self(watch::channel(GateState::Open).1)
    }

    async fn pass(mut self) -> Result<(), Condemned> {
        self.0.wait_for(|state| *state == GateState::Open).await.map(drop).map_err(|_| Condemned)
    }
}

impl GateKeeper {
    /// The full is durable.
    pub fn open(self) {
        self.0.send_replace(GateState::Open);
    }
}

/// The full that a delta would follow will never be there.
struct Condemned;

struct Waiting {
    delta: SealedDelta,
    gate: Gate,
}

/// Takes sealed deltas and makes them durable, in order.
#[derive(Debug)]
pub struct Outbox {
    deltas: mpsc::UnboundedSender<Waiting>,
    backlog: Backlog,
    limit_bytes: u64,
    uploading: JoinHandle<()>,
}

/// What has been pushed and is not durable yet.
#[derive(Debug, Clone, Default)]
struct Backlog {
    bytes: Arc<AtomicU64>,
    /// First revisions, in the order in which they were pushed.
    firsts: Arc<Mutex<VecDeque<Revision>>>,
}

impl Backlog {
    fn add(&self, delta: &SealedDelta) {
        self.bytes.fetch_add(held_bytes(delta), Ordering::SeqCst);
        self.firsts.lock().unwrap_or_else(PoisonError::into_inner).push_back(delta.facts().revisions.0);
    }

    /// The oldest one, `delta`, is durable, or never will be.
    fn settle(&self, delta: &SealedDelta) {
        self.firsts.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        self.bytes.fetch_sub(held_bytes(delta), Ordering::SeqCst);
    }

    fn holds_up_to(&self, revision: Revision) -> bool {
        self.firsts.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|first| *first <= revision)
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.delta.fmt(f)
    }
}

impl Outbox {
    /// An outbox that is full with `limit_bytes` of sealed deltas.
    pub fn open(archive: Archive, limit_bytes: u64, context: &RunContext) -> Self {
        // What is sent is counted: nobody may send while the outbox is full.
        let (deltas, inbox) = mpsc::unbounded_channel();
        let backlog = Backlog::default();
        let uploading = tokio::spawn(upload_all(archive, inbox, backlog.clone(), context.clone()));
        Self { deltas, backlog, limit_bytes, uploading }
    }

    /// Takes a delta that follows on the one before, to be uploaded once `gate` opens.
    ///
    /// # Errors
    /// `Internal` where the task that uploads has died.
    pub fn push(&self, delta: SealedDelta, gate: Gate) -> Result<()> {
        self.backlog.add(&delta);
        self.deltas
            .send(Waiting { delta, gate })
            .map_err(|_| Error::new(ErrorKind::Internal, "the task that uploads deltas ended by itself"))
    }

    /// Bytes that wait for the store.
    pub fn waiting_bytes(&self) -> u64 {
        self.backlog.bytes.load(Ordering::SeqCst)
    }

    /// Whether a delta with revisions up to `revision` waits for the store.
    pub(super) fn holds_up_to(&self, revision: Revision) -> bool {
        self.backlog.holds_up_to(revision)
    }

    /// Whether nothing more may be captured until the store has taken something.
    pub fn is_full(&self) -> bool {
        self.waiting_bytes() >= self.limit_bytes
    }

    /// Whether so much has been taken that capturing is worth beginning again.
    pub fn has_room(&self) -> bool {
        self.waiting_bytes() <= self.limit_bytes / 2
    }

    /// Waits until everything is durable.
    ///
    /// # Errors
    /// `Unavailable` where that takes longer than `patience`, saying how much is lost.
    pub async fn drain(self, patience: Duration) -> Result<()> {
        let Self { deltas, backlog, mut uploading, .. } = self;
        drop(deltas);
        if tokio::time::timeout(patience, &mut uploading).await.is_ok() {
            return Ok(());
        }
        uploading.abort();
        let bytes = backlog.bytes.load(Ordering::SeqCst);
        let what = format!("{bytes} bytes of deltas could not be stored before the shutdown");
        Err(Error::new(ErrorKind::Unavailable, what)
            .hint("they are lost here, but not to etcd: the next start captures them again, or takes a full"))
    }
}

async fn upload_all(
    archive: Archive,
    mut inbox: mpsc::UnboundedReceiver<Waiting>,
    backlog: Backlog,
    context: RunContext,
) {
    let mut uploads = FuturesOrdered::new();
    let mut more = true;
    while more || !uploads.is_empty() {
        tokio::select! {
            waiting = inbox.recv(), if more && uploads.len() < PARALLEL_UPLOADS => match waiting {
                Some(waiting) => uploads.push_back(upload(&archive, waiting, &context)),
                None => more = false,
            },
            Some((delta, stored)) = uploads.next(), if !uploads.is_empty() => {
                backlog.settle(&delta);
                if let (Ok(()), NameKind::Delta { last, .. }) = (stored, delta.name().kind) {
                    context.monitor.tell(Event::Durable { lineage: delta.name().lineage.to_string(), revision: last });
                }
            },
        }
    }
}

/// Repeats one upload until it succeeds.
async fn upload(archive: &Archive, waiting: Waiting, context: &RunContext) -> (SealedDelta, Result<(), Condemned>) {
    let Waiting { delta, gate } = waiting;
    if let Err(condemned) = gate.pass().await {
        return (delta, Err(condemned));
    }
    let (mut pause, longest) = PAUSES;
    let mut told = false;
    while let Err(error) = archive.put_delta(&delta).await {
        if !told {
            context.warn(format!("a delta waits for the store: {error}"));
            told = true;
        }
        tokio::time::sleep(pause).await;
        pause = longest.min(pause * 2);
    }
    if told {
        context.note(format!("the store has taken {}", delta.name()));
    }
    (delta, Ok(()))
}

fn held_bytes(delta: &SealedDelta) -> u64 {
    delta.stored_bytes() + ENTRY_BYTES
}
