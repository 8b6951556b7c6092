//! Runs a plan: image by image into a scratch file, proven there and forgotten; the deltas that follow each, held against
//! their image, their history and the source's own answers; then what lies beside these chains, object by object.
//!
//! Memory is what reading and proving one image takes, or a replay; disk, one image at a time.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};

use super::plan::{LineagePlan, OnFailure, VerifyPlan, again};
use crate::archive::{Archive, BackupEntry, BackupReader, Catalogue, Chain, ReadLimits};
use crate::datadir::{Image, ImageFacts, Scratch};
use crate::error::{Error, ErrorKind, Result};
use crate::format::NameKind;
use crate::monitor::{Event, Phase};
use crate::replay::{
    ChainCheck, Digests, HashKvProof, Proof, Proving, Stretch, Thoroughness, check_chain, check_delta, move_image,
    prove,
};
use crate::revision::Revision;
use crate::run::{RunContext, blocking};

/// Objects that are read by themselves at once.
const OBJECTS_AT_ONCE: usize = 3;
/// Times that a chain is put together anew where objects of it vanish.
const MOST_PLANS: usize = 5;

/// A full that is sound, with the deltas that follow it.
#[derive(Debug)]
pub struct Verified {
    /// What was proven of it.
    pub proof: Proof,
    /// What it holds.
    pub facts: ImageFacts,
    /// Bytes of the image.
    pub plain_bytes: u64,
    /// Deltas that follow it, all of whose records were read and are of its history.
    pub deltas: usize,
    /// Their records.
    pub delta_records: u64,
    /// What came of the source's answers about the records of both.
    pub delta_hash_kv: Vec<HashKvProof>,
    /// The revision that they lead to, or its own.
    pub reaches: Revision,
    /// How long that took.
    pub duration_ms: i64,
}

/// What came of one backup: of a full and the deltas that follow it, or, where it is not sound, of a delta by itself.
#[derive(Debug)]
pub struct Verdict<'a> {
    /// The backup.
    pub backup: &'a BackupEntry,
    /// Sound, or what is wrong with it.
    pub outcome: Result<Verified>,
}

/// What came of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifySummary {
    /// Fulls that are sound, with the deltas that follow them.
    pub sound: usize,
    /// Other deltas, and objects that only mark time, that are sound.
    pub besides: usize,
    /// Backups that are gone since they were listed.
    pub gone: usize,
}

