//! Which fulls `Exponential` and `LimitBased` keep: pure arithmetic on times.

use super::policy::FullsPolicy;
use crate::clock::UnixMillis;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const WEEK_MS: i64 = 7 * DAY_MS;

/// For each of `times`, the newest first, whether its full is kept.
pub(super) fn kept(times: &[UnixMillis], policy: FullsPolicy, max_backups: usize, now: UnixMillis) -> Vec<bool> {
    match policy {
        FullsPolicy::LimitBased => (0..times.len()).map(|n| n == 0 || n < max_backups).collect(),
        FullsPolicy::Exponential => {
            let pairs = times.windows(2).map(|pair| is_first_of_its_span(pair[0], pair[1], now));
            times.first().map(|_| true).into_iter().chain(pairs).collect()
        }
    }
}

/// Whether `time` is the newest of its hour, day or week, where `newer` is the time of the full that follows it.
///
/// Days end at midnight UTC; `now` is in the last one. Weeks are counted from a day earlier, so that four of them follow
/// the seven days.
fn is_first_of_its_span(newer: UnixMillis, time: UnixMillis, now: UnixMillis) -> bool {
    let end_of_day = (now.0.div_euclid(DAY_MS) + 1) * DAY_MS;
    let age = end_of_day - time.0;
    let differs = |end: i64, span: i64| (end - time.0).div_euclid(span) > (end - newer.0).div_euclid(span);
    if age <= DAY_MS {
        time.0.div_euclid(HOUR_MS) >= now.0.div_euclid(HOUR_MS) || differs(end_of_day - 1, HOUR_MS)
    } else if age <= 8 * DAY_MS {
        differs(end_of_day - 1, DAY_MS)
    } else if age <= 36 * DAY_MS {
        differs(end_of_day - 1 - DAY_MS, WEEK_MS)
    } else {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21, a quarter past ten UTC.
    const NOW: i64 = 1_795_255_200_000 + 15 * 60_000;

    fn kept_hours_ago(hours: &[i64]) -> Vec<i64> {
        let times: Vec<_> = hours.iter().map(|hours| UnixMillis(NOW - hours * HOUR_MS)).collect();
        let kept = kept(&times, FullsPolicy::Exponential, 0, UnixMillis(NOW));
        hours.iter().zip(kept).filter(|(_, kept)| *kept).map(|(hours, _)| *hours).collect()
    }

    #[test]
    fn hourly_fulls_thin_out_to_days_and_weeks() {
        assert_eq!(UnixMillis(NOW).to_string(), "2026-11-21T10:15:00.000Z");
        let hourly: Vec<i64> = (0..24 * 60).collect();
        let kept = kept_hours_ago(&hourly);
        let today: Vec<i64> = (0..=10).collect();
        assert_eq!(kept[..11], today, "one an hour since midnight");
        let days: Vec<i64> = (0..7).map(|day| 11 + day * 24).collect();
        assert_eq!(kept[11..18], days, "the last of each of seven days");
        let weeks: Vec<i64> = (0..4).map(|week| 11 + 7 * 24 + week * 7 * 24).collect();
        assert_eq!(kept[18..], weeks, "the last of each of four weeks");
    }

    #[test]
    fn of_each_hour_the_newest_stays_and_all_of_the_current_one() {
        let minutes = [0, 5, 14, 20, 40, 74, 80, 600];
        let times: Vec<_> = minutes.iter().map(|minutes| UnixMillis(NOW - minutes * 60_000)).collect();
        let kept = kept(&times, FullsPolicy::Exponential, 0, UnixMillis(NOW));
        assert_eq!(kept, [true, true, true, true, false, false, true, true]);
    }

    #[test]
    fn a_limit_keeps_exactly_so_many_and_never_none() {
        let times = [UnixMillis(3), UnixMillis(2), UnixMillis(1)];
        for (limit, expected) in [(0, 1), (1, 1), (2, 2), (3, 3), (9, 3)] {
            let kept = kept(&times, FullsPolicy::LimitBased, limit, UnixMillis(NOW));
            assert_eq!(kept.iter().filter(|kept| **kept).count(), expected);
        }
    }
}
