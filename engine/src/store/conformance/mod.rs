//! What every store and every decorator must do, as one public function over the contract.
//!
//! The suite needs a prefix of its own and leaves nothing behind it. It never reads the clock and never waits.

mod listing;
mod objects;
mod uploads;

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::clock::random_bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::store::contract::ObjectStore;
use crate::store::listing::{ListDepth, ListPage, ListQuery};

/// How much the suite asks of a store.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Bytes of a part; real S3 wants 5 MiB at least.
    pub part_bytes: u64,
    /// Keys of the listing that needs several pages: well over 1,000, of folders in one place too.
    pub listed_keys: usize,
}

impl Scale {
    /// For stores without limits of their own: parts of 64 KiB.
    pub fn small() -> Self {
        Self { part_bytes: 64 << 10, listed_keys: 1_010 }
    }

    /// For stores with S3's limits: parts of 5 MiB.
    pub fn real() -> Self {
        Self { part_bytes: 5 << 20, listed_keys: 1_010 }
    }
}

/// What the suite found.
#[derive(Debug, Default)]
pub struct Report {
    /// Checks that passed.
    pub passed: Vec<&'static str>,
    /// Checks that did not, with the reason.
    pub failed: Vec<(&'static str, Error)>,
}

impl Report {
    /// For tests.
    ///
    /// # Panics
    /// Where a check failed, naming all that did.
    pub fn assert_clean(&self) {
        assert!(self.failed.is_empty() && !self.passed.is_empty(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks passed, {} failed", self.passed.len(), self.failed.len())?;
        self.failed.iter().try_for_each(|(name, error)| write!(f, "\n  {name}: {error:?}"))
    }
}

/// Runs every check on `store`, under `prefix` (without a slash at its end).
pub async fn run(store: &dyn ObjectStore, prefix: &str, scale: &Scale) -> Report {
    let mut report = Report::default();
    for (name, check) in checks() {
        let place = match Place::new(store, prefix, *scale) {
            Ok(place) => place,
            Err(error) => {
                report.failed.push((name, error));
                continue;
            }
        };
        let result = check(&place).await;
        match result.and(place.clear().await) {
            Ok(()) => report.passed.push(name),
            Err(error) => report.failed.push((name, error)),
        }
    }
    report
}

type Check = for<'a> fn(&'a Place<'a>) -> BoxFuture<'a, Result<()>>;

/// Names with their checks.
macro_rules! named {
    ($($room:ident::$check:ident),* $(,)?) => {
        vec![$((stringify!($check), (|place| Box::pin($room::$check(place))) as Check)),*]
    };
}

fn checks() -> Vec<(&'static str, Check)> {
    named![
        objects::what_is_put_is_read_back,
        objects::empty_objects_are_refused,
        objects::ranges_give_exactly_what_was_asked_for,
        objects::ranges_past_the_end_are_damage,
        objects::another_version_is_damage,
        objects::what_is_missing_is_not_found,
        objects::head_tells_size_and_version,
        objects::delete_is_idempotent,
        objects::bad_keys_are_refused,
        objects::odd_keys_go_through,
        uploads::uploads_of_every_size_are_read_back,
        uploads::parts_may_come_at_once_and_out_of_order,
        uploads::a_part_may_be_sent_again,
        uploads::nothing_is_visible_before_complete,
        uploads::abort_leaves_nothing,
        uploads::incomplete_uploads_are_refused,
        uploads::pending_uploads_are_listed_and_aborted,
        listing::keys_come_in_byte_order,
        listing::start_after_is_exclusive,
        listing::a_prefix_with_its_slash_is_exact,
        listing::folders_stand_for_what_is_deeper,
        listing::long_listings_come_in_pages,
        listing::long_listings_of_folders_come_in_pages,
    ]
}

/// A folder of a store for one check.
pub(in crate::store) struct Place<'a> {
    store: &'a dyn ObjectStore,
    /// Ends with a slash, never used before.
    folder: String,
    scale: Scale,
}

impl<'a> Place<'a> {
    fn new(store: &'a dyn ObjectStore, prefix: &str, scale: Scale) -> Result<Self> {
        let nonce = u64::from_le_bytes(random_bytes()?);
        Ok(Self { store, folder: format!("{prefix}/{nonce:016x}/"), scale })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    async fn put(&self, name: &str, body: impl Into<Bytes>) -> Result<String> {
        let key = self.key(name);
        self.store.put(&key, body.into()).await?;
        Ok(key)
    }

    /// All pages of a listing: keys, folders and the number of pages.
    async fn list(&self, prefix: &str, start_after: Option<String>, depth: ListDepth) -> Result<Listed> {
        let mut query = ListQuery { prefix: prefix.to_owned(), start_after, depth };
        let mut listed = Listed::default();
        loop {
            let page = self.store.list(&query).await?;
            let entries = page.objects.len() + page.folders.len();
            ensure(entries <= ListPage::MAX_ENTRIES, || format!("a page of {entries} entries"))?;
            ensure(page.next.is_none() || entries > 0, || "an empty page that is not the last".to_owned())?;
            listed.keys.extend(page.objects.into_iter().map(|meta| meta.key));
            listed.folders.extend(page.folders);
            listed.pages += 1;
            match page.next {
                Some(next) => query.start_after = Some(next),
                None => return Ok(listed),
            }
        }
    }

    async fn keys(&self) -> Result<Vec<String>> {
        Ok(self.list(&self.folder, None, ListDepth::All).await?.keys)
    }

    /// Removes what a check has left.
    async fn clear(&self) -> Result<()> {
        for upload in self.store.pending_uploads(&self.folder).await? {
            self.store.abort_pending(&upload).await?;
        }
        self.store.delete(&self.keys().await?).await.map(drop)
    }
}

#[derive(Debug, Default)]
struct Listed {
    keys: Vec<String>,
    folders: Vec<String>,
    pages: usize,
}

/// `bytes` bytes that repeat only after a prime number of them, so that swapped parts show.
fn pattern(bytes: u64) -> Bytes {
    (0..bytes).map(|at| (at % 251) as u8 ^ (at / 65_521) as u8).collect()
}

fn broken(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Internal, what)
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(broken(what())) }
}

fn ensure_equal<T: PartialEq + fmt::Debug>(found: &T, expected: &T, what: &str) -> Result<()> {
    ensure(found == expected, || format!("{what}: {found:?}, expected {expected:?}"))
}

/// Holds that a call failed, with this kind.
fn ensure_fails<T>(result: Result<T>, kind: ErrorKind, what: &str) -> Result<()> {
    match result {
        Ok(_) => Err(broken(format!("{what} succeeded, expected {kind:?}"))),
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(broken(format!("{what}: {error:?}, expected {kind:?}"))),
    }
}
