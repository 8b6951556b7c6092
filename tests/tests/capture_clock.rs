//! Clocks that are wrong: times in an archive never go back, and are the store's where ours is far off.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use etcdbr_engine::archive::WriteLimits;
use etcdbr_engine::backup::{FullRequest, HashKvPolicy};
use etcdbr_engine::capture::{CaptureOptions, CutLimits, Gauges};
use etcdbr_engine::clock::{Clock, UnixMillis};
use etcdbr_engine::daemon::{Duty, SidecarRequest, UpkeepRequest, run_sidecar};
use etcdbr_engine::etcd::{EtcdOptions, WatchLimits};
use etcdbr_engine::monitor::Recorder;
use etcdbr_engine::pipeline::CompressionLevel;
use etcdbr_engine::rollup::{RollupOptions, RollupPolicy};
use etcdbr_engine::run::RunContext;
use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::keyspace::current_revision;
use etcdbr_tests::s3::{Mode, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site};
use etcdbr_tests::sidecar::{Captured, Sidecar};
use tokio_util::sync::CancellationToken;

const HOUR_MS: i64 = 3_600_000;

fn request(etcd: &Etcd, gauges: &Gauges) -> SidecarRequest {
    SidecarRequest {
        duty: Duty::Always,
        full: FullRequest {
            etcd: EtcdOptions::new([etcd.endpoint()]),
            limits: WriteLimits::default(),
            labels: Default::default(),
            tool_version: "test".to_owned(),
            hash_kv: HashKvPolicy::Sparing,
        },
        schedule: None,
        capture: CaptureOptions {
            cut: CutLimits { period: Duration::from_millis(100), bytes: 1 << 20 },
            watch: WatchLimits::default(),
            level: CompressionLevel::default(),
            tool_version: "test".to_owned(),
            full_after_bytes: None,
        },
        upkeep: UpkeepRequest {
            rollup: RollupOptions {
                policy: RollupPolicy::new(&[]),
                level: CompressionLevel::default(),
                tool_version: "test".to_owned(),
            },
            sweeping: None,
        },
        memory_limit: 1 << 20,
        gauges: gauges.clone(),
        shutdown_timeout: Duration::from_secs(60),
    }
}

/// Waits until `revision` is durable.
async fn durable(gauges: &Gauges, revision: i64, told: &Recorder) {
    let started = std::time::Instant::now();
    while gauges.figures().durable.is_none_or(|mark| mark.revision.0 < revision) {
        assert!(started.elapsed().as_secs() < 120, "{revision} is not durable: {:?}", told.events());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_stepped_back_an_hour() {
    let site = Site::local();
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    client.put("/clock", "before", None).await.unwrap();
    let hand = Arc::new(AtomicI64::new(Clock::system().now().0));
    let (stop, gauges) = (CancellationToken::new(), Gauges::default());
    let told = Arc::new(Recorder::default());
    let context = RunContext { clock: Clock::manual(hand.clone()), monitor: told.clone(), stop: stop.clone() };
    let (archive, request) = (Captured::of(&site).await.archive().clone(), request(&etcd, &gauges));
    let script = async {
        // The full that opens the lineage is durable, with its own seam.
        durable(&gauges, 2, &told).await;
        let mut marked = Vec::new();
        for step_ms in [2_000, -HOUR_MS, 2_000, HOUR_MS + 10_000] {
            hand.fetch_add(step_ms, Ordering::SeqCst);
            client.put("/clock", step_ms.to_string(), None).await.unwrap();
            let revision = current_revision(&mut client).await;
            durable(&gauges, revision, &told).await;
            marked.push((gauges.figures().durable.unwrap().time, revision));
        }
        stop.cancel();
        marked
    };
    let (ran, marked) = tokio::join!(run_sidecar(&archive, &request, &context), script);
    ran.unwrap();
    let figures = gauges.figures();
    assert!(figures.last_full.is_some() && figures.last_hash_kv.is_some(), "{figures:?}");
    assert_eq!((figures.waiting_bytes, figures.source_revision.0), (0, marked[3].1));
    let captured = Captured::of(&site).await;
    let marks = captured.time_marks(captured.lineages()[0]).await;
    assert!(marks.is_sorted_by_key(|mark| (mark.revision, mark.time)), "{marks:?}");
    assert!(marks.is_sorted_by_key(|mark| (mark.time, mark.revision)), "{marks:?}");
    // What was written while the clock was behind has the time of what came before it.
    let at = |time: UnixMillis| {
        let run = site.command(&["restore", "--dry-run", "--output=json", "--at", &time.to_string()]);
        run.arg("--data-dir").arg(site.path("never")).succeed().json()["revision"].as_i64().unwrap()
    };
    let [first, _, behind, last] = marked[..] else { panic!("four times") };
    assert_eq!(at(UnixMillis(first.0.0 - 1_000)), marked[0].1 - 1);
    assert_eq!((first.0, at(first.0)), (behind.0, behind.1));
    assert_eq!(at(UnixMillis(last.0.0 - 1)), behind.1);
    assert_eq!(at(last.0), last.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_far_off_the_stores_is_not_believed() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    server.shift_clock(2 * HOUR_MS / 1_000);
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    client.put("/clock", "x", None).await.unwrap();
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    client.put("/clock", "y", None).await.unwrap();
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.said("behind the store's", 1).await;
    let captured = Captured::on(&server, &site).await;
    let now = Clock::system().now().0;
    for entry in &captured.lineages()[0].backups {
        let ahead_ms = entry.name.created.0 - now;
        assert!((HOUR_MS..3 * HOUR_MS).contains(&ahead_ms), "{}", entry.name);
    }
    // Said once.
    client.put("/clock", "z", None).await.unwrap();
    sidecar.durable(current_revision(&mut client).await).await;
    assert_eq!(sidecar.times("behind the store's"), 1);
    sidecar.stop();
}
