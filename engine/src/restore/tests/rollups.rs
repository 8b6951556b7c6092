//! Rollups in the place of what they were made of: the same records, leases and compactions at every revision and time.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use super::*;
use crate::error::ErrorKind;
use crate::format::LeaseList;
use crate::rollup::{RolledUp, RollupOptions, RollupPolicy, list_and_plan, roll_up, run_plan};
use crate::store::faulty::{Call, Strike};

fn options() -> RollupOptions {
    RollupOptions {
        policy: RollupPolicy::new(&[Duration::from_secs(10), Duration::from_secs(40)]),
        level: CompressionLevel::Zstd(1),
        tool_version: "test".to_owned(),
    }
}

/// Long after everything was captured.
fn later() -> RunContext {
    RunContext {
        clock: Clock::manual(Arc::new(AtomicI64::new(time_of(10_000).0))),
        monitor: Arc::new(Recorder::default()),
        stop: CancellationToken::new(),
    }
}

impl Site {
    async fn roll(&self) -> RolledUp {
        roll_up(&self.archive, &options(), &later()).await.unwrap()
    }

    /// Removes everything that some rollup was made of; how much that was.
    async fn remove_parts(&self) -> usize {
        let mut parts = std::collections::BTreeSet::new();
        let catalogue = self.archive.catalogue().await.unwrap();
        for entry in catalogue.newest_first() {
            let reader = self.archive.open_listed(entry).await.unwrap();
            if let Some(rollup) = &reader.footer().facts.capture.rollup {
                parts.extend(rollup.parts.iter().map(|part| part.name(entry.name.lineage)));
            }
        }
        let there = |name: &&BackupName| self.path(name).exists();
        let there: Vec<_> = parts.iter().filter(there).copied().collect();
        for name in &there {
            self.remove(name).await;
        }
        there.len()
    }

    async fn objects(&self) -> usize {
        self.archive.catalogue().await.unwrap().newest_first().len()
    }
}

/// Deltas of one to four revisions that tell of leases and compactions, and objects that mark time between them.
async fn captured(seed: u64) -> Simple {
    let mut dice = Dice::new(seed);
    let history = History::random(&mut dice, 110);
    let (site, lineage) = (Site::new(), lineage(20));
    let digests = history.digests(&lineage, 20);
    let full = Full {
        lineage,
        seam: 20,
        revision: 23,
        floor: 10,
        history: digests[&20],
        leases: (1..=4).map(|id| (id, 60)).collect(),
        db_bytes: 1 << 30,
        answers: vec![answer(&history.records, 20, 10)],
    };
    let full = site.full(&history, full).await;
    let mut simple = Simple { site, history, lineage, digests, full, deltas: Vec::new() };
    let (mut first, mut compact) = (21, 10);
    while first <= simple.history.last {
        let last = (first + dice.roll(4) as i64).min(simple.history.last);
        if dice.roll(6) == 0 {
            compact = last - 5 - dice.roll(5) as i64;
        }
        let list = if dice.roll(4) == 0 { LeaseList::Complete } else { LeaseList::New };
        let leases: Vec<(i64, i64)> = match dice.roll(3) {
            0 => Vec::new(),
            _ => (1..=4).filter(|_| dice.roll(2) == 0).chain([100 + last]).map(|id| (id, 60 + id)).collect(),
        };
        let facts = CaptureFacts { leases: grants(&leases), lease_list: list, ..capture(last, compact) };
        let name = simple.delta(first, last, facts).await;
        simple.deltas.push(name);
        for idle in 1..=dice.roll(3) as i64 {
            // The source stood still: the next revision came a little later than it does elsewhere.
            let time = UnixMillis(time_of(last).0 + idle * 100);
            let facts = CaptureFacts {
                time_marks: vec![TimeMark { time, revision: Revision(last) }],
                leases: grants(&[(200 + last * 4 + idle, 7)]),
                ..capture(last, compact)
            };
            simple.mark(last, facts).await;
        }
        first = last + 1;
    }
    simple
}

