//! One object on its way into the store: bytes in, parts out.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::task::JoinHandle;

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::{Buffer, Cutter};
use crate::store::{ObjectStore, PartNumber, Upload};

/// Whether the store knows of an upload of ours.
enum UploadState {
    NotBegun,
    /// The store was asked, and has not answered yet: it may know of an upload whose id we do not.
    Asked,
    Begun(Arc<dyn Upload>),
}

/// Sends bytes as parts, a bounded number at once; as a single PUT where they do not fill one. Must be ended by
/// [`commit`](Self::commit) or [`abort`](Self::abort).
pub(super) struct PartSender {
    store: Arc<dyn ObjectStore>,
    key: String,
    part_bytes: usize,
    parallel_parts: usize,
    parts: Cutter,
    /// What the object begins with, until the first bytes follow.
    first: Option<Vec<u8>>,
    upload: UploadState,
    sending: FuturesUnordered<JoinHandle<Result<()>>>,
    next_part: u32,
    stored_bytes: u64,
}

impl PartSender {
    /// Begins the object `key` with `first`; nothing is sent before a part is full.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        key: String,
        (part_bytes, parallel_parts): (usize, usize),
        first: Vec<u8>,
    ) -> Self {
        Self {
            store,
            key,
            part_bytes,
            parallel_parts,
            parts: Cutter::new(part_bytes, parallel_parts + 1),
            first: Some(first),
            upload: UploadState::NotBegun,
            sending: FuturesUnordered::new(),
            next_part: 1,
            stored_bytes: 0,
        }
    }

    /// The key that the object will have.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Bytes stored, or on their way, so far.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Takes the next bytes; returns when there is room for more.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(first) = self.first.take() {
            self.cut(&first).await?;
        }
        self.cut(bytes).await
    }

    async fn cut(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.stored_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if let Some(part) = self.parts.push(&mut bytes) {
                self.send(part.into_bytes()).await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, part: Bytes) -> Result<()> {
        while self.sending.len() >= self.parallel_parts.max(1) {
            self.acknowledged().await?;
        }
        let number = PartNumber(self.next_part);
        if number > PartNumber::MAX {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{} needs more than {} parts", self.key, PartNumber::MAX.0),
            )
            .hint("raise --min-chunk-size"));
        }
        self.next_part += 1;
        let upload = self.upload().await?;
        self.sending.push(tokio::spawn(async move { upload.put_part(number, part).await }));
        Ok(())
    }

    async fn upload(&mut self) -> Result<Arc<dyn Upload>> {
        if let UploadState::Begun(upload) = &self.upload {
            return Ok(upload.clone());
        }
        self.upload = UploadState::Asked;
        let upload = self.store.start_upload(&self.key, self.part_bytes as u64).await?;
        self.upload = UploadState::Begun(upload.clone());
        Ok(upload)
    }

    async fn acknowledged(&mut self) -> Result<()> {
        match self.sending.next().await {
            Some(sent) => sent.map_err(lost_task)?,
            None => Ok(()),
        }
    }

    /// Sends the last part, where there is an upload, and waits for all of them.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn flush(&mut self) -> Result<()> {
        if matches!(self.upload, UploadState::NotBegun) {
            return Ok(());
        }
        if let Some(rest) = self.take_rest() {
            self.send(rest).await?;
        }
        while !self.sending.is_empty() {
            self.acknowledged().await?;
        }
        Ok(())
    }

    /// The one act that makes the object visible; everything has been flushed before.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn commit(&mut self) -> Result<()> {
        match &self.upload {
            UploadState::Begun(upload) => upload.complete().await,
            _ => {
                let whole = self.take_rest().unwrap_or_default();
                self.store.put(&self.key, whole).await
            }
        }
    }

    fn take_rest(&mut self) -> Option<Bytes> {
        std::mem::replace(&mut self.parts, Cutter::new(1, 0)).finish().map(Buffer::into_bytes)
    }

    /// Takes back everything that was sent.
    ///
    /// # Errors
    /// Those of the store: the upload may be left behind then.
    pub(super) async fn abort(&mut self) -> Result<()> {
        // A part that arrives after the abort could be left behind: end them all first, as far as they are ours to end.
        self.sending.iter().for_each(JoinHandle::abort);
        while self.sending.next().await.is_some() {}
        match std::mem::replace(&mut self.upload, UploadState::NotBegun) {
            UploadState::NotBegun => Ok(()),
            UploadState::Begun(upload) => upload.abort().await,
            UploadState::Asked => {
                // Nobody else uploads to this key: it has our nonce.
                for pending in self.store.pending_uploads(&self.key).await? {
                    self.store.abort_pending(&pending).await?;
                }
                Ok(())
            }
        }
    }
}

/// A task that ended without an outcome.
pub(super) fn lost_task(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a task of the upload ended by itself").caused_by(error)
}
