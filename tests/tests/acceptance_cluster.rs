//! Three members from one backup: etcd's own checks find nothing to complain of, each knows the same members, and a
//! fourth one joins them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use etcd_client::{Client, MemberAddOptions};
use etcdbr_tests::database::{Database, Entries};
use etcdbr_tests::etcd::{Etcd, EtcdBuilder, EtcdCluster, EtcdVersion, Seat, initial_cluster};
use etcdbr_tests::keyspace::{current_revision, hash_kv};
use etcdbr_tests::load::edge_history;
use etcdbr_tests::scenario::{Picture, Site, write_history};

const WAIT_LIMIT: Duration = Duration::from_secs(90);

/// Members of `version` that check themselves against the others before they serve, and their files when they stop.
fn checking(version: EtcdVersion) -> EtcdBuilder {
    let check = if version >= EtcdVersion::V3_6 {
        "--feature-gates=InitialCorruptCheck=true"
    } else {
        "--experimental-initial-corrupt-check=true"
    };
    Etcd::builder(version).arg(check).env("ETCD_VERIFY", "all")
}

/// A backup of a lone member restored for each of three.
async fn restored_for_three(version: EtcdVersion) -> (Site, Vec<Seat>, Vec<PathBuf>, Picture) {
    let site = Site::local();
    let source = Etcd::start(version).await;
    let mut client = source.client().await;
    write_history(&mut client, 300).await;
    edge_history(&mut client).await;
    let picture = Picture::of(&mut client).await;
    let backup = site.backup(&source);
    let name = backup["backup"].as_str().unwrap();
    let seats = Seat::several(3);
    let dirs: Vec<_> = seats.iter().map(|seat| site.path(&seat.name)).collect();
    for (own, dir) in dirs.iter().enumerate() {
        site.restore(&seats, own, dir).args(["--backup", name]).succeed();
    }
    (site, seats, dirs, picture)
}

