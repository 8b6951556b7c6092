//! Fulls inside the lineage that is being captured: when one is due, and the task that takes it.
//!
//! Capture never waits for a full. There is one at a time; one that fails is told and tried again, ever more seldom, and
//! one whose capture has paused is taken back. What asked for it asks on until a full that was begun later is durable.

use std::collections::BTreeSet;
use std::fmt;
use std::future::pending;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::schedule::FullSchedule;
use crate::backup::FullSummary;
use crate::clock::{Clock, UnixMillis};
use crate::error::{Error, ErrorKind, Result};

/// Between two attempts, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// The clock may be set while it is waited for.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Why a full is taken inside a lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum FullReason {
    /// Users, roles or permissions are others: no watch tells which.
    AuthChanged,
    /// The deltas since the newest full have become many bytes.
    ManyDeltas,
    /// The schedule says so.
    Scheduled,
}

impl FullReason {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::AuthChanged, Self::ManyDeltas, Self::Scheduled];

    /// For counters.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::AuthChanged => "auth-changed",
            Self::ManyDeltas => "many-deltas",
            Self::Scheduled => "scheduled",
        }
    }
}

impl fmt::Display for FullReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AuthChanged => "users, roles or permissions have changed",
            Self::ManyDeltas => "the deltas since the last one have become many",
            Self::Scheduled => "it is time",
        })
    }
}

/// What has come of the task of a full.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is durable.
    Stored(Box<FullSummary>),
    /// Nothing shows that it would be of the lineage's history. Nothing was stored.
    Unproven(Error),
}

impl Taken {
    /// Whether there is a full now.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn stored(&self) -> Result<(), &Error> {
        match self {
            Self::Stored(_) => Ok(()),
            Self::Unproven(why) => Err(why),
        }
    }
}

/// What is to be done about fulls.
#[derive(Debug)]
pub(super) enum Turn {
    /// One is due.
    Begin,
    /// The one that was under way has ended; it was taken for these reasons.
    Ended(Result<Taken>, BTreeSet<FullReason>),
}

/// The full that is under way, and those that are wanted.
#[derive(Debug)]
pub(super) struct Fulls {
    schedule: Option<FullSchedule>,
    wanted: BTreeSet<FullReason>,
    running: Option<Running>,
    next_attempt: Instant,
    pause: Duration,
}

#[derive(Debug)]
struct Running {
    task: JoinHandle<Result<Taken>>,
    reasons: BTreeSet<FullReason>,
    /// Dropped, it calls the task off.
    call_off: Option<DropGuard>,
}

impl Fulls {
    /// None is wanted, until `schedule` says so.
    pub(super) fn by(schedule: Option<FullSchedule>) -> Self {
        Self { schedule, wanted: BTreeSet::new(), running: None, next_attempt: Instant::now(), pause: PAUSES.0 }
    }

    /// One is wanted that is begun after this call.
    pub(super) fn want(&mut self, reason: FullReason) {
        self.wanted.insert(reason);
    }

    /// Whether one is wanted, or under way because it was.
    pub(super) fn is_due(&self) -> bool {
        !self.wanted.is_empty() || self.running.as_ref().is_some_and(|running| !running.reasons.is_empty())
    }

    /// Why one is wanted, in words.
    pub(super) fn why(&self) -> String {
        self.wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    /// A word for each reason, for counters.
    pub(super) fn reasons(&self) -> impl Iterator<Item = &'static str> {
        self.wanted.iter().map(|reason| reason.word())
    }

    /// Another lineage was opened, with a full that has everything.
    pub(super) fn forget(&mut self) {
        self.wanted.clear();
        if let Some(running) = &mut self.running {
            running.reasons.clear();
        }
        (self.next_attempt, self.pause) = (Instant::now(), PAUSES.0);
    }

    /// Waits until there is something to do, where the newest full of the lineage was begun at `newest`. A call that is
    /// dropped loses nothing.
    pub(super) async fn turn(&mut self, newest: UnixMillis, clock: &Clock) -> Turn {
        if let Some(running) = &mut self.running {
            let ended = (&mut running.task).await;
            let reasons = self.running.take().map(|running| running.reasons).unwrap_or_default();
            let lost = |error| Error::new(ErrorKind::Internal, "the task of a full ended by itself").caused_by(error);
            return Turn::Ended(ended.map_err(lost).flatten(), reasons);
        }
        if self.wanted.is_empty() {
            self.wait_for_schedule(newest, clock).await;
            self.wanted.insert(FullReason::Scheduled);
        }
        sleep_until(self.next_attempt).await;
        Turn::Begin
    }

    async fn wait_for_schedule(&self, newest: UnixMillis, clock: &Clock) {
        let Some(schedule) = &self.schedule else { return pending().await };
        loop {
            let now = clock.now();
            match schedule.next_full(newest, now) {
                Some(due) if due <= now => return,
                Some(due) => sleep(LOOK_EVERY.min(Duration::from_millis(due.0.abs_diff(now.0)))).await,
                None => return pending().await,
            }
        }
    }

    /// `task` takes one, for all that want one, and ends when `stop` is cancelled.
    pub(super) fn begun(&mut self, task: JoinHandle<Result<Taken>>, stop: CancellationToken) {
        let reasons = std::mem::take(&mut self.wanted);
        self.running = Some(Running { task, reasons, call_off: Some(stop.drop_guard()) });
    }

    /// It is durable.
    pub(super) fn succeeded(&mut self) {
        (self.next_attempt, self.pause) = (Instant::now(), PAUSES.0);
    }

    /// It has failed, and is tried again for the same `reasons`: after how long.
    pub(super) fn failed(&mut self, reasons: BTreeSet<FullReason>) -> Duration {
        self.wanted.extend(reasons);
        let pause = self.pause;
        self.next_attempt = Instant::now() + pause;
        self.pause = PAUSES.1.min(pause * 2);
        pause
    }

    /// Capture has paused: the one that is under way cannot be proven any more. It takes back what it sent, which nobody
    /// waits for; the next one is begun after that.
    pub(super) fn give_up(&mut self) {
        if let Some(running) = &mut self.running {
            running.call_off = None;
        }
    }

    /// Waits until the one that is under way has taken back what it sent.
    pub(super) async fn call_off(self) {
        if let Some(Running { task, call_off, .. }) = self.running {
            drop(call_off);
            // However it ends, it ends.
            let _ = task.await;
        }
    }
}
