//! Changing a file as bbolt does: by copy on write, behind its end.
//!
//! The pages that are there are only read. New ones follow the high-water mark: those of the changed buckets, then a
//! new root. Nothing refers to them until one of the meta pages is written, which is the caller's last act, after
//! all else is on disk. What the old root alone referred to is free from then on, as the file keeps no freelist.

use std::collections::BTreeMap;
use std::io::Write;

use super::bucket::Bucket;
use super::edge::open_edge;
use super::file::BoltFile;
use super::layout::Meta;
use super::page::{Entry, Holds};
use super::pages::{PageWriter, Written};
use super::tree::Tree;
use crate::error::{Error, ErrorKind, Result};

/// A file that is being changed.
///
/// Memory is an open leaf and two branches per level for each changed bucket, besides the small buckets themselves.
#[derive(Debug)]
pub struct Extension<'a, W> {
    file: BoltFile<'a>,
    pages: PageWriter<W>,
    /// Name and value of every bucket, as the root holds them; of a changed one the value is the old.
    buckets: BTreeMap<Vec<u8>, Vec<u8>>,
    changed: BTreeMap<Vec<u8>, Changed>,
}

/// A bucket whose right edge is still open.
#[derive(Debug)]
struct Changed {
    tree: Tree,
    sequence: u64,
}

impl<'a, W: Write> Extension<'a, W> {
    /// Begins to extend `file`; `out` stands at its [`BoltFile::used_bytes`].
    ///
    /// # Errors
    /// `Damaged` where the root's tree does not parse.
    pub fn begin(file: BoltFile<'a>, out: W) -> Result<Self> {
        let buckets = file.raw_buckets()?.into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let pages = PageWriter::new(out, file.page_size(), file.meta().high_water);
        Ok(Self { file, pages, buckets, changed: BTreeMap::new() })
    }

    /// Gives bucket `name` (new or not) these entries, in key order, in place of what it has.
    ///
    /// # Errors
    /// Those of `entries`; `Internal` where they do not ascend; `Local` where writing fails.
    pub fn replace<K, V>(&mut self, name: &[u8], entries: impl IntoIterator<Item = Result<(K, V)>>) -> Result<()>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let sequence = self.bucket(name)?.map_or(0, |bucket| bucket.sequence());
        self.change(name, Changed { tree: Tree::new(Holds::Values), sequence }, entries)
    }

    /// Adds entries, in key order, behind the last one of bucket `name` (new or not, or as this extension has changed
    /// it so far). Only its rightmost pages are written anew.
    ///
    /// # Errors
    /// As [`Extension::replace`]; also `Damaged` where the rightmost path does not parse.
    pub fn append<K, V>(&mut self, name: &[u8], entries: impl IntoIterator<Item = Result<(K, V)>>) -> Result<()>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut entries = entries.into_iter().peekable();
        if entries.peek().is_none() {
            return Ok(());
        }
        let changed = match (self.changed.remove(name), self.bucket(name)?) {
            (Some(changed), _) => changed,
            (None, None) => Changed { tree: Tree::new(Holds::Values), sequence: 0 },
            (None, Some(bucket)) => {
                let mut cursor = self.file.cursor(&bucket);
                cursor.last()?;
                Changed { tree: open_edge(&self.file, &cursor)?, sequence: bucket.sequence() }
            }
        };
        self.change(name, changed, entries)
    }

    /// Takes from bucket `name` all entries whose keys are not less than `from`. Only the pages of the path to the
    /// last entry that stays are written anew, and where the tree becomes narrow there, those beside them. Entries may
    /// be [`append`](Self::append)ed afterwards.
    ///
    /// # Errors
    /// `Damaged` where that path does not parse; `Internal` where this extension has changed the bucket already.
    pub fn cut(&mut self, name: &[u8], from: &[u8]) -> Result<()> {
        if self.changed.contains_key(name) {
            // What it has written is not in `file`, and cannot be read here.
            let name = String::from_utf8_lossy(name);
            return Err(Error::new(ErrorKind::Internal, format!("bucket {name} was changed before it was cut")));
        }
        let Some(bucket) = self.bucket(name)? else { return Ok(()) };
        let mut cursor = self.file.cursor(&bucket);
        if cursor.seek(from)?.is_none() {
            return Ok(());
        }
        let tree = match cursor.prev()? {
            None => Tree::new(Holds::Values),
            Some(_) => open_edge(&self.file, &cursor)?,
        };
        self.changed.insert(name.to_vec(), Changed { tree, sequence: bucket.sequence() });
        Ok(())
    }

    /// Writes what is left and the new root, and answers the metas that make it valid.
    ///
    /// # Errors
    /// `Local` where writing fails.
    pub fn finish(mut self) -> Result<Written<W>> {
        for (name, changed) in self.changed {
            let value = changed.tree.finish_bucket(&mut self.pages, changed.sequence)?;
            self.buckets.insert(name, value);
        }
        let mut root = Tree::new(Holds::Buckets);
        for (key, value) in &self.buckets {
            root.push(&mut self.pages, Entry { key, value })?;
        }
        let root = root.finish(&mut self.pages)?;
        let old = *self.file.meta();
        // A commit writes meta `txid % 2`; these are the next two.
        let next = old.txid.saturating_add(1);
        let txid = |page| if next % 2 == page { next } else { next.saturating_add(1) };
        self.pages.finish(Meta { root, ..old }, [txid(0), txid(1)])
    }

    fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'a>>> {
        self.file.bucket(name)
    }

    fn change<K, V>(
        &mut self,
        name: &[u8],
        mut changed: Changed,
        entries: impl IntoIterator<Item = Result<(K, V)>>,
    ) -> Result<()>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        if name.is_empty() {
            return Err(Error::new(ErrorKind::Internal, "a bucket needs a name"));
        }
        for entry in entries {
            let (key, value) = entry?;
            changed.tree.push(&mut self.pages, Entry { key: key.as_ref(), value: value.as_ref() })?;
        }
        self.changed.insert(name.to_vec(), changed);
        Ok(())
    }
}
