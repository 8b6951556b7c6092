//! Sealed deltas on their way into the store.
//!
//! What was captured is kept until the store has it, however long that takes; etcd is not asked to wait. A few uploads
//! are under way at once, and each is repeated until it succeeds: a name has its own nonce, so that a repeated PUT
//! writes the same bytes again. What waits behind them is merged into wider deltas when its turn comes, so that an outage
//! of an hour does not become hundreds of objects. What was sent once is never merged: it may be there already.
//!
//! # Why durable means durable
//! The durable revision moves only when an upload has been acknowledged, and only over deltas all of whose
//! predecessors have been: the oldest is always waited for first. Deltas of a lineage whose first full is not durable
//! are held back, because a lineage opens with its full.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::gauges::{Gauges, StoredKind};
use crate::archive::{Archive, SealedDelta};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{LineageId, TimeMark};
use crate::monitor::Event;
use crate::revision::Revision;
use crate::run::{RunContext, blocking};

/// Uploads under way at once.
const PARALLEL_UPLOADS: usize = 4;
/// Between two attempts of an upload, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// A delta that many were merged into has so many stored bytes, and parts, at most: it is made in memory.
const MERGED_BYTES: u64 = 8 << 20;
const MERGED_PARTS: usize = 4096;
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

    /// Whether it never will open.
    pub fn is_condemned(&self) -> bool {
        self.0.has_changed().is_err() && *self.0.borrow() == GateState::Closed
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
    place: Place,
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
    /// First revisions, in the order in which they were pushed, by the number of the push.
    firsts: Arc<Mutex<BTreeMap<u64, Revision>>>,
    gauges: Gauges,
}

impl Backlog {
    /// The number of this push.
    fn add(&self, delta: &SealedDelta) -> u64 {
        self.bytes.fetch_add(held_bytes(delta), Ordering::SeqCst);
        self.show();
        let mut firsts = self.firsts();
        let number = firsts.last_key_value().map_or(0, |(last, _)| last + 1);
        firsts.insert(number, delta.facts().revisions.0);
        number
    }

    /// It is durable, or never will be.
    fn settle(&self, place: &Place) {
        self.firsts().remove(&place.number);
        self.bytes.fetch_sub(place.bytes, Ordering::SeqCst);
        self.show();
    }

    fn show(&self) {
        let bytes = self.bytes.load(Ordering::SeqCst);
        self.gauges.note(|figures| figures.waiting_bytes = bytes);
    }

    fn holds_up_to(&self, revision: Revision) -> bool {
        self.firsts().values().any(|first| *first <= revision)
    }

    fn firsts(&self) -> MutexGuard<'_, BTreeMap<u64, Revision>> {
        self.firsts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a delta takes in the backlog.
#[derive(Debug, Clone, Copy)]
struct Place {
    number: u64,
    bytes: u64,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.delta.fmt(f)
    }
}

impl Outbox {
    /// An outbox that is full with `limit_bytes` of sealed deltas.
    pub fn open(archive: Archive, limit_bytes: u64, gauges: Gauges, context: &RunContext) -> Self {
        // What is sent is counted: nobody may send while the outbox is full.
        let (deltas, inbox) = mpsc::unbounded_channel();
        gauges.note(|figures| figures.waiting_limit_bytes = limit_bytes);
        let backlog = Backlog { gauges, ..Backlog::default() };
        let uploading = tokio::spawn(upload_all(archive, inbox, backlog.clone(), context.clone()));
        Self { deltas, backlog, limit_bytes, uploading }
    }

    /// Takes a delta that follows on the one before, to be uploaded once `gate` opens.
    ///
    /// # Errors
    /// `Internal` where the task that uploads has died.
    pub fn push(&self, delta: SealedDelta, gate: Gate) -> Result<()> {
        let place = Place { bytes: held_bytes(&delta), number: self.backlog.add(&delta) };
        self.deltas
            .send(Waiting { delta, place, gate })
            .map_err(|_| Error::new(ErrorKind::Internal, "the task that uploads deltas ended by itself"))
    }

