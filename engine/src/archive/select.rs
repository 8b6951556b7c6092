//! Which backup a restore means: a pure decision over the catalogue.

use std::collections::BTreeMap;

use super::catalogue::{BackupEntry, Catalogue, Lineage};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BackupName, LineageId, NameKind};
use crate::revision::ClusterId;

/// What the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// The newest full of the lineage that was written last.
    Latest,
    /// The newest full of this lineage.
    Lineage(LineageId),
    /// This full.
    Backup(BackupName),
}

/// Finds the full that `selection` means.
///
/// "Latest" is refused where it would be a guess: where the lineage written last was written *between* the writes of
/// another one (a drill, a zombie member, a second cluster under the same prefix), which of them is the cluster's own
/// history cannot be told from here.
///
/// # Errors
/// `NotFound` with what there is instead; `Refused` for interleaved lineages, naming both; `Invalid` for a delta.
pub fn select<'c>(catalogue: &'c Catalogue, selection: &Selection) -> Result<&'c BackupEntry> {
    match selection {
        Selection::Latest | Selection::Lineage(_) => newest_full(select_lineage(catalogue, selection)?),
        Selection::Backup(name) => {
            if matches!(name.kind, NameKind::Delta { .. }) {
                return Err(Error::new(ErrorKind::Invalid, format!("{name} is a delta; a restore begins with a full")));
            }
            lineage(catalogue, &name.lineage)?
                .backups
                .iter()
                .find(|entry| entry.name == *name)
                .ok_or_else(|| missing(&format!("backup {name}")))
        }
    }
}

/// Finds the lineage that `selection` means; that of a backup is its own. "Latest" is the one that was written last, or is
/// refused as by [`select`].
///
/// # Errors
/// `NotFound` with what there is instead; `Refused` for interleaved lineages, naming both.
pub fn select_lineage<'c>(catalogue: &'c Catalogue, selection: &Selection) -> Result<&'c Lineage> {
    match selection {
        Selection::Latest => latest(catalogue),
        Selection::Lineage(id) => lineage(catalogue, id),
        Selection::Backup(name) => lineage(catalogue, &name.lineage),
    }
}

fn latest(catalogue: &Catalogue) -> Result<&Lineage> {
    let Some(chosen) = catalogue.lineages.values().max_by_key(|lineage| (lineage.last_written(), lineage.id)) else {
        return Err(Error::new(ErrorKind::NotFound, "the archive holds no backup")
            .hint("check --store-container and --store-prefix; `etcdbr list` shows what is there"));
    };
    for other in catalogue.lineages.values().filter(|other| other.id != chosen.id) {
        if interleaved(&times([chosen]), &times([other])) {
            return Err(ambiguous(&format!("lineages {} and {}", chosen.id, other.id)));
        }
    }
    let mut clusters: BTreeMap<ClusterId, Vec<&Lineage>> = BTreeMap::new();
    for lineage in catalogue.lineages.values() {
        clusters.entry(lineage.id.cluster).or_default().push(lineage);
    }
    let own = times(clusters[&chosen.id.cluster].iter().copied());
    for (cluster, lineages) in clusters.iter().filter(|(cluster, _)| **cluster != chosen.id.cluster) {
        if interleaved(&own, &times(lineages.iter().copied())) {
            let newest =
                lineages.iter().max_by_key(|lineage| lineage.last_written()).map_or(chosen.id, |lineage| lineage.id);
            let pair =
                format!("clusters {} and {cluster} (newest lineages {} and {newest})", chosen.id.cluster, chosen.id);
            return Err(ambiguous(&pair));
        }
    }
    Ok(chosen)
}

/// When objects were begun, in order.
fn times<'c>(lineages: impl IntoIterator<Item = &'c Lineage>) -> Vec<UnixMillis> {
    let mut times: Vec<_> =
        lineages.into_iter().flat_map(|lineage| &lineage.backups).map(|entry| entry.name.created).collect();
    times.sort_unstable();
    times
}

/// Each of the two has an object that is later than the second one of the other. A single object never interleaves.
fn interleaved(one: &[UnixMillis], other: &[UnixMillis]) -> bool {
    let later = |a: &[UnixMillis], b: &[UnixMillis]| b.get(1).is_some_and(|second| a.last() > Some(second));
    later(one, other) && later(other, one)
}

fn ambiguous(pair: &str) -> Error {
    Error::new(
        ErrorKind::Refused,
        format!("{pair} were written in turns: which is the history to restore cannot be told"),
    )
    .hint("`etcdbr list` shows them; say which with --lineage or --backup")
}

fn lineage<'c>(catalogue: &'c Catalogue, id: &LineageId) -> Result<&'c Lineage> {
    catalogue.lineages.get(id).ok_or_else(|| missing(&format!("lineage {id}")))
}

fn newest_full(lineage: &Lineage) -> Result<&BackupEntry> {
    lineage.latest_full().ok_or_else(|| missing(&format!("a full in lineage {}", lineage.id)))
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the archive does not hold {what}"))
        .hint("`etcdbr list` shows what is there")
}
