//! Objects beside a chain: those without records, for what they tell of leases and compactions, read newest first until no older
//! one can add to it; and those behind it, for leases that nothing in it tells of.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use super::facts::{Learned, granted};
use crate::archive::{Archive, BackupEntry, Lineage};
use crate::error::{ErrorKind, Result};
use crate::format::NameKind;
use crate::revision::Revision;

/// Objects that are fetched at once.
const MARKS_AHEAD: usize = 8;
/// Objects behind a moment that are asked about leases: a sidecar that goes on after a stop has told of all of them by then.
const LOOKED_AT: usize = 32;

/// Tells `learned` of `marks`, which are in order of time, as far as they matter for a full that was begun before them.
///
/// Older ones than the last whole list of leases add nothing: leases are as they say, and a compact revision never falls.
///
/// # Errors
/// As [`Archive::open_listed`].
pub async fn learn_marks(
    archive: &Archive,
    full: &BackupEntry,
    marks: &[BackupEntry],
    mut learned: Learned,
) -> Result<Learned> {
    let later = marks.iter().rev().take_while(|mark| mark.name.created > full.name.created);
    let mut opened = stream::iter(later).map(|mark| archive.open_listed(mark)).buffered(MARKS_AHEAD);
    while let Some(mark) = opened.try_next().await? {
        learned.note(mark.name(), &mark.footer().facts);
        if learned.knows_all_leases() {
            break;
        }
    }
    Ok(learned)
}

/// What the objects of `lineage` that lie behind `upto` tell of the leases `wanted`: seconds by id. A sidecar that was killed, or
/// had to wait for the source's answer, told of a lease only behind the record that names it. How long a lease was granted for
/// does not change with time, so that the nearest answer is the one.
///
/// # Errors
/// As [`Archive::open_listed`]; an object that is gone, or is not sound, is passed by: the moment does not depend on it.
pub async fn told_behind(
    archive: &Archive,
    lineage: &Lineage,
    upto: Revision,
    wanted: &[i64],
) -> Result<BTreeMap<i64, i64>> {
    let mut wanted: BTreeSet<i64> = wanted.iter().copied().collect();
    let mut told = BTreeMap::new();
    let behind = lineage.backups.iter().filter(|entry| match entry.name.kind {
        NameKind::Delta { first, last } => first > upto && last > upto,
        NameKind::Full { .. } => false,
    });
    let mut opened = stream::iter(behind.take(LOOKED_AT)).map(|entry| archive.open_listed(entry)).buffered(MARKS_AHEAD);
    while !wanted.is_empty()
        && let Some(opened) = opened.next().await
    {
        let object = match opened {
            Ok(object) => object,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Damaged | ErrorKind::Invalid) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let facts = &object.footer().facts;
        for known in facts.capture.told(object.name()) {
            told.extend(granted(&known.leases).filter(|(id, _)| wanted.remove(id)));
        }
    }
    Ok(told)
}
