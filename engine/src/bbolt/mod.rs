//! A bbolt file: pages, buckets, trees, read from bytes and written as pages at the end of a file.
//!
//! [`BoltFile`] reads whatever bytes it is given and answers with an error, never a panic, where they are not a bbolt
//! file. [`check`] walks the whole of it once and holds every invariant that etcd's own writer keeps. [`Extension`]
//! changes buckets as bbolt does, by copy on write: new pages go behind the old ones, which are never touched, and two
//! new meta pages make them the truth.
//!
//! This room knows nothing of etcd, and does no I/O but through the `Write` that it is given.

mod bucket;
mod check;
mod cursor;
mod extend;
mod file;
mod layout;
mod page;
mod tree;

#[cfg(test)]
mod tests;

pub use bucket::Bucket;
pub use check::{BucketFacts, TreeFacts, Visitor, check, check_visiting};
pub use cursor::Cursor;
pub use extend::{Extended, Extension, empty_file};
pub use file::BoltFile;
pub use layout::{Meta, PageId};
pub use page::Entry;
