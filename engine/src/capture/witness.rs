//! What capture says of a full that is taken beside it, into the lineage that it writes.
//!
//! # Why such a full is of the lineage's history
//! The task of the full names its seam L, and the records of L as a watch of its own gave them, to the capture that runs
//! beside it, through the same connection to the same member. Capture has folded every revision since the lineage's first
//! full; it answers D(L) only where D(L - 1) and the full's records fold into the D(L) that it knows itself. So the full and
//! the deltas say the same of L, byte for byte, and a reader may pass from one to the other there.
//!
//! Whatever ends the capture (the connection, the member, a silence) ends its testimony with it: the questions of the
//! full find nobody, and it is taken back. The stream of the image lies between the first question and the last one, so
//! that it has come from the process that the watch has proven itself with. And a full waits for the deltas up to L to be
//! durable: were it there first, a kill in between would leave revisions out for ever.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::trail::Anchor;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{HistoryDigest, HistoryFold, Seam, SeamProof, TimeMark};
use crate::record::Record;
use crate::revision::Revision;

/// How long capture may take to come to a revision that the source has reached.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether the deltas up to a seam are durable.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Digests that are kept while a seam is awaited: 10 MiB. A source that writes more in that time is asked again.
const DIGESTS_MAX: usize = 1 << 18;

/// Held by the task of a full that is taken beside a capture.
#[derive(Debug)]
pub struct Witness(mpsc::Sender<Question>);

/// What a full wants to know.
pub(super) enum Question {
    /// D of the seam, where the records are those that capture saw; the full was begun at this mark.
    Meet(Box<Seam>, TimeMark, oneshot::Sender<Result<HistoryDigest>>),
    /// Whether the deltas up to this revision are durable.
    Settled(Revision, oneshot::Sender<Settled>),
}

/// Whether a full may be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Yes,
    NotYet,
}

impl Witness {
    /// D of `seam`, which the source reached at `mark`; waits until capture has come there.
    ///
    /// # Errors
    /// `Refused` where the two have not seen the same records, or nothing shows that they have. `Unavailable` where
    /// capture has ended, or does not come there.
    pub async fn meet(&self, seam: &Seam, mark: TimeMark) -> Result<HistoryDigest> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question::Meet(Box::new(seam.clone()), mark, answer)).await.map_err(|_| ended())?;
        match timeout(PATIENCE, answered).await {
            Ok(answer) => answer.map_err(|_| ended())?,
            Err(_) => {
                let what = format!("capture has not come to revision {} in {PATIENCE:?}", seam.revision);
                Err(Error::new(ErrorKind::Unavailable, what))
            }
        }
    }

    /// Waits until all deltas up to `seam` are durable, while capture goes on.
    ///
    /// # Errors
    /// `Unavailable` where capture has ended.
    pub async fn settled(&self, seam: Revision) -> Result<()> {
        loop {
            let (answer, answered) = oneshot::channel();
            self.0.send(Question::Settled(seam, answer)).await.map_err(|_| ended())?;
            match answered.await.map_err(|_| ended())? {
                Settled::Yes => return Ok(()),
                Settled::NotYet => sleep(LOOK_EVERY).await,
            }
        }
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Unavailable, "capture has paused beside it")
}

/// The other end of a [`Witness`]: what capture remembers for it.
pub(super) struct Testimony {
    questions: mpsc::Receiver<Question>,
    /// Dropped once the seam is met.
    memory: Option<Memory>,
    awaited: Option<(Box<Seam>, oneshot::Sender<Result<HistoryDigest>>)>,
}

struct Memory {
    /// The seam of the lineage's first full.
    first: Seam,
    fold: HistoryFold,
    /// Of consecutive revisions, the last of them the last that was captured.
    digests: VecDeque<Anchor>,
}

