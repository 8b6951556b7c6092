//! The one door through which time and chance come in.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, ErrorKind, Result};

/// Milliseconds since 1970 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub i64);

impl fmt::Display for UnixMillis {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// Where the current time comes from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixMillis + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Arc::new(|| {
            #[allow(clippy::disallowed_methods, reason = "this is the door")]
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        }))
    }

    /// A clock that shows what `hand` was last set to.
    pub fn manual(hand: Arc<AtomicI64>) -> Self {
        Self(Arc::new(move || UnixMillis(hand.load(Ordering::SeqCst))))
    }

    /// The same clock, which shows `time` where it would show less.
    pub fn not_before(&self, time: UnixMillis) -> Self {
        let clock = self.clone();
        Self(Arc::new(move || clock.now().max(time)))
    }

    /// The same clock, which shows what `other` does where the two differ by more than `tolerance_ms`.
    pub fn held_against(
        &self,
        other: impl Fn() -> Option<UnixMillis> + Send + Sync + 'static,
        tolerance_ms: u64,
    ) -> Self {
        let clock = self.clone();
        Self(Arc::new(move || {
            let own = clock.now();
            other().filter(|other| other.0.abs_diff(own.0) > tolerance_ms).unwrap_or(own)
        }))
    }

    /// The current time.
    pub fn now(&self) -> UnixMillis {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// `N` bytes from the operating system's generator.
///
/// # Errors
/// `Internal` where the operating system has none to give.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(ErrorKind::Internal, format!("the operating system gave no random bytes: {error}"))
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_show_as_rfc_3339() {
        assert_eq!(UnixMillis(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn a_clock_is_corrected_where_it_is_far_off() {
        let hand = Arc::new(AtomicI64::new(0));
        let other = hand.clone();
        let clock = Clock::manual(Arc::new(AtomicI64::new(1_000)));
        let clock = clock.held_against(move || Some(UnixMillis(other.load(Ordering::SeqCst))), 500);
        for (told, shown) in [(1_000, 1_000), (500, 1_000), (1_500, 1_000), (499, 499), (1_501, 1_501)] {
            hand.store(told, Ordering::SeqCst);
            assert_eq!(clock.now(), UnixMillis(shown));
        }
        assert_eq!(clock.not_before(UnixMillis(2_000)).now(), UnixMillis(2_000));
    }

    #[test]
    fn a_manual_clock_stands_still() {
        let hand = Arc::new(AtomicI64::new(7));
        let clock = Clock::manual(hand.clone());
        assert_eq!(clock.now(), UnixMillis(7));
        hand.store(8, Ordering::SeqCst);
        assert_eq!(clock.now(), UnixMillis(8));
    }
}
