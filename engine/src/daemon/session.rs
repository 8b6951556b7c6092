//! One member, one watch: which lineage is gone on with, and when a new one is opened.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::fulls::{FullReason, Fulls, Taken, Turn};
use super::request::SidecarRequest;
use crate::archive::Archive;
use crate::backup::{
    Beginning, FullSummary, HashKvOutcome, SeamWitness, begin_full, begin_full_within, run_full, source,
};
use crate::capture::{
    Capture, End, Gauges, LastFull, Line, Outbox, Pause, Resumed, Resumption, Trail, Witness, newest_line, resume,
};
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::{Member, WatchEnd};
use crate::format::{HistoryDigest, LineageId, NameKind, Seam, Source, TimeMark};
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
        let context = self.context;
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
            Some(known) => self.resume(&member, line.insert(known)).await?,
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
        self.captured = true;
        let followed = self.follow(member, source, resumed, line_now).await;
        // What would follow a full that never came could not be stored: another lineage is opened.
        let lost = line_now.gate.is_condemned() || followed.as_ref().is_ok_and(|(_, keep)| !keep);
        if lost {
            self.ended.extend(line.take().map(|line| line.trail.lineage));
        }
        followed.map(|(ended, _)| ended)
    }

    async fn line_of_archive(&self, member: &Member, before: Option<LineageId>) -> Result<Option<Line>> {
        let catalogue = self.archive.catalogue().await?;
        let wanted = |id: &LineageId| before.is_none_or(|before| *id < before) && !self.ended.contains(id);
        newest_line(self.archive, &catalogue, member.identity().cluster, wanted).await
    }

    /// A watch that goes on with `line`; `None` where that cannot be proven, which is told.
    async fn resume(&self, member: &Member, line: &mut Line) -> Result<Option<Resumed>> {
        let resuming = resume(member, &mut line.trail, self.request.capture.watch);
        match self.context.unless_stopped(resuming).await? {
            Resumption::Proven(resumed) => {
                let Trail { lineage, .. } = &line.trail;
                let position = line.trail.position().revision;
                self.context.note(format!("going on with lineage {lineage} behind revision {position}"));
                self.outbox.gauges().note(|figures| figures.watch_resumes += 1);
                Ok(Some(*resumed))
            }
            Resumption::Unproven(why) => {
                self.context.warn(format!(
                    "lineage {} ends ({}): {why}; a new full opens another one",
                    line.trail.lineage,
                    why.reason()
                ));
                self.outbox.gauges().note(|figures| *figures.fulls.entry(why.reason()).or_default() += 1);
                Ok(None)
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
        let trail = Trail::at_seam(lineage, begun.seam().clone(), begun.standing());
        let (seam, auth_state) = (begun.time_mark(), begun.auth_state().to_vec());
        let stop = CancellationToken::new();
        let full = {
            let (archive, request) = (self.archive.clone(), self.request.full.clone());
            let context = RunContext { stop: stop.clone(), ..self.context.clone() };
            let gauges = self.outbox.gauges().clone();
            tokio::spawn(async move {
                let full = run_full(begun, &archive, &request, &context).await?;
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

    /// Why the session is over, and whether the line may be gone on with.
    fn ended(&self, end: End) -> (Ended, bool) {
        match end {
            End::Stopped => (Ended::Stopped, true),
            End::StoreBehind => (Ended::StoreBehind, true),
            End::Silent(revision) => (Ended::Reconnect(format!("the watch is silent about revision {revision}")), true),
            End::Watch(end) => {
                let lost = matches!(end, WatchEnd::Compacted { .. } | WatchEnd::Gap { .. } | WatchEnd::TooLarge { .. });
                (Ended::Reconnect(end.to_string()), !lost)
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
        let task = tokio::spawn(async move {
            let beginning = begin_full_within(lineage, &member, witness, &context);
            match context.unless_stopped(beginning).await? {
                Beginning::Proven(begun) => {
                    run_full(*begun, &archive, &request, &context).await.map(|full| Taken::Stored(Box::new(full)))
                }
                Beginning::Unproven(why) => Ok(Taken::Unproven(why)),
            }
        });
        self.outbox.gauges().note(|figures| {
            for reason in self.fulls.reasons() {
                *figures.fulls.entry(reason).or_default() += 1;
            }
        });
        self.fulls.begun(task, stop);
    }

    /// Tells what has come of a full; why the lineage must end, where it must.
    fn full_ended(&mut self, taken: Result<Taken>, reasons: BTreeSet<FullReason>, line: &mut Line) -> Option<String> {
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
            Ok(Taken::Unproven(why)) if reasons.contains(&FullReason::AuthChanged) => {
                return Some(format!("users, roles or permissions have changed, and a full here is not proven: {why}"));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                Error::new(ErrorKind::Unavailable, "capture has paused beside it").caused_by(error)
            }
            Ok(Taken::Unproven(error)) | Err(error) => error,
        };
        if reasons.is_empty() {
            return None;
        }
        let again = self.fulls.failed(reasons);
        self.outbox.gauges().note(|figures| figures.failed_fulls += 1);
        self.context.warn(format!("a full beside capture has failed, and is tried again in {again:?}: {error}"));
        None
    }

    /// The newest lineage of this cluster that is older than `own`, where it can be gone on with: another sidecar has
    /// opened it, and is writing it.
    async fn older_line(&self, member: &Member, own: LineageId) -> Result<Option<(Line, Resumed)>> {
        let Some(mut older) = self.line_of_archive(member, Some(own)).await? else { return Ok(None) };
        let resumed = self.resume(member, &mut older).await?;
        Ok(resumed.map(|resumed| (older, resumed)))
    }
}

fn show_full(gauges: &Gauges, full: &FullSummary) {
    let revision = match full.name.kind {
        NameKind::Full { seam } => seam,
        NameKind::Delta { last, .. } => last,
    };
    let (begun, finished, stored_bytes) = (full.started, full.finished, full.stored_bytes);
    gauges.note(|figures| {
        figures.last_full = Some(LastFull { revision, begun, finished, stored_bytes });
        if let HashKvOutcome::Stored(answer) = &full.hash_kv {
            figures.last_hash_kv_ms = Some(answer.duration_ms);
        }
    });
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
