//! Changing a file as bbolt does: by copy on write, behind its end.
//!
//! The pages that are there are only read. New ones follow the high-water mark: those of the changed buckets, then a
//! new root. Nothing refers to them until one of the meta pages is written, which is the caller's last act, after
//! all else is on disk. What the old root alone referred to is free from then on, as the file keeps no freelist.

use std::collections::BTreeMap;
use std::io::Write;

use super::bucket::Bucket;
use super::file::BoltFile;
use super::layout::{FLAG_LEAF, Meta, PageId, page_header};
use super::page::{Entry, Holds};
use super::tree::{PageWriter, Tree};
use crate::error::{Error, ErrorKind, Result};

/// A file that is being changed.
#[derive(Debug)]
pub struct Extension<'a, W> {
    file: BoltFile<'a>,
    pages: PageWriter<W>,
    /// Name and value of every bucket, as the new root will hold them.
    buckets: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an extension has written, and what makes it valid.
#[derive(Debug)]
pub struct Extended<W> {
    /// The writer that took the pages, flushed.
    pub out: W,
    /// The first page id behind the new pages; the file ends there.
    pub high_water: PageId,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Offset and bytes of the two meta pages: to be written once all else is on disk. Both name the new root, so that
    /// not even a damaged meta leads back to the old one.
    pub metas: [(u64, Vec<u8>); 2],
}

/// The bytes of a file without buckets, of pages of `page_size` bytes: what a file that is written from nothing starts
/// with.
pub fn empty_file(page_size: u32) -> Vec<u8> {
    let (root, high_water) = (PageId(2), PageId(3));
    let mut bytes = Vec::new();
    for page in [0, 1] {
        bytes.extend_from_slice(&Meta { page_size, root, sequence: 0, high_water, txid: page }.encode(PageId(page)));
        bytes.resize((page as usize + 1) * page_size as usize, 0);
    }
    bytes.extend_from_slice(&page_header(root, FLAG_LEAF, 0, 0));
    bytes.resize(3 * page_size as usize, 0);
    bytes
}

impl<'a, W: Write> Extension<'a, W> {
    /// Begins to extend `file`; `out` stands at its [`BoltFile::used_bytes`].
    ///
    /// # Errors
    /// `Damaged` where the root's tree does not parse.
    pub fn begin(file: BoltFile<'a>, out: W) -> Result<Self> {
        let buckets = file.raw_buckets()?.into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let pages = PageWriter::new(out, file.page_size(), file.meta().high_water);
        Ok(Self { file, pages, buckets })
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
        self.write(name, Tree::new(Holds::Values), sequence, entries)
    }

    /// Adds entries, in key order, behind the last one of bucket `name` (new or not). Only its rightmost pages are
    /// written anew.
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
        let Some(bucket) = self.bucket(name)? else {
            return self.write(name, Tree::new(Holds::Values), 0, entries);
        };
        // A bucket that this extension has already written is not in `file`: its pages are not readable here.
        let mut cursor = self.file.cursor(&bucket);
        cursor.last()?;
        let tree = Tree::carry_on(cursor.path().collect::<Vec<_>>().into_iter())?;
        self.write(name, tree, bucket.sequence(), entries)
    }

    /// Writes the new root and answers the metas that make it valid.
    ///
    /// # Errors
    /// `Local` where writing fails.
    pub fn finish(mut self) -> Result<Extended<W>> {
        let mut tree = Tree::new(Holds::Buckets);
        for (key, value) in &self.buckets {
            tree.push(&mut self.pages, Entry { key, value })?;
        }
        let root = tree.finish(&mut self.pages)?;
        let old = *self.file.meta();
        let high_water = self.pages.next_page();
        let meta = |page: u64| {
            // A commit writes meta `txid % 2`; these are the next two.
            let next = old.txid.saturating_add(1);
            let txid = if next % 2 == page { next } else { next.saturating_add(1) };
            (page * u64::from(old.page_size), Meta { root, high_water, txid, ..old }.encode(PageId(page)))
        };
        let written_bytes = (high_water.0 - old.high_water.0) * u64::from(old.page_size);
        Ok(Extended { out: self.pages.into_inner()?, high_water, written_bytes, metas: [meta(0), meta(1)] })
    }

    fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'a>>> {
        self.file.bucket(name)
    }

    fn write<K, V>(
        &mut self,
        name: &[u8],
        mut tree: Tree,
        sequence: u64,
        entries: impl IntoIterator<Item = Result<(K, V)>>,
    ) -> Result<()>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        for entry in entries {
            let (key, value) = entry?;
            tree.push(&mut self.pages, Entry { key: key.as_ref(), value: value.as_ref() })?;
        }
        let value = tree.finish_bucket(&mut self.pages, sequence)?;
        if name.is_empty() {
            return Err(Error::new(ErrorKind::Internal, "a bucket needs a name"));
        }
        self.buckets.insert(name.to_vec(), value);
        Ok(())
    }
}
