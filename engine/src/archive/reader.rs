//! Reads one backup: from the back, footer first, then its chunks in order.
//!
//! Two or three GETs open an object; each further GET fetches a run of whole frames. Everything is pinned to the
//! version that was opened first. Bytes are authenticated before they are parsed: the header, which chooses the key, is
//! proven when the footer opens under it.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::Archive;
use super::catalogue::BackupEntry;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    BackupName, ChunkPlace, EncodedHeader, Footer, MAX_FOOTER_BYTES, ObjectHeader, PREAMBLE_BYTES, RawFooter,
    TRAILER_BYTES, Trailer,
};
use crate::pipeline::{Buffer, Opener, Pool, Protector};
use crate::store::{ByteRange, ETag, ObjectStore};

/// The first read from the back: footers of most fulls fit.
const SUFFIX_BYTES: u64 = 64 << 10;
/// An object up to this size is fetched by a single GET where its size is known.
pub(super) const WHOLE_BYTES: u64 = 4 << 20;
/// Chunks that were given out and come back into use.
const CHUNKS_ELSEWHERE: usize = 8;
/// The first read from the front: headers of today fit, and no valid object is shorter.
const HEADER_GUESS_BYTES: u64 = 256;

/// Bounds of a reader.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimits {
    /// Bytes that one GET fetches; more only where a single frame is longer.
    pub read_bytes: u64,
    /// GETs under way, or waiting to be opened, at once.
    pub parallel_reads: usize,
    /// Chunks opened at once.
    pub threads: usize,
}

/// More cores than this would wait for the file, and each of them holds two chunks.
const MOST_THREADS: usize = 8;

impl Default for ReadLimits {
    /// All cores, up to eight: whoever reads a backup waits for it.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).min(MOST_THREADS);
        Self { read_bytes: 8 << 20, parallel_reads: 4, threads }
    }
}

/// A header that was read alone: not proven, good for choosing a key and for showing.
#[derive(Debug, Clone)]
pub struct OpenedHeader {
    /// What it says.
    pub header: ObjectHeader,
    /// Its bytes.
    pub encoded: EncodedHeader,
    /// The version that it was read from.
    pub etag: ETag,
}

/// An opened backup.
#[derive(Debug)]
pub struct BackupReader {
    name: BackupName,
    key: String,
    store: Arc<dyn ObjectStore>,
    etag: ETag,
    object_bytes: u64,
    /// The whole object, where the first read gave it.
    held: Option<Bytes>,
    header: ObjectHeader,
    footer: Footer,
    opener: Arc<Opener>,
}

impl Archive {
    /// Reads the header of a backup: one GET.
    ///
    /// # Errors
    /// Those of the store; `Damaged` for an object without a header, `Invalid` for one that is newer than this code.
    pub async fn read_header(&self, name: &BackupName) -> Result<OpenedHeader> {
        let about = |error: Error| error.about(name);
        let key = self.prefix.key(name);
        let first =
            self.store.read(&key, ByteRange::Exact { start: 0, len: HEADER_GUESS_BYTES }, None).await.map_err(about)?;
        let whole = ObjectHeader::stored_bytes(&first.bytes).map_err(about)? as u64;
        let bytes = if whole <= HEADER_GUESS_BYTES {
            first.bytes
        } else {
            let range = ByteRange::Exact { start: 0, len: whole };
            self.store.read(&key, range, Some(&first.etag)).await.map_err(about)?.bytes
        };
        let (header, encoded) = ObjectHeader::decode(&bytes).map_err(about)?;
        Ok(OpenedHeader { header, encoded, etag: first.etag })
    }

    /// Opens a backup: its footer is proven and accounts for every byte of the object.
    ///
    /// # Errors
    /// `Key` for a key that is not ours; `Damaged`, `Invalid` and those of the store. All name the backup.
    pub async fn open(&self, name: &BackupName) -> Result<BackupReader> {
        self.open_suffix(name, SUFFIX_BYTES).await.map_err(|error| error.about(name))
    }

