//! An image, from where it is kept to whatever takes it.
//!
//! ```text
//! archive: parallel GETs -> frames -> opened on all cores, in order -> (channel) -> a thread: SHA-256
//! plain snapshot: file, or parallel GETs -> in order ----------------> (channel) -> the same
//!                                                                      (channel) -> a thread: file
//! ```

use futures::{Stream, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::archive::{BackupReader, ReadLimits};
use crate::datadir::TakesImage;
use crate::error::{Error, ErrorKind, Result};
use crate::foreign::{HashCheck, PlainSnapshot};
use crate::monitor::{Event, Phase};
use crate::run::{RunContext, blocking};

/// Chunks that wait for their SHA-256, and for the file.
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
    let chunks = reader.chunks(limits).map_ok(|(chunk, stored_bytes)| (chunk, u64::from(stored_bytes)));
    let (taker, plain_bytes, sha256) = pour(chunks, footer.plain_bytes, taker, phase, context).await?;
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

/// Writes the image of a plain snapshot into `taker`, and holds it against the SHA-256 behind it. It is told as `phase`.
/// The second value says whether there was one to compare, and whether anybody wanted it.
///
/// # Errors
/// `Damaged` where the image is not the one that the SHA-256 is of, or the snapshot changes meanwhile; those of its
/// server and of the file system; `Interrupted`. `taker` is gone then.
pub async fn move_plain<T: TakesImage + Send + 'static>(
    snapshot: PlainSnapshot,
    taker: T,
    phase: Phase,
    context: &RunContext,
) -> Result<(T, HashCheck)> {
    let total_bytes = snapshot.image_bytes();
    let mut image = snapshot.into_image();
    let pieces = stream::try_unfold(&mut image, |image| async {
        Ok(image.next().await?.map(|piece| {
            let stored_bytes = piece.len() as u64;
            ((piece, stored_bytes), image)
        }))
    });
    let (taker, _, sha256) = pour(pieces, total_bytes, taker, phase, context).await?;
    let checked = image.check(sha256)?;
    context.monitor.tell(Event::End(phase));
    Ok((taker, checked))
}

/// Brings chunks, each with the bytes that it took where it is kept, to `taker`. Gives the bytes that came and their
/// SHA-256.
async fn pour<T: TakesImage + Send + 'static, C: AsRef<[u8]> + Send + 'static>(
    chunks: impl Stream<Item = Result<(C, u64)>>,
    total_bytes: u64,
    taker: T,
    phase: Phase,
    context: &RunContext,
) -> Result<(T, u64, [u8; 32])> {
    context.monitor.tell(Event::Begin { phase, total_bytes });
    let (to_digest, fed_chunks) = mpsc::channel(WAITING_CHUNKS);
    let (to_file, digested) = mpsc::channel(WAITING_CHUNKS);
    let digesting = tokio::spawn(blocking(move || Ok(digest_chunks(fed_chunks, &to_file))));
    let writing = tokio::spawn(blocking(move || write_chunks(taker, digested)));
    let fed = context.unless_stopped(feed(chunks, to_digest, context)).await;
    // The threads have ended, or will: their channels are closed. The file's error is the cause where there are several.
    let lost =
        |error| Error::new(ErrorKind::Internal, "a thread that takes the image ended by itself").caused_by(error);
    let taker = writing.await.map_err(lost)?;
    let digested = digesting.await.map_err(lost)?;
    let taker = taker?;
    fed?;
    let (plain_bytes, sha256) = digested?;
    Ok((taker, plain_bytes, sha256))
}

async fn feed<C: AsRef<[u8]>>(
    chunks: impl Stream<Item = Result<(C, u64)>>,
    to_digest: mpsc::Sender<C>,
    context: &RunContext,
) -> Result<()> {
    let mut chunks = std::pin::pin!(chunks);
    let (mut plain_bytes, mut stored_bytes) = (0, 0);
    while let Some((chunk, chunk_stored_bytes)) = chunks.try_next().await? {
        plain_bytes += chunk.as_ref().len() as u64;
        stored_bytes += chunk_stored_bytes;
        if to_digest.send(chunk).await.is_err() {
            return Err(Error::new(ErrorKind::Internal, "the image is not being written any more"));
        }
        context.monitor.tell(Event::Progress { plain_bytes, stored_bytes });
    }
    Ok(())
}

/// Hashes chunks and passes them on, until there are no more or nobody takes them.
fn digest_chunks<C: AsRef<[u8]>>(mut chunks: mpsc::Receiver<C>, to_file: &mpsc::Sender<C>) -> (u64, [u8; 32]) {
    let mut sha256 = Sha256::new();
    let mut plain_bytes = 0;
    while let Some(chunk) = chunks.blocking_recv() {
        sha256.update(chunk.as_ref());
        plain_bytes += chunk.as_ref().len() as u64;
        if to_file.blocking_send(chunk).is_err() {
            break;
        }
    }
    (plain_bytes, sha256.finalize().into())
}

fn write_chunks<T: TakesImage, C: AsRef<[u8]>>(mut taker: T, mut chunks: mpsc::Receiver<C>) -> Result<T> {
    while let Some(chunk) = chunks.blocking_recv() {
        taker.write_image(chunk.as_ref())?;
    }
    Ok(taker)
}
