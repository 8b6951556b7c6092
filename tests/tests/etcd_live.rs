//! The etcd source against real etcds: the image is etcdctl's, the seam is the `key` bucket's, and nothing is left
//! behind at the member.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, DeleteOptions, MemberAddOptions, PutOptions, Txn, TxnOp};
use etcdbr_engine::bbolt::BoltFile;
use etcdbr_engine::etcd::{EtcdOptions, HashAt, Member, Proof, Role, Unproven};
use etcdbr_engine::monitor::{Recorder, Silent};
use etcdbr_engine::record::{Change, Record};
use etcdbr_engine::revision::Revision;
use etcdbr_engine::secret::SecretText;
use etcdbr_engine::tls::{ClientIdentity, ServerIdentity, TlsOptions};
use etcdbr_engine::{Error, ErrorKind};
use etcdbr_tests::etcd::{Etcd, EtcdCluster, EtcdVersion, Seat};
use etcdbr_tests::keyspace::hash_kv;
use etcdbr_tests::load::{Load, Noise, fill, mixed_history};
use etcdbr_tests::tls::TestTls;
use sha2::{Digest, Sha256};

fn options(etcd: &Etcd) -> EtcdOptions {
    EtcdOptions::new([etcd.endpoint()])
}

async fn pin(options: &EtcdOptions) -> Result<Member, Error> {
    Member::pin(options, &Silent).await
}

async fn image_of(member: &Member) -> Vec<u8> {
    let mut stream = member.snapshot().await.unwrap();
    let mut image = Vec::new();
    while let Some(bytes) = stream.next().await.unwrap() {
        image.extend_from_slice(&bytes);
    }
    assert_eq!(stream.expected_bytes(), image.len() as u64);
    image
}

/// A digest of all entries of all buckets.
fn entries(image: &[u8]) -> [u8; 32] {
    let file = BoltFile::open(image).unwrap();
    let mut digest = Sha256::new();
    for (name, bucket) in file.buckets().unwrap() {
        digest.update(name);
        let mut cursor = file.cursor(&bucket);
        let mut entry = cursor.first().unwrap();
        while let Some(found) = entry {
            digest.update((found.key.len() as u64).to_le_bytes());
            digest.update(found.key);
            digest.update((found.value.len() as u64).to_le_bytes());
            digest.update(found.value);
            entry = cursor.next().unwrap();
        }
    }
    digest.finalize().into()
}

/// The records of one revision as the image holds them.
fn records_in(image: &[u8], main: Revision) -> Vec<Record> {
    let file = BoltFile::open(image).unwrap();
    let mut cursor = file.cursor(&file.bucket(b"key").unwrap().unwrap());
    let mut entry = cursor.seek(&main.0.to_be_bytes()).unwrap();
    let mut records = Vec::new();
    while let Some(found) = entry {
        let (number, rest) = found.key.split_first_chunk::<8>().unwrap();
        if *number != main.0.to_be_bytes() {
            break;
        }
        let sub = i64::from_be_bytes(*rest[1..].first_chunk().unwrap());
        let change = if found.key.len() == 18 { Change::Tombstone } else { Change::Put };
        records.push(Record { main, sub, change, value: found.value.to_vec().into() });
        entry = cursor.next().unwrap();
    }
    records
}

/// Takes the seam of what was written last and holds it against the image.
async fn assert_seam(member: &Member, what: &str) {
    let revision = member.linearizable_revision().await.unwrap();
    let seam = member.seam(revision).await.unwrap();
    assert_eq!(seam.proof, Proof::Proven, "{what}");
    let stored = records_in(&image_of(member).await, revision);
    assert!(!stored.is_empty(), "{what}");
    assert!(seam.records == stored, "{what}: {} records by the watch, {} stored", seam.records.len(), stored.len());
}

async fn transact(client: &mut Client, ops: Vec<TxnOp>) {
    client.txn(Txn::new().and_then(ops)).await.unwrap();
}

