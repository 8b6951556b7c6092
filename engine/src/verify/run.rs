//! Runs a plan: image by image into a scratch file, proven there and forgotten.
//!
//! Memory is what reading and proving one image takes; disk, one image at a time.

use super::plan::{OnFailure, VerifyPlan};
use crate::archive::{Archive, BackupEntry};
use crate::datadir::{ImageFacts, Scratch};
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::Phase;
use crate::replay::{Proof, Proving, Thoroughness, move_image, prove};
use crate::run::{RunContext, blocking};

/// A backup that is sound.
#[derive(Debug)]
pub struct Verified {
    /// What was proven of it.
    pub proof: Proof,
    /// What it holds.
    pub facts: ImageFacts,
    /// Bytes of the image.
    pub plain_bytes: u64,
    /// How long that took.
    pub duration_ms: i64,
}

/// What came of one backup.
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
    /// Backups that are sound.
    pub sound: usize,
    /// Backups that are gone since they were listed.
    pub gone: usize,
}

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
    if plan.deltas_left_out > 0 {
        context.warn(format!("{} deltas are not verified: only fulls are", plan.deltas_left_out));
    }
    let mut summary = VerifySummary::default();
    let mut failures = Vec::new();
    for backup in &plan.fulls {
        let outcome = verify(archive, plan, backup, context).await.map_err(|error| named(error, backup));
        let failure = match &outcome {
            Ok(_) => {
                summary.sound += 1;
                None
            }
            Err(error) if plan.on_failure == OnFailure::GoOn && error.kind() == ErrorKind::NotFound => {
                // It was there when the archive was listed, and an object is never rewritten: it was deleted.
                context.note(format!("{}: deleted meanwhile", backup.name));
                summary.gone += 1;
                continue;
            }
            Err(error) => Some((error.kind(), error.to_string(), error.next_step().map(str::to_owned))),
        };
        let Some((kind, message, hint)) = failure else {
            report(Verdict { backup, outcome });
            continue;
        };
        if plan.on_failure == OnFailure::Stop || severity(kind).is_none() {
            return outcome.map(|_| summary);
        }
        report(Verdict { backup, outcome });
        failures.push((kind, message, hint));
    }
    match worst(&failures, plan.fulls.len() - summary.gone) {
        None => Ok(summary),
        Some(error) => Err(error),
    }
}

async fn verify(archive: &Archive, plan: &VerifyPlan, backup: &BackupEntry, context: &RunContext) -> Result<Verified> {
    let started = context.clock.now();
    let reader = context.unless_stopped(archive.open_listed(backup)).await?;
    let (scratch_dir, plain_bytes) = (plan.scratch_dir.clone(), reader.footer().plain_bytes);
    let scratch = blocking(move || Scratch::create(&scratch_dir, plain_bytes)).await?;
    let scratch = move_image(&reader, plan.limits, scratch, Phase::Verify, context).await?;
    let proving = Proving::of_full(&reader, Thoroughness::Full);
    let (_, _, examined, proof) = prove(scratch, proving, context).await?;
    let duration_ms = context.clock.now().0 - started.0;
    Ok(Verified { proof, facts: examined.facts, plain_bytes, duration_ms })
}

/// The error with the backup's name, which those of the store and of its objects have already.
fn named(error: Error, backup: &BackupEntry) -> Error {
    if error.message().contains(&backup.name.to_string()) { error } else { error.about(backup.name) }
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