impl Testimony {
    /// Begins at the last sealed revision: `before` it, where that is known, and at it. `first` is the seam of the
    /// lineage's first full.
    pub(super) fn begin(first: &Seam, before: Option<Anchor>, position: Anchor) -> (Witness, Self) {
        let (sender, questions) = mpsc::channel(1);
        let before = before.filter(|before| before.revision.next() == position.revision);
        let memory = Memory {
            first: first.clone(),
            fold: HistoryFold::after(position.revision, position.digest),
            digests: before.into_iter().chain([position]).collect(),
        };
        (Witness(sender), Self { questions, memory: Some(memory), awaited: None })
    }

    /// Waits for a question. Waits for ever where there is no testimony, and ends it where nobody asks any more. A call
    /// that is dropped loses nothing.
    pub(super) async fn question(testimony: &mut Option<Self>) -> Question {
        if let Some(testimony) = testimony
            && let Some(question) = testimony.questions.recv().await
        {
            return question;
        }
        *testimony = None;
        std::future::pending().await
    }

    /// These records were captured: whole revisions that follow on those before.
    ///
    /// # Errors
    /// `Damaged` where they do not.
    pub(super) fn see(&mut self, records: &[Record]) -> Result<()> {
        if let Some(memory) = &mut self.memory {
            memory.see(records)?;
            self.answer();
        }
        Ok(())
    }

    /// Somebody awaits D of `seam`.
    pub(super) fn await_seam(&mut self, seam: Box<Seam>, answer: oneshot::Sender<Result<HistoryDigest>>) {
        self.awaited = Some((seam, answer));
        self.answer();
    }

    fn answer(&mut self) {
        let Some(memory) = &self.memory else { return };
        let come = memory.digests.back().map(|last| last.revision);
        if let Some((seam, answer)) = self.awaited.take_if(|(seam, _)| Some(seam.revision) <= come) {
            // Where nobody waits any more, nobody is told.
            let _ = answer.send(memory.meet(&seam));
            self.memory = None;
        }
    }
}

impl Memory {
    fn see(&mut self, records: &[Record]) -> Result<()> {
        for record in records {
            if record.main > self.fold.closed().0.next() {
                self.note();
            }
            self.fold.push(&record.as_ref())?;
        }
        self.note();
        Ok(())
    }

    fn note(&mut self) {
        self.fold.close();
        let (revision, digest) = self.fold.closed();
        if self.digests.back().is_none_or(|last| last.revision < revision) {
            self.digests.push_back(Anchor { revision, digest });
        }
        if self.digests.len() > DIGESTS_MAX {
            self.digests.pop_front();
        }
    }

    fn digest(&self, revision: Revision) -> Option<HistoryDigest> {
        let found = self.digests.binary_search_by_key(&revision, |anchor| anchor.revision).ok()?;
        Some(self.digests[found].digest)
    }

