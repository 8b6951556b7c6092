//! Capture beside a busy etcd, and what comes back of it: a full, 100,000 revisions behind it, and all that follows.

use std::path::Path;
use std::time::{Duration, Instant};

use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::etcdbr::{Outcome, Running};
use etcdbr_tests::keyspace::current_revision;
use tokio_util::sync::CancellationToken;

use crate::bench::{Archive, Bench, SAMPLE_INTERVAL, paired, seconds, show_seconds, timed};
use crate::dataset::Dataset;
use crate::drain::drain;
use crate::history::{self, Commit};
use crate::objects::Objects;
use crate::puts;
use crate::report::{Line, Target, median};
use crate::restores::{beside, costs, fresh};

const REVISIONS: usize = 100_000;
/// Those that are written while a full is taken.
const BESIDE_A_FULL: usize = 20_000;
const PERIOD: Duration = Duration::from_secs(1);
const STEADY: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(300);
const QUOTA_BYTES: u64 = 16 << 30;
const CPU_US_PER_EVENT: f64 = 15.0;
const LATE_S: f64 = 0.5;
const PUT_P99: f64 = 1.2;
const RECORDS_PER_SECOND: f64 = 500_000.0;
const MB: f64 = 1e6;

/// A sidecar under way, and when it said that what was durable.
struct Sidecar {
    running: Running,
    durable: Vec<Commit>,
}

impl Sidecar {
    fn start(bench: &Bench, etcd: &Etcd, archive: &Archive) -> Self {
        let period = format!("--delta-snapshot-period={}s", PERIOD.as_secs());
        let run = bench.on(archive, &["snapshot", "--output=json", &period, "--endpoints", &etcd.endpoint()]);
        Self { running: run.sample_every(SAMPLE_INTERVAL).spawn(), durable: Vec::new() }
    }

    /// Waits until it says that `revision` is durable, taking down when it said what.
    async fn durable(&mut self, revision: i64) {
        let started = Instant::now();
        while self.durable.last().is_none_or(|(durable, _)| *durable < revision) {
            assert!(!self.running.ended() && started.elapsed() < PATIENCE, "{}", self.running.said());
            tokio::time::sleep(LOOK_EVERY).await;
            self.look();
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        let said = self.running.said();
        let revisions = said.lines().filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            line["durable_revision"].as_i64()
        });
        let known = self.durable.len();
        self.durable.extend(revisions.skip(known).map(|revision| (revision, now)));
    }

    /// How long after its commit each revision was durable, seconds.
    fn lateness(&self, commits: &[Commit]) -> Vec<Duration> {
        let durable_at = |revision: i64| {
            let first = self.durable.partition_point(|(durable, _)| *durable < revision);
            self.durable[first].1
        };
        commits.iter().map(|(revision, at)| durable_at(*revision).saturating_duration_since(*at)).collect()
    }
}

/// Captures what is written to `dataset` and restores it.
///
/// # Panics
/// Where a part of it fails.
pub(crate) async fn measure(bench: &Bench, dataset: &Dataset, archive: &Archive) -> (Vec<Line>, Vec<Line>) {
    let data_dir = bench.path("captured");
    dataset.unpack(EtcdVersion::V3_5_1, &data_dir);
    let etcd = Etcd::builder(EtcdVersion::V3_5_1).quota(QUOTA_BYTES).data_dir(&data_dir).start().await;
    archive.clear();
    let mut client = etcd.client().await;
    let objects = Objects::new(crate::dataset::SEED);
    let before = steady_puts(&etcd).await;
    let seam = current_revision(&mut client).await;
    let mut sidecar = Sidecar::start(bench, &etcd, archive);
    sidecar.durable(seam).await;
    let beside_sidecar = steady_puts(&etcd).await;
    sidecar.durable(current_revision(&mut client).await).await;

    let (cpu, stored) = (sidecar.running.cpu(), archive.delta_bytes());
    let started = Instant::now();
    let commits = history::write(&client, &objects, dataset.keys(), REVISIONS);
    let commits = follow(&mut sidecar, commits).await;
    let rate = REVISIONS as f64 / started.elapsed().as_secs_f64();
    let per_event = |figure: f64| figure / REVISIONS as f64;
    let cpu = per_event((sidecar.running.cpu() - cpu).as_secs_f64() * 1e6);
    let stored = per_event((archive.delta_bytes() - stored) as f64);
    let late = sidecar.lateness(&commits);

    let other = bench.directory("beside-capture");
    let full = bench.on(&other, &["snapshot", "--once", "--endpoints", &etcd.endpoint()]);
    let full = tokio::task::spawn_blocking(move || full.succeed());
    let commits = follow(&mut sidecar, history::write(&client, &objects, dataset.keys(), BESIDE_A_FULL)).await;
    let late_beside = sidecar.lateness(&commits);
    full.await.expect("the full is taken");

    let peak = stop(sidecar);
    let name = dataset.wear.name();
    let mut lines =
        vec![Line::figure(format!("capture, {name}: events a second that etcd took"), rate, "/s", Target::None)];
    lines.push(Line::figure("its CPU", cpu, "us an event", Target::AtMost(CPU_US_PER_EVENT)));
    lines.push(Line::figure("its peak memory, the full included", peak, "MB", Target::AtMost(192.0)));
    lines.push(Line::figure("stored bytes", stored, "an event", Target::None));
    lines.extend(lateness("durable after its commit", late));
    lines.extend(lateness("the same while a full is taken", late_beside));
    lines.push(harm(beside_sidecar, before));
    let final_snapshot = bench.path("final.db");
    drain(&etcd.endpoint(), Some(&final_snapshot)).await;
    drop(etcd);
    std::fs::remove_dir_all(&data_dir).expect("the source can be removed");
    let restores = restores(bench, dataset, archive, &final_snapshot, seam);
    std::fs::remove_file(&final_snapshot).expect("it was made");
    (lines, restores)
}

