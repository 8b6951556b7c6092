//! Backups beside a mere drain of the same stream, and what either does to whoever writes meanwhile.

use std::time::Duration;

use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::etcdbr::{Etcdbr, Outcome};
use etcdbr_tests::minio::Minio;
use tokio_util::sync::CancellationToken;

use crate::bench::{Archive, Bench, paired, program, seconds, show_seconds, timed};
use crate::dataset::{Dataset, Wear};
use crate::puts;
use crate::report::{Line, Target, median};

const QUOTA_BYTES: u64 = 16 << 30;
const MB: f64 = 1e6;
const GB: f64 = 1e9;
const PEAK_MB: f64 = 128.0;
const CPU_SECONDS_PER_GB: f64 = 2.5;
const PUT_P99: f64 = 1.2;
/// Nothing but the object itself is written.
const WRITTEN: f64 = 1.02;

/// Backs `dataset` up from etcd `version` into `archive`, which holds the last of the backups then.
///
/// # Panics
/// Where a part of it fails.
pub(crate) async fn measure(bench: &Bench, dataset: &Dataset, version: EtcdVersion, archive: &Archive) -> Vec<Line> {
    let data_dir = bench.path("source");
    dataset.unpack(version, &data_dir);
    let etcd = Etcd::builder(version).quota(QUOTA_BYTES).data_dir(&data_dir).start().await;
    let minio = Minio::start().await;
    minio.create_bucket("bench").await;
    let bucket = bench.bucket(&minio, "bench");
    let backup = |to: &Archive| {
        to.clear();
        bench.on(to, &["snapshot", "--once", "--output=json", "--endpoints", &etcd.endpoint()])
    };

    drain(&etcd).succeed(); // etcd's pages are in memory from here on
    let (mut drains, mut backups, mut to_minio) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        drains.push(timed(drain(&etcd)));
        backups.push(timed(backup(archive)));
        to_minio.push(timed(backup(&bucket)));
    }
    drop(minio);
    let mut lines = lines(dataset, version, &drains, &backups, &to_minio);
    if dataset.wear == Wear::Fresh {
        let (mut beside_drain, mut beside_stream, mut beside_backup) = (Vec::new(), Vec::new(), Vec::new());
        // As with any store but one beside etcd's own log, nothing of the backup waits for etcd's disk.
        let elsewhere = bench.memory("puts");
        for _ in 0..bench.rounds {
            beside_drain.extend(puts_beside(&etcd, drain(&etcd)).await);
            // Most fulls ask for no HashKV.
            let unasked = backup(&elsewhere).args(["--hashkv-interval", "0"]);
            beside_stream.extend(puts_beside(&etcd, unasked).await);
            beside_backup.extend(puts_beside(&etcd, backup(&elsewhere)).await);
        }
        let drain = puts::p99(beside_drain);
        lines.push(harm(version, "its stream", beside_stream, drain));
        lines.push(harm(version, "it, HashKV included", beside_backup, drain));
    }
    drop(etcd);
    std::fs::remove_dir_all(&data_dir).expect("the source can be removed");
    lines
}

fn drain(etcd: &Etcd) -> Etcdbr {
    program(std::env::current_exe().expect("a program knows its path"), &["drain", &etcd.endpoint()])
}

/// What puts take while `command` runs.
async fn puts_beside(etcd: &Etcd, command: Etcdbr) -> Vec<Duration> {
    let stop = CancellationToken::new();
    let load = tokio::spawn(puts::steady(etcd.client().await, stop.clone()));
    tokio::task::spawn_blocking(move || timed(command)).await.expect("the command runs");
    stop.cancel();
    load.await.expect("the load runs")
}

fn lines(
    dataset: &Dataset,
    version: EtcdVersion,
    drains: &[Outcome],
    backups: &[Outcome],
    to_minio: &[Outcome],
) -> Vec<Line> {
    let what = format!("{} on {}", dataset.wear.name(), version.tool());
    let gb = dataset.bytes as f64 / GB;
    let over_drain = |runs: &[Outcome]| paired(runs, drains, |run, drain| seconds(run) / seconds(drain));
    let limit = if version == EtcdVersion::V3_5_1 { 1.15 } else { 1.5 };
    let stored = |run: &Outcome| run.json()["stored_bytes"].as_f64().expect("a backup says its size");
    let peak = backups.iter().chain(to_minio).map(|run| run.peak_rss_bytes as f64 / MB).fold(0.0, f64::max);
    let cpu = |runs: &[Outcome]| median(runs.iter().map(|run| run.cpu.as_secs_f64() / gb));
    let written = median(backups.iter().map(|run| run.written_bytes as f64 / stored(run)));
    let compressed = median(backups.iter().map(|run| dataset.bytes as f64 / stored(run)));
    let beside = format!("drain {}", show_seconds(drains));
    vec![
        Line::ratio(
            format!("backup, {what}, to a directory"),
            show_seconds(backups),
            beside.clone(),
            over_drain(backups),
            Target::AtMost(limit),
        ),
        Line::ratio(
            format!("backup, {what}, to MinIO"),
            show_seconds(to_minio),
            beside,
            over_drain(to_minio),
            Target::None,
        ),
        Line::figure("its CPU", cpu(backups), "CPU-s/GB", Target::AtMost(CPU_SECONDS_PER_GB)),
        Line::figure("its CPU, to MinIO", cpu(to_minio), "CPU-s/GB", Target::AtMost(CPU_SECONDS_PER_GB)),
        Line::figure("CPU of the drain", cpu(drains), "CPU-s/GB", Target::None),
        Line::figure("its peak memory", peak, "MB", Target::AtMost(PEAK_MB)),
        Line::figure("database over object", compressed, "x", Target::None),
        Line::figure("bytes written over object", written, "x", Target::AtMost(WRITTEN)),
    ]
}

fn harm(version: EtcdVersion, beside: &str, beside_backup: Vec<Duration>, drain: Duration) -> Line {
    let ours = puts::p99(beside_backup);
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    Line::ratio(
        format!("p99 of puts beside {beside}, {}", version.tool()),
        ms(ours),
        format!("drain {}", ms(drain)),
        ours.as_secs_f64() / drain.as_secs_f64(),
        Target::AtMost(PUT_P99),
    )
}
