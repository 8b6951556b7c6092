//! A cluster to which random things happen, with the model of what it must hold by then.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use etcd_client::{Client, CompactionOptions, ConnectOptions, DeleteOptions, Error, LeaseGrantOptions, PutOptions};

use crate::etcd::{Etcd, EtcdCluster, EtcdVersion, Seat};
use crate::keyspace::HashKv;
use crate::model::Model;
use crate::model_steps::{Physical, Step, Steps, chosen};
use crate::model_watch::Watching;

/// More than any answer takes; an election may be under way.
const ANSWER: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);
/// What etcd says to a step that does not fit what is there just then.
const REFUSALS: [&str; 8] = [
    "key not found",
    "duplicate key given",
    "lease not found",
    "lease already exists",
    "has been compacted",
    "future revision",
    "too large lease TTL",
    "value is provided",
];

/// Answers of etcd that a restore is held against.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    /// HashKV, with the revision that it is of.
    pub hashes: BTreeMap<i64, HashKv>,
    /// Every compaction: at what, and the revision that etcd had reached by then.
    pub compactions: BTreeMap<i64, i64>,
    /// The TTLs with which an id was granted, one after the other.
    pub granted: BTreeMap<i64, Vec<i64>>,
}

/// A cluster, and all that is known of it.
pub struct World {
    /// Its release.
    pub version: EtcdVersion,
    /// What etcd has answered.
    pub noted: Noted,
    members: Vec<Etcd>,
    down: Option<usize>,
    watching: Watching,
    client: Option<Client>,
    leases: Vec<i64>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, members, watching, .. } = self;
        f.debug_struct("World").field("version", version).field("members", members).field("watching", watching).finish()
    }
}

impl World {
    /// A new member alone, whose leases may be as short as a second.
    pub async fn alone(version: EtcdVersion) -> Self {
        let short = ["--heartbeat-interval=20", "--election-timeout=200"];
        let etcd = short.iter().fold(Etcd::builder(version), |builder, flag| builder.arg(flag));
        Self::of(version, vec![etcd.start().await])
    }

    /// A new cluster of three.
    pub async fn of_three(version: EtcdVersion) -> Self {
        let member = |seat: Seat, cluster: &str| Etcd::builder(version).seat(seat).cluster(cluster);
        Self::of(version, EtcdCluster::start_with(Seat::several(3), member).await.members)
    }

    fn of(version: EtcdVersion, members: Vec<Etcd>) -> Self {
        let watching = Watching::begin(members.iter().map(Etcd::endpoint).collect());
        let noted = Noted::default();
        Self { version, noted, members, down: None, watching, client: None, leases: Vec::new() }
    }

    /// Where its members answer.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    /// What it must hold, as far as it is known.
    pub fn model(&self) -> Model {
        self.watching.model()
    }