#[tokio::test]
async fn the_stream_is_what_etcdctl_saves() {
    for version in EtcdVersion::MINORS {
        let etcd = Etcd::start(version).await;
        fill(&etcd.client().await, &Load::sized(24 << 20)).await;
        let member = pin(&options(&etcd)).await.unwrap();
        let image = image_of(&member).await;
        let saved = etcd.home().join("saved.db");
        etcd.etcdctl(&["snapshot", "save", saved.to_str().unwrap()]);
        let saved = std::fs::read(saved).unwrap();
        assert!(image.len() > 16 << 20, "{version:?}: {}", image.len());
        assert!(entries(&image) == entries(&saved), "{version:?}: the entries differ");
        // The metas carry the transaction's number. From 3.5 on each snapshot's commit also writes the consistent
        // index anew, on other pages or behind the last one: its bucket's leaf and the root's.
        let page_bytes = BoltFile::open(&image).unwrap().page_size();
        let pages = image.chunks(page_bytes).zip(saved.chunks(page_bytes));
        let differing = pages.filter(|(ours, theirs)| ours != theirs).count();
        let longer = (saved.len() - 32).abs_diff(image.len()) / page_bytes;
        assert!(differing <= 8 && longer <= 8, "{version:?}: {differing} pages differ, {longer} more");
        let status = member.status().await.unwrap();
        assert_eq!(status.role, Role::Leader, "{version:?}");
        assert!(status.db_bytes.abs_diff(image.len() as u64) <= 16 * page_bytes as u64, "{version:?}: {status:?}");
    }
}

#[tokio::test]
async fn a_seam_is_what_the_key_bucket_holds() {
    for version in EtcdVersion::MINORS.into_iter().chain([EtcdVersion::V3_5_1]) {
        let etcd = Etcd::builder(version).arg("--max-request-bytes=20971520").start().await;
        let mut client = etcd.client().await;
        let member = pin(&options(&etcd)).await.unwrap();
        let empty = member.seam(member.linearizable_revision().await.unwrap()).await.unwrap();
        assert_eq!(empty.proof, Proof::Unproven(Unproven::NothingWritten), "{version:?}");
        let leases = mixed_history(&mut client).await;
        assert_seam(&member, &format!("{version:?}: a put")).await;
        let prefix = Some(DeleteOptions::new().with_prefix());
        let ops = vec![TxnOp::put("/z", "1", None), TxnOp::delete("/mixed/01", prefix), TxnOp::put("/y", "", None)];
        transact(&mut client, ops).await;
        assert_seam(&member, &format!("{version:?}: puts and deletes")).await;
        for i in 0..3 {
            client.put(format!("/leased/{i}"), "x", Some(PutOptions::new().with_lease(leases[2]))).await.unwrap();
        }
        assert_seam(&member, &format!("{version:?}: a leased put")).await;
        client.lease_revoke(leases[2]).await.unwrap();
        assert_seam(&member, &format!("{version:?}: a lease's end")).await;
        // Nine fragments at etcd's default of 2 MB each.
        let mut noise = Noise::new(3);
        let ops = (0..12).map(|i| TxnOp::put(format!("/big/{i:02}"), noise.bytes(1 << 20), None)).collect();
        transact(&mut client, ops).await;
        assert_seam(&member, &format!("{version:?}: many fragments")).await;
        assert_eq!(etcd.watchers(0.0).await, 0.0, "{version:?}: no watcher is left");
    }
}

