//! What an image is held against before anybody relies on it, and what came of that.
//!
//! Authentication says that the bytes are those that were backed up; the strict check, that etcd can work with them; and
//! HashKV, that they are what etcd itself held. HashKV is compared with the source's own answer, at the answer's revision
//! and with the answer's compact revision, over the records as they are in the image, before anything is pruned.

use crate::archive::BackupReader;
use crate::datadir::{Examined, HashPoint, Image, ImageFacts, Scrutiny, TakesImage};
use crate::error::{Error, ErrorKind, Result};
use crate::foreign::HashCheck;
use crate::format::{HashKvAnswer, Protection};
use crate::monitor::{Event, Phase};
use crate::revision::Revision;
use crate::run::{RunContext, blocking};

/// How much is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Thoroughness {
    /// All that can be.
    #[default]
    Full,
    /// Only what cannot be left out: for emergencies.
    Skip,
}

/// What held the bytes together on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// Every byte was authenticated.
    Authenticated,
    /// Checksums: the backup is not encrypted.
    Checksums,
    /// The SHA-256 behind a plain snapshot.
    Sha256Trailer,
    /// Nothing: the operator did not want a plain snapshot's SHA-256 checked, or it had none.
    Unchecked,
}

impl From<Protection> for Integrity {
    fn from(protection: Protection) -> Self {
        match protection {
            Protection::Aes256Gcm { .. } => Self::Authenticated,
            Protection::Checksum => Self::Checksums,
        }
    }
}

impl From<HashCheck> for Integrity {
    fn from(checked: HashCheck) -> Self {
        match checked {
            HashCheck::Required | HashCheck::WherePresent => Self::Sha256Trailer,
            HashCheck::Skipped => Self::Unchecked,
        }
    }
}

/// Whether the tree of the database is sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeProof {
    /// Every page in use was checked.
    Sound,
    /// The operator did not want to know.
    Skipped,
}

/// Whether the records are those that the source had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKvProof {
    /// Up to the answer's revision they have the hash that the source answered.
    Equal(HashKvAnswer),
    /// There is no answer to compare with, for this reason.
    NoAnswer(String),
    /// The operator did not want to know.
    Skipped,
}

/// What was proven of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Of its bytes, each and as a whole.
    pub integrity: Integrity,
    /// Of its pages.
    pub tree: TreeProof,
    /// Of its records.
    pub hash_kv: HashKvProof,
}

/// What an image is held against.
#[derive(Debug, Clone)]
pub struct Proving {
    /// What held its bytes together.
    pub integrity: Integrity,
    /// The revision that it must have reached.
    pub promised: Revision,
    /// The source's own answers that go with it, in any order.
    pub answers: Vec<HashKvAnswer>,
    /// How much is proven.
    pub thoroughness: Thoroughness,
}

impl Proving {
    /// What the image of an opened full is held against.
    pub fn of_full(reader: &BackupReader, thoroughness: Thoroughness) -> Self {
        let facts = &reader.footer().facts;
        Self {
            integrity: reader.header().protection.into(),
            promised: facts.revisions.1,
            answers: facts.hash_kv.clone(),
            thoroughness,
        }
    }

    /// What the image of a plain snapshot is held against, beside its SHA-256.
    pub fn of_plain(checked: HashCheck, thoroughness: Thoroughness) -> Self {
        Self { integrity: checked.into(), promised: Revision::default(), answers: Vec::new(), thoroughness }
    }
}

/// Proves the image that `taker` has, off the threads that serve the network; told as [`Phase::Proof`].
///
/// # Errors
/// `Damaged` where the image is not sound, or its records are not those that the source had; `Refused` for a database
/// of a newer etcd; `Interrupted`. `taker` is gone then.
pub async fn prove<T: TakesImage + Send + 'static>(
    mut taker: T,
    proving: Proving,
    context: &RunContext,
) -> Result<(T, Image, Examined, Proof)> {
    let watching = context.clone();
    let done = blocking(move || {
        let image = taker.image()?;
        let (examined, proof) = examine(&image, proving, &watching)?;
        Ok((taker, image, examined, proof))
    });
    let done = done.await?;
    context.monitor.tell(Event::End(Phase::Proof));
    Ok(done)
}

