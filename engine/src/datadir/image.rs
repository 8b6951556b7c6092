//! An etcd database that was another cluster's: what it holds, and what of it must become the new cluster's.
//!
//! Records, leases, users and roles stay as they are. Membership, raft's position, alarms and the agreed versions are
//! the old cluster's: they are replaced in one shape that every etcd from 3.4 to 3.7 starts from, so that a restore
//! need not know the target's version. A bucket that is not known here is refused: it could hold more of that kind.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use memmap2::Mmap;

use super::durability::Durability;
use super::lease::{Leases, lease_id};
use super::membership::Membership;
use super::mvcc::{compact_revision, record_key_parts, stored_key};
use super::wal::TERM;
use crate::bbolt::{BoltFile, Bucket, Entry, Extension, TreeFacts, check_visiting};
use crate::error::{Error, ErrorKind, Result};
use crate::record::Change;
use crate::revision::Revision;

/// Every bucket that etcd 3.4 to 3.7 has.
const BUCKETS: [&str; 10] =
    ["alarm", "auth", "authRoles", "authUsers", "cluster", "key", "lease", "members", "members_removed", "meta"];
/// Keys of the `meta` bucket that speak of the source's raft and storage version.
const CONSISTENT_INDEX: &[u8] = b"consistent_index";
const RAFT_TERM: &[u8] = b"term";
const CONF_STATE: &[u8] = b"confState";
const STORAGE_VERSION: &[u8] = b"storageVersion";
/// Keys of the `meta` bucket that are kept: how far compaction was asked for, and how far it got.
const COMPACTIONS: [&[u8]; 2] = [b"scheduledCompactRev", b"finishedCompactRev"];
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// Whether etcd asks clients who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthState {
    /// Users and passwords are those of the source, at once.
    Enabled,
    /// Everybody may do everything.
    Disabled,
}

/// What was found in an image, and what was made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// The revision that etcd will start at.
    pub revision: Revision,
    /// The revision that it is compacted at, finished or not.
    pub compact_floor: Option<Revision>,
    /// Entries of the `key` bucket.
    pub records: u64,
    /// Whether clients need to log in.
    pub auth: AuthState,
    /// Leases that the image has.
    pub leases: u64,
    /// Leases that its records name and that it lacked; they were granted an hour.
    pub granted_leases: u64,
    /// Bytes of the database as it is now.
    pub db_bytes: u64,
    /// Bytes of it that were written, the image included.
    pub written_bytes: u64,
    /// Pages of the image that something refers to.
    pub used_pages: u64,
    /// Pages of the image that are free.
    pub free_pages: u64,
}

/// Makes the image in `db` that of a new cluster of `membership`, after checking all of it.
///
/// Of `written_bytes` only what was added is counted.
///
/// # Errors
/// `Damaged` where it is not an etcd database in order; `Refused` for a bucket that is not known; `Local` where the
/// file system refuses.
pub(super) fn rewrite(db: &File, membership: &Membership, durability: Durability) -> Result<ImageFacts> {
    let used_bytes = BoltFile::open(&map(db)?)?.used_bytes();
    // Whatever follows is not part of the database: a file copied from a data dir is longer than it is used.
    db.set_len(used_bytes).map_err(|error| local("cut the database to its size", error))?;
    let bytes = map(db)?;
    let file = BoltFile::open(&bytes)?;
    let (mut facts, leases) = examine(&file)?;

    let mut out = BufWriter::with_capacity(WRITE_BUFFER_BYTES, db);
    out.seek(SeekFrom::Start(used_bytes)).map_err(|error| local("extend the database", error))?;
    let mut extension = Extension::begin(file, out)?;
    for (name, entries) in new_buckets(&file, membership)? {
        extension.replace(name.as_bytes(), entries.iter().map(Ok))?;
    }
    let missing = leases.missing();
    facts.granted_leases = missing.len() as u64;
    if !missing.is_empty() {
        extension.replace(b"lease", merged(&file, b"lease", missing)?)?;
    }
    let extended = extension.finish()?;
    drop(extended.out);

    // The metas make the new root valid, so all else is on disk before they are written.
    sync(db, durability)?;
    for (offset, meta) in &extended.metas {
        db.write_all_at(meta, *offset).map_err(|error| local("write the meta pages of the database", error))?;
        facts.written_bytes += meta.len() as u64;
    }
    sync(db, durability)?;
    facts.written_bytes += extended.written_bytes;
    facts.db_bytes = used_bytes + extended.written_bytes;
    Ok(facts)
}