#[tokio::test]
async fn a_seam_that_is_compacted_is_unproven() {
    for version in EtcdVersion::MINORS.into_iter().chain([EtcdVersion::V3_5_1]) {
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        let member = pin(&options(&etcd)).await.unwrap();
        transact(&mut client, vec![TxnOp::put("/a", "1", None), TxnOp::put("/b", "1", None)]).await;
        transact(&mut client, vec![TxnOp::put("/a", "2", None), TxnOp::delete("/b", None)]).await;
        let revision = member.linearizable_revision().await.unwrap();
        client.compact(revision.0, None).await.unwrap();
        let begun = Instant::now();
        let seam = member.seam(revision).await.unwrap();
        assert_eq!((seam.records.len(), seam.proof), (0, Proof::Unproven(Unproven::Compacted)), "{version:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{version:?}: not waited for");
        let error = member.hash_kv(HashAt::Revision(Revision(revision.0 - 1))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{version:?}");
    }
}

#[tokio::test]
async fn hash_kv_is_what_another_client_is_told() {
    for version in EtcdVersion::MINORS {
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        mixed_history(&mut client).await;
        let member = pin(&options(&etcd)).await.unwrap();
        let ours = member.hash_kv(HashAt::Current).await.unwrap();
        let theirs = hash_kv(&mut client, 0).await;
        assert_eq!(ours.hash, theirs.hash, "{version:?}");
        assert_eq!(ours.compact_revision, Some(Revision(theirs.compact_revision)), "{version:?}");
        assert_eq!(ours.header_revision, member.linearizable_revision().await.unwrap());
        assert_eq!(ours.hash_revision, (version >= EtcdVersion::V3_6).then_some(ours.header_revision), "{version:?}");
    }
}

#[tokio::test]
async fn authentication_is_on() {
    for version in EtcdVersion::MINORS {
        let mut etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        client.put("/a", "1", None).await.unwrap();
        for (user, role) in [("root", "root"), ("ann", "none")] {
            client.role_add(role).await.unwrap();
            client.user_add(user, "pw", None).await.unwrap();
            client.user_grant_role(user, role).await.unwrap();
        }
        client.auth_enable().await.unwrap();
        let as_user = |etcd: &Etcd, user: &str, password: &str| {
            let credentials = Some((user.to_owned(), SecretText::new(password)));
            EtcdOptions { credentials, ..options(etcd) }
        };
        let member = pin(&as_user(&etcd, "root", "pw")).await.unwrap();
        let revision = member.linearizable_revision().await.unwrap();
        assert_eq!(member.seam(revision).await.unwrap().proof, Proof::Proven, "{version:?}");
        image_of(&member).await;
        member.hash_kv(HashAt::Current).await.unwrap();
        let ann = pin(&as_user(&etcd, "ann", "pw")).await.unwrap();
        let error = ann.snapshot().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied, "{version:?}: {error}");
        assert!(error.message().contains("\"ann\""), "{version:?}: {error}");
        let nobody = match pin(&options(&etcd)).await {
            Err(error) => error,
            Ok(member) => member.linearizable_revision().await.unwrap_err(),
        };
        assert_eq!(nobody.kind(), ErrorKind::Denied, "{version:?}: {nobody}");
        assert!(nobody.next_step().unwrap().contains("--etcd-username"), "{version:?}: {nobody:?}");
        let wrong = pin(&as_user(&etcd, "root", "guess")).await.err().unwrap();
        assert_eq!(wrong.kind(), ErrorKind::Denied, "{version:?}: {wrong}");
        // A restart forgets the tokens that etcd gave, and drops the connection.
        etcd.restart().await;
        assert_eq!(member.linearizable_revision().await.unwrap(), revision, "{version:?}");
        etcd.restart().await;
        image_of(&member).await;
    }
}

fn tls_options(tls: &TestTls) -> TlsOptions {
    let (cert_file, key_file) = tls.client();
    TlsOptions {
        ca_file: Some(tls.ca()),
        client_identity: Some(ClientIdentity { cert_file, key_file }),
        server_identity: ServerIdentity::Verified,
    }
}

#[tokio::test]
async fn tls_with_client_certificates() {
    for version in EtcdVersion::MINORS {
        let tls = Arc::new(TestTls::generate());
        let etcd = Etcd::builder(version).tls(&tls).start().await;
        etcd.client().await.put("/a", "1", None).await.unwrap();
        let with = |tls: Option<TlsOptions>| EtcdOptions { tls, ..options(&etcd) };
        let member = pin(&with(Some(tls_options(&tls)))).await.unwrap();
        let revision = member.linearizable_revision().await.unwrap();
        assert_eq!(member.seam(revision).await.unwrap().proof, Proof::Proven, "{version:?}");
        assert_eq!(records_in(&image_of(&member).await, revision).len(), 1, "{version:?}");
        let bare = etcd.endpoint().replace("https://", "");
        let by_host =
            EtcdOptions { endpoints: vec![bare.replace("127.0.0.1", "localhost")], ..with(Some(tls_options(&tls))) };
        pin(&by_host).await.unwrap();

        let no_certificate = TlsOptions { client_identity: None, ..tls_options(&tls) };
        let error = pin(&with(Some(no_certificate))).await.err().unwrap();
        // etcd's refusal races with our first question, which may break before it is heard.
        assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unavailable), "{version:?}: {error}");
        assert!(error.next_step().unwrap().contains("--cert"), "{version:?}: {error:?}");

        let other = TestTls::generate();
        let other_root = TlsOptions { ca_file: Some(other.ca()), ..tls_options(&tls) };
        for unknown in [Some(other_root.clone()), None] {
            let error = pin(&with(unknown)).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Denied, "{version:?}: {error}");
            assert!(error.next_step().unwrap().contains("--cacert"), "{version:?}: {error:?}");
        }
        let unchecked = TlsOptions { server_identity: ServerIdentity::Unchecked, ..other_root };
        pin(&with(Some(unchecked))).await.unwrap();

        let plain = EtcdOptions { endpoints: vec![format!("http://{bare}")], ..with(None) };
        let error = pin(&plain).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{version:?}: {error}");
        assert!(error.next_step().unwrap().contains("https://"), "{version:?}: {error:?}");
    }
}

