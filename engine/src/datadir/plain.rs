//! A plain snapshot on its way into its place: etcd's image, and its SHA-256 behind it.
//!
//! It is written beside its place, as `.<name>.etcdbr-<id>`, and gets its name by one act that replaces nothing. Whoever
//! writes holds a lock on the file; one without a lock is what a killed export left, and is removed by the next one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::disk::{attempt, operation};
use super::durability::{Durability, sync_file, sync_path};
use super::image::{Image, TakesImage};
use super::space::check_space;
use crate::clock::random_bytes;
use crate::error::{Error, ErrorKind, Result};

/// Bytes of the SHA-256 behind the image.
const TRAILER_BYTES: u64 = 32;

/// A plain snapshot that takes its image. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct PlainFile {
    file: File,
    /// What it is called until it is whole.
    beside: PathBuf,
    /// What it will be called.
    path: PathBuf,
    durability: Durability,
    installed: bool,
}

impl PlainFile {
    /// Begins a snapshot that will be `path`, of an image of `image_bytes`.
    ///
    /// # Errors
    /// `Refused` where something is there already; `Invalid` where it cannot be a file; `Local` where there is not enough
    /// space or the file system refuses. Nothing is changed then.
    pub fn create(path: &Path, image_bytes: u64, durability: Durability) -> Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(Error::new(ErrorKind::Invalid, format!("{} cannot become a file", path.display())));
        };
        if fs::symlink_metadata(path).is_ok() {
            return Err(taken(path));
        }
        let dir = dir_of(path);
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(".etcdbr-");
        remove_leftovers(dir, &prefix)?;
        check_space(dir, image_bytes + TRAILER_BYTES, "--to")?;
        prefix.push(format!("{:016x}", u64::from_be_bytes(random_bytes()?)));
        let beside = dir.join(prefix);
        let file = attempt("create", &beside, || {
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&beside)
        })?;
        // Where the file system has no locks, a leftover stays until somebody removes it.
        let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(Self { file, beside, path: path.to_owned(), durability, installed: false })
    }

    /// Ends the file with the SHA-256 of its image and gives it its name.
    ///
    /// # Errors
    /// `Refused` where something has come into its place meanwhile; `Local` where the file system refuses, or cannot
    /// sync the name: then the file is in its place, but may not survive a power cut.
    pub fn install(mut self, sha256: [u8; 32]) -> Result<PathBuf> {
        attempt("write", &self.beside, || self.file.write_all(&sha256))?;
        sync_file(&self.file, &self.beside, self.durability)?;
        name_anew(&self.beside, &self.path)?;
        self.installed = true;
        sync_path(dir_of(&self.path), self.durability).map_err(|error| {
            error.hint("the file is in place, but a power cut could undo that: run `sync` before relying on it")
        })?;
        Ok(self.path.clone())
    }
}

impl TakesImage for PlainFile {
    fn write_image(&mut self, bytes: &[u8]) -> Result<()> {
        attempt("write", &self.beside, || self.file.write_all(bytes))
    }

    fn image(&mut self) -> Result<Image> {
        Image::open(&self.file).map_err(|error| error.about(self.beside.display()))
    }
}

impl Drop for PlainFile {
    fn drop(&mut self) {
        if !self.installed {
            let _ = operation("remove", &self.beside, || fs::remove_file(&self.beside));
        }
    }
}

/// The empty path is the current directory.
fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes files of killed exports to the same place: nobody holds their locks any more.
fn remove_leftovers(dir: &Path, prefix: &OsString) -> Result<()> {
    let names: Vec<OsString> =
        attempt("list", dir, || fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect())?;
    let ours = |name: &&OsString| name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
    for path in names.iter().filter(ours).map(|name| dir.join(name)) {
        // A directory of such a name is the stage of a restore.
        if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
            continue;
        }
        let lock = attempt("open", &path, || File::open(&path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            attempt("remove the leftover", &path, || fs::remove_file(&path))?;
        }
    }
    Ok(())
}

/// Gives `from` the name `to`, unless that exists.
fn name_anew(from: &Path, to: &Path) -> Result<()> {
    let named = operation("rename the snapshot to", to, || {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // NFS and some FUSE file systems know no flags; a hard link replaces nothing either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                fs::hard_link(from, to).and_then(|()| fs::remove_file(from))
            }
            other => Ok(other?),
        }
    });
    named.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => taken(to),
        _ => Error::file("rename the snapshot to", to, error),
    })
}

fn taken(path: &Path) -> Error {
    Error::new(ErrorKind::Refused, format!("{} exists already and is not replaced", path.display()))
        .hint("move it away, or name another file")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn written(path: &Path) -> Result<PlainFile> {
        let mut file = PlainFile::create(path, 6, Durability::Fsync)?;
        file.write_image(b"im")?;
        file.write_image(b"age!")?;
        Ok(file)
    }

    fn names(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_image_is_followed_by_its_sha256() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot.db");
        assert_eq!(written(&path).unwrap().install([7; 32]).unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), [b"image!".as_slice(), &[7; 32]].concat());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(dir.path()), ["snapshot.db"]);
    }

    #[test]
    fn nothing_is_replaced_and_nothing_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot.db");
        let late = written(&path).unwrap();
        fs::write(&path, b"precious").unwrap();
        assert_eq!(late.install([7; 32]).unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(written(&path).unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert_eq!(names(dir.path()), ["snapshot.db"]);
        drop(written(&dir.path().join("other.db")).unwrap());
        assert_eq!(names(dir.path()), ["snapshot.db"]);
        let error = PlainFile::create(&dir.path().join("a/b.db"), 1, Durability::None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Local, "{error}");
        let error = PlainFile::create(&dir.path().join("b.db"), u64::MAX / 2, Durability::None).unwrap_err();
        assert!(error.to_string().contains("not enough space"), "{error}");
        assert_eq!(names(dir.path()), ["snapshot.db"]);
    }

    #[test]
    fn what_a_killed_export_left_is_removed_and_a_living_one_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot.db");
        let (dead, stage) = (dir.path().join(".snapshot.db.etcdbr-0"), dir.path().join(".snapshot.db.etcdbr-1"));
        fs::write(&dead, b"half").unwrap();
        fs::create_dir(&stage).unwrap();
        let living = written(&path).unwrap();
        assert!(!dead.exists() && stage.exists());
        written(&path).unwrap().install([0; 32]).unwrap();
        assert!(living.beside.exists());
        assert_eq!(living.install([1; 32]).unwrap_err().kind(), ErrorKind::Refused);
    }
}
