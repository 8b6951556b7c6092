//! Where a data directory is built, and the one rename that puts it in place.
//!
//! No data dir yet: it is built beside its place, as `<parent>/.<name>.etcdbr-<id>/`, and renamed as a whole. A data
//! dir that exists (a mount point, a volume, a parent that is not ours to write) keeps its owner, mode and attributes:
//! the stage is `<data-dir>/.etcdbr-<id>/`, and only `member` is renamed. Whoever stages holds a lock on the stage; a
//! stage without a lock is what a killed restore left, and is removed.
//!
//! Invariant: nothing is ever removed but stages and the parents that this very restore created, and nothing is
//! replaced.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::disk::{attempt, operation};
use super::durability::{Durability, sync_path};
use super::space::check_space;
use crate::clock::random_bytes;
use crate::error::{Error, ErrorKind, Result};

/// What stands between the hidden name of a stage and its id.
const STAGE_MARK: &str = "etcdbr-";
/// What a file system creates in its root.
const LOST_AND_FOUND: &str = "lost+found";
/// What makes a directory an etcd data directory.
const MEMBER: &str = "member";
/// The one act that puts a data directory in its place.
const RENAME: &str = "rename the stage to";

/// Where the stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Beside a data dir that does not exist.
    Beside,
    /// In a data dir that exists.
    Inside,
}

/// A stage that is ours; dropped, it is removed.
#[derive(Debug)]
pub(super) struct Place {
    data_dir: PathBuf,
    stage: PathBuf,
    side: Side,
    /// Parents that were created for it, outermost first.
    created: Vec<PathBuf>,
    /// Holds the lock for as long as it is open; until then the stage is not ours.
    lock: Option<File>,
    installed: bool,
}

