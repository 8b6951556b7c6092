//! The records of a chain, from the archive to one thread that takes them in order.
//!
//! ```text
//! archive: GETs of several deltas -> frames -> opened on all cores, in order -> (channel) -> one thread: line, taker
//! ```
//! Nothing is held longer than it takes to hand it on: a chain may be longer than memory.

use futures::TryStreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use super::facts::Learned;
use super::line::{Handing, Line};
use crate::archive::{Archive, BackupEntry, BackupReader, DeltaPiece, OpenedDelta, ReadLimits};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BackupName, RecordsDecoder};
use crate::monitor::Event;
use crate::record::RecordRef;
use crate::revision::Revision;
use crate::run::{RunContext, blocking};

/// Opened chunks that wait for the thread.
const WAITING_CHUNKS: usize = 4;

/// Which records of which chain.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    /// Where the chain is.
    pub archive: &'a Archive,
    /// The opened full that it begins with.
    pub full: &'a BackupReader,
    /// What follows it.
    pub deltas: &'a [BackupEntry],
    /// The last revision.
    pub upto: Revision,
    /// Bounds.
    pub limits: ReadLimits,
}

/// The records of a chain, in order, each once.
#[derive(Debug)]
pub struct ChainRecords {
    pieces: mpsc::Receiver<DeltaPiece>,
    line: Line,
    learned: Learned,
    /// The delta that is being read; it holds room in memory.
    delta: Option<Box<OpenedDelta>>,
    records: u64,
}

/// Hands the records of `stretch` to `take`, which runs on a thread of its own, and answers what it gave. `learned` is
/// told of every footer.
///
/// # Errors
/// `Refused` where deltas are of different histories; `Damaged`; those of the store, naming the object (`NotFound`: it
/// is gone since it was listed); those of `take`; `Interrupted`.
pub async fn replay<T: Send + 'static>(
    stretch: Stretch<'_>,
    learned: Learned,
    take: impl FnOnce(&mut ChainRecords) -> Result<T> + Send + 'static,
    context: &RunContext,
) -> Result<(T, Replayed)> {
    let Stretch { archive, full, deltas, upto, limits } = stretch;
    let line = Line::from_full(*full.name(), &full.footer().facts, upto);
    let (to_thread, pieces) = mpsc::channel(WAITING_CHUNKS);
    let mut records = ChainRecords { pieces, line, learned, delta: None, records: 0 };
    let taking = tokio::spawn(blocking(move || {
        let taken = take(&mut records)?;
        Ok((taken, records.finish()?))
    }));
    let chunks = archive.read_deltas(deltas.to_vec(), upto, limits);
    let fed = context.unless_stopped(feed(chunks, to_thread, context)).await;
    let taken = taking.await.map_err(|error| {
        Error::new(ErrorKind::Internal, "the thread that takes the records ended by itself").caused_by(error)
    })?;
    // What the archive did not give is why the thread has not seen the end.
    fed?;
    taken
}

/// What a replay has come to.
#[derive(Debug)]
pub struct Replayed {
    /// What footers told.
    pub learned: Learned,
    /// Records that were handed out.
    pub records: u64,
}

async fn feed(
    mut pieces: BoxStream<'static, Result<DeltaPiece>>,
    to_thread: mpsc::Sender<DeltaPiece>,
    context: &RunContext,
) -> Result<()> {
    let (mut plain, mut stored) = (0, 0);
    while let Some(piece) = pieces.try_next().await? {
        if let DeltaPiece::Chunk(chunk, frame_bytes) = &piece {
            plain += chunk.len() as u64;
            stored += u64::from(*frame_bytes);
            context.monitor.tell(Event::Progress { plain_bytes: plain, stored_bytes: stored });
        }
        if to_thread.send(piece).await.is_err() {
            // It has ended, and says itself why.
            return Ok(());
        }
    }
    Ok(())
}

impl ChainRecords {
    /// Gives the records to `take`, in batches. It may leave the rest of a batch.
    ///
    /// # Errors
    /// Those of `take`; `Refused` and `Damaged` as in [`replay`].
    pub fn each_batch(&mut self, mut take: impl FnMut(&mut Batch<'_>) -> Result<()>) -> Result<()> {
        while let Some(piece) = self.pieces.blocking_recv() {
            match piece {
                DeltaPiece::Begins(delta) => {
                    let facts = &delta.footer().facts;
                    self.line.begin(*delta.name(), facts)?;
                    self.learned.note(delta.name(), facts);
                    self.delta = Some(delta);
                }
                DeltaPiece::Chunk(chunk, _) => {
                    let Some(delta) = &self.delta else {
                        return Err(Error::new(ErrorKind::Internal, "a chunk came before its delta"));
                    };
                    let (decoder, object) = (RecordsDecoder::new(&chunk), Origin(*delta.name()));
                    let mut batch = Batch { decoder, line: &mut self.line, object, records: 0 };
                    take(&mut batch)?;
                    batch.by_ref().try_for_each(|record| record.map(drop))?;
                    self.records += batch.records;
                    self.line.end_chunk()?;
                }
            }
        }
        self.delta = None;
        Ok(())
    }

    /// What the footers have told so far.
    pub fn learned(&self) -> &Learned {
        &self.learned
    }

    fn finish(mut self) -> Result<Replayed> {
        self.each_batch(|_| Ok(()))?;
        self.line.finish()?;
        Ok(Replayed { learned: self.learned, records: self.records })
    }
}

/// The object that records are from.
#[derive(Debug, Clone, Copy)]
pub struct Origin(BackupName);

impl Origin {
    /// `error`, about this object.
    pub fn blame(self, error: Error) -> Error {
        error.about(self.0)
    }
}

/// Some records of a chain, in order.
#[derive(Debug)]
pub struct Batch<'a> {
    decoder: RecordsDecoder<'a>,
    line: &'a mut Line,
    object: Origin,
    records: u64,
}

impl Batch<'_> {
    /// The object that they are from.
    pub fn object(&self) -> Origin {
        self.object
    }
}

impl<'a> Iterator for Batch<'a> {
    type Item = Result<RecordRef<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let record = match self.decoder.next()? {
                Ok(record) => record,
                Err(error) => return Some(Err(self.object.blame(error))),
            };
            match self.line.take(&record) {
                Ok(Handing::Over) => {}
                Ok(Handing::Out) => {
                    self.records += 1;
                    return Some(Ok(record));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
