//! Pages on their way to the end of a file: numbers, headers, padding, and large writes.

use std::io::Write;

use super::layout::{Meta, PAGE_HEADER_BYTES, PageId, page_header};
use crate::error::{Error, ErrorKind, Result};

/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 1 << 20;

/// Pages that were written, and what makes them valid.
#[derive(Debug)]
pub struct Written<W> {
    /// The writer that took the pages, flushed.
    pub out: W,
    /// The first page id behind the new pages; the file ends there.
    pub high_water: PageId,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Offset and bytes of the two meta pages: to be written once all else is on disk. Both name the new root, so that
    /// not even a damaged meta leads back to an old one.
    pub metas: [(u64, Vec<u8>); 2],
}

/// Gives pages their numbers and writes them one behind the other.
#[derive(Debug)]
pub(super) struct PageWriter<W> {
    out: W,
    buffer: Vec<u8>,
    page_size: usize,
    next: PageId,
    written_bytes: u64,
}

impl<W: Write> PageWriter<W> {
    /// Writes to `out`, which stands where page `next` begins.
    pub(super) fn new(out: W, page_size: usize, next: PageId) -> Self {
        Self { out, buffer: Vec::new(), page_size, next, written_bytes: 0 }
    }

    /// Bytes of a page.
    pub(super) fn page_size(&self) -> usize {
        self.page_size
    }

    /// Begins a page of `bytes` bytes, header included, and answers its number. All of them but the header must be
    /// [`put`](Self::put), then the page [`pad`](Self::pad)ded.
    pub(super) fn begin(&mut self, flags: u16, count: usize, bytes: usize) -> Result<PageId> {
        let pages = bytes.div_ceil(self.page_size);
        let (Ok(count), Ok(overflow)) = (u16::try_from(count), u32::try_from(pages - 1)) else {
            return Err(Error::new(ErrorKind::Internal, "a page of the database outgrew its header"));
        };
        let id = self.next;
        self.next = PageId(id.0 + pages as u64);
        debug_assert!(bytes >= PAGE_HEADER_BYTES);
        self.put(&page_header(id, flags, count, overflow))?;
        Ok(id)
    }

    /// Writes a piece of the page that was begun.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.written_bytes += bytes.len() as u64;
        if self.buffer.len() + bytes.len() > WRITE_BYTES {
            self.write_buffer()?;
        }
        if bytes.len() > WRITE_BYTES {
            return self.out.write_all(bytes).map_err(unwritable);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Ends a page of which `bytes` bytes were written with zeroes.
    pub(super) fn pad(&mut self, bytes: usize) -> Result<()> {
        let mut left = bytes.next_multiple_of(self.page_size) - bytes;
        while left > 0 {
            const ZEROES: [u8; 4096] = [0; 4096];
            let len = left.min(ZEROES.len());
            self.put(&ZEROES[..len])?;
            left -= len;
        }
        Ok(())
    }

    /// Leaves room for `pages` pages that are written later: zeroes.
    pub(super) fn leave_room(&mut self, pages: u64) -> Result<()> {
        for _ in 0..pages {
            self.next = PageId(self.next.0 + 1);
            self.put(&[0])?;
            self.pad(1)?;
        }
        Ok(())
    }

    /// Writes what is left; `meta` is what both meta pages say but for the high-water mark and the transaction, which
    /// are the given ones for page 0 and 1.
    pub(super) fn finish(mut self, meta: Meta, txids: [u64; 2]) -> Result<Written<W>> {
        self.write_buffer()?;
        self.out.flush().map_err(unwritable)?;
        let high_water = self.next;
        let page = |page: u64, txid: u64| {
            (page * u64::from(meta.page_size), Meta { high_water, txid, ..meta }.encode(PageId(page)))
        };
        let metas = [page(0, txids[0]), page(1, txids[1])];
        Ok(Written { out: self.out, high_water, written_bytes: self.written_bytes, metas })
    }

    fn write_buffer(&mut self) -> Result<()> {
        let written = self.out.write_all(&self.buffer).map_err(unwritable);
        self.buffer.clear();
        written
    }
}

fn unwritable(error: std::io::Error) -> Error {
    Error::local("cannot write pages of the database", error)
}