fn examine(image: &Image, proving: Proving, context: &RunContext) -> Result<(Examined, Proof)> {
    let Proving { integrity, promised, answers, thoroughness } = proving;
    context.monitor.tell(Event::Begin { phase: Phase::Proof, total_bytes: 0 });
    let mut attention = |read_bytes| {
        context.monitor.tell(Event::Progress { plain_bytes: read_bytes, stored_bytes: 0 });
        context.check_stop()
    };
    if thoroughness == Thoroughness::Skip {
        let examined = image.examine(Scrutiny::Readable, None, &mut attention)?;
        reaches(promised, &examined.facts)?;
        return Ok((examined, Proof { integrity, tree: TreeProof::Skipped, hash_kv: HashKvProof::Skipped }));
    }
    let within = answers.into_iter().filter(|answer| answer.revision <= promised);
    let newest = within.max_by_key(|answer| (answer.revision, answer.compact_revision));
    let examined = image.examine(Scrutiny::Strict, newest.as_ref().map(point), &mut attention)?;
    reaches(promised, &examined.facts)?;
    let hash_kv = match newest.zip(examined.hash) {
        None => HashKvProof::NoAnswer(
            match integrity {
                Integrity::Sha256Trailer | Integrity::Unchecked => "a plain snapshot carries none",
                Integrity::Authenticated | Integrity::Checksums => "no HashKV was stored with this backup",
            }
            .to_owned(),
        ),
        Some((answer, hash)) => compare(answer, hash, examined.facts.compact_floor)?,
    };
    Ok((examined, Proof { integrity, tree: TreeProof::Sound, hash_kv }))
}

fn reaches(promised: Revision, facts: &ImageFacts) -> Result<()> {
    if facts.revision >= promised {
        return Ok(());
    }
    let what = format!("its image is at revision {}, older than the {promised} of its name", facts.revision);
    Err(Error::new(ErrorKind::Damaged, what).hint("use another backup"))
}

/// The point that `answer` is for.
pub(super) fn point(answer: &HashKvAnswer) -> HashPoint {
    let compact = Some(answer.compact_revision).filter(|compact| *compact > Revision(0));
    HashPoint { revision: answer.revision, compact }
}

/// Holds the source's answer against the hash of the records.
///
/// The two are of the same records only where the image reaches the answer's revision and is compacted no further than
/// the source was when it answered: what compaction has dropped from the image is not there to be hashed.
pub(super) fn compare(answer: HashKvAnswer, hash: u32, image_floor: Option<Revision>) -> Result<HashKvProof> {
    if let Some(floor) = image_floor.filter(|floor| *floor > answer.compact_revision) {
        let reason = format!(
            "the HashKV that was stored is of a source compacted at {}, the image is compacted at {floor}",
            answer.compact_revision
        );
        return Ok(HashKvProof::NoAnswer(reason));
    }
    if hash == answer.hash {
        return Ok(HashKvProof::Equal(answer));
    }
    Err(Error::new(
        ErrorKind::Damaged,
        format!(
            "its records up to revision {} have HashKV {hash}, the source answered {} (compacted at {})",
            answer.revision, answer.hash, answer.compact_revision
        ),
    )
    .hint("use another backup; look for disk or memory errors on the source: its own picture of its data was not this"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datadir::AuthState;

    fn facts(revision: i64, floor: i64) -> ImageFacts {
        ImageFacts {
            revision: Revision(revision),
            compact_floor: (floor > 0).then_some(Revision(floor)),
            records: 1,
            auth: AuthState::Disabled,
            leases: 0,
            missing_leases: 0,
            used_bytes: 4096,
            pages: None,
        }
    }

    fn answer(compact: i64) -> HashKvAnswer {
        HashKvAnswer { revision: Revision(20), compact_revision: Revision(compact), hash: 7, duration_ms: 1 }
    }

    #[test]
    fn hashes_are_compared_unless_the_image_is_compacted_further() {
        for (compact, floor) in [(-1, -1), (5, -1), (5, 5), (9, 5)] {
            let floor = facts(20, floor).compact_floor;
            assert_eq!(compare(answer(compact), 7, floor).unwrap(), HashKvProof::Equal(answer(compact)));
            let error = compare(answer(compact), 8, floor).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged);
            assert!(error.to_string().contains("HashKV 8, the source answered 7"), "{error}");
        }
        for (compact, floor) in [(-1, 5), (5, 6)] {
            assert!(matches!(
                compare(answer(compact), 8, facts(20, floor).compact_floor),
                Ok(HashKvProof::NoAnswer(_))
            ));
        }
    }

    #[test]
    fn an_image_must_reach_what_its_name_promises() {
        assert!(reaches(Revision(20), &facts(20, -1)).is_ok());
        assert_eq!(reaches(Revision(21), &facts(20, -1)).unwrap_err().kind(), ErrorKind::Damaged);
    }

    #[test]
    fn a_source_that_was_never_compacted_hashes_all() {
        assert_eq!(point(&answer(-1)).compact, None);
        assert_eq!(point(&answer(4)).compact, Some(Revision(4)));
    }
}
