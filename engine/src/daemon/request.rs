//! What the operator wants of a sidecar.

use std::time::Duration;

use super::leadership::Duty;
use super::schedule::FullSchedule;
use super::upkeep::UpkeepRequest;
use crate::backup::FullRequest;
use crate::capture::{CaptureOptions, Gauges};

/// What a sidecar does.
#[derive(Debug, Clone)]
pub struct SidecarRequest {
    /// When it works at all.
    pub duty: Duty,
    /// How fulls are taken, and of what.
    pub full: FullRequest,
    /// When fulls are taken, beside those that are needed; none where there is no schedule.
    pub schedule: Option<FullSchedule>,
    /// How deltas are.
    pub capture: CaptureOptions,
    /// What is done for the archive beside capture.
    pub upkeep: UpkeepRequest,
    /// Bytes of sealed deltas that may wait for the store.
    pub memory_limit: u64,
    /// What is shown of it.
    pub gauges: Gauges,
    /// How long a shutdown may take to make durable what was captured.
    pub shutdown_timeout: Duration,
}
