//! A store that counts its calls and fails when it is told to. For tests of what stands on stores.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::store::contract::{ObjectStore, Upload};
use crate::store::listing::{ListPage, ListQuery, PendingUpload};
use crate::store::object::{ByteRange, ETag, ObjectLock, ObjectMeta, PartNumber, ReadAnswer, Removal};
use crate::store::presign::{Presign, PresignedUrl};

/// The kinds of calls, one for each method of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `put`
    Put,
    /// `start_upload`
    StartUpload,
    /// `Upload::put_part`
    PutPart,
    /// `Upload::complete`
    Complete,
    /// `Upload::abort`
    Abort,
    /// `read`
    Read,
    /// `head`
    Head,
    /// `list`
    List,
    /// `delete`, once for each call and not for each key
    Delete,
    /// `pending_uploads`
    PendingUploads,
    /// `abort_pending`
    AbortPending,
    /// `object_lock`
    ObjectLock,
    /// `Presign::presign_read`
    Presign,
}

/// When a planned fault strikes, seen from the store behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// The call never arrives.
    Before,
    /// The call is done, and its answer lost.
    After,
}

/// A decorator that counts calls and fails those that [`fail_nth`](Self::fail_nth) or
/// [`fail_from`](Self::fail_from) named.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    counts: BTreeMap<Call, u64>,
    total: u64,
    under_way: BTreeMap<Call, u64>,
    most_at_once: BTreeMap<Call, u64>,
    faults: Vec<Fault>,
}

/// A call that is under way.
struct UnderWay<'a>(&'a FaultyStore, Call);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way.entry(self.1).and_modify(|calls| *calls -= 1);
    }
}

/// Strikes calls `first..=last`, counted over all kinds or over one.
#[derive(Debug)]
struct Fault {
    call: Option<Call>,
    first: u64,
    last: u64,
    strike: Strike,
    kind: ErrorKind,
}