/// Has `writing` write, and `sidecar` looked at meanwhile, until all of it is durable.
async fn follow(sidecar: &mut Sidecar, writing: impl Future<Output = Vec<Commit>>) -> Vec<Commit> {
    let mut writing = std::pin::pin!(writing);
    let commits = loop {
        tokio::select! {
            commits = &mut writing => break commits,
            () = tokio::time::sleep(LOOK_EVERY) => sidecar.look(),
        }
    };
    sidecar.durable(commits.last().expect("something was written").0).await;
    commits
}

/// Ends it; answers its peak of memory, MB.
fn stop(sidecar: Sidecar) -> f64 {
    sidecar.running.terminate();
    let outcome = sidecar.running.wait();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome.peak_rss_bytes as f64 / MB
}

async fn steady_puts(etcd: &Etcd) -> Vec<Duration> {
    let stop = CancellationToken::new();
    let load = tokio::spawn(puts::steady(etcd.client().await, stop.clone()));
    tokio::time::sleep(STEADY).await;
    stop.cancel();
    load.await.expect("the load runs")
}

fn lateness(what: &str, late: Vec<Duration>) -> [Line; 2] {
    let mut late = late;
    late.sort();
    let at = |percent: usize| late[(late.len() * percent / 100).min(late.len() - 1)].as_secs_f64();
    let limit = PERIOD.as_secs_f64() + LATE_S;
    [
        Line::figure(format!("{what}, p50"), at(50), "s", Target::None),
        Line::figure(format!("{what}, p99"), at(99), "s", Target::AtMost(limit)),
    ]
}

fn harm(with: Vec<Duration>, without: Vec<Duration>) -> Line {
    let (with, without) = (puts::p99(with), puts::p99(without));
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let ratio = with.as_secs_f64() / without.as_secs_f64();
    Line::ratio(
        "p99 of puts beside capture",
        ms(with),
        format!("without {}", ms(without)),
        ratio,
        Target::AtMost(PUT_P99),
    )
}

/// The restore of all of it beside that of the full alone, etcd's own tool on the final database, and a bare copy of it.
fn restores(bench: &Bench, dataset: &Dataset, archive: &Archive, final_snapshot: &Path, seam: i64) -> Vec<Line> {
    let target = bench.path("target");
    let (mut etcdutl, mut copies, mut all, mut fulls, mut rewrites) = (vec![], vec![], vec![], vec![], vec![]);
    let mut final_bytes = 0;
    let restore =
        |args: &[&str]| bench.on(archive, &["restore", "--output=json"]).args(args).arg("--data-dir").arg(&target);
    for _ in 0..bench.rounds {
        etcdutl.push(fresh(&target, crate::restores::by_etcdutl(final_snapshot, &target)));
        copies.push(fresh(&target, crate::restores::copied(final_snapshot, &target)));
        fulls.push(fresh(&target, restore(&["--revision", &seam.to_string()])));
        rewrites.push(fresh(&target, restore(&["--defragment"])));
        all.push(timed(restore(&[])));
        final_bytes = target.join("member/snap/db").metadata().expect("a restored database").len();
        std::fs::remove_dir_all(&target).expect("the target can be removed");
    }
    let what = format!("restore of a full and 120,000 revisions, {}", dataset.wear.name());
    let mut lines = beside(&what, &all, &etcdutl, &copies);
    lines.extend(costs(&all, final_bytes as f64 / 1e9, final_bytes));
    lines.push(replay_rate(&all, &fulls));
    lines.push(Line::ratio(
        "the same by a rewrite",
        show_seconds(&rewrites),
        format!("append {}", show_seconds(&all)),
        paired(&rewrites, &all, |rewrite, append| seconds(rewrite) / seconds(append)),
        Target::None,
    ));
    lines
}

/// Records that the deltas added, over the time that they added.
fn replay_rate(all: &[Outcome], fulls: &[Outcome]) -> Line {
    let records = (REVISIONS + BESIDE_A_FULL) as f64;
    let added = median(all.iter().zip(fulls).map(|(all, full)| seconds(all) - seconds(full)));
    let rate = if added > 0.0 { records / added } else { f64::INFINITY };
    Line::figure(
        format!("revisions replayed a second ({added:.2} s more than the full alone)"),
        rate,
        "/s",
        Target::AtLeast(RECORDS_PER_SECOND),
    )
}
