//! Capture itself: revisions in, sealed deltas out, for as long as one watch lives.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::batch::{Batch, CutLimits};
use super::leases::LeaseBook;
use super::line::{Line, Opening};
use super::outbox::Outbox;
use super::probes::{Answers, Probes};
use super::resume::Resumed;
use super::trail::Anchor;
use super::witness::{Question, Settled, Testimony, Witness};
use crate::archive::Archive;
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::etcd::{Member, Revisions, WatchEnd, WatchLimits, WatchStream};
use crate::format::{BackupName, CaptureFacts, FooterFacts, NameKind, ObjectNonce, Source};
use crate::pipeline::CompressionLevel;
use crate::revision::Revision;
use crate::run::{RunContext, blocking};

/// How long a delta that is due waits for what is still asked about its leases. They are asked about as soon as they
/// are seen; what comes later is in the next delta.
const LEASE_WAIT: Duration = Duration::from_millis(300);
/// A quiet source is noted so often.
const IDLE_EVERY_MS: i64 = 60_000;

/// How capture works.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// When deltas are cut.
    pub cut: CutLimits,
    /// What a watch may take.
    pub watch: WatchLimits,
    /// Compression of deltas.
    pub level: CompressionLevel,
    /// Of etcdbr; stored with each delta.
    pub tool_version: String,
    /// A full is due when the deltas since the newest one have so many bytes, as stored.
    pub full_after_bytes: Option<u64>,
}

/// What somebody else must decide about.
#[derive(Debug)]
pub enum Pause<A> {
    /// What was waited for beside capture has come. Capture goes on when it is called again.
    Aside(A),
    /// The full that opened the lineage is durable. Capture goes on when it is called again.
    Opened,
    /// Users, roles or permissions are others than those of the newest full: no watch tells which. Capture goes on when
    /// it is called again.
    AuthChanged,
    /// The deltas since the newest full have the bytes that were asked for; they are counted anew. Capture goes on when it
    /// is called again.
    ManyDeltas,
    /// Capture has ended.
    Ended(End),
}

/// Why capture has ended. What was captured is sealed, and on its way.
#[derive(Debug)]
pub enum End {
    /// The operator wants to stop.
    Stopped,
    /// The watch has ended.
    Watch(WatchEnd),
    /// The watch has been silent about revisions that the source reached a while ago.
    Silent(Revision),
    /// The store takes too little: what waits for it has reached its limit.
    StoreBehind,
}

/// One watch, and what becomes of what it gives.
pub struct Capture<'a> {
    archive: &'a Archive,
    options: &'a CaptureOptions,
    context: &'a RunContext,
    outbox: &'a Outbox,
    member: Member,
    source: Source,
    watch: WatchStream,
    batch: Batch,
    leases: LeaseBook,
    probes: Probes,
    testimony: Option<Testimony>,
    /// The revision before the last sealed one.
    penultimate: Option<Anchor>,
    compact_revision: Option<Revision>,
    /// The source reached it in the last round of questions.
    reached: Revision,
}

impl<'a> Capture<'a> {
    /// Goes on from where `resumed` stands, which is the position of the line that [`Self::follow`] is given.
    pub fn begin(
        (archive, outbox): (&'a Archive, &'a Outbox),
        options: &'a CaptureOptions,
        context: &'a RunContext,
        (member, source): (Member, Source),
        resumed: Resumed,
    ) -> Self {
        let first = resumed.ahead.as_ref().map_or(resumed.watch.next_revision(), |ahead| ahead.first);
        let mut capture = Self {
            archive,
            options,
            context,
            outbox,
            member,
            source,
            watch: resumed.watch,
            batch: Batch::after(Revision(first.0 - 1)),
            leases: LeaseBook::default(),
            probes: Probes::begin(),
            testimony: None,
            penultimate: resumed.penultimate,
            compact_revision: None,
            reached: Revision(0),
        };
        if let Some(ahead) = resumed.ahead {
            capture.push(ahead);
        }
        capture
    }

