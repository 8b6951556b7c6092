//! Walking a bucket in key order, both ways.
//!
//! A cursor keeps one page per level. It refuses a tree that is deeper than any real one and keys that do not
//! continue in its direction, so that pages which refer to each other in a circle end in an error.

use super::file::{BoltFile, Root};
use super::page::{Entry, Holds, Page, PageKind, damaged};
use crate::error::Result;

/// Levels of the deepest tree that is read. Each level at least doubles the pages, and a file has less than 2^54.
pub(super) const MAX_DEPTH: usize = 54;

/// A position in one bucket.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    file: BoltFile<'a>,
    root: Root<'a>,
    holds: Holds,
    path: Vec<Step<'a>>,
}

#[derive(Debug, Clone, Copy)]
struct Step<'a> {
    page: Page<'a>,
    index: usize,
}

/// The end of a page at which a descent aims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    First,
    Last,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: BoltFile<'a>, root: Root<'a>, holds: Holds) -> Self {
        Self { file, root, holds, path: Vec::new() }
    }

    /// Goes to the first entry.
    ///
    /// # Errors
    /// `Damaged`, naming the page, where the tree does not parse; so do all moves.
    pub fn first(&mut self) -> Result<Option<Entry<'a>>> {
        self.restart(End::First)
    }

    /// Goes to the last entry.
    ///
    /// # Errors
    /// As [`Cursor::first`].
    pub fn last(&mut self) -> Result<Option<Entry<'a>>> {
        self.restart(End::Last)
    }

    /// Goes to the first entry whose key is not less than `key`.
    ///
    /// # Errors
    /// As [`Cursor::first`].
    pub fn seek(&mut self, key: &[u8]) -> Result<Option<Entry<'a>>> {
        self.path.clear();
        let mut page = self.file.root_page(self.root, self.holds)?;
        loop {
            let below = match page.kind() {
                PageKind::Leaf => {
                    let index = partition(page.count(), |i| page.entry(i).is_some_and(|entry| entry.key < key));
                    self.path.push(Step { page, index });
                    if index < page.count() {
                        return Ok(self.entry());
                    }
                    // Greater than all of this leaf: the next one starts with the answer.
                    return self.step(End::First);
                }
                PageKind::Branch => {
                    let index = partition(page.count(), |i| page.child(i).is_some_and(|child| child.0 <= key));
                    let index = index.saturating_sub(1);
                    self.push(Step { page, index })?
                }
            };
            page = below;
        }
    }

    /// Goes to the entry after the current one; `None` behind the last, and it stays there.
    ///
    /// # Errors
    /// As [`Cursor::first`]; also where the next key is not greater.
    #[allow(clippy::should_implement_trait, reason = "a cursor moves both ways and every move can fail")]
    pub fn next(&mut self) -> Result<Option<Entry<'a>>> {
        self.step(End::First)
    }

    /// Goes to the entry before the current one; `None` before the first, and it stays there.
    ///
    /// # Errors
    /// As [`Cursor::first`]; also where the previous key is not less.
    pub fn prev(&mut self) -> Result<Option<Entry<'a>>> {
        self.step(End::Last)
    }

    /// The pages from the root to the current leaf, and the place in each.
    pub(super) fn path(&self) -> impl Iterator<Item = (Page<'a>, usize)> + '_ {
        self.path.iter().map(|step| (step.page, step.index))
    }

    fn restart(&mut self, end: End) -> Result<Option<Entry<'a>>> {
        self.path.clear();
        let root = self.file.root_page(self.root, self.holds)?;
        self.descend(root, end)?;
        Ok(self.entry())
    }

    /// Moves one entry away from `from`: over to the leaf beside it where this one is at its end.
    fn step(&mut self, from: End) -> Result<Option<Entry<'a>>> {
        let last_key = self.entry().map(|entry| entry.key).or_else(|| {
            let step = self.path.last()?;
            step.page.entry(step.page.count().checked_sub(1)?).map(|entry| entry.key)
        });
        let mut depth = self.path.len();
        while let Some(step) = depth.checked_sub(1).and_then(|i| self.path.get_mut(i)) {
            let next = match from {
                End::First => step.index.checked_add(1).filter(|&index| index < step.page.count()),
                End::Last => step.index.checked_sub(1),
            };
            let Some(index) = next else {
                depth -= 1;
                continue;
            };
            step.index = index;
            let step = *step;
            self.path.truncate(depth);
            if step.page.kind() == PageKind::Branch {
                self.path.pop();
                let below = self.push(step)?;
                self.descend(below, from)?;
            }
            let entry = self.entry();
            let continues = match (last_key, entry) {
                (Some(last), Some(entry)) if from == End::First => last < entry.key,
                (Some(last), Some(entry)) => entry.key < last,
                (_, None) => false,
                (None, Some(_)) => true,
            };
            return if continues { Ok(entry) } else { Err(damaged(step.page.id(), "leads to keys out of order")) };
        }
        Ok(None)
    }

    fn descend(&mut self, mut page: Page<'a>, end: End) -> Result<()> {
        loop {
            let index = if end == End::First { 0 } else { page.count().saturating_sub(1) };
            let step = Step { page, index };
            if page.kind() == PageKind::Leaf {
                self.path.push(step);
                return Ok(());
            }
            page = self.push(step)?;
        }
    }

    /// Remembers a step at a branch and opens the child that it points to.
    fn push(&mut self, step: Step<'a>) -> Result<Page<'a>> {
        let (_, child) = step.page.child(step.index).ok_or_else(|| damaged(step.page.id(), "has no children"))?;
        self.path.push(step);
        if self.path.len() >= MAX_DEPTH {
            return Err(damaged(step.page.id(), "is too deep in its tree: pages refer to each other in a circle"));
        }
        let page = self.file.page(child, self.holds)?;
        if page.count() == 0 {
            // Taken for the end of the bucket, it would hide what is behind it.
            return Err(damaged(page.id(), "is empty"));
        }
        Ok(page)
    }

    fn entry(&self) -> Option<Entry<'a>> {
        let step = self.path.last()?;
        step.page.entry(step.index)
    }
}

/// The first of `0..count` for which `before` is false, where it is true up to there.
fn partition(count: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}
