//! No unencrypted backup joins an archive that has encrypted ones.

use super::Archive;
use super::catalogue::Catalogue;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Protection;

/// How many of the newest and of the oldest backups are looked at. By induction the newest one would do: once a backup is
/// encrypted, no later one is accepted that is not. More than one, and from both ends, because two writers or a clock
/// that was wrong can break the order of times.
const BACKUPS_LOOKED_AT: usize = 4;

impl Archive {
    /// Refuses to write unencrypted where the newest backups are encrypted.
    ///
    /// # Errors
    /// `Refused` with the backup's name; those of the store.
    pub async fn check_encryption_policy(&self, catalogue: &Catalogue) -> Result<()> {
        if !self.keyring.is_empty() {
            return Ok(());
        }
        let all = catalogue.newest_first();
        let (newest, older) = all.split_at(all.len().min(BACKUPS_LOOKED_AT));
        for entry in newest.iter().chain(older.iter().rev().take(BACKUPS_LOOKED_AT)) {
            let header = match self.read_header(&entry.name).await {
                Ok(header) => header,
                // It was deleted meanwhile, or is damaged: neither says that the archive is encrypted.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Damaged) => continue,
                Err(error) => return Err(error),
            };
            if let Protection::Aes256Gcm { key_id, .. } = header.header.protection {
                return Err(Error::new(ErrorKind::Refused, format!("no key was given, but {} is encrypted with key {key_id}", entry.name))
                    .hint("give --encryption-key-file or ETCDBR_ENCRYPTION_KEY, or use another --store-prefix for unencrypted backups"));
            }
        }
        Ok(())
    }
}
