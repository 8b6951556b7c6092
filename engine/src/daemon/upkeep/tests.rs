//! Hours of an archive under a virtual clock, with a store that fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tempfile::TempDir;

use super::*;
use crate::archive::{ChainTarget, Keyring, Lineage, OnGap, WriteLimits, chain_to, gaps};
use crate::capture::StoredKind;
use crate::clock::Clock;
use crate::format::{
    ArchivePrefix, CaptureFacts, FooterFacts, HistoryDigest, LineageId, ObjectNonce, Seam, SeamProof, Source, TimeMark,
};
use crate::monitor::{Event, Recorder};
use crate::record::{Change, Record};
use crate::revision::{ClusterId, MemberId, Revision};
use crate::rollup::RollupPolicy;
use crate::store::faulty::{Call, FaultyStore, Strike};
use crate::store::{LocalStore, ObjectStore, PartNumber};

/// The beginning of an hour.
const BIRTH: i64 = 1_763_722_800_000;
const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;

fn lineage() -> LineageId {
    LineageId { birth: UnixMillis(BIRTH), cluster: ClusterId(0xcafe), random: 7 }
}

/// An archive that is captured into, second by second.
struct World {
    dir: TempDir,
    store: Arc<FaultyStore>,
    archive: Archive,
    hand: Arc<AtomicI64>,
    told: Arc<Recorder>,
    gauges: Gauges,
    context: RunContext,
    keeper: Keeper,
    newest: (Revision, HistoryDigest),
    /// Between two looks.
    step_s: i64,
}

impl World {
    async fn new(covered_grace: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(FaultyStore::new(Arc::new(LocalStore::new(dir.path().to_str().unwrap()).unwrap())));
        let archive = Archive::new(store.clone(), ArchivePrefix::new("c").unwrap(), Keyring::default());
        let (hand, told) = (Arc::new(AtomicI64::new(BIRTH)), Arc::new(Recorder::default()));
        let (clock, stop) = (Clock::manual(hand.clone()), CancellationToken::new());
        let context = RunContext { clock, monitor: told.clone(), stop };
        let request = UpkeepRequest {
            rollup: RollupOptions {
                policy: RollupPolicy::default(),
                level: Default::default(),
                tool_version: "test".to_owned(),
            },
            sweeping: Some(Sweeping {
                every: Duration::from_secs(60),
                policy: RetentionPolicy { covered_grace, ..RetentionPolicy::default() },
                uploads: UploadsRequest { older_than: Duration::from_secs(24 * 3_600) },
            }),
        };
        let gauges = Gauges::default();
        let keeper = Keeper::new(archive.clone(), request, gauges.clone(), context.clone());
        let digest = HistoryDigest::at_seam(&lineage(), Revision(10));
        let mut world = Self {
            dir,
            store,
            archive,
            hand,
            told,
            gauges,
            context,
            keeper,
            newest: (Revision(10), digest),
            step_s: 1,
        };
        world.full().await;
        world
    }

    /// The same archive, and a sidecar that has just been started beside it.
    fn restarted(&mut self) {
        let request = UpkeepRequest {
            rollup: self.keeper.rollup.clone(),
            sweeping: self.keeper.sweeper.as_ref().map(|own| own.sweeping.clone()),
        };
        self.context.stop = CancellationToken::new();
        self.gauges = Gauges::default();
        self.keeper = Keeper::new(self.archive.clone(), request, self.gauges.clone(), self.context.clone());
    }

    fn now(&self) -> UnixMillis {
        self.context.clock.now()
    }

    fn name(&self, kind: NameKind) -> BackupName {
        let nonce = ObjectNonce(self.newest.0.0.to_be_bytes());
        BackupName { lineage: lineage(), kind, created: self.now(), nonce }
    }

