//! When a chore comes again: by its period, and later each time that it has failed. Decided from times alone.
//!
//! A clock may be set back: then nothing waits for longer than it would have waited in the first place.

use std::time::Duration;

use crate::clock::UnixMillis;

/// Between two attempts of a chore that fails, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// What is hindered comes ever more seldom, down to once in so long.
const SELDOM: Duration = Duration::from_secs(3_600);
/// A period is by chance longer by up to this part of it: two processes do not work in step.
const CHANCE_PART: u64 = 10;

/// The next time of something.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: UnixMillis,
    /// So long it was waited for.
    wait_ms: i64,
}

impl Due {
    fn after(wait: Duration, now: UnixMillis) -> Self {
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        Self { at: UnixMillis(now.0.saturating_add(wait_ms)), wait_ms }
    }

    fn is_over(&self, now: UnixMillis) -> bool {
        now >= self.at || self.at.0.saturating_sub(now.0) > self.wait_ms
    }
}

/// When something that has failed is tried again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Retry {
    failed: Option<(Duration, Due)>,
}

impl Retry {
    /// Whether it may be tried.
    pub(super) fn may(&self, now: UnixMillis) -> bool {
        self.failed.is_none_or(|(_, due)| due.is_over(now))
    }

    /// It has worked.
    pub(super) fn worked(&mut self) {
        self.failed = None;
    }

    /// It has failed at `now`: how long until it may be tried again.
    pub(super) fn failed(&mut self, now: UnixMillis) -> Duration {
        let pause = self.failed.map_or(PAUSES.0, |(pause, _)| PAUSES.1.min(pause * 2));
        self.failed = Some((pause, Due::after(pause, now)));
        pause
    }
}

/// The turns of something that comes once in a period, the first time after one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turns {
    every: Duration,
    next: Due,
}

impl Turns {
    /// Turns `every` so often from `now` on.
    pub(super) fn new(every: Duration, now: UnixMillis) -> Self {
        Self { every, next: Due::after(every, now) }
    }

    /// Whether one has come.
    pub(super) fn is_due(&self, now: UnixMillis) -> bool {
        self.next.is_over(now)
    }

    /// It was taken at `now`; the next one is a little later as `chance`, any number, says.
    pub(super) fn taken(&mut self, now: UnixMillis, chance: u64) {
        self.next = Due::after(longer(self.every, chance), now);
    }
}

fn longer(every: Duration, chance: u64) -> Duration {
    let most_ms = u64::try_from(every.as_millis()).unwrap_or(u64::MAX) / CHANCE_PART;
    every.saturating_add(Duration::from_millis(chance % most_ms.max(1)))
}

/// What a sweep has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing: the same again would find nothing to do.
    Nothing,
    /// Something that the next one may do.
    More,
    /// Something that should have gone and was kept: most likely it will be the next time.
    Hindered,
}

/// The turns of sweeps: none where nothing was stored since one that left nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct SweepTurns {
    turns: Turns,
    every: Duration,
    left: Left,
    /// What had been stored when the last one began.
    stored: u64,
}

impl SweepTurns {
    /// Sweeps `every` so often from `now` on.
    pub(super) fn new(every: Duration, now: UnixMillis) -> Self {
        Self { turns: Turns::new(every, now), every, left: Left::Nothing, stored: 0 }
    }

    /// Whether one has come, where `stored` objects were stored until `now`.
    pub(super) fn is_due(&self, now: UnixMillis, stored: u64) -> bool {
        self.turns.is_due(now) && (self.left != Left::Nothing || stored != self.stored)
    }

    /// Whether one would have come that has nothing to do.
    pub(super) fn is_needless(&self, now: UnixMillis, stored: u64) -> bool {
        self.turns.is_due(now) && self.left == Left::Nothing && stored == self.stored
    }

    /// One was begun at `now`, when `stored` objects had been stored; `left` is what came of it, `chance` any number.
    pub(super) fn taken(&mut self, (now, stored): (UnixMillis, u64), left: Left, chance: u64) {
        (self.left, self.stored) = (left, stored);
        let period = self.turns.every;
        self.turns.every = if left == Left::Hindered { (period * 2).min(SELDOM).max(self.every) } else { self.every };
        self.turns.taken(now, chance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(second: i64) -> UnixMillis {
        UnixMillis(1_763_722_800_000 + second * 1_000)
    }

    #[test]
    fn what_fails_is_tried_ever_more_seldom() {
        let (mut retry, mut attempts, mut longest) = (Retry::default(), 0, Duration::ZERO);
        for second in 0..3_600 {
            if retry.may(at(second)) {
                attempts += 1;
                longest = longest.max(retry.failed(at(second)));
            }
        }
        assert_eq!((attempts, longest), (15, Duration::from_secs(600)));
        assert!(!retry.may(at(3_601)));
        assert!(retry.may(at(-86_400)), "a clock that was set back makes it wait for a day");
        retry.worked();
        assert!(retry.may(at(3_601)));
        assert_eq!(retry.failed(at(3_601)), PAUSES.0);
    }

    #[test]
    fn a_turn_comes_once_in_a_period() {
        let mut turns = Turns::new(MINUTE, at(0));
        assert!(!turns.is_due(at(59)) && turns.is_due(at(60)) && turns.is_due(at(-3_600)));
        turns.taken(at(61), 5_999);
        assert!(!turns.is_due(at(126)) && turns.is_due(at(127)));
    }

    #[test]
    fn an_archive_that_stands_still_is_swept_until_nothing_is_left() {
        let mut sweeps = SweepTurns::new(MINUTE, at(0));
        assert!(!sweeps.is_due(at(3_600), 0), "nothing was stored");
        assert!(sweeps.is_due(at(3_600), 1));
        sweeps.taken((at(3_600), 1), Left::More, 0);
        assert!(!sweeps.is_due(at(3_659), 9) && sweeps.is_due(at(3_660), 1));
        sweeps.taken((at(3_660), 1), Left::Nothing, 0);
        assert!(!sweeps.is_due(at(9_999), 1) && sweeps.is_due(at(9_999), 2));
    }

    #[test]
    fn what_is_hindered_comes_ever_more_seldom() {
        let (mut sweeps, mut taken) = (SweepTurns::new(MINUTE, at(0)), Vec::new());
        for second in 0..6 * 3_600 {
            if sweeps.is_due(at(second), 1) {
                sweeps.taken((at(second), 1), Left::Hindered, 0);
                taken.push(second);
            }
        }
        assert_eq!(taken, [60, 180, 420, 900, 1_860, 3_780, 7_380, 10_980, 14_580, 18_180]);
        sweeps.taken((at(0), 1), Left::More, 0);
        assert!(sweeps.is_due(at(60), 1));
    }
}
