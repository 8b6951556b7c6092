//! Runs a plan: image, proof, SHA-256, name.
//!
//! # Why there is a whole file or none
//! The image is written into a file of another name, held against the footer's SHA-256 and proven as a restore proves it.
//! Only then does its own SHA-256 follow it, is it synced, and gets its name by one act that replaces nothing. A file that
//! is dropped before removes itself.

use std::path::PathBuf;

use super::plan::ExportPlan;
use crate::archive::BackupEntry;
use crate::datadir::{Durability, ImageFacts, PlainFile};
use crate::error::Result;
use crate::monitor::{Event, Phase};
use crate::replay::{Proof, Proving, move_image, prove};
use crate::run::{RunContext, blocking};

/// A plain snapshot that is in its place.
#[derive(Debug)]
pub struct ExportSummary {
    /// What it was exported from.
    pub backup: BackupEntry,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of the file, its SHA-256 included.
    pub file_bytes: u64,
    /// SHA-256 of the image.
    pub image_sha256: [u8; 32],
    /// What the image holds.
    pub facts: ImageFacts,
    /// What was proven of it.
    pub proof: Proof,
    /// From the first write to the file in its place.
    pub duration_ms: i64,
}

/// Runs a plan.
///
/// # Errors
/// `Refused` for a file that exists; `Damaged` for a backup that is not sound; those of the store and the file system;
/// `Interrupted`. There is no file then.
pub async fn run_export(plan: ExportPlan, context: &RunContext) -> Result<ExportSummary> {
    let started = context.clock.now();
    let ExportPlan { backup, to, reader, thoroughness, limits } = plan;
    let (image_bytes, image_sha256) = (reader.footer().plain_bytes, reader.footer().facts.plain_sha256);
    let file = blocking(move || PlainFile::create(&to, image_bytes, Durability::Fsync)).await?;
    let file = move_image(&reader, limits, file, Phase::Restore, context).await?;
    let proven = prove(file, Proving::of_full(&reader, thoroughness), context).await;
    let (file, image, examined, proof) = proven.map_err(|error| error.about(backup.name))?;
    drop(image);
    context.check_stop()?;
    context.monitor.tell(Event::Begin { phase: Phase::Sync, total_bytes: 0 });
    let path = blocking(move || file.install(image_sha256)).await?;
    context.monitor.tell(Event::End(Phase::Sync));
    Ok(ExportSummary {
        backup,
        path,
        file_bytes: image_bytes + image_sha256.len() as u64,
        image_sha256,
        facts: examined.facts,
        proof,
        duration_ms: context.clock.now().0 - started.0,
    })
}
