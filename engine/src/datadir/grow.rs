//! An image that becomes the database of another revision: records are added behind its last one, or cut off.
//!
//! # Why no key's history gets a hole
//! etcd counts a key's versions on from the first record that it finds of it, so that what is there of a key must be the
//! end of its history. Records are added behind all others, and none may be left out; those of a cut are the last ones of
//! every key. What was compacted stays compacted, and etcd does the compactions since then itself.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::disk::attempt;
use super::image::{Extent, Image};
use super::lease::LeaseChanges;
use super::mvcc::revision_key;
use super::pages::Pages;
use crate::bbolt::{BoltFile, Extension};
use crate::error::{Error, ErrorKind, Result};
use crate::record::RecordRef;
use crate::revision::Revision;

/// A database that is being changed.
#[derive(Debug)]
pub struct Growth<'a> {
    file: BoltFile<'a>,
    extension: Extension<'a, Pages<'a>>,
    base: Extent,
}

/// Lets `change` change the database `image`, which `db` at `path` holds; answers what it gave and the bytes that were
/// written. `image` stays what it was; whoever opens `db` again finds the other.
pub(super) fn grow<T>(
    (db, path): (&File, &Path),
    image: &Image,
    change: impl FnOnce(&mut Growth<'_>) -> Result<T>,
) -> Result<(T, u64)> {
    let file = image.tree()?;
    let mut out = Pages { db, path };
    out.seek(SeekFrom::Start(file.used_bytes())).map_err(|error| Error::file("extend", path, error))?;
    let mut growth = Growth { file, extension: Extension::begin(file, out)?, base: image.extent()? };
    let changed = change(&mut growth)?;
    let written = growth.extension.finish()?;
    // Nothing relies on these pages before all of the stage is synced.
    for (offset, meta) in &written.metas {
        attempt("write", path, || db.write_all_at(meta, *offset))?;
    }
    Ok((changed, written.written_bytes))
}

impl Growth<'_> {
    /// Adds records, in order, all of revisions behind the image's.
    ///
    /// # Errors
    /// Those of `records`; `Internal` where they are not in order; `Local` where the disk is full or refuses.
    pub fn append<'r>(&mut self, records: impl Iterator<Item = Result<RecordRef<'r>>>) -> Result<()> {
        let entries = records.map(|record| record.map(|record| (record.bucket_key(), record.value)));
        self.extension.append(b"key", entries)
    }

    /// Cuts off all records of revisions behind `last`.
    ///
    /// # Errors
    /// `Refused` where the image is compacted behind `last`: what it held then is not in it any more; `Damaged` where it
    /// does not parse; `Internal` after an [`append`](Self::append).
    pub fn cut_behind(&mut self, last: Revision) -> Result<()> {
        if let Some(floor) = self.base.compact_floor.filter(|floor| *floor > last) {
            let what = format!("revision {last} is not in an image that is compacted at {floor}");
            return Err(Error::new(ErrorKind::Refused, what));
        }
        self.extension.cut(b"key", &revision_key(last.next()))
    }

    /// Gives it the leases that there are now.
    ///
    /// # Errors
    /// `Damaged` where those that it has do not parse; `Local` as above.
    pub fn change_leases(&mut self, changes: &LeaseChanges) -> Result<()> {
        match changes.applied(&self.file)? {
            Some(entries) => self.extension.replace(b"lease", entries.into_iter().map(Ok)),
            None => Ok(()),
        }
    }
}
