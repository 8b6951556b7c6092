//! When it is time to look for rollups again: decided by the clock and by what the caller has stored, so that an archive in
//! which nothing can be due is not listed.

use super::plan::RollupPolicy;
use crate::clock::UnixMillis;

/// The turns of a process that stores deltas and rolls them up. What others store is theirs to roll up; a look that comes
/// all the same finds it.
#[derive(Debug, Clone)]
pub struct RollupTurns {
    policy: RollupPolicy,
    /// Up to so late is a turn taken after it has come: two processes do not work in step.
    late_ms: i64,
    looked: UnixMillis,
    stored: Stored,
}

/// What the caller has stored, as far as a turn depends on it.
#[derive(Debug, Clone, Copy, Default)]
struct Stored {
    total: u64,
    last: Option<UnixMillis>,
    /// The current window of the shortest period, and how much had been stored before it.
    window: (i64, u64),
}

impl RollupTurns {
    /// Turns by `policy` from `now` on, as if somebody had just looked; the first one so late as `chance`, any number, says.
    pub fn new(policy: RollupPolicy, now: UnixMillis, chance: u64) -> Self {
        let mut turns = Self { policy, late_ms: 0, looked: now, stored: Stored::default() };
        turns.looked(now, chance);
        turns
    }

    /// The caller has stored `total` objects until `now`.
    pub fn note(&mut self, total: u64, now: UnixMillis) {
        // A clock that was set back: what had been seen by then may have to be seen again.
        self.looked = self.looked.min(now);
        let window = self.policy.window(now);
        if window != self.stored.window.0 {
            self.stored.window = (window, self.stored.total);
        }
        if total != self.stored.total {
            (self.stored.total, self.stored.last) = (total, Some(now));
        }
    }

    /// Whether a look at `now` may find what the last one could not.
    pub fn is_due(&self, now: UnixMillis) -> bool {
        let in_window = self.stored.total - self.stored.window.1;
        let by = UnixMillis(now.0.saturating_sub(self.late_ms));
        self.stored.last.is_some_and(|stored| self.policy.is_due(self.looked, stored, in_window, by))
    }

    /// A look at `now` has planned all that was due; the next turn is taken so late as `chance`, any number, says.
    pub fn looked(&mut self, now: UnixMillis, chance: u64) {
        self.looked = now;
        self.late_ms = i64::try_from(chance % self.policy.latest_ms().unsigned_abs().max(1)).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MINUTE: i64 = 60_000;
    /// The beginning of an hour.
    const HOUR_0: i64 = 1_763_722_800_000;

    fn turns() -> RollupTurns {
        RollupTurns::new(RollupPolicy::default(), UnixMillis(HOUR_0), 0)
    }

    /// The times of looks, seconds, over `seconds`, where `stored` says how many objects there are by then.
    fn looks(turns: &mut RollupTurns, seconds: i64, stored: impl Fn(i64) -> u64) -> Vec<i64> {
        let mut looks = Vec::new();
        for second in 0..seconds {
            let now = UnixMillis(HOUR_0 + second * 1_000);
            turns.note(stored(second), now);
            if turns.is_due(now) {
                turns.looked(now, 0);
                looks.push(second);
            }
        }
        looks
    }

    #[test]
    fn a_look_comes_after_each_window_in_which_something_was_stored() {
        // A mark each minute, as of a quiet cluster.
        let found = looks(&mut turns(), 3_600, |second| 1 + second.unsigned_abs() / 60);
        // What was stored before it was begun, too.
        let expected: Vec<i64> = (0..12).map(|n| n * 300 + 15).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn where_nothing_is_stored_nothing_is_looked_at() {
        assert!(looks(&mut turns(), 10_000, |_| 0).is_empty());
        // One object: for what was there before it was begun, then when its five minutes and its hour are past.
        let found = looks(&mut turns(), 20_000, |second| u64::from(second >= 400));
        assert_eq!(found, [400, 615, 3_915]);
    }

    #[test]
    fn many_objects_are_looked_at_in_fifths() {
        let found = looks(&mut turns(), 600, |second| second.unsigned_abs());
        assert_eq!(found, [15, 75, 135, 195, 255, 315, 375, 435, 495, 555]);
        let found = looks(&mut turns(), 600, |second| second.unsigned_abs() / 6);
        assert_eq!(found, [15, 315], "not where there are few");
    }

    #[test]
    fn chance_keeps_two_processes_apart_and_loses_no_turn() {
        let mut turns = turns();
        let now = UnixMillis(HOUR_0 + 20_000);
        turns.note(1, now);
        turns.looked(now, 59_999);
        turns.note(2, UnixMillis(HOUR_0 + MINUTE));
        assert!(!turns.is_due(UnixMillis(HOUR_0 + 5 * MINUTE + 15_000)));
        assert!(turns.is_due(UnixMillis(HOUR_0 + 6 * MINUTE + 15_000)));
        turns.looked(now, u64::MAX);
        assert!(turns.late_ms < 5 * MINUTE / 5);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_end_them() {
        let mut turns = turns();
        turns.note(1, UnixMillis(HOUR_0));
        turns.looked(UnixMillis(HOUR_0), 0);
        let back = HOUR_0 - 60 * MINUTE;
        turns.note(2, UnixMillis(back));
        turns.note(3, UnixMillis(back + MINUTE));
        assert!(turns.is_due(UnixMillis(back + 5 * MINUTE + 15_000)));
    }

    #[test]
    fn without_periods_there_are_none() {
        let mut turns = RollupTurns::new(RollupPolicy::new(&[]), UnixMillis(HOUR_0), 0);
        assert!(looks(&mut turns, 1_000, |second| second.unsigned_abs()).is_empty());
        assert!(RollupPolicy::new(&[Duration::from_secs(2)]).latest_ms() > 0);
    }
}
