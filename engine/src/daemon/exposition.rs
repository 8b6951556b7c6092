//! The figures of a sidecar in the words of Prometheus (OpenMetrics text).
//!
//! Names that `etcdbrctl` has are kept where the meaning is the same: `etcdbr_snapshot_latest_revision` and
//! `etcdbr_snapshot_latest_timestamp`, `etcdbr_snapshot_required` and `etcdbr_snapshot_duration_seconds`, by kind `Full` and
//! `Incr`. Counters are there from the start, at zero: the increase of one that appears at 1 is nothing to Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::exposition_upkeep::upkeep;
use super::histogram::Histogram;
use super::reasons;
use crate::capture::{Figures, StoredKind};
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
    let figures = &known(figures);
    leader(&mut registry, figures);
    positions(&mut registry, figures, now);
    counters(&mut registry, figures);
    stored(&mut registry, figures);
    latest(&mut registry, figures);
    proofs(&mut registry, figures);
    upkeep(&mut registry, &figures.upkeep);
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|error| Error::new(ErrorKind::Internal, "the metrics cannot be written").caused_by(error))?;
    Ok(text)
}

/// Who stands by does not know what others store; what it captured itself may still come into the store.
fn known(figures: &Figures) -> Figures {
    let mut figures = figures.clone();
    if figures.leads == Some(false) {
        figures.forget_position();
    }
    figures
}

fn leader(registry: &mut Registry, figures: &Figures) {
    if let Some(leads) = figures.leads {
        let help = "1 where the member leads, so that this sidecar works; 0 where it stands by";
        float(registry, "leader", help, f64::from(u8::from(leads)));
    }
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
    if figures.waiting_limit_bytes > 0 {
        let limit = figures.waiting_limit_bytes as f64;
        float(registry, "waiting_limit_bytes", "How many may: then capture pauses", limit);
    }
}

fn counters(registry: &mut Registry, figures: &Figures) {
    count(registry, "watch_resumes", "Watches that went on with a lineage", figures.watch_resumes);
    count(registry, "merged_deltas", "Deltas that became part of a wider one while they waited", figures.merged_deltas);
    let retries = figures.retries;
    let by_what = [("delta", retries.deltas), ("full", retries.fulls), ("session", retries.sessions)];
    family(registry, ("retries", "What was tried again"), "what", by_what);
    let begun = reasons::all().map(|reason| (reason, figures.fulls.get(reason).copied().unwrap_or_default()));
    family(registry, ("fulls", "Fulls that were begun"), "reason", begun);
}

/// A counter for each value of one label.
fn family(
    registry: &mut Registry,
    (name, help): (&str, &str),
    label: &'static str,
    values: impl IntoIterator<Item = (&'static str, u64)>,
) {
    let family = Family::<Labels, Counter>::default();
    for (value, count) in values {
        family.get_or_create(&[(label, value)]).inc_by(count);
    }
    registry.register(name, help, family);
}

fn stored(registry: &mut Registry, figures: &Figures) {
    let kinds = [("Full", StoredKind::Full), ("Incr", StoredKind::Delta), ("Mark", StoredKind::Mark)];
    let all = kinds.map(|(word, kind)| (word, figures.stored.get(&kind).copied().unwrap_or_default()));
    family(
        registry,
        ("stored_objects", "Objects that were stored"),
        "kind",
        all.map(|(kind, all)| (kind, all.objects)),
    );
    family(registry, ("stored_bytes", "Their bytes"), "kind", all.map(|(kind, all)| (kind, all.bytes)));
    let durations = Histogram::of(&[("Full", &figures.full_attempts), ("Incr", &figures.delta_attempts)]);
    registry.register("snapshot_duration_seconds", "How long fulls, and uploads of deltas, took", durations);
}

fn latest(registry: &mut Registry, figures: &Figures) {
    let (revisions, times) = (Family::<Labels, Float>::default(), Family::<Labels, Float>::default());
    let show = |kind: &'static str, revision: i64, time: UnixMillis| {
        revisions.get_or_create(&[("kind", kind)]).set(revision as f64);
        times.get_or_create(&[("kind", kind)]).set(seconds(time));
    };
    if let Some(full) = figures.newest_full {
        show("Full", full.revision.0, full.time);
    }
    if let Some(durable) = figures.durable {
        show("Incr", durable.revision.0, durable.time);
    }
    registry.register("snapshot_latest_revision", "Revision of the newest backup", revisions);
    registry.register("snapshot_latest_timestamp", "Time of the newest backup, seconds since 1970", times);
    if let Some(full) = figures.last_full {
        let took = (full.finished.0 - full.begun.0).max(0) as f64 / 1e3;
        float(registry, "full_duration_seconds", "How long the newest full took", took);
        float(registry, "full_stored_bytes", "Bytes of the newest full", full.stored_bytes as f64);
    }
    let required = Family::<Labels, Gauge>::default();
    if figures.full_due.or(figures.newest_full.map(|full| full.time)).is_some() {
        required.get_or_create(&[("kind", "Full")]).set(figures.full_due.is_some().into());
    }
    if let Some(durable) = figures.durable {
        required.get_or_create(&[("kind", "Incr")]).set((figures.source_revision > durable.revision).into());
    }
    registry.register("snapshot_required", "Whether a backup is due, or under way", required);
}

