//! A whole bbolt file as bytes: its meta, its pages by number.

use super::layout::{Meta, PAGE_HEADER_BYTES, PageId, page_sizes};
use super::page::{Holds, Page, damaged};
use crate::error::{Error, ErrorKind, Result};

/// A bbolt file, open for reading.
///
/// Every read is checked against the bytes and the high-water mark: bytes that are not a bbolt file give an error,
/// never a panic, whatever they are.
#[derive(Debug, Clone, Copy)]
pub struct BoltFile<'a> {
    bytes: &'a [u8],
    meta: Meta,
}

/// Where a bucket's tree starts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Root<'a> {
    /// A page of the file.
    Page(PageId),
    /// A leaf inside the bucket's own value.
    Inline(&'a [u8]),
}

impl<'a> BoltFile<'a> {
    /// Opens `bytes`, which may be longer than the file is used.
    ///
    /// Of the two metas the valid one with the higher transaction counts. Where it reaches beyond the bytes, the file
    /// is cut short: the other one would tell an older state. Where meta 0 cannot be read, meta 1 is looked for at
    /// every page size there is.
    ///
    /// # Errors
    /// `Damaged` where no meta is valid: not a database; or where the file is cut short.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let at_its_own_size = |size| Meta::read(bytes, size).filter(|meta| meta.page_size as usize == size);
        let first = Meta::read(bytes, 0);
        let second = match first {
            Some(meta) => at_its_own_size(meta.page_size as usize),
            // The smallest that fits: behind it may be anything, even a value that looks like a meta.
            None => page_sizes().find_map(at_its_own_size),
        };
        let Some(meta) = [first, second].into_iter().flatten().max_by_key(|meta| meta.txid) else {
            return Err(Error::new(
                ErrorKind::Damaged,
                "this is not an etcd database: neither of its meta pages is valid",
            ));
        };
        if meta.high_water.0.checked_mul(u64::from(meta.page_size)).is_none_or(|used| used > bytes.len() as u64) {
            let (len, Meta { high_water, page_size, .. }) = (bytes.len(), meta);
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("the database is cut short: {len} bytes instead of {high_water} pages of {page_size} bytes"),
            ));
        }
        Ok(Self { bytes, meta })
    }

    /// The meta that counts.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> usize {
        self.meta.page_size as usize
    }

    /// Bytes of the file that are in use: what is longer is not part of it.
    pub fn used_bytes(&self) -> u64 {
        // Opening proved that this fits.
        self.meta.high_water.0.saturating_mul(u64::from(self.meta.page_size))
    }

    /// Page `id` with its overflow.
    pub(super) fn page(&self, id: PageId, holds: Holds) -> Result<Page<'a>> {
        let outside = || damaged(id, format!("is outside it (it has {})", self.meta.high_water));
        if id.0 < 2 || id >= self.meta.high_water {
            return Err(outside());
        }
        // Below the high-water mark, which is inside the bytes: neither product nor sum can overflow.
        let start = usize::try_from(id.0).map_err(|_| outside())? * self.page_size();
        let header = self.bytes.get(start..start + PAGE_HEADER_BYTES).ok_or_else(outside)?;
        let overflow = Page::overflow_of(header).ok_or_else(outside)?;
        if u64::from(overflow) >= self.meta.high_water.0 - id.0 {
            return Err(damaged(id, format!("claims {overflow} more pages than are left")));
        }
        let len = (overflow as usize + 1) * self.page_size();
        Page::open(id, self.bytes.get(start..start + len).ok_or_else(outside)?, holds)
    }

    /// The page at which `root` starts.
    pub(super) fn root_page(&self, root: Root<'a>, holds: Holds) -> Result<Page<'a>> {
        match root {
            Root::Page(id) => self.page(id, holds),
            Root::Inline(bytes) => {
                let page = Page::open(PageId(0), bytes, holds)?;
                match page.child(0) {
                    None if page.overflow() == 0 => Ok(page),
                    _ => Err(damaged(page.id(), "is more than one leaf")),
                }
            }
        }
    }
}
