//! What every verb is run with: the time, somebody who watches, and a way to stop.

use std::future::Future;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::{Event, SharedMonitor};

/// The surroundings of a verb.
#[derive(Clone)]
pub struct RunContext {
    /// The time.
    pub clock: Clock,
    /// Who is told.
    pub monitor: SharedMonitor,
    /// Cancelled when the operator wants the work to stop and be taken back.
    pub stop: CancellationToken,
}

impl RunContext {
    /// Tells the monitor a line for the log.
    pub fn note(&self, line: impl Into<String>) {
        self.monitor.tell(Event::Note(line.into()));
    }

    /// Tells the monitor a line that the operator should act on.
    pub fn warn(&self, line: impl Into<String>) {
        self.monitor.tell(Event::Warning(line.into()));
    }

    /// Whether work may go on, for work that no signal can drop.
    ///
    /// # Errors
    /// `Interrupted`.
    pub fn check_stop(&self) -> Result<()> {
        if self.stop.is_cancelled() { Err(stopped()) } else { Ok(()) }
    }

    /// Runs `work` until it ends or the operator stops it; then `work` is dropped where it stands.
    ///
    /// # Errors
    /// Those of `work`; `Interrupted`.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(stopped()),
            done = work => done,
        }
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Interrupted, "stopped by a signal")
}

/// Runs work on files, or for long on a processor, off the threads that serve the network.
///
/// # Errors
/// Those of `work`; `Internal` where it panics.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, "a task ended by itself").caused_by(error))?
}
