//! A bbolt file: pages, buckets, trees, read from bytes and written as pages at the end of a file.
//!
//! [`BoltFile`] reads whatever bytes it is given and answers with an error, never a panic, where they are not a bbolt
//! file. [`check`] walks the whole of it once and holds every invariant that etcd's own writer keeps. [`Extension`]
//! changes buckets as bbolt does, by copy on write: new pages go behind the old ones, which are never touched, and two
//! new meta pages make them the truth. [`BulkWriter`] writes a whole file from sorted entries, each page once.
//!
//! This room knows nothing of etcd, and does no I/O but through the `Write` that it is given.

mod bucket;
mod bulk;
mod check;
mod cursor;
mod edge;
mod extend;
mod file;
mod layout;
mod page;
mod pages;
mod tree;

#[cfg(test)]
mod tests;

pub use bucket::Bucket;
pub use bulk::BulkWriter;
pub use check::{BucketFacts, TreeFacts, Visitor, check, check_visiting};
pub use cursor::Cursor;
pub use extend::Extension;
pub use file::BoltFile;
pub use layout::{Meta, PageId, begins_a_file};
pub use page::Entry;
pub use pages::Written;
