//! Durations that were counted elsewhere, as a histogram of Prometheus.

use std::fmt;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::capture::{Attempts, Durations};

/// By kind, and by whether it came to something.
#[derive(Debug)]
pub(super) struct Histogram(Vec<([(&'static str, &'static str); 2], Durations)>);

impl Histogram {
    /// Of all `kinds`.
    pub(super) fn of(kinds: &[(&'static str, &Attempts)]) -> Self {
        let each = kinds.iter().flat_map(|(kind, attempts)| {
            [("true", &attempts.succeeded), ("false", &attempts.failed)]
                .map(|(succeeded, durations)| ([("kind", *kind), ("succeeded", succeeded)], durations.clone()))
        });
        Self(each.collect())
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        for (labels, durations) in &self.0 {
            let classes: Vec<(f64, u64)> = durations.classes().collect();
            let (sum, count) = (durations.sum().as_secs_f64(), durations.count());
            encoder.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, count, &classes, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