    fn facts(&self, seam: Option<Seam>) -> FooterFacts {
        let marks = vec![TimeMark { time: self.now(), revision: self.newest.0 }];
        FooterFacts {
            plain_sha256: [0; 32],
            revisions: (self.newest.0, self.newest.0),
            seam,
            hash_kv: Vec::new(),
            source: Source {
                cluster: ClusterId(0xcafe),
                member: MemberId(1),
                member_name: "m1".to_owned(),
                endpoint: "http://127.0.0.1:2379".to_owned(),
                etcd_version: "3.6.0".to_owned(),
                raft_term: 2,
                raft_index: 99,
                db_bytes: 1 << 30,
                db_bytes_in_use: 0,
            },
            history: (self.newest.1, self.newest.1),
            capture: CaptureFacts { time_marks: marks, ..CaptureFacts::default() },
            labels: BTreeMap::new(),
            tool_version: "test".to_owned(),
            started: self.now(),
            finished: self.now(),
        }
    }

    async fn full(&mut self) {
        let revision = self.newest.0;
        let facts = self.facts(Some(Seam { revision, records: Vec::new(), proof: SeamProof::Unproven }));
        let mut writer =
            self.archive.writer(self.name(NameKind::Full { seam: revision }), WriteLimits::default()).unwrap();
        writer.push(b"an image that nobody reads").await.unwrap();
        writer.finish(&facts).await.unwrap();
        self.date();
    }

    /// One more revision is in the store.
    async fn capture(&mut self) {
        let before = self.facts(None);
        self.newest.0 = self.newest.0.next();
        let main = self.newest.0;
        let record = Record { main, sub: 0, change: Change::Put, value: vec![b'v'; 40].into() };
        let name = self.name(NameKind::Delta { first: main, last: main });
        let sealed = self.archive.seal_delta(name, &[record], before, Default::default()).unwrap();
        self.newest.1 = sealed.facts().history.1;
        self.archive.put_delta(&sealed).await.unwrap();
        self.gauges.note(|figures| figures.count_stored(StoredKind::Delta, 1));
        self.date();
    }

    /// The store took each object when its name says.
    fn date(&self) {
        let root = self.dir.path().join("c/etcdbr/v1").join(lineage().to_string());
        for dir in ["full", "delta"] {
            for file in std::fs::read_dir(root.join(dir)).into_iter().flatten().flatten() {
                let text = file.file_name().into_string().unwrap();
                let Some(created) = text.rsplit('-').nth(1).and_then(|ms| ms.parse().ok()) else { continue };
                let time = std::time::UNIX_EPOCH + Duration::from_millis(created);
                std::fs::File::options().write(true).open(file.path()).unwrap().set_modified(time).unwrap();
            }
        }
    }

    /// So many seconds pass; a revision is captured each `every` of them (0: never).
    async fn pass(&mut self, seconds: i64, every: i64) {
        for second in (1..=seconds).filter(|second| second % self.step_s == 0).collect::<Vec<_>>() {
            self.hand.fetch_add(self.step_s * 1_000, Ordering::SeqCst);
            if every > 0 && second % every == 0 {
                self.capture().await;
            }
            let rollups = self.gauges.figures().upkeep.rollups;
            self.keeper.turn().await;
            if self.gauges.figures().upkeep.rollups > rollups {
                self.date();
            }
        }
    }

    async fn lineage(&self) -> Lineage {
        self.archive.catalogue().await.unwrap().lineages.remove(&lineage()).unwrap()
    }

    /// Every revision is there; how many objects have them.
    async fn whole(&self) -> usize {
        let lineage = self.lineage().await;
        assert_eq!(gaps(&lineage), []);
        let chain = chain_to(&lineage, ChainTarget::Newest, OnGap::Refuse).unwrap();
        assert_eq!((chain.seam(), chain.reaches), (Revision(10), self.newest.0));
        lineage.backups.len()
    }

    fn notes(&self, words: &str) -> usize {
        let said = |event: &&Event| matches!(event, Event::Note(line) if line.contains(words));
        self.told.events().iter().filter(said).count()
    }

    fn lists(&self) -> u64 {
        self.store.count(Call::List)
    }
}

