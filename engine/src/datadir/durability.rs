//! Whether a data directory must survive a power cut, and the syncing of names that this takes.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};

/// Whether what is written survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Files, directories and names are synced before and after the rename.
    #[default]
    Fsync,
    /// Nothing is synced: for tests and throw-away directories.
    None,
}

/// Makes the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path, durability: Durability) -> Result<()> {
    match durability {
        Durability::None => Ok(()),
        Durability::Fsync => {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| Error::file("sync", dir, error))
        }
    }
}
