//! Fulls inside the lineage that is being captured: they are of its history, restores begin with the right one, and
//! capture goes on whatever becomes of them.

use etcd_client::Client;
use etcdbr_engine::archive::Lineage;
use etcdbr_engine::format::NameKind;
use etcdbr_tests::accounts::Accounts;
use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat};
use etcdbr_tests::keyspace::{Keyspace, current_revision};
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Picture, Site, write_history};
use etcdbr_tests::sidecar::{Captured, Sidecar};

/// A full after a few of the deltas of [`put_much`].
const OFTEN: &str = "--full-after-deltas-bytes=100KiB";

/// Values that do not compress: 200 of them make more than 100 KiB.
async fn put_much(client: &mut Client, range: std::ops::Range<u64>) {
    for i in range {
        let value = noise(i * 128, 128);
        client.put(format!("/much/{:03}", i % 60), value, None).await.unwrap();
    }
}

fn seams(lineage: &Lineage) -> Vec<i64> {
    let seam = |kind| if let NameKind::Full { seam } = kind { Some(seam.0) } else { None };
    let mut seams: Vec<_> = lineage.backups.iter().filter_map(|entry| seam(entry.name.kind)).collect();
    seams.sort_unstable();
    seams
}

fn deltas(lineage: &Lineage) -> Vec<(i64, i64)> {
    let range = |kind| if let NameKind::Delta { first, last } = kind { Some((first.0, last.0)) } else { None };
    lineage.backups.iter().filter_map(|entry| range(entry.name.kind)).collect()
}

/// What a dry run would restore: the revision of the full that it begins with.
fn base(site: &Site, revision: i64) -> i64 {
    let run = site.command(&["restore", "--dry-run", "--output=json", "--revision", &revision.to_string()]);
    let json = run.arg("--data-dir").arg(site.path("never")).succeed().json();
    let backup = json["backup"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned();
    backup.rsplit('/').next().unwrap().split('-').next().unwrap().parse().unwrap()
}

/// A restore to `picture`'s revision is what it shows.
async fn assert_restores(site: &Site, version: EtcdVersion, picture: &Keyspace, name: &str) {
    let (seat, dir) = (Seat::new("m0"), site.path(name));
    let run = site.restore(std::slice::from_ref(&seat), 0, &dir);
    run.args(["--revision", &picture.revision.to_string()]).succeed();
    let mut etcd = Etcd::builder(version).seat(seat).data_dir(&dir).start().await;
    let seen = Keyspace::read(&mut etcd.client().await).await;
    assert_eq!(seen.revision, picture.revision);
    assert!(seen.entries == picture.entries, "{name} is another keyspace");
    etcd.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn fulls_inside_a_lineage_are_of_its_history() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_6] {
        let site = Site::local();
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        write_history(&mut client, 50).await;
        let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &[OFTEN]);
        sidecar.opened(1).await;
        let mut pictures = vec![Keyspace::read(&mut client).await];
        // Written while fulls are taken: most of their seams lie inside a delta.
        let mut written = 0;
        for fulls in 1..=3 {
            while sidecar.times("is durable") < fulls {
                put_much(&mut client, written..written + 20).await;
                written += 20;
            }
            pictures.push(Keyspace::read(&mut client).await);
            put_much(&mut client, written..written + 5).await;
            written += 5;
        }
        pictures.push(Keyspace::read(&mut client).await);
        sidecar.durable(current_revision(&mut client).await).await;
        sidecar.stop();
        let captured = Captured::of(&site).await;
        let [lineage] = captured.lineages()[..] else { panic!("there is one lineage") };
        let seams = seams(lineage);
        assert!(seams.len() >= 4, "{seams:?}");
        let spans = |seam: &&i64| deltas(lineage).iter().any(|(first, last)| first <= *seam && *seam < last);
        assert!(seams[1..].iter().filter(spans).count() > 0, "no delta spans a seam: {seams:?}");
        captured.assert_fulls_meet_deltas(lineage).await;
        for (n, picture) in pictures.iter().enumerate() {
            let newest = seams.iter().filter(|seam| **seam <= picture.revision).max().unwrap();
            assert_eq!(base(&site, picture.revision), *newest);
            assert_restores(&site, version, picture, &format!("{n}")).await;
        }
        // The newest moment, and one that the second full alone leads to: its own seam.
        let seam = seams[1];
        let keyspace = Keyspace::read_at(&mut client, seam).await;
        assert_restores(&site, version, &keyspace, "seam").await;
        assert_restores(&site, version, &Keyspace::read_at(&mut client, seam - 1).await, "before").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_roles_that_change_are_in_a_full_of_the_same_lineage() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_7] {
        let site = Site::local();
        let mut etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        put_much(&mut client, 0..20).await;
        let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
        sidecar.opened(1).await;
        put_much(&mut client, 20..30).await;
        sidecar.durable(current_revision(&mut client).await).await;
        let before = Keyspace::read(&mut client).await;
        client.role_add("later").await.unwrap();
        client.user_add("late", "x", None).await.unwrap();
        client.user_grant_role("late", "later").await.unwrap();
        // It looks once a minute, and whenever it connects.
        etcd.restart().await;
        sidecar.said("is durable", 1).await;
        // And with nothing written since: the seam is the position. This time the sidecar was away.
        sidecar.stop();
        let mut client = etcd.client().await;
        client.role_add("last").await.unwrap();
        let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
        sidecar.said("going on with lineage", 1).await;
        sidecar.said("is durable", 1).await;
        put_much(&mut client, 30..40).await;
        sidecar.durable(current_revision(&mut client).await).await;
        sidecar.stop();
        let captured = Captured::of(&site).await;
        let [lineage] = captured.lineages()[..] else { panic!("there is one lineage") };
        assert_eq!(seams(lineage).len(), 3);
        let picture = Picture::of(&mut client).await;
        assert!(picture.accounts.roles.contains_key("last"));
        let restored = site.restore_alone(version, "latest");
        assert_eq!(restored.json["revision"], picture.keyspace.revision);
        let revived = restored.etcd.start().await;
        let mut revived = revived.client().await;
        assert_eq!(Accounts::read(&mut revived).await, picture.accounts);
        assert!(Keyspace::read(&mut revived).await.entries == picture.keyspace.entries);
        assert_restores(&site, version, &before, "before").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_a_full_it_goes_on_and_takes_another() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    put_large(&mut client).await;
    let flags = ["--min-chunk-size=5MiB", OFTEN];
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &flags);
    sidecar.opened(1).await;
    let uploads = server.count(Operation::Create);
    let parts = server.count(Operation::Part);
    server.fail_all(Operation::Part, Act::Silence);
    put_much(&mut client, 0..200).await;
    until(|| server.count(Operation::Part) > parts).await;
    // Deltas do not wait for it.
    put_much(&mut client, 200..220).await;
    sidecar.durable(current_revision(&mut client).await).await;
    let said = sidecar.durable_revision();
    sidecar.kill9();
    assert!(server.count(Operation::Create) > uploads && !server.pending().is_empty());
    server.heal();
    put_much(&mut client, 220..230).await;
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &flags);
    sidecar.said("going on with lineage", 1).await;
    // What the killed one owes is still due.
    sidecar.said("is durable", 1).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    let captured = Captured::on(&server, &site).await;
    let [lineage] = captured.lineages()[..] else { panic!("there is one lineage") };
    assert_eq!(seams(lineage).len(), 2);
    captured.assert_fulls_meet_deltas(lineage).await;
    let keyspace = Keyspace::read_at(&mut client, said).await;
    assert_restores(&site, EtcdVersion::V3_6, &keyspace, "said").await;
    assert_restores(&site, EtcdVersion::V3_6, &Keyspace::read(&mut client).await, "latest").await;
}

