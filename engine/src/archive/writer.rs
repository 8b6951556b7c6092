//! Writes one backup, front to back, in one stream.
//!
//! ```text
//! push -> chunk -> (blocking threads: compress, seal) -> frame -> part -> store::Upload
//! ```
//! Chunks are sealed on a bounded number of threads and leave in order; a bounded number of parts is under way. So
//! memory is (threads + 1) chunks and frames and (uploads + 1) parts, whatever the size of the backup.
//!
//! # Why a backup is there whole or not at all
//! The object becomes visible by one act at the very end ([`BackupWriter::commit`]): a single PUT, or the completion of
//! a multipart upload whose parts have all been acknowledged. Every error before that leads to [`BackupWriter::abort`]
//! by the caller, and the name is never used again. An error *of* that act leaves either nothing or the whole object;
//! both are sound, because the object proves itself.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::task::JoinHandle;

use super::Archive;
use super::parts::{PartSender, lost_task};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BackupName, DEFAULT_CHUNK_BYTES, FooterFacts, MAX_FOOTER_BYTES, Trailer};
use crate::pipeline::{Buffer, CompressionLevel, Cutter, Pool, Protector, Sealer};

/// Bounds of a writer.
#[derive(Debug, Clone, Copy)]
pub struct WriteLimits {
    /// Plaintext bytes of a chunk.
    pub chunk_bytes: u32,
    /// Stored bytes of a part; an object that ends below goes up in a single PUT.
    pub part_bytes: usize,
    /// Parts under way at once.
    pub parallel_parts: usize,
    /// Chunks sealed at once.
    pub threads: usize,
    /// Compression.
    pub level: CompressionLevel,
}

impl Default for WriteLimits {
    fn default() -> Self {
        Self {
            chunk_bytes: DEFAULT_CHUNK_BYTES,
            part_bytes: 8 << 20,
            parallel_parts: 5,
            threads: 1,
            level: CompressionLevel::default(),
        }
    }
}

/// A backup that is durable under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenBackup {
    /// The name.
    pub name: BackupName,
    /// Plaintext bytes.
    pub plain_bytes: u64,
    /// Bytes of the object.
    pub stored_bytes: u64,
}

struct SealedChunk {
    frame: Buffer,
    plain_bytes: u32,
}

/// Writes one object. Must be ended by [`finish`](Self::finish) or [`abort`](Self::abort).
pub struct BackupWriter {
    name: BackupName,
    sealer: Arc<Sealer>,
    limits: WriteLimits,
    chunks: Cutter,
    frames: Pool,
    sealing: FuturesOrdered<JoinHandle<Result<SealedChunk>>>,
    next_frame: u32,
    frame_bytes: Vec<u32>,
    chunk_plain_bytes: Vec<u32>,
    parts: PartSender,
}

impl Archive {
    /// Begins the object called `name`. Nothing is sent before the first part is full.
    ///
    /// # Errors
    /// `Internal` without random bytes.
    pub fn writer(&self, name: BackupName, limits: WriteLimits) -> Result<BackupWriter> {
        let (header, object_key) = self.new_header(&name, limits.chunk_bytes, limits.level.codec())?;
        let sealer = Sealer::new(Protector::new(&header, object_key.as_ref()), limits.level);
        let parts = (limits.part_bytes, limits.parallel_parts);
        let parts = PartSender::new(self.store.clone(), self.prefix.key(&name), parts, header.bytes);
        Ok(BackupWriter {
            name,
            sealer: Arc::new(sealer),
            limits,
            chunks: Cutter::new(limits.chunk_bytes as usize, limits.threads + 1),
            frames: Pool::new(limits.chunk_bytes as usize, limits.threads + 1),
            sealing: FuturesOrdered::new(),
            next_frame: 0,
            frame_bytes: Vec::new(),
            chunk_plain_bytes: Vec::new(),
            parts,
        })
    }
}

impl BackupWriter {
    /// The name that the object will have.
    pub fn name(&self) -> &BackupName {
        &self.name
    }

    /// Bytes stored, or on their way, so far.
    pub fn stored_bytes(&self) -> u64 {
        self.parts.stored_bytes()
    }

