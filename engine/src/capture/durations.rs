//! How long things took, counted in classes: bounded, however long a sidecar runs.

use std::time::Duration;

/// Upper bounds of the classes, seconds: deltas lie between the first and a minute, fulls between a second and the last.
/// They are the same for both, so that what is shown can be added up.
const BOUNDS_S: [f64; 17] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];

/// Durations of one thing that happens again and again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durations {
    /// Of each class; the last one has no upper bound.
    counts: [u64; BOUNDS_S.len() + 1],
    sum: Duration,
}

impl Durations {
    /// It took so long once more.
    pub fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.counts[BOUNDS_S.partition_point(|bound| *bound < seconds)] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// The upper bound of each class, in seconds, the last one infinite, and how many are in it alone.
    pub fn classes(&self) -> impl Iterator<Item = (f64, u64)> {
        BOUNDS_S.into_iter().chain([f64::INFINITY]).zip(self.counts)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_in_the_lowest_class_that_holds_it() {
        let mut durations = Durations::default();
        for millis in [0, 10, 11, 60_000, 3_600_000, 3_600_001] {
            durations.add(Duration::from_millis(millis));
        }
        let filled: Vec<_> = durations.classes().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.01, 2), (0.025, 1), (60.0, 1), (3600.0, 1), (f64::INFINITY, 1)]);
        assert_eq!((durations.count(), durations.sum()), (6, Duration::from_millis(7_260_022)));
    }
}
