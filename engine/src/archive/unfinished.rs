//! Uploads of backups that were begun and never ended: what a killed process, or a store that went away, leaves behind.

use super::Archive;
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::format::BackupName;
use crate::store::PendingUpload;

/// An upload that is no backup yet, and never will be once its process has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedBackup {
    /// The name that it would have got.
    pub name: BackupName,
    /// When the upload was begun, by the store's clock; `None` where the store does not say.
    pub begun: Option<UnixMillis>,
    upload: PendingUpload,
}

/// What a store knows of uploads under one archive's prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnfinishedBackups {
    /// Those of backups, the oldest first.
    pub ours: Vec<UnfinishedBackup>,
    /// Uploads to keys that are no names of ours.
    pub foreign: usize,
}

impl Archive {
    /// Lists the unfinished uploads under the archive's prefix.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn unfinished(&self) -> Result<UnfinishedBackups> {
        let mut found = UnfinishedBackups::default();
        for upload in self.store.pending_uploads(self.prefix.as_str()).await? {
            match self.prefix.parse_key(&upload.key) {
                Some(name) => {
                    let begun = Some(upload.started).filter(|started| started.0 > 0);
                    found.ours.push(UnfinishedBackup { name, begun, upload });
                }
                None => found.foreign += 1,
            }
        }
        found.ours.sort_by_key(|unfinished| (unfinished.begun, unfinished.name));
        Ok(found)
    }

    /// Removes an unfinished upload with everything that was sent for it. An object of the same name is not touched: an
    /// upload is known to the store by an id of its own.
    ///
    /// # Errors
    /// Those of the store, naming the backup.
    pub async fn discard(&self, unfinished: &UnfinishedBackup) -> Result<()> {
        self.store.abort_pending(&unfinished.upload).await.map_err(|error| error.about(unfinished.name))
    }
}
