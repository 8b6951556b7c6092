//! Writing a tree bottom-up: entries in key order in, pages in file order out.
//!
//! Memory is the open leaf and at most two branch pages per level, however large the tree. The invariants that bbolt
//! relies on and does not check are kept here: a branch's key is its child's first key, no branch has fewer than two
//! children, all leaves are equally deep, and no leaf is empty but that of an empty bucket.

use std::io::Write;

use super::layout::{
    BUCKET_HEADER_BYTES, ELEMENT_BUCKET, ELEMENT_BYTES, FLAG_BRANCH, FLAG_LEAF, MAX_ELEMENTS, MAX_KEY_BYTES,
    MAX_VALUE_BYTES, PAGE_HEADER_BYTES, PageId, bucket_header, page_header,
};
use super::page::{Entry, Holds};
use super::pages::PageWriter;
use crate::error::{Error, ErrorKind, Result};

/// Entries of a leaf that is not written yet.
#[derive(Debug, Default)]
struct Leaf {
    /// Bytes of each key and value.
    lens: Vec<(u32, u32)>,
    /// Keys and values in turn.
    data: Vec<u8>,
}

impl Leaf {
    fn page_bytes(&self) -> usize {
        PAGE_HEADER_BYTES + self.lens.len() * ELEMENT_BYTES + self.data.len()
    }

    fn first_key(&self) -> Vec<u8> {
        let len = self.lens.first().map_or(0, |lens| lens.0 as usize);
        self.data[..len].to_vec()
    }

    fn elements(&self, element_flags: u32) -> impl Iterator<Item = [u8; ELEMENT_BYTES]> + '_ {
        let mut data_at = 0;
        self.lens.iter().enumerate().map(move |(index, &(key, value))| {
            // Positions count from the element itself.
            let pos = ((self.lens.len() - index) * ELEMENT_BYTES) as u32 + data_at;
            data_at += key + value;
            let mut element = [0; ELEMENT_BYTES];
            for (place, word) in element.chunks_exact_mut(4).zip([element_flags, pos, key, value]) {
                place.copy_from_slice(&word.to_le_bytes());
            }
            element
        })
    }

    /// Empties it; what it has allocated stays.
    fn clear(&mut self) {
        self.lens.clear();
        self.data.clear();
    }
}

/// A page below a branch, and the first key in it.
#[derive(Debug)]
pub(super) struct Child {
    /// The first key.
    pub(super) key: Vec<u8>,
    /// Where it is.
    pub(super) page: PageId,
}

/// The branches of one level that are not written yet.
///
/// A full one waits until the next is known to have two children: it may have to give up its last.
#[derive(Debug, Default)]
struct Level {
    ready: Option<Vec<Child>>,
    open: Vec<Child>,
    open_bytes: usize,
}

impl Level {
    fn of(open: Vec<Child>) -> Self {
        Self { ready: None, open_bytes: branch_bytes(&open), open }
    }
}

/// Bytes of a branch page of these children.
fn branch_bytes(children: &[Child]) -> usize {
    PAGE_HEADER_BYTES + children.iter().map(|child| ELEMENT_BYTES + child.key.len()).sum::<usize>()
}

/// A tree that is being written.
#[derive(Debug)]
pub(super) struct Tree {
    element_flags: u32,
    leaf: Leaf,
    last_key: Vec<u8>,
    levels: Vec<Level>,
}

impl Tree {
    /// An empty tree.
    pub(super) fn new(holds: Holds) -> Self {
        let element_flags = if holds == Holds::Buckets { ELEMENT_BUCKET } else { 0 };
        Self { element_flags, leaf: Leaf::default(), last_key: Vec::new(), levels: Vec::new() }
    }