#[tokio::test]
async fn tls_to_a_member_without_tls_says_so() {
    let etcd = Etcd::start(EtcdVersion::V3_5).await;
    let options = EtcdOptions::new([etcd.endpoint().replace("http://", "https://")]);
    let error = pin(&options).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.next_step().unwrap().contains("http://"), "{error:?}");
}

#[tokio::test]
async fn of_three_members_a_follower_is_pinned() {
    for version in [EtcdVersion::V3_5, EtcdVersion::V3_7] {
        let mut cluster = EtcdCluster::start(version, 3).await;
        let leader = cluster.leader().await;
        // The leader first, so that the choice is not that of the order.
        let mut endpoints = cluster.endpoints();
        endpoints.swap(0, leader);
        let options = EtcdOptions::new(endpoints);
        let member = pin(&options).await.unwrap();
        assert_ne!(member.identity().endpoint, cluster.members[leader].endpoint(), "{version:?}");
        assert_eq!(member.status().await.unwrap().role, Role::Follower, "{version:?}");
        cluster.members[leader].client().await.put("/a", "1", None).await.unwrap();
        assert_seam(&member, "through a follower").await;
        let position = cluster.members.iter().position(|etcd| etcd.endpoint() == member.identity().endpoint).unwrap();
        assert_eq!(member.identity().name.as_ref(), Some(&cluster.members[position].seat().name), "{version:?}");
        cluster.members[position].kill9();
        assert_eq!(member.linearizable_revision().await.unwrap_err().kind(), ErrorKind::Unavailable, "{version:?}");
        let recorder = Recorder::default();
        let other = Member::pin(&options, &recorder).await.unwrap();
        assert_ne!(other.identity().member, member.identity().member, "{version:?}");
        assert!(recorder.warnings()[0].contains(&member.identity().endpoint), "{:?}", recorder.warnings());
    }
}

#[tokio::test]
async fn a_learner_is_refused() {
    for version in [EtcdVersion::V3_5, EtcdVersion::V3_7] {
        let voter = Etcd::start(version).await;
        let seat = Seat::new("late");
        let learner = Some(MemberAddOptions::new().with_is_learner());
        voter.client().await.member_add([seat.peer_url()], learner).await.unwrap();
        let cluster = format!("{}={},late={}", voter.seat().name, voter.seat().peer_url(), seat.peer_url());
        let learner = Etcd::builder(version).seat(seat).cluster(&cluster).joining().launch();
        let begun = Instant::now();
        let error = loop {
            let error = pin(&options(&learner)).await.err().unwrap();
            if error.kind() == ErrorKind::Refused {
                break error;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{version:?}: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert!(error.message().contains("learner"), "{version:?}: {error}");
        let both = EtcdOptions::new([learner.endpoint(), voter.endpoint()]);
        assert_eq!(pin(&both).await.unwrap().identity().endpoint, voter.endpoint(), "{version:?}");
    }
}

/// A full quota is told when the member is pinned, and backed up all the same.
#[tokio::test]
async fn a_member_without_space_is_told() {
    for version in EtcdVersion::MINORS {
        let etcd = Etcd::builder(version).quota(2 << 20).start().await;
        let mut client = etcd.client().await;
        let mut noise = Noise::new(5);
        while client.put("/fill", noise.bytes(500_000), None).await.is_ok() {}
        let recorder = Recorder::default();
        let member = Member::pin(&options(&etcd), &recorder).await.unwrap();
        let warnings = recorder.warnings();
        let id = member.identity().member.to_string();
        assert!(warnings[0].contains("NOSPACE") && warnings[0].contains(&id), "{version:?}: {warnings:?}");
        image_of(&member).await;
    }
}

/// A defragment waits for every open stream and holds up the member meanwhile: a reader that hangs must let go.
#[tokio::test]
async fn a_reader_that_hangs_does_not_hold_up_a_defragment() {
    for version in EtcdVersion::MINORS {
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        fill(&client, &Load::sized(48 << 20)).await;
        let mut options = options(&etcd);
        options.stall_timeout = Duration::from_secs(2);
        let member = pin(&options).await.unwrap();
        let mut stream = member.snapshot().await.unwrap();
        stream.next().await.unwrap();
        let defragment = tokio::time::timeout(Duration::from_secs(30), client.defragment());
        defragment.await.expect("the stream was cancelled").unwrap();
        client.put("/a", "1", None).await.unwrap();
        let error = loop {
            match stream.next().await {
                Ok(bytes) => assert!(bytes.is_some(), "{version:?}: it was not read, so it cannot be whole"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{version:?}: {error}");
    }
}
