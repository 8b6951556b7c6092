//! A snapshot on a disk. It is opened for reading alone, and a change under our hands is noticed.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::Pool;
use crate::run::blocking;

/// Bytes read at once.
const PIECE_BYTES: u64 = 4 << 20;
/// Pieces read ahead of their reader.
const PIECES_AHEAD: usize = 2;
/// Pieces that were given out and come back into use.
const PIECES_ELSEWHERE: usize = 8;
/// Enough to tell what it is.
const HEAD_BYTES: u64 = 64 << 10;

/// An open file, as it was when it was opened.
#[derive(Debug)]
pub(super) struct SnapshotFile {
    path: PathBuf,
    file: File,
    opened: Version,
}

/// What changes where a file is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    bytes: u64,
    modified: (i64, i64),
}

impl SnapshotFile {
    /// Opens a regular file, or a link to one.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for what is no regular file; `Refused` where an etcd is running on it; `Local`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("there is no file {}", path.display())).caused_by(error)
            }
            _ => Error::file("read", path, error),
        };
        // Before it is opened: to open a pipe would wait for its writer.
        regular(path, &fs::metadata(path).map_err(unreadable)?)?;
        let file = File::open(path).map_err(unreadable)?;
        let found = file.metadata().map_err(unreadable)?;
        regular(path, &found)?;
        refuse_running(path)?;
        Ok(Self { path: path.to_owned(), file, opened: Version::of(&found) })
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.opened.bytes
    }

    /// The file, to be mapped, with a lock that keeps an etcd from opening it.
    ///
    /// # Errors
    /// `Refused` where an etcd is running on it; `Local`.
    pub(super) fn share(&self) -> Result<File> {
        let file = self.file.try_clone().map_err(|error| Error::file("open", &self.path, error))?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Err(running(&self.path)),
            // A file system without locks is no reason not to look.
            _ => Ok(file),
        }
    }

    /// Its first bytes: 64 KiB, or all.
    ///
    /// # Errors
    /// `Local`; `Damaged` where it changed.
    pub(super) fn head(&self) -> Result<Vec<u8>> {
        let mut head = vec![0; self.opened.bytes.min(HEAD_BYTES) as usize];
        self.read(&mut head, 0)?;
        Ok(head)
    }

    /// All bytes, in order.
    pub(super) fn into_pieces(self) -> BoxStream<'static, Result<Bytes>> {
        let file = Arc::new(self);
        let pool = Pool::new(PIECE_BYTES as usize, PIECES_AHEAD + PIECES_ELSEWHERE);
        let last = file.clone();
        let starts = (0..file.opened.bytes).step_by(PIECE_BYTES as usize);
        let pieces = stream::iter(starts)
            .map(move |start| {
                let (file, mut piece) = (file.clone(), pool.take());
                blocking(move || {
                    piece.resize((file.opened.bytes - start).min(PIECE_BYTES) as usize, 0);
                    file.read(&mut piece, start)?;
                    Ok(piece.into_bytes())
                })
            })
            .buffered(PIECES_AHEAD);
        let unchanged = stream::once(blocking(move || last.check_unchanged().map(|()| Bytes::new())));
        pieces.chain(unchanged).try_filter(|piece| std::future::ready(!piece.is_empty())).boxed()
    }

    fn read(&self, bytes: &mut [u8], start: u64) -> Result<()> {
        self.file.read_exact_at(bytes, start).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.changed(),
            _ => Error::file("read", &self.path, error),
        })
    }

    fn check_unchanged(&self) -> Result<()> {
        let found = self.file.metadata().map_err(|error| Error::file("look at", &self.path, error))?;
        if Version::of(&found) == self.opened { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> Error {
        Error::new(ErrorKind::Damaged, format!("{} was changed while it was read", self.path.display()))
            .hint("start over once nobody writes it any more")
    }
}

impl Version {
    fn of(found: &Metadata) -> Self {
        Self { bytes: found.len(), modified: (found.mtime(), found.mtime_nsec()) }
    }
}

fn regular(path: &Path, found: &Metadata) -> Result<()> {
    if found.is_file() {
        return Ok(());
    }
    let what = if found.is_dir() { "is a directory" } else { "is no regular file" };
    Err(Error::new(ErrorKind::Invalid, format!("{} {what}", path.display())).hint("name a snapshot file"))
}

/// An etcd that has a database open holds a lock on it; what is read of it would be of many moments.
fn refuse_running(path: &Path) -> Result<()> {
    let locked = File::open(path)
        .is_ok_and(|probe| flock(&probe, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK));
    if locked { Err(running(path)) } else { Ok(()) }
}

fn running(path: &Path) -> Error {
    Error::new(ErrorKind::Refused, format!("an etcd is running on {}", path.display()))
        .hint("take a snapshot of it (`etcdbr snapshot`, `etcdctl snapshot save`), or stop it first")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot.db");
        fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    async fn read(file: SnapshotFile) -> Result<Vec<u8>> {
        Ok(file.into_pieces().try_collect::<Vec<Bytes>>().await?.concat())
    }

    #[tokio::test]
    async fn it_is_read_in_order_and_left_as_it_was() {
        let bytes: Vec<u8> = (0..PIECE_BYTES as usize * 3 + 5).map(|i| (i / 1000) as u8).collect();
        let (_dir, path) = written(&bytes);
        let before = fs::metadata(&path).unwrap();
        let file = SnapshotFile::open(&path).unwrap();
        assert_eq!((file.bytes(), file.head().unwrap().len()), (bytes.len() as u64, HEAD_BYTES as usize));
        assert!(read(file).await.unwrap() == bytes);
        let after = fs::metadata(&path).unwrap();
        assert_eq!((before.mtime_nsec(), before.mode()), (after.mtime_nsec(), after.mode()));
    }

    #[tokio::test]
    async fn a_change_while_it_is_read_is_noticed() {
        for change in [b"grown".as_slice(), b""] {
            let (_dir, path) = written(&[7; 100]);
            let file = SnapshotFile::open(&path).unwrap();
            match change {
                b"" => fs::File::options().write(true).open(&path).unwrap().set_len(50).unwrap(),
                more => fs::File::options().append(true).open(&path).unwrap().write_all(more).unwrap(),
            }
            let error = read(file).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged);
            assert!(error.to_string().contains("changed while it was read"), "{error}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let (dir, path) = written(b"x");
        assert_eq!(SnapshotFile::open(&dir.path().join("absent")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(SnapshotFile::open(dir.path()).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(SnapshotFile::open(Path::new("/dev/null")).unwrap_err().kind(), ErrorKind::Invalid);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        SnapshotFile::open(&link).unwrap();
    }

    #[test]
    fn a_database_that_is_in_use_is_refused() {
        let (_dir, path) = written(b"x");
        let held = File::options().write(true).open(&path).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        assert_eq!(SnapshotFile::open(&path).unwrap_err().kind(), ErrorKind::Refused);
        drop(held);
        SnapshotFile::open(&path).unwrap();
    }
}
