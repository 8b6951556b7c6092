//! Writing a tree bottom-up: entries in key order in, pages in file order out.
//!
//! Memory is the open leaf and at most two branch pages per level, however large the tree. The invariants that bbolt
//! relies on and does not check are kept here: a branch's key is its child's first key, no branch has fewer than two
//! children, all leaves are equally deep, and no leaf is empty but that of an empty bucket.

use std::io::Write;

use super::layout::{
    ELEMENT_BUCKET, ELEMENT_BYTES, FLAG_BRANCH, FLAG_LEAF, MAX_ELEMENTS, MAX_KEY_BYTES, MAX_VALUE_BYTES,
    PAGE_HEADER_BYTES, PageId, bucket_header, page_header,
};
use super::page::{Entry, Holds, Page};
use crate::error::{Error, ErrorKind, Result};

/// Gives pages their numbers and writes them one behind the other.
#[derive(Debug)]
pub(super) struct PageWriter<W> {
    out: W,
    page_size: usize,
    next: PageId,
}

impl<W: Write> PageWriter<W> {
    /// Writes to `out`, which stands where page `next` begins.
    pub(super) fn new(out: W, page_size: usize, next: PageId) -> Self {
        Self { out, page_size, next }
    }

    /// The id that the next page will have.
    pub(super) fn next_page(&self) -> PageId {
        self.next
    }

    /// The writer underneath, flushed.
    pub(super) fn into_inner(mut self) -> Result<W> {
        self.out.flush().map_err(unwritable)?;
        Ok(self.out)
    }

    fn write(&mut self, flags: u16, count: usize, body: [&[u8]; 2]) -> Result<PageId> {
        let len = PAGE_HEADER_BYTES + body[0].len() + body[1].len();
        let pages = len.div_ceil(self.page_size);
        let (Ok(count), Ok(overflow)) = (u16::try_from(count), u32::try_from(pages - 1)) else {
            return Err(Error::new(ErrorKind::Internal, "a page of the database outgrew its header"));
        };
        let id = self.next;
        self.next = PageId(id.0 + pages as u64);
        let padding = vec![0; pages * self.page_size - len];
        for bytes in [&page_header(id, flags, count, overflow)[..], body[0], body[1], &padding] {
            self.out.write_all(bytes).map_err(unwritable)?;
        }
        Ok(id)
    }
}

fn unwritable(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Local, "cannot write pages of the database").caused_by(error)
}

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

    fn elements(&self, element_flags: u32) -> Vec<u8> {
        let mut elements = Vec::with_capacity(self.lens.len() * ELEMENT_BYTES);
        let mut data_at = 0;
        for (index, &(key, value)) in self.lens.iter().enumerate() {
            // Positions count from the element itself.
            let pos = ((self.lens.len() - index) * ELEMENT_BYTES) as u32 + data_at;
            for word in [element_flags, pos, key, value] {
                elements.extend_from_slice(&word.to_le_bytes());
            }
            data_at += key + value;
        }
        elements
    }
}

/// A page below a branch, and the first key in it.
#[derive(Debug)]
struct Child {
    key: Vec<u8>,
    page: PageId,
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

    /// A tree that carries on a written one of values behind its last entry; `path` is its rightmost path, root first.
    /// The pages of the path are written anew; all others are kept where they are.
    pub(super) fn carry_on<'a>(path: impl DoubleEndedIterator<Item = Page<'a>>) -> Result<Self> {
        let mut tree = Self::new(Holds::Values);
        for page in path.rev() {
            for index in 0..page.count() {
                if let Some(entry) = page.entry(index) {
                    tree.keep(entry)?;
                }
            }
            if let Some(kept) = page.count().checked_sub(1).filter(|_| page.child(0).is_some()) {
                let mut level = Level { open_bytes: PAGE_HEADER_BYTES, ..Level::default() };
                for (key, child) in (0..kept).filter_map(|index| page.child(index)) {
                    level.open_bytes += ELEMENT_BYTES + key.len();
                    level.open.push(Child { key: key.to_vec(), page: child });
                }
                tree.levels.push(level);
            }
        }
        Ok(tree)
    }

    /// Adds an entry; its key must be greater than the last one.
    ///
    /// # Errors
    /// `Internal` for a key that is empty, too long or out of order, or a value that is too long; `Local` where
    /// writing fails.
    pub(super) fn push<W: Write>(&mut self, pages: &mut PageWriter<W>, entry: Entry<'_>) -> Result<()> {
        let needed = ELEMENT_BYTES + entry.key.len() + entry.value.len();
        let full = self.leaf.page_bytes() + needed > pages.page_size || self.leaf.lens.len() >= MAX_ELEMENTS;
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
        if !self.levels.is_empty() || self.leaf.page_bytes() > pages.page_size / 4 {
            return Ok(bucket_header(self.finish(pages)?, sequence).to_vec());
        }
        let mut value = bucket_header(PageId(0), sequence).to_vec();
        let count = self.leaf.lens.len() as u16; // a page of 16 MiB inlines at most 4 MiB, 34 bytes or more each
        value.extend_from_slice(&page_header(PageId(0), FLAG_LEAF, count, 0));
        value.extend_from_slice(&self.leaf.elements(self.element_flags));
        value.extend_from_slice(&self.leaf.data);
        Ok(value)
    }

    fn flush_leaf<W: Write>(&mut self, pages: &mut PageWriter<W>) -> Result<()> {
        let leaf = std::mem::take(&mut self.leaf);
        let page = pages.write(FLAG_LEAF, leaf.lens.len(), [&leaf.elements(self.element_flags), &leaf.data])?;
        self.add(pages, 0, Child { key: leaf.first_key(), page })
    }

    /// Hands `child` to the branches of `height` (0: those above the leaves).
    fn add<W: Write>(&mut self, pages: &mut PageWriter<W>, height: usize, child: Child) -> Result<()> {
        if self.levels.len() == height {
            self.levels.push(Level { open_bytes: PAGE_HEADER_BYTES, ..Level::default() });
        }
        let level = &mut self.levels[height];
        let needed = ELEMENT_BYTES + child.key.len();
        let full = level.open_bytes + needed > pages.page_size || level.open.len() >= MAX_ELEMENTS;
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
        let mut elements = Vec::with_capacity(group.len() * ELEMENT_BYTES);
        let mut data = Vec::new();
        for (index, child) in group.iter().enumerate() {
            let pos = ((group.len() - index) * ELEMENT_BYTES + data.len()) as u32;
            elements.extend_from_slice(&pos.to_le_bytes());
            elements.extend_from_slice(&(child.key.len() as u32).to_le_bytes());
            elements.extend_from_slice(&child.page.0.to_le_bytes());
            data.extend_from_slice(&child.key);
        }
        let page = pages.write(FLAG_BRANCH, group.len(), [&elements, &data])?;
        let key = group.first().map(|child| child.key.clone()).unwrap_or_default();
        self.add(pages, height + 1, Child { key, page })
    }
}
