//! A chain is read to its end and held against itself, its full and what the source answered; nothing is made of it.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;

use super::facts::Learned;
use super::line::Line;
use super::proof::{HashKvProof, compare, point};
use super::records::{ChainRecords, Stretch, replay};
use crate::archive::{Archive, BackupEntry, DeltaPiece, ReadLimits};
use crate::datadir::{HashReading, HashSurvey, Image, Overlap, Scrutiny};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BackupName, HashKvAnswer, HistoryDigest, HistoryFold, RecordsDecoder};
use crate::record::RecordRef;
use crate::revision::Revision;
use crate::run::{RunContext, blocking};

/// Every revision.
const ALL: Revision = Revision(i64::MAX);

/// The history digests of some revisions, as a chain was found to have them.
pub type Digests = BTreeMap<Revision, HistoryDigest>;

/// What a chain is held against besides itself and its full.
#[derive(Debug, Clone, Default)]
pub struct ChainCheck {
    /// Answers of the source that objects behind the chain's full have.
    pub answers: Vec<HashKvAnswer>,
    /// Revisions whose history digests are wanted.
    pub digests_of: BTreeSet<Revision>,
}

/// A chain that is sound.
#[derive(Debug)]
pub struct CheckedChain {
    /// Records of its deltas.
    pub records: u64,
    /// What came of each answer that it reaches.
    pub hash_kv: Vec<HashKvProof>,
    /// The digests that were wanted, of those revisions that it reaches.
    pub digests: Digests,
}

/// Reads the deltas of `stretch`, whose full's image is `image`: every frame opens, every record parses, revisions follow
/// each other without a gap, the history digests meet, what image and deltas both have is the same, and at every answer
/// that the chain reaches the records of both have the HashKV that the source answered.
///
/// The deltas are read twice where there is an answer to compare, once where there is none.
///
/// # Errors
/// As [`replay`]; `Refused` where image and deltas are of different histories; `Damaged` where a HashKV is another.
pub async fn check_chain(
    stretch: Stretch<'_>,
    image: Image,
    check: ChainCheck,
    context: &RunContext,
) -> Result<CheckedChain> {
    let seam = (stretch.full.footer().facts.revisions.1, stretch.full.footer().facts.history.1);
    let ChainCheck { mut answers, digests_of } = check;
    answers.retain(|answer| answer.revision <= stretch.upto);
    let surveys = answers.iter().map(|answer| HashSurvey::of(point(answer))).collect();
    let first = move |records: &mut ChainRecords| {
        let mut watched =
            Watched { fold: HistoryFold::after(seam.0, seam.1), wanted: digests_of, found: Digests::new() };
        watched.note();
        let readings = survey(records, &image, surveys, &mut watched)?;
        Ok((image, readings, watched.finish()))
    };
    let learned = || Learned::of_full(stretch.full, stretch.upto);
    let ((image, mut readings, digests), replayed) = replay(stretch, learned(), first, context).await?;
    let mut hash_kv = Vec::new();
    if !readings.is_empty() {
        let second = move |records: &mut ChainRecords| {
            let extent = image.extent()?;
            each_record(records, &image, extent.revision, &mut |record| {
                readings.iter_mut().try_for_each(|reading| reading.push(record))
            })?;
            Ok((readings.into_iter().map(HashReading::finish).collect::<Vec<_>>(), extent.compact_floor))
        };
        let ((hashes, floor), _) = replay(stretch, learned(), second, context).await?;
        for (answer, hash) in answers.into_iter().zip(hashes) {
            hash_kv.push(compare(answer, hash, floor)?);
        }
    }
    Ok(CheckedChain { records: replayed.records, hash_kv, digests })
}

