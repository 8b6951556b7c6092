//! A steady load of puts, and how long each took: what an application beside a backup feels.

use std::time::Duration;

use etcd_client::Client;
use etcdbr_tests::load::Noise;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_millis(4);
const VALUE_BYTES: usize = 1_024;
const KEYS: u64 = 2_000;

/// Puts every 4 ms until `stop`, whether the ones before were answered or not; answers the time that each took.
///
/// # Panics
/// Where etcd refuses one.
pub(crate) async fn steady(client: Client, stop: CancellationToken) -> Vec<Duration> {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut noise = Noise::new(11);
    let mut flights = JoinSet::new();
    loop {
        let due = tokio::select! {
            due = ticks.tick() => due,
            () = stop.cancelled() => break,
        };
        let (key, value) = (format!("/bench/puts/{:04}", noise.next_u64() % KEYS), noise.bytes(VALUE_BYTES));
        let mut client = client.clone();
        flights.spawn(async move {
            client.put(key, value, None).await.expect("a put");
            // From when it was due: a load that waits for slow answers would hide them.
            Instant::now().duration_since(due)
        });
    }
    flights.join_all().await
}

/// The time that 99 of 100 took no longer than.
pub(crate) fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get((times.len() * 99 / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}
