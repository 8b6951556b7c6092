//! Sweeps over real objects: what is promised is restored, whatever the store does to the sweep.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use super::*;
use crate::error::ErrorKind;
use crate::gc::{SweepMemory, SweepOutcome, plan_sweep, run_sweep, sweep};
use crate::retention::RetentionPolicy;
use crate::rollup::{RollupOptions, RollupPolicy, roll_up};
use crate::store::faulty::{Call, Strike};

const NOW_S: i64 = 10_000;

fn at(revision: i64) -> RunContext {
    RunContext {
        clock: Clock::manual(Arc::new(AtomicI64::new(time_of(revision).0))),
        monitor: Arc::new(Recorder::default()),
        stop: CancellationToken::new(),
    }
}

/// Every revision of so many, which are a second each.
fn within(revisions: u64) -> RetentionPolicy {
    RetentionPolicy {
        keep_within: Some(Duration::from_secs(revisions)),
        covered_grace: Duration::ZERO,
        ..RetentionPolicy::default()
    }
}

/// A site where a full is at 20, 50 and 80, and deltas of two revisions lead to 120.
struct Kept {
    site: Site,
    history: History,
    lineage: LineageId,
    fulls: Vec<BackupName>,
}

impl Kept {
    async fn new() -> Self {
        let history = History::random(&mut Dice::new(3), 119);
        let (site, lineage) = (Site::new(), lineage(20));
        let digests = history.digests(&lineage, 20);
        let mut fulls = Vec::new();
        for seam in [20, 50, 80] {
            let full = Full {
                lineage,
                seam,
                revision: seam + 1,
                floor: 0,
                history: digests[&seam],
                leases: (1..=4).map(|id| (id, 60)).collect(),
                db_bytes: 1 << 30,
                answers: Vec::new(),
            };
            fulls.push(site.full(&history, full).await);
        }
        for first in (21..120).step_by(2) {
            let facts = capture(first + 1, 0);
            site.delta((lineage, &history), (first, first + 1), digests[&(first - 1)], facts).await;
        }
        let kept = Self { site, history, lineage, fulls };
        kept.date();
        kept
    }

    /// The store has taken everything when its name says.
    fn date(&self) {
        let root = self.site.dir.path().join("archive/c/etcdbr/v1").join(self.lineage.to_string());
        for dir in ["full", "delta"] {
            for file in std::fs::read_dir(root.join(dir)).unwrap() {
                let path = file.unwrap().path();
                let text = path.file_name().unwrap().to_str().unwrap().to_owned();
                let created: u64 = text.rsplit('-').nth(1).unwrap().parse().unwrap();
                let time = std::time::UNIX_EPOCH + Duration::from_millis(created);
                std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
            }
        }
    }

    async fn roll(&self) {
        let options = RollupOptions {
            policy: RollupPolicy::new(&[Duration::from_secs(10)]),
            level: CompressionLevel::Zstd(1),
            tool_version: "test".to_owned(),
        };
        roll_up(&self.site.archive, &options, &at(NOW_S)).await.unwrap();
        self.date();
    }

    async fn names(&self) -> Vec<BackupName> {
        let catalogue = self.site.archive.catalogue().await.unwrap();
        catalogue.newest_first().into_iter().map(|entry| entry.name).collect()
    }

    async fn sweep(&self, policy: &RetentionPolicy, memory: &mut SweepMemory) -> Result<SweepOutcome> {
        sweep(&self.site.archive, policy, memory, &at(NOW_S)).await
    }

    async fn assert_restores(&self, revisions: &[i64], what: &str) {
        for revision in revisions {
            let outcome = self.site.restore_revision(*revision, WayWanted::BySize).await;
            let outcome = outcome.unwrap_or_else(|error| panic!("{what}: {revision}: {error}"));
            outcome.assert_records(&self.history.between(0, *revision), &format!("{what}: {revision}"));
        }
    }
}

#[tokio::test]
async fn a_window_restores_after_a_crash_at_any_deletion() {
    let all = {
        let kept = Kept::new().await;
        kept.roll().await;
        let mut memory = SweepMemory::default();
        kept.sweep(&within(55), &mut memory).await.unwrap();
        kept.sweep(&within(55), &mut memory).await.unwrap();
        // The window begins at 65: the full of 50 leads there.
        kept.assert_restores(&[65, 66, 79, 80, 95, 120], "swept").await;
        let names = kept.names().await;
        assert!(!names.contains(&kept.fulls[0]) && names.contains(&kept.fulls[1]));
        assert!(names.len() < 15, "{names:?}");
        kept.site.store.count(Call::Delete)
    };
    assert!(all > 40, "{all}");
    for nth in (1..=all).step_by(23) {
        for strike in [Strike::Before, Strike::After] {
            let kept = Kept::new().await;
            kept.roll().await;
            let mut memory = SweepMemory::default();
            kept.site.store.fail_from(nth, Some(Call::Delete), strike, ErrorKind::Unavailable);
            let first = kept.sweep(&within(55), &mut memory).await;
            assert!(first.is_err() || kept.sweep(&within(55), &mut memory).await.is_err());
            kept.site.store.heal();
            kept.assert_restores(&[65, 80, 120], &format!("crash {strike:?} deletion {nth}")).await;
            kept.sweep(&within(55), &mut memory).await.unwrap();
            kept.sweep(&within(55), &mut memory).await.unwrap();
            assert!(kept.names().await.len() < 15);
            kept.assert_restores(&[65, 120], "swept again").await;
        }
    }
}

