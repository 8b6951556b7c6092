//! The watch that tells the model what happened: a client that is not ours, from the first revision on, at whichever
//! member answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, Error, WatchOptions};
use tokio::task::JoinHandle;

use crate::model::Model;

const PAUSE: Duration = Duration::from_millis(20);
const CONNECT: Duration = Duration::from_secs(2);
/// Far more than a watch is ever behind.
const PATIENCE: Duration = Duration::from_secs(120);
/// Catching up, a response may hold a thousand revisions.
const MESSAGE_BYTES: usize = 1 << 30;

/// A model that grows while etcd runs. The watch ends when it is dropped.
#[derive(Debug)]
pub struct Watching {
    told: Arc<Mutex<Told>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Told {
    model: Model,
    broken: Option<String>,
}

impl Watching {
    /// Watches all that happens to the cluster behind `endpoints`, which has not begun yet.
    pub fn begin(endpoints: Vec<String>) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let task = tokio::spawn(follow(endpoints, told.clone()));
        Self { told, task }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &told.broken {
            panic!("the model's own watch: {why}");
        }
        told
    }

    /// The newest revision that it knows.
    pub fn revision(&self) -> i64 {
        self.lock().model.revision()
    }

    /// What it knows now.
    pub fn model(&self) -> Model {
        self.lock().model.clone()
    }

    /// Waits until it knows `revision`.
    ///
    /// # Panics
    /// Where it does not for long.
    pub async fn reaches(&self, revision: i64) {
        let started = Instant::now();
        while self.revision() < revision {
            assert!(started.elapsed() < PATIENCE, "the model is at {}, waiting for {revision}", self.revision());
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One watch after another, each from the revision behind the last whole one.
async fn follow(endpoints: Vec<String>, told: Arc<Mutex<Told>>) {
    for endpoint in endpoints.iter().cycle() {
        if let Ok(Some(why)) = watch(endpoint, &told).await {
            told.lock().unwrap_or_else(PoisonError::into_inner).broken = Some(why);
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until the member goes away; what is wrong, where the watch cannot go on.
async fn watch(endpoint: &str, told: &Mutex<Told>) -> Result<Option<String>, Error> {
    let options = ConnectOptions::new().with_connect_timeout(CONNECT);
    let client = Client::connect([endpoint], Some(options)).await?;
    let next = told.lock().unwrap_or_else(PoisonError::into_inner).model.revision() + 1;
    let options = WatchOptions::new().with_all_keys().with_start_revision(next).with_prev_key();
    let mut watch_client = client.watch_client().max_decoding_message_size(MESSAGE_BYTES);
    let mut stream = watch_client.watch([0], Some(options)).await?;
    while let Some(response) = stream.message().await? {
        if response.canceled() {
            let why = response.cancel_reason();
            return Ok(Some(format!("cancelled at {next}: {why:?}, compacted at {}", response.compact_revision())));
        }
        if let Err(why) = told.lock().unwrap_or_else(PoisonError::into_inner).model.take(response.events()) {
            return Ok(Some(why));
        }
    }
    Ok(None)
}
