//! A file that is written in order and past the page cache, where the file system can.
//!
//! An image is written once and read once. Through the page cache every page of it is first allocated and copied, which
//! costs more processor time than all that is computed about it, and is then written to the disk in one go while the
//! last sync waits. With `O_DIRECT` the disk takes blocks from our own buffer while the next ones are made, and what is read
//! back, to be proven, is what the disk has. Where a file system has none (or wants another alignment than there is), the
//! page cache it is; the result says so.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl};

use super::disk::attempt;
use crate::error::Result;

/// What is written at once: a disk is as fast as it gets from about 1 MiB on.
const BLOCK_BYTES: usize = 4 << 20;
/// Memory, offset and length of a direct write are multiples of the disk's block; no disk has a larger one.
const ALIGN_BYTES: usize = 4096;

/// Whether an image goes to its file past the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectIo {
    /// It does.
    Used,
    /// The file system cannot do that.
    Unavailable,
}

/// A new file and the block that is being filled.
#[derive(Debug)]
pub(super) struct UncachedFile {
    file: File,
    direct_io: DirectIo,
    /// Longer than a block by what its start must be moved to be aligned.
    memory: Vec<u8>,
    start: usize,
    filled: usize,
    written_bytes: u64,
}

impl UncachedFile {
    /// For `file`, which is empty, and which nobody else writes.
    pub(super) fn new(file: File) -> Self {
        let direct_io = if set_direct(&file, true).is_ok() { DirectIo::Used } else { DirectIo::Unavailable };
        let memory = vec![0; BLOCK_BYTES + ALIGN_BYTES];
        let start = memory.as_ptr().align_offset(ALIGN_BYTES).min(ALIGN_BYTES);
        Self { file, direct_io, memory, start, filled: 0, written_bytes: 0 }
    }

    /// Takes the next bytes. `path` and `action` are what an error names.
    ///
    /// # Errors
    /// `Local` where the disk is full or refuses.
    pub(super) fn write(&mut self, action: &'static str, path: &Path, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.filled));
            self.memory[self.start + self.filled..][..now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == BLOCK_BYTES {
                attempt(action, path, || self.put())?;
            }
        }
        Ok(())
    }

    /// Writes what is left, and gives the file, which is an ordinary one from here on: reads and further writes go
    /// through the page cache. Nothing is on disk for certain before it is synced.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) fn finish(&mut self, action: &'static str, path: &Path) -> Result<&File> {
        if !self.memory.is_empty() {
            attempt(action, path, || {
                // The rest need not be whole disk blocks.
                set_direct(&self.file, false)?;
                self.put()
            })?;
            self.memory = Vec::new();
        }
        Ok(&self.file)
    }

    /// The file, once it is finished.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// How it was written.
    pub(super) fn direct_io(&self) -> DirectIo {
        self.direct_io
    }

    /// Writes the block as far as it is filled.
    fn put(&mut self) -> io::Result<()> {
        let block = &self.memory[self.start..][..self.filled];
        match self.file.write_all_at(block, self.written_bytes) {
            // To its own place: what of it was written already is written again.
            Err(error) if self.direct_io == DirectIo::Used && is_refused(&error) => {
                set_direct(&self.file, false)?;
                self.direct_io = DirectIo::Unavailable;
                self.file.write_all_at(block, self.written_bytes)?;
            }
            written => written?,
        }
        // It will be read soon, in no order: the disk gives it back while the next blocks are still being made.
        let _ = fadvise(&self.file, self.written_bytes, NonZeroU64::new(self.filled as u64), Advice::WillNeed);
        self.written_bytes += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}

fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(fcntl_setfl(file, flags)?)
}

fn is_refused(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::OPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_file() -> UncachedFile {
        // In the build's directory: /tmp may be a file system that knows no disk.
        let here = std::env::current_exe().unwrap();
        UncachedFile::new(tempfile::tempfile_in(here.parent().unwrap()).unwrap())
    }

    fn contents(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_there_however_it_is_cut() {
        let bytes: Vec<u8> = (0..BLOCK_BYTES * 2 + 12_345).map(|i| (i / 3 % 251) as u8).collect();
        for step in [BLOCK_BYTES * 3, BLOCK_BYTES, 1_000_003] {
            let mut file = new_file();
            for piece in bytes.chunks(step) {
                file.write("write", Path::new("x"), piece).unwrap();
            }
            assert!(contents(file.finish("write", Path::new("x")).unwrap()) == bytes, "step {step}");
            assert!(contents(file.finish("write", Path::new("x")).unwrap()) == bytes, "step {step}, again");
            assert!(!fcntl_getfl(file.file()).unwrap().contains(OFlags::DIRECT));
        }
    }

    /// As on a disk whose blocks are larger than ours.
    #[test]
    fn a_file_system_that_refuses_a_direct_write_gets_an_ordinary_one() {
        let mut file = new_file();
        if file.direct_io() == DirectIo::Unavailable {
            return;
        }
        file.start = (file.start + 8) % ALIGN_BYTES;
        let bytes = vec![7; BLOCK_BYTES + 5];
        file.write("write", Path::new("x"), &bytes).unwrap();
        assert!(contents(file.finish("write", Path::new("x")).unwrap()) == bytes);
        assert_eq!(file.direct_io(), DirectIo::Unavailable);
    }
}
