//! The last states of a restored data directory: ready, and in its place.

use std::path::{Path, PathBuf};

use super::durability::Durability;
use super::place::Place;
use super::rewrite::DatabaseFacts;
use crate::error::Result;

/// A data directory that etcd would start from, were it in its place. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct ReadyDataDir {
    place: Place,
    facts: DatabaseFacts,
    durability: Durability,
}

/// A data directory in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledDataDir {
    /// Where it is.
    pub path: PathBuf,
}

impl ReadyDataDir {
    pub(super) fn new(place: Place, facts: DatabaseFacts, durability: Durability) -> Self {
        Self { place, facts, durability }
    }

    /// What was made of the image.
    pub fn facts(&self) -> &DatabaseFacts {
        &self.facts
    }

    /// The data directory that this will be.
    pub fn data_dir(&self) -> &Path {
        self.place.data_dir()
    }

    /// Puts it in its place with one rename that replaces nothing.
    ///
    /// # Errors
    /// `Refused` where something has come into its place meanwhile; `Local` where the file system refuses, or cannot
    /// sync: then it is in its place, but may not survive a power cut.
    pub fn install(self) -> Result<InstalledDataDir> {
        Ok(InstalledDataDir { path: self.place.install(self.durability)? })
    }
}
