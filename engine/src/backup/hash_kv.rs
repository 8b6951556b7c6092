//! Whether a full asks the source for its HashKV, and what comes of it.
//!
//! HashKV makes the member stand still while it reads its whole database, so it is asked rarely, and not again of a
//! source that took long. A backup process may live for one full only: when the last question was, each full's footer
//! tells, carried on from full to full, so that the newest one of the cluster knows it.
//!
//! A full without an answer is a full all the same: nothing that goes wrong here fails it, save an answer of another
//! member than the one that the image was streamed from.

use std::time::Duration;

use crate::archive::Archive;
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::etcd::Member;
use crate::format::{HashKvAnswer, HashKvAsked, NameKind};
use crate::revision::{ClusterId, Revision};
use crate::run::RunContext;

/// How often a source is asked where nothing is said.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);
/// Where the last answer took longer, a source is not asked again unasked-for.
const SLOW: Duration = Duration::from_millis(500);

/// When a full asks for HashKV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashKvPolicy {
    /// At most every six hours, and not again where the last answer took more than half a second.
    #[default]
    Sparing,
    /// At most this often, however long it takes.
    Every(Duration),
    /// Not at all.
    Never,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKvOutcome {
    /// The answer is stored with the backup.
    Stored(HashKvAnswer),
    /// There is none, for this reason.
    Missing(String),
}

impl HashKvOutcome {
    /// As the footer holds it.
    pub(super) fn answers(&self) -> Vec<HashKvAnswer> {
        match self {
            Self::Stored(answer) => vec![*answer],
            Self::Missing(_) => Vec::new(),
        }
    }
}

/// What a full does about HashKV, settled before its stream begins.
#[derive(Debug, Clone)]
pub(super) struct HashKvPlan {
    /// The last question that is known of.
    last: Option<HashKvAsked>,
    /// Why it is not asked.
    refusal: Option<String>,
}

impl HashKvPlan {
    /// Looks up when `cluster` was last asked: in the footer of its newest full. One that cannot be read says nothing,
    /// and is told.
    pub(super) async fn make(
        policy: HashKvPolicy,
        cluster: ClusterId,
        archive: &Archive,
        context: &RunContext,
    ) -> Self {
        if policy == HashKvPolicy::Never {
            return Self { last: None, refusal: Some("--hashkv-interval is 0".to_owned()) };
        }
        let last = match last_asked(cluster, archive).await {
            Ok(last) => last,
            Err(error) => {
                context.note(format!("cannot tell when HashKV was last asked: {error}"));
                None
            }
        };
        let refusal = last.and_then(|last| refusal(policy, last, context.clock.now()));
        Self { last, refusal }
    }

    /// Asks `member` for its HashKV at `seam`, where that is due. What made it stand still is noted for the fulls to come;
    /// a refusal costs nothing, and may be another one next time.
    ///
    /// # Errors
    /// `Refused` where another member answers.
    pub(super) async fn ask(
        self,
        member: &Member,
        seam: Revision,
        context: &RunContext,
    ) -> Result<(HashKvOutcome, Option<HashKvAsked>)> {
        if let Some(refusal) = self.refusal {
            return Ok((HashKvOutcome::Missing(refusal), self.last));
        }
        let at = context.clock.now();
        let said = member.hash_kv_at_seam(seam).await?;
        let took_ms = u64::try_from(said.took.as_millis()).unwrap_or(u64::MAX);
        let outcome = match said.answer {
            Ok(answer) => HashKvOutcome::Stored(HashKvAnswer {
                revision: seam,
                compact_revision: answer.compact_revision.unwrap_or(Revision(-1)),
                hash: answer.hash,
                duration_ms: took_ms,
            }),
            Err(why) => {
                context.note(format!("no HashKV is stored with this backup: {why}"));
                HashKvOutcome::Missing(why)
            }
        };
        if said.took > SLOW {
            context.note(format!(
                "HashKV took {took_ms} ms, while the member stood still: it is not asked again without --hashkv-interval"
            ));
        }
        let cost = matches!(outcome, HashKvOutcome::Stored(_)) || said.took > SLOW;
        Ok((outcome, if cost { Some(HashKvAsked { at, took_ms }) } else { self.last }))
    }
}

/// When `cluster` was last asked, as the newest full of it tells.
async fn last_asked(cluster: ClusterId, archive: &Archive) -> Result<Option<HashKvAsked>> {
    let catalogue = archive.catalogue().await?;
    let newest = catalogue
        .newest_first()
        .into_iter()
        .find(|entry| entry.name.lineage.cluster == cluster && matches!(entry.name.kind, NameKind::Full { .. }));
    match newest {
        None => Ok(None),
        Some(entry) => Ok(archive.open(&entry.name).await?.footer().facts.capture.hash_kv_asked),
    }
}

/// Why the source is left alone, where it was asked last at `last`.
fn refusal(policy: HashKvPolicy, last: HashKvAsked, now: UnixMillis) -> Option<String> {
    let interval = match policy {
        HashKvPolicy::Never => Duration::MAX,
        HashKvPolicy::Every(interval) => interval,
        HashKvPolicy::Sparing if u128::from(last.took_ms) > SLOW.as_millis() => {
            return Some(format!(
                "it took {} ms at {}: give --hashkv-interval to have it asked again",
                last.took_ms, last.at
            ));
        }
        HashKvPolicy::Sparing => DEFAULT_INTERVAL,
    };
    // A clock that was wrong may have put it into the future.
    let distance_ms = u128::from(now.0.abs_diff(last.at.0));
    (distance_ms < interval.as_millis()).then(|| format!("it was asked at {}, less than {interval:?} ago", last.at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(policy: HashKvPolicy, took_ms: u64, minutes_ago: i64) -> bool {
        let last = HashKvAsked { at: UnixMillis(1_000_000_000), took_ms };
        refusal(policy, last, UnixMillis(last.at.0 + minutes_ago * 60_000)).is_some()
    }

    #[test]
    fn a_source_is_asked_every_six_hours_unless_it_was_slow() {
        let sparing = HashKvPolicy::Sparing;
        assert!(refused(sparing, 500, 359) && !refused(sparing, 500, 360));
        assert!(refused(sparing, 501, 360) && refused(sparing, 501, 1_000_000));
    }

    #[test]
    fn an_interval_that_was_given_counts_alone() {
        let hourly = HashKvPolicy::Every(Duration::from_secs(3600));
        assert!(refused(hourly, 90_000, 59) && !refused(hourly, 90_000, 60));
    }

    #[test]
    fn a_time_far_in_the_future_does_not_bind() {
        assert!(refused(HashKvPolicy::Sparing, 1, -359) && !refused(HashKvPolicy::Sparing, 1, -361));
    }
}