/// The first reading.
fn survey(
    records: &mut ChainRecords,
    image: &Image,
    mut surveys: Vec<HashSurvey>,
    watched: &mut Watched,
) -> Result<Vec<HashReading>> {
    let hashes = !surveys.is_empty();
    let mut see = |record: &RecordRef<'_>| surveys.iter_mut().try_for_each(|survey| survey.see(record));
    if hashes {
        image.records(Scrutiny::Readable, &mut see)?;
    }
    let mut overlap = Overlap::with(image)?;
    records.each_batch(|batch| {
        let object = batch.object();
        batch.try_for_each(|record| {
            let record = record?;
            watched.take(&record)?;
            if overlap.covers(record.main) {
                overlap.compare(&record).map_err(|error| object.blame(error))
            } else {
                see(&record)
            }
        })
    })?;
    overlap.finish()?;
    Ok(surveys.into_iter().map(HashSurvey::finish).collect())
}

/// Shows `see` the records of the image, and those of the deltas that it does not have.
fn each_record(
    records: &mut ChainRecords,
    image: &Image,
    reaches: Revision,
    see: &mut dyn FnMut(&RecordRef<'_>) -> Result<()>,
) -> Result<()> {
    image.records(Scrutiny::Readable, see)?;
    records.each_batch(|batch| {
        batch.try_for_each(|record| {
            let record = record?;
            if record.main <= reaches { Ok(()) } else { see(&record) }
        })
    })
}

/// Notes digests on the way.
struct Watched {
    fold: HistoryFold,
    wanted: BTreeSet<Revision>,
    found: Digests,
}

impl Watched {
    fn take(&mut self, record: &RecordRef<'_>) -> Result<()> {
        let before = self.fold.closed().0;
        // A delta may begin inside the full, before its seam.
        if self.wanted.is_empty() || record.main <= before {
            return Ok(());
        }
        self.fold.push(record)?;
        if self.fold.closed().0 > before {
            self.note();
        }
        Ok(())
    }

    fn note(&mut self) {
        let (revision, digest) = self.fold.closed();
        if self.wanted.contains(&revision) {
            self.found.insert(revision, digest);
        }
    }

    fn finish(mut self) -> Digests {
        self.fold.close();
        self.note();
        self.found
    }
}

/// Reads a delta by itself: every frame opens, every record parses, no revision is missing in it, and its records have
/// the history that its footer tells; and that is the one of `known`, where that knows its beginning or its end. Answers
/// how many records it has.
///
/// # Errors
/// `Refused` where it is of another history; `Damaged`; those of the store. All name the delta.
pub async fn check_delta(
    archive: &Archive,
    delta: &BackupEntry,
    known: &Digests,
    limits: ReadLimits,
    context: &RunContext,
) -> Result<u64> {
    let mut pieces = archive.read_deltas(vec![delta.clone()], ALL, limits);
    let (mut line, mut records) = (None, 0);
    while let Some(piece) = context.unless_stopped(pieces.try_next()).await? {
        match (piece, line.take()) {
            (DeltaPiece::Begins(opened), None) => {
                let facts = &opened.footer().facts;
                meets(&delta.name, known, (Revision(facts.revisions.0.0 - 1), facts.history.0))?;
                meets(&delta.name, known, (facts.revisions.1, facts.history.1))?;
                line = Some(Line::of_delta(delta.name, facts)?);
            }
            (DeltaPiece::Chunk(chunk, _), Some(mut open)) => {
                let read = move || {
                    let mut read = 0;
                    for record in RecordsDecoder::new(&chunk) {
                        open.take(&record?)?;
                        read += 1;
                    }
                    open.end_chunk()?;
                    Ok((open, read))
                };
                let (open, read) = blocking(read).await.map_err(|error: Error| named(error, &delta.name))?;
                (line, records) = (Some(open), records + read);
            }
            _ => return Err(Error::new(ErrorKind::Internal, format!("{}: its pieces came in no order", delta.name))),
        }
    }
    line.map_or(Ok(()), Line::finish)?;
    Ok(records)
}

fn meets(name: &BackupName, known: &Digests, (revision, digest): (Revision, HistoryDigest)) -> Result<()> {
    if known.get(&revision).is_none_or(|known| *known == digest) {
        return Ok(());
    }
    let what = format!("{name} has another history than the rest of its lineage at revision {revision}");
    Err(Error::new(ErrorKind::Refused, what).hint("two histories were written under one lineage"))
}

fn named(error: Error, name: &BackupName) -> Error {
    if error.message().contains(&name.to_string()) { error } else { error.about(name) }
}
