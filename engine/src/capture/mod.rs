//! Capturing every revision as it happens: a watch in, deltas out.
//!
//! ```text
//! etcd::WatchStream -> Batch -> (cut by age or size) -> SealedDelta -> Outbox -> store
//! ```
//! A [`Trail`] says where capture stands in its lineage and what proves it; [`resume`] opens a watch that has proven to go
//! on from there; [`Capture::follow`] is the loop over everything that can happen then; the [`Outbox`] keeps what was captured until the store
//! has it, in order; a [`Witness`] says of a full that is taken beside it whether it is of the same history. Which lineage to go on with, and when to take a full, is decided elsewhere.

mod batch;
mod durations;
mod find;
mod follow;
mod gauges;
mod leases;
mod line;
mod outbox;
mod probes;
mod resume;
mod trail;
mod witness;

pub use batch::CutLimits;
pub use durations::Durations;
pub use find::newest_line;
pub use follow::{Capture, CaptureOptions, End, Pause};
pub use gauges::{Attempts, Figures, Gauges, LastFull, LastHashKv, StoredKind, UpkeepFigures};
pub use line::{FullsOfLine, Line, Opening};
pub use outbox::Outbox;
pub use resume::{Resumed, Resumption, Unproven, resume};
pub use trail::{Anchor, Trail};
pub use witness::Witness;
