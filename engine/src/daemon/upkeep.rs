//! What a sidecar does for its archive beside capture: it rolls narrow deltas up, removes what no policy keeps, and aborts
//! the uploads that killed backups left behind.
//!
//! One task, one chore at a time, in bounded memory. Capture and fulls never wait for it: what fails is told, counted, and
//! tried again, ever more seldom, and ends nothing. Every chore may be dropped where it stands (their arguments are in
//! `rollup` and `gc`), so that a shutdown does not wait either.
//!
//! # Why an archive that stands still is left alone
//! What is rolled up is decided by names and the clock, what is removed by names and the store's clock as its newest object
//! shows it. So where this process has stored nothing since the last look, and that look left nothing to be done, another
//! one would find nothing: none is made. Those who store something look for themselves.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::pace::{Left, Retry, SweepTurns, Turns};
use crate::archive::Archive;
use crate::capture::Gauges;
use crate::clock::{UnixMillis, random_bytes};
use crate::error::{ErrorKind, Result};
use crate::format::{BackupName, NameKind};
use crate::gc::{SweepMemory, SweepOutcome, UploadsRequest, abort_uploads, plan_uploads, sweep_into};
use crate::retention::RetentionPolicy;
use crate::rollup::{RollupOptions, RollupPlan, RollupTurns, list_and_plan, run_plan};
use crate::run::RunContext;

/// How often it is looked whether something is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a shutdown waits for a rollup to take back what it has sent.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Abandoned uploads are looked for so many times in their grace, at most.
const LOOKS_A_GRACE: u32 = 24;

/// What is done for the archive.
#[derive(Debug, Clone)]
pub struct UpkeepRequest {
    /// When deltas are rolled up, and how.
    pub rollup: RollupOptions,
    /// What is removed, and when; nothing ever without it.
    pub sweeping: Option<Sweeping>,
}

/// What is removed, and when.
#[derive(Debug, Clone)]
pub struct Sweeping {
    /// How often.
    pub every: Duration,
    /// What stays.
    pub policy: RetentionPolicy,
    /// Uploads that were begun less than this ago may be under way.
    pub uploads: UploadsRequest,
}

/// Upkeep under way; dropped, it ends where it stands.
#[derive(Debug)]
pub(super) struct Upkeep {
    task: AbortOnDropHandle<()>,
    stop: DropGuard,
}

impl Upkeep {
    /// Begins to keep up `archive`. What capture stores is read from `gauges`, and what is done is shown there.
    pub(super) fn begin(archive: &Archive, request: &UpkeepRequest, gauges: &Gauges, context: &RunContext) -> Self {
        let stop = context.stop.child_token();
        let context = RunContext { stop: stop.clone(), ..context.clone() };
        let keeper = Keeper::new(archive.clone(), request.clone(), gauges.clone(), context);
        let task: JoinHandle<()> = tokio::spawn(keeper.run(stop.clone()));
        Self { task: AbortOnDropHandle::new(task), stop: stop.drop_guard() }
    }

    /// Ends it: at once, but for a rollup, which takes back what it has sent.
    pub(super) async fn end(self) {
        drop(self.stop);
        // Whatever is left then is dropped where it stands.
        let _ = timeout(STOP_PATIENCE, self.task).await;
    }
}

/// Does one chore after the other.
struct Keeper {
    archive: Archive,
    gauges: Gauges,
    context: RunContext,
    rollup: RollupOptions,
    rollups: RollupTurns,
    rollups_again: Retry,
    sweeper: Option<Sweeper>,
}

/// What is removed, and when.
struct Sweeper {
    sweeping: Sweeping,
    sweeps: SweepTurns,
    sweeps_again: Retry,
    uploads: Turns,
    uploads_again: Retry,
    memory: SweepMemory,
}

impl Sweeper {
    fn new(sweeping: Sweeping, now: UnixMillis) -> Self {
        let looks_at_uploads = sweeping.every.max(sweeping.uploads.older_than / LOOKS_A_GRACE);
        Self {
            sweeps: SweepTurns::new(sweeping.every, now),
            sweeps_again: Retry::default(),
            uploads: Turns::new(looks_at_uploads, now),
            uploads_again: Retry::default(),
            memory: SweepMemory::default(),
            sweeping,
        }
    }
}

