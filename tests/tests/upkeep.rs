//! A sidecar that rolls up and sweeps by itself, beside a real etcd: capture does not notice, and everything restores.

use std::time::{Duration, Instant};

use etcd_client::Client;
use etcdbr_engine::format::NameKind;
use etcdbr_tests::database::Database;
use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::keyspace::{current_revision, hash_kv};
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site};
use etcdbr_tests::sidecar::{Captured, Sidecar};

/// The shortest that make sense: a window is left alone for fifteen seconds after its end.
const SHORT: [&str; 3] = ["--rollup-periods=2s", "--garbage-collection-period=1100ms", "--covered-delta-grace=0s"];

/// So many puts, each durable before the next one: a delta each.
async fn write(client: &mut Client, sidecar: &mut Sidecar, puts: std::ops::Range<i64>) -> i64 {
    for i in puts {
        client.put(format!("/kept/{}", i % 7), format!("{i}"), None).await.unwrap();
        sidecar.durable(current_revision(client).await).await;
    }
    current_revision(client).await
}

/// Deltas that have records.
fn deltas(captured: &Captured) -> Vec<(i64, i64)> {
    let [lineage] = captured.lineages()[..] else { panic!("there is one lineage") };
    let range = |kind| match kind {
        NameKind::Delta { first, last } if first <= last => Some((first.0, last.0)),
        _ => None,
    };
    lineage.backups.iter().filter_map(|entry| range(entry.name.kind)).collect()
}

/// What is captured already by the time that it is swept goes on being whole.
async fn assert_restores(site: &Site, client: &mut Client, revisions: impl Iterator<Item = i64>) {
    for revision in revisions {
        let dir = site.path(&format!("at-{revision}"));
        site.command(&["restore", "--revision", &revision.to_string()]).arg("--data-dir").arg(&dir).succeed();
        let expected = hash_kv(client, revision).await;
        assert_eq!(Database::in_dir(&dir).hash_kv(revision, expected.compact_revision), expected, "at {revision}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn narrow_deltas_vanish_by_themselves_and_everything_restores() {
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_6).await);
    let mut client = etcd.client().await;
    client.put("/before", "x", None).await.unwrap();
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &SHORT);
    sidecar.opened(1).await;
    let before = current_revision(&mut client).await;
    write(&mut client, &mut sidecar, 0..30).await;
    sidecar.said("rolled up ", 1).await;
    // What rollups hold goes when two sweeps have found it; a sweep needs something that was stored since.
    let begun = Instant::now();
    let mut puts = 30;
    let last = loop {
        puts += 1;
        let last = write(&mut client, &mut sidecar, puts - 1..puts).await;
        let left = deltas(&Captured::of(&site).await);
        let early = left.iter().filter(|(first, _)| *first <= before + 30).count();
        if early < 15 && left.iter().any(|(first, last)| last > first) {
            break last;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{left:?}\n{}", sidecar.words());
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(sidecar.times("swept: ") > 0, "{}", sidecar.words());
    let outcome = sidecar.stop();
    assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    let captured = Captured::of(&site).await;
    let (_, records) = captured.records(captured.lineages()[0]).await;
    assert_eq!(records.last().map(|record| record.main.0), Some(last));
    assert_restores(&site, &mut client, [before, before + 7, before + 29, last].into_iter()).await;
    site.command(&["verify", "--all"]).succeed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_upkeep_does_not_disturb_capture() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    client.put("/before", "x", None).await.unwrap();
    let mut sidecar =
        Sidecar::start_with(&site, &[etcd.endpoint()], &[&SHORT[..], &["--metrics-addr=127.0.0.1:0"]].concat());
    sidecar.opened(1).await;
    let before = current_revision(&mut client).await;
    // It may not list, and what asks for a removal waits for ever.
    server.fail_all(Operation::List, Act::Answer(503, "SlowDown"));
    server.fail_all(Operation::Delete, Act::Silence);
    write(&mut client, &mut sidecar, 0..20).await;
    sidecar.said("a sweep has failed, and is tried again in ", 1).await;
    sidecar.said("a rollup has failed, and is tried again in ", 1).await;
    write(&mut client, &mut sidecar, 20..25).await;
    assert_eq!(sidecar.times("capture pauses"), 0, "{}", sidecar.words());
    server.heal();
    server.fail_all(Operation::Delete, Act::Silence);
    sidecar.said("rolled up ", 1).await;
    // Two sweeps later removals are asked for, and nothing answers: capture goes on, and so does a shutdown.
    let begun = Instant::now();
    let mut puts = 25;
    while server.count(Operation::Delete) == 0 {
        puts += 1;
        write(&mut client, &mut sidecar, puts - 1..puts).await;
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", sidecar.words());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let last = write(&mut client, &mut sidecar, puts..puts + 5).await;
    let outcome = sidecar.stop();
    assert_eq!(outcome.stderr.matches("capture pauses").count(), 0, "{}", outcome.stderr);
    server.heal();
    assert_restores(&site, &mut client, [before, before + 9, last].into_iter()).await;
}

/// Fulls alone are swept, too: of those that were taken only the newest stay.
#[tokio::test(flavor = "multi_thread")]
async fn fulls_alone_are_swept_as_well() {
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_6).await);
    for _ in 0..3 {
        site.backup(&etcd);
    }
    let flags = ["--garbage-collection-policy=LimitBased", "-m=2", "--schedule=* * * * *"];
    let mut sidecar = Sidecar::start_every(&site, &[etcd.endpoint()], "0", &[&SHORT[1..], &flags].concat());
    // The newest full is not of this minute for long.
    sidecar.said("is durable", 1).await;
    sidecar.said("swept: 2 objects deleted, 0 refused", 1).await;
    sidecar.stop();
    assert_eq!(Captured::of(&site).await.lineages().len(), 2);
    site.command(&["verify"]).succeed();
}