    /// D of `seam`, proven as the head of this file says.
    fn meet(&self, seam: &Seam) -> Result<HistoryDigest> {
        let refused = |what: &str| {
            let what = format!("revision {} of the full {what}", seam.revision);
            Err(Error::new(ErrorKind::Refused, what))
        };
        let Some(digest) = self.digest(seam.revision) else {
            return refused("lies before what capture remembers");
        };
        let same = match (seam.proof, self.digest(Revision(seam.revision.0 - 1))) {
            // There are no records of it in any history.
            (SeamProof::Unproven, _) => seam.revision <= Revision::EMPTY,
            (SeamProof::Proven, Some(before)) => {
                let mut fold = HistoryFold::after(Revision(seam.revision.0 - 1), before);
                let folded = seam.records.iter().try_for_each(|record| fold.push(&record.as_ref()));
                folded.is_ok() && fold.finish() == (seam.revision, digest)
            }
            // Nothing has happened since the lineage was opened.
            (SeamProof::Proven, None) => {
                seam.revision == self.first.revision
                    && self.first.proof == SeamProof::Proven
                    && seam.records == self.first.records
            }
        };
        match (same, seam.proof) {
            (true, _) => Ok(digest),
            (false, SeamProof::Unproven) => refused("has no records that would prove its history"),
            (false, SeamProof::Proven) => refused("has other records than capture saw, or none that could be compared"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::record::Change;

    fn record(main: i64, value: &'static str) -> Record {
        Record { main: Revision(main), sub: 0, change: Change::Put, value: value.into() }
    }

    fn seam(revision: i64, records: &[Record]) -> Seam {
        Seam { revision: Revision(revision), records: records.to_vec(), proof: SeamProof::Proven }
    }

    fn at(revision: i64, digest: u8) -> Anchor {
        Anchor { revision: Revision(revision), digest: HistoryDigest([digest; 32]) }
    }

    fn digest_after(start: Anchor, records: &[Record]) -> HistoryDigest {
        let mut fold = HistoryFold::after(start.revision, start.digest);
        records.iter().for_each(|record| fold.push(&record.as_ref()).unwrap());
        fold.finish().1
    }

    async fn asked(seam: Seam, testimony: &mut Option<Testimony>, records: &[Record]) -> Result<HistoryDigest> {
        let (answer, answered) = oneshot::channel();
        let testimony = testimony.as_mut().unwrap();
        testimony.await_seam(Box::new(seam), answer);
        testimony.see(records).unwrap();
        answered.await.unwrap_or_else(|_| Err(ended()))
    }

    fn begun(before: Option<Anchor>) -> Option<Testimony> {
        Some(Testimony::begin(&seam(10, &[record(10, "first")]), before, at(10, 1)).1)
    }

    #[tokio::test]
    async fn the_digest_of_a_seam_is_told_once_capture_is_there() {
        let history = [record(11, "a"), record(12, "b"), record(13, "c")];
        let met = asked(seam(12, &history[1..2]), &mut begun(None), &history).await.unwrap();
        assert_eq!(met, digest_after(at(10, 1), &history[..2]));
        // One that was captured before it was asked for.
        let mut testimony = begun(None);
        testimony.as_mut().unwrap().see(&history).unwrap();
        assert_eq!(asked(seam(11, &history[..1]), &mut testimony, &[]).await.unwrap().0.len(), 32);
    }

    #[tokio::test]
    async fn other_records_are_refused() {
        let history = [record(11, "a"), record(12, "b")];
        for other in [&[record(12, "x")][..], &[], &[record(12, "b"), record(12, "b")]] {
            let refused = asked(seam(12, other), &mut begun(None), &history).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Refused);
        }
        let mut unproven = seam(12, &[]);
        unproven.proof = SeamProof::Unproven;
        assert!(asked(unproven, &mut begun(None), &history).await.unwrap_err().to_string().contains("no records"));
        let before = asked(seam(9, &[record(9, "z")]), &mut begun(None), &history).await.unwrap_err();
        assert!(before.to_string().contains("before what capture remembers"));
    }

    #[tokio::test]
    async fn a_seam_where_nothing_has_happened_since_is_compared_as_well() {
        let last = record(10, "first");
        assert_eq!(
            asked(seam(10, std::slice::from_ref(&last)), &mut begun(None), &[]).await.unwrap(),
            at(10, 1).digest
        );
        assert!(asked(seam(10, &[record(10, "x")]), &mut begun(None), &[]).await.is_err());
        // Later on the digest before the last sealed revision is known.
        let before = at(9, 3);
        let position = Anchor { revision: Revision(10), digest: digest_after(before, std::slice::from_ref(&last)) };
        let begun = || Some(Testimony::begin(&seam(5, &[]), Some(before), position).1);
        assert_eq!(asked(seam(10, &[last]), &mut begun(), &[]).await.unwrap(), position.digest);
        assert!(asked(seam(10, &[record(10, "x")]), &mut begun(), &[]).await.is_err());
    }

    #[tokio::test]
    async fn a_capture_that_has_ended_says_nothing() {
        let (witness, testimony) = Testimony::begin(&seam(10, &[]), None, at(10, 1));
        drop(testimony);
        let mark = TimeMark { time: UnixMillis(1), revision: Revision(10) };
        assert_eq!(witness.meet(&seam(10, &[]), mark).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(witness.settled(Revision(10)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
