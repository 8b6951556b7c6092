//! Which revision a source stood at, at some time: by the time marks in footers.

use crate::archive::{Archive, BackupEntry, Lineage};
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::format::{NameKind, TimeMark};
use crate::revision::Revision;

/// The last time mark of `lineage` at or before `time`; `None` where it begins later.
///
/// Objects tell of times up to that in their name, so that few footers are read: the newest one that is not later, and
/// from the revision that it marks on the deltas that follow, for a wide one may have been written long after its records.
///
/// # Errors
/// As [`Archive::open_listed`].
pub async fn moment(archive: &Archive, lineage: &Lineage, time: UnixMillis) -> Result<Option<TimeMark>> {
    let not_later = lineage.backups.partition_point(|entry| entry.name.created <= time);
    let mut best = None;
    for entry in lineage.backups[..not_later].iter().rev() {
        best = last_mark(archive, entry, time).await?;
        if best.is_some() {
            break;
        }
    }
    if best.is_none() {
        // What the names say is not later has no mark; the first objects behind it may begin with one.
        for entry in lineage.backups[not_later..].iter().take(1) {
            best = last_mark(archive, entry, time).await?;
        }
    }
    let Some(mut best) = best else { return Ok(None) };
    while let Some(next) = narrowest(lineage, best.revision.next()) {
        match last_mark(archive, next, time).await? {
            Some(mark) if mark.revision > best.revision => best = mark,
            _ => break,
        }
    }
    // Objects that only mark time may have been rolled up: then the name has the time of the last of their marks.
    let marks_it = |entry: &&BackupEntry| match entry.name.kind {
        NameKind::Delta { first, last } => first > last && last == best.revision,
        NameKind::Full { .. } => false,
    };
    let later = lineage.backups[not_later..].iter().find(marks_it);
    let mark = match later {
        Some(entry) => last_mark(archive, entry, time).await?,
        None => None,
    };
    Ok(Some(mark.map_or(best, |mark| mark.max(best))))
}

/// Of the deltas with records of `revision` the one that ends first.
fn narrowest(lineage: &Lineage, revision: Revision) -> Option<&BackupEntry> {
    let range = |entry: &BackupEntry| match entry.name.kind {
        NameKind::Delta { first, last } if first <= revision && revision <= last => Some(last),
        _ => None,
    };
    lineage
        .backups
        .iter()
        .filter_map(|entry| Some((range(entry)?, entry)))
        .min_by_key(|found| found.0)
        .map(|found| found.1)
}

async fn last_mark(archive: &Archive, entry: &BackupEntry, time: UnixMillis) -> Result<Option<TimeMark>> {
    let reader = archive.open_listed(entry).await?;
    let facts = &reader.footer().facts;
    let mut marks = facts.capture.time_marks.clone();
    if let (NameKind::Full { seam }, true) = (entry.name.kind, marks.is_empty()) {
        // A full from before there were marks: when it was there, the source had been at its seam.
        marks.push(TimeMark { time: facts.finished, revision: seam });
    }
    Ok(marks.into_iter().rfind(|mark| mark.time <= time))
}
