//! What is listed and what comes back: plain values.

use crate::clock::UnixMillis;
use crate::store::object::ObjectMeta;

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListQuery {
    /// Keys that begin with this text; callers end it with `/` (empty: all keys).
    pub prefix: String,
    /// Only keys and folders that sort, as text in byte order, after this one (`next` of the page before, to go on).
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

/// One page of a listing, in the byte order of keys. At most [`MAX_ENTRIES`](Self::MAX_ENTRIES) entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// Objects.
    pub objects: Vec<ObjectMeta>,
    /// With [`ListDepth::Folder`]: prefixes, each ending with `/`.
    pub folders: Vec<String>,
    /// Pass as `start_after` for the next page; `None`: this was the last.
    pub next: Option<String>,
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

impl ListPage {
    /// Entries of one page, objects and folders together, at most.
    pub const MAX_ENTRIES: usize = 1_000;
}
