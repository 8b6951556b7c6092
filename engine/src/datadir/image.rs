//! An etcd database that is only read: is it sound, and what does it hold?
//!
//! One walk answers all of it: the strict check of the tree, the records, the leases that they name, and the first
//! reading of HashKV. Memory is a bit per page and what [`Leases`] and [`hash_kv`](super::hash_kv) take; the database
//! itself stays where it is.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{Advice, Mmap};

use super::entries::each_entry;
use super::hash::{HashPoint, KvDigest, Reach, Survey};
use super::lease::{Leases, lease_id};
use super::mvcc::{compact_revision, record_key_parts, stored_key};
use crate::bbolt::{BoltFile, Entry, TreeFacts, check_visiting};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Change, RecordRef};
use crate::revision::Revision;

/// Every bucket that etcd 3.4 to 3.7 has.
const BUCKETS: [&str; 10] =
    ["alarm", "auth", "authRoles", "authUsers", "cluster", "key", "lease", "members", "members_removed", "meta"];
/// Keys of the `meta` bucket: how far compaction was asked for, and how far it got.
pub(super) const COMPACTIONS: [&[u8]; 2] = [b"scheduledCompactRev", FINISHED];
const FINISHED: &[u8] = b"finishedCompactRev";
/// Bytes of records between two calls of an [`Attention`].
const ATTENTION_BYTES: u64 = 4 << 20;

/// What the kernel is asked to read at once.
const READ_AHEAD_BYTES: usize = 8 << 20;

/// What takes the bytes of an image, in file order.
pub trait TakesImage {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// `Local` where the disk is full or refuses.
    fn write_image(&mut self, bytes: &[u8]) -> Result<()>;

    /// The image, once all of it was taken.
    ///
    /// # Errors
    /// `Damaged` where it is not a database; `Local` where the file system refuses.
    fn image(&mut self) -> Result<Image>;
}

/// A database file, mapped.
#[derive(Debug)]
pub struct Image {
    map: Mmap,
}

/// How closely an image is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scrutiny {
    /// Everything that bbolt and etcd rely on is checked, in every page that is in use.
    #[default]
    Strict,
    /// Only what has to be read is: the records and the small buckets.
    Readable,
}

/// Whether etcd asks clients who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthState {
    /// Users and passwords are those of the source, at once.
    Enabled,
    /// Everybody may do everything.
    Disabled,
}

/// Pages of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCounts {
    /// Pages that something refers to.
    pub used: u64,
    /// Pages that nothing refers to.
    pub free: u64,
}

/// What an image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// The revision that an etcd would start at.
    pub revision: Revision,
    /// The revision that it is compacted at, finished or not.
    pub compact_floor: Option<Revision>,
    /// Entries of the `key` bucket.
    pub records: u64,
    /// Whether clients need to log in.
    pub auth: AuthState,
    /// Leases that have a record.
    pub leases: u64,
    /// Leases that the newest record of a key names and that have none.
    pub missing_leases: u64,
    /// Bytes of the file that are part of the database.
    pub used_bytes: u64,
    /// Its pages, where all of them were looked at.
    pub pages: Option<PageCounts>,
}

/// The outcome of an examination.
#[derive(Debug)]
pub struct Examined {
    /// What the image holds.
    pub facts: ImageFacts,
    /// HashKV at the point that was asked for.
    pub hash: Option<u32>,
    pub(super) leases: Leases,
}

impl Examined {
    /// The leases that live keys name and that have no record, each once.
    pub fn missing_leases(&self) -> Vec<i64> {
        self.leases.missing()
    }
}

/// Is told now and then how many bytes of records have been read; its error ends the reading.
pub type Attention<'a> = dyn FnMut(u64) -> Result<()> + 'a;

