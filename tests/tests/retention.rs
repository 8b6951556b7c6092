//! Retention by the command line, with backups of a real etcd.

use etcdbr_tests::database::Database;
use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat};
use etcdbr_tests::keyspace::{current_revision, hash_kv};
use etcdbr_tests::scenario::Site;
use etcdbr_tests::sidecar::{Captured, Sidecar};
use serde_json::Value;

fn len(value: &Value) -> usize {
    value.as_array().unwrap_or_else(|| panic!("{value}")).len()
}

fn json(site: &Site, args: &[&str]) -> Value {
    site.command(args).arg("--output=json").succeed().json()
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

/// Narrow deltas become wide ones and go; the sidecar goes on with the lineage behind them, and every moment restores.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_goes_on_behind_rollups() {
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_6).await);
    let mut client = etcd.client().await;
    client.put("/before", "x", None).await.unwrap();
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    for i in 0..40 {
        client.put(format!("/rolled/{}", i % 7), format!("{i}"), None).await.unwrap();
        sidecar.durable(current_revision(&mut client).await).await;
    }
    sidecar.stop();
    let before = Captured::of(&site).await;
    let deltas = |captured: &Captured| captured.lineages()[0].backups.len();
    assert!(deltas(&before) > 30, "{}", deltas(&before));
    // A window is left alone for a while after its end.
    let begun = std::time::Instant::now();
    while deltas(&Captured::of(&site).await) == deltas(&before) {
        assert!(begun.elapsed() < std::time::Duration::from_secs(120), "nothing was rolled up");
        site.command(&["rollup", "--rollup-periods=1s"]).succeed();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let swept = site.command(&["gc", "--covered-delta-grace=0s", "--output=json"]).succeed().stdout;
    let after = deltas(&Captured::of(&site).await);
    assert!(after < deltas(&before), "{after} are left: {swept}");

    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.said("going on with lineage", 1).await;
    for i in 0..10 {
        client.put(format!("/later/{i}"), "x", None).await.unwrap();
    }
    let revision = current_revision(&mut client).await;
    sidecar.durable(revision).await;
    sidecar.stop();
    let captured = Captured::of(&site).await;
    assert_eq!(captured.lineages().len(), 1);
    captured.records(captured.lineages()[0]).await;
    let seat = Seat::new("m0");
    for target in [revision, revision - 5, revision - 20, revision - 41] {
        let dir = site.path(&target.to_string());
        site.restore(std::slice::from_ref(&seat), 0, &dir).args(["--revision", &target.to_string()]).succeed();
        let expected = hash_kv(&mut client, target).await;
        assert_eq!(Database::in_dir(&dir).hash_kv(target, expected.compact_revision), expected, "at {target}");
    }
    site.command(&["verify", "--all"]).succeed();
}
