//! The image of a full, from the archive to whatever takes it.
//!
//! ```text
//! archive: parallel GETs -> frames -> opened on all cores, in order -> (channel) -> one thread: SHA-256, file
//! ```

use futures::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::archive::{BackupReader, ReadLimits};
use crate::datadir::TakesImage;
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::{Event, Phase};
use crate::pipeline::Buffer;
use crate::run::{RunContext, blocking};

/// Opened chunks that wait for the file.
const WAITING_CHUNKS: usize = 2;

/// Writes the image of `reader`'s backup into `taker`, and holds it against the footer's length and SHA-256. It is told
/// as `phase`.
///
/// # Errors
/// `Damaged` where the image is not the one that was backed up; those of the store and the file system; `Interrupted`.
/// `taker` is gone then.
pub async fn move_image<T: TakesImage + Send + 'static>(
    reader: &BackupReader,
    limits: ReadLimits,
    taker: T,
    phase: Phase,
    context: &RunContext,
) -> Result<T> {
    let footer = reader.footer();
    context.monitor.tell(Event::Begin { phase, total_bytes: footer.plain_bytes });
    let (to_file, chunks) = mpsc::channel(WAITING_CHUNKS);
    let writing = tokio::spawn(blocking(move || write_chunks(taker, chunks)));
    let fed = context.unless_stopped(feed(reader, limits, to_file, context)).await;
    // The thread has ended, or will: its channel is closed. Its error is the cause where both sides have one.
    let written = writing.await.map_err(|error| {
        Error::new(ErrorKind::Internal, "the thread that writes the image ended by itself").caused_by(error)
    })?;
    let (taker, plain_bytes, sha256) = written?;
    fed?;
    if plain_bytes != footer.plain_bytes || sha256 != footer.facts.plain_sha256 {
        return Err(Error::new(
            ErrorKind::Damaged,
            format!("{}: its contents do not have the SHA-256 of its footer", reader.name()),
        )
        .hint("use another backup; please report this one: each of its parts was genuine"));
    }
    context.monitor.tell(Event::End(phase));
    Ok(taker)
}

async fn feed(
    reader: &BackupReader,
    limits: ReadLimits,
    to_file: mpsc::Sender<Buffer>,
    context: &RunContext,
) -> Result<()> {
    let mut chunks = reader.chunks(limits).boxed();
    let (mut plain_bytes, mut stored_bytes) = (0, 0);
    while let Some((chunk, frame_bytes)) = chunks.try_next().await? {
        plain_bytes += chunk.len() as u64;
        stored_bytes += u64::from(frame_bytes);
        if to_file.send(chunk).await.is_err() {
            return Err(Error::new(ErrorKind::Internal, "the image is not being written any more"));
        }
        context.monitor.tell(Event::Progress { plain_bytes, stored_bytes });
    }
    Ok(())
}

fn write_chunks<T: TakesImage>(mut taker: T, mut chunks: mpsc::Receiver<Buffer>) -> Result<(T, u64, [u8; 32])> {
    let mut sha256 = Sha256::new();
    let mut plain_bytes = 0;
    while let Some(chunk) = chunks.blocking_recv() {
        sha256.update(&**chunk);
        taker.write_image(&chunk)?;
        plain_bytes += chunk.len() as u64;
    }
    Ok((taker, plain_bytes, sha256.finalize().into()))
}