    /// For a full that is taken beside this capture, from now on: the source is asked for its revision after this call.
    /// One at a time: another one takes its place.
    pub fn witness(&mut self, line: &Line) -> Witness {
        let (witness, mut testimony) = Testimony::begin(&line.trail.seam, self.penultimate, line.trail.position());
        // What was gathered follows on the position, as all that a watch gives follows on what it gave before.
        self.testimony = testimony.see(&self.batch.records).is_ok().then_some(testimony);
        witness
    }

    /// Captures until something must be decided elsewhere, or `aside` is there; it loses nothing where it is dropped.
    ///
    /// # Errors
    /// Those of the full that opens the lineage: nothing of the lineage will ever be stored then. `Internal`.
    pub async fn follow<A>(&mut self, line: &mut Line, aside: impl Future<Output = A>) -> Result<Pause<A>> {
        let mut aside = pin!(aside);
        loop {
            if self.batch.is_full(&self.options.cut) || self.due().is_some_and(|due| due <= Instant::now()) {
                self.cut(line).await?;
            }
            if self.outbox.is_full() {
                return self.end(line, End::StoreBehind).await;
            }
            if line.opening.is_none()
                && self.options.full_after_bytes.is_some_and(|limit| line.fulls.delta_bytes >= limit)
            {
                line.fulls.delta_bytes = 0;
                return Ok(Pause::ManyDeltas);
            }
            let due = self.due();
            tokio::select! {
                biased;
                () = self.context.stop.cancelled() => return self.end(line, End::Stopped).await,
                given = self.watch.next() => match given {
                    Ok(revisions) => self.push(revisions),
                    Err(end) => return self.end(line, End::Watch(end)).await,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                opened = Opening::durable(&mut line.opening) => {
                    opened?;
                    return Ok(Pause::Opened);
                }
                answer = self.leases.answer(&self.member) => self.note_failure("leases", answer),
                answers = self.probes.answers(&self.member) => match answers {
                    Ok(answers) => match self.learn(answers, line).await? {
                        Learned::Nothing => {}
                        Learned::AuthChanged => return Ok(Pause::AuthChanged),
                        Learned::Silence(revision) => return self.end(line, End::Silent(revision)).await,
                    },
                    failed => self.note_failure("the source's state", failed.map(drop)),
                },
                // Behind the watch: one that has ended is noticed before a full is told that it has not.
                question = Testimony::question(&mut self.testimony) => self.answer(question, line),
                aside = &mut aside => return Ok(Pause::Aside(aside)),
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        self.batch.due(&self.options.cut)
    }

    fn note_failure(&self, what: &str, answer: Result<()>) {
        if let Err(error) = answer {
            self.context.note(format!("could not ask about {what}: {error}"));
        }
    }

    fn push(&mut self, revisions: Revisions) {
        self.leases.see(&revisions.leases);
        self.source.raft_term = self.source.raft_term.max(revisions.raft_term);
        self.show_source(revisions.member_revision.max(revisions.last));
        if let Some(testimony) = &mut self.testimony
            && testimony.see(&revisions.records).is_err()
        {
            self.testimony = None;
        }
        self.batch.push(revisions, self.context.clock.now());
    }

    fn show_source(&self, revision: Revision) {
        self.outbox.gauges().note(|figures| figures.source_revision = figures.source_revision.max(revision));
    }

    async fn end<A>(&mut self, line: &mut Line, end: End) -> Result<Pause<A>> {
        self.testimony = None;
        self.cut(line).await?;
        Ok(Pause::Ended(end))
    }

    fn answer(&mut self, question: Question, line: &mut Line) {
        match question {
            Question::Meet(seam, mark, answer) => {
                // What is marked from now on is later than the full.
                line.marked = line.marked.max(mark.time);
                if let Some(testimony) = &mut self.testimony {
                    testimony.await_seam(seam, answer);
                }
            }
            Question::Settled(revision, answer) => {
                let waits = self.batch.first <= revision || self.outbox.holds_up_to(revision);
                // Where nobody waits any more, nobody is told.
                let _ = answer.send(if waits { Settled::NotYet } else { Settled::Yes });
            }
        }
    }

    /// Seals what has been gathered.
    async fn cut(&mut self, line: &mut Line) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let wait = LEASE_WAIT.min(self.options.cut.period);
        let answered = async {
            while self.leases.is_awaiting() {
                if self.leases.answer(&self.member).await.is_err() {
                    break;
                }
            }
        };
        // What is late is not lost: see LEASE_WAIT.
        let _ = timeout(wait, answered).await;
        let next = Batch::after(self.batch.last);
        let batch = std::mem::replace(&mut self.batch, next);
        self.seal(batch, line).await
    }

    async fn seal(&mut self, mut batch: Batch, line: &mut Line) -> Result<()> {
        let now = line.tick(self.context.clock.now());
        batch.mark(now);
        // The clock may have stood behind that of whoever wrote the lineage before.
        batch.marks.iter_mut().for_each(|mark| mark.time = mark.time.max(line.marked));
        line.marked = now;
        let name = BackupName {
            lineage: line.trail.lineage,
            kind: NameKind::Delta { first: batch.first, last: batch.last },
            created: now,
            nonce: ObjectNonce::random()?,
        };
        let facts = self.facts(&mut batch, line, now);
        let (archive, level) = (self.archive.clone(), self.options.level);
        let sealed = blocking(move || archive.seal_delta(name, &batch.records, facts, level)).await?;
        if batch_has_records(&name) {
            line.trail.advance(Anchor { revision: sealed.facts().revisions.1, digest: sealed.facts().history.1 });
            let (revision, digest) = sealed.penultimate();
            self.penultimate = Some(Anchor { revision, digest });
        }
        line.fulls.delta_bytes += sealed.stored_bytes();
        self.outbox.push(sealed, line.gate.clone())
    }

    fn facts(&mut self, batch: &mut Batch, line: &Line, now: UnixMillis) -> FooterFacts {
        let (leases, lease_list) = self.leases.take();
        let before = line.trail.position().digest;
        FooterFacts {
            plain_sha256: [0; 32],
            revisions: (batch.first, batch.last),
            seam: None,
            hash_kv: Vec::new(),
            source: self.source.clone(),
            history: (before, before),
            capture: CaptureFacts {
                time_marks: std::mem::take(&mut batch.marks),
                leases,
                lease_list,
                // One that is ahead of the records would forbid what they restore.
                compact_revision: self.compact_revision.filter(|compact| *compact <= batch.last),
                ..CaptureFacts::default()
            },
            labels: Default::default(),
            tool_version: self.options.tool_version.clone(),
            started: if batch.begun.0 > 0 { batch.begun } else { now },
            finished: now,
        }
    }

    /// Takes the answers of one round.
    async fn learn(&mut self, answers: Answers, line: &mut Line) -> Result<Learned> {
        let Answers { compact_revision, auth, leases, revision } = answers;
        self.compact_revision = self.compact_revision.max(compact_revision);
        if let Some(ids) = leases {
            self.leases.list(ids);
        }
        let delivered = self.batch.last;
        if delivered < self.reached {
            return Ok(Learned::Silence(self.reached));
        }
        self.reached = revision;
        self.show_source(revision);
        let now = self.context.clock.now();
        let quiet = self.batch.is_empty() && revision == delivered;
        if quiet && (now.0 - line.marked.0 >= IDLE_EVERY_MS || self.leases.has_news()) {
            // The read was linearizable, and nothing had happened: that is worth a mark.
            self.seal(Batch::after(delivered), line).await?;
        }
        let Some(auth_state) = auth.map(|mark| mark.encode()) else { return Ok(Learned::Nothing) };
        let known = std::mem::replace(&mut line.fulls.auth_state, auth_state);
        let changed = !known.is_empty() && known != line.fulls.auth_state;
        Ok(if changed { Learned::AuthChanged } else { Learned::Nothing })
    }
}

/// What a round of questions has come to.
enum Learned {
    Nothing,
    AuthChanged,
    /// The watch has not given this revision, which the source reached a round ago.
    Silence(Revision),
}

fn batch_has_records(name: &BackupName) -> bool {
    matches!(name.kind, NameKind::Delta { first, last } if first <= last)
}
