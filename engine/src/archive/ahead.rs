//! Many deltas as one run of chunks: fetched ahead of their reader, opened on all cores, given in order.
//!
//! ```text
//! entries -> (bytes ahead are bounded) -> GETs, several objects at once -> frames -> opened in parallel -> in order
//! ```
//! A small object is one GET. The order in which objects may begin to be fetched is that in which they are given, so that
//! the one that is waited for never waits for room that later ones have taken.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Archive;
use super::catalogue::BackupEntry;
use super::reader::{BackupReader, FrameOpener, FrameRun, ReadLimits, WHOLE_BYTES};
use crate::error::{Error, Result};
use crate::format::{BackupName, ChunkPlace, Footer};
use crate::pipeline::{Buffer, Pool};
use crate::revision::Revision;

/// Objects that are fetched, or wait to be read, at once.
const OBJECTS_AHEAD: usize = 16;
/// Stored bytes that they may have in memory.
pub const READ_AHEAD_BYTES: u64 = 24 << 20;
/// What a permit stands for.
const PERMIT_BYTES: u64 = 1 << 10;

/// What comes of a run of deltas.
#[derive(Debug)]
pub enum DeltaPiece {
    /// The next delta begins.
    Begins(Box<OpenedDelta>),
    /// The next chunk of the delta that began last: its plaintext, and the object bytes that it took.
    Chunk(Buffer, u32),
}

/// A delta whose footer is proven. While it is held, the bytes of its object count as being in memory.
#[derive(Debug)]
pub struct OpenedDelta {
    reader: BackupReader,
    _room: OwnedSemaphorePermit,
}

impl OpenedDelta {
    /// Its name.
    pub fn name(&self) -> &BackupName {
        self.reader.name()
    }

    /// Its footer.
    pub fn footer(&self) -> &Footer {
        self.reader.footer()
    }

    /// How many of its chunks have records of revisions up to `upto`.
    fn chunks_up_to(&self, upto: Revision) -> usize {
        let footer = self.reader.footer();
        let before = footer.facts.capture.chunk_history.partition_point(|chunk| chunk.revision < upto);
        footer.chunks.len().min(before + 1)
    }
}

impl Archive {
    /// Reads `deltas` in this order, and of each the chunks that have records up to `upto`.
    ///
    /// At most 24 MiB of small objects wait in memory, beside `parallel_reads` x `read_bytes` of large ones and
    /// `threads` + 1 chunks.
    ///
    /// # Errors
    /// Each item: as [`Archive::open_listed`] and [`BackupReader::chunks`]; all name the object. Nothing follows an error.
    pub fn read_deltas(
        &self,
        deltas: Vec<BackupEntry>,
        upto: Revision,
        limits: ReadLimits,
    ) -> BoxStream<'static, Result<DeltaPiece>> {
        let (archive, room) = (self.clone(), Arc::new(Semaphore::new((READ_AHEAD_BYTES / PERMIT_BYTES) as usize)));
        let pool = Pool::new(0, limits.threads + 1);
        stream::iter(deltas)
            .then(move |delta| take_room(room.clone(), delta))
            .map(move |delta| open(archive.clone(), delta))
            .buffered(OBJECTS_AHEAD)
            .map_ok(move |delta| stream::iter(Fetch::all(delta, upto, limits.read_bytes).into_iter().map(Ok)))
            .try_flatten()
            .map(|fetch: Result<Fetch>| async move { fetch?.run().await })
            .buffered(limits.parallel_reads.max(1))
            .map_ok(|fetched| stream::iter(fetched.into_iter().map(Ok)))
            .try_flatten()
            .map(move |fetched: Result<Fetched>| {
                let plain = pool.take();
                async move { fetched?.open(plain).await }
            })
            .buffered(limits.threads.max(1))
            .boxed()
    }
}

async fn take_room(room: Arc<Semaphore>, delta: BackupEntry) -> Result<(BackupEntry, OwnedSemaphorePermit)> {
    let permits = delta.stored_bytes.min(WHOLE_BYTES).div_ceil(PERMIT_BYTES).max(1);
    match room.acquire_many_owned(permits as u32).await {
        Ok(permit) => Ok((delta, permit)),
        Err(closed) => Err(Error::new(crate::ErrorKind::Internal, "the reading ahead has ended").caused_by(closed)),
    }
}

async fn open(archive: Archive, delta: Result<(BackupEntry, OwnedSemaphorePermit)>) -> Result<OpenedDelta> {
    let (delta, _room) = delta?;
    Ok(OpenedDelta { reader: archive.open_listed(&delta).await?, _room })
}

/// What is to be fetched next.
enum Fetch {
    Begin(Box<OpenedDelta>),
    Frames(Box<FrameRun>, FrameOpener),
}

/// What was fetched, to be opened.
enum Fetched {
    Begin(Box<OpenedDelta>),
    Frame(ChunkPlace, Bytes, FrameOpener),
}

impl Fetch {
    fn all(delta: OpenedDelta, upto: Revision, read_bytes: u64) -> Vec<Self> {
        let runs = delta.reader.runs(delta.chunks_up_to(upto), read_bytes);
        let opener = delta.reader.frame_opener();
        let begin = std::iter::once(Self::Begin(Box::new(delta)));
        begin.chain(runs.into_iter().map(|run| Self::Frames(Box::new(run), opener.clone()))).collect()
    }

    async fn run(self) -> Result<Vec<Fetched>> {
        match self {
            Self::Begin(delta) => Ok(vec![Fetched::Begin(delta)]),
            Self::Frames(run, opener) => {
                let frames = run.read().await?;
                Ok(frames.into_iter().map(|(place, frame)| Fetched::Frame(place, frame, opener.clone())).collect())
            }
        }
    }
}

impl Fetched {
    async fn open(self, plain: Buffer) -> Result<DeltaPiece> {
        match self {
            Self::Begin(delta) => Ok(DeltaPiece::Begins(delta)),
            Self::Frame(place, frame, opener) => {
                Ok(DeltaPiece::Chunk(opener.open(place, frame, plain).await?, place.stored_bytes))
            }
        }
    }
}
