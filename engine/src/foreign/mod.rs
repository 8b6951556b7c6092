//! Snapshots that others made: plain `snapshot.db` files, from a disk or from behind a URL.
//!
//! A plain snapshot is etcd's image followed by its SHA-256, as `etcdctl snapshot save` and `etcdbr export` write it; a
//! file that was copied from a data directory has no SHA-256. What is read here is only ever read.

mod file;
mod plain;

pub use plain::{HashCheck, PlainImage, PlainOptions, PlainSnapshot, Trailer};
