//! What the sidecar shows to Prometheus and to a supervisor.

use std::time::Duration;

use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::keyspace::current_revision;
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site, assert_failed};
use etcdbr_tests::sidecar::Sidecar;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Status and body of an answer.
pub(crate) async fn ask(addr: &str, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split_whitespace().nth(1).unwrap().parse().unwrap(), body.to_owned())
}

pub(crate) async fn figure(addr: &str, name: &str) -> Option<f64> {
    let (status, text) = ask(addr, "GET", "/metrics").await;
    assert_eq!(status, 200, "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(line.parse().unwrap())
}

/// The same, once it is known.
pub(crate) async fn shown(addr: &str, name: &str) -> f64 {
    let waiting = async {
        loop {
            match figure(addr, name).await {
                Some(figure) => return figure,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("{name} is not shown"))
}

/// Where the sidecar says that it answers.
pub(crate) async fn address(sidecar: &mut Sidecar) -> String {
    sidecar.said("metrics are at http://", 1).await;
    let said = sidecar.words();
    let rest = said.split_once("metrics are at http://").unwrap().1;
    rest.split_once("/metrics").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_and_what_waits_is_shown() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &["--metrics-addr=127.0.0.1:0"]);
    let addr = address(&mut sidecar).await;
    sidecar.opened(1).await;
    client.put("/a", "x", None).await.unwrap();
    let revision = current_revision(&mut client).await;
    sidecar.durable(revision).await;
    assert_eq!(figure(&addr, "etcdbr_durable_revision").await, Some(revision as f64));
    assert!(figure(&addr, "etcdbr_durable_age_seconds").await.is_some_and(|age| age < 120.0));
    assert_eq!(figure(&addr, "etcdbr_snapshot_latest_revision{kind=\"Incr\"}").await, Some(revision as f64));

    server.fail_all(Operation::Put, Act::Answer(503, "SlowDown"));
    client.put("/b", "x", None).await.unwrap();
    sidecar.said("waits for the store", 1).await;
    assert!(figure(&addr, "etcdbr_waiting_bytes").await.is_some_and(|bytes| bytes > 0.0));
    assert!(figure(&addr, "etcdbr_retries_total{what=\"delta\"}").await.is_some_and(|retries| retries > 0.0));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(&addr, "GET", path).await.0, 200, "a store that is down takes etcd out of service: {path}");
    }
    server.heal();
    sidecar.durable(current_revision(&mut client).await).await;
    assert_eq!(figure(&addr, "etcdbr_waiting_bytes").await, Some(0.0));
    assert_eq!(figure(&addr, "etcdbr_stored_objects_total{kind=\"Full\"}").await, Some(1.0));
    assert!(figure(&addr, "etcdbr_stored_objects_total{kind=\"Incr\"}").await.is_some_and(|deltas| deltas >= 2.0));
    assert!(figure(&addr, "etcdbr_stored_bytes_total{kind=\"Incr\"}").await.is_some_and(|bytes| bytes > 200.0));
    for (kind, succeeded) in [("Full", true), ("Incr", true), ("Incr", false)] {
        let name = format!("etcdbr_snapshot_duration_seconds_count{{kind=\"{kind}\",succeeded=\"{succeeded}\"}}");
        assert!(figure(&addr, &name).await.is_some_and(|attempts| attempts >= 1.0), "{name}");
    }
    assert_eq!(ask(&addr, "GET", "/other").await.0, 404);
    assert_eq!(ask(&addr, "POST", "/metrics").await.0, 405);
    sidecar.stop();
}

