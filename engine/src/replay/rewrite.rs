//! A database is written anew from an image in a scratch file and the records of its chain, pruned on both sides.
//!
//! The chain is read twice (an archive that holds small objects fetches those once): first to see which records a compaction leaves, then to write them. The source's HashKV is
//! computed meanwhile, over all records, before any is left out.

use super::append::Goal;
use super::facts::Learned;
use super::proof::{HashKvProof, compare, point};
use super::records::{ChainRecords, Replayed, Stretch, replay};
use crate::datadir::{
    Composition, Extent, HashReading, HashSurvey, Image, LeaseChanges, Overlap, PruneSurvey, Pruning, Remainder,
    Scratch, Scrutiny, StagedDataDir, TakesImage,
};
use crate::error::Result;
use crate::format::HashKvAnswer;
use crate::record::RecordRef;
use crate::revision::Revision;
use crate::run::RunContext;

/// What a rewrite has come to.
#[derive(Debug)]
pub struct Rewritten {
    /// The stage, with the database.
    pub stage: StagedDataDir,
    /// What the replay has come to.
    pub replayed: Replayed,
    /// What became of the image's leases.
    pub leases: LeaseChanges,
    /// Whether the records, before any was left out, are those that the source had.
    pub hash_kv: HashKvProof,
}

/// How a database is rewritten.
#[derive(Debug, Clone, Copy)]
pub struct Rewriting {
    /// Where it leads.
    pub goal: Goal,
    /// The compact revision at which it is pruned; the image's own, where that is greater.
    pub compact: Option<Revision>,
    /// The source's answer that the records are held against.
    pub answer: Option<HashKvAnswer>,
    /// How closely the pages of the image are looked at.
    pub scrutiny: Scrutiny,
    /// For leases that nobody knows, in seconds.
    pub missing_ttl_s: i64,
}

/// What the first reading leaves for the second.
struct Surveyed {
    image: Image,
    extent: Extent,
    /// It keeps the image's file.
    _scratch: Scratch,
    pruning: Pruning,
    compacted: Option<Revision>,
    hash: Option<HashReading>,
    leases: LeaseChanges,
}

/// Writes into the empty database of `stage` what the image in `scratch`, which is that of the full of `stretch`, and the
/// deltas come to.
///
/// # Errors
/// As [`append`](super::append). The stage is gone then.
pub async fn rewrite(
    mut stage: StagedDataDir,
    scratch: Scratch,
    stretch: Stretch<'_>,
    rewriting: Rewriting,
    learned: Learned,
    context: &RunContext,
) -> Result<Rewritten> {
    let first = move |records: &mut ChainRecords| survey(scratch, records, rewriting);
    let (surveyed, _) = replay(stretch, learned.clone(), first, context).await?;
    let second = move |records: &mut ChainRecords| {
        let written = write(&mut stage, surveyed, records, rewriting.goal)?;
        Ok((stage, written))
    };
    let ((stage, (hash, extent, leases)), replayed) = replay(stretch, learned, second, context).await?;
    let hash_kv = match rewriting.answer.zip(hash) {
        Some((answer, hash)) => compare(answer, hash, extent.compact_floor)?,
        None => HashKvProof::NoAnswer("no HashKV was stored with this backup".to_owned()),
    };
    Ok(Rewritten { stage, replayed, leases, hash_kv })
}

fn survey(mut scratch: Scratch, records: &mut ChainRecords, rewriting: Rewriting) -> Result<Surveyed> {
    let image = scratch.image()?;
    let extent = image.extent()?;
    let last = rewriting.goal.reached(extent.revision);
    let compacted = rewriting.compact.max(extent.compact_floor);
    let mut prune = PruneSurvey::new(extent.compacted.unwrap_or_default(), compacted.unwrap_or_default());
    let mut hash = rewriting.answer.as_ref().map(|answer| HashSurvey::of(point(answer)));
    let mut see = |record: &RecordRef<'_>| {
        prune.see(record)?;
        hash.as_mut().map_or(Ok(()), |hash| hash.see(record))
    };
    image.records(rewriting.scrutiny, &mut |record| if record.main <= last { see(record) } else { Ok(()) })?;
    let mut overlap = Overlap::with(&image)?;
    records.each_batch(|batch| {
        let object = batch.object();
        batch.try_for_each(|record| {
            let record = record?;
            if overlap.covers(record.main) {
                overlap.compare(&record).map_err(|error| object.blame(error))
            } else {
                see(&record)
            }
        })
    })?;
    overlap.finish()?;
    let leases = records.learned().leases(rewriting.missing_ttl_s);
    let (pruning, hash) = (prune.finish(), hash.map(HashSurvey::finish));
    Ok(Surveyed { image, extent, _scratch: scratch, pruning, compacted, hash, leases })
}

fn write(
    stage: &mut StagedDataDir,
    surveyed: Surveyed,
    records: &mut ChainRecords,
    goal: Goal,
) -> Result<(Option<u32>, Extent, LeaseChanges)> {
    let Surveyed { image, extent, mut pruning, compacted, mut hash, leases, .. } = surveyed;
    let last = goal.reached(extent.revision);
    let hash = stage.compose(&image, |composition: &mut Composition<'_>| {
        let mut take = |record: &RecordRef<'_>| {
            hash.as_mut().map_or(Ok(()), |hash| hash.push(record))?;
            if pruning.keeps(record)? { composition.push(record) } else { Ok(()) }
        };
        image.records(Scrutiny::Readable, &mut |record| if record.main <= last { take(record) } else { Ok(()) })?;
        records.each_batch(|batch| {
            batch.try_for_each(|record| {
                let record = record?;
                if record.main <= extent.revision { Ok(()) } else { take(&record) }
            })
        })?;
        Ok((hash.map(HashReading::finish), Remainder { leases: leases.clone(), compacted }))
    })?;
    Ok((hash, extent, leases))
}
