//! Writing a whole file from nothing: buckets by name, entries by key, every page once and in file order.

use std::io::Write;

use super::layout::{Meta, PageId, page_sizes};
use super::page::{Entry, Holds};
use super::pages::{PageWriter, Written};
use super::tree::Tree;
use crate::error::{Error, ErrorKind, Result};

/// Pages before the first of a tree: the two metas.
const META_PAGES: u64 = 2;
/// The transactions of a new file's metas, in page 0 and page 1.
const TXIDS: [u64; 2] = [2, 1];

/// A file that is being written from nothing.
///
/// What it writes is only ever added at the end; the room of the two metas is left as zeroes, so that what was not
/// finished is no database. Memory is a buffer of a megabyte, one leaf, and two branches per level.
#[derive(Debug)]
pub struct BulkWriter<W> {
    pages: PageWriter<W>,
    page_size: u32,
    root: Tree,
    /// Name and tree of the bucket that takes entries.
    open: Option<(Vec<u8>, Tree)>,
}

impl<W: Write> BulkWriter<W> {
    /// Begins a file of pages of `page_size` bytes at the start of `out`.
    ///
    /// # Errors
    /// `Internal` for a page size that no database has; `Local` where writing fails.
    pub fn create(out: W, page_size: u32) -> Result<Self> {
        if !page_sizes().any(|size| size == page_size as usize) {
            return Err(Error::new(ErrorKind::Internal, format!("no database has pages of {page_size} bytes")));
        }
        let mut pages = PageWriter::new(out, page_size as usize, PageId(0));
        pages.leave_room(META_PAGES)?;
        Ok(Self { pages, page_size, root: Tree::new(Holds::Buckets), open: None })
    }

    /// Ends the bucket before it, if any, and begins bucket `name`, which must be greater.
    ///
    /// # Errors
    /// `Internal` for a name that is empty or out of order; `Local` where writing fails.
    pub fn start(&mut self, name: &[u8]) -> Result<()> {
        self.end_bucket()?;
        if name <= self.root.last_key() {
            let name = String::from_utf8_lossy(name);
            return Err(Error::new(ErrorKind::Internal, format!("bucket {name} is written out of order")));
        }
        self.open = Some((name.to_vec(), Tree::new(Holds::Values)));
        Ok(())
    }

    /// Adds an entry to the bucket that was started last; its key must be greater than the one before it.
    ///
    /// # Errors
    /// `Internal` for a key that is empty, too long or out of order, a value that is too long, or without a bucket;
    /// `Local` where writing fails.
    pub fn push(&mut self, entry: Entry<'_>) -> Result<()> {
        match &mut self.open {
            Some((_, tree)) => tree.push(&mut self.pages, entry),
            None => Err(Error::new(ErrorKind::Internal, "an entry is written before its bucket was started")),
        }
    }

    /// Writes bucket `name` with these entries, in key order.
    ///
    /// # Errors
    /// Those of `entries`, of [`start`](Self::start) and of [`push`](Self::push).
    pub fn bucket<K, V>(&mut self, name: &[u8], entries: impl IntoIterator<Item = Result<(K, V)>>) -> Result<()>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        self.start(name)?;
        for entry in entries {
            let (key, value) = entry?;
            self.push(Entry { key: key.as_ref(), value: value.as_ref() })?;
        }
        Ok(())
    }

    /// Writes what is left and the root, and answers the metas that make the file valid.
    ///
    /// # Errors
    /// `Local` where writing fails.
    pub fn finish(mut self) -> Result<Written<W>> {
        self.end_bucket()?;
        let root = self.root.finish(&mut self.pages)?;
        let meta = Meta { page_size: self.page_size, root, sequence: 0, high_water: PageId(0), txid: 0 };
        self.pages.finish(meta, TXIDS)
    }

    fn end_bucket(&mut self) -> Result<()> {
        let Some((name, tree)) = self.open.take() else { return Ok(()) };
        let value = tree.finish_bucket(&mut self.pages, 0)?;
        self.root.push(&mut self.pages, Entry { key: &name, value: &value })
    }
}
