//! What is known to make a restored etcd stop, stay silent or forget, provoked at the source.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmType, Client, PutOptions};
use etcdbr_engine::datadir::{WalContent, WalEntry, read_snap, read_wal};
use etcdbr_proto::raftpb::ConfChange;
use etcdbr_tests::database::{Database, Entries};
use etcdbr_tests::etcd::{Etcd, EtcdCluster, EtcdVersion, Seat, initial_cluster};
use etcdbr_tests::keyspace::{Keyspace, current_revision};
use etcdbr_tests::load::{Noise, mixed_history};
use etcdbr_tests::scenario::{Picture, Site, write_history};
use prost::Message;

const WAIT_LIMIT: Duration = Duration::from_secs(90);

/// Waits until the etcd of `client`, which is a 3.6 or newer, has settled for the storage version of `version`.
async fn await_storage_version(client: &mut Client, version: EtcdVersion) {
    let expected = version.tool().replace("etcd-", "") + ".0";
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        let found = client.status().await.unwrap().storage_version().to_owned();
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "the storage version is {found}, not {expected}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// 3.5.1 would apply its entries again at each start if it took the source's raft term for its own.
#[tokio::test]
async fn revisions_stay_when_3_5_1_restarts() {
    let site = Site::local();
    let mut source = Etcd::start(EtcdVersion::V3_5).await;
    write_history(&mut source.client().await, 100).await;
    // Every start is an election, and each a higher term.
    for _ in 0..3 {
        source.restart().await;
    }
    let mut client = source.client().await;
    assert!(client.status().await.unwrap().raft_term() > 3);
    let before = Picture::of(&mut client).await;
    site.backup(&source);
    let restored = site.restore_alone(EtcdVersion::V3_5_1, "restored");
    restored.assert_is(&before);
    let mut etcd = restored.etcd.start().await;
    before.assert_seen_by(&mut etcd.client().await).await;
    for round in 0..3 {
        let mut client = etcd.client().await;
        for i in 0..5 {
            client.put(format!("/restarted/{i}"), format!("{round}"), None).await.unwrap();
        }
        let now = Picture::of(&mut client).await;
        assert_eq!(now.keyspace.revision, before.keyspace.revision + 5 * (round + 1));
        etcd.restart().await;
        now.assert_seen_by(&mut etcd.client().await).await;
    }
}

/// A source that is full and takes no writes any more gives a backup that does.
#[tokio::test]
async fn the_alarm_of_a_full_source_stays_behind() {
    for version in EtcdVersion::MINORS {
        let site = Site::local();
        let source = Etcd::builder(version).quota(2 << 20).start().await;
        let mut client = source.client().await;
        let mut noise = Noise::new(1);
        let full = async {
            for i in 0..2_000 {
                let put = client.put(format!("/key/{}", i % 20), noise.bytes(30_000), None).await;
                if put.is_err() {
                    return i;
                }
            }
            panic!("the quota holds nobody back");
        };
        assert!(full.await > 10);
        let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
        assert_eq!(alarms.alarms().len(), 1);
        assert_eq!(Database::snapshot(&mut client).await.bucket("alarm").len(), 1);
        let before = Picture::of(&mut client).await;
        site.backup(&source);
        let restored = site.restore_alone(version, "restored");
        assert_eq!(restored.database.bucket("alarm"), Entries::new());
        let mut etcd = restored.etcd.start().await;
        let mut client = etcd.client().await;
        before.assert_seen_by(&mut client).await;
        client.put("/after", "x", None).await.unwrap();
        etcd.restart().await;
        etcd.client().await.put("/after", "y", None).await.unwrap();
    }
}

/// etcd starts on a live key whose lease it does not know, and stops for ever at the first put that keeps the lease.
#[tokio::test]
async fn a_live_key_whose_lease_is_unknown_can_be_put_with_it() {
    for version in EtcdVersion::MINORS {
        let site = Site::local();
        let mut source = Etcd::start(version).await;
        let mut client = source.client().await;
        mixed_history(&mut client).await;
        let leased: Vec<_> =
            Keyspace::read(&mut client).await.entries.into_iter().filter(|(_, entry)| entry.lease != 0).collect();
        assert!(!leased.is_empty());
        source.stop();
        Database::in_dir(source.data_dir()).replace_in(source.data_dir(), "lease", &Entries::new());
        source.restart().await;
        site.backup(&source);
        let restored = site.restore_alone(version, "restored");
        let ids: std::collections::BTreeSet<_> = leased.iter().map(|(_, entry)| entry.lease).collect();
        assert_eq!(restored.json["granted_leases"], ids.len());
        let mut etcd = restored.etcd.start().await;
        let mut client = etcd.client().await;
        for (key, entry) in &leased {
            client.put(key.clone(), "kept", Some(PutOptions::new().with_ignore_lease())).await.unwrap();
            let kv = client.get(key.clone(), None).await.unwrap().kvs()[0].clone();
            assert_eq!((kv.version(), kv.lease()), (entry.version + 1, entry.lease));
        }
        etcd.restart().await;
        let leases = Keyspace::read(&mut etcd.client().await).await.leases;
        assert!(leases.keys().eq(&ids), "{leases:?}");
    }
}

/// Members that left, and members that 3.4's own restore leaves in place, are none of the restored cluster.
#[tokio::test]
async fn members_of_the_source_stay_behind() {
    let site = Site::local();
    let stale = {
        let cluster = EtcdCluster::start(EtcdVersion::V3_4, 3).await;
        let mut client = cluster.members[0].client().await;
        write_history(&mut client, 100).await;
        let removed = cluster.members[2].client().await.status().await.unwrap().header().unwrap().member_id();
        let deadline = Instant::now() + WAIT_LIMIT;
        // etcd refuses until it has seen all members for a few seconds.
        while let Err(error) = client.member_remove(removed).await {
            assert!(Instant::now() < deadline, "no member can be removed: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let snapshot = site.path("snapshot.db");
        cluster.members[0].etcdctl(&["snapshot", "save", snapshot.to_str().unwrap()]);
        snapshot
    };
    let seat = Seat::new("official");
    let dir = site.path("official");
    official_restore(EtcdVersion::V3_4, "etcdctl", &stale, std::slice::from_ref(&seat), 0, &dir);
    let source = Etcd::builder(EtcdVersion::V3_4).seat(seat).data_dir(&dir).start().await;
    let mut client = source.client().await;
    let image = Database::snapshot(&mut client).await;
    assert!(image.bucket("members").len() >= 2, "the members of the cluster before are still there");
    assert_eq!(image.bucket("members_removed").len(), 1);
    let before = Picture::of(&mut client).await;
    site.backup(&source);
    for version in EtcdVersion::MINORS {
        let restored = site.restore_alone(version, &format!("{version:?}"));
        assert_eq!(restored.database.bucket("members").len(), 1);
        assert_eq!(restored.database.bucket("members_removed"), Entries::new());
        let etcd = restored.etcd.start().await;
        let mut client = etcd.client().await;
        before.assert_seen_by(&mut client).await;
        assert_eq!(client.member_list().await.unwrap().members().len(), 1);
        if version >= EtcdVersion::V3_6 {
            await_storage_version(&mut client, version).await;
        }
    }
}

/// A source that is being downgraded: the restored etcd is of its own version and stays so.
#[tokio::test]
async fn a_downgrade_of_the_source_stays_behind() {
    for (version, older) in [(EtcdVersion::V3_6, "3.5.0"), (EtcdVersion::V3_7, "3.6.0")] {
        let site = Site::local();
        let source = Etcd::start(version).await;
        let mut client = source.client().await;
        write_history(&mut client, 100).await;
        await_storage_version(&mut client, version).await;
        source.etcdctl(&["downgrade", "enable", older]);
        let before = Picture::of(&mut client).await;
        let image = Database::snapshot(&mut client).await;
        let downgrade = String::from_utf8(image.bucket("cluster")[&b"downgrade"[..]].clone()).unwrap();
        assert!(downgrade.contains("\"enabled\":true"), "{downgrade}");
        site.backup(&source);
        for target in [EtcdVersion::V3_6, EtcdVersion::V3_7] {
            let restored = site.restore_alone(target, &format!("{target:?}"));
            assert_eq!(restored.database.bucket("cluster"), Entries::new());
            assert!(!restored.database.bucket("meta").contains_key(&b"storageVersion"[..]));
            let mut etcd = restored.etcd.start().await;
            before.assert_seen_by(&mut etcd.client().await).await;
            await_storage_version(&mut etcd.client().await, target).await;
            etcd.restart().await;
            await_storage_version(&mut etcd.client().await, target).await;
            let cluster = Database::snapshot(&mut etcd.client().await).await.bucket("cluster");
            let downgrade = cluster.get(&b"downgrade"[..]).map(|text| String::from_utf8_lossy(text).into_owned());
            assert!(!downgrade.clone().unwrap_or_default().contains("true"), "{downgrade:?}");
        }
    }
}

/// Whatever the storage version of the source is, the restored etcd finds its own.
#[tokio::test]
async fn storage_versions_are_those_of_the_target() {
    for source_version in EtcdVersion::MINORS {
        let site = Site::local();
        let source = Etcd::start(source_version).await;
        let mut client = source.client().await;
        mixed_history(&mut client).await;
        if source_version >= EtcdVersion::V3_6 {
            await_storage_version(&mut client, source_version).await;
        }
        let before = Picture::of(&mut client).await;
        site.backup(&source);
        for target in [EtcdVersion::V3_6, EtcdVersion::V3_7] {
            let restored = site.restore_alone(target, &format!("{target:?}"));
            let mut etcd = restored.etcd.start().await;
            await_storage_version(&mut etcd.client().await, target).await;
            let cluster = Database::snapshot(&mut etcd.client().await).await.bucket("cluster");
            let own = target.tool().replace("etcd-", "") + ".0";
            assert_eq!(String::from_utf8_lossy(&cluster[&b"clusterVersion"[..]]), own);
            etcd.restart().await;
            before.assert_seen_by(&mut etcd.client().await).await;
        }
    }
}

fn official_restore(version: EtcdVersion, tool: &str, snapshot: &Path, seats: &[Seat], own: usize, dir: &Path) {
    let seat = &seats[own];
    let mut command = Command::new(version.dir().join(tool));
    command.args(["snapshot", "restore"]).arg(snapshot).arg("--data-dir").arg(dir).args(["--name", &seat.name]);
    command.args(["--initial-cluster", &initial_cluster(seats), "--initial-advertise-peer-urls", &seat.peer_url()]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The one file in `dir` whose name ends in `end`.
fn only_file(dir: &Path, end: &str) -> (String, Vec<u8>) {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut found: Vec<_> = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(end)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let entry = found.remove(0);
    (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
}

/// The official tool and ours make the same directory of the same data, for one member and for each of three.
#[tokio::test]
async fn a_data_dir_is_that_of_the_official_tool() {
    for version in [EtcdVersion::V3_5, EtcdVersion::V3_6, EtcdVersion::V3_7] {
        let site = Site::local();
        let source = Etcd::start(version).await;
        let mut client = source.client().await;
        write_history(&mut client, 100).await;
        let snapshot = site.path("snapshot.db");
        source.etcdctl(&["snapshot", "save", snapshot.to_str().unwrap()]);
        let name = site.backup(&source)["backup"].as_str().unwrap().to_owned();
        assert_eq!(Database::snapshot(&mut client).await.revision(), current_revision(&mut client).await);
        let three = Seat::several(3);
        for seats in [&three[..1], &three] {
            for own in 0..seats.len() {
                let official = site.path(&format!("official-{}-{own}", seats.len()));
                let ours = site.path(&format!("ours-{}-{own}", seats.len()));
                official_restore(version, "etcdutl", &snapshot, seats, own, &official);
                site.restore(seats, own, &ours).args(["--backup", &name]).succeed();
                assert_same_wal(version, &official, &ours);
                assert_same_snap(&official, &ours);
                assert_same_buckets(&official, &ours);
            }
        }
    }
}

fn assert_same_wal(version: EtcdVersion, official: &Path, ours: &Path) {
    let [official, ours] = [official, ours].map(|dir| only_file(&dir.join("member/wal"), ".wal"));
    assert_eq!(official.0, ours.0);
    assert_eq!(official.1.len(), ours.1.len());
    if version < EtcdVersion::V3_7 {
        assert!(official.1 == ours.1, "{:?}\nis not\n{:?}", read_wal(&official.1), read_wal(&ours.1));
    }
    let [official, ours] = [official.1, ours.1].map(|bytes| wal_content(&bytes));
    assert_eq!(official, ours);
}

/// What a WAL says. 3.7 leaves out two fields that are zero, one of them in the data of an entry.
fn wal_content(bytes: &[u8]) -> WalContent {
    let mut content = read_wal(bytes).unwrap();
    for entry in &mut content.entries {
        if let WalEntry::Entry(entry) = entry {
            entry.data = entry.data.take().map(|data| ConfChange::decode(&data[..]).unwrap().encode_to_vec());
        }
    }
    content
}

fn assert_same_snap(official: &Path, ours: &Path) {
    let [official, ours] = [official, ours].map(|dir| only_file(&dir.join("member/snap"), ".snap"));
    assert_eq!(official.0, ours.0);
    let [official, ours] = [official, ours].map(|(_, bytes)| read_snap(&bytes).unwrap());
    assert_eq!(official.metadata, ours.metadata);
    let [official, ours] = [official, ours].map(|snap| {
        let mut store: serde_json::Value = serde_json::from_slice(&snap.v2_store).unwrap();
        unnumber(&mut store["Root"]);
        (store["Root"].clone(), store["CurrentIndex"].clone(), store["CurrentVersion"].clone())
    });
    assert_eq!(official, ours);
}

/// Takes out of a v2 store's node what tells in which order the members were added: 3.5 takes their ids' and 3.6 the
/// one of their URLs, and nobody reads it.
fn unnumber(node: &mut serde_json::Value) {
    for index in ["CreatedIndex", "ModifiedIndex"] {
        node.as_object_mut().unwrap().remove(index);
    }
    node["Children"].as_object_mut().into_iter().flat_map(|children| children.values_mut()).for_each(unnumber);
}

/// All that the official tool leaves as the source had it, and ours makes new on purpose, is left out.
fn assert_same_buckets(official: &Path, ours: &Path) {
    const OURS: [&[u8]; 2] = [b"confState", b"storageVersion"];
    let [official, ours] = [official, ours].map(Database::in_dir);
    assert_eq!(official.bucket_names(), ours.bucket_names());
    for name in ours.bucket_names() {
        let [mut official, mut ours] = [&official, &ours].map(|database| database.bucket(&name));
        match name.as_str() {
            "alarm" | "cluster" => continue,
            "meta" => OURS.iter().for_each(|key| {
                official.remove(*key);
                ours.remove(*key);
            }),
            _ => {}
        }
        assert_eq!(official, ours, "bucket {name}");
    }
}
