//! The figures of a sidecar in the words of Prometheus (OpenMetrics text).
//!
//! Names that `etcdbrctl` has are kept where the meaning is the same: `etcdbr_snapshot_latest_revision` and
//! `etcdbr_snapshot_latest_timestamp`, by kind `Full` and `Incr`.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::capture::Figures;
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};

type Float = Gauge<f64, AtomicU64>;
type Labels = [(&'static str, &'static str); 1];

/// All of `figures`, as they are at `now`.
///
/// # Errors
/// `Internal` where they cannot be written down.
pub(super) fn exposition(figures: &Figures, now: UnixMillis) -> Result<String> {
    let mut registry = Registry::with_prefix("etcdbr");
    positions(&mut registry, figures, now);
    counters(&mut registry, figures);
    latest(&mut registry, figures);
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|error| Error::new(ErrorKind::Internal, "the metrics cannot be written").caused_by(error))?;
    Ok(text)
}

fn seconds(time: UnixMillis) -> f64 {
    time.0 as f64 / 1e3
}

fn float(registry: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Float::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn count(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter: Counter = Counter::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

/// How far capture is behind. What is not known yet is not shown.
fn positions(registry: &mut Registry, figures: &Figures, now: UnixMillis) {
    let source = figures.source_revision.0;
    if let Some(durable) = figures.durable {
        let age = (now.0 - durable.time.0).max(0) as f64 / 1e3;
        let lag = (source - durable.revision.0).max(0);
        float(registry, "durable_revision", "The last revision that restores", durable.revision.0 as f64);
        float(registry, "durable_timestamp_seconds", "When the source stood at that revision", seconds(durable.time));
        float(registry, "durable_age_seconds", "How long ago that was: the RPO", age);
        float(registry, "lag_revisions", "Revisions of the source that are not durable yet", lag as f64);
    }
    if source > 0 {
        float(registry, "source_revision", "The source's revision, as far as it was heard of", source as f64);
    }
    let waiting = figures.waiting_bytes as f64;
    float(registry, "waiting_bytes", "Sealed bytes that wait for the store", waiting);
}

fn counters(registry: &mut Registry, figures: &Figures) {
    count(registry, "watch_resumes", "Watches that went on with a lineage", figures.watch_resumes);
    count(registry, "upload_retries", "Uploads of deltas that were tried again", figures.upload_retries);
    count(registry, "merged_deltas", "Deltas that became part of a wider one while they waited", figures.merged_deltas);
    count(registry, "failed_fulls", "Fulls that failed", figures.failed_fulls);
    let fulls = Family::<Labels, Counter>::default();
    for (reason, begun) in &figures.fulls {
        fulls.get_or_create(&[("reason", *reason)]).inc_by(*begun);
    }
    registry.register("fulls", "Fulls that were begun", fulls);
}

fn latest(registry: &mut Registry, figures: &Figures) {
    let (revisions, times) = (Family::<Labels, Float>::default(), Family::<Labels, Float>::default());
    let show = |kind: &'static str, revision: i64, time: UnixMillis| {
        revisions.get_or_create(&[("kind", kind)]).set(revision as f64);
        times.get_or_create(&[("kind", kind)]).set(seconds(time));
    };
    if let Some(full) = figures.last_full {
        show("Full", full.revision.0, full.finished);
        let took = (full.finished.0 - full.begun.0).max(0) as f64 / 1e3;
        float(registry, "full_duration_seconds", "How long the newest full took", took);
        float(registry, "full_stored_bytes", "Bytes of the newest full", full.stored_bytes as f64);
    }
    if let Some(durable) = figures.durable {
        show("Incr", durable.revision.0, durable.time);
    }
    registry.register("snapshot_latest_revision", "Revision of the newest backup", revisions);
    registry.register("snapshot_latest_timestamp", "Time of the newest backup, seconds since 1970", times);
    if let Some(stall) = figures.last_hash_kv_ms {
        let help = "How long a member stood still for the last HashKV";
        float(registry, "hashkv_stall_seconds", help, stall as f64 / 1e3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::LastFull;
    use crate::format::TimeMark;
    use crate::revision::Revision;

    #[test]
    fn what_is_known_is_shown() {
        let figures = Figures {
            durable: Some(TimeMark { time: UnixMillis(50_000), revision: Revision(90) }),
            source_revision: Revision(97),
            waiting_bytes: 12,
            fulls: [("scheduled", 3)].into(),
            last_full: Some(LastFull {
                revision: Revision(40),
                begun: UnixMillis(10_000),
                finished: UnixMillis(12_500),
                stored_bytes: 4_096,
            }),
            last_hash_kv_ms: Some(150),
            ..Figures::default()
        };
        let text = exposition(&figures, UnixMillis(53_500)).unwrap();
        for line in [
            "etcdbr_durable_revision 90.0",
            "etcdbr_durable_age_seconds 3.5",
            "etcdbr_lag_revisions 7.0",
            "etcdbr_source_revision 97.0",
            "etcdbr_waiting_bytes 12.0",
            "etcdbr_fulls_total{reason=\"scheduled\"} 3",
            "etcdbr_full_duration_seconds 2.5",
            "etcdbr_snapshot_latest_revision{kind=\"Full\"} 40.0",
            "etcdbr_snapshot_latest_revision{kind=\"Incr\"} 90.0",
            "etcdbr_hashkv_stall_seconds 0.15",
            "etcdbr_watch_resumes_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let text = exposition(&Figures::default(), UnixMillis(1)).unwrap();
        assert!(!text.contains("etcdbr_durable") && !text.contains("etcdbr_source_revision"), "{text}");
    }
}