impl Place {
    /// Makes an empty, locked stage for `data_dir` on a file system with `needed_bytes` to spare.
    ///
    /// # Errors
    /// `Refused` where the data dir is not empty or another restore is under way; `Invalid` for a path that names no
    /// directory; `Local` where there is not enough space or the file system refuses.
    pub(super) fn claim(data_dir: &Path, needed_bytes: u64) -> Result<Self> {
        let data_dir = normal(data_dir)?;
        let (side, parent, prefix) = match operation("look at", &data_dir, || fs::metadata(&data_dir)) {
            Ok(found) if found.is_dir() => (Side::Inside, data_dir.clone(), OsString::from(".")),
            Ok(_) => return Err(Error::new(ErrorKind::Invalid, format!("{} is not a directory", data_dir.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (parent, prefix) = beside(&data_dir)?;
                (Side::Beside, parent, prefix)
            }
            Err(error) => return Err(Error::file("look at", &data_dir, error)),
        };
        if side == Side::Inside {
            refuse_content(&data_dir)?;
        }
        let mut name = prefix.clone();
        name.push(STAGE_MARK);
        name.push(format!("{:016x}", u64::from_be_bytes(random_bytes()?)));
        let stage = parent.join(name);
        let mut place = Self { data_dir, stage, side, created: Vec::new(), lock: None, installed: false };
        place.create_parents(&parent)?;
        place.create_stage()?;
        // Leftovers first: what they take is to be had.
        remove_leftovers(&parent, &prefix, &place.stage)?;
        check_space(&parent, needed_bytes, "--data-dir")?;
        Ok(place)
    }

    /// Where `member` is built.
    pub(super) fn member_dir(&self) -> PathBuf {
        self.stage.join(MEMBER)
    }

    /// The data dir that it will be.
    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Puts what was built in its place.
    ///
    /// # Errors
    /// `Refused` where something has come into its place meanwhile; `Local` where the file system refuses.
    pub(super) fn install(mut self, durability: Durability) -> Result<PathBuf> {
        match self.side {
            Side::Beside => {
                sync_path(&self.stage, durability)?;
                rename_into_nothing(&self.stage, &self.data_dir)?;
                self.installed = true;
            }
            Side::Inside => {
                refuse_content(&self.data_dir)?;
                give_to_owner(&self.member_dir(), &self.data_dir, durability)?;
                rename_into_nothing(&self.member_dir(), &self.data_dir.join(MEMBER))?;
                self.installed = true;
                // What is left is an empty directory that the next restore would remove as well.
                let _ = operation("remove", &self.stage, || fs::remove_dir(&self.stage));
            }
        }
        self.sync_names(durability).map_err(|error| {
            error.hint("the data directory is in place, but a power cut could undo that: run `sync` before etcd starts")
        })?;
        Ok(self.data_dir.clone())
    }

    fn sync_names(&self, durability: Durability) -> Result<()> {
        if self.side == Side::Inside {
            sync_path(&self.data_dir, durability)?;
        }
        let parent = self.data_dir.parent().map(or_here);
        let created_in = self.created.iter().filter_map(|dir| dir.parent().map(or_here));
        for dir in parent.filter(|_| self.side == Side::Beside).into_iter().chain(created_in) {
            sync_path(&dir, durability)?;
        }
        Ok(())
    }

    fn create_parents(&mut self, parent: &Path) -> Result<()> {
        let missing: Vec<_> = parent.ancestors().take_while(|dir| !or_here(dir).exists()).collect();
        for dir in missing.into_iter().rev() {
            attempt("create", dir, || fs::create_dir(dir))?;
            self.created.push(dir.to_owned());
        }
        Ok(())
    }

    fn create_stage(&mut self) -> Result<()> {
        attempt("create", &self.stage, || DirBuilder::new().mode(0o700).create(&self.stage))?;
        match lock_stage(&self.stage) {
            Ok(lock) => {
                self.lock = Some(lock);
                Ok(())
            }
            Err(error) => {
                // It has a name that nobody else would choose, and only an empty one goes.
                let _ = operation("remove", &self.stage, || fs::remove_dir(&self.stage));
                Err(error)
            }
        }
    }
}

impl Drop for Place {
    /// Takes back what was made, so that a failed restore leaves the target as it was.
    fn drop(&mut self) {
        if self.installed {
            return;
        }
        if self.lock.is_some() {
            let _ = operation("remove", &self.stage, || fs::remove_dir_all(&self.stage));
        }
        // Only empty ones go.
        for dir in self.created.iter().rev() {
            let _ = operation("remove", dir, || fs::remove_dir(dir));
        }
    }
}

/// Takes the lock of a stage that was just created.
fn lock_stage(stage: &Path) -> Result<File> {
    // The mode that was asked for, whatever the umask.
    attempt("set the mode of", stage, || fs::set_permissions(stage, fs::Permissions::from_mode(0o700)))?;
    let lock = attempt("open", stage, || File::open(stage))?;
    // A file system without locks: then nobody else can lock there either.
    let locked = flock(&lock, FlockOperation::NonBlockingLockExclusive);
    // Until the lock was held another restore could take this stage for a leftover.
    let held = attempt("look at", stage, || lock.metadata())?;
    let still_there = match operation("look at", stage, || fs::metadata(stage)) {
        Ok(found) => (held.dev(), held.ino()) == (found.dev(), found.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::file("look at", stage, error)),
    };
    if locked == Err(Errno::WOULDBLOCK) || !still_there { Err(under_way(stage)) } else { Ok(lock) }
}

/// Lets a data dir that root restores into keep its owner: the etcd that runs as that user could not read it otherwise.
fn give_to_owner(tree: &Path, data_dir: &Path, durability: Durability) -> Result<()> {
    let owner = attempt("look at", data_dir, || fs::metadata(data_dir))?;
    if !rustix::process::geteuid().is_root() || (owner.uid(), owner.gid()) == (0, 0) {
        return Ok(());
    }
    let mut waiting = vec![tree.to_owned()];
    while let Some(path) = waiting.pop() {
        let (uid, gid) = (Some(owner.uid()), Some(owner.gid()));
        attempt("change the owner of", &path, || std::os::unix::fs::lchown(&path, uid, gid))?;
        sync_path(&path, durability)?;
        if path.is_dir() {
            waiting.extend(names_in(&path)?.iter().map(|name| path.join(name)));
        }
    }
    Ok(())
}

/// `path` without a slash at its end or dots in between.
fn normal(path: &Path) -> Result<PathBuf> {
    let normal: PathBuf = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
    match (path.as_os_str().is_empty(), normal.as_os_str().is_empty()) {
        (true, _) => Err(Error::new(ErrorKind::Invalid, "--data-dir is empty")),
        (false, true) => Ok(PathBuf::from(".")),
        (false, false) => Ok(normal),
    }
}

/// The parent of a data dir that does not exist, and how the names of its stages begin.
fn beside(data_dir: &Path) -> Result<(PathBuf, OsString)> {
    if fs::symlink_metadata(data_dir).is_ok() {
        let message = format!("{} is a symbolic link to nothing", data_dir.display());
        return Err(Error::new(ErrorKind::Invalid, message).hint("create the directory that it leads to"));
    }
    let (Some(parent), Some(name)) = (data_dir.parent(), data_dir.file_name()) else {
        return Err(Error::new(ErrorKind::Invalid, format!("{} cannot become a directory", data_dir.display())));
    };
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    Ok((or_here(parent), prefix))
}

/// The empty path is the current directory.
fn or_here(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() }
}

/// Refuses a data dir that holds anything but `lost+found` and stages.
fn refuse_content(data_dir: &Path) -> Result<()> {
    let member = data_dir.join(MEMBER);
    if fs::symlink_metadata(&member).is_ok() {
        if is_locked(&member.join("snap").join("db")) {
            let message = format!("an etcd is running on {}", data_dir.display());
            return Err(Error::new(ErrorKind::Refused, message).hint("restore into another --data-dir"));
        }
        let message = format!("{} already holds a member", data_dir.display());
        return Err(Error::new(ErrorKind::Refused, message).hint("move it away, or restore into another --data-dir"));
    }
    let mut names = names_in(data_dir)?;
    names.sort();
    match names.iter().find(|name| *name != LOST_AND_FOUND && !is_stage(name, OsStr::new("."))) {
        None => Ok(()),
        Some(name) => {
            let message = format!("{} is not empty: it holds {}", data_dir.display(), name.display());
            Err(Error::new(ErrorKind::Refused, message).hint("empty it, or restore into another --data-dir"))
        }
    }
}

/// Whether an etcd has the database open: it holds a lock on it then.
fn is_locked(db: &Path) -> bool {
    File::open(db).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK))
}

