//! `etcdbr doctor` tells what is there and what is missing, each by its name, and leaves nothing behind.

use etcdbr_tests::accounts::{ALICE, ROOT, enable_auth};
use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::etcdbr::Outcome;
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site};
use serde_json::Value;

/// A finding as `verdict: what was seen`, by its question.
fn finding(outcome: &Outcome, question: &str) -> String {
    let json = outcome.json();
    let findings = json["findings"].as_array().expect("a list");
    let found: Vec<&Value> = findings.iter().filter(|finding| finding["question"] == question).collect();
    let [found] = found.as_slice() else { panic!("{question}: {findings:#?}") };
    format!("{}: {}", found["verdict"].as_str().unwrap(), found["seen"].as_str().unwrap())
}

fn doctor(site: &Site, flags: &[&str]) -> Outcome {
    site.command(&["doctor", "--output=json"]).args(flags).run()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_etcd_and_a_sound_store_are_called_good() {
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_7).await);
    site.backup(&etcd);
    let outcome = doctor(&site, &["--endpoints", &etcd.endpoint()]);
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    assert_eq!(outcome.json()["verdict"], "good", "{}", outcome.stdout);
    assert!(finding(&outcome, "version has no known faults").contains("3.7."), "{}", outcome.stdout);
    assert!(finding(&outcome, "newest backup opens").contains("/full/"));
    let left = std::fs::read_dir(site.path("archive").join("prod/etcdbr-doctor"));
    assert!(left.map_or(true, |mut left| left.next().is_none()), "something was left");
    let text = site.command(&["doctor", "--only=store"]).succeed().stdout;
    assert!(text.contains("good     store    ranges are answered exactly") && !text.contains("etcd  "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_an_old_etcd_are_named() {
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_5_1).await);
    let outcome = doctor(&site, &["--only=etcd", "--endpoints", &etcd.endpoint()]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let version = finding(&outcome, "version has no known faults");
    assert!(
        version.starts_with("warning") && version.contains("a watch can lose events after a compaction"),
        "{version}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_and_a_dead_cluster_are_told_apart() {
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_7).await);
    let dead = "http://127.0.0.1:1";
    let outcome = doctor(&site, &["--only=etcd", "--endpoints", dead]);
    assert_eq!(outcome.code, Some(4), "{}", outcome.stdout);
    assert!(finding(&outcome, "a member can be used").starts_with("bad"));
    let outcome = doctor(&site, &["--only=etcd", "--endpoints", &format!("{dead},{}", etcd.endpoint())]);
    assert_eq!(outcome.code, Some(4), "{}", outcome.stdout);
    assert!(finding(&outcome, "a member can be used").starts_with("good"));
    assert!(finding(&outcome, "has a quorum").starts_with("good"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_not_root_is_told_what_he_may_not() {
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_6).await);
    enable_auth(&mut etcd.client().await).await;
    let as_user = |(user, password): (&str, &str)| {
        let run = site.command(&["doctor", "--output=json", "--only=etcd", "--endpoints", &etcd.endpoint()]);
        run.args(["--etcd-username", user, "--etcd-password", password]).run()
    };
    let outcome = as_user(ALICE);
    assert_eq!(outcome.code, Some(4), "{}", outcome.stdout);
    assert!(finding(&outcome, "snapshots may be taken").starts_with("bad"), "{}", outcome.stdout);
    assert!(finding(&outcome, "everything may be watched").starts_with("bad"), "{}", outcome.stdout);
    assert_eq!(as_user(ROOT).code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_is_told() {
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_7).await);
    site.backup(&etcd);
    let outcome = site.unkeyed(&["doctor", "--output=json", "--only=store"]).run();
    assert_eq!(outcome.code, Some(4), "{}", outcome.stdout);
    assert!(finding(&outcome, "keys are those of the archive").starts_with("bad"), "{}", outcome.stdout);
    assert!(finding(&outcome, "newest backup opens").starts_with("bad"), "{}", outcome.stdout);
}

async fn s3() -> (S3Server, Site) {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    (server, site)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_nothing_is_told() {
    let (server, site) = s3().await;
    server.fail_all(Operation::Put, Act::Answer(403, "AccessDenied"));
    let outcome = doctor(&site, &["--only=store"]);
    assert_eq!(outcome.code, Some(4), "{}", outcome.stdout);
    assert!(finding(&outcome, "objects may be written").starts_with("bad"));
    assert!(server.keys().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_who_may_not_delete_is_told_what_was_left() {
    let (server, site) = s3().await;
    server.fail_all(Operation::Delete, Act::Answer(403, "AccessDenied"));
    let outcome = doctor(&site, &["--only=store"]);
    let removed = finding(&outcome, "objects may be removed");
    assert!(removed.starts_with("warning") && removed.contains("prod/etcdbr-doctor/"), "{removed}");
    assert!(server.keys().iter().all(|key| key.starts_with("prod/etcdbr-doctor/")), "{:?}", server.keys());
}

/// That of this server stands still, far in the past.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_far_off_is_told() {
    let (server, site) = s3().await;
    let outcome = doctor(&site, &["--only=store"]);
    assert!(finding(&outcome, "clocks agree").starts_with("bad"), "{}", outcome.stdout);
    assert!(finding(&outcome, "versions are told apart").starts_with("good"), "{}", outcome.stdout);
    assert!(finding(&outcome, "uploads may be aborted").starts_with("good"), "{}", outcome.stdout);
    assert_eq!((server.keys(), server.pending()), (vec![], vec![]));
}
