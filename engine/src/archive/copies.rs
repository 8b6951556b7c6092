//! Plain copies beside the archive: snapshots in the clear that are fetched by their URLs and then removed.
//!
//! They are no backups: no catalogue lists them, nothing is restored from them by name. Their names are ours alone, and
//! only such names are ever removed.

use std::time::Duration;

use super::Archive;
use super::parts::PartSender;
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::format::PlainCopyName;
use crate::store::Removal;
use crate::store::{ListDepth, ListQuery, PendingUpload, PresignedUrl};

/// More pages than this are no copies of ours.
const MAX_LIST_PAGES: usize = 100;

/// Bounds of an upload: memory is one more part than are under way.
#[derive(Debug, Clone, Copy)]
pub struct CopyLimits {
    /// Bytes of a part; what ends below goes up in a single PUT.
    pub part_bytes: usize,
    /// Parts under way at once.
    pub parallel_parts: usize,
}

impl Default for CopyLimits {
    /// 10,000 such parts hold any database.
    fn default() -> Self {
        Self { part_bytes: 8 << 20, parallel_parts: 4 }
    }
}

/// A plain copy as LIST shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainCopy {
    /// Its name.
    pub name: PlainCopyName,
    /// Its key in the store.
    pub key: String,
    /// Its size.
    pub bytes: u64,
}

/// A plain copy whose upload has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedCopy {
    /// The name that it would have got.
    pub name: PlainCopyName,
    /// The key.
    pub key: String,
    upload: PendingUpload,
}

/// What lies where plain copies do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlainCopies {
    /// Copies, the oldest first.
    pub copies: Vec<PlainCopy>,
    /// Uploads that have not ended, the oldest first.
    pub unfinished: Vec<UnfinishedCopy>,
    /// Objects and uploads that do not have a name of ours.
    pub foreign: usize,
}

/// A plain copy on its way. Must be ended by [`commit`](Self::commit) or [`abort`](Self::abort).
pub struct CopyWriter(PartSender);

impl Archive {
    /// The store's key of a plain copy.
    pub fn copy_key(&self, name: &PlainCopyName) -> String {
        self.prefix.copy_key(name)
    }

    /// Begins a plain copy. Nothing is sent before the first part is full.
    pub fn copy_writer(&self, name: &PlainCopyName, limits: CopyLimits) -> CopyWriter {
        let parts = (limits.part_bytes, limits.parallel_parts);
        CopyWriter(PartSender::new(self.store.clone(), self.copy_key(name), parts, Vec::new()))
    }

    /// A URL under which anybody may read a plain copy for `lifetime` from `now` on.
    ///
    /// # Errors
    /// `Invalid` for a store that cannot; `Denied` where credentials cannot be had.
    pub async fn presign_copy(
        &self,
        name: &PlainCopyName,
        now: UnixMillis,
        lifetime: Duration,
    ) -> Result<PresignedUrl> {
        let presigner = self.store.presigner().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("no URL leads into {}", self.store.describe()))
                .hint("a directory is read without one: `etcdbr export` writes a plain snapshot")
        })?;
        presigner.presign_read(&self.copy_key(name), now, lifetime).await
    }

    /// Lists the plain copies, finished and not.
    ///
    /// # Errors
    /// Those of the store; `Invalid` where more lies there than can be ours.
    pub async fn copies(&self) -> Result<PlainCopies> {
        let prefix = self.prefix.copies();
        let mut found = PlainCopies::default();
        let mut query = ListQuery { prefix: prefix.clone(), start_after: None, depth: ListDepth::All };
        for page_number in 0.. {
            if page_number == MAX_LIST_PAGES {
                let what = format!("{prefix} holds more objects than copies can be");
                return Err(Error::new(ErrorKind::Invalid, what).hint("check --store-prefix"));
            }
            let page = self.store.list(&query).await?;
            for object in page.objects {
                match self.prefix.parse_copy_key(&object.key) {
                    Some(name) => found.copies.push(PlainCopy { name, key: object.key, bytes: object.bytes }),
                    None => found.foreign += 1,
                }
            }
            query.start_after = page.next;
            if query.start_after.is_none() {
                break;
            }
        }
        for upload in self.store.pending_uploads(&prefix).await? {
            match self.prefix.parse_copy_key(&upload.key) {
                Some(name) => found.unfinished.push(UnfinishedCopy { name, key: upload.key.clone(), upload }),
                None => found.foreign += 1,
            }
        }
        found.copies.sort_by_key(|copy| copy.name);
        found.unfinished.sort_by_key(|copy| copy.name);
        Ok(found)
    }

    /// Removes plain copies; one that is not there is no error. `Hidden` where the store keeps versions of any.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_copies(&self, names: &[PlainCopyName]) -> Result<Removal> {
        let keys: Vec<String> = names.iter().map(|name| self.copy_key(name)).collect();
        self.store.delete(&keys).await
    }

    /// Removes what was sent of a copy that was never finished.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn discard_copy(&self, unfinished: &UnfinishedCopy) -> Result<()> {
        self.store.abort_pending(&unfinished.upload).await
    }
}

impl CopyWriter {
    /// Takes the next bytes; returns when there is room for more.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.push(bytes).await
    }

    /// Waits until the store has all that was pushed. Nothing is visible yet.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn flush(&mut self) -> Result<()> {
        self.0.flush().await
    }

    /// Makes the copy visible, whole.
    ///
    /// # Errors
    /// Those of the store: it may be visible nevertheless.
    pub async fn commit(&mut self) -> Result<()> {
        self.0.commit().await
    }

    /// Takes back what was sent.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn abort(&mut self) -> Result<()> {
        self.0.abort().await
    }
}

impl std::fmt::Debug for CopyWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CopyWriter({})", self.0.key())
    }
}