impl Image {
    /// Maps the database in `file`. While it is in use nobody may cut the file shorter.
    ///
    /// # Errors
    /// `Damaged` where it is not a database; `Local` where it cannot be mapped.
    pub fn open(file: &File) -> Result<Self> {
        #[allow(
            unsafe_code,
            reason = "the file is only ever extended behind what is read, and its metas are parsed again after a change"
        )]
        let map = unsafe { Mmap::map(file) };
        let map = map.map_err(|error| Error::new(ErrorKind::Local, "cannot map the database").caused_by(error))?;
        let image = Self { map };
        image.tree()?;
        Ok(image)
    }

    /// Its pages and buckets.
    ///
    /// # Errors
    /// `Damaged` where it is not a database.
    pub fn tree(&self) -> Result<BoltFile<'_>> {
        BoltFile::open(&self.map)
    }

    /// Reads all of it: is it in order, what does it hold, and, where `point` is given, its HashKV there.
    ///
    /// # Errors
    /// `Damaged` where it is not an etcd database in order; `Refused` for a bucket that is not known; those of
    /// `attention`.
    pub fn examine(
        &self,
        scrutiny: Scrutiny,
        point: Option<HashPoint>,
        attention: &mut Attention<'_>,
    ) -> Result<Examined> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| self.read_ahead(&done));
            let examined = self.examine_now(scrutiny, point, attention);
            done.store(true, Ordering::Relaxed);
            examined
        })
    }

    /// Has the kernel read the file into memory, front to back, until `done`: pages lie in no order that it could guess,
    /// and one at a time they would be waited for one at a time.
    fn read_ahead(&self, done: &AtomicBool) {
        for start in (0..self.map.len()).step_by(READ_AHEAD_BYTES) {
            let bytes = READ_AHEAD_BYTES.min(self.map.len() - start);
            if done.load(Ordering::Relaxed) || self.map.advise_range(Advice::WillNeed, start, bytes).is_err() {
                return;
            }
        }
    }

    fn examine_now(
        &self,
        scrutiny: Scrutiny,
        point: Option<HashPoint>,
        attention: &mut Attention<'_>,
    ) -> Result<Examined> {
        let file = self.tree()?;
        known_buckets(&file)?;
        let mut reading = Reading::begin(&file, point)?;
        let mut paced = Paced { attention, read: 0, told: 0 };
        let tree = match scrutiny {
            Scrutiny::Strict => Some(check_visiting(&file, &mut |bucket, entry| match bucket {
                b"key" => paced.take(&entry).and_then(|()| reading.record(&entry)),
                _ => Ok(()),
            })?),
            Scrutiny::Readable => {
                each_entry(&file, b"key", |entry| paced.take(&entry).and_then(|()| reading.record(&entry)))?;
                None
            }
        };
        let hash = match reading.hash.take() {
            None => None,
            Some(FirstReading::Digest(digest)) => Some(digest.finish()),
            Some(FirstReading::Survey(survey)) => Some(second_reading(&file, survey.finish(), &mut paced)?),
        };
        let facts = reading.facts(&file, tree.as_ref())?;
        Ok(Examined { facts, hash, leases: reading.leases })
    }
}

/// How far an image reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The revision that an etcd would start at.
    pub revision: Revision,
    /// The revision that it is compacted at, finished or not.
    pub compact_floor: Option<Revision>,
    /// The revision up to which a compaction has gone through: no key has two records there.
    pub compacted: Option<Revision>,
}

impl Image {
    /// How far it reaches, by its last record and its compactions.
    ///
    /// # Errors
    /// `Damaged` where they do not parse.
    pub fn extent(&self) -> Result<Extent> {
        let file = self.tree()?;
        let last = match file.bucket(b"key")? {
            Some(bucket) => file.cursor(&bucket).last()?.map(|entry| record_key_parts(entry.key)).transpose()?,
            None => None,
        };
        let last = last.map_or(Revision::EMPTY, |(main, _, _)| main.max(Revision::EMPTY));
        let compact_floor = compact_floor(&file)?;
        let compacted = value_of(&file, b"meta", FINISHED)?.map(compact_revision).transpose()?;
        Ok(Extent { revision: compact_floor.map_or(last, |floor| floor.max(last)), compact_floor, compacted })
    }

    /// Shows its records to `see`, in order.
    ///
    /// # Errors
    /// `Damaged`, where `scrutiny` says so for all of its pages, and else for its records; those of `see`.
    pub fn records(&self, scrutiny: Scrutiny, see: &mut dyn FnMut(&RecordRef<'_>) -> Result<()>) -> Result<()> {
        let file = self.tree()?;
        let mut show = |entry: &Entry<'_>| {
            let (main, sub, change) = record_key_parts(entry.key)?;
            see(&RecordRef { main, sub, change, value: entry.value })
        };
        match scrutiny {
            Scrutiny::Strict => {
                known_buckets(&file)?;
                check_visiting(&file, &mut |bucket, entry| if bucket == b"key" { show(&entry) } else { Ok(()) })?;
                Ok(())
            }
            Scrutiny::Readable => each_entry(&file, b"key", |entry| show(&entry)),
        }
    }

