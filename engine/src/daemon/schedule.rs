//! When fulls are due by the clock: decided from times alone.

use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::clock::{UnixMillis, random_bytes};
use crate::error::{Error, ErrorKind, Result};

/// Five fields of cron, in a time zone, and how far from them fulls may be.
#[derive(Debug, Clone)]
pub struct FullSchedule {
    cron: Cron,
    zone: TimeZone,
    /// How long after each time of the schedule; the same for as long as a process runs.
    delay: Duration,
}

impl FullSchedule {
    /// Reads `pattern`, whose times are those of `zone` (an IANA name). Each full comes up to `jitter` later, by chance, so
    /// that not all clusters of a fleet take theirs in the same second.
    ///
    /// # Errors
    /// `Invalid` for a pattern that is none or whose time never comes, and for a zone that is not known.
    pub fn parse(pattern: &str, zone: &str, jitter: Duration) -> Result<Self> {
        let chance = u64::from_le_bytes(random_bytes()?);
        let jitter_ms = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX);
        let delay = Duration::from_millis(if jitter_ms == 0 { 0 } else { chance % jitter_ms });
        Self::with_delay(pattern, zone, delay)
    }

    fn with_delay(pattern: &str, zone: &str, delay: Duration) -> Result<Self> {
        let zone = TimeZone::get(zone).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("--schedule-time-zone {zone} is not known"))
                .hint("give a name such as UTC or Europe/Berlin")
                .caused_by(error)
        })?;
        let wrong = |what: &str| {
            Error::new(ErrorKind::Invalid, format!("--schedule {pattern:?} {what}"))
                .hint("five fields: minute, hour, day of month, month, day of week; `0 */1 * * *` is every hour")
        };
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(pattern).map_err(|error| wrong("is no schedule").caused_by(error))?;
        let schedule = Self { cron, zone, delay };
        schedule.next_full(UnixMillis(0), UnixMillis(0)).ok_or_else(|| wrong("names a time that never comes"))?;
        Ok(schedule)
    }

    /// When the next full is due, where the newest one was begun at `newest`: at the first time of the schedule after it.
    /// That may be over: however many times were missed, one full makes up for them. `None` where none comes any more.
    pub fn next_full(&self, newest: UnixMillis, now: UnixMillis) -> Option<UnixMillis> {
        // A time that lies ahead is of a clock that was wrong.
        let behind = Timestamp::from_millisecond(newest.0.min(now.0)).ok()?;
        let next: Zoned = self.cron.find_next_occurrence(&behind.to_zoned(self.zone.clone()), false).ok()?;
        let delay_ms = i64::try_from(self.delay.as_millis()).unwrap_or(i64::MAX);
        Some(UnixMillis(next.timestamp().as_millisecond().saturating_add(delay_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> UnixMillis {
        UnixMillis(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    fn next(schedule: &str, zone: &str, newest: &str, now: &str) -> String {
        let schedule = FullSchedule::with_delay(schedule, zone, Duration::ZERO).unwrap();
        schedule.next_full(at(newest), at(now)).unwrap().to_string()
    }

    #[test]
    fn the_next_full_is_at_the_first_time_after_the_newest_one() {
        let hourly = "0 */1 * * *";
        assert_eq!(next(hourly, "UTC", "2026-03-01T10:00:00Z", "2026-03-01T10:20:00Z"), "2026-03-01T11:00:00.000Z");
        assert_eq!(next(hourly, "UTC", "2026-03-01T10:00:00.250Z", "2026-03-01T10:20:00Z"), "2026-03-01T11:00:00.000Z");
        assert_eq!(next(hourly, "UTC", "2026-03-01T10:59:59Z", "2026-03-01T11:00:00Z"), "2026-03-01T11:00:00.000Z");
        let nightly = "30 2 * * 1-5";
        assert_eq!(next(nightly, "UTC", "2026-03-06T02:30:01Z", "2026-03-06T12:00:00Z"), "2026-03-09T02:30:00.000Z");
    }

    /// A virtual day: the process is away from 10:10 to 13:40, and takes one full for the three that were missed.
    #[test]
    fn what_was_missed_is_made_up_for_once() {
        let schedule = FullSchedule::with_delay("0 * * * *", "UTC", Duration::ZERO).unwrap();
        let (mut newest, mut taken) = (at("2026-03-01T08:30:00Z"), Vec::new());
        let start = newest;
        for minute in 0..=7 * 60 {
            let now = UnixMillis(start.0 + minute * 60_000);
            let away = (at("2026-03-01T10:10:00Z")..at("2026-03-01T13:40:00Z")).contains(&now);
            if !away && schedule.next_full(newest, now).is_some_and(|due| due <= now) {
                taken.push(now.to_string()[11..16].to_owned());
                newest = now;
            }
        }
        assert_eq!(taken, ["09:00", "10:00", "13:40", "14:00", "15:00"]);
    }

    #[test]
    fn a_full_from_the_future_does_not_stop_those_of_today() {
        assert_eq!(
            next("0 * * * *", "UTC", "2030-01-01T00:00:00Z", "2026-03-01T10:20:00Z"),
            "2026-03-01T11:00:00.000Z"
        );
    }

    #[test]
    fn times_are_those_of_the_zone() {
        let nightly = "30 2 * * *";
        let berlin = |newest: &str| next(nightly, "Europe/Berlin", newest, "2026-12-31T00:00:00Z");
        assert_eq!(berlin("2026-01-01T12:00:00Z"), "2026-01-02T01:30:00.000Z");
        assert_eq!(berlin("2026-07-01T12:00:00Z"), "2026-07-02T00:30:00.000Z");
        // Half past two does not come on this day: some time of it has a full all the same, or the next day has.
        let spring = berlin("2026-03-28T12:00:00Z");
        assert!(("2026-03-29T00:00:00.000Z".."2026-03-30T01:00:00.000Z").contains(&spring.as_str()), "{spring}");
    }

    #[test]
    fn a_delay_moves_each_full_alike() {
        let schedule = FullSchedule::with_delay("0 * * * *", "UTC", Duration::from_secs(90)).unwrap();
        let due = schedule.next_full(at("2026-03-01T10:01:30Z"), at("2026-03-01T10:20:00Z")).unwrap();
        assert_eq!(due, at("2026-03-01T11:01:30Z"));
        let schedule = FullSchedule::parse("0 * * * *", "UTC", Duration::from_secs(60)).unwrap();
        assert!(schedule.delay < Duration::from_secs(60));
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for wrong in ["", "* * * *", "0 0 * * * *", "61 * * * *", "every hour", "0 0 30 2 *"] {
            let error = FullSchedule::parse(wrong, "UTC", Duration::ZERO).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{wrong}");
        }
        assert!(FullSchedule::parse("0 * * * *", "Europe/Nowhere", Duration::ZERO).is_err());
    }
}
