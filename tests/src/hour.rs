//! A captured history cut anew: the same full and the same records, as so many deltas of a time that nobody waits for.
//!
//! A store sees names and objects, so that what it costs to restore an hour of deltas does not depend on whether
//! somebody has waited for an hour. Deltas are sealed and rolled up by the engine itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcdbr_engine::archive::{Archive, SealedDelta};
use etcdbr_engine::clock::{Clock, UnixMillis};
use etcdbr_engine::format::{
    ArchivePrefix, BackupName, CaptureFacts, FooterFacts, HistoryDigest, LeaseGrant, LeaseList, LineageId, NameKind,
    ObjectNonce, TimeMark,
};
use etcdbr_engine::monitor::Silent;
use etcdbr_engine::pipeline::CompressionLevel;
use etcdbr_engine::record::Record;
use etcdbr_engine::revision::Revision;
use etcdbr_engine::rollup::{RollupOptions, RollupPolicy, roll_up};
use etcdbr_engine::run::RunContext;
use etcdbr_engine::store::{ByteRange, ObjectStore};
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use crate::sidecar::Captured;

/// The name of an archive's directory, as [`Captured`] has it.
const PREFIX: &str = "prod";
const PUTS_AT_ONCE: usize = 16;
const HOUR_MS: i64 = 3_600_000;
/// So often a sidecar looks what is to be rolled up.
const ROLLUP_EVERY: Duration = Duration::from_secs(60);

/// A full and everything that was captured behind it.
#[derive(Debug)]
pub struct History {
    lineage: LineageId,
    full: (String, Bytes),
    begin: UnixMillis,
    records: Vec<Record>,
    before: HistoryDigest,
    facts: FooterFacts,
    leases: Vec<LeaseGrant>,
}

impl History {
    /// Reads the only lineage of what `captured` shows of `store`.
    ///
    /// # Panics
    /// Where there is another one, or it cannot be read.
    pub async fn read(captured: &Captured, store: &dyn ObjectStore) -> Self {
        let [lineage] = captured.lineages()[..] else { panic!("one lineage") };
        let (_, records) = captured.records(lineage).await;
        let full = lineage.latest_full().expect("a full");
        let key = ArchivePrefix::new(PREFIX).expect("a prefix").key(&full.name);
        let range = ByteRange::Exact { start: 0, len: full.stored_bytes };
        let object = store.read(&key, range, None).await.expect("the full can be read").bytes;
        let opened = captured.archive().open(&full.name).await.expect("a full can be opened");
        let before = opened.footer().facts.history.1;
        let mut leases = BTreeMap::new();
        let mut facts = None;
        for entry in lineage.backups.iter().filter(|entry| matches!(entry.name.kind, NameKind::Delta { .. })) {
            let reader = captured.archive().open_listed(entry).await.expect("a delta can be opened");
            let told = reader.footer().facts.clone();
            leases.extend(told.capture.leases.iter().map(|lease| (lease.id, *lease)));
            facts = Some(told);
        }
        // The next full hour by the names: windows of rollups are those of the clock.
        let begin = UnixMillis((full.name.created.0 / HOUR_MS + 1) * HOUR_MS);
        let (facts, leases) = (facts.expect("a delta"), leases.into_values().collect());
        Self { lineage: lineage.id, full: (key, object), begin, records, before, facts, leases }
    }

    /// Revisions behind the full.
    pub fn revisions(&self) -> usize {
        let last = self.records.last().map_or(0, |record| record.main.0);
        self.records.first().map_or(0, |first| (last - first.main.0 + 1) as usize)
    }

    /// Puts the full, and the records as `deltas` deltas of as many revisions each, which are `every` apart.
    ///
    /// # Panics
    /// Where the store refuses.
    pub async fn put(&self, (archive, store): (&Archive, &dyn ObjectStore), deltas: usize, every: Duration) {
        let (key, object) = &self.full;
        store.put(key, object.clone()).await.expect("the full is stored");
        let sealed = self.cut(archive, deltas, every);
        let puts = stream::iter(&sealed).map(|delta| archive.put_delta(delta)).buffer_unordered(PUTS_AT_ONCE);
        puts.for_each(|put| async { put.expect("a delta is stored") }).await;
    }

    fn cut(&self, archive: &Archive, deltas: usize, every: Duration) -> Vec<SealedDelta> {
        let (revisions, every_ms) = (self.revisions(), every.as_millis() as i64);
        let first = self.records.first().map_or(0, |record| record.main.0);
        let (mut sealed, mut rest, mut before) = (Vec::with_capacity(deltas), self.records.as_slice(), self.before);
        for n in 0..deltas {
            let last = Revision(first + (revisions * (n + 1) / deltas) as i64 - 1);
            let (own, others) = rest.split_at(rest.partition_point(|record| record.main <= last));
            rest = others;
            let created = UnixMillis(self.begin.0 + (n as i64 + 1) * every_ms - 1);
            let kind = NameKind::Delta { first: own.first().expect("at least one revision").main, last };
            let nonce = ObjectNonce::random().expect("random bytes");
            let name = BackupName { lineage: self.lineage, kind, created, nonce };
            let leases = if n == 0 { self.leases.clone() } else { Vec::new() };
            let capture = CaptureFacts {
                time_marks: vec![TimeMark { time: created, revision: last }],
                leases,
                lease_list: LeaseList::New,
                compact_revision: self.facts.capture.compact_revision.filter(|compact| *compact <= last),
                ..CaptureFacts::default()
            };
            let history = (before, before);
            let facts = FooterFacts { history, capture, started: created, finished: created, ..self.facts.clone() };
            let delta = archive.seal_delta(name, own, facts, CompressionLevel::default()).expect("records of the name");
            before = delta.facts().history.1;
            sealed.push(delta);
        }
        assert!(rest.is_empty(), "all of it is sealed");
        sealed
    }

    /// Rolls up as a sidecar would have until `after` has passed since the first delta; how many rollups that made.
    ///
    /// # Panics
    /// Where one fails.
    pub async fn roll_up(&self, archive: &Archive, after: Duration) -> usize {
        let hand = Arc::new(AtomicI64::new(self.begin.0));
        let stop = CancellationToken::new();
        let context = RunContext { clock: Clock::manual(hand.clone()), monitor: Arc::new(Silent), stop };
        let tool_version = self.facts.tool_version.clone();
        let (policy, level) = (RollupPolicy::default(), CompressionLevel::default());
        let options = RollupOptions { policy, level, tool_version };
        let mut written = 0;
        while hand.load(Ordering::SeqCst) < self.begin.0 + after.as_millis() as i64 {
            hand.fetch_add(ROLLUP_EVERY.as_millis() as i64, Ordering::SeqCst);
            let done = roll_up(archive, &options, &context).await.expect("the store is there");
            assert!(done.skipped.is_empty(), "{:?}", done.skipped);
            written += done.written.len();
        }
        written
    }
}
