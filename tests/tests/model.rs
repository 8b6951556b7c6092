//! Random histories against real etcds while a sidecar captures them: whatever moment is restored is what the model says,
//! record for record, and an etcd that starts on it goes on as the source would have.
//!
//! A seed gives a history; it is told where a test fails, and `MODEL_SEED` begins with it. `make soak` runs as many as
//! `SOAK_HISTORIES` says, and two sidecars for `SOAK_SECONDS`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use etcdbr_tests::etcd::{EtcdVersion, Seat};
use etcdbr_tests::model_check::{Bench, Reach, Source};
use etcdbr_tests::model_steps::Steps;
use etcdbr_tests::model_world::{Stop, World};
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site};
use etcdbr_tests::sidecar::{Captured, Sidecar, durable_point};

/// Histories of each version, one after the other on one etcd.
const HISTORIES: u64 = 6;
const STEPS: usize = 400;
/// Restores of each history.
const MOMENTS: usize = 9;
/// Steps between two faults.
const CALM: usize = 20;

/// Says what is to be repeated where a history fails.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- {} ---", self.0);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn seed(of: u64) -> u64 {
    number("MODEL_SEED").unwrap_or(of)
}

/// What a few restores have shown, so that a test that compares nothing is seen.
#[derive(Debug, Default)]
struct Tally {
    restores: usize,
    answered: usize,
    floors: BTreeSet<i64>,
    served: usize,
}

/// One archive that is held against the model.
struct Trial<'a> {
    site: &'a Site,
    seat: &'a Seat,
    captured: Captured,
}

impl Trial<'_> {
    /// Moments of every lineage, chosen by `steps`: the first and the last one, where an object ends, where the source was
    /// asked, and any.
    fn moments(reaches: &[Reach], world: &World, steps: &mut Steps, count: usize) -> Vec<(usize, i64)> {
        let mut moments: Vec<(usize, i64)> = Vec::new();
        for (place, reach) in reaches.iter().enumerate() {
            moments.extend([(place, reach.seam), (place, reach.last)]);
        }
        while moments.len() < count.max(2 * reaches.len()) {
            let place = steps.below(reaches.len());
            let reach = &reaches[place];
            let asked: Vec<i64> = world.noted.hashes.range(reach.seam..=reach.last).map(|(at, _)| *at).collect();
            let ends: Vec<i64> = reach.ends.iter().copied().collect();
            let any = reach.seam + steps.below((reach.last - reach.seam + 1) as usize) as i64;
            let moment = match steps.below(5) {
                0 if !asked.is_empty() => asked[steps.below(asked.len())],
                1 => ends[steps.below(ends.len())],
                2 => reach.seam.max(ends[steps.below(ends.len())] - 1),
                _ => any,
            };
            moments.push((place, moment));
        }
        moments
    }

    /// Restores moments of it and compares each; starts an etcd on one of them.
    async fn judge(&self, world: &mut World, steps: &mut Steps, count: usize, tally: &mut Tally) {
        world.settled().await;
        let (model, lasting) = (world.model(), world.lasting_leases().await);
        let source = Source { model: &model, noted: &world.noted, lasting: &lasting };
        let reaches = Reach::of(&self.captured);
        let moments = Self::moments(&reaches, world, steps, count);
        let served = steps.below(moments.len());
        let bench = Bench::new(self.site, self.seat.clone());
        for (n, (place, revision)) in moments.into_iter().enumerate() {
            let flags: &[&str] = if steps.below(3) == 0 { &["--defragment"] } else { &[] };
            let lineage = &reaches[place].lineage;
            let Some(compared) = bench.compare(lineage, revision, flags, &source) else { continue };
            tally.restores += 1;
            tally.answered += usize::from(compared.answered);
            tally.floors.insert(compared.floor);
            if n == served {
                bench.serve(world.version, revision, &model).await;
                tally.served += 1;
            }
            // Inside the image of the full, down to where it is compacted.
            let below = compared.floor.max(2)..revision;
            if n == 0 && !below.is_empty() {
                let revision = below.start + steps.below((below.end - below.start) as usize) as i64;
                bench.compare(lineage, revision, flags, &source);
                tally.restores += 1;
            }
        }
    }
}

fn start(site: &Site, world: &World) -> Sidecar {
    // Now and then a full joins the lineage, so that moments have another base than its first one.
    Sidecar::start_with(site, &world.endpoints(), &["--full-after-deltas-bytes=200KiB"])
}

/// Everything that has happened is in the archive, and the sidecar gone.
async fn captured_all(world: &mut World, steps: &mut Steps, sidecars: Vec<Sidecar>) {
    world.short_leases_end().await;
    world.put_last(steps).await;
    let revision = world.settled().await;
    for mut sidecar in sidecars {
        sidecar.durable(revision).await;
        sidecar.stop();
    }
}