    /// User keys that are alive at its revision: what `etcdutl snapshot status` of 3.6 and later calls total keys.
    ///
    /// # Errors
    /// `Damaged` where the records do not parse.
    pub fn live_keys(&self) -> Result<u64> {
        let file = self.tree()?;
        let floor = compact_floor(&file)?.unwrap_or_default();
        let mut survey = Survey::at_floor(floor);
        each_entry(&file, b"key", |entry| {
            let (main, _, change) = record_key_parts(entry.key)?;
            survey.see(main, change, &stored_key(main, entry.value)?)
        })?;
        Ok(survey.alive())
    }
}

/// Counts what is read, and tells.
struct Paced<'a, 'b> {
    attention: &'a mut Attention<'b>,
    read: u64,
    told: u64,
}

impl Paced<'_, '_> {
    fn take(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.read += (entry.key.len() + entry.value.len()) as u64;
        if self.read - self.told < ATTENTION_BYTES {
            return Ok(());
        }
        self.told = self.read;
        (self.attention)(self.read)
    }
}

/// What the first reading does for HashKV.
enum FirstReading {
    /// Nothing was compacted: it is the only one.
    Digest(Box<KvDigest>),
    Survey(Box<Survey>),
}

/// What the records of one walk add up to.
struct Reading {
    leases: Leases,
    last: Revision,
    records: u64,
    hash: Option<FirstReading>,
}

impl Reading {
    fn begin(file: &BoltFile<'_>, point: Option<HashPoint>) -> Result<Self> {
        let mut leases = Vec::new();
        each_entry(file, b"lease", |entry| {
            leases.push(lease_id(entry.key)?);
            Ok(())
        })?;
        let hash = point.map(|point| match Survey::of(point) {
            Some(survey) => FirstReading::Survey(Box::new(survey)),
            None => FirstReading::Digest(Box::new(KvDigest::unpruned(point))),
        });
        Ok(Self { leases: Leases::new(leases), last: Revision::EMPTY, records: 0, hash })
    }

    fn record(&mut self, entry: &Entry<'_>) -> Result<()> {
        let (main, _, change) = record_key_parts(entry.key)?;
        let about = stored_key(main, entry.value)?;
        self.leases.refer(about.key, if change == Change::Put { about.lease } else { 0 });
        self.last = self.last.max(main);
        self.records += 1;
        match &mut self.hash {
            None => Ok(()),
            Some(FirstReading::Survey(survey)) => survey.see(main, change, &about),
            Some(FirstReading::Digest(digest)) => digest.push(entry.key, entry.value).map(drop),
        }
    }

    fn facts(&self, file: &BoltFile<'_>, tree: Option<&TreeFacts>) -> Result<ImageFacts> {
        let compact_floor = compact_floor(file)?;
        Ok(ImageFacts {
            revision: compact_floor.map_or(self.last, |floor| floor.max(self.last)),
            compact_floor,
            records: self.records,
            auth: auth_state(file)?,
            leases: self.leases.known(),
            missing_leases: self.leases.missing().len() as u64,
            used_bytes: file.used_bytes(),
            pages: tree.map(|tree| PageCounts { used: tree.used_pages, free: tree.free_pages }),
        })
    }
}

fn second_reading(file: &BoltFile<'_>, mut digest: KvDigest, paced: &mut Paced<'_, '_>) -> Result<u32> {
    let Some(mut cursor) = file.bucket(b"key")?.map(|bucket| file.cursor(&bucket)) else {
        return Ok(digest.finish());
    };
    let mut entry = cursor.first()?;
    while let Some(found) = entry {
        paced.take(&found)?;
        if digest.push(found.key, found.value)? == Reach::Beyond {
            break;
        }
        entry = cursor.next()?;
    }
    Ok(digest.finish())
}

/// Refuses buckets that are not known: they could hold more that is another cluster's, or a user's.
fn known_buckets(file: &BoltFile<'_>) -> Result<()> {
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
    Ok(())
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

fn value_of<'a>(file: &BoltFile<'a>, bucket: &[u8], key: &[u8]) -> Result<Option<&'a [u8]>> {
    let Some(bucket) = file.bucket(bucket)? else { return Ok(None) };
    Ok(file.cursor(&bucket).seek(key)?.filter(|entry| entry.key == key).map(|entry| entry.value))
}
