//! The one error of the engine.
//!
//! Rules: the kind says what the caller should do; the message names the object, key, file or flag in lower case
//! without a full stop; the hint is the operator's next step; the cause keeps the source. An error is returned,
//! never logged and swallowed. Exit codes are derived from the kind in one place, [`ErrorKind::exit_code`].

use std::error::Error as StdError;
use std::fmt;

/// Shorthand of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong (a flag, a name, a combination): correct it and call again. Nothing was changed.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// The request is clear, and is refused because it would endanger data. Nothing was changed.
    Refused,
    /// The archive key is missing or another one is needed.
    Key,
    /// Bytes that were read do not authenticate or do not parse: this copy cannot be used.
    Damaged,
    /// The other side (etcd, a store) cannot answer now: trying again later may help.
    Unavailable,
    /// The other side refuses our credentials or permissions.
    Denied,
    /// The local file system refuses: no space, no permission, a read or write failed.
    Local,
    /// A signal ended the work; what was begun has been taken back.
    Interrupted,
    /// A defect of etcdbr.
    Internal,
}

impl ErrorKind {
    /// The exit code of the process, as `docs/exit-codes.md` lists them.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::Key => 5,
            Self::Damaged => 6,
            Self::Unavailable => 7,
            Self::Denied => 8,
            Self::Local => 9,
            Self::Interrupted => 130,
        }
    }

    /// The word of the kind in JSON output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Refused => "refused",
            Self::Key => "key",
            Self::Damaged => "damaged",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Local => "local",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What went wrong, with which thing, and what to do next.
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` names the thing that it is about.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// The same error with the operator's next step.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with its cause.
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error, its message preceded by the name of what it is about (an object, a file).
    pub fn about(mut self, subject: impl fmt::Display) -> Self {
        self.message = format!("{subject}: {}", self.message);
        self
    }

    /// A failed file operation on `path`; a full disk says so in its hint.
    pub fn file(action: &str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::local(format!("cannot {action} {}", path.display()), source)
    }

    /// What the file system refused; a full disk says so in its hint.
    pub fn local(message: impl Into<String>, source: std::io::Error) -> Self {
        let full = source.kind() == std::io::ErrorKind::StorageFull;
        let error = Self::new(ErrorKind::Local, message).caused_by(source);
        if full { error.hint("free some space or choose another file system") } else { error }
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message alone, without cause and hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The operator's next step, where there is one.
    pub fn next_step(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    /// The message and its causes, joined by colons; the hint is left to the caller.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source.as_deref().map(|source| source as &dyn StdError);
        let mut said = self.message.clone();
        while let Some(error) = cause {
            let text = error.to_string();
            // Many libraries repeat their source in their own text.
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said.push_str(&text);
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_joins_causes_once() {
        let io = std::io::Error::other("disk on fire");
        let error = Error::new(ErrorKind::Local, "cannot write /x")
            .caused_by(Error::new(ErrorKind::Local, "disk on fire").caused_by(io));
        assert_eq!(error.to_string(), "cannot write /x: disk on fire");
    }

    #[test]
    fn a_full_disk_has_a_hint() {
        let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(Error::file("write", std::path::Path::new("/x"), io).next_step().is_some());
    }
}
