//! etcd on disk: a staged data directory that becomes one that etcd starts from.
//!
//! The way through: [`StagedDataDir::create`] -> `write_image` in file order -> `finish` (check, rewrite of what names
//! the old cluster, WAL and `.snap`) -> [`ReadyDataDir::install`], which is one rename. What is dropped before that
//! leaves no trace.
//!
//! This room uses `std::fs` and nothing else of the world: no network, no stores, no async.

mod durability;
mod hash;
mod image;
mod install;
mod lease;
mod membership;
mod mvcc;
mod place;
mod snap;
mod stage;
mod wal;

#[cfg(test)]
mod tests;

pub use durability::Durability;
pub use hash::hash_kv;
pub use image::{AuthState, ImageFacts};
pub use install::{InstalledDataDir, ReadyDataDir};
pub use membership::{Member, Membership, MembershipRequest};
pub use mvcc::{decode_record, record_key_parts};
pub use snap::{SnapFile, read_snap};
pub use stage::{Preallocate, StageOptions, StagedDataDir};
pub use wal::{SEGMENT_BYTES as WAL_BYTES, WalContent, WalEntry, read_wal};