/// The `members` bucket, which is the one that a cluster of `seats` has.
fn members(database: &Database, seats: &[Seat]) -> Entries {
    let entries = database.bucket("members");
    let parse = |value: &Vec<u8>| serde_json::from_slice::<serde_json::Value>(value).unwrap();
    let found: BTreeSet<(String, String)> = entries
        .iter()
        .map(|(key, value)| {
            let member = parse(value);
            assert_eq!(format!("{:x}", member["id"].as_u64().unwrap()).as_bytes(), key);
            (member["name"].as_str().unwrap().to_owned(), member["peerURLs"][0].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = seats.iter().map(|seat| (seat.name.clone(), seat.peer_url())).collect();
    assert_eq!(found, expected);
    assert_eq!(database.bucket("members_removed"), Entries::new());
    entries
}

/// Each member names the same leader, which is one of them, and lists the members of `seats`.
async fn assert_agreed(members: &[Etcd], seats: &[Seat]) {
    let mut leaders = BTreeSet::new();
    let expected: BTreeSet<String> = seats.iter().map(Seat::peer_url).collect();
    for member in members {
        let mut client = member.client().await;
        leaders.insert(client.status().await.unwrap().leader());
        let listed = client.member_list().await.unwrap();
        let urls: Vec<String> = listed.members().iter().flat_map(|member| member.peer_urls().to_vec()).collect();
        assert_eq!(urls.len(), expected.len(), "{urls:?}");
        assert_eq!(urls.into_iter().collect::<BTreeSet<_>>(), expected);
    }
    assert_eq!(leaders.len(), 1, "all name one leader");
    assert_ne!(leaders.first(), Some(&0), "there is a leader");
}

/// One write reaches all members, and all hash it alike.
async fn assert_one_history(members: &[Etcd]) {
    let mut writer = members[0].client().await;
    writer.put("/one-history", "x", None).await.unwrap();
    let revision = current_revision(&mut writer).await;
    let mut hashes = BTreeSet::new();
    for member in members {
        let mut client = member.client().await;
        // A linearizable read first: the member has applied the write then.
        current_revision(&mut client).await;
        let hash = hash_kv(&mut client, revision).await;
        hashes.insert((hash.hash, hash.compact_revision));
    }
    assert_eq!(hashes.len(), 1, "{hashes:?}");
}

/// A learner comes and is promoted, as etcd asks who grows a cluster with care.
async fn add_learner(cluster: &mut EtcdCluster, seats: &mut Vec<Seat>) {
    let seat = Seat::new("learner");
    seats.push(seat.clone());
    let mut client = cluster.members[0].client().await;
    let mut learner = None;
    wait_for("a learner to be added", async || {
        let options = MemberAddOptions::new().with_is_learner();
        match client.member_add([seat.peer_url()], Some(options)).await {
            Ok(added) => {
                learner = Some(added.member().unwrap().id());
                true
            }
            // etcd refuses until it has seen all members for a few seconds.
            Err(_) => false,
        }
    })
    .await;
    let version = cluster.members[0].version();
    let joining = Etcd::builder(version).seat(seat).cluster(&initial_cluster(seats)).joining();
    let mut joined = joining.launch();
    wait_for("the learner to catch up", async || promoted(&mut client, learner.unwrap()).await).await;
    joined.ready().await;
    cluster.members.push(joined);
}

async fn promoted(client: &mut Client, id: u64) -> bool {
    client.member_promote(id).await.is_ok()
}

async fn wait_for(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WAIT_LIMIT;
    while !done().await {
        assert!(Instant::now() < deadline, "waited {WAIT_LIMIT:?} for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn three_members_pass_every_check(version: EtcdVersion) {
    let (_site, mut seats, dirs, picture) = restored_for_three(version).await;
    let databases: Vec<_> = dirs.iter().map(|dir| Database::in_dir(dir)).collect();
    let known: Vec<Entries> = databases.iter().map(|database| members(database, &seats)).collect();
    assert!(known.windows(2).all(|pair| pair[0] == pair[1]), "every member has the same members");

    let mut dirs = dirs.iter();
    let start = |seat, cluster: &str| checking(version).seat(seat).cluster(cluster).data_dir(dirs.next().unwrap());
    let mut cluster = EtcdCluster::start_with(seats.clone(), start).await;
    for member in &cluster.members {
        picture.assert_seen_by(&mut member.client().await).await;
    }
    assert_agreed(&cluster.members, &seats).await;
    assert_one_history(&cluster.members).await;
    // Now the others run: there is somebody to compare with.
    for member in &mut cluster.members {
        member.restart().await;
        assert_eq!(member.log().matches("initial corruption checking passed").count(), 2, "{}", member.log());
        let verified = member.log().contains("verification of persisted state successful");
        assert!(verified || version == EtcdVersion::V3_4, "{}", member.log());
    }
    assert_agreed(&cluster.members, &seats).await;
    add_learner(&mut cluster, &mut seats).await;
    assert_agreed(&cluster.members, &seats).await;
    assert_one_history(&cluster.members).await;
}

#[tokio::test]
async fn three_members_on_3_4_pass_every_check() {
    three_members_pass_every_check(EtcdVersion::V3_4).await;
}

#[tokio::test]
async fn three_members_on_3_5_pass_every_check() {
    three_members_pass_every_check(EtcdVersion::V3_5).await;
}

#[tokio::test]
async fn three_members_on_3_6_pass_every_check() {
    three_members_pass_every_check(EtcdVersion::V3_6).await;
}

#[tokio::test]
async fn three_members_on_3_7_pass_every_check() {
    three_members_pass_every_check(EtcdVersion::V3_7).await;
}

/// The check that all of the above rests on does find a member that is not like the others.
#[tokio::test]
async fn the_corruption_check_finds_a_member_that_differs() {
    let (_site, seats, dirs, _) = restored_for_three(EtcdVersion::V3_6).await;
    let database = Database::in_dir(&dirs[2]);
    let mut records = database.bucket("key");
    // The last byte of a value.
    *records.values_mut().next().unwrap().last_mut().unwrap() ^= 1;
    database.replace_in(&dirs[2], "key", &records);
    let cluster = initial_cluster(&seats);
    let start =
        |own: usize| checking(EtcdVersion::V3_6).seat(seats[own].clone()).cluster(&cluster).data_dir(&dirs[own]);
    let mut sound = [start(0).launch(), start(1).launch()];
    for member in &mut sound {
        member.ready().await;
    }
    let odd = start(2).launch();
    wait_for("the odd member to be found", async || odd.log().contains("data inconsistency")).await;
}