/// The parts of a full go up while no delta does; it is not there before they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_waits_for_the_deltas_up_to_its_seam() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_7).await;
    let mut client = etcd.client().await;
    put_large(&mut client).await;
    let flags = ["--min-chunk-size=5MiB", OFTEN];
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &flags);
    sidecar.opened(1).await;
    let parts = server.count(Operation::Part);
    server.fail_all(Operation::Put, Act::Answer(503, "SlowDown"));
    put_much(&mut client, 0..200).await;
    sidecar.said("streaming", 2).await;
    until(|| server.count(Operation::Part) >= parts * 2).await;
    // Time in which it could have been completed.
    let puts = server.count(Operation::Put);
    until(|| server.count(Operation::Put) >= puts + 20).await;
    let fulls = |server: &S3Server| server.keys().iter().filter(|key| key.contains("/full/")).count();
    assert_eq!((fulls(&server), server.pending().len()), (1, 1));
    server.heal();
    sidecar.said("is durable", 1).await;
    assert_eq!(fulls(&server), 2);
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    let captured = Captured::on(&server, &site).await;
    let [lineage] = captured.lineages()[..] else { panic!("there is one lineage") };
    captured.assert_fulls_meet_deltas(lineage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_is_due_has_its_full_in_the_same_lineage() {
    let site = Site::local();
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    put_much(&mut client, 0..5).await;
    let flags = ["--schedule=* * * * *", "--schedule-time-zone=Europe/Berlin", "--schedule-jitter=1s"];
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &flags);
    sidecar.opened(1).await;
    put_much(&mut client, 5..10).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.said("is durable", 1).await;
    put_much(&mut client, 10..15).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    let captured = Captured::of(&site).await;
    let [lineage] = captured.lineages()[..] else { panic!("there is one lineage") };
    assert!(seams(lineage).len() >= 2);
    captured.assert_fulls_meet_deltas(lineage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_deltas_fulls_come_by_the_schedule_alone() {
    let site = Site::local();
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    put_much(&mut client, 0..5).await;
    let mut sidecar = Sidecar::start_every(&site, &[etcd.endpoint()], "0", &["--schedule=* * * * *"]);
    // The first one at once, as there is none; the next one within the minute.
    sidecar.said("is durable", 1).await;
    put_much(&mut client, 5..10).await;
    sidecar.said("is durable", 2).await;
    sidecar.stop();
    let captured = Captured::of(&site).await;
    let lineages = captured.lineages();
    assert_eq!(lineages.len(), 2);
    assert!(lineages.iter().all(|lineage| lineage.backups.len() == 1 && seams(lineage).len() == 1));
}

async fn put_large(client: &mut Client) {
    for i in 0..80u64 {
        let value = noise(i * 12_500, 12_500);
        client.put(format!("/large/{}", i % 20), value, None).await.unwrap();
    }
}

/// Numbers that do not compress.
fn noise(first: u64, count: u64) -> Vec<u8> {
    (first..first + count).flat_map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()).collect()
}

async fn until(reached: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !reached() {
        assert!(started.elapsed().as_secs() < 120, "it did not come about");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
