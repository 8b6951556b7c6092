//! The figures of upkeep in the words of Prometheus: rollups, and what retention has removed.
//!
//! `etcdbr_snapshot_gc_total` is `etcdbrctl`'s, by kind `Full` and `Incr` and whether the removal succeeded.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::capture::UpkeepFigures;

type Counters<const N: usize> = Family<[(&'static str, &'static str); N], Counter>;

/// Every label that there can be is shown from the start, so that a rate sees the first event.
const KINDS: [&str; 2] = ["Full", "Incr"];
const CHORES: [&str; 3] = ["rollup", "sweep", "uploads"];

/// Adds `figures`; what is not known yet is not shown.
pub(super) fn upkeep(registry: &mut Registry, figures: &UpkeepFigures) {
    let mut count = |name: &str, help: &str, value: u64| {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    count("rollups", "Wide deltas that were made of narrow ones", figures.rollups);
    count("rolled_up_objects", "Deltas that they were made of", figures.rolled_up);
    count("aborted_uploads", "Abandoned uploads that were aborted", figures.aborted_uploads);
    let removals = Counters::<2>::default();
    for kind in KINDS {
        for (succeeded, word) in [(true, "true"), (false, "false")] {
            let times = figures.removals.get(&(kind, succeeded)).copied().unwrap_or(0);
            removals.get_or_create(&[("kind", kind), ("succeeded", word)]).inc_by(times);
        }
    }
    registry.register("snapshot_gc", "Objects that retention removed, or was not let to", removals);
    let failures = Counters::<1>::default();
    for chore in CHORES {
        let times = figures.failures.get(chore).copied().unwrap_or(0);
        failures.get_or_create(&[("chore", chore)]).inc_by(times);
    }
    registry.register("upkeep_failures", "Rollups, sweeps and looks for uploads that failed", failures);
    if let Some(swept) = figures.last_sweep {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(swept.0 as f64 / 1e3);
        registry.register("last_sweep_timestamp_seconds", "When a sweep last worked, or had nothing to do", gauge);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::clock::UnixMillis;

    fn text(figures: &UpkeepFigures) -> String {
        let (mut registry, mut text) = (Registry::with_prefix("etcdbr"), String::new());
        upkeep(&mut registry, figures);
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn what_was_done_is_shown_in_the_words_of_etcdbrctl() {
        let figures = UpkeepFigures {
            rollups: 3,
            rolled_up: 180,
            removals: [(("Incr", true), 180), (("Full", false), 2)].into(),
            aborted_uploads: 1,
            last_sweep: Some(UnixMillis(12_500)),
            failures: [("sweep", 4)].into(),
        };
        let text = text(&figures);
        for line in [
            "etcdbr_rollups_total 3",
            "etcdbr_rolled_up_objects_total 180",
            "etcdbr_aborted_uploads_total 1",
            "etcdbr_snapshot_gc_total{kind=\"Incr\",succeeded=\"true\"} 180",
            "etcdbr_snapshot_gc_total{kind=\"Incr\",succeeded=\"false\"} 0",
            "etcdbr_snapshot_gc_total{kind=\"Full\",succeeded=\"false\"} 2",
            "etcdbr_upkeep_failures_total{chore=\"sweep\"} 4",
            "etcdbr_upkeep_failures_total{chore=\"rollup\"} 0",
            "etcdbr_last_sweep_timestamp_seconds 12.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_sweep_that_never_was_has_no_time() {
        assert!(!text(&UpkeepFigures::default()).contains("last_sweep"));
    }
}
