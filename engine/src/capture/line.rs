//! The lineage that is being written.

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::outbox::{Gate, GateKeeper};
use super::trail::Trail;
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};

/// Where capture stands, and whether its lineage is there already.
#[derive(Debug)]
pub struct Line {
    /// The position, and what proves it.
    pub trail: Trail,
    /// Behind it the lineage's deltas wait for its first full.
    pub gate: Gate,
    /// That full, while it is being taken.
    pub opening: Option<Opening>,
    /// The last time mark.
    pub marked: UnixMillis,
    /// What is known of its fulls.
    pub fulls: FullsOfLine,
}

/// What a lineage's fulls have, and what has come since the newest one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullsOfLine {
    /// When the newest one was begun.
    pub newest: UnixMillis,
    /// Bytes of the deltas since then, as stored.
    pub delta_bytes: u64,
    /// Users and roles as they were seen last, by that full at first; empty where they may not be asked about.
    pub auth_state: Vec<u8>,
}

impl Line {
    /// A lineage that is in the archive, last marked at `marked`.
    pub fn of(trail: Trail, marked: UnixMillis, fulls: FullsOfLine) -> Self {
        Self { trail, gate: Gate::open(), opening: None, marked, fulls }
    }

    /// A lineage that `full` opens.
    ///
    /// `full` ends when `stop` is cancelled.
    pub fn opened_by(
        trail: Trail,
        (marked, auth_state): (UnixMillis, Vec<u8>),
        full: JoinHandle<Result<()>>,
        stop: CancellationToken,
    ) -> Self {
        let (keeper, gate) = Gate::closed();
        let opening = Opening { full, keeper: Some(keeper), _call_off: stop.drop_guard() };
        let fulls = FullsOfLine { newest: marked, delta_bytes: 0, auth_state };
        Self { trail, gate, opening: Some(opening), marked, fulls }
    }

    /// The time as this lineage knows it: it never goes back.
    pub(super) fn tick(&self, now: UnixMillis) -> UnixMillis {
        now.max(self.marked)
    }
}

/// A full that is being taken. Dropped, it is called off and takes back what it has sent; what waits for it is
/// condemned.
#[derive(Debug)]
pub struct Opening {
    full: JoinHandle<Result<()>>,
    keeper: Option<GateKeeper>,
    _call_off: DropGuard,
}

impl Opening {
    /// Waits until the full is durable, and lets through what waits for it. Waits for ever where there is none. A call
    /// that is dropped loses nothing.
    ///
    /// # Errors
    /// Those of the full.
    pub(super) async fn durable(opening: &mut Option<Self>) -> Result<()> {
        let Some(waiting) = opening else { return std::future::pending().await };
        let done = (&mut waiting.full).await;
        let keeper = opening.take().and_then(|mut opening| opening.keeper.take());
        done.map_err(|error| Error::new(ErrorKind::Internal, "the task of a full ended by itself").caused_by(error))??;
        if let Some(keeper) = keeper {
            keeper.open();
        }
        Ok(())
    }

    /// Calls the full off and waits until it has taken back what it sent.
    pub async fn call_off(self) {
        let Self { full, _call_off, .. } = self;
        drop(_call_off);
        // However it ends, it ends.
        let _ = full.await;
    }
}
