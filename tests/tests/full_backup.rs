//! A full backup that restores: under load, onto one member and three, and without anything in it.

use std::time::{Duration, Instant};

use etcd_client::MemberAddOptions;
use etcdbr_tests::etcd::{Etcd, EtcdCluster, EtcdVersion, Seat};
use etcdbr_tests::keyspace::hash_kv;
use etcdbr_tests::scenario::{Picture, Site, write_history};
use serde_json::json;

#[tokio::test]
async fn writes_during_the_stream_do_not_harm_it() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_6).await;
    write_history(&mut source.client().await, 3000).await;
    let mut client = source.client().await;
    let writes = tokio::spawn(async move {
        for i in 0.. {
            if client.put(format!("/during/{i}"), "x".repeat(500), None).await.is_err() {
                break;
            }
        }
    });
    let backup = site.backup(&source);
    // What was at the seam is what the source can still tell of that revision.
    let seam = backup["revision"].as_i64().unwrap();
    let hash = hash_kv(&mut source.client().await, seam).await;
    writes.abort();
    let seat = Seat::new("m0");
    let dir = site.path("restored");
    let restored = site.restore(std::slice::from_ref(&seat), 0, &dir).arg("--output=json").succeed().json();
    assert!(restored["revision"].as_i64().unwrap() >= seam);
    let target = Etcd::builder(EtcdVersion::V3_6).seat(seat).data_dir(&dir).start().await;
    assert_eq!(hash_kv(&mut target.client().await, seam).await, hash);
}

#[tokio::test]
async fn three_members_from_one_backup_form_a_cluster() {
    for version in [EtcdVersion::V3_5, EtcdVersion::V3_7] {
        let site = Site::local();
        let source = EtcdCluster::start(version, 3).await;
        let mut client = source.members[0].client().await;
        write_history(&mut client, 300).await;
        let picture = Picture::of(&mut client).await;
        let endpoints = source.endpoints().join(",");
        let backup = site.command(&["snapshot", "--once", "--output=json", "--endpoints", &endpoints]).succeed().json();
        let leader = source.members[source.leader().await].endpoint();
        assert_ne!(backup["endpoint"], json!(leader), "a follower is preferred");
        drop(source);

        let seats = Seat::several(3);
        let dirs: Vec<_> = (0..3).map(|own| site.path(&format!("m{own}"))).collect();
        // Without the name of a backup each operator might get another one.
        let refused = site.restore(&seats, 0, &dirs[0]).run();
        refused.assert_refused(&["3 members", "--backup", "--dry-run"]);
        assert_eq!((refused.code, dirs[0].exists()), (Some(4), false));
        let name = backup["backup"].as_str().unwrap();
        let plan = site.restore(&seats, 0, &dirs[0]).arg("--dry-run").succeed().stdout;
        let line =
            format!("etcdbr restore --storage-provider Local --store-container {}", site.path("archive").display());
        assert_eq!((plan.matches(&line).count(), plan.matches(&format!("--backup {name}")).count()), (3, 3), "{plan}");
        for (own, dir) in dirs.iter().enumerate() {
            site.restore(&seats, own, dir).args(["--backup", name]).succeed();
        }
        let cluster = EtcdCluster::start_restored(version, seats, &dirs).await;
        for member in &cluster.members {
            picture.assert_seen_by(&mut member.client().await).await;
        }
        cluster.members[0].client().await.put("/after", "x", None).await.unwrap();
        let revision = picture.keyspace.revision + 1;
        let mut hashes = Vec::new();
        for member in &cluster.members {
            let mut client = member.client().await;
            // A linearizable read first: the member has applied the write then.
            client.get("/after", None).await.unwrap();
            hashes.push(hash_kv(&mut client, revision).await);
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    }
}

#[tokio::test]
async fn a_restored_member_takes_two_more() {
    for version in [EtcdVersion::V3_5, EtcdVersion::V3_7] {
        let site = Site::local();
        let source = Etcd::start(version).await;
        write_history(&mut source.client().await, 300).await;
        let picture = Picture::of(&mut source.client().await).await;
        site.backup(&source);
        drop(source);
        let seats = Seat::several(3);
        let dir = site.path("m0");
        site.restore(&seats[..1], 0, &dir).succeed();
        let mut members = vec![Etcd::builder(version).seat(seats[0].clone()).data_dir(&dir).start().await];
        for own in 1..3 {
            add_member(&members[0], &seats[own]).await;
            let cluster = etcdbr_tests::etcd::initial_cluster(&seats[..=own]);
            let joined = Etcd::builder(version).seat(seats[own].clone()).cluster(&cluster).joining().start().await;
            members.push(joined);
        }
        for member in &members {
            picture.assert_seen_by(&mut member.client().await).await;
        }
    }
}

/// etcd refuses until it has seen the member before for a few seconds.
async fn add_member(etcd: &Etcd, seat: &Seat) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut client = etcd.client().await;
    while let Err(error) = client.member_add([seat.peer_url()], None::<MemberAddOptions>).await {
        assert!(Instant::now() < deadline, "no member can be added: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_etcd_that_was_never_written_to_restores() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_7] {
        let site = Site::local();
        let source = Etcd::start(version).await;
        let backup = site.backup(&source);
        assert_eq!(backup["revision"], json!(1));
        let seat = Seat::new("m0");
        let dir = site.path("restored");
        site.restore(std::slice::from_ref(&seat), 0, &dir).succeed();
        let target = Etcd::builder(version).seat(seat).data_dir(&dir).start().await;
        let answer = target.client().await.put("first", "x", None).await.unwrap();
        assert_eq!(answer.header().unwrap().revision(), 2);
    }
}

#[tokio::test]
async fn a_canary_is_nowhere_in_an_encrypted_archive() {
    const CANARY: &str = "canary-7f3a9e51d2-do-not-leak";
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = source.client().await;
    client.put(CANARY, CANARY, None).await.unwrap();
    let plain = ["snapshot", "--once", "--compression-level=none", "--endpoints", &source.endpoint()];
    site.command(&plain).args(["--label", "owner=me"]).succeed();
    assert_eq!(occurrences(&site.path("archive"), CANARY), 0);
    // And the search would find it: without encryption and compression it is there.
    let open = Site::local();
    let told = open.unkeyed(&plain).succeed();
    assert!(told.stderr.contains("not encrypted"), "{}", told.stderr);
    assert!(occurrences(&open.path("archive"), CANARY) > 0);
}

/// Files under `dir` that hold `text`, in their bytes or in their name.
fn occurrences(dir: &std::path::Path, text: &str) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found += occurrences(&entry.path(), text);
        } else {
            let bytes = std::fs::read(entry.path()).unwrap();
            let inside = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            found += usize::from(inside || entry.file_name().to_string_lossy().contains(text));
        }
    }
    found
}
