//! The first state of a restored data directory: the image is being written.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::compose::{Composition, Remainder, compose};
use super::disk::attempt;
use super::durability::{Durability, sync_file, sync_path};
use super::grow::{Growth, grow};
use super::image::{Examined, Image, TakesImage};
use super::install::ReadyDataDir;
use super::membership::Membership;
use super::place::Place;
use super::rewrite::{Ending, rewrite};
use super::scratch::Scratch;
use super::uncached::UncachedFile;
use super::{snap, wal};
use crate::error::Result;

/// Whether the WAL gets the 64 MB that etcd gives a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preallocate {
    /// As etcd does.
    #[default]
    Yes,
    /// The file ends with its last record; every etcd starts on it as well.
    No,
}

/// How a data directory is staged: by default durable, with the WAL that etcd makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageOptions {
    /// Whether it must survive a power cut.
    pub durability: Durability,
    /// The size of the WAL.
    pub wal: Preallocate,
}

/// A data directory that takes its image. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct StagedDataDir {
    db: UncachedFile,
    written_bytes: u64,
    options: StageOptions,
    place: Place,
}

impl StagedDataDir {
    /// Stages a data directory that will be `data_dir`; parents that are missing are created.
    ///
    /// `needed_bytes` is all that will be written: the image, what is added to it, and the WAL (`WAL_BYTES`).
    ///
    /// # Errors
    /// `Refused` where `data_dir` holds a member (saying so where an etcd runs on it), or anything else but
    /// `lost+found`, or where another restore is under way; `Invalid` where it cannot be a directory; `Local` where
    /// there is not enough space or the file system refuses. Nothing is changed then.
    pub fn create(data_dir: &Path, needed_bytes: u64, options: StageOptions) -> Result<Self> {
        let place = Place::claim(data_dir, needed_bytes)?;
        for dir in [place.member_dir(), snap_dir(&place), wal_dir(&place)] {
            attempt("create", &dir, || DirBuilder::new().mode(0o700).create(&dir))?;
        }
        let db = UncachedFile::new(create_file(&db_path(&place))?);
        Ok(Self { db, written_bytes: 0, options, place })
    }

    /// The data directory that this will be, without a slash at its end.
    pub fn data_dir(&self) -> &Path {
        self.place.data_dir()
    }

    /// A scratch file beside what is staged.
    ///
    /// # Errors
    /// `Local` where the file system refuses.
    pub fn scratch(&self) -> Result<Scratch> {
        Scratch::create(self.place.member_dir().as_ref(), 0)
    }

    /// Writes the database anew: the records that `fill` gives, and all else as `image`, which is not this stage's own,
    /// has it, but for what `fill` answers.
    ///
    /// # Errors
    /// Those of `fill`; `Damaged` where `image` does not parse; `Local` where the disk is full or refuses.
    pub fn compose<T>(
        &mut self,
        image: &Image,
        fill: impl FnOnce(&mut Composition<'_>) -> Result<(T, Remainder)>,
    ) -> Result<T> {
        let path = db_path(&self.place);
        let (filled, written_bytes) = compose((self.db.finish("write", &path)?, &path), image, fill)?;
        self.written_bytes += written_bytes;
        Ok(filled)
    }

    /// Lets `change` change the database that `image`, this stage's own, is of. What it has become is another image.
    ///
    /// # Errors
    /// Those of `change`; `Local` where the disk is full or refuses.
    pub fn grow<T>(&mut self, image: &Image, change: impl FnOnce(&mut Growth<'_>) -> Result<T>) -> Result<T> {
        let path = db_path(&self.place);
        let (changed, written_bytes) = grow((self.db.finish("write", &path)?, &path), image, change)?;
        self.written_bytes += written_bytes;
        Ok(changed)
    }

    /// Makes `image`, this stage's own, that of a new cluster of `membership`, and writes WAL and `.snap`.
    ///
    /// # Errors
    /// `Damaged` where the image does not parse; `Invalid` for a bump that leads too far; `Local` where the disk is full
    /// or refuses.
    pub fn finish(
        self,
        image: Image,
        examined: Examined,
        membership: &Membership,
        ending: &Ending,
    ) -> Result<ReadyDataDir> {
        let path = db_path(&self.place);
        let mut facts = rewrite((&self.db, &path), &image, examined, (membership, ending), self.options.durability)
            .map_err(|error| error.about(path.display()))?;
        drop(image);
        facts.written_bytes += self.written_bytes;
        let (snap_dir, wal_dir) = (snap_dir(&self.place), wal_dir(&self.place));
        let snap_path = snap_dir.join(snap::file_name(membership));
        let mut snap = create_file(&snap_path)?;
        self.write_through(&mut snap, &snap_path, &snap::encode(membership)?)?;
        let wal_path = wal_dir.join(wal::FIRST_SEGMENT);
        let mut wal = create_file(&wal_path)?;
        if self.options.wal == Preallocate::Yes {
            attempt("allocate", &wal_path, || allocate(&wal, wal::SEGMENT_BYTES))?;
        }
        self.write_through(&mut wal, &wal_path, &wal::encode(membership)?)?;
        for dir in [snap_dir, wal_dir, self.place.member_dir()] {
            sync_path(&dir, self.options.durability)?;
        }
        Ok(ReadyDataDir::new(self.place, facts, self.options.durability))
    }

    fn write_through(&self, file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
        attempt("write", path, || file.write_all(bytes))?;
        sync_file(file, path, self.options.durability)
    }
}

impl TakesImage for StagedDataDir {
    fn write_image(&mut self, bytes: &[u8]) -> Result<()> {
        self.db.write("write", &db_path(&self.place), bytes)?;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Whatever follows the database is cut off: a file that was copied from a data directory is longer than it is used.
    fn image(&mut self) -> Result<Image> {
        let path = db_path(&self.place);
        let db = self.db.finish("write", &path)?;
        let used_bytes = Image::open(db).and_then(|image| Ok(image.tree()?.used_bytes()));
        let used_bytes = used_bytes.map_err(|error| error.about(path.display()))?;
        attempt("cut", &path, || db.set_len(used_bytes))?;
        Image::open(db).map_err(|error| error.about(path.display()))
    }
}

/// Gives `file` so many bytes, on disk where the file system can.
fn allocate(file: &File, bytes: u64) -> std::io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(bytes),
        done => Ok(done?),
    }
}

fn create_file(path: &Path) -> Result<File> {
    attempt("create", path, || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path))
}

fn snap_dir(place: &Place) -> PathBuf {
    place.member_dir().join("snap")
}

fn wal_dir(place: &Place) -> PathBuf {
    place.member_dir().join("wal")
}

fn db_path(place: &Place) -> PathBuf {
    snap_dir(place).join("db")
}
