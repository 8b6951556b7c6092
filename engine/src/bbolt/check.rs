//! The strict check of a whole file, in one walk.
//!
//! It holds what `bbolt check` holds and what bbolt's own writer keeps besides and relies on without looking: a
//! branch's key is exactly its child's first key, a branch has at least two children, no leaf but that of an empty
//! bucket is empty, all leaves of a tree are equally deep. A file that breaks one of these opens and serves, and
//! panics or corrupts itself in a later compaction.
//!
//! Memory is one bit per page.

use super::cursor::MAX_DEPTH;
use super::file::{BoltFile, Root};
use super::layout::PageId;
use super::page::{Entry, Holds, Page, PageKind, damaged};
use crate::error::{Error, ErrorKind, Result};

/// What the walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeFacts {
    /// Every bucket, by name ascending.
    pub buckets: Vec<BucketFacts>,
    /// Pages that the trees and the metas take, overflow included.
    pub used_pages: u64,
    /// Pages below the high-water mark that nothing refers to.
    pub free_pages: u64,
}

/// What the walk found in one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketFacts {
    /// Its name.
    pub name: Vec<u8>,
    /// Its entries.
    pub entries: u64,
    /// Its pages, overflow included; 0 for an inline bucket.
    pub pages: u64,
    /// Levels of its tree: 1 for a single leaf, inline or not.
    pub depth: usize,
}

/// Is shown every entry of every bucket, in order: bucket name and entry. Its error ends the walk.
pub type Visitor<'v> = dyn FnMut(&[u8], Entry<'_>) -> Result<()> + 'v;

/// Checks everything in `file`.
///
/// # Errors
/// `Damaged`, naming the page and the bucket.
pub fn check(file: &BoltFile<'_>) -> Result<TreeFacts> {
    check_visiting(file, &mut |_, _| Ok(()))
}

/// Checks everything in `file` and shows every entry to `visit`.
///
/// # Errors
/// As [`check`], and those of `visit`.
pub fn check_visiting(file: &BoltFile<'_>, visit: &mut Visitor<'_>) -> Result<TreeFacts> {
    let high_water = file.meta().high_water.0;
    let words = usize::try_from(high_water / 64 + 1)
        .map_err(|_| Error::new(ErrorKind::Damaged, "the database has more pages than memory has bits"))?;
    let mut seen = PagesSeen { bits: vec![0; words], count: 0 };
    Walk::new(file, &mut seen, Holds::Buckets).tree(Root::Page(file.meta().root), &mut |_| Ok(()))?;
    let mut buckets = Vec::new();
    for (name, bucket) in file.buckets()? {
        let before = seen.count;
        let mut walk = Walk::new(file, &mut seen, Holds::Values);
        walk.tree(bucket.root(), &mut |entry| visit(name, entry)).map_err(|error| {
            let subject = format!("bucket {}", String::from_utf8_lossy(name));
            if error.kind() == ErrorKind::Damaged { error.about(subject) } else { error }
        })?;
        let (entries, depth) = (walk.entries, walk.leaf_depth.unwrap_or(0));
        buckets.push(BucketFacts { name: name.to_vec(), entries, pages: seen.count - before, depth });
    }
    let used_pages = seen.count + 2;
    Ok(TreeFacts { buckets, used_pages, free_pages: high_water - used_pages })
}

/// The pages that something refers to.
struct PagesSeen {
    bits: Vec<u64>,
    count: u64,
}

impl PagesSeen {
    /// Notes a page with its overflow; no page may be noted twice.
    fn note(&mut self, page: &Page<'_>) -> Result<()> {
        for id in page.id().0..=page.id().0 + u64::from(page.overflow()) {
            let word = usize::try_from(id / 64).ok().and_then(|word| self.bits.get_mut(word));
            match word {
                Some(word) if *word & (1 << (id % 64)) == 0 => *word |= 1 << (id % 64),
                _ => return Err(damaged(PageId(id), "is referred to twice")),
            }
            self.count += 1;
        }
        Ok(())
    }
}

/// The walk of one tree.
struct Walk<'w, 'a> {
    file: &'w BoltFile<'a>,
    seen: &'w mut PagesSeen,
    holds: Holds,
    last_key: Option<&'a [u8]>,
    leaf_depth: Option<usize>,
    entries: u64,
}

impl<'w, 'a> Walk<'w, 'a> {
    fn new(file: &'w BoltFile<'a>, seen: &'w mut PagesSeen, holds: Holds) -> Self {
        Self { file, seen, holds, last_key: None, leaf_depth: None, entries: 0 }
    }

    fn tree(&mut self, root: Root<'a>, visit: &mut dyn FnMut(Entry<'a>) -> Result<()>) -> Result<()> {
        let page = self.file.root_page(root, self.holds)?;
        if matches!(root, Root::Page(_)) {
            self.seen.note(&page)?;
        }
        self.page(page, 1, visit)
    }

    /// Walks `page`, which is noted already, at `depth` (1: the root).
    fn page(&mut self, page: Page<'a>, depth: usize, visit: &mut dyn FnMut(Entry<'a>) -> Result<()>) -> Result<()> {
        match page.kind() {
            PageKind::Leaf => self.leaf(page, depth, visit),
            PageKind::Branch if page.count() < 2 => Err(damaged(page.id(), "is a branch with less than two children")),
            PageKind::Branch if depth >= MAX_DEPTH => Err(damaged(page.id(), "is too deep in its tree")),
            PageKind::Branch => {
                for (key, id) in (0..page.count()).filter_map(|index| page.child(index)) {
                    let child = self.file.page(id, self.holds)?;
                    self.seen.note(&child)?;
                    if child.first_key() != Some(key) {
                        return Err(damaged(page.id(), format!("has another key for page {id} than that begins with")));
                    }
                    self.page(child, depth + 1, visit)?;
                }
                Ok(())
            }
        }
    }

    fn leaf(&mut self, page: Page<'a>, depth: usize, visit: &mut dyn FnMut(Entry<'a>) -> Result<()>) -> Result<()> {
        if page.count() == 0 && depth > 1 {
            return Err(damaged(page.id(), "is an empty leaf"));
        }
        if *self.leaf_depth.get_or_insert(depth) != depth {
            return Err(damaged(page.id(), "is a leaf at another depth than the others"));
        }
        for entry in (0..page.count()).filter_map(|index| page.entry(index)) {
            if self.last_key.is_some_and(|last| last >= entry.key) {
                return Err(damaged(page.id(), "has keys out of order with those before it"));
            }
            self.last_key = Some(entry.key);
            self.entries += 1;
            visit(entry)?;
        }
        Ok(())
    }
}