/// Removes the stages that nobody holds any more.
fn remove_leftovers(parent: &Path, prefix: &OsStr, own: &Path) -> Result<()> {
    for stage in names_in(parent)?.iter().filter(|name| is_stage(name, prefix)).map(|name| parent.join(name)) {
        let is_dir = fs::symlink_metadata(&stage).is_ok_and(|found| found.is_dir());
        if stage == own || !is_dir {
            continue;
        }
        let lock = attempt("open", &stage, || File::open(&stage))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(under_way(&stage)),
            Ok(()) => attempt("remove the leftover", &stage, || fs::remove_dir_all(&stage))?,
            // Without locks nobody can tell a leftover from a restore that is under way.
            Err(error) => {
                let message = format!("{} is left from another restore, or one is under way", stage.display());
                return Err(Error::new(ErrorKind::Refused, message)
                    .hint("remove it if no restore is running")
                    .caused_by(io::Error::from(error)));
            }
        }
    }
    Ok(())
}

fn is_stage(name: &OsStr, prefix: &OsStr) -> bool {
    let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
    rest.is_some_and(|rest| rest.starts_with(STAGE_MARK.as_bytes()))
}

fn names_in(dir: &Path) -> Result<Vec<OsString>> {
    attempt("list", dir, || fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect())
}

fn under_way(stage: &Path) -> Error {
    let message = format!("another restore is under way in {}", stage.display());
    Error::new(ErrorKind::Refused, message).hint("wait for it, or end it")
}

/// Renames `from` to `to`, where there must be nothing.
fn rename_into_nothing(from: &Path, to: &Path) -> Result<()> {
    let taken = || {
        Error::new(ErrorKind::Refused, format!("{} has come into being during the restore", to.display()))
            .hint("nothing was replaced; find out who else writes there")
    };
    let renamed = operation(RENAME, to, || Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?));
    let refused = match renamed {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    match Errno::from_io_error(&refused) {
        Some(Errno::EXIST | Errno::NOTEMPTY) => return Err(taken()),
        // Not every file system can (NFS, some overlays).
        Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        _ => return Err(Error::file(RENAME, to, refused)),
    }
    // Between this look and the rename somebody could still create `to`. Another restore cannot, as it would have
    // to hold this stage's lock; and a rename of a directory replaces an empty directory at most, so that no data can
    // be lost even then.
    if fs::symlink_metadata(to).is_ok() {
        return Err(taken());
    }
    attempt(RENAME, to, || fs::rename(from, to))
}