#[tokio::test]
async fn what_a_rollup_holds_goes_with_the_second_look() {
    let kept = Kept::new().await;
    let narrow = kept.names().await;
    kept.roll().await;
    let (mut memory, policy) = (SweepMemory::default(), within(100_000));
    let first = kept.sweep(&policy, &mut memory).await.unwrap();
    assert_eq!(first.deleted.len(), 0);
    let reads = kept.site.store.count(Call::Read);
    let second = kept.sweep(&policy, &mut memory).await.unwrap();
    assert_eq!(kept.site.store.count(Call::Read), reads, "what was read once is known");
    assert!(second.deleted.len() > 40, "{}", second.deleted.len());
    assert!(second.deleted.iter().all(|name| narrow.contains(name)), "a rollup went");
    kept.assert_restores(&[21, 47, 81, 120], "without the narrow ones").await;
}

#[tokio::test]
async fn a_rollup_that_tells_another_history_covers_nothing() {
    let kept = Kept::new().await;
    kept.roll().await;
    // Genuine objects of the same names, but of another history: somebody wrote them anew.
    let other = History::random(&mut Dice::new(4), 119);
    let digests = other.digests(&kept.lineage, 20);
    let all = kept.names().await;
    let name =
        all.iter().find(|name| matches!(name.kind, NameKind::Delta { first, last } if first.0 == 61 && last.0 == 62));
    let name = *name.unwrap();
    kept.site.remove(&name).await;
    let facts = FooterFacts {
        revisions: (Revision(61), Revision(62)),
        history: (digests[&60], digests[&60]),
        capture: capture(62, 0),
        ..facts(62, 1 << 30)
    };
    let sealed = kept.site.archive.seal_delta(name, &other.between(61, 62), facts, CompressionLevel::Zstd(1)).unwrap();
    kept.site.archive.put_delta(&sealed).await.unwrap();
    kept.date();
    let mut memory = SweepMemory::default();
    for _ in 0..3 {
        kept.sweep(&within(100_000), &mut memory).await.unwrap();
    }
    let left = kept.names().await;
    assert!(left.contains(&name) && left.len() < 20, "{}", left.len());
}

#[tokio::test]
async fn what_is_locked_is_reported_and_what_it_needs_stays() {
    let kept = Kept::new().await;
    let mut memory = SweepMemory::default();
    let plan = plan_sweep(&kept.site.archive, &within(55), &mut memory, &at(NOW_S)).await.unwrap();
    let goes: Vec<BackupName> = plan.deletions().map(|decided| decided.entry.name).collect();
    assert_eq!(goes.last(), Some(&kept.fulls[0]), "a full goes after what needs it");
    // The fourth of them is under a lock.
    kept.site.store.fail_nth(4, Some(Call::Delete), Strike::Before, ErrorKind::Denied);
    let outcome = run_sweep(&kept.site.archive, plan, &at(NOW_S)).await.unwrap();
    assert_eq!((outcome.deleted.len(), outcome.refused.len(), outcome.withheld), (3, 1, goes.len() - 4));
    assert_eq!(outcome.refused[0].name, goes[3]);
    let NameKind::Delta { last, .. } = goes[3].kind else { panic!("a delta") };
    kept.assert_restores(&[last.0, 65, 120], "with a locked delta").await;
}

#[tokio::test]
async fn nothing_goes_where_what_stays_cannot_be_opened() {
    let kept = Kept::new().await;
    let path = kept.site.path(&kept.fulls[1]);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() - 40;
    bytes[end] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    kept.date();
    let before = kept.names().await.len();
    let outcome = kept.sweep(&within(55), &mut SweepMemory::default()).await.unwrap();
    assert_eq!((outcome.deleted.len(), kept.names().await.len()), (0, before));
    assert!(outcome.unreadable.iter().any(|kept_against| kept_against.name == kept.fulls[1]) && outcome.withheld > 10);
}

#[tokio::test]
async fn only_names_of_ours_under_our_prefix_go() {
    let kept = Kept::new().await;
    let root = kept.site.dir.path().join("archive/c/etcdbr/v1").join(kept.lineage.to_string());
    let strangers = [root.join("full/README"), root.join("delta/00000000000000000022.bak")];
    strangers.iter().for_each(|path| std::fs::write(path, "x").unwrap());
    // The same archive under a prefix that ours begins like.
    let beside = kept.site.dir.path().join("archive/c-2/etcdbr/v1");
    std::fs::create_dir_all(beside.parent().unwrap()).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(root.parent().unwrap()).arg(&beside).status().unwrap();
    assert!(copied.success());
    std::fs::remove_file(beside.join(kept.lineage.to_string()).join("full/README")).unwrap();
    let count = |dir: &std::path::Path| std::fs::read_dir(dir).unwrap().count();
    let there = count(&beside.join(kept.lineage.to_string()).join("delta"));
    strangers.iter().for_each(|path| std::fs::write(path, "x").unwrap());
    let outcome = sweep(&kept.site.archive, &within(5), &mut SweepMemory::default(), &at(NOW_S)).await.unwrap();
    assert!(outcome.deleted.len() > 20);
    assert!(strangers.iter().all(|path| path.exists()));
    assert_eq!(count(&beside.join(kept.lineage.to_string()).join("delta")), there);
}