    /// Opens a backup of known size; a small one is fetched whole, by a single GET.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub async fn open_listed(&self, entry: &BackupEntry) -> Result<BackupReader> {
        let whole = Some(entry.stored_bytes).filter(|bytes| (1..=WHOLE_BYTES).contains(bytes));
        self.open_suffix(&entry.name, whole.unwrap_or(SUFFIX_BYTES)).await.map_err(|error| error.about(entry.name))
    }

    async fn open_suffix(&self, name: &BackupName, suffix_bytes: u64) -> Result<BackupReader> {
        let key = self.prefix.key(name);
        let end = match self.held.as_ref().and_then(|held| held.find(name)) {
            Some(answer) => answer,
            None => {
                let answer = self.store.read(&key, ByteRange::Suffix(suffix_bytes), None).await?;
                self.held.iter().for_each(|held| held.keep(name, &answer));
                answer
            }
        };
        let held = (end.start == 0).then(|| end.bytes.clone());
        let (object_bytes, etag) = (end.object_bytes, end.etag);
        let tail = Tail { key: &key, store: &*self.store, etag: &etag, start: end.start, bytes: end.bytes };
        let (header, encoded) = ObjectHeader::decode(&tail.header_bytes(object_bytes).await?)?;
        let object_key = self.keyring.object_key(&header.protection)?;
        let opener = Opener::new(Protector::new(&encoded, object_key.as_ref()), header.codec);

        let trailer = Trailer::decode(&tail.bytes)?;
        let first_frame = encoded.bytes.len() as u64;
        let footer_start = (object_bytes - TRAILER_BYTES as u64)
            .checked_sub(u64::from(trailer.footer_frame_bytes))
            .filter(|start| *start >= first_frame)
            .ok_or_else(|| Error::new(ErrorKind::Damaged, "its trailer leads outside the object"))?;
        let frame = tail.range(footer_start, u64::from(trailer.footer_frame_bytes)).await?;
        let number = frame.first_chunk().copied().map(u32::from_le_bytes).unwrap_or_default();
        let mut plain = Vec::new();
        opener.footer(number, &name.to_string(), &frame, MAX_FOOTER_BYTES, &mut plain)?;
        let footer = RawFooter::decode(&plain)?.check(&header, name, first_frame, footer_start)?;
        if footer.chunks.len() != number as usize {
            return Err(Error::new(ErrorKind::Damaged, "its footer has another number than its place"));
        }
        let store = self.store.clone();
        Ok(BackupReader { name: *name, key, store, etag, object_bytes, held, header, footer, opener: Arc::new(opener) })
    }
}

/// The last bytes of an object, and the way to more of it.
struct Tail<'a> {
    key: &'a str,
    store: &'a dyn ObjectStore,
    etag: &'a ETag,
    start: u64,
    bytes: Bytes,
}

impl Tail<'_> {
    async fn range(&self, start: u64, len: u64) -> Result<Bytes> {
        match start.checked_sub(self.start) {
            Some(skip) => Ok(self.bytes.slice(skip as usize..(skip + len) as usize)),
            None => Ok(self.store.read(self.key, ByteRange::Exact { start, len }, Some(self.etag)).await?.bytes),
        }
    }

    async fn header_bytes(&self, object_bytes: u64) -> Result<Bytes> {
        if self.start == 0 {
            return Ok(self.bytes.clone());
        }
        let first = self.range(0, HEADER_GUESS_BYTES.min(object_bytes)).await?;
        match ObjectHeader::stored_bytes(&first)? as u64 {
            whole if whole <= first.len() as u64 || whole > object_bytes => Ok(first),
            whole => self.range(0, whole).await,
        }
    }
}

impl BackupReader {
    /// The backup's name.
    pub fn name(&self) -> &BackupName {
        &self.name
    }

    /// The proven header.
    pub fn header(&self) -> &ObjectHeader {
        &self.header
    }

    /// The proven footer.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Bytes of the object.
    pub fn object_bytes(&self) -> u64 {
        self.object_bytes
    }

    /// The chunks in order, each with the object bytes that it took. At most `parallel_reads` x `read_bytes` of stored
    /// bytes and `threads` + 1 chunks are in memory.
    ///
    /// The caller holds the whole against `plain_bytes` and `plain_sha256` of the footer.
    pub fn chunks(&self, limits: ReadLimits) -> impl Stream<Item = Result<(Buffer, u32)>> + Send + use<> {
        let pool = Pool::new(self.header.chunk_bytes as usize, limits.threads + CHUNKS_ELSEWHERE);
        let frame_opener = self.frame_opener();
        stream::iter(self.runs(self.footer.chunks.len(), limits.read_bytes))
            .map(FrameRun::read)
            .buffered(limits.parallel_reads.max(1))
            .map_ok(|frames| stream::iter(frames.into_iter().map(Ok)))
            .try_flatten()
            .map(move |frame| {
                let (opener, plain) = (frame_opener.clone(), pool.take());
                async move {
                    let (place, frame) = frame?;
                    Ok((opener.open(place, frame, plain).await?, place.stored_bytes))
                }
            })
            .buffered(limits.threads.max(1))
    }