/// Of what, and how surely.
fn proofs(registry: &mut Registry, figures: &Figures) {
    if !figures.version.is_empty() {
        registry.register("build", "What runs here", Info::new([("version", figures.version.clone())]));
    }
    if let Some(lineage) = figures.lineage {
        let help = "When the lineage that is written was begun";
        float(registry, "lineage_birth_timestamp_seconds", help, seconds(lineage.birth));
    }
    if let Some(proven) = figures.proven {
        let help = "When the source's history was last shown to be the lineage's";
        float(registry, "lineage_proven_timestamp_seconds", help, seconds(proven));
    }
    if let Some(answer) = figures.last_hash_kv {
        let help = "How long a member stood still for the last HashKV";
        float(registry, "hashkv_stall_seconds", help, answer.took_ms as f64 / 1e3);
        float(registry, "hashkv_timestamp_seconds", "When that was stored", seconds(answer.stored));
        float(registry, "hashkv_revision", "What it is of", answer.revision.0 as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capture::{LastFull, LastHashKv};
    use crate::error::Result;
    use crate::format::{LineageId, TimeMark};
    use crate::revision::{ClusterId, Revision};

    fn assert_shows(figures: &Figures, lines: &[&str]) {
        let text = exposition(figures, UnixMillis(53_500)).unwrap();
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_is_known_is_shown() {
        let figures = Figures {
            version: "1.2.3".to_owned(),
            lineage: Some(LineageId { birth: UnixMillis(7_500), cluster: ClusterId(1), random: 2 }),
            proven: Some(UnixMillis(12_500)),
            waiting_limit_bytes: 64,
            newest_full: Some(TimeMark { time: UnixMillis(10_000), revision: Revision(40) }),
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
            last_hash_kv: Some(LastHashKv { revision: Revision(40), stored: UnixMillis(12_500), took_ms: 150 }),
            ..Figures::default()
        };
        let lines = [
            "etcdbr_build_info{version=\"1.2.3\"} 1",
            "etcdbr_lineage_birth_timestamp_seconds 7.5",
            "etcdbr_lineage_proven_timestamp_seconds 12.5",
            "etcdbr_waiting_limit_bytes 64.0",
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
            "etcdbr_hashkv_timestamp_seconds 12.5",
            "etcdbr_hashkv_revision 40.0",
            "etcdbr_snapshot_latest_timestamp{kind=\"Full\"} 10.0",
            "etcdbr_snapshot_required{kind=\"Full\"} 0",
            "etcdbr_snapshot_required{kind=\"Incr\"} 1",
            "etcdbr_watch_resumes_total 0",
        ];
        assert_shows(&figures, &lines);
        let due = Figures { full_due: Some(UnixMillis(53_000)), ..figures };
        assert_shows(&due, &["etcdbr_snapshot_required{kind=\"Full\"} 1"]);
    }

    #[test]
    fn what_was_stored_and_how_long_it_took_is_shown() {
        let mut figures = Figures::default();
        figures.count_stored(StoredKind::Delta, 100);
        figures.count_stored(StoredKind::Delta, 11);
        figures.count_stored(StoredKind::Mark, 5);
        let (stored, failed): (Result<()>, Result<()>) = (Ok(()), Err(Error::new(ErrorKind::Unavailable, "busy")));
        figures.delta_attempts.add(&stored, Duration::from_millis(20));
        figures.delta_attempts.add(&stored, Duration::from_millis(300));
        figures.full_attempts.add(&failed, Duration::from_secs(7200));
        figures.retries.deltas = 4;
        let lines = [
            "etcdbr_stored_objects_total{kind=\"Incr\"} 2",
            "etcdbr_stored_bytes_total{kind=\"Incr\"} 111",
            "etcdbr_stored_bytes_total{kind=\"Mark\"} 5",
            "etcdbr_stored_objects_total{kind=\"Full\"} 0",
            "etcdbr_snapshot_duration_seconds_bucket{le=\"0.01\",kind=\"Incr\",succeeded=\"true\"} 0",
            "etcdbr_snapshot_duration_seconds_bucket{le=\"0.025\",kind=\"Incr\",succeeded=\"true\"} 1",
            "etcdbr_snapshot_duration_seconds_bucket{le=\"60.0\",kind=\"Incr\",succeeded=\"true\"} 2",
            "etcdbr_snapshot_duration_seconds_sum{kind=\"Incr\",succeeded=\"true\"} 0.32",
            "etcdbr_snapshot_duration_seconds_bucket{le=\"3600.0\",kind=\"Full\",succeeded=\"false\"} 0",
            "etcdbr_snapshot_duration_seconds_bucket{le=\"+Inf\",kind=\"Full\",succeeded=\"false\"} 1",
            "etcdbr_snapshot_duration_seconds_count{kind=\"Full\",succeeded=\"true\"} 0",
            "etcdbr_retries_total{what=\"delta\"} 4",
            "etcdbr_retries_total{what=\"session\"} 0",
            "etcdbr_fulls_total{reason=\"compacted\"} 0",
        ];
        assert_shows(&figures, &lines);
    }

    #[test]
    fn who_stands_by_shows_nothing_that_others_have_moved_on() {
        let durable = Some(TimeMark { time: UnixMillis(50_000), revision: Revision(90) });
        let figures = Figures { durable, source_revision: Revision(97), leads: Some(true), ..Figures::default() };
        let text = exposition(&figures, UnixMillis(53_500)).unwrap();
        assert!(text.contains("etcdbr_leader 1.0") && text.contains("etcdbr_durable_age_seconds 3.5"), "{text}");
        let text = exposition(&Figures { leads: Some(false), ..figures.clone() }, UnixMillis(53_500)).unwrap();
        assert!(text.contains("etcdbr_leader 0.0") && !text.contains("durable") && !text.contains("source"), "{text}");
        let text = exposition(&Figures { leads: None, ..figures }, UnixMillis(53_500)).unwrap();
        assert!(!text.contains("etcdbr_leader") && text.contains("etcdbr_durable_age_seconds"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let text = exposition(&Figures::default(), UnixMillis(1)).unwrap();
        assert!(!text.contains("etcdbr_durable") && !text.contains("etcdbr_source_revision"), "{text}");
    }
}
