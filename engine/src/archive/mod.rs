//! The store's objects seen as backups: everything under one prefix of one store, with its keys.
//!
//! A backup exists if and only if its object does: there is no manifest, the catalogue is what LIST tells, and details
//! are in each object's header and footer. Nothing here has heard of etcd's files or of a live etcd.

mod ahead;
mod catalogue;
mod chain;
mod copies;
mod delta;
mod delta_writer;
mod growing;
mod held;
mod keyring;
mod merge;
mod parts;
mod plain;
mod policy;
mod reader;
mod removal;
mod select;
mod unfinished;
mod writer;

use std::sync::Arc;

pub use ahead::{DeltaPiece, OpenedDelta, READ_AHEAD_BYTES};
pub use catalogue::{BackupEntry, Catalogue, Lineage};
pub use chain::{Chain, ChainTarget, Gap, OnGap, Window, chain_from, chain_to, cover, gaps, windows};
pub use copies::{CopyLimits, CopyWriter, PlainCopies, PlainCopy, UnfinishedCopy};
pub use delta::SealedDelta;
pub use delta_writer::DeltaWriter;
pub use held::HELD_BYTES;
pub use keyring::{Keyring, KeyringSource};
pub use reader::{BackupReader, OpenedHeader, ReadLimits};
pub use select::{Selection, select, select_lineage};
pub use unfinished::{UnfinishedBackup, UnfinishedBackups};
pub use writer::{BackupWriter, WriteLimits, WrittenBackup};

use crate::clock::UnixMillis;
use crate::format::ArchivePrefix;
use crate::store::ObjectStore;
use held::Held;

/// Everything under one prefix of one store, with the keys that open it.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    prefix: ArchivePrefix,
    keyring: Keyring,
    /// Where small objects are wanted again.
    held: Option<Arc<Held>>,
}

impl Archive {
    /// The archive under `prefix` of `store`; an empty keyring writes and reads unencrypted backups.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: ArchivePrefix, keyring: Keyring) -> Self {
        Self { store, prefix, keyring, held: None }
    }

    /// The same archive, which keeps small objects that it has fetched, 8 MiB of them at most: for whoever reads them again.
    pub fn holding(&self) -> Self {
        Self { held: self.held.clone().or_else(|| Some(Arc::default())), ..self.clone() }
    }

    /// For messages: store and prefix.
    pub fn describe(&self) -> String {
        format!("{} under {}", self.store.describe(), self.prefix.as_str())
    }

    /// The store, and a prefix in it, beside the archive, for objects that are no backups: they prove what can be done.
    pub fn probe_place(&self, nonce: u64) -> (&dyn ObjectStore, String) {
        (self.store.as_ref(), self.prefix.probe(nonce))
    }

    /// What time it is by the store's clock, where it has told.
    pub fn store_time(&self) -> Option<UnixMillis> {
        self.store.time()
    }

    /// The keys.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }
}

#[cfg(test)]
mod tests;