    /// The newest revision, which the model has reached.
    ///
    /// # Panics
    /// Where etcd does not answer for long.
    pub async fn settled(&mut self) -> i64 {
        let started = Instant::now();
        loop {
            let revision = self.client().await.get("etcdbr-revision", None).await.ok();
            if let Some(header) = revision.as_ref().and_then(|answer| answer.header()) {
                self.watching.reaches(header.revision()).await;
                return header.revision();
            }
            self.client = None;
            assert!(started.elapsed() < PATIENCE, "etcd does not answer");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A client of one member that runs.
    pub async fn client(&mut self) -> Client {
        if let Some(client) = &self.client {
            return client.clone();
        }
        let up = (0..self.members.len()).find(|place| self.down != Some(*place)).expect("most members run");
        let options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(5)).with_timeout(ANSWER);
        let client = Client::connect([self.members[up].endpoint()], Some(options)).await.expect("a member's address");
        self.client.insert(client).clone()
    }

    /// Does `step`. That etcd refuses what does not fit is part of a history.
    ///
    /// # Panics
    /// Where a cluster that nothing ails answers otherwise.
    pub async fn perform(&mut self, steps: &Steps, step: &Step) {
        let outcome = self.attempt(steps, step).await;
        let Err(error) = outcome else { return };
        let said = error.to_string();
        if REFUSALS.iter().any(|refusal| said.contains(refusal)) {
            return;
        }
        // With a member down or an election under way nothing is certain but what the watch tells.
        assert!(self.members.len() > 1, "{step:?}: {said}");
        self.client = None;
    }

    async fn attempt(&mut self, steps: &Steps, step: &Step) -> Result<(), Error> {
        let mut client = self.client().await;
        match step {
            Step::Put(put) => {
                let (key, value, options) = steps.operation(*put, &self.leases);
                client.put(key, value, Some(options)).await.map(drop)
            }
            Step::Delete(place) => client.delete(steps.key(*place), None).await.map(drop),
            Step::DeletePrefix(prefix) => {
                client.delete(*prefix, Some(DeleteOptions::new().with_prefix())).await.map(drop)
            }
            Step::DeleteRange(one, other) => {
                let mut ends = [steps.key(*one), steps.key(*other)];
                ends.sort();
                let [from, to] = ends;
                client.delete(from, Some(DeleteOptions::new().with_range(to))).await.map(drop)
            }
            Step::Transaction(seed) => client.txn(steps.transaction(*seed, &self.leases)).await.map(drop),
            Step::Flicker(place, times) => {
                for _ in 0..*times {
                    client.put(steps.key(*place), "", None).await?;
                    client.delete(steps.key(*place), None).await?;
                }
                Ok(())
            }
            Step::Grant(id, ttl, place) => self.grant(&mut client, (*id, *ttl), steps.key(*place)).await,
            Step::Revoke(place) => match chosen(&self.leases, *place) {
                Some(id) => client.lease_revoke(id).await.map(drop),
                None => Ok(()),
            },
            Step::Compact(behind, physical) => self.compact(*behind, *physical).await,
            Step::Defragment => client.defragment().await.map(drop),
            Step::AskHash => {
                let answer = client.hash_kv(0).await?;
                let revision = answer.header().map_or(0, |header| header.revision());
                let hash = HashKv { hash: answer.hash(), compact_revision: answer.compact_version() };
                self.noted.hashes.insert(revision, hash);
                Ok(())
            }
        }
    }

    async fn grant(&mut self, client: &mut Client, (id, ttl): (i64, i64), key: Vec<u8>) -> Result<(), Error> {
        let options = (id != 0).then(|| LeaseGrantOptions::new().with_id(id));
        let lease = client.lease_grant(ttl, options).await?;
        self.noted.granted.entry(lease.id()).or_default().push(lease.ttl());
        self.leases.retain(|known| *known != lease.id());
        self.leases.push(lease.id());
        client.put(key, "leased", Some(PutOptions::new().with_lease(lease.id()))).await.map(drop)
    }

    /// Never ahead of the model, whose watch would be cancelled.
    async fn compact(&mut self, behind: i64, physical: Physical) -> Result<(), Error> {
        let reached = self.settled().await;
        let at = (reached - behind).max(1);
        let options = match physical {
            Physical::Done => CompactionOptions::new().with_physical(),
            Physical::Later => CompactionOptions::new(),
        };
        let mut client = self.client().await;
        // Noted first: it may happen without an answer.
        self.noted.compactions.entry(at).or_insert(reached);
        client.compact(at, Some(options)).await.map(drop)
    }

    /// One more put that cannot fail, after everything.
    ///
    /// # Panics
    /// Where etcd does not answer for long.
    pub async fn put_last(&mut self, steps: &Steps) {
        let started = Instant::now();
        while self.client().await.put(steps.key(20), "last", None).await.is_err() {
            self.client = None;
            assert!(started.elapsed() < PATIENCE, "etcd takes no put");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What etcd answered is what the model says: the proof of the model itself.
    ///
    /// # Panics
    /// Where it is not.
    pub fn assert_hashes_are_the_models(&self) {
        let model = self.model();
        for (revision, answer) in &self.noted.hashes {
            let ours = model.hash(*revision, answer.compact_revision);
            assert_eq!(ours, answer.hash, "etcd's own HashKV at {revision}, compacted at {}", answer.compact_revision);
        }
        assert!(!self.noted.hashes.is_empty());
    }

    /// Waits until leases of a second are over, where there are any, and their keys gone.
    ///
    /// # Panics
    /// Where they live on for long.
    pub async fn short_leases_end(&mut self) {
        const LONGEST: i64 = 10;
        let is_short = |id: &&i64| self.noted.granted[id].iter().all(|ttl| *ttl <= LONGEST);
        let short: Vec<i64> = self.leases.iter().filter(is_short).copied().collect();
        let started = Instant::now();
        for id in short {
            while self.client().await.lease_time_to_live(id, None).await.is_ok_and(|answer| answer.ttl() >= 0) {
                assert!(started.elapsed() < PATIENCE, "lease {id:x} does not end");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// The leases that are alive, and whose id never was another's: nobody but the one who grants a lease can tell it from
    /// an older one of its id.
    ///
    /// # Panics
    /// Where etcd does not answer.
    pub async fn lasting_leases(&mut self) -> BTreeSet<i64> {
        let answer = self.client().await.leases().await.expect("the list of leases");
        let alive = answer.leases().iter().map(|lease| lease.id());
        alive.filter(|id| self.noted.granted.get(id).is_some_and(|granted| granted.len() == 1)).collect()
    }

    /// A member alone is stopped, or killed, and started again.
    pub async fn restart(&mut self, how: Stop) {
        self.settled().await;
        self.stop(0, how);
        self.start_again().await;
    }

    /// Stops or kills the member at `place`, after those that are down have come back.
    pub async fn take_down(&mut self, place: usize, how: Stop) {
        self.start_again().await;
        self.stop(place % self.members.len(), how);
    }

    fn stop(&mut self, place: usize, how: Stop) {
        match how {
            Stop::Term => self.members[place].stop(),
            Stop::Kill => self.members[place].kill9(),
        }
        self.down = Some(place);
        self.client = None;
    }

    /// Every member runs, and serves.
    pub async fn start_again(&mut self) {
        if let Some(place) = self.down.take() {
            self.members[place].restart().await;
            self.client = None;
        }
    }
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}