impl Keeper {
    fn new(archive: Archive, request: UpkeepRequest, gauges: Gauges, context: RunContext) -> Self {
        let now = context.clock.now();
        Self {
            archive,
            gauges,
            context,
            rollups: RollupTurns::new(request.rollup.policy.clone(), now, chance()),
            rollup: request.rollup,
            rollups_again: Retry::default(),
            sweeper: request.sweeping.map(|sweeping| Sweeper::new(sweeping, now)),
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(LOOK_EVERY) => {}
            }
            self.turn().await;
        }
    }

    /// Does what is due, one after the other.
    async fn turn(&mut self) {
        // Who stands by leaves it to the leader's; for a moment both may do the same, which is no harm.
        if self.gauges.figures().leads == Some(false) {
            return;
        }
        let now = self.context.clock.now();
        self.rollups.note(self.gauges.figures().captured_objects(), now);
        if self.rollups.is_due(now) && self.rollups_again.may(now) {
            let done = self.roll_up().await;
            self.came_of("rollup", done, |keeper| Some(&mut keeper.rollups_again));
        }
        let (now, stored) = (self.context.clock.now(), self.stored());
        if self.sweeper.as_ref().is_some_and(|own| own.sweeps.is_due(now, stored) && own.sweeps_again.may(now)) {
            let done = self.sweep().await;
            self.came_of("sweep", done, |keeper| keeper.sweeper.as_mut().map(|own| &mut own.sweeps_again));
        }
        if self.sweeper.as_ref().is_some_and(|own| own.sweeps.is_needless(now, stored)) {
            self.gauges.note(|figures| figures.upkeep.last_sweep = figures.upkeep.last_sweep.map(|_| now));
        }
        let now = self.context.clock.now();
        if self.sweeper.as_ref().is_some_and(|own| own.uploads.is_due(now) && own.uploads_again.may(now)) {
            let done = self.abort_uploads().await;
            self.came_of("uploads", done, |keeper| keeper.sweeper.as_mut().map(|own| &mut own.uploads_again));
        }
    }

    /// Objects that this process has stored.
    fn stored(&self) -> u64 {
        let figures = self.gauges.figures();
        figures.captured_objects() + figures.upkeep.rollups
    }

    /// Tells a failure, and has the chore wait for its next attempt.
    fn came_of(&mut self, chore: &'static str, done: Result<()>, retry: impl FnOnce(&mut Self) -> Option<&mut Retry>) {
        let now = self.context.clock.now();
        let Some(retry) = retry(self) else { return };
        match done {
            Ok(()) => retry.worked(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                let again = retry.failed(now);
                self.gauges.note(|figures| *figures.upkeep.failures.entry(chore).or_default() += 1);
                let what = match chore {
                    "rollup" => "a rollup",
                    "sweep" => "a sweep",
                    _ => "a look for abandoned uploads",
                };
                self.context.warn(format!("{what} has failed, and is tried again in {again:?}: {error}"));
            }
        }
    }

    /// Rolls up what is due, a span at a time, so that each is told when it is there.
    async fn roll_up(&mut self) -> Result<()> {
        let now = self.context.clock.now();
        let (archive, options) = (&self.archive, &self.rollup);
        let plan = list_and_plan(archive, options, &self.context).await?;
        for span in plan.spans {
            let one = RollupPlan { spans: vec![span] };
            for (rollup, parts) in run_plan(archive, &one, options, &self.context).await?.written {
                self.context.note(format!("rolled up {parts} deltas into {}", rollup.name));
                self.gauges.note(|figures| {
                    figures.upkeep.rollups += 1;
                    figures.upkeep.rolled_up += parts as u64;
                });
            }
        }
        self.rollups.looked(now, chance());
        Ok(())
    }

    async fn sweep(&mut self) -> Result<()> {
        let begun = (self.context.clock.now(), self.stored());
        let Some(own) = &mut self.sweeper else { return Ok(()) };
        let mut outcome = SweepOutcome::default();
        let sweep = sweep_into(&mut outcome, &self.archive, &own.sweeping.policy, &mut own.memory, &self.context);
        let swept = self.context.unless_stopped(sweep).await;
        if swept.is_ok() {
            let left = match (outcome.is_hindered(), outcome.is_settled()) {
                (true, _) => Left::Hindered,
                (false, false) => Left::More,
                (false, true) => Left::Nothing,
            };
            own.sweeps.taken(begun, left, chance());
            let ended = self.context.clock.now();
            self.gauges.note(|figures| figures.upkeep.last_sweep = Some(ended));
        }
        self.show_sweep(&outcome);
        swept
    }

    /// Tells what a sweep has done, also one that was broken off.
    fn show_sweep(&self, outcome: &SweepOutcome) {
        let removed = outcome.deleted.iter().map(|name| (name, true));
        let refused = outcome.refused.iter().map(|kept| (&kept.name, false));
        self.gauges.note(|figures| {
            for (name, succeeded) in removed.chain(refused) {
                *figures.upkeep.removals.entry((kind(name), succeeded)).or_default() += 1;
            }
        });
        let (deleted, refused) = (outcome.deleted.len(), outcome.refused.len());
        let line = format!("swept: {deleted} objects deleted, {refused} refused");
        match outcome.refused.first() {
            Some(kept) => self.context.warn(format!("{line}: {}", kept.why)),
            None if deleted > 0 => self.context.note(line),
            None => {}
        }
    }

    async fn abort_uploads(&mut self) -> Result<()> {
        let now = self.context.clock.now();
        let Some(own) = &mut self.sweeper else { return Ok(()) };
        let (archive, context) = (&self.archive, &self.context);
        let aborting = async {
            let plan = plan_uploads(archive, own.sweeping.uploads, context).await?;
            abort_uploads(archive, &plan, context).await.map(|()| plan.abort.len())
        };
        let aborted = context.unless_stopped(aborting).await?;
        own.uploads.taken(now, chance());
        if aborted > 0 {
            self.gauges.note(|figures| figures.upkeep.aborted_uploads += aborted as u64);
            context.note(format!("aborted {aborted} abandoned uploads"));
        }
        Ok(())
    }
}

/// As `etcdbrctl` calls it.
fn kind(name: &BackupName) -> &'static str {
    match name.kind {
        NameKind::Full { .. } => "Full",
        NameKind::Delta { .. } => "Incr",
    }
}

/// Any number; without an operating system that has one to give, all sidecars look at once.
fn chance() -> u64 {
    random_bytes().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