    /// The first `chunks` chunks as runs of neighbouring frames, each of which one GET fetches.
    pub(super) fn runs(&self, chunks: usize, read_bytes: u64) -> Vec<FrameRun> {
        let chunks = self.footer.chunks.get(..chunks).unwrap_or(&self.footer.chunks);
        let run = |run| FrameRun {
            name: self.name,
            key: self.key.clone(),
            store: self.store.clone(),
            etag: self.etag.clone(),
            held: self.held.clone(),
            run,
        };
        group(chunks, read_bytes).into_iter().map(run).collect()
    }

    /// What opens its frames.
    pub(super) fn frame_opener(&self) -> FrameOpener {
        let max_plain_bytes = self.header.chunk_bytes as usize;
        FrameOpener { name: self.name, opener: self.opener.clone(), max_plain_bytes }
    }
}

/// Opens the frames of one object, on any thread.
#[derive(Debug, Clone)]
pub(super) struct FrameOpener {
    name: BackupName,
    opener: Arc<Opener>,
    max_plain_bytes: usize,
}

impl FrameOpener {
    /// The plaintext of the chunk at `place`, in `plain`.
    pub(super) async fn open(self, place: ChunkPlace, frame: Bytes, mut plain: Buffer) -> Result<Buffer> {
        let Self { name, opener, max_plain_bytes } = self;
        let opened = tokio::task::spawn_blocking(move || {
            opener.chunk(place.number, &frame, max_plain_bytes, &mut plain)?;
            if plain.len() != place.plain_bytes as usize {
                let what = format!("chunk {} has another length than the footer says", place.number);
                return Err(Error::new(ErrorKind::Damaged, what));
            }
            Ok(plain)
        });
        let opened = opened.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "a task of the restore ended by itself").caused_by(error)
        })?;
        opened.map_err(|error| error.about(name))
    }
}

/// Runs of neighbouring frames that one GET fetches.
fn group(chunks: &[ChunkPlace], read_bytes: u64) -> Vec<Vec<ChunkPlace>> {
    let mut runs: Vec<Vec<ChunkPlace>> = Vec::new();
    let mut bytes = 0;
    for chunk in chunks {
        bytes += u64::from(chunk.stored_bytes);
        match runs.last_mut() {
            Some(run) if bytes <= read_bytes => run.push(*chunk),
            _ => {
                bytes = u64::from(chunk.stored_bytes);
                runs.push(vec![*chunk]);
            }
        }
    }
    runs
}

/// Frames that one GET fetches, of the object that was opened, and no later one.
pub(super) struct FrameRun {
    name: BackupName,
    key: String,
    store: Arc<dyn ObjectStore>,
    etag: ETag,
    held: Option<Bytes>,
    run: Vec<ChunkPlace>,
}

impl FrameRun {
    /// The frames, in order.
    pub(super) async fn read(self) -> Result<Vec<(ChunkPlace, Bytes)>> {
        let name = self.name;
        self.fetch().await.map_err(|error| error.about(name))
    }

    async fn fetch(self) -> Result<Vec<(ChunkPlace, Bytes)>> {
        let start = self.run.first().map_or(0, |chunk| chunk.stored_start);
        let len = self.run.iter().map(|chunk| u64::from(chunk.stored_bytes)).sum();
        let mut bytes = match &self.held {
            // The footer accounts for every byte of the object, so that its frames are inside.
            Some(object) => object.slice(start as usize..(start + len) as usize),
            None => self.store.read(&self.key, ByteRange::Exact { start, len }, Some(&self.etag)).await?.bytes,
        };
        if bytes.len() as u64 != len {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("the store gave {} bytes instead of {len}", bytes.len()),
            ));
        }
        Ok(self.run.into_iter().map(|chunk| (chunk, bytes.split_to(chunk.stored_bytes as usize))).collect())
    }
}

const _: () = assert!(HEADER_GUESS_BYTES as usize > PREAMBLE_BYTES);
