//! One member, one watch: which lineage is gone on with, and when a new one is opened.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fulls::{FullReason, Fulls, Taken, Turn};
use super::reasons;
use super::request::SidecarRequest;
use crate::archive::Archive;
use crate::backup::{
    Beginning, FullSummary, HashKvOutcome, SeamWitness, begin_full, begin_full_within, run_full, source,
};
use crate::capture::{
    Capture, End, Gauges, LastFull, LastHashKv, Line, Outbox, Pause, Resumed, Resumption, StoredKind, Trail, Witness,
    newest_line, resume,
};
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::{Member, WatchEnd};
use crate::format::{HashKvAnswer, HistoryDigest, LineageId, NameKind, Seam, Source, TimeMark};
use crate::monitor::Event;
use crate::revision::Revision;
use crate::run::RunContext;

/// Why a session is over.
pub(super) enum Ended {
    /// The operator stopped it.
    Stopped,
    /// Another session may go on, for this reason.
    Reconnect(String),
    /// Another session may go on once the store has taken something.
    StoreBehind,
}

/// What a session works with.
pub(super) struct Session<'a> {
    pub(super) archive: &'a Archive,
    pub(super) request: &'a SidecarRequest,
    pub(super) outbox: &'a Outbox,
    pub(super) context: &'a RunContext,
    /// Those beside capture, over all sessions.
    pub(super) fulls: &'a mut Fulls,
    /// Lineages that cannot be gone on with, for as long as this process remembers.
    pub(super) ended: &'a mut BTreeSet<LineageId>,
    /// Why the last one of them could not, until another one is opened or gone on with.
    pub(super) forced: &'a mut Option<&'static str>,
    /// Whether it has got as far as capturing.
    pub(super) captured: bool,
}