/// Is given each verdict.
type Report<'r> = &'r mut (dyn FnMut(Verdict<'_>) + Send);

/// Runs a plan; `report` is given each verdict as soon as it is known. Where all are verified, what is wrong with one
/// does not keep the others from being looked at.
///
/// # Errors
/// The worst one among the verdicts; `Interrupted`, and where the other side does not answer any more or the work cannot
/// go on, that error at once.
pub async fn run_verify(
    archive: &Archive,
    plan: &VerifyPlan,
    context: &RunContext,
    report: &mut (dyn FnMut(Verdict<'_>) + Send),
) -> Result<VerifySummary> {
    let mut inspection =
        Inspection { archive, plan, context, report, summary: VerifySummary::default(), failures: Vec::new() };
    for lineage in &plan.lineages {
        inspection.lineage(lineage).await?;
    }
    let Inspection { summary, failures, .. } = inspection;
    match worst(&failures, plan.objects() - summary.gone) {
        None => Ok(summary),
        Some(error) => Err(error),
    }
}

/// Kind, message and hint of what is wrong with a backup.
type Failure = (ErrorKind, String, Option<String>);

/// A verification that is under way.
struct Inspection<'a> {
    archive: &'a Archive,
    plan: &'a VerifyPlan,
    context: &'a RunContext,
    report: Report<'a>,
    summary: VerifySummary,
    failures: Vec<Failure>,
}

/// Whether the deltas of a chain have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deltas {
    Read,
    Unread,
}

impl Inspection<'_> {
    /// Verifies one lineage. Like all that follows, it answers only an error that ends all.
    ///
    /// # Why two histories do not pass
    /// Every chain ends at the seam of the next full, so that the digest of that full, and the HashKV that the source
    /// answered with it, are held against the records before it. What no chain has is held against the digests that the
    /// chains were found to have where it begins and where it ends; a digest is one of all records since the first full.
    async fn lineage(&mut self, lineage: &LineagePlan) -> Result<()> {
        if let (true, Some(delta)) = (lineage.chains.is_empty(), lineage.besides.first()) {
            let id = delta.name.lineage;
            self.context.warn(format!("lineage {id} has no full: nothing of it can be restored"));
        }
        let mut besides = lineage.besides.clone();
        let wanted: BTreeSet<Revision> = besides.iter().flat_map(ends).collect();
        let mut known = Digests::new();
        for (n, chain) in lineage.chains.iter().enumerate() {
            let next = lineage.chains.get(n + 1).map(|next| &next.full);
            if self.chain(chain, next, &wanted, &mut known).await? == Deltas::Unread {
                besides.extend(chain.deltas.iter().cloned());
            }
        }
        self.besides(&besides, &known).await
    }

    /// Verifies a full and what follows it.
    async fn chain(
        &mut self,
        planned: &Chain,
        next: Option<&BackupEntry>,
        wanted: &BTreeSet<Revision>,
        known: &mut Digests,
    ) -> Result<Deltas> {
        let mut chain = planned.clone();
        for plans in 1.. {
            let outcome = verify(self.archive, self.plan, &chain, (next, wanted, &mut *known), self.context).await;
            let Err(error) = outcome else {
                self.summary.sound += 1;
                (self.report)(Verdict { backup: &chain.full, outcome });
                self.gap(&chain)?;
                return Ok(Deltas::Read);
            };
            if error.kind() == ErrorKind::NotFound && plans < MOST_PLANS {
                // It was there when the archive was listed, and an object is never rewritten: it was deleted.
                let now = self.context.unless_stopped(self.archive.catalogue()).await?;
                if let Some(found) = again(&now, &chain) {
                    self.context.note(format!("{}: read again, for an object is gone: {error}", chain.full.name));
                    chain = found;
                    continue;
                }
                if self.plan.on_failure == OnFailure::GoOn && !has(&now, &chain.full) {
                    self.context.note(format!("{}: deleted meanwhile", chain.full.name));
                    self.summary.gone += 1;
                    return Ok(Deltas::Unread);
                }
            }
            self.failed(&chain.full, error)?;
            self.gap(&chain)?;
            break;
        }
        Ok(Deltas::Unread)
    }

    /// Tells of the revisions that are missing behind a chain.
    fn gap(&mut self, chain: &Chain) -> Result<()> {
        let Some(gap) = chain.gap else { return Ok(()) };
        let (first, last, lineage) = (gap.first, gap.last, chain.full.name.lineage);
        let what = format!("revisions {first} to {last} are missing in lineage {lineage}");
        let error = Error::new(ErrorKind::Refused, what).hint("`etcdbr list` shows what can be restored all the same");
        self.failed(&chain.full, error)
    }

    /// Verifies objects one by one.
    async fn besides(&mut self, besides: &[BackupEntry], known: &Digests) -> Result<()> {
        let (archive, context) = (self.archive, self.context);
        let limits = ReadLimits { threads: 1, parallel_reads: 1, ..self.plan.limits };
        let mut checked = stream::iter(besides)
            .map(|delta| async move { (delta, check_delta(archive, delta, known, limits, context).await) })
            .buffered(OBJECTS_AT_ONCE);
        while let Some((delta, outcome)) = checked.next().await {
            let name = delta.name.to_string();
            match outcome {
                Ok(_) => self.summary.besides += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.context.note(format!("{name}: deleted meanwhile"));
                    self.summary.gone += 1;
                }
                // That was told of the chain that it is part of.
                Err(_) if self.failures.iter().any(|failure| failure.1.contains(&name)) => {}
                Err(error) => self.failed(delta, error)?,
            }
        }
        Ok(())
    }

    /// Tells what is wrong with a backup, where the others are looked at all the same.
    fn failed(&mut self, backup: &BackupEntry, error: Error) -> Result<()> {
        if self.plan.on_failure == OnFailure::Stop || severity(error.kind()).is_none() {
            return Err(error);
        }
        self.failures.push((error.kind(), error.to_string(), error.next_step().map(str::to_owned)));
        (self.report)(Verdict { backup, outcome: Err(error) });
        Ok(())
    }
}

fn has(catalogue: &Catalogue, full: &BackupEntry) -> bool {
    let lineage = catalogue.lineages.get(&full.name.lineage);
    lineage.is_some_and(|lineage| lineage.backups.iter().any(|entry| entry.name == full.name))
}

/// The revisions at which an object meets others.
fn ends(entry: &BackupEntry) -> [Revision; 2] {
    match entry.name.kind {
        NameKind::Full { seam } => [seam, seam],
        NameKind::Delta { first, last } => [Revision(first.0 - 1), last],
    }
}