#[tokio::test]
async fn narrow_deltas_become_wide_ones_and_go_by_themselves() {
    let mut world = World::new(Duration::from_secs(900)).await;
    world.pass(65 * MINUTE, 10).await;
    let figures = world.gauges.figures().upkeep;
    assert_eq!((figures.rollups, world.notes("rolled up 30 deltas into")), (12, 11));
    // Those of the grace, and of the five minutes before, are still there by themselves.
    let left = world.whole().await;
    assert!(left < 12 + 1 + (15 + 5 + 2) * 6, "{left}");
    world.pass(35 * MINUTE, 60).await;
    let left = world.whole().await;
    assert!(left < 40, "{left}: {:?}", world.told.events());
    let figures = world.gauges.figures().upkeep;
    assert!(figures.rollups > 13 && figures.rolled_up >= 12 * 30, "{figures:?}");
    assert!(figures.removals[&("Incr", true)] > 360 && figures.removals.len() == 1, "{figures:?}");
    assert!(figures.last_sweep.is_some_and(|at| world.now().0 - at.0 < 70_000) && figures.failures.is_empty());
    assert!(world.told.warnings().is_empty(), "{:?}", world.told.warnings());
}

#[tokio::test]
async fn an_archive_that_stands_still_is_not_listed() {
    let mut world = World::new(Duration::ZERO).await;
    world.step_s = 5;
    world.pass(3 * HOUR, 0).await;
    assert_eq!((world.lists(), world.gauges.figures().upkeep.last_sweep), (0, None));
    world.capture().await;
    world.pass(3 * HOUR, 0).await;
    // At once, when its five minutes and its hour are past; and one sweep.
    let most = 3 + 1 + 1;
    assert!((3..=most).contains(&world.lists()), "{}", world.lists());
    let before = world.lists();
    world.pass(3 * HOUR, 0).await;
    assert_eq!(world.lists(), before);
    let swept = world.gauges.figures().upkeep.last_sweep.unwrap();
    assert!(world.now().0 - swept.0 <= 5_000, "nothing to do is no sweep that is overdue");
}

#[tokio::test]
async fn who_stands_by_leaves_the_archive_alone() {
    let mut world = World::new(Duration::ZERO).await;
    world.step_s = 5;
    world.gauges.note(|figures| figures.leads = Some(false));
    world.pass(20 * MINUTE, 10).await;
    assert_eq!(world.lists(), 0);
    world.gauges.note(|figures| figures.leads = Some(true));
    world.pass(5 * MINUTE, 10).await;
    let figures = world.gauges.figures().upkeep;
    assert!(figures.rollups > 3 && figures.last_sweep.is_some(), "{figures:?}");
}

#[tokio::test]
async fn a_quiet_cluster_costs_one_list_a_boundary_besides_its_sweeps() {
    let mut world = World::new(Duration::ZERO).await;
    world.keeper.sweeper = None;
    // A mark each minute.
    world.pass(HOUR, 60).await;
    assert!((12..=14).contains(&world.lists()), "{}", world.lists());
}

#[tokio::test]
async fn what_fails_is_told_counted_and_tried_again_ever_more_seldom() {
    let mut world = World::new(Duration::ZERO).await;
    world.store.fail_from(1, Some(Call::List), Strike::Before, ErrorKind::Unavailable);
    world.pass(30 * MINUTE, 10).await;
    let figures = world.gauges.figures().upkeep;
    assert_eq!((figures.rollups, figures.last_sweep), (0, None));
    for chore in ["rollup", "sweep"] {
        assert!((8..=13).contains(&figures.failures[chore]), "{figures:?}");
    }
    let warned = world.told.warnings();
    assert_eq!(warned.len() as u64, figures.failures.values().sum::<u64>());
    assert!(warned.iter().any(|line| line.contains("a rollup has failed, and is tried again in 512s")), "{warned:?}");
    world.store.heal();
    world.pass(11 * MINUTE, 10).await;
    assert!(world.gauges.figures().upkeep.rollups >= 6);
    assert!(world.whole().await < 100);
}

/// One rollup of several fails: those before it are told, and the others come.
#[tokio::test]
async fn a_rollup_that_breaks_off_leaves_a_whole_archive() {
    let mut world = World::new(Duration::ZERO).await;
    for _ in 0..40 {
        world.hand.fetch_add(20_000, Ordering::SeqCst);
        world.capture().await;
    }
    world.store.fail_nth(2, Some(Call::Put), Strike::Before, ErrorKind::Unavailable);
    world.pass(1, 0).await;
    assert_eq!((world.gauges.figures().upkeep.rollups, world.told.warnings().len()), (1, 1));
    world.whole().await;
    world.pass(2, 0).await;
    assert_eq!(world.gauges.figures().upkeep.rollups, 2);
    world.whole().await;
}