/// Fulls that were begun for `reason`.
async fn fulls(addr: &str, reason: &str) -> f64 {
    figure(addr, &format!("etcdbr_fulls_total{{reason=\"{reason}\"}}")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_cannot_be_gone_on_with_is_shown() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    let start = || Sidecar::start_with(&site, &[etcd.endpoint()], &["--metrics-addr=127.0.0.1:0"]);
    let mut sidecar = start();
    let addr = address(&mut sidecar).await;
    sidecar.opened(1).await;
    client.put("/a", "x", None).await.unwrap();
    let stored = current_revision(&mut client).await;
    sidecar.durable(stored).await;
    let first = figure(&addr, "etcdbr_lineage_birth_timestamp_seconds").await.unwrap();
    assert!(figure(&addr, "etcdbr_lineage_proven_timestamp_seconds").await.is_some_and(|proven| proven >= first));
    assert_eq!((fulls(&addr, "first").await, fulls(&addr, "compacted").await), (1.0, 0.0));
    sidecar.stop();

    // What follows is proven by a put, and shown at once.
    server.fail_all(Operation::Put, Act::Answer(503, "SlowDown"));
    let mut sidecar = start();
    let addr = address(&mut sidecar).await;
    sidecar.said("going on with lineage", 1).await;
    // It is durable after a restart as well, before anything else is.
    assert_eq!(shown(&addr, "etcdbr_durable_revision").await, stored as f64);
    server.heal();
    client.put("/a", "y", None).await.unwrap();
    sidecar.durable(current_revision(&mut client).await).await;
    assert_eq!(figure(&addr, "etcdbr_lineage_birth_timestamp_seconds").await, Some(first));
    assert!(figure(&addr, "etcdbr_snapshot_latest_revision{kind=\"Full\"}").await.is_some_and(|seam| seam >= 1.0));
    assert_eq!(fulls(&addr, "first").await, 0.0);
    sidecar.stop();

    for value in ["1", "2", "3"] {
        client.put("/a", value, None).await.unwrap();
    }
    let newest = current_revision(&mut client).await;
    client.compact(newest, None).await.unwrap();
    let mut sidecar = start();
    let addr = address(&mut sidecar).await;
    sidecar.opened(1).await;
    client.put("/a", "z", None).await.unwrap();
    sidecar.durable(current_revision(&mut client).await).await;
    assert_eq!((fulls(&addr, "first").await, fulls(&addr, "compacted").await), (0.0, 1.0));
    assert!(figure(&addr, "etcdbr_lineage_birth_timestamp_seconds").await.is_some_and(|birth| birth > first));
    sidecar.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_that_fails_is_due_until_one_is_there() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    client.put("/a", "x", None).await.unwrap();
    server.fail_all(Operation::Put, Act::Answer(503, "SlowDown"));
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &["--metrics-addr=127.0.0.1:0"]);
    let addr = address(&mut sidecar).await;
    sidecar.said("capture pauses", 1).await;
    let failed = "etcdbr_snapshot_duration_seconds_count{kind=\"Full\",succeeded=\"false\"}";
    assert_eq!(figure(&addr, failed).await, Some(1.0));
    assert_eq!(figure(&addr, "etcdbr_snapshot_required{kind=\"Full\"}").await, Some(1.0));
    assert_eq!(figure(&addr, "etcdbr_durable_revision").await, None);
    server.heal();
    sidecar.opened(1).await;
    client.put("/a", "y", None).await.unwrap();
    sidecar.durable(current_revision(&mut client).await).await;
    assert_eq!(figure(&addr, "etcdbr_snapshot_required{kind=\"Full\"}").await, Some(0.0));
    assert_eq!(fulls(&addr, "first").await, 1.0);
    assert!(fulls(&addr, "full-failed").await >= 1.0);
    assert!(figure(&addr, "etcdbr_retries_total{what=\"session\"}").await.is_some_and(|retries| retries >= 1.0));
    sidecar.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn fulls_without_deltas_are_shown_as_well() {
    let site = Site::local();
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let flags = ["--schedule=0 0 1 1 *", "--metrics-addr=127.0.0.1:0"];
    let start = || Sidecar::start_every(&site, &[etcd.endpoint()], "0", &flags);
    let mut sidecar = start();
    let addr = address(&mut sidecar).await;
    sidecar.said("is durable", 1).await;
    let seam = shown(&addr, "etcdbr_snapshot_latest_revision{kind=\"Full\"}").await;
    sidecar.stop();
    let mut sidecar = start();
    let addr = address(&mut sidecar).await;
    assert_eq!(shown(&addr, "etcdbr_snapshot_latest_revision{kind=\"Full\"}").await, seam);
    assert_eq!(figure(&addr, "etcdbr_snapshot_required{kind=\"Full\"}").await, Some(0.0));
    assert_eq!(figure(&addr, "etcdbr_stored_objects_total{kind=\"Full\"}").await, Some(0.0));
    assert!(ask(&addr, "GET", "/metrics").await.1.contains("etcdbr_build_info{version="));
    sidecar.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_refused_before_anything_is_done() {
    let site = Site::local();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let run = site.command(&["snapshot", "--endpoints=http://127.0.0.1:1", "--metrics-addr", &addr]).run();
    assert_failed(&run, 9, &["--metrics-addr", &addr]);
}
