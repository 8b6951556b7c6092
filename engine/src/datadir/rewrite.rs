//! What of a database that was another cluster's must become the new cluster's.
//!
//! Records, leases, users and roles stay as they are. Membership, raft's position, alarms and the agreed versions are
//! the old cluster's: they are replaced in one shape that every etcd from 3.4 to 3.7 starts from, so that a restore
//! need not know the target's version. A bucket that is not known here is refused: it could hold more of that kind.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::disk::{self, operation};
use super::durability::Durability;
use super::entries::each_entry;
use super::image::{Examined, Image, ImageFacts};
use super::lease::LeaseChanges;
use super::membership::Membership;
use super::mvcc::revision_key;
use super::pages::Pages;
use super::uncached::{DirectIo, UncachedFile};
use super::wal::TERM;
use crate::bbolt::{BoltFile, Extension};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// Keys of the `meta` bucket that speak of the source's raft and storage version.
const CONSISTENT_INDEX: &[u8] = b"consistent_index";
const RAFT_TERM: &[u8] = b"term";
const CONF_STATE: &[u8] = b"confState";
const STORAGE_VERSION: &[u8] = b"storageVersion";
const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
/// Far enough for any history, and leaves room to go on.
const MAX_BUMPED: i64 = i64::MAX / 2;
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// Lets the revisions of a restored cluster go on this far beyond those of the image, and makes all that lie before
/// compacted: watchers that have seen more than the image holds are told so, and begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevisionBump(NonZeroU64);

impl RevisionBump {
    /// A bump by so many revisions.
    pub fn by(revisions: NonZeroU64) -> Self {
        Self(revisions)
    }

    /// So many revisions.
    pub fn revisions(self) -> u64 {
        self.0.get()
    }

    /// Where a cluster at `revision` goes on.
    fn from(self, revision: Revision) -> Result<Revision> {
        let bumped = i64::try_from(self.0.get()).ok().and_then(|by| revision.0.checked_add(by));
        bumped.filter(|bumped| *bumped <= MAX_BUMPED).map(Revision).ok_or_else(|| {
            let message = format!("--bump-revision {} leads too far from revision {revision}", self.0);
            Error::new(ErrorKind::Invalid, message).hint("one billion (1000000000) is the usual choice")
        })
    }
}

/// What a new cluster's database has beside what is staged.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// A compaction that etcd shall do when it starts, where the database is not compacted as far.
    pub compact: Option<Revision>,
    /// What is known of leases that live keys name.
    pub leases: LeaseChanges,
    /// Whether the revisions go on further up: all before is compacted then.
    pub bump: Option<RevisionBump>,
}

/// What was made of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseFacts {
    /// The image as it was.
    pub image: ImageFacts,
    /// The revision that etcd will start at: the image's, or where a bump leads from there.
    pub revision: Revision,
    /// The revision that it will be compacted at.
    pub compact_revision: Option<Revision>,
    /// Leases that live keys name and that nobody knows: their time to live is a default.
    pub assumed_leases: u64,
    /// Bytes of the database as it is now.
    pub db_bytes: u64,
    /// Bytes of it that were written, the image included.
    pub written_bytes: u64,
    /// How the image was written.
    pub direct_io: DirectIo,
}

