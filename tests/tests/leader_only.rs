//! Sidecars beside each member of a cluster, of which one works: that of the leader. Whoever leads next goes on with
//! the same lineage, without a full.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use etcdbr_engine::ErrorKind;
use etcdbr_engine::etcd::{EtcdOptions, Leadership, Member, Role};
use etcdbr_engine::format::NameKind;
use etcdbr_engine::monitor::Silent;
use etcdbr_tests::etcd::{Etcd, EtcdCluster, EtcdVersion, Seat};
use etcdbr_tests::etcdbr::{Etcdbr, Outcome};
use etcdbr_tests::fake_etcd::{FakeEtcd, Script};
use etcdbr_tests::keyspace::current_revision;
use etcdbr_tests::model_check::{Bench, Reach, Source};
use etcdbr_tests::model_steps::{Step, Steps};
use etcdbr_tests::model_world::{Stop, World};
use etcdbr_tests::s3::{Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site, assert_failed};
use etcdbr_tests::sidecar::{Captured, Sidecar, durable_point};
use rustix::process::{Pid, Signal, kill_process};

use crate::metrics::{address, ask, figure};

/// Far more than an election takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LEADER_ONLY: &str = "--leader-only";

fn signal(etcd: &Etcd, signal: Signal) {
    kill_process(Pid::from_raw(etcd.pid() as i32).unwrap(), signal).unwrap();
}

async fn pinned(endpoint: &str) -> Member {
    Member::pin(&EtcdOptions::new([endpoint]), &Silent).await.unwrap()
}