impl Session<'_> {
    /// Goes on with `line`, or with what the archive holds, or opens a new lineage; then captures until something ends
    /// it. `line` is where the next session goes on; none where it must open a lineage.
    ///
    /// # Errors
    /// Those of etcd and of the store.
    pub(super) async fn run(&mut self, line: &mut Option<Line>) -> Result<Ended> {
        let (context, was_stored) = (self.context, line.is_none());
        let begun = async {
            let member = Member::pin(&self.request.full.etcd, &*context.monitor).await?;
            let source = source(member.identity(), &member.status().await?);
            let known = match line.take() {
                Some(known) => Some(known),
                None => self.line_of_archive(&member, None).await?,
            };
            Ok((member, source, known))
        };
        let (member, source, known) = context.unless_stopped(begun).await?;
        let resumed = match known {
            // Put back at once: an error on the way must not cost the lineage.
            Some(known) => match self.resume(&member, line.insert(known)).await? {
                Ok(resumed) => {
                    if let Some(line) = line.as_ref().filter(|_| was_stored) {
                        self.show_stored(line);
                    }
                    Some(resumed)
                }
                Err(why) => {
                    self.forced.get_or_insert(why);
                    None
                }
            },
            None => None,
        };
        let resumed = match resumed {
            Some(resumed) => resumed,
            None => {
                self.ended.extend(line.take().map(|line| line.trail.lineage));
                let (opened, resumed) = self.open_lineage(&member).await?;
                *line = Some(opened);
                self.fulls.forget();
                resumed
            }
        };
        let Some(line_now) = line else { return Ok(Ended::Reconnect("there is no lineage".to_owned())) };
        (*self.forced, self.captured) = (None, true);
        let followed = self.follow(member, source, resumed, line_now).await;
        // What would follow a full that never came could not be stored: another lineage is opened.
        let lost = line_now.gate.is_condemned() || followed.as_ref().is_ok_and(|(_, keep)| !keep);
        if lost {
            self.forced.get_or_insert(reasons::FULL_FAILED);
            self.ended.extend(line.take().map(|line| line.trail.lineage));
        }
        followed.map(|(ended, _)| ended)
    }

    async fn line_of_archive(&self, member: &Member, before: Option<LineageId>) -> Result<Option<Line>> {
        let catalogue = self.archive.catalogue().await?;
        let wanted = |id: &LineageId| before.is_none_or(|before| *id < before) && !self.ended.contains(id);
        newest_line(self.archive, &catalogue, member.identity().cluster, wanted).await
    }

    /// A watch that goes on with `line`; the word for the reason where that cannot be proven, which is told.
    async fn resume(&self, member: &Member, line: &mut Line) -> Result<Result<Resumed, &'static str>> {
        let resuming = resume(member, &mut line.trail, self.request.capture.watch);
        match self.context.unless_stopped(resuming).await? {
            Resumption::Proven(resumed) => {
                let Trail { lineage, .. } = &line.trail;
                let position = line.trail.position().revision;
                self.context.note(format!("going on with lineage {lineage} behind revision {position}"));
                let now = self.context.clock.now();
                self.outbox.gauges().note(|figures| {
                    figures.watch_resumes += 1;
                    figures.proven = Some(now);
                });
                Ok(Ok(*resumed))
            }
            Resumption::Unproven(why) => {
                self.context.warn(format!(
                    "lineage {} ends ({}): {why}; a new full opens another one",
                    line.trail.lineage,
                    why.reason()
                ));
                Ok(Err(why.reason()))
            }
        }
    }

    /// Opens a lineage: the watch first, then the full.
    async fn open_lineage(&self, member: &Member) -> Result<(Line, Resumed)> {
        let begun = self.context.unless_stopped(begin_full(member, self.context)).await?;
        let start = begun.seam().revision.next();
        let watching = async { member.watch(start, self.request.capture.watch).await.map_err(WatchEnd::into_error) };
        let watch = self.context.unless_stopped(watching).await?;
        let lineage = begun.name().lineage;
        let reason = self.forced.unwrap_or(reasons::FIRST);
        self.outbox.gauges().note(|figures| *figures.fulls.entry(reason).or_default() += 1);
        let trail = Trail::at_seam(lineage, begun.seam().clone(), begun.standing());
        let (seam, auth_state) = (begun.time_mark(), begun.auth_state().to_vec());
        let stop = CancellationToken::new();
        let full = {
            let (archive, request) = (self.archive.clone(), self.request.full.clone());
            let context = RunContext { stop: stop.clone(), ..self.context.clone() };
            let gauges = self.outbox.gauges().clone();
            tokio::spawn(async move {
                let started = Instant::now();
                let ran = run_full(begun, &archive, &request, &context).await;
                count_attempt(&gauges, started, ran.as_ref().map(drop));
                let full = ran?;
                // Before any delta can be: they wait for this task's end.
                context.monitor.tell(Event::Durable { lineage: lineage.to_string(), revision: seam.revision });
                gauges.note(|figures| figures.durable = Some(seam));
                show_full(&gauges, &full);
                Ok(())
            })
        };
        let resumed = Resumed { watch, ahead: None, penultimate: None };
        Ok((Line::opened_by(trail, (seam.time, auth_state), full, stop), resumed))
    }

    /// Captures until the watch, the lineage or the store's patience ends; whether the line may be gone on with.
    async fn follow(
        &mut self,
        member: Member,
        source: Source,
        resumed: Resumed,
        line: &mut Line,
    ) -> Result<(Ended, bool)> {
        let options = &self.request.capture;
        let channels = (self.archive, self.outbox);
        let mut capture = Capture::begin(channels, options, self.context, (member.clone(), source.clone()), resumed);
        loop {
            self.show_standing(line);
            let opening = line.opening.is_some();
            let (newest, clock) = (line.fulls.newest, &self.context.clock);
            let turn = async { if opening { pending().await } else { self.fulls.turn(newest, clock).await } };
            match capture.follow(line, turn).await? {
                Pause::Opened => {
                    self.context.note(format!("lineage {} is open", line.trail.lineage));
                    if let Some((older, resumed)) = self.older_line(&member, line.trail.lineage).await? {
                        *line = older;
                        capture =
                            Capture::begin(channels, options, self.context, (member.clone(), source.clone()), resumed);
                    }
                }
                Pause::AuthChanged => self.fulls.want(FullReason::AuthChanged),
                Pause::ManyDeltas => self.fulls.want(FullReason::ManyDeltas),
                Pause::Aside(Turn::Begin) => self.begin_full_beside(&member, &mut capture, line),
                Pause::Aside(Turn::Ended(taken, reasons)) => {
                    if let Some(why) = self.full_ended(taken, reasons, line) {
                        return Ok((Ended::Reconnect(why), false));
                    }
                }
                Pause::Ended(end) => return Ok(self.ended(end)),
            }
        }
    }

    /// What a line that was read from the archive says is durable.
    fn show_stored(&self, line: &Line) {
        let durable = TimeMark { time: line.marked, revision: line.trail.position().revision };
        self.outbox.gauges().note(|figures| figures.durable = Some(durable));
    }

    /// What is written, and whether a full is due.
    fn show_standing(&self, line: &Line) {
        let now = self.context.clock.now();
        let (opening, due) = (line.opening.is_some(), self.fulls.is_due());
        let newest = TimeMark { time: line.fulls.newest, revision: line.trail.seam.revision };
        self.outbox.gauges().note(|figures| {
            figures.full_due = if opening || due { figures.full_due.or(Some(now)) } else { None };
            if !opening {
                figures.lineage = Some(line.trail.lineage);
                // Those that are taken from here on show themselves.
                figures.newest_full.get_or_insert(newest);
            }
        });
    }

    /// Why the session is over, and whether the line may be gone on with.
    fn ended(&mut self, end: End) -> (Ended, bool) {
        match end {
            End::Stopped => (Ended::Stopped, true),
            End::StoreBehind => (Ended::StoreBehind, true),
            End::Silent(revision) => (Ended::Reconnect(format!("the watch is silent about revision {revision}")), true),
            End::Watch(end) => {
                *self.forced = match end {
                    WatchEnd::Compacted { .. } => Some(reasons::COMPACTED),
                    WatchEnd::Gap { .. } | WatchEnd::TooLarge { .. } => Some(reasons::BROKEN_WATCH),
                    _ => None,
                };
                (Ended::Reconnect(end.to_string()), self.forced.is_none())
            }
        }
    }

    /// A full into the lineage of `line`, in a task of its own; `capture` goes on.
    fn begin_full_beside(&mut self, member: &Member, capture: &mut Capture<'_>, line: &Line) {
        self.context.note(format!("a full is due in lineage {}: {}", line.trail.lineage, self.fulls.why()));
        let witness: Arc<dyn SeamWitness> = Arc::new(capture.witness(line));
        let stop = self.context.stop.child_token();
        // Its times are those of the lineage, which never go back.
        let clock = self.context.clock.not_before(line.marked);
        let context = RunContext { stop: stop.clone(), clock, ..self.context.clone() };
        let (archive, request) = (self.archive.clone(), self.request.full.clone());
        let (member, lineage) = (member.clone(), line.trail.lineage);
        let gauges = self.outbox.gauges().clone();
        let task = tokio::spawn(async move {
            let started = Instant::now();
            let taking = async {
                let beginning = begin_full_within(lineage, &member, witness, &context);
                match context.unless_stopped(beginning).await? {
                    Beginning::Proven(begun) => {
                        run_full(*begun, &archive, &request, &context).await.map(|full| Taken::Stored(Box::new(full)))
                    }
                    Beginning::Unproven(why) => Ok(Taken::Unproven(why)),
                }
            };
            let taken = taking.await;
            count_attempt(&gauges, started, taken.as_ref().and_then(Taken::stored));
            taken
        });
        self.outbox.gauges().note(|figures| {
            for reason in self.fulls.reasons() {
                *figures.fulls.entry(reason).or_default() += 1;
            }
        });
        self.fulls.begun(task, stop);
    }

    /// Tells what has come of a full; why the lineage must end, where it must.
    fn full_ended(&mut self, taken: Result<Taken>, wanted: BTreeSet<FullReason>, line: &mut Line) -> Option<String> {
        let error = match taken {
            Ok(Taken::Stored(full)) => {
                self.context.note(format!("{} is durable", full.name));
                // It may be the last one of a lineage that has ended meanwhile.
                if full.name.lineage == line.trail.lineage {
                    line.fulls.newest = full.name.created;
                }
                show_full(self.outbox.gauges(), &full);
                self.fulls.succeeded();
                return None;
            }
            // Only another lineage has them then, as its full needs no proof.
            Ok(Taken::Unproven(why)) if wanted.contains(&FullReason::AuthChanged) => {
                *self.forced = Some(reasons::AUTH_UNPROVEN);
                return Some(format!("users, roles or permissions have changed, and a full here is not proven: {why}"));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                Error::new(ErrorKind::Unavailable, "capture has paused beside it").caused_by(error)
            }
            Ok(Taken::Unproven(error)) | Err(error) => error,
        };
        if wanted.is_empty() {
            return None;
        }
        let again = self.fulls.failed(wanted);
        self.outbox.gauges().note(|figures| figures.retries.fulls += 1);
        self.context.warn(format!("a full beside capture has failed, and is tried again in {again:?}: {error}"));
        None
    }

    /// The newest lineage of this cluster that is older than `own`, where it can be gone on with: another sidecar has
    /// opened it, and is writing it.
    async fn older_line(&self, member: &Member, own: LineageId) -> Result<Option<(Line, Resumed)>> {
        let Some(mut older) = self.line_of_archive(member, Some(own)).await? else { return Ok(None) };
        let resumed = self.resume(member, &mut older).await?;
        Ok(resumed.ok().map(|resumed| (older, resumed)))
    }
}

