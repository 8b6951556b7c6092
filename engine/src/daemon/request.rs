//! What the operator wants of a sidecar.

use std::time::Duration;

use crate::backup::FullRequest;
use crate::capture::CaptureOptions;

/// What a sidecar does.
#[derive(Debug, Clone)]
pub struct SidecarRequest {
    /// How fulls are taken, and of what.
    pub full: FullRequest,
    /// How deltas are.
    pub capture: CaptureOptions,
    /// Bytes of sealed deltas that may wait for the store.
    pub memory_limit: u64,
    /// How long a shutdown may take to make durable what was captured.
    pub shutdown_timeout: Duration,
}
