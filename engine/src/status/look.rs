//! Reads a database from end to end and adds it up.
//!
//! etcd's own tools give a hash over every entry, the revision of the last record, a number of keys and a size. What a key
//! is depends on their version: up to 3.5 every entry of every bucket counts, from 3.6 on the user's keys that are alive.
//! A file says by its storage version which of the two made it.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::archive::{Archive, BackupEntry, ReadLimits, Selection, select};
use crate::datadir::{Image, ImageFacts, Scratch, Scrutiny, TakesImage, Tally};
use crate::error::{Error, ErrorKind, Result};
use crate::foreign::{HashCheck, PlainSnapshot, Trailer};
use crate::monitor::{Event, Phase};
use crate::replay::move_image;
use crate::run::{RunContext, blocking};

/// What to look at.
#[derive(Debug)]
pub enum StatusRequest<'a> {
    /// A plain snapshot on a disk.
    File(PathBuf),
    /// A full of an archive.
    Backup {
        /// The archive.
        archive: &'a Archive,
        /// Which one.
        selection: Selection,
        /// Where the image may lie, in the clear and without a name, while it is looked at.
        scratch_dir: PathBuf,
        /// Bounds.
        limits: ReadLimits,
    },
}

/// What was looked at, and what held its bytes together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A plain snapshot; its SHA-256 is right, or it has none.
    File(PathBuf, Trailer),
    /// A full of the archive; it has the SHA-256 of its footer.
    Backup(BackupEntry),
}

/// What `snapshot status` of the etcd that wrote a file counts as its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TotalKeys {
    /// The user's keys that are alive: etcd 3.6 and later.
    Alive,
    /// Every entry of every bucket: etcd 3.5 and before.
    Entries,
}

/// What is in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where it came from.
    pub origin: Origin,
    /// Sums as etcd's own tools make them.
    pub tally: Tally,
    /// User keys that are alive.
    pub live_keys: u64,
    /// What it holds, by our own reading; its revision is the one that an etcd would start at.
    pub facts: ImageFacts,
}

impl Status {
    /// Which of the two numbers of keys etcd's own tool of the file's version gives.
    pub fn total_keys(&self) -> TotalKeys {
        if self.tally.storage_version.is_some() { TotalKeys::Alive } else { TotalKeys::Entries }
    }
}

/// Looks at a file or a backup. Its tree is checked as a restore checks it.
///
/// # Errors
/// `Damaged` for a wrong SHA-256 or a database that is not sound; `Refused` where an etcd is running on the file, or for a
/// database of a newer etcd; those of the file system, of the store and of opening a backup; `Interrupted`.
pub async fn look(request: StatusRequest<'_>, context: &RunContext) -> Result<Status> {
    match request {
        StatusRequest::File(path) => file(path, context).await,
        StatusRequest::Backup { archive, selection, scratch_dir, limits } => {
            let catalogue = context.unless_stopped(archive.catalogue()).await?;
            let backup = select(&catalogue, &selection)?.clone();
            let reader = context.unless_stopped(archive.open(&backup.name)).await?;
            let needed_bytes = reader.footer().plain_bytes;
            let scratch = blocking(move || Scratch::create(&scratch_dir, needed_bytes)).await?;
            let mut scratch = move_image(&reader, limits, scratch, Phase::Restore, context).await?;
            let name = backup.name;
            let origin = Origin::Backup(backup);
            add_up(origin, move || scratch.image(), context).await.map_err(|error| error.about(name))
        }
    }
}

async fn file(path: PathBuf, context: &RunContext) -> Result<Status> {
    let snapshot = PlainSnapshot::open_file(&path, HashCheck::WherePresent).await?;
    let (name, total_bytes, trailer) = (snapshot.name().to_owned(), snapshot.image_bytes(), snapshot.trailer());
    let mapped = snapshot.file()?.ok_or_else(|| Error::new(ErrorKind::Internal, "a file that is none"))?;
    if trailer == Trailer::Sha256 {
        context.monitor.tell(Event::Begin { phase: Phase::Restore, total_bytes });
        context.unless_stopped(check_sha256(snapshot, context)).await?;
        context.monitor.tell(Event::End(Phase::Restore));
    }
    let origin = Origin::File(path, trailer);
    add_up(origin, move || Image::open(&mapped), context).await.map_err(|error| error.about(name))
}

async fn check_sha256(snapshot: PlainSnapshot, context: &RunContext) -> Result<()> {
    let mut image = snapshot.into_image();
    let (mut sha256, mut read_bytes) = (Sha256::new(), 0);
    while let Some(piece) = image.next().await? {
        read_bytes += piece.len() as u64;
        sha256 = blocking(move || {
            sha256.update(&piece);
            Ok(sha256)
        })
        .await?;
        context.monitor.tell(Event::Progress { plain_bytes: read_bytes, stored_bytes: read_bytes });
    }
    image.check(sha256.finalize().into()).map(drop)
}

/// Reads the image off the threads that serve the network.
async fn add_up(
    origin: Origin,
    image: impl FnOnce() -> Result<Image> + Send + 'static,
    context: &RunContext,
) -> Result<Status> {
    let watching = context.clone();
    context.monitor.tell(Event::Begin { phase: Phase::Proof, total_bytes: 0 });
    let status = blocking(move || {
        let mut attention = |read_bytes| {
            watching.monitor.tell(Event::Progress { plain_bytes: read_bytes, stored_bytes: 0 });
            watching.check_stop()
        };
        let image = image()?;
        let examined = image.examine(Scrutiny::Strict, None, &mut attention)?;
        let tally = image.tally(&mut attention)?;
        Ok(Status { origin, tally, live_keys: image.live_keys()?, facts: examined.facts })
    });
    let status = status.await?;
    context.monitor.tell(Event::End(Phase::Proof));
    Ok(status)
}
