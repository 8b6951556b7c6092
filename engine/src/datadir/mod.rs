//! etcd on disk: a staged data directory that becomes one that etcd starts from.
//!
//! The way through: [`StagedDataDir::create`] -> `write_image` in file order -> [`Image::examine`] -> `finish` (rewrite of
//! what names the old cluster, WAL and `.snap`) -> [`ReadyDataDir::install`], which is one rename. What is dropped before
//! that leaves no trace. [`Scratch`] takes an image as well, to be read and forgotten,
//! and [`PlainFile`], to be given to etcd's own tools.
//!
//! This room uses `std::fs` and nothing else of the world: no network, no stores, no async.

mod compose;
mod disk;
mod durability;
mod entries;
mod grow;
mod hash;
mod image;
mod install;
mod keys;
mod lease;
mod membership;
mod mvcc;
mod overlap;
mod pages;
mod place;
mod plain;
mod prune;
mod rewrite;
mod scratch;
mod snap;
mod space;
mod stage;
mod tally;
mod uncached;
mod wal;

#[cfg(test)]
mod tests;

pub use compose::{Composition, Remainder};
pub use durability::Durability;
pub use grow::Growth;
pub use hash::{HashPoint, HashReading, HashSurvey, hash_kv};
pub use image::{Attention, AuthState, Examined, Extent, Image, ImageFacts, PageCounts, Scrutiny, TakesImage};
pub use install::{InstalledDataDir, ReadyDataDir};
pub use lease::{LeaseChanges, LeaseScope, MISSING_LEASE_TTL_S};
pub use membership::{Member, Membership, MembershipRequest};
pub use mvcc::{decode_record, record_key_parts, user_key};
pub use overlap::Overlap;
pub use plain::PlainFile;
pub use prune::{PruneSurvey, Pruning};
pub use rewrite::{DatabaseFacts, Ending, RevisionBump};
pub use scratch::Scratch;
pub use snap::{SnapFile, read_snap};
pub use stage::{Preallocate, StageOptions, StagedDataDir};
pub use tally::Tally;
pub use uncached::DirectIo;
pub use wal::{SEGMENT_BYTES as WAL_BYTES, WalContent, WalEntry, read_wal};
