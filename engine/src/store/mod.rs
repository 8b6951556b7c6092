//! Objects in and out of a place that keeps them. A store has never heard of a backup.
//!
//! Keys are `/`-separated and never reused: callers put a nonce into every key, so nothing here relies on
//! create-only writes, and a retry writes the same bytes again.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::clock::UnixMillis;
use crate::error::Result;

/// A version of an object, as its store names it. Quotes and all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ETag(pub String);

/// Which bytes of an object to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// Exactly `len` bytes (at least 1) from `start`; an object that ends sooner is an error.
    Exact {
        /// First byte.
        start: u64,
        /// Number of bytes.
        len: u64,
    },
    /// The last `len` bytes (at least 1), or the whole object where it is shorter.
    Suffix(u64),
}

/// The answer to a ranged read.
#[derive(Debug, Clone)]
pub struct ReadAnswer {
    /// The bytes: all that were asked for.
    pub bytes: Bytes,
    /// Where in the object they begin.
    pub start: u64,
    /// Size of the whole object, bytes.
    pub object_bytes: u64,
    /// The version that was read.
    pub etag: ETag,
}

/// What LIST and HEAD tell of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key.
    pub key: String,
    /// Size, bytes.
    pub bytes: u64,
    /// When the store took it, by the store's clock.
    pub modified: UnixMillis,
    /// Its version.
    pub etag: ETag,
}

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListQuery {
    /// Keys that begin with this text; callers end it with `/` (empty: all keys).
    pub prefix: String,
    /// Only keys that sort after this one (the last key of the page before, to go on).
    pub start_after: Option<String>,
    /// How deep to look.
    pub depth: ListDepth,
}

/// How deep a listing looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListDepth {
    /// Every key under the prefix.
    #[default]
    All,
    /// Only up to the next `/`: what lies deeper shows as folders.
    Folder,
}

/// One page of a listing, in the byte order of keys. At most 1,000 entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// Objects.
    pub objects: Vec<ObjectMeta>,
    /// With [`ListDepth::Folder`]: prefixes, each ending with `/`.
    pub folders: Vec<String>,
    /// Pass as `start_after` for the next page; `None`: this was the last.
    pub next: Option<String>,
}

/// A part's place in an upload, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartNumber(pub u32);

impl PartNumber {
    /// S3's limit.
    pub const MAX: Self = Self(10_000);
}

/// An upload that somebody began and nobody ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingUpload {
    /// The key that it would have become.
    pub key: String,
    /// The store's name for it.
    pub id: String,
    /// When it began, by the store's clock.
    pub started: UnixMillis,
}

/// A place that keeps objects.
///
/// Every call retries what may pass, within a budget of its own, and every error names the key. Kinds: `NotFound`
/// (no such object, bucket or directory), `Denied`, `Unavailable` (retries used up), `Damaged` (the object is not
/// what it was: a pinned version is gone, it is shorter than asked), `Local`, `Invalid`.
#[async_trait]
pub trait ObjectStore: fmt::Debug + Send + Sync {
    /// For messages: which store and container, without secrets.
    fn describe(&self) -> String;

    /// Stores a small object in one atomic act; durable when this returns.
    async fn put(&self, key: &str, body: Bytes) -> Result<()>;

    /// Begins an object of many parts. Every part but the last has exactly `part_bytes` bytes.
    ///
    /// The upload must be ended by [`Upload::complete`] or [`Upload::abort`].
    async fn start_upload(&self, key: &str, part_bytes: u64) -> Result<std::sync::Arc<dyn Upload>>;

    /// Reads a range; with `pin`, of exactly that version.
    async fn read(&self, key: &str, range: ByteRange, pin: Option<&ETag>) -> Result<ReadAnswer>;

    /// What the store knows of one object.
    async fn head(&self, key: &str) -> Result<ObjectMeta>;

    /// One page of keys.
    async fn list(&self, query: &ListQuery) -> Result<ListPage>;

    /// Removes objects; one that is not there is no error.
    async fn delete(&self, keys: &[String]) -> Result<()>;

    /// Uploads under `prefix` that are not ended.
    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>>;

    /// Removes such an upload with its parts; one that is not there is no error.
    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()>;
}

/// An object on its way. Nothing is visible under its key before [`complete`](Self::complete).
#[async_trait]
pub trait Upload: fmt::Debug + Send + Sync {
    /// Stores one part; several may be under way at once, in any order.
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<()>;

    /// Makes the object visible, whole and durable, in one atomic act. All parts have been stored before.
    async fn complete(&self) -> Result<()>;

    /// Takes back everything that was sent. May be called after a failed `complete`.
    async fn abort(&self) -> Result<()>;
}