/// Walks the whole image once: its order, and what is in it.
fn examine(file: &BoltFile<'_>) -> Result<(ImageFacts, Leases)> {
    let buckets = file.buckets()?;
    if let Some((name, _)) = buckets.iter().find(|(name, _)| !BUCKETS.iter().any(|known| known.as_bytes() == *name)) {
        let message = format!("the database holds a bucket that is not known: {}", String::from_utf8_lossy(name));
        return Err(Error::new(ErrorKind::Refused, message).hint("a newer etcd wrote it; use a newer etcdbr"));
    }
    for needed in ["key", "meta"] {
        if !buckets.iter().any(|(name, _)| *name == needed.as_bytes()) {
            let message = format!("the database has no bucket {needed}: it is not etcd's");
            return Err(Error::new(ErrorKind::Damaged, message));
        }
    }
    let mut leases = Vec::new();
    each_entry(file, b"lease", |entry| {
        leases.push(lease_id(entry.key)?);
        Ok(())
    })?;
    let mut leases = Leases::new(leases);
    let mut last = Revision::EMPTY;
    let tree = check_visiting(file, &mut |bucket, entry| match bucket {
        b"key" => {
            let (main, _, change) = record_key_parts(entry.key)?;
            last = last.max(main);
            let about = stored_key(main, entry.value)?;
            leases.refer(about.key, if change == Change::Put { about.lease } else { 0 });
            Ok(())
        }
        _ => Ok(()),
    })?;
    let compact_floor = compact_floor(file)?;
    let revision = compact_floor.map_or(last, |floor| floor.max(last));
    Ok((facts(&tree, revision, compact_floor, auth_state(file)?, &leases), leases))
}

fn facts(
    tree: &TreeFacts,
    revision: Revision,
    compact_floor: Option<Revision>,
    auth: AuthState,
    leases: &Leases,
) -> ImageFacts {
    let records = tree.buckets.iter().find(|bucket| bucket.name == b"key").map_or(0, |bucket| bucket.entries);
    ImageFacts {
        revision,
        compact_floor,
        records,
        auth,
        leases: leases.known(),
        granted_leases: 0,
        db_bytes: 0,
        written_bytes: 0,
        used_pages: tree.used_pages,
        free_pages: tree.free_pages,
    }
}

/// The higher of the compactions that were asked for and finished: an image taken in between has records missing
/// below the former already.
fn compact_floor(file: &BoltFile<'_>) -> Result<Option<Revision>> {
    let mut floor = None;
    for key in COMPACTIONS {
        if let Some(value) = value_of(file, b"meta", key)? {
            floor = floor.max(Some(compact_revision(value)?));
        }
    }
    Ok(floor)
}

fn auth_state(file: &BoltFile<'_>) -> Result<AuthState> {
    Ok(match value_of(file, b"auth", b"authEnabled")? {
        Some([1]) => AuthState::Enabled,
        _ => AuthState::Disabled,
    })
}

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// The buckets that speak of the cluster rather than of its data, as the new cluster has them.
fn new_buckets(file: &BoltFile<'_>, membership: &Membership) -> Result<[(&'static str, Entries); 5]> {
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

fn value_of<'a>(file: &BoltFile<'a>, bucket: &[u8], key: &[u8]) -> Result<Option<&'a [u8]>> {
    let Some(bucket) = file.bucket(bucket)? else { return Ok(None) };
    Ok(file.cursor(&bucket).seek(key)?.filter(|entry| entry.key == key).map(|entry| entry.value))
}

fn each_entry<'a>(file: &BoltFile<'a>, bucket: &[u8], mut f: impl FnMut(Entry<'a>) -> Result<()>) -> Result<()> {
    let bucket: Option<Bucket<'a>> = file.bucket(bucket)?;
    let Some(mut cursor) = bucket.map(|bucket| file.cursor(&bucket)) else { return Ok(()) };
    let mut entry = cursor.first()?;
    while let Some(found) = entry {
        f(found)?;
        entry = cursor.next()?;
    }
    Ok(())
}

/// The file's bytes, without reading them into memory.
fn map(db: &File) -> Result<Mmap> {
    #[allow(
        unsafe_code,
        reason = "the file is in our own stage, locked and with mode 0600; while it is mapped only \
                                   pages behind the mapped ones and the metas, parsed by then, are written"
    )]
    let map = unsafe { Mmap::map(db) };
    map.map_err(|error| local("map the database", error))
}

fn sync(db: &File, durability: Durability) -> Result<()> {
    match durability {
        Durability::Fsync => db.sync_data().map_err(|error| local("sync the database", error)),
        Durability::None => Ok(()),
    }
}

fn local(action: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Local, format!("cannot {action}")).caused_by(error)
}
