//! The life of a sidecar: sessions with one member each, and what leads from one to the next.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fulls::Fulls;
use super::hopeless::is_hopeless;
use super::leadership::Rota;
use super::request::SidecarRequest;
use super::session::{Ended, Session};
use super::skew::on_the_stores_time;
use super::upkeep::Upkeep;
use crate::archive::Archive;
use crate::backup::check_policy;
use crate::capture::{Line, Outbox};
use crate::error::{ErrorKind, Result};
use crate::run::RunContext;

/// Between two attempts to reach etcd or the store, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How often the outbox is looked at while the store is behind.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs until the operator stops it.
///
/// # Errors
/// What is wrong from the start: flags, keys, permissions, an archive that is encrypted while no key was given. Later
/// on everything is tried again; at the end `Unavailable` where what was captured could not be made durable.
pub async fn run_sidecar(archive: &Archive, request: &SidecarRequest, context: &RunContext) -> Result<()> {
    request.gauges.note(|figures| figures.version.clone_from(&request.full.tool_version));
    let rota = Rota::of(request.duty, &request.full.etcd, request.gauges.clone())?;
    context.unless_stopped(check_policy(archive, context)).await?;
    rota.rehearse(archive, context).await?;
    let (context, _watched) = on_the_stores_time(archive, context);
    let context = &context;
    let outbox = Outbox::open(archive.clone(), request.memory_limit, request.gauges.clone(), context);
    let upkeep = Upkeep::begin(archive, &request.upkeep, &request.gauges, context);
    let (mut line, mut fulls) = (None, Fulls::by(request.schedule.clone()));
    let ran = run_sessions((archive, &outbox), (request, rota), (&mut line, &mut fulls), context).await;
    fulls.call_off().await;
    leave(&mut line).await;
    let drained = outbox.drain(request.shutdown_timeout).await;
    upkeep.end().await;
    ran.and(drained)
}

async fn run_sessions(
    (archive, outbox): (&Archive, &Outbox),
    (request, mut rota): (&SidecarRequest, Rota<'_>),
    (line, fulls): (&mut Option<Line>, &mut Fulls),
    context: &RunContext,
) -> Result<()> {
    let (mut pause, longest) = PAUSES;
    let mut worked = false;
    let (mut ended, mut forced) = (BTreeSet::new(), None);
    while !context.stop.is_cancelled() {
        let Some(tenure) = rota.tenure(context).await? else { return Ok(()) };
        if tenure.is_new {
            // As after a restart: what is known of the lineages may be others' past.
            leave(line).await;
            fulls.forget();
            (ended, forced) = (BTreeSet::new(), None);
        }
        worked |= rota.has_stood_by();
        let (held, ended, forced) = (&tenure.context, &mut ended, &mut forced);
        let mut session = Session { archive, request, outbox, context: held, fulls, ended, forced, captured: false };
        let ran = session.run(line).await;
        let captured = session.captured;
        fulls.give_up();
        if tenure.is_lost() {
            context.note("the member leads no more");
            // A full that is to open a lineage is taken back, with what waits for it: the next leader opens its own.
            leave(line).await;
            (worked, pause) = (true, PAUSES.0);
            continue;
        }
        match ran {
            Ok(Ended::Stopped) => return Ok(()),
            Ok(Ended::Reconnect(why)) => context.note(format!("capture pauses: {why}")),
            Ok(Ended::StoreBehind) => wait_for_room(outbox, context).await,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) if !worked && !captured && is_hopeless(&error) => return Err(error),
            Err(error) => context.warn(format!("capture pauses: {error}")),
        }
        worked |= captured;
        if captured {
            pause = PAUSES.0;
        }
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => pause = longest.min(pause * 2),
        }
        outbox.gauges().note(|figures| figures.retries.sessions += 1);
    }
    Ok(())
}

/// Forgets the line. A full that was to open it is called off, and takes back what it sent.
async fn leave(line: &mut Option<Line>) {
    if let Some(opening) = line.take().and_then(|line| line.opening) {
        opening.call_off().await;
    }
}

async fn wait_for_room(outbox: &Outbox, context: &RunContext) {
    let bytes = outbox.waiting_bytes();
    context.warn(format!("capture pauses: {bytes} bytes wait for the store; it goes on when half of them are stored"));
    while !outbox.has_room() && !context.stop.is_cancelled() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