#[tokio::test]
async fn a_sweep_that_is_stopped_leaves_a_whole_archive() {
    let mut world = World::new(Duration::ZERO).await;
    for _ in 0..60 {
        world.hand.fetch_add(20_000, Ordering::SeqCst);
        world.capture().await;
    }
    world.keeper.roll_up().await.unwrap();
    world.date();
    world.keeper.sweep().await.unwrap();
    let before = world.whole().await;
    let (store, stop) = (world.store.clone(), world.context.stop.clone());
    let stopping = async {
        while store.count(Call::Delete) < 20 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let (swept, ()) = tokio::join!(world.keeper.sweep(), stopping);
    assert_eq!(swept.unwrap_err().kind(), ErrorKind::Interrupted);
    let left = world.whole().await;
    assert!(left < before - 8 && left > 15, "{left} of {before}");
    let told = world.gauges.figures().upkeep.removals[&("Incr", true)];
    assert!(told > 0 && told <= (before - left) as u64, "{told}");
    assert!(world.told.warnings().is_empty(), "a stop is no failure: {:?}", world.told.warnings());

    world.restarted();
    world.pass(5 * MINUTE, 60).await;
    assert!(world.whole().await < 20);
}

#[tokio::test]
async fn what_the_store_refuses_is_counted_and_asked_for_ever_more_seldom() {
    let mut world = World::new(Duration::ZERO).await;
    world.store.fail_from(1, Some(Call::Delete), Strike::Before, ErrorKind::Denied);
    world.pass(10 * MINUTE, 10).await;
    let refused = world.gauges.figures().upkeep.removals;
    assert!(refused[&("Incr", false)] > 20 && refused.len() == 1, "{refused:?}");
    let warnings = world.told.warnings();
    assert!(warnings.iter().all(|line| line.contains("swept: 0 objects deleted, ")), "{warnings:?}");
    world.step_s = 10;
    world.pass(6 * HOUR, 600).await;
    assert!(world.told.warnings().len() < 15, "{:?}", world.told.warnings());
    world.whole().await;
    world.store.heal();
    world.pass(2 * HOUR, 600).await;
    assert!(world.gauges.figures().upkeep.removals[&("Incr", true)] > 60);
    assert!(world.whole().await < 40);
}

#[tokio::test]
async fn abandoned_uploads_go_after_their_grace() {
    let mut world = World::new(Duration::ZERO).await;
    let key = ArchivePrefix::new("c").unwrap().key(&world.name(NameKind::Full { seam: Revision(99) }));
    let upload = world.store.start_upload(&key, 5 << 20).await.unwrap();
    upload.put_part(PartNumber(1), vec![1; 5 << 20].into()).await.unwrap();
    // Killed: nobody takes it back.
    std::mem::forget(upload);
    // A directory knows only the machine's own time.
    world.hand.store(Clock::system().now().0, Ordering::SeqCst);
    world.step_s = 60;
    let pending = async |world: &World| world.archive.unfinished().await.unwrap().ours.len();
    world.pass(2 * HOUR, 0).await;
    assert_eq!(pending(&world).await, 1);
    assert!(world.store.count(Call::PendingUploads) <= 4, "{}", world.store.count(Call::PendingUploads));
    world.pass(24 * HOUR, 0).await;
    assert_eq!((pending(&world).await, world.gauges.figures().upkeep.aborted_uploads), (0, 1));
    assert_eq!(world.notes("aborted 1 abandoned uploads"), 1);
}

/// Nothing waits for it, and it ends with its owner.
#[tokio::test]
async fn it_ends_at_once_when_it_is_told_to() {
    let world = World::new(Duration::ZERO).await;
    let request = UpkeepRequest {
        rollup: world.keeper.rollup.clone(),
        sweeping: world.keeper.sweeper.as_ref().map(|own| own.sweeping.clone()),
    };
    let upkeep = Upkeep::begin(&world.archive, &request, &world.gauges, &world.context);
    let begun = tokio::time::Instant::now();
    upkeep.end().await;
    assert!(begun.elapsed() < STOP_PATIENCE && !world.context.stop.is_cancelled());
}
