//! URLs under which anybody may read one object for a while: a rare ability of stores.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::UnixMillis;
use crate::error::Result;
use crate::secret::SecretText;

/// The longest that a signature of today's kind lives.
pub const MAX_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// A store that signs URLs.
#[async_trait]
pub trait Presign: fmt::Debug + Send + Sync {
    /// Signs a URL to read `key`. Nothing is asked of the store: the object need not be there.
    ///
    /// # Errors
    /// `Invalid` for a lifetime over [`MAX_LIFETIME`]; `Denied` where there are no credentials to sign with.
    async fn presign_read(&self, key: &str, now: UnixMillis, lifetime: Duration) -> Result<PresignedUrl>;
}

/// A signed URL: whoever has it may read the object. No header belongs to it.
#[derive(Debug, Clone)]
pub struct PresignedUrl {
    /// The URL.
    pub url: SecretText,
    /// When its signature ends.
    pub signature_end: UnixMillis,
    /// When the credentials that signed it end, for the URL ends with them.
    pub session: SessionEnd,
}

/// How long signing credentials live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// Until somebody takes them away.
    Lasting,
    /// They are temporary, until this time.
    At(UnixMillis),
    /// They are temporary, and nobody says until when.
    Unknown,
}

impl PresignedUrl {
    /// When the URL ends, as far as can be told: with its signature or with its session, whichever is first.
    pub fn end(&self) -> UnixMillis {
        match self.session {
            SessionEnd::At(end) => end.min(self.signature_end),
            SessionEnd::Lasting | SessionEnd::Unknown => self.signature_end,
        }
    }
}