impl FaultyStore {
    /// A decorator of `inner` without faults.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, plan: Arc::default() }
    }

    /// Fails the `nth` call from now (1: the next), of any kind or of one, with `kind`; later ones go through.
    pub fn fail_nth(&self, nth: u64, call: Option<Call>, strike: Strike, kind: ErrorKind) {
        self.plan(nth, Some(nth), call, strike, kind);
    }

    /// Fails every call from the `nth` from now on: the store, or this process, is gone.
    pub fn fail_from(&self, nth: u64, call: Option<Call>, strike: Strike, kind: ErrorKind) {
        self.plan(nth, None, call, strike, kind);
    }

    /// Forgets all faults; counts stay.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Calls of one kind so far, failed ones included.
    pub fn count(&self, call: Call) -> u64 {
        self.lock().counts.get(&call).copied().unwrap_or_default()
    }

    /// The most calls of one kind that were ever under way at once.
    pub fn most_at_once(&self, call: Call) -> u64 {
        self.lock().most_at_once.get(&call).copied().unwrap_or_default()
    }

    /// Calls of every kind so far.
    pub fn counts(&self) -> BTreeMap<Call, u64> {
        self.lock().counts.clone()
    }

    /// All calls so far.
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    fn plan(&self, first: u64, last: Option<u64>, call: Option<Call>, strike: Strike, kind: ErrorKind) {
        let mut plan = self.lock();
        let so_far = match call {
            None => plan.total,
            Some(call) => plan.counts.get(&call).copied().unwrap_or_default(),
        };
        let last = last.map_or(u64::MAX, |last| so_far + last);
        plan.faults.push(Fault { call, first: so_far + first, last, strike, kind });
    }

    /// Counts a call and runs it, unless a fault strikes before or after.
    async fn pass<T>(&self, call: Call, subject: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let struck = self.lock().note(call);
        let _under_way = UnderWay(self, call);
        let Some((strike, kind)) = struck else { return work.await };
        if strike == Strike::After {
            work.await?;
        }
        Err(Error::new(kind, format!("{subject}: planned fault {strike:?} {call:?}")))
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plan {
    fn note(&mut self, call: Call) -> Option<(Strike, ErrorKind)> {
        self.total += 1;
        let count = self.counts.entry(call).or_default();
        *count += 1;
        let (count, total) = (*count, self.total);
        let under_way = self.under_way.entry(call).or_default();
        *under_way += 1;
        let most = self.most_at_once.entry(call).or_default();
        *most = (*most).max(*under_way);
        let fault = self.faults.iter().find(|fault| match fault.call {
            None => (fault.first..=fault.last).contains(&total),
            Some(struck) => struck == call && (fault.first..=fault.last).contains(&count),
        });
        fault.map(|fault| (fault.strike, fault.kind))
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn time(&self) -> Option<UnixMillis> {
        self.inner.time()
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.pass(Call::Put, key, self.inner.put(key, body)).await
    }

    async fn start_upload(&self, key: &str, part_bytes: u64) -> Result<Arc<dyn Upload>> {
        let inner = self.pass(Call::StartUpload, key, self.inner.start_upload(key, part_bytes)).await?;
        Ok(Arc::new(FaultyUpload { store: self.clone(), key: key.to_owned(), inner }))
    }

    async fn read(&self, key: &str, range: ByteRange, pin: Option<&ETag>) -> Result<ReadAnswer> {
        self.pass(Call::Read, key, self.inner.read(key, range, pin)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.pass(Call::Head, key, self.inner.head(key)).await
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage> {
        self.pass(Call::List, &query.prefix, self.inner.list(query)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<Removal> {
        self.pass(Call::Delete, &keys.join(" "), self.inner.delete(keys)).await
    }

    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        self.pass(Call::PendingUploads, prefix, self.inner.pending_uploads(prefix)).await
    }

    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()> {
        self.pass(Call::AbortPending, &upload.key, self.inner.abort_pending(upload)).await
    }

    async fn object_lock(&self) -> Result<ObjectLock> {
        self.pass(Call::ObjectLock, "", self.inner.object_lock()).await
    }

    fn presigner(&self) -> Option<&dyn Presign> {
        self.inner.presigner().map(|_| self as &dyn Presign)
    }
}

#[async_trait]
impl Presign for FaultyStore {
    async fn presign_read(&self, key: &str, now: UnixMillis, lifetime: Duration) -> Result<PresignedUrl> {
        let presigner = self
            .inner
            .presigner()
            .ok_or_else(|| Error::new(ErrorKind::Internal, format!("{key}: a store that cannot sign was asked to")))?;
        self.pass(Call::Presign, key, presigner.presign_read(key, now, lifetime)).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    store: FaultyStore,
    key: String,
    inner: Arc<dyn Upload>,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<()> {
        self.store.pass(Call::PutPart, &self.key, self.inner.put_part(number, body)).await
    }

    async fn complete(&self) -> Result<()> {
        self.store.pass(Call::Complete, &self.key, self.inner.complete()).await
    }

    async fn abort(&self) -> Result<()> {
        self.store.pass(Call::Abort, &self.key, self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LocalStore;

    fn faulty() -> (tempfile::TempDir, FaultyStore) {
        let dir = tempfile::tempdir().unwrap();
        let inner = LocalStore::new(dir.path()).unwrap();
        (dir, FaultyStore::new(Arc::new(inner)))
    }

    #[tokio::test]
    async fn the_nth_call_fails_and_the_next_does_not() {
        let (_dir, store) = faulty();
        store.head("a").await.unwrap_err();
        store.fail_nth(2, Some(Call::Put), Strike::Before, ErrorKind::Unavailable);
        store.put("a", Bytes::from_static(b"1")).await.unwrap();
        assert_eq!(store.put("b", Bytes::from_static(b"1")).await.unwrap_err().kind(), ErrorKind::Unavailable);
        store.put("b", Bytes::from_static(b"1")).await.unwrap();
        assert_eq!((store.count(Call::Put), store.count(Call::Head), store.total()), (3, 1, 4));
    }

    #[tokio::test]
    async fn a_lost_answer_is_a_call_that_was_done() {
        let (_dir, store) = faulty();
        store.fail_nth(1, None, Strike::After, ErrorKind::Unavailable);
        store.put("a", Bytes::from_static(b"1")).await.unwrap_err();
        assert_eq!(store.head("a").await.unwrap().bytes, 1);
    }

    #[tokio::test]
    async fn a_store_that_is_gone_stays_gone_until_healed() {
        let (_dir, store) = faulty();
        store.fail_from(1, None, Strike::Before, ErrorKind::Unavailable);
        for _ in 0..3 {
            assert_eq!(store.list(&ListQuery::default()).await.unwrap_err().kind(), ErrorKind::Unavailable);
        }
        store.heal();
        store.list(&ListQuery::default()).await.unwrap();
    }
}
