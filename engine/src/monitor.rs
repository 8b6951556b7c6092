//! How work in progress is told to whoever watches: a terminal, a log, a test.
//!
//! The engine says what happened; it never decides how that looks.

use std::sync::Arc;

use crate::revision::Revision;

/// What a verb is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A full is streamed from etcd into the store.
    Backup,
    /// An image is read from the archive into the stage.
    Restore,
    /// An image is read from the archive to be proven.
    Verify,
    /// Records of deltas are added to an image.
    Replay,
    /// An image is searched for a key.
    Search,
    /// An image is held against what is known of it.
    Proof,
    /// A plain snapshot is uploaded.
    Upload,
    /// The staged files are made durable.
    Sync,
}

/// One thing worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A line for the log.
    Note(String),
    /// A line that the operator should act on.
    Warning(String),
    /// A phase begins; `total_bytes` of plaintext are expected (0: not known).
    Begin {
        /// The phase.
        phase: Phase,
        /// Expected plaintext bytes.
        total_bytes: u64,
    },
    /// So much has gone through since the phase began.
    Progress {
        /// Plaintext bytes so far.
        plain_bytes: u64,
        /// Bytes stored or fetched so far.
        stored_bytes: u64,
    },
    /// The phase is over.
    End(Phase),
    /// Everything of a lineage up to this revision is in the store.
    Durable {
        /// The lineage.
        lineage: String,
        /// The revision.
        revision: Revision,
    },
}

/// Receives events; called from many threads, must not block.
pub trait Monitor: Send + Sync {
    /// Takes one event.
    fn tell(&self, event: Event);
}

/// A monitor that every part of a verb can hold.
pub type SharedMonitor = Arc<dyn Monitor>;

/// A monitor for those who do not watch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn tell(&self, _event: Event) {}
}

/// Keeps every event, for tests.
#[derive(Debug, Default)]
pub struct Recorder(std::sync::Mutex<Vec<Event>>);

impl Recorder {
    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().map(|events| events.clone()).unwrap_or_default()
    }

    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.events()
            .into_iter()
            .filter_map(|event| if let Event::Warning(text) = event { Some(text) } else { None })
            .collect()
    }
}

impl Monitor for Recorder {
    fn tell(&self, event: Event) {
        if let Ok(mut events) = self.0.lock() {
            events.push(event);
        }
    }
}
