//! Rollups and retention with a real etcd: what the command line makes of a captured archive is restored, gone on with, and
//! kept as was asked.

use std::time::{Duration, Instant};

use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::keyspace::current_revision;
use etcdbr_tests::load::mixed_history;
use etcdbr_tests::scenario::Site;
use etcdbr_tests::sidecar::{Captured, Sidecar};
use serde_json::Value;

fn len(value: &Value) -> usize {
    value.as_array().unwrap_or_else(|| panic!("{value}")).len()
}

fn json(site: &Site, args: &[&str]) -> Value {
    site.command(args).arg("--output=json").succeed().json()
}

/// Rolls up by the second, once what was captured has settled.
async fn roll(site: &Site) -> usize {
    let started = Instant::now();
    loop {
        if len(&json(site, &["rollup", "--rollup-periods=1s,10s", "--dry-run"])["planned"]) == 0 {
            assert!(started.elapsed() < Duration::from_secs(120), "nothing is ever rolled up");
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        }
        return len(&json(site, &["rollup", "--rollup-periods=1s,10s"])["written"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_up_and_swept_is_restored_and_gone_on_with() {
    let site = Site::local();
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    client.put("/before", "x", None).await.unwrap();
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    for _ in 0..3 {
        mixed_history(&mut client).await;
        sidecar.durable(current_revision(&mut client).await).await;
    }
    sidecar.stop();
    let before = Captured::of(&site).await;
    let lineage = before.lineages()[0];
    let (records, objects) = (before.records(lineage).await, lineage.backups.len());
    assert!(objects > 5, "{objects}");

    assert!(roll(&site).await > 0);
    // No key, no footers: nothing is known to be covered.
    let blind = site.unkeyed(&["gc", "--covered-delta-grace=0", "--output=json"]).succeed().json();
    assert_eq!(len(&blind["deleted"]), 0);
    let planned = json(&site, &["gc", "--covered-delta-grace=0", "--dry-run"]);
    let covered = |object: &&Value| object["reason"].as_str().unwrap().starts_with("covered by");
    assert!(planned["objects"].as_array().unwrap().iter().filter(covered).count() > 3, "{planned}");
    let swept = json(&site, &["gc", "--covered-delta-grace=0"]);
    assert!(len(&swept["deleted"]) > 3 && len(&swept["refused"]) == 0, "{swept}");
    let after = Captured::of(&site).await;
    let lineage = after.lineages()[0];
    assert!(lineage.backups.len() < objects, "{} of {objects}", lineage.backups.len());
    assert!(after.records(lineage).await == records, "other records than before");

    let restored = site.restore_alone(EtcdVersion::V3_6, "rolled");
    assert_eq!(restored.json["revision"], current_revision(&mut client).await);

    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.said("going on with lineage", 1).await;
    mixed_history(&mut client).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    assert_eq!(Captured::of(&site).await.lineages().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_keep_so_many_fulls() {
    let site = Site::local();
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    for _ in 0..4 {
        site.backup(&etcd);
    }
    let keep_two = ["gc", "--garbage-collection-policy=LimitBased", "-m=2"];
    let planned = json(&site, &[&keep_two[..], &["--dry-run"]].concat());
    let reasons: Vec<_> =
        planned["objects"].as_array().unwrap().iter().map(|object| object["decision"].clone()).collect();
    assert_eq!(reasons, ["delete", "delete", "keep", "keep"]);
    assert_eq!(len(&json(&site, &["gc"])["deleted"]), 0, "a week is kept");
    assert_eq!(len(&json(&site, &keep_two)["deleted"]), 2);
    assert_eq!(len(&json(&site, &keep_two)["deleted"]), 0);
}