impl Simple {
    async fn mark(&self, at: i64, capture: CaptureFacts) -> BackupName {
        self.site.delta((self.lineage, &self.history), (at + 1, at), self.digests[&at], capture).await
    }

    /// Everything that a restore shows of a revision.
    async fn shown(&self, revision: i64) -> (BTreeMap<Vec<u8>, Vec<u8>>, Vec<(i64, i64)>, (i64, i64)) {
        let outcome = self.site.restore_revision(revision, WayWanted::BySize).await.unwrap();
        (outcome.bucket("key"), outcome.leases(), outcome.compactions())
    }
}

#[tokio::test]
async fn every_revision_is_restored_as_before() {
    for seed in [1, 2] {
        let simple = captured(seed).await;
        let mut before = BTreeMap::new();
        for revision in (21..=simple.history.last).step_by(3) {
            before.insert(revision, simple.shown(revision).await);
        }
        let narrow = simple.site.objects().await;
        let done = simple.site.roll().await;
        assert!(done.skipped.is_empty() && done.written.len() >= 3, "{done:?}");
        let removed = simple.site.remove_parts().await;
        let wide = simple.site.objects().await;
        assert!(removed > 30 && wide * 3 < narrow, "{narrow} objects, {removed} removed, {wide} left");
        for (revision, expected) in &before {
            let (records, leases, compactions) = simple.shown(*revision).await;
            // A wide object also tells what came later: of a lease that was known by its id alone, how long it lives.
            let as_before = |(now, then): (&(i64, i64), &(i64, i64))| {
                now == then || (now.0 == then.0 && then.1 == MISSING_LEASE_TTL_S)
            };
            let same = leases.len() == expected.1.len() && leases.iter().zip(&expected.1).all(as_before);
            assert!(same, "seed {seed}, revision {revision}: {leases:?}, before {:?}", expected.1);
            assert_eq!(compactions, expected.2, "seed {seed}, revision {revision}");
            assert!(records == expected.0, "seed {seed}, revision {revision}");
        }
        // It has come to rest.
        assert!(simple.site.roll().await.written.is_empty());
    }
}

#[tokio::test]
async fn times_are_found_as_before() {
    let simple = captured(3).await;
    let mut asked = Vec::new();
    for revision in (21..=simple.history.last).step_by(4) {
        asked.extend([0, 150, 950].map(|ms| UnixMillis(time_of(revision).0 + ms)));
    }
    let resolve = async || {
        let mut found = Vec::new();
        for time in &asked {
            let point = PointRequest { target: Target::At(*time), ..newest() };
            let plan = simple.site.plan(&point, simple.site.target_dir()).await.unwrap();
            let RestoreSource::Point(point) = plan.source else { panic!("no moment") };
            found.push((*time, point.chain.reaches, point.resolved.mark()));
        }
        found
    };
    let before = resolve().await;
    simple.site.roll().await;
    assert!(simple.site.remove_parts().await > 30);
    assert_eq!(resolve().await, before);
}

#[tokio::test]
async fn a_crash_at_any_call_leaves_only_what_is_redundant() {
    let simple = captured(4).await;
    let last = simple.history.last;
    let expected = simple.shown(last).await;
    let calls = {
        let other = captured(4).await;
        let before = other.site.store.total();
        other.site.roll().await;
        other.site.store.total() - before
    };
    assert!(calls > 40, "{calls}");
    for nth in (1..=calls).step_by(7) {
        for strike in [Strike::Before, Strike::After] {
            simple.site.store.fail_from(nth, None, strike, ErrorKind::Unavailable);
            let ran = roll_up(&simple.site.archive, &options(), &later()).await;
            simple.site.store.heal();
            assert!(ran.is_err() || simple.site.roll().await.written.is_empty(), "call {nth}");
            assert_eq!(simple.site.archive.unfinished().await.unwrap().ours.len(), 0);
        }
        assert_eq!(simple.shown(last).await, expected, "call {nth}");
    }
    simple.site.roll().await;
    simple.site.remove_parts().await;
    assert_eq!(simple.shown(last).await, expected);
}