/// The place of the member that all of `members` but those of `but` call leader.
async fn leader_among(members: &[Etcd], but: &[usize]) -> usize {
    let started = Instant::now();
    loop {
        let mut named = BTreeSet::new();
        let mut ids = Vec::new();
        for (place, etcd) in members.iter().enumerate().filter(|(place, _)| !but.contains(place)) {
            let status = etcd.client().await.status().await.unwrap();
            ids.push((status.header().unwrap().member_id(), place));
            named.insert(status.leader());
        }
        let leader = ids.iter().find(|(id, _)| named.len() == 1 && named.contains(id));
        if let Some((_, place)) = leader {
            return *place;
        }
        assert!(started.elapsed() < PATIENCE, "nobody is elected");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A sidecar for each of `endpoints`.
fn beside_each(site: &Site, endpoints: &[String], period: &str) -> Vec<Sidecar> {
    let start = |endpoint: &String| Sidecar::start_every(site, std::slice::from_ref(endpoint), period, &[LEADER_ONLY]);
    endpoints.iter().map(start).collect()
}

async fn put(etcd: &Etcd, key: &str) -> i64 {
    let mut client = etcd.client().await;
    client.put(key, "x", None).await.unwrap();
    current_revision(&mut client).await
}

/// What has come of a command that must end by itself.
async fn ended(run: Etcdbr) -> Outcome {
    let (mut running, started) = (run.spawn(), Instant::now());
    while !running.ended() {
        assert!(started.elapsed() < PATIENCE, "it goes on:\n{}", running.said());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    running.wait()
}

/// The revision behind which it went on last.
fn position(sidecar: &Sidecar) -> i64 {
    let words = sidecar.words();
    let behind = words.rsplit_once(" behind revision ").unwrap().1;
    behind.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// One lineage with one full, and every record of it in its place.
async fn assert_one_lineage(site: &Site) -> Captured {
    let captured = Captured::of(site).await;
    let lineages = captured.lineages();
    let fulls = lineages.iter().flat_map(|lineage| &lineage.backups);
    let fulls = fulls.filter(|entry| matches!(entry.name.kind, NameKind::Full { .. })).count();
    assert_eq!((lineages.len(), fulls), (1, 1), "lineages and fulls");
    captured.records(lineages[0]).await;
    captured
}

// --- the question -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_claim_to_lead_is_confirmed_or_does_not_count() {
    let ask = async |script: Script| {
        let fake = FakeEtcd::start(script).await;
        pinned(&fake.endpoint).await.leadership(Duration::from_secs(5)).await.unwrap()
    };
    let leader = || Script::member(1, 1);
    assert_eq!(ask(leader()).await, Leadership::Leads { raft_term: 2 });
    assert_eq!(ask(Script::member(1, 2)).await, Leadership::Follows);
    assert_eq!(ask(Script::member(1, 0)).await, Leadership::Follows, "no leader is known");
    // The read is answered, and another one has led meanwhile.
    assert_eq!(ask(Script { terms_a_read: 1, ..leader() }).await, Leadership::Unconfirmed);
    assert_eq!(ask(Script { lag: 1, ..leader() }).await, Leadership::Unconfirmed, "the read times out");
}

/// One that was cut off from all others calls itself leader for as long as an election may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_quorum_is_not_taken_for_one() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_7] {
        let slow = ["--heartbeat-interval=500", "--election-timeout=5000"];
        let member = |seat: Seat, cluster: &str| {
            slow.iter().fold(Etcd::builder(version).seat(seat).cluster(cluster), |builder, flag| builder.arg(flag))
        };
        let cluster = EtcdCluster::start_with(Seat::several(3), member).await;
        let leading = cluster.leader().await;
        let (mut asked, mut confirmed) = (Vec::new(), Vec::new());
        for etcd in &cluster.members {
            let member = pinned(&etcd.endpoint()).await;
            confirmed.push(matches!(member.leadership(PATIENCE).await.unwrap(), Leadership::Leads { .. }));
            asked.push(member);
        }
        assert_eq!(confirmed, (0..3).map(|place| place == leading).collect::<Vec<_>>(), "{version:?}");
        let others: Vec<&Etcd> =
            (0..3).filter(|place| *place != leading).map(|place| &cluster.members[place]).collect();
        others.iter().for_each(|etcd| signal(etcd, Signal::STOP));
        let answer = asked[leading].leadership(Duration::from_secs(1)).await.unwrap();
        let claims = asked[leading].status().await.unwrap().role == Role::Leader;
        others.iter().for_each(|etcd| signal(etcd, Signal::CONT));
        assert_eq!(answer, Leadership::Unconfirmed, "{version:?}");
        assert!(claims, "{version:?}: it has heard of its end too early for this test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_is_not_taken_for_one() {
    let cluster = EtcdCluster::start(EtcdVersion::V3_6, 3).await;
    let old = cluster.leader().await;
    let member = pinned(&cluster.members[old].endpoint()).await;
    assert!(matches!(member.leadership(PATIENCE).await.unwrap(), Leadership::Leads { .. }));
    signal(&cluster.members[old], Signal::STOP);
    let new = leader_among(&cluster.members, &[old]).await;
    assert_ne!(new, old);
    signal(&cluster.members[old], Signal::CONT);
    let (started, mut doubts) = (Instant::now(), 0);
    // It may lead again, but then in a later term; the other one leads until then.
    loop {
        match member.leadership(PATIENCE).await {
            Ok(Leadership::Follows) => break,
            Ok(Leadership::Unconfirmed) => doubts += 1,
            Ok(Leadership::Leads { raft_term }) => panic!("it leads in raft term {raft_term}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
        assert!(started.elapsed() < PATIENCE);
    }
    println!("{doubts} times it called itself leader still");
}

// --- standing by --------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_by_watches_nothing_and_stores_nothing() {
    let cluster = EtcdCluster::start(EtcdVersion::V3_6, 3).await;
    let leading = cluster.leader().await;
    let (site, server) = (Site::local(), S3Server::start(Mode::Plain, BUCKET).await);
    // An archive of its own shows what comes from it alone.
    let apart = Site::on(&server);
    let flags = [LEADER_ONLY, "--metrics-addr=127.0.0.1:0", "--garbage-collection-period=2s"];
    let beside = |site, etcd: &Etcd| Sidecar::start_with(site, &[etcd.endpoint()], &flags);
    let mut resting = beside(&apart, &cluster.members[(leading + 1) % 3]);
    let mut working = beside(&site, &cluster.members[leading]);
    resting.said("standing by: its member does not lead", 1).await;
    let lists = server.count(Operation::List);
    working.opened(1).await;
    let (of_resting, of_working) = (address(&mut resting).await, address(&mut working).await);
    for round in 0..20 {
        working.durable(put(&cluster.members[round % 3], "/a").await).await;
    }
    assert_eq!(figure(&of_working, "etcdbr_leader").await, Some(1.0));
    assert_eq!(figure(&of_resting, "etcdbr_leader").await, Some(0.0));
    assert_eq!(figure(&of_resting, "etcdbr_durable_age_seconds").await, None);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(&of_resting, "GET", path).await.0, 200, "{path}");
    }
    assert_eq!(cluster.members[leading].watchers(1.0).await, 1.0);
    assert_eq!(cluster.members[(leading + 1) % 3].watchers(0.0).await, 0.0);
    for operation in [Operation::Put, Operation::Create, Operation::Part, Operation::Delete] {
        assert_eq!(server.count(operation), 0, "{operation:?}");
    }
    assert_eq!(server.count(Operation::List), lists, "it looks for what could be removed");
    // One that could not take over says so at once, and not on that day.
    let endpoints = ["snapshot", LEADER_ONLY, "--endpoints", &cluster.members[(leading + 2) % 3].endpoint()];
    let refused = ended(site.unkeyed(&endpoints).arg("--encryption-key-file").arg(apart.path("key"))).await;
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    working.stop();
    // Where nothing was captured nothing is to be stored.
    resting.stop();
    assert_one_lineage(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_alone_always_leads() {
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_4).await);
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &[LEADER_ONLY]);
    sidecar.durable(put(&etcd, "/a").await).await;
    sidecar.stop();
}

#[tokio::test]
async fn whose_leadership_it_is_must_be_clear() {
    let site = Site::local();
    let run = |flags: &[&str]| ended(site.command(&["snapshot", LEADER_ONLY]).args(flags));
    for period in ["--delta-snapshot-period=5s", "--delta-snapshot-period=0"] {
        let refused = run(&["--endpoints=http://127.0.0.1:1,http://127.0.0.1:2", period]).await;
        assert_failed(&refused, 2, &["--leader-only with 2 --endpoints", "one sidecar beside each member"]);
    }
    assert_failed(&run(&["--once"]).await, 2, &["--leader-only", "--once"]);
}

// --- one after the other ------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_goes_on_with_the_lineage_without_a_full() {
    let cluster = EtcdCluster::start(EtcdVersion::V3_6, 3).await;
    let (site, first) = (Site::local(), cluster.leader().await);
    let mut sidecars = beside_each(&site, &cluster.endpoints(), "200ms");
    sidecars[first].opened(1).await;
    sidecars[first].durable(put(&cluster.members[first], "/a").await).await;
    let mut leading = first;
    // Back to the first one at last, which must not go on from what it remembers.
    for next in [(first + 1) % 3, (first + 2) % 3, first] {
        let id = pinned(&cluster.members[next].endpoint()).await.identity().member.0;
        let stored = sidecars[leading].durable_revision();
        let (begun, tenures) = (Instant::now(), sidecars[next].times("working: its member leads"));
        cluster.members[leading].client().await.move_leader(id).await.unwrap();
        let revision = put(&cluster.members[next], "/a").await;
        sidecars[next].said("working: its member leads", tenures + 1).await;
        sidecars[next].durable(revision).await;
        assert!(position(&sidecars[next]) >= stored, "it goes on from what it remembers, not from the archive");
        println!("leadership is moved, and what happens then is durable in {:.1?}", begun.elapsed());
        sidecars[leading].said("the member leads no more", 1).await;
        leading = next;
    }
    assert_eq!(cluster.leader().await, first, "an election has come between");
    let revision = put(&cluster.members[first], "/b").await;
    sidecars[first].durable(revision).await;
    sidecars.into_iter().for_each(|sidecar| drop(sidecar.stop()));
    let captured = assert_one_lineage(&site).await;
    assert_eq!(captured.records(captured.lineages()[0]).await.1.last().unwrap().main.0, revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stands_still_is_taken_over_from() {
    let cluster = EtcdCluster::start(EtcdVersion::V3_5, 3).await;
    let (site, old) = (Site::local(), cluster.leader().await);
    let mut sidecars = beside_each(&site, &cluster.endpoints(), "200ms");
    sidecars[old].durable(put(&cluster.members[old], "/a").await).await;
    signal(&cluster.members[old], Signal::STOP);
    let new = leader_among(&cluster.members, &[old]).await;
    let revision = put(&cluster.members[new], "/a").await;
    sidecars[new].durable(revision).await;
    signal(&cluster.members[old], Signal::CONT);
    sidecars[old].said("the member leads no more", 1).await;
    // What was captured until then may still be on its way.
    let revision = put(&cluster.members[new], "/a").await;
    sidecars[new].durable(revision).await;
    let said: Vec<String> = sidecars.into_iter().map(|sidecar| sidecar.stop().stderr).collect();
    assert!(durable_point(&said[old]).unwrap().1 < revision, "it captures what another one does:\n{}", said[old]);
    assert_one_lineage(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fulls_alone_are_taken_by_the_leader_too() {
    let cluster = EtcdCluster::start(EtcdVersion::V3_6, 3).await;
    let (first, next) = (cluster.leader().await, (cluster.leader().await + 1) % 3);
    // An archive each, so that either one takes a full as soon as it works.
    let sites = [Site::local(), Site::local()];
    let flags = [LEADER_ONLY, "--schedule=0 0 1 1 *"];
    let beside = |site, etcd: &Etcd| Sidecar::start_every(site, &[etcd.endpoint()], "0", &flags);
    let mut resting = beside(&sites[1], &cluster.members[next]);
    resting.said("standing by: its member does not lead", 1).await;
    let mut working = beside(&sites[0], &cluster.members[first]);
    working.said("is durable", 1).await;
    assert_eq!(Captured::of(&sites[1]).await.lineages().len(), 0);
    let id = pinned(&cluster.members[next].endpoint()).await.identity().member.0;
    cluster.members[first].client().await.move_leader(id).await.unwrap();
    resting.said("is durable", 1).await;
    working.said("the member leads no more", 1).await;
    working.stop();
    resting.stop();
    for site in &sites {
        assert_one_lineage(site).await;
    }
}

// --- leaders are killed -------------------------------------------------------------------------------------------------

/// Three members with a sidecar each, whose leaders are killed.
struct Trial {
    world: World,
    site: Site,
    steps: Steps,
    sidecars: Vec<Sidecar>,
    /// Revisions that were durable behind an election.
    durable: Vec<i64>,
    worst: Worst,
}

/// How long it took at most until a new revision was durable.
#[derive(Debug, Default)]
struct Worst {
    behind_a_kill: Duration,
    behind_an_election: Duration,
    otherwise: Duration,
}

impl Trial {
    async fn begin(version: EtcdVersion, seed: u64) -> Self {
        let world = World::of_three(version).await;
        let site = Site::local();
        let sidecars = beside_each(&site, &world.endpoints(), "1s");
        let (steps, durable) = (Steps::new(seed), Vec::new());
        let mut trial = Self { world, site, steps, sidecars, durable, worst: Worst::default() };
        // The first kill comes when there is something to go on with.
        trial.until("a lineage", |sidecars| sidecars.iter().any(|sidecar| sidecar.times(" is open") > 0)).await;
        trial
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&[Sidecar]) -> bool) {
        let started = Instant::now();
        while !reached(&self.sidecars) {
            let words = || self.sidecars.iter().map(Sidecar::words).collect::<Vec<_>>().join("--- and ---\n");
            assert!(started.elapsed() < PATIENCE, "waiting for {what}:\n{}", words());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What happens without an end to the lineage: compactions would be one, now and then.
    async fn steps(&mut self, count: usize) {
        for _ in 0..count {
            let step = self.steps.step();
            if !matches!(step, Step::Compact(..)) {
                self.world.perform(&self.steps, &step).await;
            }
        }
    }

    /// Since when a new revision was there, and how long it took then until it was durable.
    async fn until_durable(&mut self) -> (Instant, Duration) {
        self.world.put_last(&self.steps).await;
        let committed = Instant::now();
        let revision = self.world.settled().await;
        let durable = |sidecars: &[Sidecar]| sidecars.iter().any(|sidecar| sidecar.durable_revision() >= revision);
        self.until(&format!("revision {revision} to be durable"), durable).await;
        self.durable.push(revision);
        (committed, committed.elapsed())
    }

    async fn kill_the_leader(&mut self) {
        // All of them run.
        self.world.start_again().await;
        let leading = self.leading().await;
        let how = if self.steps.below(3) == 0 { Stop::Term } else { Stop::Kill };
        self.world.take_down(leading, how).await;
        let killed = Instant::now();
        // A put that meets no leader would wait for longer than the election takes.
        self.leading().await;
        let (committed, took) = self.until_durable().await;
        self.worst.behind_a_kill = self.worst.behind_a_kill.max(killed.elapsed());
        self.worst.behind_an_election = self.worst.behind_an_election.max(took);
        println!("{how:?}: a leader after {:.1?}, durable after {took:.1?} more", committed - killed);
    }

    async fn leading(&self) -> usize {
        let started = Instant::now();
        loop {
            for (place, endpoint) in self.world.endpoints().iter().enumerate() {
                let Ok(member) = Member::pin(&EtcdOptions::new([endpoint]), &Silent).await else { continue };
                if matches!(member.leadership(PATIENCE).await, Ok(Leadership::Leads { .. })) {
                    return place;
                }
            }
            assert!(started.elapsed() < PATIENCE, "nobody leads");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Every record is the model's; so is what is restored of `count` moments, first of all those behind the elections.
    async fn judge(mut self, count: usize) {
        self.world.start_again().await;
        self.world.short_leases_end().await;
        self.until_durable().await;
        self.sidecars.drain(..).for_each(|sidecar| drop(sidecar.stop()));
        let captured = assert_one_lineage(&self.site).await;
        let (model, lasting) = (self.world.model(), BTreeSet::new());
        let (seam, records) = captured.records(captured.lineages()[0]).await;
        let known = model.upto(model.revision()).iter().filter(|record| record.main > seam);
        let known: Vec<_> = known.map(|record| (record.main, record.sub, record.stored.1.as_slice())).collect();
        let ours: Vec<_> = records.iter().map(|record| (record.main.0, record.sub, record.value.as_ref())).collect();
        let differs = ours.iter().zip(&known).position(|(ours, known)| ours != known);
        assert_eq!((differs, ours.len()), (None, known.len()), "behind revision {seam}");
        let reach = Reach::of(&captured).remove(0);
        let seat = Seat::new("m0");
        let source = Source { model: &model, noted: &self.world.noted, lasting: &lasting };
        let bench = Bench::new(&self.site, seat);
        let mut moments = vec![reach.seam, reach.last];
        moments.extend(self.durable.iter().rev());
        while moments.len() < count {
            moments.push(reach.seam + self.steps.below((reach.last - reach.seam + 1) as usize) as i64);
        }
        for revision in &moments[..count] {
            assert!(bench.compare(&reach.lineage, *revision, &[], &source).is_some());
        }
        println!("{} revisions, {count} restores, at worst {:.1?}", ours.len(), self.worst);
    }
}

async fn leaders_are_killed(version: EtcdVersion, seed: u64, span: Duration, restores: usize) {
    println!("MODEL_SEED={seed}");
    let mut trial = Trial::begin(version, seed).await;
    let (begun, mut kills) = (Instant::now(), 0);
    while begun.elapsed() < span {
        let calm = 5 + trial.steps.below(60);
        trial.steps(calm).await;
        let (_, took) = trial.until_durable().await;
        trial.worst.otherwise = trial.worst.otherwise.max(took);
        trial.kill_the_leader().await;
        kills += 1;
    }
    println!("{kills} leaders were killed");
    assert!(kills > 1);
    trial.judge(restores).await;
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_are_killed_cost_nothing() {
    leaders_are_killed(EtcdVersion::V3_6, number("MODEL_SEED").unwrap_or(31), Duration::from_secs(12), 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_with_leaders_killed() {
    let Some(seconds) = number("SOAK_SECONDS") else { return };
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = number("MODEL_SEED").unwrap_or(clock);
    leaders_are_killed(EtcdVersion::V3_7, seed, Duration::from_secs(seconds), 200).await;
}
