//! When a key was deleted last: searched newest first, in the deltas of a lineage, then in the images that hold what no
//! delta does.

use std::path::Path;

use futures::TryStreamExt;

use super::image::move_image;
use crate::archive::{Archive, BackupEntry, DeltaPiece, Lineage, ReadLimits};
use crate::datadir::{Scratch, Scrutiny, TakesImage, user_key};
use crate::error::Result;
use crate::format::{NameKind, RecordsDecoder};
use crate::monitor::Phase;
use crate::record::{Change, RecordRef};
use crate::revision::Revision;
use crate::run::{RunContext, blocking};

/// Every revision.
const ALL: Revision = Revision(i64::MAX);

/// The newest revision of `lineage` in which `key` was deleted; `None` where nothing that it holds shows one.
///
/// Images are read into a nameless file in `scratch_dir`, one at a time.
///
/// # Errors
/// Those of reading the objects; `Local`; `Interrupted`.
pub async fn last_deletion(
    archive: &Archive,
    lineage: &Lineage,
    key: &[u8],
    (limits, scratch_dir): (ReadLimits, &Path),
    context: &RunContext,
) -> Result<Option<Revision>> {
    if let Some(found) = context.unless_stopped(in_deltas(archive, lineage, key, limits)).await? {
        return Ok(Some(found));
    }
    for full in images(lineage) {
        if let Some(found) = in_image(archive, full, key, (limits, scratch_dir), context).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

async fn in_deltas(archive: &Archive, lineage: &Lineage, key: &[u8], limits: ReadLimits) -> Result<Option<Revision>> {
    let mut pieces = archive.read_deltas(newest_first(lineage), ALL, limits);
    let mut found = None;
    while let Some(piece) = pieces.try_next().await? {
        match piece {
            // Those that follow hold no later records than those that were read.
            DeltaPiece::Begins(_) if found.is_some() => return Ok(found),
            DeltaPiece::Begins(_) => {}
            DeltaPiece::Chunk(chunk, _) => {
                let key = key.to_vec();
                let scan =
                    move || RecordsDecoder::new(&chunk).try_fold(None, |found, record| deleted(&key, &record?, found));
                found = found.max(blocking(scan).await?);
            }
        }
    }
    Ok(found)
}

/// The deltas with records, by their last revision; those that lie inside an earlier one are left out.
fn newest_first(lineage: &Lineage) -> Vec<BackupEntry> {
    let mut deltas: Vec<_> = ranges(lineage).collect();
    deltas.sort_unstable_by_key(|(first, last, entry)| (std::cmp::Reverse(*last), *first, entry.name));
    let mut lowest = ALL;
    deltas.retain(|(first, _, _)| {
        let new = *first < lowest;
        lowest = lowest.min(*first);
        new
    });
    deltas.into_iter().map(|(_, _, entry)| entry.clone()).collect()
}

fn ranges(lineage: &Lineage) -> impl Iterator<Item = (Revision, Revision, &BackupEntry)> {
    lineage.backups.iter().filter_map(|entry| match entry.name.kind {
        NameKind::Delta { first, last } if first <= last => Some((first, last, entry)),
        _ => None,
    })
}

/// The fulls whose images hold revisions that no delta does, newest first: the first one, and those behind a gap.
fn images(lineage: &Lineage) -> Vec<&BackupEntry> {
    let mut fulls: Vec<(Revision, &BackupEntry)> = lineage
        .backups
        .iter()
        .filter_map(|entry| match entry.name.kind {
            NameKind::Full { seam } => Some((seam, entry)),
            NameKind::Delta { .. } => None,
        })
        .collect();
    fulls.sort_unstable_by_key(|(seam, entry)| (*seam, entry.name));
    let mut deltas: Vec<_> = ranges(lineage).map(|(first, last, _)| (first, last)).collect();
    deltas.sort_unstable();
    let covered = |from: Revision, to: Revision| {
        let reached = deltas
            .iter()
            .fold(from, |reached, (first, last)| if *first <= reached.next() { reached.max(*last) } else { reached });
        reached >= to
    };
    let needed = (0..fulls.len()).filter(|n| *n == 0 || !covered(fulls[n - 1].0, fulls[*n].0));
    let mut needed: Vec<_> = needed.map(|n| fulls[n].1).collect();
    needed.reverse();
    needed
}

async fn in_image(
    archive: &Archive,
    full: &BackupEntry,
    key: &[u8],
    (limits, scratch_dir): (ReadLimits, &Path),
    context: &RunContext,
) -> Result<Option<Revision>> {
    let reader = context.unless_stopped(archive.open_listed(full)).await?;
    let (dir, needed_bytes) = (scratch_dir.to_owned(), reader.footer().plain_bytes);
    let scratch = blocking(move || Scratch::create(&dir, needed_bytes)).await?;
    let mut scratch = move_image(&reader, limits, scratch, Phase::Search, context).await?;
    let (key, name) = (key.to_vec(), full.name);
    let scan = move || {
        let mut found = None;
        let mut see = |record: &RecordRef<'_>| {
            found = deleted(&key, record, found)?;
            Ok(())
        };
        scratch.image()?.records(Scrutiny::Readable, &mut see)?;
        Ok(found)
    };
    blocking(scan).await.map_err(|error: crate::Error| error.about(name))
}

/// The revision of `record` where it deletes `key`, else `before`.
fn deleted(key: &[u8], record: &RecordRef<'_>, before: Option<Revision>) -> Result<Option<Revision>> {
    let hit = record.change == Change::Tombstone && user_key(record)? == key;
    Ok(if hit { Some(record.main) } else { before })
}
