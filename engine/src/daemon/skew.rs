//! A clock that is far off the store's: it is said, and times are the store's then.
//!
//! What is in a store is found by time: a cluster whose clock is an hour off would give back another moment than the one
//! that was asked for, and its lineages would seem to be written in turns with others.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::run::RunContext;

/// A clock that is farther from the store's than this is not believed.
const TOLERANCE_MS: u64 = 30_000;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The same `context` with the store's time where the two clocks are far apart; that is told, once each time it begins, for
/// as long as the second value is held.
pub(super) fn on_the_stores_time(archive: &Archive, context: &RunContext) -> (RunContext, AbortOnDropHandle<()>) {
    let store = archive.clone();
    let clock = context.clock.held_against(move || store.store_time(), TOLERANCE_MS);
    let watching = tokio::spawn(watch(archive.clone(), context.clone()));
    (RunContext { clock, ..context.clone() }, AbortOnDropHandle::new(watching))
}

async fn watch(archive: Archive, context: RunContext) {
    let mut told = false;
    loop {
        if let Some(skew_s) = skew_s(&archive, &context.clock) {
            if !told {
                let which = if skew_s > 0 { "ahead of" } else { "behind" };
                context.warn(format!(
                    "the clock is {} s {which} the store's: backups are marked with the store's time",
                    skew_s.unsigned_abs()
                ));
            }
            told = true;
        } else {
            told = false;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// How far the clock is ahead of the store's, where that is far.
fn skew_s(archive: &Archive, clock: &Clock) -> Option<i64> {
    let skew_ms = clock.now().0 - archive.store_time()?.0;
    (skew_ms.unsigned_abs() > TOLERANCE_MS).then_some(skew_ms / 1000)
}
