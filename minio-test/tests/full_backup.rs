//! Encrypted fulls through a real MinIO, and the command line that operators of Dell ECS type.

use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat};
use etcdbr_tests::etcdbr::Etcdbr;
use etcdbr_tests::load::Noise;
use etcdbr_tests::minio::Minio;
use etcdbr_tests::scenario::{BUCKET, Picture, Site, assert_lives, write_history};

#[tokio::test]
async fn backup_to_minio_and_restore_onto_either_version() {
    const CANARY: &str = "canary-5a1f0c77-do-not-leak";
    let minio = Minio::start().await;
    for (number, source_version) in [EtcdVersion::V3_5, EtcdVersion::V3_7].into_iter().enumerate() {
        let bucket = format!("archive-{number}");
        minio.create_bucket(&bucket).await;
        let site = Site::s3(&minio.endpoint(), minio.access_key(), minio.secret_key(), &bucket);
        let source = Etcd::start(source_version).await;
        let mut client = source.client().await;
        client.put(CANARY, CANARY, None).await.unwrap();
        write_history(&mut client, 1000).await;
        // Above one part of 5 MiB, so that it is a multipart upload; deleted, so that a page of keys stays small.
        for i in 0..12 {
            client.put(format!("noise/{i}"), Noise::new(i).bytes(1 << 20), None).await.unwrap();
            client.delete(format!("noise/{i}"), None).await.unwrap();
        }
        let picture = Picture::of(&mut client).await;
        let snapshot = ["snapshot", "--once", "--min-chunk-size=5MiB", "--endpoints", &source.endpoint()];
        site.command(&snapshot).succeed();
        drop(source);

        let objects = minio.objects(&bucket).await;
        assert_eq!(objects.len(), 1);
        assert!(objects[0].1.len() > 10 << 20, "{}", objects[0].1.len());
        let leaks = |bytes: &[u8]| bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!objects.iter().any(|(key, bytes)| leaks(key.as_bytes()) || leaks(bytes)));

        let verified = site.command(&["verify", "--output=json"]).succeed().json();
        assert_eq!(verified["proof"]["hashkv"]["hash"], picture.hash.hash, "{verified}");

        for target_version in [EtcdVersion::V3_5, EtcdVersion::V3_7] {
            let seat = Seat::new("m0");
            let dir = site.path(&format!("{target_version:?}"));
            site.restore(std::slice::from_ref(&seat), 0, &dir).succeed();
            let mut target = Etcd::builder(target_version).seat(seat).data_dir(&dir).start().await;
            picture.assert_seen_by(&mut target.client().await).await;
            assert_lives(&mut target, &picture).await;
        }
    }
}

/// The words are those of an operator's runbook; only hosts and directories are ours.
#[tokio::test]
async fn the_command_line_of_ecs_operators_works_as_typed() {
    let minio = Minio::start().await;
    minio.create_bucket(BUCKET).await;
    let dir = tempfile::tempdir().unwrap();
    let ecs = |run: Etcdbr| {
        run.env("ECS_ENDPOINT", minio.endpoint())
            .env("ECS_ACCESS_KEY_ID", minio.access_key())
            .env("ECS_SECRET_ACCESS_KEY", minio.secret_key())
    };
    let source = Etcd::start(EtcdVersion::V3_5).await;
    write_history(&mut source.client().await, 200).await;
    let picture = Picture::of(&mut source.client().await).await;
    let snapshot = Etcdbr::new(["snapshot", "--once", "--endpoints", &source.endpoint()]);
    ecs(snapshot.args(["--store-container=etcd-backup", "--storage-provider=ECS"])).succeed();
    drop(source);

    let seat = Seat::new("controller-node1");
    let data_dir = dir.path().join("etcd");
    let restore = Etcdbr::new(["restore", "--data-dir"]).arg(format!("{}/", data_dir.display())).args([
        "--store-container=etcd-backup",
        "--storage-provider=ECS",
        &format!("--initial-cluster=controller-node1={}", seat.peer_url()),
        &format!("--initial-advertise-peer-urls={}", seat.peer_url()),
    ]);
    let told = ecs(restore).succeed().stdout;
    assert!(told.contains("etcd --name controller-node1 --data-dir"), "{told}");
    let mut target = Etcd::builder(EtcdVersion::V3_5).seat(seat).data_dir(&data_dir).start().await;
    picture.assert_seen_by(&mut target.client().await).await;
    assert_lives(&mut target, &picture).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_no_object_and_no_multipart() {
    let minio = Minio::start().await;
    let site = Site::minio(&minio).await;
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = source.client().await;
    for i in 0..120 {
        client.put(format!("noise/{i}"), Noise::new(i).bytes(1 << 20), None).await.unwrap();
    }
    let snapshot = ["snapshot", "--once", "--min-chunk-size=5MiB", "--endpoints", &source.endpoint()];
    let mut running = site.command(&snapshot).arg("--max-parallel-chunk-uploads=1").spawn();
    while minio.pending_multiparts_on_drive() == 0 {
        assert!(!running.ended(), "the backup was over before it could be stopped");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    running.interrupt();
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
    assert_eq!(minio.keys(BUCKET).await, Vec::<String>::new());
    assert_eq!(minio.pending_multiparts_on_drive(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_backup_leaves_is_aborted_by_gc() {
    let minio = Minio::start().await;
    let site = Site::minio(&minio).await;
    // The site's prefix is `prod`: this upload is a neighbour's, under a name that ours would have.
    let neighbour = "prod-2/etcdbr/v1/1763724000000-00000000cafe0001-0badf00d/full/00000000000000000042-1763724000001-00000000000000ff";
    let begun = minio.client().create_multipart_upload().bucket(BUCKET).key(neighbour).send().await;
    begun.unwrap();
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = source.client().await;
    for i in 0..120 {
        client.put(format!("noise/{i}"), Noise::new(i).bytes(1 << 20), None).await.unwrap();
    }
    let snapshot = ["snapshot", "--once", "--min-chunk-size=5MiB", "--endpoints", &source.endpoint()];
    let mut running = site.command(&snapshot).arg("--max-parallel-chunk-uploads=1").spawn();
    let known = || async {
        let listed = minio.client().list_multipart_uploads().bucket(BUCKET).send().await;
        listed.unwrap().uploads().len()
    };
    while known().await < 2 {
        assert!(!running.ended(), "the backup was over before it could be killed");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    running.kill9();
    running.wait();
    let gc = |args: &[&str]| site.unkeyed(&["gc", "--abort-uploads", "--output=json"]).args(args).succeed().json();
    let counts = |told: serde_json::Value| ["aborted", "kept"].map(|field| told[field].as_array().unwrap().len());
    assert_eq!(counts(gc(&[])), [0, 1], "it may be under way");
    assert_eq!(counts(gc(&["--older-than=1ms"])), [1, 0]);
    assert_eq!(minio.pending_multiparts_on_drive(), 1, "the neighbour's");
    assert_eq!(minio.pending_multiparts(BUCKET, neighbour).await, 1);
}
