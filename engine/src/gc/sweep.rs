//! A sweep: look, decide, remove.
//!
//! # Why a sweep that fails has done no harm
//! Objects are removed one by one, in the order of the plan, whose argument holds for every beginning of it. Before
//! anything that a policy gave up is removed, the fulls that stay in its place are opened: where one of them cannot be, nothing
//! of its cluster goes. An object that the store will not part with (object lock, a legal hold, missing permission) is reported,
//! and whatever it may need of its lineage stays with it. Where the store keeps versions a removal takes nothing away at all: it
//! hides, and how much was hidden is told.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};

use super::memory::SweepMemory;
use crate::archive::Archive;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BackupName, LineageId};
use crate::retention::{
    Covered, Decided, Decision, DeleteReason, KeepReason, RetentionPlan, RetentionPolicy, candidates, plan, store_now,
};
use crate::revision::ClusterId;
use crate::run::RunContext;
use crate::store::Removal;

/// Covered deltas that are removed at once: what replaces each of them stays, so that their order does not matter.
const COVERED_AT_ONCE: usize = 8;
/// A store that refuses so many is not asked any more in this sweep.
const MAX_REFUSALS: usize = 100;

/// Something that should have gone, and stays.
#[derive(Debug)]
pub struct KeptAgainst {
    /// The object.
    pub name: BackupName,
    /// What kept it: the store's refusal.
    pub why: Error,
}

/// What a sweep has done.
#[derive(Debug, Default)]
pub struct SweepOutcome {
    /// What it had decided.
    pub plan: RetentionPlan,
    /// What is gone.
    pub deleted: Vec<BackupName>,
    /// How many of those the store keeps as versions, behind delete markers.
    pub hidden: usize,
    /// What the store would not part with.
    pub refused: Vec<KeptAgainst>,
    /// Fulls that could not be opened, so that their cluster was left as it is.
    pub unreadable: Vec<KeptAgainst>,
    /// What stays because of those two.
    pub withheld: usize,
}

/// Looks at the archive and decides: one LIST for each 1,000 objects, and a GET for each rollup and each delta in it that was not
/// seen before. What is covered is deleted by the second plan with the same `memory` that finds it so.
///
/// # Errors
/// Those of the store; `Interrupted`.
pub async fn plan_sweep(
    archive: &Archive,
    policy: &RetentionPolicy,
    memory: &mut SweepMemory,
    context: &RunContext,
) -> Result<RetentionPlan> {
    let catalogue = context.unless_stopped(archive.catalogue()).await?;
    let now = store_now(&catalogue, context.clock.now());
    let asked = candidates(&catalogue, now, policy.covered_grace);
    let covered = match memory.look(archive, &catalogue, &asked, context).await {
        Ok(covered) => covered,
        Err(error) if error.kind() == ErrorKind::Key => {
            context.warn(format!("deltas that rollups hold stay, because that cannot be seen: {error}"));
            Covered::default()
        }
        Err(error) => return Err(error),
    };
    Ok(plan(&catalogue, policy, &covered, now))
}

/// Removes what `plan` gives up.
///
/// # Errors
/// Those of the store that are not about one object; `Interrupted`. What was removed until then was to be removed.
pub async fn run_sweep(archive: &Archive, plan: RetentionPlan, context: &RunContext) -> Result<SweepOutcome> {
    let mut outcome = SweepOutcome { plan, ..SweepOutcome::default() };
    remove(archive, &mut outcome, context).await?;
    Ok(outcome)
}

/// Removes what the plan of `outcome` gives up, and notes there what came of it.
async fn remove(archive: &Archive, outcome: &mut SweepOutcome, context: &RunContext) -> Result<()> {
    let (covered, expired): (Vec<Decided>, Vec<Decided>) = outcome
        .plan
        .deletions()
        .cloned()
        .partition(|decided| matches!(decided.decision, Decision::Delete(DeleteReason::Covered(_))));
    let mut removing =
        stream::iter(covered).map(|decided| removed(archive, decided.entry.name)).buffered(COVERED_AT_ONCE).boxed();
    while let Some((name, done)) = removing.next().await {
        outcome.note(name, done)?;
        context.check_stop()?;
        if outcome.refused.len() >= MAX_REFUSALS {
            break;
        }
    }
    drop(removing);
    let broken = prove_kept(archive, &expired, outcome, context).await?;
    let mut locked: BTreeSet<LineageId> = BTreeSet::new();
    for decided in expired {
        let name = decided.entry.name;
        let full = outcome.refused.len() >= MAX_REFUSALS;
        if full || locked.contains(&name.lineage) || broken.contains(&name.lineage.cluster) {
            outcome.withheld += 1;
            continue;
        }
        context.check_stop()?;
        let (name, done) = removed(archive, name).await;
        if !outcome.note(name, done)? {
            locked.insert(name.lineage);
        }
    }
    Ok(())
}

/// A plan and its run, for whoever sweeps again and again with one `memory`.
///
/// # Errors
/// As [`plan_sweep`] and [`run_sweep`].
pub async fn sweep(
    archive: &Archive,
    policy: &RetentionPolicy,
    memory: &mut SweepMemory,
    context: &RunContext,
) -> Result<SweepOutcome> {
    let mut outcome = SweepOutcome::default();
    sweep_into(&mut outcome, archive, policy, memory, context).await?;
    Ok(outcome)
}

