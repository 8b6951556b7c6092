//! One page of a tree, its elements found and checked when it is opened.
//!
//! Invariant: every element of an opened page lies inside it, none lies in another, and keys ascend strictly: reading
//! them afterwards cannot fail, and all of them together are no longer than the page.

use super::layout::{
    ELEMENT_BUCKET, ELEMENT_BYTES, FLAG_BRANCH, FLAG_LEAF, MAX_KEY_BYTES, MAX_VALUE_BYTES, PAGE_HEADER_BYTES, PageId,
    u16_at, u32_at, u64_at,
};
use crate::error::{Error, ErrorKind, Result};

/// One entry of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// A leaf's or a branch's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageKind {
    /// Children.
    Branch,
    /// Entries.
    Leaf,
}

/// What the entries of a leaf must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// Keys and values: any bucket of etcd's.
    Values,
    /// Buckets: the root.
    Buckets,
}

/// A page with its overflow, opened and checked by itself; its neighbours are the caller's business.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'a> {
    id: PageId,
    kind: PageKind,
    count: usize,
    overflow: u32,
    bytes: &'a [u8],
}

impl<'a> Page<'a> {
    /// How many pages follow the one whose header starts `bytes`.
    pub(super) fn overflow_of(bytes: &[u8]) -> Option<u32> {
        u32_at(bytes, 12)
    }

    /// Opens the page `id` that is `bytes`, overflow included. An inline page has the id 0.
    ///
    /// # Errors
    /// `Damaged`, naming the page, for another id, an unknown kind, an element that is not inside, keys out of order.
    pub(super) fn open(id: PageId, bytes: &'a [u8], holds: Holds) -> Result<Self> {
        let short = || damaged(id, "is cut short");
        let found = u64_at(bytes, 0).ok_or_else(short)?;
        if found != id.0 {
            return Err(damaged(id, format!("says that it is page {found}")));
        }
        let flags = u16_at(bytes, 8).ok_or_else(short)?;
        let kind = match flags {
            FLAG_BRANCH => PageKind::Branch,
            FLAG_LEAF => PageKind::Leaf,
            _ => return Err(damaged(id, format!("is neither a branch nor a leaf (flags {flags:#x})"))),
        };
        let count = usize::from(u16_at(bytes, 10).ok_or_else(short)?);
        let overflow = u32_at(bytes, 12).ok_or_else(short)?;
        let page = Self { id, kind, count, overflow, bytes };
        page.check_elements(holds)?;
        Ok(page)
    }

    fn check_elements(&self, holds: Holds) -> Result<()> {
        let mut last: Option<&[u8]> = None;
        // bbolt lays data out in the order of its elements. Were they to share it, a page could hold its square.
        let mut free_from = PAGE_HEADER_BYTES + self.count * ELEMENT_BYTES;
        for index in 0..self.count {
            let element = self.span_at(index).and_then(|span| Some((span, self.bytes.get(span.0..)?.get(..span.1)?)));
            let ((start, key_bytes, value_bytes), key) =
                element.ok_or_else(|| damaged(self.id, format!("has an element outside itself ({index})")))?;
            if start < free_from {
                return Err(damaged(self.id, format!("has an element inside another one ({index})")));
            }
            free_from = start + key_bytes + value_bytes;
            if key.is_empty() || last.is_some_and(|last| last >= key) {
                return Err(damaged(self.id, format!("has keys out of order (element {index})")));
            }
            if key_bytes > MAX_KEY_BYTES || value_bytes > MAX_VALUE_BYTES {
                return Err(damaged(self.id, format!("has an element that is too long ({index})")));
            }
            last = Some(key);
            let flags = if holds == Holds::Buckets { ELEMENT_BUCKET } else { 0 };
            if self.kind == PageKind::Leaf && self.element_flags(index) != Some(flags) {
                return Err(damaged(self.id, format!("mixes buckets and values (element {index})")));
            }
        }
        Ok(())
    }

    /// Its number.
    pub(super) fn id(&self) -> PageId {
        self.id
    }

    /// Branch or leaf.
    pub(super) fn kind(&self) -> PageKind {
        self.kind
    }

    /// Elements.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Pages that follow it and belong to it.
    pub(super) fn overflow(&self) -> u32 {
        self.overflow
    }

    /// Entry `index` of a leaf, if it has so many.
    pub(super) fn entry(&self, index: usize) -> Option<Entry<'a>> {
        if self.kind == PageKind::Leaf && index < self.count { self.entry_at(index) } else { None }
    }

    /// First key and page of child `index` of a branch, if it has so many.
    pub(super) fn child(&self, index: usize) -> Option<(&'a [u8], PageId)> {
        if self.kind == PageKind::Branch && index < self.count { self.child_at(index) } else { None }
    }

    /// The first key, if there is one.
    pub(super) fn first_key(&self) -> Option<&'a [u8]> {
        self.child(0).map(|child| child.0).or_else(|| self.entry(0).map(|entry| entry.key))
    }

    fn element_flags(&self, index: usize) -> Option<u32> {
        u32_at(self.bytes, PAGE_HEADER_BYTES + index * ELEMENT_BYTES)
    }

    fn entry_at(&self, index: usize) -> Option<Entry<'a>> {
        let (start, key_bytes, value_bytes) = self.span_at(index)?;
        let (key, rest) = self.bytes.get(start..)?.split_at_checked(key_bytes)?;
        Some(Entry { key, value: rest.get(..value_bytes)? })
    }

    fn child_at(&self, index: usize) -> Option<(&'a [u8], PageId)> {
        let (start, key_bytes, _) = self.span_at(index)?;
        let child = u64_at(self.bytes, PAGE_HEADER_BYTES + index * ELEMENT_BYTES + 8)?;
        Some((self.bytes.get(start..)?.get(..key_bytes)?, PageId(child)))
    }

    /// Where the key of element `index` is, the bytes of it, and those of the value behind it; `None` unless all that
    /// is behind the elements and inside the page.
    fn span_at(&self, index: usize) -> Option<(usize, usize, usize)> {
        let element = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
        let word = |at: usize| Some(u32_at(self.bytes, element + at)? as usize);
        let (pos, key_bytes, value_bytes) = match self.kind {
            PageKind::Branch => (word(0)?, word(4)?, 0),
            PageKind::Leaf => (word(4)?, word(8)?, word(12)?),
        };
        let start = element.checked_add(pos)?;
        let end = start.checked_add(key_bytes)?.checked_add(value_bytes)?;
        let inside = start >= PAGE_HEADER_BYTES + self.count * ELEMENT_BYTES && end <= self.bytes.len();
        inside.then_some((start, key_bytes, value_bytes))
    }
}

/// A page that cannot be what it should be.
pub(super) fn damaged(id: PageId, what: impl AsRef<str>) -> Error {
    let name = if id.0 == 0 { "an inline page".to_owned() } else { format!("page {id}") };
    Error::new(ErrorKind::Damaged, format!("{name} of the database {}", what.as_ref()))
}