async fn verify(
    archive: &Archive,
    plan: &VerifyPlan,
    chain: &Chain,
    (next, wanted, known): (Option<&BackupEntry>, &BTreeSet<Revision>, &mut Digests),
    context: &RunContext,
) -> Result<Verified> {
    let started = context.clock.now();
    let about_full = |error| named(error, &chain.full);
    let (reader, proven) = full(archive, plan, &chain.full, context).await.map_err(about_full)?;
    // The scratch file stays until all is read: the image is in it.
    let (_scratch, image, facts, proof) = proven;
    // What is wrong with the next full itself is told when it is its turn.
    let next = match next {
        Some(next) => context.unless_stopped(async { Ok(archive.open_listed(next).await.ok()) }).await?,
        None => None,
    };
    let next = next.as_ref().map(|next| (next.name(), &next.footer().facts));
    let seam = next.map(|(_, facts)| facts.revisions.1).filter(|seam| *seam <= chain.reaches);
    let check = ChainCheck {
        answers: next.map(|(_, facts)| facts.hash_kv.clone()).unwrap_or_default(),
        digests_of: wanted.iter().copied().chain(seam).collect(),
    };
    context.monitor.tell(Event::Begin { phase: Phase::Replay, total_bytes: 0 });
    // Its deltas may be read twice.
    let archive = &archive.holding();
    let stretch = Stretch { archive, full: &reader, deltas: &chain.deltas, upto: chain.reaches, limits: plan.limits };
    let checked = check_chain(stretch, image, check, context).await.map_err(about_full)?;
    context.monitor.tell(Event::End(Phase::Replay));
    if let (Some((name, facts)), Some(seam)) = (next, seam)
        && checked.digests.get(&seam).is_some_and(|digest| *digest != facts.history.1)
    {
        let by = chain.deltas.last().map_or(chain.full.name, |delta| delta.name);
        let what = format!("{name} has another history than {by} at revision {seam}");
        return Err(Error::new(ErrorKind::Refused, what).hint("two histories were written under one lineage"));
    }
    known.extend(checked.digests);
    Ok(Verified {
        proof,
        plain_bytes: reader.footer().plain_bytes,
        deltas: chain.deltas.len(),
        delta_records: checked.records,
        delta_hash_kv: checked.hash_kv,
        reaches: facts.revision.max(chain.reaches),
        facts,
        duration_ms: context.clock.now().0 - started.0,
    })
}

/// A proven image, and the file that keeps it.
type ProvenImage = (Scratch, Image, ImageFacts, Proof);

async fn full(
    archive: &Archive,
    plan: &VerifyPlan,
    backup: &BackupEntry,
    context: &RunContext,
) -> Result<(BackupReader, ProvenImage)> {
    let reader = context.unless_stopped(archive.open_listed(backup)).await?;
    let (scratch_dir, plain_bytes) = (plan.scratch_dir.clone(), reader.footer().plain_bytes);
    let scratch = blocking(move || Scratch::create(&scratch_dir, plain_bytes)).await?;
    let scratch = move_image(&reader, plan.limits, scratch, Phase::Verify, context).await?;
    let proving = Proving::of_full(&reader, Thoroughness::Full);
    let (scratch, image, examined, proof) = prove(scratch, proving, context).await?;
    Ok((reader, (scratch, image, examined.facts, proof)))
}

/// The error with the backup's name, where it names none of its lineage: those of the store and of objects do already.
fn named(error: Error, backup: &BackupEntry) -> Error {
    if error.message().contains(&backup.name.lineage.to_string()) { error } else { error.about(backup.name) }
}

/// How bad an error of one backup is for the archive; `None` for what has nothing to do with the backup.
fn severity(kind: ErrorKind) -> Option<u8> {
    match kind {
        ErrorKind::Damaged => Some(5),
        ErrorKind::Refused => Some(4),
        ErrorKind::Key => Some(3),
        ErrorKind::Invalid | ErrorKind::NotFound => Some(2),
        ErrorKind::Local => Some(1),
        ErrorKind::Unavailable | ErrorKind::Denied | ErrorKind::Interrupted | ErrorKind::Internal => None,
    }
}

fn worst(failures: &[(ErrorKind, String, Option<String>)], looked_at: usize) -> Option<Error> {
    // The first of the worst ones: `max_by_key` would give the last.
    let (kind, message, hint) = failures.iter().rev().max_by_key(|(kind, ..)| severity(*kind))?;
    let what = match failures.len() {
        1 => format!("1 of {looked_at} backups is not sound: {message}"),
        many => format!("{many} of {looked_at} backups are not sound; the worst: {message}"),
    };
    let error = Error::new(*kind, what);
    Some(if let Some(hint) = hint { error.hint(hint.clone()) } else { error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_error_is_told_and_the_first_of_equals() {
        let failure = |kind, message: &str| (kind, message.to_owned(), None);
        assert!(worst(&[], 3).is_none());
        let failures = [
            failure(ErrorKind::Key, "a"),
            failure(ErrorKind::Damaged, "b"),
            failure(ErrorKind::Damaged, "c"),
            failure(ErrorKind::Local, "d"),
        ];
        let error = worst(&failures, 9).unwrap();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Damaged, "4 of 9 backups are not sound; the worst: b"));
        let error = worst(&failures[..1], 9).unwrap();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Key, "1 of 9 backups is not sound: a"));
    }
}