    /// What is shown of it, and of capture.
    pub fn gauges(&self) -> &Gauges {
        &self.backlog.gauges
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
    let (mut queue, mut uploads) = (VecDeque::new(), FuturesOrdered::new());
    let mut more = true;
    while more || !queue.is_empty() || !uploads.is_empty() {
        let front = queue.front().map(|waiting: &Waiting| waiting.gate.clone());
        tokio::select! {
            // All that waits is taken in before a run is, so that it is as wide as it can be.
            biased;
            waiting = inbox.recv(), if more => match waiting {
                Some(waiting) => queue.push_back(waiting),
                None => more = false,
            },
            // The oldest run is waited for first: what is told here has no predecessor that is not durable.
            Some(stored) = uploads.next(), if !uploads.is_empty() => {
                let Stored { places, marks } = stored;
                places.iter().for_each(|place| backlog.settle(place));
                for (lineage, mark) in marks {
                    backlog.gauges.note(|figures| figures.durable = Some(mark));
                    context.monitor.tell(Event::Durable { lineage: lineage.to_string(), revision: mark.revision });
                }
            },
            passed = pass(front), if uploads.len() < PARALLEL_UPLOADS && !queue.is_empty() => match passed {
                Ok(()) => {
                    uploads.push_back(upload(&archive, take_run(&mut queue), &backlog.gauges, &context));
                }
                Err(Condemned) => {
                    if let Some(condemned) = queue.pop_front() {
                        backlog.settle(&condemned.place);
                    }
                }
            },
        }
    }
}

async fn pass(gate: Option<Gate>) -> Result<(), Condemned> {
    match gate {
        Some(gate) => gate.pass().await,
        None => std::future::pending().await,
    }
}

/// The oldest delta and those behind it that can be merged with it: none of them was sent yet.
fn take_run(queue: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut run: Vec<Waiting> = queue.pop_front().into_iter().collect();
    let mut bytes: u64 = run.iter().map(|waiting| waiting.delta.stored_bytes()).sum();
    while let (Some(last), Some(next)) = (run.last(), queue.front()) {
        bytes += next.delta.stored_bytes();
        if bytes > MERGED_BYTES || run.len() >= MERGED_PARTS || !last.delta.joins(&next.delta) {
            break;
        }
        run.extend(queue.pop_front());
    }
    run
}

/// A run that is in the store.
struct Stored {
    places: Vec<Place>,
    /// Where the source stood at the end of each of its objects.
    marks: Vec<(LineageId, TimeMark)>,
}

/// Repeats the upload of a run until it succeeds. Its gate is open.
async fn upload(archive: &Archive, run: Vec<Waiting>, gauges: &Gauges, context: &RunContext) -> Stored {
    let places: Vec<Place> = run.iter().map(|waiting| waiting.place).collect();
    let mut marks = Vec::new();
    let parts: Vec<SealedDelta> = run.into_iter().map(|waiting| waiting.delta).collect();
    let waited = parts.len();
    let wide = merged(archive, parts, context).await;
    if wide.len() < waited {
        gauges.note(|figures| figures.merged_deltas += waited as u64);
    }
    for delta in wide {
        put(archive, &delta, gauges, context).await;
        let time = delta.facts().capture.time_marks.last().map_or(delta.name().created, |mark| mark.time);
        marks.push((delta.name().lineage, TimeMark { time, revision: delta.facts().revisions.1 }));
    }
    Stored { places, marks }
}

/// `parts` as one delta; as they are where that cannot be.
async fn merged(archive: &Archive, parts: Vec<SealedDelta>, context: &RunContext) -> Vec<SealedDelta> {
    if parts.len() < 2 {
        return parts;
    }
    let (archive, parts) = (archive.clone(), Arc::new(parts));
    let merging = {
        let parts = parts.clone();
        blocking(move || archive.merge_deltas(&parts)).await
    };
    match merging {
        Ok(whole) => {
            context.note(format!("{} deltas that waited for the store are stored as one", parts.len()));
            vec![whole]
        }
        Err(error) => {
            context.warn(format!("deltas that wait are not merged: {error}"));
            Arc::unwrap_or_clone(parts)
        }
    }
}

async fn put(archive: &Archive, delta: &SealedDelta, gauges: &Gauges, context: &RunContext) {
    let (mut pause, longest) = PAUSES;
    let mut told = false;
    loop {
        let begun = Instant::now();
        let stored = archive.put_delta(delta).await;
        gauges.note(|figures| figures.delta_attempts.add(&stored, begun.elapsed()));
        let Err(error) = stored else { break };
        if !told {
            context.warn(format!("a delta waits for the store: {error}"));
            told = true;
        }
        gauges.note(|figures| figures.retries.deltas += 1);
        tokio::time::sleep(pause).await;
        pause = longest.min(pause * 2);
    }
    let (first, last) = delta.facts().revisions;
    let kind = if first <= last { StoredKind::Delta } else { StoredKind::Mark };
    gauges.note(|figures| figures.count_stored(kind, delta.stored_bytes()));
    if told {
        context.note(format!("the store has taken {}", delta.name()));
    }
}

fn held_bytes(delta: &SealedDelta) -> u64 {
    delta.stored_bytes() + ENTRY_BYTES
}
