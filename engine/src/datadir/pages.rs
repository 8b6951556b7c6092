//! New pages on their way into a database file.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use super::disk::operation;

/// The file, where pages are written to its end.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    pub(super) db: &'a File,
    pub(super) path: &'a Path,
}

impl Write for Pages<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display()));
        operation("write", self.path, || self.db.write(bytes)).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Pages<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.db.seek(to)
    }
}
