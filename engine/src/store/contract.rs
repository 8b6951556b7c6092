//! The contract that every store keeps; `conformance` holds each of them to it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::clock::UnixMillis;
use crate::error::Result;
use crate::store::listing::{ListPage, ListQuery, PendingUpload};
use crate::store::object::{ByteRange, ETag, ObjectLock, ObjectMeta, PartNumber, ReadAnswer, Removal};
use crate::store::presign::Presign;

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
    async fn start_upload(&self, key: &str, part_bytes: u64) -> Result<Arc<dyn Upload>>;

    /// Reads a range; with `pin`, of exactly that version.
    async fn read(&self, key: &str, range: ByteRange, pin: Option<&ETag>) -> Result<ReadAnswer>;

    /// What the store knows of one object.
    async fn head(&self, key: &str) -> Result<ObjectMeta>;

    /// One page of keys.
    async fn list(&self, query: &ListQuery) -> Result<ListPage>;

    /// Removes objects; one that is not there is no error. `Hidden` where a version of any of them stays.
    async fn delete(&self, keys: &[String]) -> Result<Removal>;

    /// Uploads under `prefix` that are not ended.
    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>>;

    /// Removes such an upload with its parts; one that is not there is no error.
    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()>;

    /// Whether objects are locked.
    async fn object_lock(&self) -> Result<ObjectLock> {
        Ok(ObjectLock::Off)
    }

    /// What time it is by the store's clock, where it has told since it was opened.
    fn time(&self) -> Option<UnixMillis> {
        None
    }

    /// The ability to sign URLs, where the store has it.
    fn presigner(&self) -> Option<&dyn Presign> {
        None
    }
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
