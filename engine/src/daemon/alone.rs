//! A sidecar without deltas: fulls by the schedule, each in a lineage of its own, and upkeep beside them.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::hopeless::is_hopeless;
use super::leadership::{Duty, Rota};
use super::schedule::FullSchedule;
use super::session::{count_attempt, show_full};
use super::skew::on_the_stores_time;
use super::upkeep::{Upkeep, UpkeepRequest};
use crate::archive::Archive;
use crate::backup::{FullRequest, take_full};
use crate::capture::Gauges;
use crate::clock::UnixMillis;
use crate::error::{ErrorKind, Result};
use crate::etcd::Member;
use crate::format::{BackupName, NameKind, TimeMark};
use crate::run::RunContext;

/// Between two attempts, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// The clock may be set while it is waited for.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Takes fulls when `schedule` says so, until the operator stops it; at once where the cluster has none. One that is
/// under way when `duty` ends is taken back.
///
/// # Errors
/// What is wrong from the start: flags, keys, permissions. Later on everything is tried again.
pub async fn run_fulls(
    archive: &Archive,
    request: &FullRequest,
    (schedule, duty): (&FullSchedule, Duty),
    (upkeep, gauges): (&UpkeepRequest, &Gauges),
    context: &RunContext,
) -> Result<()> {
    gauges.note(|figures| figures.version.clone_from(&request.tool_version));
    let rota = Rota::of(duty, &request.etcd, gauges.clone())?;
    rota.rehearse(archive, context).await?;
    let (context, _watched) = on_the_stores_time(archive, context);
    let upkeep = Upkeep::begin(archive, upkeep, gauges, &context);
    let ran = run_full_after_full((archive, gauges), request, (schedule, rota), &context).await;
    upkeep.end().await;
    ran
}

async fn run_full_after_full(
    (archive, gauges): (&Archive, &Gauges),
    request: &FullRequest,
    (schedule, mut rota): (&FullSchedule, Rota<'_>),
    context: &RunContext,
) -> Result<()> {
    let (mut pause, longest) = PAUSES;
    let mut newest = None;
    let mut worked = false;
    loop {
        let Some(tenure) = rota.tenure(context).await? else { return Ok(()) };
        newest = newest.filter(|_| !tenure.is_new);
        worked |= rota.has_stood_by();
        let held = &tenure.context;
        let attempt = async {
            let newest = match newest {
                Some(newest) => Some(newest),
                None => newest_full((archive, gauges), request, held).await?,
            };
            wait_until_due(schedule, newest, held).await;
            let (started, due) = (Instant::now(), held.clock.now());
            gauges.note(|figures| figures.full_due = figures.full_due.or(Some(due)));
            let taken = take_full(archive, request, held).await;
            count_attempt(gauges, started, taken.as_ref().map(drop));
            taken
        };
        match held.unless_stopped(attempt).await {
            Ok(full) => {
                context.note(format!("{} is durable", full.name));
                show_full(gauges, &full);
                gauges.note(|figures| figures.full_due = None);
                (newest, worked, pause) = (Some(full.name.created), true, PAUSES.0);
            }
            Err(_) if tenure.is_lost() => context.note("the member leads no more"),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) if !worked && is_hopeless(&error) => return Err(error),
            Err(error) => {
                gauges.note(|figures| figures.retries.fulls += 1);
                context.warn(format!("a full has failed, and is tried again in {pause:?}: {error}"));
                let until = Instant::now() + pause;
                pause = longest.min(pause * 2);
                tokio::select! {
                    () = context.stop.cancelled() => return Ok(()),
                    () = sleep_until(until) => {}
                }
            }
        }
    }
}

async fn wait_until_due(schedule: &FullSchedule, newest: Option<UnixMillis>, context: &RunContext) {
    let Some(newest) = newest else { return };
    loop {
        let now = context.clock.now();
        match schedule.next_full(newest, now) {
            Some(due) if due <= now => return,
            Some(due) => sleep(LOOK_EVERY.min(Duration::from_millis(due.0.abs_diff(now.0)))).await,
            None => std::future::pending().await,
        }
    }
}

/// When the newest full of the cluster was begun; it is shown.
async fn newest_full(
    (archive, gauges): (&Archive, &Gauges),
    request: &FullRequest,
    context: &RunContext,
) -> Result<Option<UnixMillis>> {
    let cluster = Member::pin(&request.etcd, &*context.monitor).await?.identity().cluster;
    let catalogue = archive.catalogue().await?;
    let full = |name: &BackupName| match name.kind {
        NameKind::Full { seam } => Some(TimeMark { time: name.created, revision: seam }),
        NameKind::Delta { .. } => None,
    };
    let of_cluster = catalogue.newest_first().into_iter().filter(|entry| entry.name.lineage.cluster == cluster);
    let newest = of_cluster.filter_map(|entry| full(&entry.name)).next();
    gauges.note(|figures| figures.newest_full = newest);
    Ok(newest.map(|newest| newest.time))
}
