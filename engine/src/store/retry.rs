//! How often, and how long apart, a call that may pass is made again.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::random_bytes;
use crate::error::{Error, Result};

/// Full-jitter exponential backoff: before attempt n+1 a wait of 0..=min(`cap`, `base` · 2^(n-1)), evenly drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts of one call, the first included.
    pub max_attempts: u32,
    /// The longest first wait.
    pub base: Duration,
    /// The longest wait of all.
    pub cap: Duration,
    /// No attempt begins later than this after the first.
    pub budget: Duration,
}

impl Default for RetryPolicy {
    /// 8 attempts; about 6 seconds of waiting on average, 13 at most; 5 minutes where attempts themselves are slow.
    fn default() -> Self {
        Self {
            max_attempts: 8,
            base: Duration::from_millis(100),
            cap: Duration::from_secs(10),
            budget: Duration::from_secs(300),
        }
    }
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The next attempt may succeed.
    Passing(Error),
    /// No further attempt would.
    Final(Error),
}

/// One call and its attempts.
#[derive(Debug)]
pub(super) struct Attempts {
    policy: RetryPolicy,
    made: u32,
    begun: Instant,
}

impl RetryPolicy {
    /// Begins a call.
    pub(super) fn begin(self) -> Attempts {
        Attempts { policy: self, made: 0, begun: Instant::now() }
    }

    /// The longest wait after `made` attempts.
    fn ceiling(&self, made: u32) -> Duration {
        let doubled = self.base.saturating_mul(1_u32.checked_shl(made.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.cap)
    }
}

impl Attempts {
    /// After a failed attempt: waits and returns, or gives the failure back as the call's error.
    pub(super) async fn again(&mut self, failure: Failure) -> Result<()> {
        self.made += 1;
        let error = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(error) => error,
        };
        let wait = jittered(self.policy.ceiling(self.made))?;
        if self.made >= self.policy.max_attempts || self.begun.elapsed() + wait > self.policy.budget {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Between nothing and `longest`, evenly.
fn jittered(longest: Duration) -> Result<Duration> {
    let chance = u32::from_le_bytes(random_bytes()?);
    Ok(longest.mul_f64(f64::from(chance) / f64::from(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn passing() -> Failure {
        Failure::Passing(Error::new(ErrorKind::Unavailable, "busy"))
    }

    #[tokio::test]
    async fn attempts_are_counted() {
        let policy = RetryPolicy { base: Duration::from_micros(1), ..RetryPolicy::default() };
        let mut attempts = policy.begin();
        for _ in 1..policy.max_attempts {
            attempts.again(passing()).await.unwrap();
        }
        assert_eq!(attempts.again(passing()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn the_budget_ends_a_call_early() {
        let policy = RetryPolicy { budget: Duration::ZERO, ..RetryPolicy::default() };
        policy.begin().again(passing()).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_final_failure_is_not_tried_again() {
        let denied = Failure::Final(Error::new(ErrorKind::Denied, "no"));
        assert_eq!(RetryPolicy::default().begin().again(denied).await.unwrap_err().kind(), ErrorKind::Denied);
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.ceiling(1), Duration::from_millis(100));
        assert_eq!(policy.ceiling(4), Duration::from_millis(800));
        assert_eq!(policy.ceiling(40), policy.cap);
    }
}
