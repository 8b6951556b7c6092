//! What is in an archive, told by names and LIST alone.

use std::collections::BTreeMap;

use super::Archive;
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BackupName, LineageId, NameKind};
use crate::store::{ListDepth, ListQuery};

/// A listing of more pages than this is not an archive but a mistake in the prefix: ten million keys.
const MAX_LIST_PAGES: usize = 10_000;

/// One backup as LIST shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupEntry {
    /// Its name.
    pub name: BackupName,
    /// Bytes as stored.
    pub stored_bytes: u64,
    /// When the store took it, by the store's clock; copies change it.
    pub modified: UnixMillis,
}

/// The backups of one lineage, in the order in which they were begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// Its id.
    pub id: LineageId,
    /// Fulls and deltas, by the times in their names.
    pub backups: Vec<BackupEntry>,
}

impl Lineage {
    /// When it was last written to, by the names.
    pub fn last_written(&self) -> UnixMillis {
        self.backups.last().map_or(self.id.birth, |entry| entry.name.created)
    }

    /// The same without `backups`.
    pub fn without(&self, backups: &[BackupName]) -> Self {
        let kept = self.backups.iter().filter(|entry| !backups.contains(&entry.name)).cloned().collect();
        Self { id: self.id, backups: kept }
    }

    /// Its newest full.
    pub fn latest_full(&self) -> Option<&BackupEntry> {
        self.backups.iter().rev().find(|entry| matches!(entry.name.kind, NameKind::Full { .. }))
    }
}

/// All lineages of an archive, by id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalogue {
    /// At least one backup each.
    pub lineages: BTreeMap<LineageId, Lineage>,
    /// Keys under the prefix that are no names of ours.
    pub foreign_keys: usize,
}

impl Catalogue {
    /// Arranges listed backups.
    pub fn of(entries: impl IntoIterator<Item = BackupEntry>) -> Self {
        let mut catalogue = Self::default();
        for entry in entries {
            catalogue.add(entry);
        }
        for lineage in catalogue.lineages.values_mut() {
            lineage.backups.sort_by_key(|entry| (entry.name.created, entry.name));
        }
        catalogue
    }

    fn add(&mut self, entry: BackupEntry) {
        let id = entry.name.lineage;
        self.lineages.entry(id).or_insert_with(|| Lineage { id, backups: Vec::new() }).backups.push(entry);
    }

    /// What had been begun at `time`, by the names.
    pub fn as_of(&self, time: UnixMillis) -> Self {
        let begun = |entry: &&BackupEntry| entry.name.created <= time;
        let all = self.lineages.values().flat_map(|lineage| &lineage.backups);
        Self { foreign_keys: self.foreign_keys, ..Self::of(all.filter(begun).cloned()) }
    }

    /// Every backup, newest first.
    pub fn newest_first(&self) -> Vec<&BackupEntry> {
        let mut all: Vec<_> = self.lineages.values().flat_map(|lineage| &lineage.backups).collect();
        all.sort_by_key(|entry| std::cmp::Reverse((entry.name.created, entry.name)));
        all
    }
}

impl Archive {
    /// Lists the archive: one LIST for each 1,000 objects. An empty archive gives an empty catalogue.
    ///
    /// # Errors
    /// Those of the store; `Invalid` for a prefix that holds more than ten million keys.
    pub async fn catalogue(&self) -> Result<Catalogue> {
        let mut query = ListQuery { prefix: self.prefix.as_str().to_owned(), start_after: None, depth: ListDepth::All };
        let (mut entries, mut foreign_keys) = (Vec::new(), 0);
        for _ in 0..MAX_LIST_PAGES {
            let page = self.store.list(&query).await?;
            for object in page.objects {
                match self.prefix.parse_key(&object.key) {
                    Some(name) => {
                        entries.push(BackupEntry { name, stored_bytes: object.bytes, modified: object.modified })
                    }
                    None => foreign_keys += 1,
                }
            }
            match page.next {
                Some(next) => query.start_after = Some(next),
                None => return Ok(Catalogue { foreign_keys, ..Catalogue::of(entries) }),
            }
        }
        Err(Error::new(ErrorKind::Invalid, format!("{} holds more keys than an archive can", self.describe()))
            .hint("check --store-prefix"))
    }
}