/// The same, which can be dropped where it stands: `outcome` tells what was done until then.
///
/// # Errors
/// As [`sweep`].
pub async fn sweep_into(
    outcome: &mut SweepOutcome,
    archive: &Archive,
    policy: &RetentionPolicy,
    memory: &mut SweepMemory,
    context: &RunContext,
) -> Result<()> {
    outcome.plan = plan_sweep(archive, policy, memory, context).await?;
    remove(archive, outcome, context).await
}

impl SweepOutcome {
    /// Whether the same sweep, made again of the same objects, would find nothing to do: nothing went, nothing was kept
    /// against the plan, and nothing waits to be seen once more.
    pub fn is_settled(&self) -> bool {
        let open = |decided: &Decided| {
            decided.decision.deletes() || matches!(decided.decision, Decision::Keep(KeepReason::CoveredOnce(_)))
        };
        !self.plan.objects.iter().any(open)
    }

    /// Whether something stays that should have gone.
    pub fn is_hindered(&self) -> bool {
        !self.refused.is_empty() || !self.unreadable.is_empty()
    }

    /// Notes what came of a removal; whether the object is gone.
    fn note(&mut self, name: BackupName, done: Result<Removal>) -> Result<bool> {
        match done {
            Ok(removal) => {
                self.deleted.push(name);
                self.hidden += usize::from(removal == Removal::Hidden);
            }
            Err(why) if is_of_the_object(&why) => {
                self.refused.push(KeptAgainst { name, why });
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// Whether a store says no to this one object, and not that it is away.
fn is_of_the_object(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Denied | ErrorKind::Refused | ErrorKind::Invalid | ErrorKind::Local)
}

async fn removed(archive: &Archive, name: BackupName) -> (BackupName, Result<Removal>) {
    (name, archive.remove(&name).await)
}

/// Opens the fulls that stay in the place of `expired`; the clusters where one cannot be.
async fn prove_kept(
    archive: &Archive,
    expired: &[Decided],
    outcome: &mut SweepOutcome,
    context: &RunContext,
) -> Result<BTreeSet<ClusterId>> {
    let clusters: BTreeSet<ClusterId> = expired.iter().map(|decided| decided.entry.name.lineage.cluster).collect();
    let mut broken = BTreeSet::new();
    for cluster in clusters {
        for name in outcome.plan.relied_on.get(&cluster).into_iter().flatten() {
            let opened = match context.unless_stopped(archive.open(name)).await {
                // Without its key, that it begins as a backup is all that can be seen.
                Err(error) if error.kind() == ErrorKind::Key => archive.read_header(name).await.map(drop),
                opened => opened.map(drop),
            };
            match opened {
                Ok(()) => {}
                Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::Damaged | ErrorKind::Invalid) => {
                    context.warn(format!("nothing older of its cluster is removed: {why}"));
                    outcome.unreadable.push(KeptAgainst { name: *name, why });
                    broken.insert(cluster);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(broken)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::archive::{BackupEntry, Keyring};
    use crate::clock::{Clock, UnixMillis};
    use crate::format::{ArchivePrefix, NameKind, ObjectNonce};
    use crate::monitor::Recorder;
    use crate::revision::Revision;
    use crate::store::faulty::{Call, FaultyStore, Strike};
    use crate::store::{LocalStore, ObjectStore};

    fn decided(birth: i64, first: i64) -> Decided {
        let lineage = LineageId { birth: UnixMillis(birth), cluster: ClusterId(1), random: 1 };
        let kind = if first == 0 {
            NameKind::Full { seam: Revision(1) }
        } else {
            NameKind::Delta { first: Revision(first), last: Revision(first) }
        };
        let name = BackupName { lineage, kind, created: UnixMillis(birth), nonce: ObjectNonce([first as u8; 8]) };
        let entry = BackupEntry { name, stored_bytes: 1, modified: UnixMillis(birth) };
        Decided { entry, decision: Decision::Delete(DeleteReason::Expired) }
    }

    /// Two lineages go, deltas before fulls; the store will not part with the newest delta of the first one.
    #[tokio::test]
    async fn what_a_locked_object_may_need_stays_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let local = LocalStore::new(dir.path().to_str().unwrap()).unwrap();
        let store = Arc::new(FaultyStore::new(Arc::new(local)));
        let prefix = ArchivePrefix::new("c").unwrap();
        let archive = Archive::new(store.clone(), prefix.clone(), Keyring::default());
        let objects: Vec<Decided> =
            [(100, 3), (100, 2), (100, 0), (200, 2), (200, 0)].map(|(birth, first)| decided(birth, first)).into();
        for decided in &objects {
            store.put(&prefix.key(&decided.entry.name), vec![1].into()).await.unwrap();
        }
        let context = RunContext {
            clock: Clock::system(),
            monitor: Arc::new(Recorder::default()),
            stop: CancellationToken::new(),
        };
        store.fail_nth(1, Some(Call::Delete), Strike::Before, ErrorKind::Denied);
        let plan = RetentionPlan { objects: objects.clone(), ..RetentionPlan::default() };
        let outcome = run_sweep(&archive, plan, &context).await.unwrap();
        let names = |objects: &[Decided]| objects.iter().map(|decided| decided.entry.name).collect::<Vec<_>>();
        assert_eq!(outcome.deleted, names(&objects[3..]));
        assert_eq!(outcome.refused.iter().map(|kept| kept.name).collect::<Vec<_>>(), names(&objects[..1]));
        assert_eq!(outcome.withheld, 2);
        assert_eq!(archive.catalogue().await.unwrap().newest_first().len(), 3);
    }
}