#[tokio::test]
async fn two_writers_at_once_do_no_harm() {
    let simple = captured(5).await;
    let last = simple.history.last;
    let expected = simple.shown(last).await;
    let (options, context) = (options(), later());
    let plan = list_and_plan(&simple.site.archive, &options, &context).await.unwrap();
    for _ in 0..2 {
        let done = run_plan(&simple.site.archive, &plan, &options, &context).await.unwrap();
        assert_eq!((done.written.len(), done.skipped.len()), (plan.spans.len(), 0));
    }
    assert_eq!(simple.shown(last).await, expected);
    // Neither of two equal ones makes a third one necessary.
    assert!(simple.site.roll().await.written.is_empty());
    simple.site.remove_parts().await;
    assert_eq!(simple.shown(last).await, expected);
    // What is gone when its turn comes is no error.
    let done = run_plan(&simple.site.archive, &plan, &options, &context).await.unwrap();
    assert_eq!((done.written.len(), done.skipped.len()), (0, plan.spans.len()));
}

#[tokio::test]
async fn two_histories_are_never_rolled_into_one() {
    let simple = captured(6).await;
    let other = captured(7).await;
    // Deltas of another history, under the same lineage and with the same revisions, in the place of genuine ones.
    let digest = other.history.digests(&simple.lineage, 20);
    let at = simple.deltas[8];
    let NameKind::Delta { first, last } = at.kind else { panic!("a delta") };
    simple.site.remove(&at).await;
    let facts = capture(last.0, 10);
    simple.site.delta((simple.lineage, &other.history), (first.0, last.0), digest[&(first.0 - 1)], facts).await;
    let done = simple.site.roll().await;
    assert!(done.skipped.iter().any(|skipped| skipped.why.kind() == ErrorKind::Refused), "{done:?}");
    let catalogue = simple.site.archive.catalogue().await.unwrap();
    for entry in catalogue.newest_first() {
        if let NameKind::Delta { first: from, last: to } = entry.name.kind {
            assert!(to <= last || from > first || (from, to) == (first, last), "{} crosses the fork", entry.name);
        }
    }
}

#[tokio::test]
async fn a_double_of_another_history_stays_by_itself() {
    let simple = captured(8).await;
    let other = captured(9).await;
    let digest = other.history.digests(&simple.lineage, 20);
    let range = (40, 42);
    let stray = simple.site.delta((simple.lineage, &other.history), range, digest[&39], capture(42, 10)).await;
    simple.site.roll().await;
    let catalogue = simple.site.archive.catalogue().await.unwrap();
    for entry in catalogue.newest_first() {
        let reader = simple.site.archive.open_listed(entry).await.unwrap();
        let rollup = reader.footer().facts.capture.rollup.clone().unwrap_or_default();
        assert!(!rollup.parts.iter().any(|part| part.name(simple.lineage) == stray), "{}", entry.name);
    }
}

#[tokio::test]
async fn a_damaged_part_is_left_where_it_is() {
    let simple = captured(10).await;
    let path = simple.site.path(&simple.deltas[5]);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&path, bytes).unwrap();
    let done = simple.site.roll().await;
    assert!(done.skipped.iter().any(|skipped| skipped.why.kind() == ErrorKind::Damaged), "{done:?}");
    assert!(path.exists());
}

#[tokio::test]
async fn a_small_part_is_read_by_one_get() {
    let simple = captured(11).await;
    let plan = list_and_plan(&simple.site.archive, &options(), &later()).await.unwrap();
    let parts: usize = plan.spans.iter().map(|span| span.parts().count()).sum();
    let before = (simple.site.store.count(Call::Read), simple.site.store.count(Call::Put));
    run_plan(&simple.site.archive, &plan, &options(), &later()).await.unwrap();
    let after = (simple.site.store.count(Call::Read), simple.site.store.count(Call::Put));
    assert_eq!((after.0 - before.0, after.1 - before.1), (parts as u64, plan.spans.len() as u64));
}
