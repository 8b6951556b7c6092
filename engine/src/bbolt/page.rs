//! One page of a tree, its elements found and checked when it is opened.
//!
//! Invariant: every element of an opened page lies inside it and its keys ascend strictly, so that reading them
//! afterwards cannot fail.

use super::layout::{
    ELEMENT_BUCKET, ELEMENT_BYTES, FLAG_BRANCH, FLAG_LEAF, PAGE_HEADER_BYTES, PageId, u16_at, u32_at, u64_at,
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
        for index in 0..self.count {
            let key = match self.kind {
                PageKind::Branch => self.child_at(index).map(|child| child.0),
                PageKind::Leaf => self.entry_at(index).map(|entry| entry.key),
            };
            let key = key.ok_or_else(|| damaged(self.id, format!("has an element outside itself ({index})")))?;
            if key.is_empty() || last.is_some_and(|last| last >= key) {
                return Err(damaged(self.id, format!("has keys out of order (element {index})")));
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
        let element = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
        let pos = u32_at(self.bytes, element + 4)? as usize;
        let key_len = u32_at(self.bytes, element + 8)? as usize;
        let value_len = u32_at(self.bytes, element + 12)? as usize;
        let data = self.data_at(element, pos)?;
        let (key, rest) = data.split_at_checked(key_len)?;
        Some(Entry { key, value: rest.get(..value_len)? })
    }

    fn child_at(&self, index: usize) -> Option<(&'a [u8], PageId)> {
        let element = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
        let pos = u32_at(self.bytes, element)? as usize;
        let key_len = u32_at(self.bytes, element + 4)? as usize;
        let child = u64_at(self.bytes, element + 8)?;
        Some((self.data_at(element, pos)?.get(..key_len)?, PageId(child)))
    }

    /// What follows `pos` bytes after the element at `element`: behind all elements, or nothing.
    fn data_at(&self, element: usize, pos: usize) -> Option<&'a [u8]> {
        let start = element.checked_add(pos)?;
        if start < PAGE_HEADER_BYTES + self.count * ELEMENT_BYTES {
            return None;
        }
        self.bytes.get(start..)
    }
}

/// A page that cannot be what it should be.
pub(super) fn damaged(id: PageId, what: impl AsRef<str>) -> Error {
    let name = if id.0 == 0 { "an inline page".to_owned() } else { format!("page {id}") };
    Error::new(ErrorKind::Damaged, format!("{name} of the database {}", what.as_ref()))
}