    /// A tree of values of which all but the right edge is written: `leaf` has the entries of its last leaf, `levels`
    /// what the last branch of each level holds besides its last child, that above the leaves first, none empty.
    pub(super) fn carry_on<'a>(leaf: impl Iterator<Item = Entry<'a>>, levels: Vec<Vec<Child>>) -> Result<Self> {
        let mut tree = Self::new(Holds::Values);
        for entry in leaf {
            tree.keep(entry)?;
        }
        tree.levels = levels.into_iter().map(Level::of).collect();
        Ok(tree)
    }

    /// The last key that it was given.
    pub(super) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Adds an entry; its key must be greater than the last one.
    ///
    /// # Errors
    /// `Internal` for a key that is empty, too long or out of order, or a value that is too long; `Local` where
    /// writing fails.
    pub(super) fn push<W: Write>(&mut self, pages: &mut PageWriter<W>, entry: Entry<'_>) -> Result<()> {
        let needed = ELEMENT_BYTES + entry.key.len() + entry.value.len();
        let full = self.leaf.page_bytes() + needed > pages.page_size() || self.leaf.lens.len() >= MAX_ELEMENTS;
        if full && !self.leaf.lens.is_empty() {
            self.flush_leaf(pages)?;
        }
        self.keep(entry)
    }

    fn keep(&mut self, entry: Entry<'_>) -> Result<()> {
        let (key, value) = (entry.key, entry.value);
        if key.is_empty() || key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("an entry of {} and {} bytes does not go into a database", key.len(), value.len()),
            ));
        }
        if key <= self.last_key.as_slice() {
            return Err(Error::new(ErrorKind::Internal, format!("key {key:02x?} is written out of order")));
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.leaf.lens.push((key.len() as u32, value.len() as u32));
        self.leaf.data.extend_from_slice(key);
        self.leaf.data.extend_from_slice(value);
        Ok(())
    }

    /// Writes what is left and answers the root page. A tree without entries is one empty leaf.
    pub(super) fn finish<W: Write>(mut self, pages: &mut PageWriter<W>) -> Result<PageId> {
        if !self.leaf.lens.is_empty() || self.levels.is_empty() {
            self.flush_leaf(pages)?;
        }
        let mut height = 0;
        loop {
            let is_top = height + 1 == self.levels.len();
            let level = &mut self.levels[height];
            let mut open = std::mem::take(&mut level.open);
            let mut ready = level.ready.take();
            if let (None, [only]) = (&ready, open.as_slice()) {
                if is_top {
                    return Ok(only.page);
                }
                return Err(Error::new(ErrorKind::Internal, "a branch of the database would have a single child"));
            }
            if let (Some(ready), 1) = (&mut ready, open.len()) {
                // Two children must stay behind; where there are no more, all three share a page.
                if ready.len() > 2 {
                    open.splice(..0, ready.pop());
                } else {
                    ready.append(&mut open);
                }
            }
            for group in [ready.unwrap_or_default(), open] {
                if !group.is_empty() {
                    self.write_branch(pages, height, &group)?;
                }
            }
            height += 1;
        }
    }

    /// Writes what is left and answers the bucket's value: header and root page, or header and inline page where the
    /// bucket is small enough for one.
    pub(super) fn finish_bucket<W: Write>(self, pages: &mut PageWriter<W>, sequence: u64) -> Result<Vec<u8>> {
        // bbolt itself inlines up to a quarter of a page, and relies on no more.
        let inline_bytes = self.leaf.page_bytes();
        if !self.levels.is_empty() || inline_bytes > pages.page_size() / 4 {
            return Ok(bucket_header(self.finish(pages)?, sequence).to_vec());
        }
        let mut value = Vec::with_capacity(BUCKET_HEADER_BYTES + inline_bytes);
        value.extend_from_slice(&bucket_header(PageId(0), sequence));
        let count = self.leaf.lens.len() as u16; // a page of 16 MiB inlines at most 4 MiB, 34 bytes or more each
        value.extend_from_slice(&page_header(PageId(0), FLAG_LEAF, count, 0));
        value.extend(self.leaf.elements(self.element_flags).flatten());
        value.extend_from_slice(&self.leaf.data);
        Ok(value)
    }

    fn flush_leaf<W: Write>(&mut self, pages: &mut PageWriter<W>) -> Result<()> {
        let leaf = &self.leaf;
        let page = pages.begin(FLAG_LEAF, leaf.lens.len(), leaf.page_bytes())?;
        for element in leaf.elements(self.element_flags) {
            pages.put(&element)?;
        }
        pages.put(&leaf.data)?;
        pages.pad(leaf.page_bytes())?;
        let child = Child { key: leaf.first_key(), page };
        self.leaf.clear();
        self.add(pages, 0, child)
    }

    /// Hands `child` to the branches of `height` (0: those above the leaves).
    fn add<W: Write>(&mut self, pages: &mut PageWriter<W>, height: usize, child: Child) -> Result<()> {
        if self.levels.len() == height {
            self.levels.push(Level::of(Vec::new()));
        }
        let level = &mut self.levels[height];
        let needed = ELEMENT_BYTES + child.key.len();
        let full = level.open_bytes + needed > pages.page_size() || level.open.len() >= MAX_ELEMENTS;
        if full && level.open.len() >= 2 {
            let closed = level.ready.replace(std::mem::take(&mut level.open));
            level.open_bytes = PAGE_HEADER_BYTES + needed;
            level.open.push(child);
            if let Some(closed) = closed {
                self.write_branch(pages, height, &closed)?;
            }
        } else {
            level.open_bytes += needed;
            level.open.push(child);
        }
        Ok(())
    }

    /// Writes a branch of `height` and hands it to the level above.
    fn write_branch<W: Write>(&mut self, pages: &mut PageWriter<W>, height: usize, group: &[Child]) -> Result<()> {
        let bytes = branch_bytes(group);
        let page = pages.begin(FLAG_BRANCH, group.len(), bytes)?;
        let mut key_at = 0;
        for (index, child) in group.iter().enumerate() {
            let pos = ((group.len() - index) * ELEMENT_BYTES + key_at) as u32;
            pages.put(&pos.to_le_bytes())?;
            pages.put(&(child.key.len() as u32).to_le_bytes())?;
            pages.put(&child.page.0.to_le_bytes())?;
            key_at += child.key.len();
        }
        for child in group {
            pages.put(&child.key)?;
        }
        pages.pad(bytes)?;
        let key = group.first().map(|child| child.key.clone()).unwrap_or_default();
        self.add(pages, height + 1, Child { key, page })
    }
}
