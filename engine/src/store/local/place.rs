//! Where an object's file lies, how it comes to be there, and how it goes.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::clock::random_bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::store::key::check_key;

/// What is not whole yet is called `.etcdbr~<id>~<name>`.
const UNFINISHED: &str = ".etcdbr~";
/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 16;
/// A directory that a deletion removes between our making it and our using it is made again so often.
const MAX_CREATE_ATTEMPTS: u32 = 5;

/// The directory of a store.
#[derive(Debug)]
pub(super) struct Root(PathBuf);

/// A file that is not visible yet.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Its path once it is whole.
    pub(super) destination: PathBuf,
}

impl Root {
    /// `path` must be absolute.
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The file of a key that was checked.
    pub(super) fn file_of(&self, key: &str) -> PathBuf {
        self.0.join(key)
    }

    /// Opens a new file beside the destination of `key`, its directories made where needed.
    pub(super) fn begin(&self, key: &str) -> Result<Unfinished> {
        check_key(key)?;
        if key.split('/').any(|segment| segment.starts_with(UNFINISHED)) {
            let message = format!("the key {key:?} has a segment that begins with {UNFINISHED}");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let destination = self.file_of(key);
        let path = unfinished_path(&destination, &new_id()?);
        let mut attempts = 0;
        loop {
            attempts += 1;
            make_directories(parent(&destination))?;
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Unfinished { file, path, destination }),
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < MAX_CREATE_ATTEMPTS => {}
                Err(error) => return Err(Error::file("create", &path, error)),
            }
        }
    }

    /// Removes objects and the directories that this empties; one that is not there is no error.
    pub(super) fn remove(&self, keys: &[String]) -> Result<()> {
        let mut directories = BTreeSet::new();
        for key in keys {
            let path = self.file_of(key);
            if remove_file(&path)? {
                directories.insert(parent(&path).to_owned());
            }
        }
        for directory in &directories {
            sync_directory(directory)?;
        }
        for directory in &directories {
            self.prune(directory);
        }
        Ok(())
    }

    /// Removes the unfinished file of `key` with this id and the directories that this empties; one that is not there is
    /// no error.
    pub(super) fn discard(&self, key: &str, id: &str) -> Result<()> {
        if id.len() != ID_DIGITS || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Error::new(ErrorKind::Invalid, format!("{key}: {id:?} is no id of an upload")));
        }
        self.take_back(&unfinished_path(&self.file_of(key), id))
    }

    /// Removes an unfinished file, and the directories that this empties; one that has got its name already stays.
    pub(super) fn take_back(&self, path: &Path) -> Result<()> {
        remove_file(path)?;
        self.prune(parent(path));
        Ok(())
    }

    /// Removes empty directories from `directory` upwards, the root stays. What fails here costs an empty directory.
    fn prune(&self, directory: &Path) {
        let mut directory = directory;
        while directory != self.0 && directory.starts_with(&self.0) && fs::remove_dir(directory).is_ok() {
            directory = parent(directory);
        }
    }
}

impl Unfinished {
    /// Makes the file visible under its destination, durably.
    ///
    /// The order is what makes it safe: content first, then the name, then the directory that holds the name. The
    /// rename fails where the destination exists, so nothing is ever replaced.
    pub(super) fn finish(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| Error::file("sync", &self.path, error))?;
        create_new(&self.path, &self.destination)?;
        sync_directory(parent(&self.destination))
    }
}

/// The id and the name within the directory of an unfinished file, from its file name.
pub(super) fn parse_unfinished(file_name: &str) -> Option<(&str, &str)> {
    let (id, name) = file_name.strip_prefix(UNFINISHED)?.split_once('~')?;
    (id.len() == ID_DIGITS).then_some((id, name))
}

/// Whether listings pass over a file of this name.
pub(super) fn is_hidden(file_name: &str) -> bool {
    file_name.starts_with(UNFINISHED)
}

fn unfinished_path(destination: &Path, id: &str) -> PathBuf {
    let name = destination.file_name().unwrap_or_default().to_string_lossy();
    destination.with_file_name(format!("{UNFINISHED}{id}~{name}"))
}

fn new_id() -> Result<String> {
    Ok(format!("{:016x}", u64::from_le_bytes(random_bytes()?)))
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// `mkdir -p` with mode 0700, each new directory's name made durable.
fn make_directories(directory: &Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let above = parent(directory);
    make_directories(above)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => sync_directory(above),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        // A deletion emptied and removed what is above: the caller comes again.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("create directory", directory, error)),
    }
}

/// Gives `from` the name `to`, unless `to` exists.
fn create_new(from: &Path, to: &Path) -> Result<()> {
    let renamed = match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // NFS and some FUSE file systems know no flags; a hard link is just as atomic there.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            fs::hard_link(from, to).and_then(|()| fs::remove_file(from))
        }
        other => other.map_err(io::Error::from),
    };
    renamed.map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            Error::new(ErrorKind::Refused, format!("{} exists already and is not replaced", to.display()))
        } else {
            Error::file("create", to, error)
        }
    })
}

/// Whether there was such a file.
fn remove_file(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(Error::file("remove", path, error)),
    }
}

fn sync_directory(directory: &Path) -> Result<()> {
    match File::open(directory).and_then(|opened| opened.sync_all()) {
        // Some file systems cannot sync directories and need not.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other.map_err(|error| Error::file("sync", directory, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, b"x").unwrap();
        fs::write(&to, b"y").unwrap();
        assert_eq!(create_new(&from, &to).unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(fs::read(&to).unwrap(), b"y");
    }

    #[test]
    fn names_of_unfinished_files_are_read_back() {
        let path = unfinished_path(Path::new("/r/a/k~1"), "0123456789abcdef");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(parse_unfinished(name), Some(("0123456789abcdef", "k~1")));
        assert!(is_hidden(name) && !is_hidden(".etcdbr") && !is_hidden("k"));
    }

    #[test]
    fn ids_that_are_paths_are_refused() {
        let root = Root::new(PathBuf::from("/nonexistent"));
        assert_eq!(root.discard("k", "../../../etc/pass").unwrap_err().kind(), ErrorKind::Invalid);
    }
}