pub(super) fn show_full(gauges: &Gauges, full: &FullSummary) {
    let revision = match full.name.kind {
        NameKind::Full { seam } => seam,
        NameKind::Delta { last, .. } => last,
    };
    let (begun, finished, stored_bytes) = (full.started, full.finished, full.stored_bytes);
    gauges.note(|figures| {
        figures.count_stored(StoredKind::Full, stored_bytes);
        figures.proven = Some(finished);
        figures.newest_full = Some(TimeMark { time: begun, revision });
        figures.last_full = Some(LastFull { revision, begun, finished, stored_bytes });
        if let HashKvOutcome::Stored(HashKvAnswer { revision, duration_ms, .. }) = full.hash_kv {
            figures.last_hash_kv = Some(LastHashKv { revision, stored: finished, took_ms: duration_ms });
        }
    });
}

/// Counts a full that has come to something or failed; not one that was called off.
pub(super) fn count_attempt(gauges: &Gauges, started: Instant, came_to: Result<(), &Error>) {
    if !came_to.is_err_and(|error| error.kind() == ErrorKind::Interrupted) {
        gauges.note(|figures| figures.full_attempts.add(&came_to, started.elapsed()));
    }
}

#[async_trait]
impl SeamWitness for Witness {
    async fn meet(&self, seam: &Seam, mark: TimeMark) -> Result<HistoryDigest> {
        Self::meet(self, seam, mark).await
    }

    async fn settled(&self, seam: Revision) -> Result<()> {
        Self::settled(self, seam).await
    }
}
