//! What time it is for a store, by the `Date` of its answers.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::clock::UnixMillis;

/// The time that a server told last; clones of a store share it.
#[derive(Debug, Default)]
pub(super) struct ToldTime(Mutex<Option<(UnixMillis, Instant)>>);

impl ToldTime {
    /// Takes the `Date` of an answer that has just come; what is none is passed over.
    pub(super) fn hear(&self, date: &str) {
        if let Ok(told) = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date) {
            let told = (UnixMillis(told.as_millisecond()), Instant::now());
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        }
    }

    /// What the server's clock shows now, a second off at most and what an answer takes; `None` where it never told.
    pub(super) fn now(&self) -> Option<UnixMillis> {
        let (told, heard) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since_ms = i64::try_from(heard.elapsed().as_millis()).unwrap_or(i64::MAX);
        Some(UnixMillis(told.0.saturating_add(since_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_heard() {
        let told = ToldTime::default();
        assert_eq!(told.now(), None);
        told.hear("Sat, 01 Jan 2000 00:00:00 GMT");
        let now = told.now().map_or(0, |now| now.0);
        assert!((946_684_800_000..946_684_860_000).contains(&now), "{now}");
        told.hear("yesterday");
        assert!(told.now() < Some(UnixMillis(946_684_860_000)));
    }
}
