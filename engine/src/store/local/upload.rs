//! An object on its way into a directory: one file beside its destination, parts written at their offsets.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::store::contract::Upload;
use crate::store::ledger::Ledger;
use crate::store::local::off_thread;
use crate::store::local::place::{Root, Unfinished};
use crate::store::object::PartNumber;

const OPEN: u8 = 0;
const COMPLETED: u8 = 1;
const ABORTED: u8 = 2;

/// An upload into a directory. Dropped without [`Upload::complete`], it removes its file.
#[derive(Debug)]
pub(super) struct LocalUpload(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: Arc<Root>,
    key: String,
    unfinished: Unfinished,
    ledger: Ledger<()>,
    state: AtomicU8,
}

impl LocalUpload {
    /// Creates the file.
    pub(super) async fn start(root: Arc<Root>, key: &str, part_bytes: u64) -> Result<Self> {
        let ledger = Ledger::new(key, part_bytes)?;
        let key = key.to_owned();
        let inner = off_thread(move || {
            let unfinished = root.begin(&key)?;
            Ok(Inner { root, key, unfinished, ledger, state: AtomicU8::new(OPEN) })
        });
        Ok(Self(Arc::new(inner.await?)))
    }

    async fn blocking(&self, work: impl FnOnce(&Inner) -> Result<()> + Send + 'static) -> Result<()> {
        let inner = Arc::clone(&self.0);
        off_thread(move || work(&inner)).await
    }
}

#[async_trait]
impl Upload for LocalUpload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<()> {
        self.blocking(move |inner| inner.put_part(number, &body)).await
    }

    async fn complete(&self) -> Result<()> {
        self.blocking(Inner::complete).await
    }

    async fn abort(&self) -> Result<()> {
        self.blocking(Inner::abort).await
    }
}

impl Inner {
    fn put_part(&self, number: PartNumber, body: &[u8]) -> Result<()> {
        self.check_open()?;
        let bytes = body.len() as u64;
        let offset_bytes = self.ledger.offset_bytes(&self.key, number, bytes)?;
        let written = self.unfinished.file.write_all_at(body, offset_bytes);
        written.map_err(|error| Error::file("write", &self.unfinished.path, error))?;
        self.ledger.note(number, bytes, ());
        Ok(())
    }

    fn complete(&self) -> Result<()> {
        self.check_open()?;
        let sealed = self.ledger.seal(&self.key)?;
        let length =
            self.unfinished.file.metadata().map_err(|error| Error::file("stat", &self.unfinished.path, error))?;
        if length.len() != sealed.total_bytes {
            let message =
                format!("{}: {} bytes were written, the parts have {}", self.key, length.len(), sealed.total_bytes);
            return Err(Error::new(ErrorKind::Local, message));
        }
        self.unfinished.finish()?;
        self.state.store(COMPLETED, Ordering::SeqCst);
        Ok(())
    }

    fn abort(&self) -> Result<()> {
        if self.state.compare_exchange(OPEN, ABORTED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.root.take_back(&self.unfinished.path)?;
        }
        Ok(())
    }

    fn check_open(&self) -> Result<()> {
        if self.state.load(Ordering::SeqCst) == OPEN {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Internal, format!("{}: the upload has ended already", self.key)))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What fails here is found by `pending_uploads`.
        let _ = self.abort();
    }
}
