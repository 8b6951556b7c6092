//! What will be exported, settled before anything is written.

use std::path::PathBuf;

use crate::archive::{Archive, BackupEntry, BackupReader, ReadLimits, Selection, select};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Protection;
use crate::replay::Thoroughness;

/// Whether what was encrypted may leave in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Plaintext {
    /// It may not.
    #[default]
    Refused,
    /// The operator says so.
    Allowed,
}

/// What the operator wants.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// Which backup.
    pub selection: Selection,
    /// The file to make.
    pub to: PathBuf,
    /// Whether an encrypted backup may become a file that is not.
    pub plaintext: Plaintext,
    /// How much is proven before the file gets its name.
    pub thoroughness: Thoroughness,
    /// Bounds.
    pub limits: ReadLimits,
}

/// An export that can be run; nothing has been written.
#[derive(Debug)]
pub struct ExportPlan {
    /// The full.
    pub backup: BackupEntry,
    /// The file to make.
    pub to: PathBuf,
    pub(super) reader: BackupReader,
    pub(super) thoroughness: Thoroughness,
    pub(super) limits: ReadLimits,
}

/// Plans an export: one LIST for each 1,000 objects, then two or three GETs.
///
/// # Errors
/// `Refused` for an encrypted backup where plaintext is not allowed; those of selecting and opening the backup.
pub async fn plan_export(archive: &Archive, request: ExportRequest) -> Result<ExportPlan> {
    let ExportRequest { selection, to, plaintext, thoroughness, limits } = request;
    let backup = select(&archive.catalogue().await?, &selection)?.clone();
    let reader = archive.open(&backup.name).await?;
    if plaintext == Plaintext::Refused && matches!(reader.header().protection, Protection::Aes256Gcm { .. }) {
        let what = format!("{} is encrypted, and a plain snapshot is not", backup.name);
        return Err(Error::new(ErrorKind::Refused, what).hint(
            "--allow-plaintext says that this is wanted: the file holds every value, Secrets among them, for whoever can \
             read it",
        ));
    }
    Ok(ExportPlan { backup, to, reader, thoroughness, limits })
}
