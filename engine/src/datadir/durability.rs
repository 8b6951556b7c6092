//! Whether a data directory must survive a power cut, and the syncing of files and names that this takes.

use std::fs::File;
use std::path::Path;

use super::disk::sync;
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

/// Makes the contents of `file`, which is at `path`, durable.
pub(super) fn sync_file(file: &File, path: &Path, durability: Durability) -> Result<()> {
    match durability {
        Durability::None => Ok(()),
        Durability::Fsync => sync(path, || file.sync_all()).map_err(|error| Error::file("sync", path, error)),
    }
}

/// Makes the names in `dir` durable, or what is known of a file at this path.
pub(super) fn sync_path(path: &Path, durability: Durability) -> Result<()> {
    match durability {
        Durability::None => Ok(()),
        Durability::Fsync => {
            sync(path, || File::open(path)?.sync_all()).map_err(|error| Error::file("sync", path, error))
        }
    }
}