    /// Takes plaintext; returns when there is room for more.
    ///
    /// # Errors
    /// Those of the store. The writer must be aborted then.
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if let Some(chunk) = self.chunks.push(&mut bytes) {
                self.seal(chunk).await?;
            }
        }
        Ok(())
    }

    /// [`seal_all`](Self::seal_all) and [`commit`](Self::commit) in one.
    ///
    /// # Errors
    /// Those of the store; what was sent has been taken back as far as the store allowed.
    pub async fn finish(mut self, facts: &FooterFacts) -> Result<WrittenBackup> {
        match self.seal_all(facts).await {
            Ok(()) => self.commit().await,
            Err(error) => Err(self.abort_after(error).await),
        }
    }

    /// Seals what is left, writes footer and trailer, and waits until the store has all parts. Nothing is visible yet.
    ///
    /// # Errors
    /// Those of the store. The writer must be aborted then.
    pub async fn seal_all(&mut self, facts: &FooterFacts) -> Result<()> {
        self.seal_rest(facts).await?;
        self.parts.flush().await
    }

    /// The one act that makes the object visible and durable. Everything has been sealed before.
    ///
    /// # Errors
    /// Those of the store; what was sent has been taken back as far as the store allowed.
    pub async fn commit(mut self) -> Result<WrittenBackup> {
        let plain_bytes = self.chunk_plain_bytes.iter().copied().map(u64::from).sum();
        let stored_bytes = self.parts.stored_bytes();
        match self.parts.commit().await {
            Ok(()) => Ok(WrittenBackup { name: self.name, plain_bytes, stored_bytes }),
            Err(error) => Err(self.abort_after(error).await),
        }
    }

    /// Takes back everything that was sent.
    ///
    /// # Errors
    /// Those of the store: the upload may be left behind then.
    pub async fn abort(mut self) -> Result<()> {
        self.sealing.clear();
        self.parts.abort().await
    }

    /// Aborts because of `error`, which is returned; it says so where the abort failed as well.
    pub async fn abort_after(self, error: Error) -> Error {
        let key = self.parts.key().to_owned();
        match self.abort().await {
            Ok(()) => error,
            Err(abort) => error.about(format!("(an unfinished upload of {key} may be left behind: {abort})")),
        }
    }

    async fn seal(&mut self, chunk: Buffer) -> Result<()> {
        while self.sealing.len() >= self.limits.threads {
            self.take_sealed().await?;
        }
        let (sealer, number, mut frame) = (self.sealer.clone(), self.next_frame, self.frames.take());
        self.next_frame =
            number.checked_add(1).ok_or_else(|| Error::new(ErrorKind::Internal, "a backup has too many chunks"))?;
        self.sealing.push_back(tokio::task::spawn_blocking(move || {
            sealer.chunk(number, &chunk, &mut frame)?;
            let plain_bytes =
                u32::try_from(chunk.len()).map_err(|_| Error::new(ErrorKind::Internal, "a chunk is over 4 GiB"))?;
            Ok(SealedChunk { frame, plain_bytes })
        }));
        Ok(())
    }

    /// Waits for the oldest chunk that is being sealed, and sends its frame on its way.
    async fn take_sealed(&mut self) -> Result<()> {
        let Some(sealed) = self.sealing.next().await else { return Ok(()) };
        let SealedChunk { frame, plain_bytes } = sealed.map_err(lost_task)??;
        self.frame_bytes.push(frame.len() as u32);
        self.chunk_plain_bytes.push(plain_bytes);
        self.parts.push(&frame).await
    }

    async fn seal_rest(&mut self, facts: &FooterFacts) -> Result<()> {
        let chunks = std::mem::replace(&mut self.chunks, Cutter::new(1, 0));
        if let Some(chunk) = chunks.finish() {
            self.seal(chunk).await?;
        }
        while !self.sealing.is_empty() {
            self.take_sealed().await?;
        }
        let footer = facts.encode(self.frame_bytes.clone(), self.chunk_plain_bytes.clone());
        let mut frame = self.frames.take();
        self.sealer.footer(self.next_frame, &self.name.to_string(), &footer, &mut frame)?;
        if footer.len().max(frame.len()) > MAX_FOOTER_BYTES {
            return Err(Error::new(ErrorKind::Internal, format!("the footer of {} is too large", self.name)));
        }
        self.parts.push(&frame).await?;
        self.parts.push(&Trailer { footer_frame_bytes: frame.len() as u32 }.encode()).await
    }
}

impl std::fmt::Debug for BackupWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BackupWriter({})", self.name)
    }
}
