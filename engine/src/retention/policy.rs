//! What an operator wants to keep.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// Which fulls are kept for their own sake, as `etcdbrctl` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FullsPolicy {
    /// The newest one of each hour of today (UTC), of each day of the week before, of each of the four weeks before that;
    /// and all of the current hour.
    Exponential,
    /// The newest so many.
    LimitBased,
}

impl FromStr for FullsPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "Exponential" => Ok(Self::Exponential),
            "LimitBased" => Ok(Self::LimitBased),
            _ => Err(Error::new(ErrorKind::Invalid, format!("{text:?} is no policy; write Exponential or LimitBased"))),
        }
    }
}

impl fmt::Display for FullsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exponential => "Exponential",
            Self::LimitBased => "LimitBased",
        })
    }
}

/// What is kept: whatever one of these keeps. The newest chain of each cluster always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Every revision of so long stays restorable.
    pub keep_within: Option<Duration>,
    /// Fulls for their own sake, without the deltas behind them.
    pub fulls: Option<FullsPolicy>,
    /// With `LimitBased`: how many.
    pub max_backups: usize,
    /// With `fulls`: so long every revision stays restorable too.
    pub delta_retention: Duration,
    /// Deltas go so long after one object covers them.
    pub covered_grace: Duration,
}

impl Default for RetentionPolicy {
    /// Every revision of seven days.
    fn default() -> Self {
        Self {
            keep_within: Some(Duration::from_secs(7 * 24 * 3_600)),
            fulls: None,
            max_backups: 7,
            delta_retention: Duration::ZERO,
            covered_grace: Duration::from_secs(15 * 60),
        }
    }
}
