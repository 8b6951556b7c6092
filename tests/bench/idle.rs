//! What a sidecar costs beside an etcd in which nothing happens.

use std::time::{Duration, Instant};

use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::minio::Minio;
use etcdbr_tests::scenario::{BUCKET, Site};

use crate::report::{Line, Target};

const WATCHED: Duration = Duration::from_secs(125);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
const MB: f64 = 1e6;

/// Runs one with default flags, from its first mark on, for two marks more.
///
/// # Panics
/// Where a part of it fails.
pub(crate) async fn measure() -> Vec<Line> {
    let minio = Minio::start().await;
    let site = Site::minio(&minio).await;
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    etcd.client().await.put("/idle", "x", None).await.expect("a put");
    let run = site.command(&["snapshot", "--output=json", "--endpoints", &etcd.endpoint()]);
    let sidecar = run.sample_every(SAMPLE_EVERY).spawn();
    let started = Instant::now();
    while !minio.keys(BUCKET).await.iter().any(|key| key.contains("/delta/")) {
        assert!(started.elapsed() < PATIENCE, "no mark: {}", sidecar.said());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let bytes = stored_bytes(&minio).await;
    let (requests, cpu) = (minio.requests().await, sidecar.cpu());
    let begun = Instant::now();
    tokio::time::sleep(WATCHED).await;
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let (cpu, resident) = (sidecar.cpu() - cpu, resident_bytes(sidecar.pid()));
    let after = minio.requests().await;
    let bytes = stored_bytes(&minio).await - bytes;
    let made = |name: &str| (after.get(name).unwrap_or(&0) - requests.get(name).unwrap_or(&0)) as f64 / minutes;
    sidecar.terminate();
    let outcome = sidecar.wait();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    vec![
        Line::figure("beside an idle etcd: PUTs", made("PutObject"), "a minute", Target::AtMost(1.0)),
        Line::figure("its GETs", made("GetObject"), "a minute", Target::None),
        Line::figure("stored bytes", bytes as f64 / minutes, "a minute", Target::None),
        Line::figure("its CPU", cpu.as_secs_f64() / minutes, "CPU-s a minute", Target::None),
        Line::figure("its resident memory, with its program", resident as f64 / MB, "MB", Target::None),
        Line::figure("the peak of its own", outcome.peak_rss_bytes as f64 / MB, "MB", Target::None),
    ]
}

async fn stored_bytes(minio: &Minio) -> u64 {
    minio.objects(BUCKET).await.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1_024
}
