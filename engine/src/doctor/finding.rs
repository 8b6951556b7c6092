//! What was asked, and what came of it.

use std::fmt;

use crate::error::Error;

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, with a limit that one should know.
    Warning,
    /// Backups or restores will fail.
    Bad,
}

/// Of whom it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The live cluster.
    Source,
    /// The place that keeps the archive.
    Store,
    /// The archive in it, and its keys.
    Archive,
}

/// One question and its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Of whom it was asked.
    pub subject: Subject,
    /// What was asked, in a few words that stay the same from run to run.
    pub question: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What the operator should do next.
    pub next_step: Option<String>,
}

impl Finding {
    pub(super) fn good(subject: Subject, question: &'static str, seen: impl Into<String>) -> Self {
        Self { subject, question, verdict: Verdict::Good, seen: seen.into(), next_step: None }
    }

    pub(super) fn warning(
        subject: Subject,
        question: &'static str,
        seen: impl Into<String>,
        next_step: impl Into<String>,
    ) -> Self {
        let next_step = Some(next_step.into());
        Self { subject, question, verdict: Verdict::Warning, seen: seen.into(), next_step }
    }

    pub(super) fn bad(subject: Subject, question: &'static str, error: &Error) -> Self {
        let next_step = error.next_step().map(str::to_owned);
        Self { subject, question, verdict: Verdict::Bad, seen: error.to_string(), next_step }
    }

    /// Good with what `seen` makes of the answer, bad with its error.
    pub(super) fn of<T>(
        subject: Subject,
        question: &'static str,
        answer: &Result<T, Error>,
        seen: impl FnOnce(&T) -> String,
    ) -> Self {
        match answer {
            Ok(answer) => Self::good(subject, question, seen(answer)),
            Err(error) => Self::bad(subject, question, error),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Bad => "bad",
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Source => "etcd",
            Self::Store => "store",
            Self::Archive => "archive",
        })
    }
}
