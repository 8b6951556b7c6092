//! Archives that earlier versions wrote, kept as they are: whoever changes the format by accident is told here.

use std::path::{Path, PathBuf};

use etcdbr_engine::format::FORMAT_VERSION;
use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat, initial_cluster};
use etcdbr_tests::etcdbr::Etcdbr;

fn frozen() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/archive")
}

#[test]
fn every_format_version_has_a_frozen_archive() {
    let mut versions: Vec<_> = std::fs::read_dir(frozen()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    versions.sort();
    let expected: Vec<_> =
        (1..=FORMAT_VERSION).map(|version| format!("v{version}").into()).collect::<Vec<std::ffi::OsString>>();
    assert_eq!(versions, expected);
}

#[tokio::test]
async fn frozen_archives_are_sound_and_restore() {
    for version in std::fs::read_dir(frozen()).unwrap().map(|entry| entry.unwrap().path()) {
        for kind in ["encrypted", "unencrypted"] {
            let work = tempfile::tempdir().unwrap();
            let (seat, data_dir) = (Seat::new("frozen"), work.path().join("data"));
            let restore = Etcdbr::new(["restore", "--name=frozen", "--store-prefix=prod", "--store-container"])
                .arg(version.join(kind))
                .args(["--initial-cluster", &initial_cluster(std::slice::from_ref(&seat)), "--data-dir"])
                .arg(&data_dir);
            let verify = ["verify", "--all", "--store-prefix=prod", "--store-container"];
            let verify = Etcdbr::new(verify).arg(version.join(kind)).arg("--scratch-dir").arg(work.path());
            // Not a secret: it opens this archive alone.
            let key = std::fs::read_to_string(version.join("key")).unwrap();
            for run in [verify, restore] {
                if kind == "encrypted" {
                    run.env("ETCDBR_ENCRYPTION_KEY", &key).succeed()
                } else {
                    run.succeed()
                };
            }
            let etcd = Etcd::builder(EtcdVersion::V3_5).seat(seat).data_dir(&data_dir).start().await;
            let mut client = etcd.client().await;
            for (name, value, version) in [("/frozen/a", "second", 2), ("/frozen/b", "only", 1)] {
                let answer = client.get(name, None).await.unwrap();
                let kv = &answer.kvs()[0];
                assert_eq!((kv.value_str().unwrap(), kv.version()), (value, version), "{name} in {kind}");
            }
            assert!(client.get("/frozen/deleted", None).await.unwrap().kvs().is_empty());
        }
    }
}
