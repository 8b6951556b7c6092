//! The removal of a backup: of one object, under one name of ours.

use super::Archive;
use crate::error::Result;
use crate::format::BackupName;
use crate::store::Removal;

impl Archive {
    /// Removes one backup; one that is not there is no error. The key is made from the name, so that nothing outside the
    /// archive's prefix, and nothing with a name that is not a backup's, can be meant. `Hidden` where the store keeps versions: whether
    /// they are locked is theirs, and this takes none of them away.
    ///
    /// # Errors
    /// Those of the store: `Denied`, `Refused` or `Local` where it will not have this object removed.
    pub async fn remove(&self, name: &BackupName) -> Result<Removal> {
        self.store.delete(&[self.prefix.key(name)]).await.map_err(|error| error.about(name))
    }
}
