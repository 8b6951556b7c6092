//! Retention by the command line, with backups of a real etcd.

use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::scenario::Site;
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