/// A history with one sidecar, which is away for a while, and a member that is restarted.
async fn history(world: &mut World, seat: &Seat, seed: u64, tally: &mut Tally) {
    let mut steps = Steps::new(seed);
    let site = Site::local();
    let mut sidecar = Some(start(&site, world));
    if let Some(sidecar) = &mut sidecar {
        sidecar.opened(1).await;
    }
    let away = 20 + steps.below(STEPS / 2);
    let restart = 20 + steps.below(STEPS - 40);
    for n in 0..STEPS {
        let step = steps.step();
        world.perform(&steps, &step).await;
        if n == away
            && let Some(sidecar) = sidecar.take()
        {
            sidecar.stop();
        }
        if n == away + 10 {
            sidecar = Some(start(&site, world));
        }
        if n == restart {
            world.restart(if steps.below(2) == 0 { Stop::Term } else { Stop::Kill }).await;
        }
    }
    captured_all(world, &mut steps, sidecar.into_iter().collect()).await;
    let captured = Captured::of(&site).await;
    assert!(Reach::of(&captured).iter().all(|reach| reach.gap.is_none()));
    let trial = Trial { site: &site, seat, captured };
    trial.judge(world, &mut steps, MOMENTS, tally).await;
}

async fn histories(version: EtcdVersion, first: u64, count: u64) {
    let (mut world, seat, mut tally) = (World::alone(version).await, Seat::new("m0"), Tally::default());
    for seed in first..first + count {
        let _told = Told(format!("MODEL_SEED={first}, failed at seed {seed} with etcd {version:?}"));
        let begun = Instant::now();
        history(&mut world, &seat, seed, &mut tally).await;
        println!("{version:?}, seed {seed}: {:.1?}, at revision {}", begun.elapsed(), world.model().revision());
    }
    world.assert_hashes_are_the_models();
    println!("{version:?}: {tally:?}");
    assert!(tally.restores as u64 >= count * 6 && tally.answered > 0 && tally.floors.len() > 2, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_of_random_histories_of_etcd_3_4() {
    histories(EtcdVersion::V3_4, seed(3_400), HISTORIES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_of_random_histories_of_etcd_3_5() {
    histories(EtcdVersion::V3_5, seed(3_500), HISTORIES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_of_random_histories_of_etcd_3_6() {
    histories(EtcdVersion::V3_6, seed(3_600), HISTORIES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_of_random_histories_of_etcd_3_7() {
    histories(EtcdVersion::V3_7, seed(3_700), HISTORIES).await;
}

/// A history of three members with everything failing now and then: the sidecar is killed, members are, the store is.
struct Storm {
    world: World,
    server: S3Server,
    site: Site,
    seat: Seat,
    steps: Steps,
    sidecar: Option<Sidecar>,
    tally: Tally,
}

impl Storm {
    async fn begin(version: EtcdVersion, seat: Seat) -> Self {
        let server = S3Server::start(Mode::Plain, BUCKET).await;
        let site = Site::on(&server);
        let world = World::of_three(version).await;
        Self { world, server, site, seat, steps: Steps::new(0), sidecar: None, tally: Tally::default() }
    }

    async fn captured(&self) -> Captured {
        Captured::on(&self.server, &self.site).await
    }

    async fn fault(&mut self) {
        self.server.heal();
        let nth = 1 + self.steps.below(3) as u64;
        match self.steps.below(10) {
            0..3 => self.kill_sidecar().await,
            3 | 4 => {
                let place = self.steps.below(3);
                let how = if self.steps.below(3) == 0 { Stop::Term } else { Stop::Kill };
                self.world.take_down(place, how).await;
            }
            5 => self.world.start_again().await,
            6 => self.server.fail_nth(Operation::Put, nth, Act::Answer(503, "SlowDown")),
            7 => self.server.fail_nth(Operation::Put, nth, Act::LoseAnswer),
            8 => self.server.fail_all(Operation::Put, Act::Answer(503, "ServiceUnavailable")),
            _ => {
                self.server.fail_nth(Operation::List, nth, Act::Answer(503, "SlowDown"));
                self.server.fail_nth(Operation::Get, nth, Act::CutBody(100));
            }
        }
    }

    /// Whatever it said is durable can be restored right away, and another one goes on.
    async fn kill_sidecar(&mut self) {
        if let Some(sidecar) = self.sidecar.take() {
            let said = sidecar.kill9().stderr;
            if let Some((lineage, revision)) = durable_point(&said) {
                self.world.settled().await;
                let (model, lasting) = (self.world.model(), BTreeSet::new());
                let source = Source { model: &model, noted: &self.world.noted, lasting: &lasting };
                let bench = Bench::new(&self.site, self.seat.clone());
                // Nothing where etcd compacted past the seam while the full was taken: the archive then begins later.
                self.tally.restores += usize::from(bench.compare(&lineage, revision, &[], &source).is_some());
            }
        }
        if self.steps.below(2) == 0 {
            // It is away for a while.
            for _ in 0..10 {
                let step = self.steps.step();
                self.world.perform(&self.steps, &step).await;
            }
        }
        self.sidecar = Some(start(&self.site, &self.world));
    }

    async fn history(&mut self, seed: u64) {
        self.steps = Steps::new(seed);
        for n in 0..STEPS {
            if n % CALM == 0 {
                self.fault().await;
            }
            if self.sidecar.is_none() {
                self.sidecar = Some(start(&self.site, &self.world));
            }
            let step = self.steps.step();
            self.world.perform(&self.steps, &step).await;
        }
        self.server.heal();
        self.world.start_again().await;
        let sidecars: Vec<Sidecar> = self.sidecar.take().into_iter().collect();
        captured_all(&mut self.world, &mut self.steps, sidecars).await;
        let trial = Trial { site: &self.site, seat: &self.seat, captured: self.captured().await };
        trial.judge(&mut self.world, &mut self.steps, MOMENTS, &mut self.tally).await;
    }
}

async fn storms(version: EtcdVersion, first: u64, count: u64) {
    let seat = Seat::new("m0");
    let mut storm = Storm::begin(version, seat).await;
    for seed in first..first + count {
        let _told = Told(format!("MODEL_SEED={first}, failed at seed {seed} with three members of etcd {version:?}"));
        storm.history(seed).await;
        // The next one has a store of its own.
        storm.server = S3Server::start(Mode::Plain, BUCKET).await;
        let server = &storm.server;
        storm.site = Site::on(server);
    }
    storm.world.assert_hashes_are_the_models();
    println!("three members of {version:?}: {:?}", storm.tally);
    assert!(storm.tally.restores > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_of_histories_in_which_everything_is_killed() {
    storms(EtcdVersion::V3_6, seed(20), 2).await;
}

/// Two sidecars write one prefix; one of them is killed and revived all the time.
async fn two_sidecars(version: EtcdVersion, seed: u64, span: Duration, count: usize) {
    let _told = Told(format!("MODEL_SEED={seed}, two sidecars and etcd {version:?}"));
    let (mut world, site, mut steps) = (World::alone(version).await, Site::local(), Steps::new(seed));
    let constant = start(&site, &world);
    let mut other = start(&site, &world);
    let (begun, mut kills) = (Instant::now(), 0);
    while begun.elapsed() < span {
        for _ in 0..10 + steps.below(60) {
            let step = steps.step();
            world.perform(&steps, &step).await;
        }
        if steps.below(2) == 0 {
            other.said("lineage", 1).await;
        }
        other.kill9();
        kills += 1;
        for _ in 0..steps.below(30) {
            let step = steps.step();
            world.perform(&steps, &step).await;
        }
        other = start(&site, &world);
    }
    captured_all(&mut world, &mut steps, vec![constant, other]).await;
    let (captured, seat, mut tally) = (Captured::of(&site).await, Seat::new("m0"), Tally::default());
    let trial = Trial { site: &site, seat: &seat, captured };
    trial.judge(&mut world, &mut steps, count, &mut tally).await;
    println!("two sidecars, {kills} kills: {tally:?}");
    assert!(kills > 0 && tally.restores > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sidecars_of_which_one_is_killed_all_the_time() {
    two_sidecars(EtcdVersion::V3_7, seed(7), Duration::from_secs(10), 30).await;
}

/// Histories of all versions and kinds in turns, each group on new members.
#[tokio::test(flavor = "multi_thread")]
async fn soak() {
    const GROUP: u64 = 5;
    let Some(count) = number("SOAK_HISTORIES") else { return };
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let first = seed(clock);
    println!("MODEL_SEED={first}");
    for (turn, seed) in (first..first + count).step_by(GROUP as usize).enumerate() {
        let version = EtcdVersion::MINORS[turn % 4];
        let (begun, group) = (Instant::now(), GROUP.min(first + count - seed));
        if turn / 4 % 2 == 0 {
            histories(version, seed, group).await;
        } else {
            storms(version, seed, group).await;
        }
        println!("{group} histories from seed {seed} in {:.0?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_with_two_sidecars() {
    let Some(seconds) = number("SOAK_SECONDS") else { return };
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    two_sidecars(EtcdVersion::V3_6, seed(clock), Duration::from_secs(seconds), 500).await;
}