/// Makes `image`, which is what `db` at `path` holds, that of a new cluster of `membership`.
///
/// Of `written_bytes` only what was added is counted.
///
/// # Errors
/// `Damaged` where the image does not parse; `Local` where the file system refuses.
pub(super) fn rewrite(
    (written, path): (&UncachedFile, &Path),
    image: &Image,
    examined: Examined,
    (membership, ending): (&Membership, &Ending),
    durability: Durability,
) -> Result<DatabaseFacts> {
    let bumped = ending.bump.map(|bump| bump.from(examined.facts.revision)).transpose()?;
    let scheduled = bumped.or(ending.compact.filter(|compact| Some(*compact) > examined.facts.compact_floor));
    let db = written.file();
    let file = image.tree()?;
    let used_bytes = file.used_bytes();
    let mut out = BufWriter::with_capacity(WRITE_BUFFER_BYTES, Pages { db, path });
    out.seek(SeekFrom::Start(used_bytes)).map_err(|error| local("extend the database", error))?;
    let mut extension = Extension::begin(file, out)?;
    for (name, entries) in new_buckets(&file, membership, scheduled)? {
        extension.replace(name.as_bytes(), entries.iter().map(Ok))?;
    }
    if let Some(revision) = bumped {
        // The marker of etcd's own restore: a record of no key, which moves the revision and serves nothing.
        extension.append(b"key", [Ok((revision_key(revision), b""))])?;
    }
    let (missing, assumed_leases) = examined.leases.granted(&ending.leases);
    if !missing.is_empty() {
        extension.replace(b"lease", merged(&file, b"lease", missing)?)?;
    }
    let extended = extension.finish()?;
    drop(extended.out);

    // The metas make the new root valid, so all else is on disk before they are written.
    sync(db, path, durability)?;
    let mut written_bytes = extended.written_bytes;
    for (offset, meta) in &extended.metas {
        operation("write", path, || db.write_all_at(meta, *offset))
            .map_err(|error| local("write the meta pages of the database", error))?;
        written_bytes += meta.len() as u64;
    }
    sync(db, path, durability)?;
    Ok(DatabaseFacts {
        revision: bumped.unwrap_or(examined.facts.revision),
        compact_revision: scheduled.or(examined.facts.compact_floor),
        image: examined.facts,
        assumed_leases,
        db_bytes: used_bytes + extended.written_bytes,
        written_bytes,
        direct_io: written.direct_io(),
    })
}

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// The buckets that speak of the cluster rather than of its data, as the new cluster has them.
fn new_buckets(
    file: &BoltFile<'_>,
    membership: &Membership,
    scheduled: Option<Revision>,
) -> Result<[(&'static str, Entries); 5]> {
    let mut meta = Entries::new();
    each_entry(file, b"meta", |entry| {
        meta.insert(entry.key.to_vec(), entry.value.to_vec());
        Ok(())
    })?;
    // Raft begins anew: one entry per member is applied, in term 1. The storage version is left to the etcd that
    // starts on it; one that it does not know would stop it.
    meta.insert(CONSISTENT_INDEX.to_vec(), membership.count().to_be_bytes().to_vec());
    meta.insert(RAFT_TERM.to_vec(), TERM.to_be_bytes().to_vec());
    meta.insert(CONF_STATE.to_vec(), membership.conf_state_json()?);
    meta.remove(STORAGE_VERSION);
    // Asked for, and not finished: etcd does that when it starts.
    if let Some(revision) = scheduled {
        meta.insert(SCHEDULED_COMPACTION.to_vec(), revision_key(revision).to_vec());
    }
    // etcd 3.7 takes its voters from here: every member of one restore must have the same ones, and all of them.
    let mut members = Entries::new();
    for member in membership.members() {
        members.insert(member.id.to_string().into_bytes(), member.json()?);
    }
    let empty = Entries::new;
    Ok([("alarm", empty()), ("cluster", empty()), ("members", members), ("members_removed", empty()), ("meta", meta)])
}

/// The entries of bucket `name` with `added` ones among them, which it does not have yet; both in key order.
fn merged<'a>(
    file: &BoltFile<'a>,
    name: &[u8],
    added: Vec<(Vec<u8>, Vec<u8>)>,
) -> Result<impl Iterator<Item = Result<(Vec<u8>, Vec<u8>)>> + use<'a>> {
    let mut cursor = file.bucket(name)?.map(|bucket| file.cursor(&bucket));
    let mut old = match &mut cursor {
        Some(cursor) => cursor.first()?,
        None => None,
    };
    let mut added = added.into_iter().peekable();
    Ok(std::iter::from_fn(move || {
        let Some(entry) = old.filter(|entry| added.peek().is_none_or(|(key, _)| entry.key < key.as_slice())) else {
            return added.next().map(Ok);
        };
        match cursor.as_mut().map_or(Ok(None), |cursor| cursor.next()) {
            Ok(next) => old = next,
            Err(error) => return Some(Err(error)),
        }
        Some(Ok((entry.key.to_vec(), entry.value.to_vec())))
    }))
}

fn sync(db: &File, path: &Path, durability: Durability) -> Result<()> {
    match durability {
        Durability::Fsync => disk::sync(path, || db.sync_data()).map_err(|error| local("sync the database", error)),
        Durability::None => Ok(()),
    }
}

fn local(action: &str, error: std::io::Error) -> Error {
    Error::local(format!("cannot {action}"), error)
}
