//! Restores beside etcd's own tool and beside a bare copy of the same bytes.

use std::path::Path;

use etcdbr_tests::etcd::EtcdVersion;
use etcdbr_tests::etcdbr::{Etcdbr, Outcome};

use crate::bench::{Archive, Bench, paired, program, seconds, show_seconds, timed};
use crate::dataset::Dataset;
use crate::report::{Line, Target, median};

const MB: f64 = 1e6;
const GB: f64 = 1e9;
const PEAK_MB: f64 = 256.0;
const WRITTEN: f64 = 1.15;
const FASTER_THAN_ETCDUTL: f64 = 5.0;
const VERIFIED_MB_PER_SECOND: f64 = 500.0;
const CHURNED_OVER_FRESH: f64 = 1.3;

/// What was measured of one database.
#[derive(Debug)]
pub(crate) struct Restores {
    /// The table's lines.
    pub(crate) lines: Vec<Line>,
    seconds_per_gb: f64,
}

/// Restores `dataset` from `archive`, whose latest backup is of it, in every way there is.
///
/// # Panics
/// Where a part of it fails.
pub(crate) fn measure(bench: &Bench, dataset: &Dataset, archive: &Archive) -> Restores {
    let target = bench.path("target");
    let (mut etcdutl, mut copies, mut fulls) = (Vec::new(), Vec::new(), Vec::new());
    let (mut plain, mut verified) = (Vec::new(), Vec::new());
    let mut final_bytes = 0;
    for _ in 0..bench.rounds {
        etcdutl.push(fresh(&target, by_etcdutl(&dataset.snapshot, &target)));
        copies.push(fresh(&target, copied(&dataset.snapshot, &target)));
        fulls.push(timed(bench.on(archive, &["restore"]).arg("--data-dir").arg(&target)));
        final_bytes = target.join("member/snap/db").metadata().expect("a restored database").len();
        std::fs::remove_dir_all(&target).expect("the target can be removed");
        let snapshot = Etcdbr::new(["restore", "--snapshot"]).arg(&dataset.snapshot);
        plain.push(fresh(&target, snapshot.arg("--data-dir").arg(&target)));
        verified.push(timed(bench.on(archive, &["verify"])));
    }
    let gb = dataset.bytes as f64 / GB;
    let mut lines = beside(&format!("restore of a full, {}", dataset.wear.name()), &fulls, &etcdutl, &copies);
    lines.extend(costs(&fulls, gb, final_bytes));
    lines.push(Line::ratio(
        format!("restore of the plain snapshot, {}: faster than etcdutl 3.5", dataset.wear.name()),
        show_seconds(&plain),
        format!("etcdutl {}", show_seconds(&etcdutl)),
        paired(&etcdutl, &plain, |theirs, ours| seconds(theirs) / seconds(ours)),
        Target::AtLeast(FASTER_THAN_ETCDUTL),
    ));
    let verify_rate = median(verified.iter().map(|run| dataset.bytes as f64 / MB / seconds(run)));
    lines.push(Line::figure(
        format!("verify, {} ({})", dataset.wear.name(), show_seconds(&verified)),
        verify_rate,
        "MB/s",
        Target::AtLeast(VERIFIED_MB_PER_SECOND),
    ));
    Restores { lines, seconds_per_gb: median(fulls.iter().map(seconds)) / gb }
}

/// How much longer a worn database takes than a fresh one, byte for byte.
pub(crate) fn wear(fresh: &Restores, churned: &Restores) -> Line {
    let show = |restores: &Restores| format!("{:.2} s/GB", restores.seconds_per_gb);
    Line::ratio(
        "restore of a full, churned over fresh, per byte",
        show(churned),
        format!("fresh {}", show(fresh)),
        churned.seconds_per_gb / fresh.seconds_per_gb,
        Target::AtMost(CHURNED_OVER_FRESH),
    )
}

/// Runs `command` and removes what it made.
pub(crate) fn fresh(target: &Path, command: Etcdbr) -> Outcome {
    let outcome = timed(command);
    let made = if target.is_dir() { std::fs::remove_dir_all(target) } else { std::fs::remove_file(target) };
    made.expect("what was made can be removed");
    outcome
}

/// etcd's own tool.
pub(crate) fn by_etcdutl(snapshot: &Path, target: &Path) -> Etcdbr {
    let run = program(EtcdVersion::V3_5.dir().join("etcdutl"), &["snapshot", "restore"]);
    run.arg(snapshot).arg("--data-dir").arg(target)
}

/// `cp` and `fsync`: no restore that leaves as many bytes can do without.
pub(crate) fn copied(snapshot: &Path, target: &Path) -> Etcdbr {
    let script = r#"cp --reflink=never "$0" "$1" && sync "$1""#;
    program("/bin/sh", &["-c", script]).arg(snapshot).arg(target)
}

pub(crate) fn beside(what: &str, ours: &[Outcome], etcdutl: &[Outcome], copies: &[Outcome]) -> Vec<Line> {
    vec![
        Line::ratio(
            format!("{what}: faster than etcdutl 3.5"),
            show_seconds(ours),
            format!("etcdutl {}", show_seconds(etcdutl)),
            paired(etcdutl, ours, |theirs, ours| seconds(theirs) / seconds(ours)),
            Target::AtLeast(FASTER_THAN_ETCDUTL),
        ),
        Line::ratio(
            format!("{what}: over a bare copy"),
            show_seconds(ours),
            format!("cp, fsync {}", show_seconds(copies)),
            paired(ours, copies, |ours, copy| seconds(ours) / seconds(copy)),
            Target::None,
        ),
    ]
}

pub(crate) fn costs(runs: &[Outcome], gb: f64, final_bytes: u64) -> Vec<Line> {
    let cpu = median(runs.iter().map(|run| run.cpu.as_secs_f64() / gb));
    let peak = runs.iter().map(|run| run.peak_rss_bytes as f64 / MB).fold(0.0, f64::max);
    let written = median(runs.iter().map(|run| run.written_bytes as f64 / final_bytes as f64));
    vec![
        Line::figure("its CPU", cpu, "CPU-s/GB", Target::None),
        Line::figure("its peak memory", peak, "MB", Target::AtMost(PEAK_MB)),
        Line::figure("bytes written over final database", written, "x", Target::AtMost(WRITTEN)),
    ]
}
