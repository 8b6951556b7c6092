//! etcd on disk: a staged data directory that becomes one that etcd starts from.
//!
//! The way through: [`StagedDataDir::create`] -> `write_image` in file order -> [`Image::examine`] -> `finish` (rewrite of
//! what names the old cluster, WAL and `.snap`) -> [`ReadyDataDir::install`], which is one rename. What is dropped before
//! that leaves no trace. [`Scratch`] takes an image as well, to be read and forgotten.
//!
//! This room uses `std::fs` and nothing else of the world: no network, no stores, no async.

mod disk;
mod durability;
mod hash;
mod image;
mod install;
mod lease;
mod membership;
mod mvcc;
mod place;
mod rewrite;
mod scratch;
mod snap;
mod space;
mod stage;
mod wal;

#[cfg(test)]
mod tests;

pub use durability::Durability;
pub use hash::{HashPoint, hash_kv};
pub use image::{Attention, AuthState, Examined, Image, ImageFacts, PageCounts, Scrutiny, TakesImage};
pub use install::{InstalledDataDir, ReadyDataDir};
pub use membership::{Member, Membership, MembershipRequest};
pub use mvcc::{decode_record, record_key_parts};
pub use rewrite::{DatabaseFacts, RevisionBump};
pub use scratch::Scratch;
pub use snap::{SnapFile, read_snap};
pub use stage::{Preallocate, StageOptions, StagedDataDir};
pub use wal::{SEGMENT_BYTES as WAL_BYTES, WalContent, WalEntry, read_wal};
