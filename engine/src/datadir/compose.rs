//! A database that is written anew from an image and the records that follow it: every page once, nothing left over.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::disk::attempt;
use super::entries::each_entry;
use super::image::{COMPACTIONS, Image};
use super::lease::LeaseChanges;
use super::mvcc::revision_key;
use super::pages::Pages;
use crate::bbolt::{BoltFile, BulkWriter, Entry};
use crate::error::Result;
use crate::record::RecordRef;
use crate::revision::Revision;

const RECORDS: &[u8] = b"key";
const LEASES: &[u8] = b"lease";
const META: &[u8] = b"meta";

/// A database that is being written: its records are to be given.
#[derive(Debug)]
pub struct Composition<'a> {
    writer: BulkWriter<Pages<'a>>,
}

/// What the rest of a database is made of.
#[derive(Debug, Clone, Default)]
pub struct Remainder {
    /// What became of the image's leases.
    pub leases: LeaseChanges,
    /// The revision that the records were pruned at.
    pub compacted: Option<Revision>,
}

impl Composition<'_> {
    /// Adds a record; it must be later than the one before.
    ///
    /// # Errors
    /// `Internal` where it is not; `Local` where the disk is full or refuses.
    pub fn push(&mut self, record: &RecordRef<'_>) -> Result<()> {
        self.writer.push(Entry { key: &record.bucket_key(), value: record.value })
    }
}

/// Writes a database into `db`, an empty file at `path`: the records that `fill` gives, and all else as `image` has it, but
/// for what `fill` answers. Answers what else it gave, and the bytes that were written.
pub(super) fn compose<T>(
    (db, path): (&File, &Path),
    image: &Image,
    fill: impl FnOnce(&mut Composition<'_>) -> Result<(T, Remainder)>,
) -> Result<(T, u64)> {
    let file = image.tree()?;
    let names: Vec<&[u8]> = file.buckets()?.into_iter().map(|(name, _)| name).collect();
    let mut writer = BulkWriter::create(Pages { db, path }, file.meta().page_size)?;
    for name in names.iter().filter(|name| **name < RECORDS) {
        copy(&file, name, &mut writer)?;
    }
    writer.start(RECORDS)?;
    let mut composition = Composition { writer };
    let (filled, remainder) = fill(&mut composition)?;
    let mut writer = composition.writer;
    for name in names.iter().filter(|name| **name > RECORDS) {
        match (*name, remainder.leases.applied(&file)?) {
            (LEASES, Some(entries)) => writer.bucket(LEASES, entries.into_iter().map(Ok))?,
            (META, _) => writer.bucket(META, meta(&file, remainder.compacted)?.into_iter().map(Ok))?,
            (name, _) => copy(&file, name, &mut writer)?,
        }
    }
    let written = writer.finish()?;
    // Nothing relies on these pages before all of the stage is synced.
    for (offset, meta) in &written.metas {
        attempt("write", path, || db.write_all_at(meta, *offset))?;
    }
    Ok((filled, written.written_bytes))
}

fn copy(file: &BoltFile<'_>, name: &[u8], writer: &mut BulkWriter<Pages<'_>>) -> Result<()> {
    writer.start(name)?;
    each_entry(file, name, |entry| writer.push(entry))
}

/// The entries of `meta`: a compaction at `compacted` was asked for and is finished.
fn meta(file: &BoltFile<'_>, compacted: Option<Revision>) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut entries = BTreeMap::new();
    each_entry(file, META, |entry| {
        entries.insert(entry.key.to_vec(), entry.value.to_vec());
        Ok(())
    })?;
    if let Some(revision) = compacted {
        entries.extend(COMPACTIONS.map(|key| (key.to_vec(), revision_key(revision).to_vec())));
    }
    Ok(entries)
}
