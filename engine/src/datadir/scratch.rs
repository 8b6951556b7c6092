//! A database file without a name: the kernel removes it when the process ends, however that ends.
//!
//! It holds the image in the clear for as long as it is open; nobody else can open it by a name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::disk::attempt;
use super::image::{Image, TakesImage};
use super::space::check_space;
use super::uncached::UncachedFile;
use crate::clock::random_bytes;
use crate::error::Result;

const WRITE: &str = "write the scratch file in";

/// A file that takes an image and goes with the process.
#[derive(Debug)]
pub struct Scratch {
    file: UncachedFile,
    dir: PathBuf,
}

impl Scratch {
    /// Makes one in `dir`, whose file system must have `needed_bytes` to spare.
    ///
    /// # Errors
    /// `Local` where there is not enough space or the file system refuses.
    pub fn create(dir: &Path, needed_bytes: u64) -> Result<Self> {
        check_space(dir, needed_bytes, "--scratch-dir")?;
        let file = attempt("create a scratch file in", dir, || nameless(dir))?;
        Ok(Self { file: UncachedFile::new(file), dir: dir.to_owned() })
    }
}

impl TakesImage for Scratch {
    fn write_image(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write(WRITE, &self.dir, bytes)
    }

    fn image(&mut self) -> Result<Image> {
        Image::open(self.file.finish(WRITE, &self.dir)?)
    }
}

fn nameless(dir: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    match openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR) {
        // Not every file system can (NFS, overlays of old kernels).
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOSYS | Errno::INVAL) => unnamed_at_once(dir),
        opened => Ok(File::from(opened?)),
    }
}

fn unnamed_at_once(dir: &Path) -> io::Result<File> {
    let random = random_bytes::<8>().map_err(io::Error::other)?;
    let path = dir.join(format!(".etcdbr-scratch-{:016x}", u64::from_be_bytes(random)));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn it_has_no_name_and_is_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        for make in [nameless, unnamed_at_once] {
            let mut file = make(dir.path()).unwrap();
            file.write_all(b"secret").unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            let found = file.metadata().unwrap();
            assert_eq!((found.nlink(), found.mode() & 0o777, found.len()), (0, 0o600, 6));
        }
    }

    #[test]
    fn too_little_space_and_no_directory_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let error = Scratch::create(dir.path(), u64::MAX / 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Local);
        assert!(error.to_string().contains("not enough space"), "{error}");
        assert!(error.next_step().unwrap().contains("--scratch-dir"));
        let absent = dir.path().join("absent");
        let error = Scratch::create(&absent, 1).unwrap_err();
        assert!(error.to_string().contains(absent.to_str().unwrap()), "{error}");
    }
}
