//! The etcd source against an etcd that fails as scripted: what is told, what is refused, and what is left behind.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

use std::time::Duration;

use bytes::Bytes;
use etcdbr_engine::etcd::{EtcdOptions, HashAt, Member, Proof, Role, SnapshotStream, Unproven};
use etcdbr_engine::monitor::{Recorder, Silent};
use etcdbr_engine::record::Change;
use etcdbr_engine::revision::{ClusterId, MemberId, Revision};
use etcdbr_engine::secret::SecretText;
use etcdbr_engine::{Error, ErrorKind};
use etcdbr_proto::etcdserverpb::WatchResponse;
use etcdbr_proto::mvccpb::event::EventType;
use etcdbr_proto::mvccpb::{Event, KeyValue};
use etcdbr_tests::fake_etcd::{Compaction, FakeEtcd, Script, SnapshotFault};
use prost::Message;
use sha2::{Digest, Sha256};

const STALL: Duration = Duration::from_millis(300);

fn options(fakes: &[&FakeEtcd]) -> EtcdOptions {
    let mut options = EtcdOptions::new(fakes.iter().map(|fake| fake.endpoint.as_str()));
    options.connect_timeout = Duration::from_secs(2);
    options.request_timeout = Duration::from_secs(2);
    options.stall_timeout = STALL;
    options
}

fn as_user(mut options: EtcdOptions, user: &str, password: &str) -> EtcdOptions {
    options.credentials = Some((user.to_owned(), SecretText::new(password)));
    options
}

async fn pinned(script: Script) -> (FakeEtcd, Member) {
    let fake = FakeEtcd::start(script).await;
    let member = Member::pin(&options(&[&fake]), &Silent).await.unwrap();
    (fake, member)
}

/// The error of pinning; [`Member`] has no `Debug` to unwrap by.
async fn refused(options: &EtcdOptions) -> Error {
    Member::pin(options, &Silent).await.err().unwrap()
}

async fn drain(stream: &mut SnapshotStream) -> Result<Vec<u8>, Error> {
    let mut image = Vec::new();
    while let Some(bytes) = stream.next().await? {
        image.extend_from_slice(&bytes);
    }
    Ok(image)
}

#[tokio::test]
async fn a_follower_is_preferred_over_the_leader() {
    let leader = FakeEtcd::start(Script::member(1, 1)).await;
    let follower = FakeEtcd::start(Script::member(2, 1)).await;
    let member = Member::pin(&options(&[&leader, &follower]), &Silent).await.unwrap();
    let identity = member.identity();
    assert_eq!((identity.cluster, identity.member), (ClusterId(0xc1), MemberId(2)));
    assert_eq!(identity.name.as_deref(), Some("member-2"));
    assert_eq!((identity.endpoint.as_str(), identity.version.as_str()), (follower.endpoint.as_str(), "3.6.16"));
    let status = member.status().await.unwrap();
    assert_eq!((status.role, status.raft_term, status.raft_index), (Role::Follower, 2, 11));
    assert_eq!((status.db_bytes, status.db_bytes_in_use), (256 << 10, 128 << 10));
}

#[tokio::test]
async fn a_follower_that_is_called_corrupt_is_the_last_choice() {
    let errors = vec!["memberID:2 alarm:CORRUPT ".to_owned()];
    let leader = FakeEtcd::start(Script { errors: errors.clone(), ..Script::member(1, 1) }).await;
    let follower = FakeEtcd::start(Script { errors, ..Script::member(2, 1) }).await;
    let recorder = Recorder::default();
    let member = Member::pin(&options(&[&follower, &leader]), &recorder).await.unwrap();
    assert_eq!(member.identity().member, MemberId(1));
    assert!(recorder.warnings()[0].contains("CORRUPT"), "{:?}", recorder.warnings());
}

#[tokio::test]
async fn a_space_alarm_is_told() {
    let fake =
        FakeEtcd::start(Script { errors: vec!["memberID:161 alarm:NOSPACE ".into()], ..Script::default() }).await;
    let recorder = Recorder::default();
    Member::pin(&options(&[&fake]), &recorder).await.unwrap();
    let warnings = recorder.warnings();
    assert!(warnings[0].contains("NOSPACE") && warnings[0].contains("member a1"), "{warnings:?}");
}

#[tokio::test]
async fn a_dead_endpoint_is_told_and_skipped() {
    let fake = FakeEtcd::start(Script::default()).await;
    let mut options = options(&[&fake]);
    options.endpoints.insert(0, "http://127.0.0.1:1".to_owned());
    let recorder = Recorder::default();
    Member::pin(&options, &recorder).await.unwrap();
    let warnings = recorder.warnings();
    assert!(warnings[0].contains("127.0.0.1:1") && warnings[0].contains("refused"), "{warnings:?}");
}

#[tokio::test]
async fn nobody_there_names_every_endpoint() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = EtcdOptions::new(["127.0.0.1:1".to_owned(), silent.local_addr().unwrap().to_string()]);
    options.connect_timeout = Duration::from_millis(500);
    let error = refused(&options).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    for part in ["http://127.0.0.1:1", "onnection refused", &options.endpoints[1], "no answer within 500ms"] {
        assert!(error.message().contains(part), "{part} is not in {error}");
    }
    assert!(error.next_step().is_some());
}

#[tokio::test]
async fn endpoints_of_two_clusters_are_refused() {
    let one = FakeEtcd::start(Script::default()).await;
    let other = FakeEtcd::start(Script { cluster: 0xc2, ..Script::default() }).await;
    let error = refused(&options(&[&one, &other])).await;
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.message().contains(&one.endpoint) && error.message().contains(&other.endpoint), "{error}");
}

#[tokio::test]
async fn a_learner_is_skipped_and_alone_is_refused() {
    let learner = FakeEtcd::start(Script { learner: true, ..Script::member(3, 1) }).await;
    let error = refused(&options(&[&learner])).await;
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.next_step().unwrap().contains("voting"), "{error:?}");
    let leader = FakeEtcd::start(Script::member(1, 1)).await;
    let member = Member::pin(&options(&[&learner, &leader]), &Silent).await.unwrap();
    assert_eq!(member.identity().member, MemberId(1));
}

#[tokio::test]
async fn a_load_balancer_in_between_is_refused() {
    let (_fake, member) = pinned(Script { key_member: 0xa2, ..Script::default() }).await;
    let error = member.linearizable_revision().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.next_step().unwrap().contains("load balancer"), "{error:?}");
}

#[tokio::test]
async fn authentication_that_is_needed_names_its_flags() {
    let credentials = Some(("root".to_owned(), "right".to_owned()));
    let fake = FakeEtcd::start(Script { credentials, ..Script::default() }).await;
    let error = refused(&options(&[&fake])).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.next_step().unwrap().contains("--etcd-username"), "{error:?}");
    let error = refused(&as_user(options(&[&fake]), "root", "wrong")).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(!format!("{error:?}").contains("wrong"), "{error:?}");
}

#[tokio::test]
async fn a_token_that_expires_is_renewed_once() {
    let credentials = Some(("root".to_owned(), "right".to_owned()));
    let fake = FakeEtcd::start(Script { credentials, ..Script::default() }).await;
    let member = Member::pin(&as_user(options(&[&fake]), "root", "right"), &Silent).await.unwrap();
    let before = fake.logins();
    fake.forget_tokens();
    assert_eq!(member.linearizable_revision().await.unwrap(), Revision(1));
    assert_eq!(fake.logins(), before + 1);
    fake.forget_tokens();
    drain(&mut member.snapshot().await.unwrap()).await.unwrap();
    assert_eq!(fake.logins(), before + 2);
}

#[tokio::test]
async fn a_user_who_is_not_root_is_named() {
    let credentials = Some(("ann".to_owned(), "right".to_owned()));
    let fake = FakeEtcd::start(Script { credentials, user_is_root: false, ..Script::default() }).await;
    let member = Member::pin(&as_user(options(&[&fake]), "ann", "right"), &Silent).await.unwrap();
    let error = member.snapshot().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.message().contains("\"ann\""), "{error}");
    assert!(error.next_step().unwrap().contains("root"), "{error:?}");
}

#[tokio::test]
async fn credentials_do_no_harm_where_authentication_is_off() {
    let fake = FakeEtcd::start(Script::default()).await;
    let member = Member::pin(&as_user(options(&[&fake]), "root", "x"), &Silent).await.unwrap();
    assert_eq!(member.linearizable_revision().await.unwrap(), Revision(1));
}

fn event(kind: EventType, key: &str, revision: i64) -> Event {
    let mut kv = KeyValue { key: key.to_owned().into(), mod_revision: revision, ..Default::default() };
    if kind == EventType::Put {
        (kv.create_revision, kv.version) = (revision, 1);
    }
    Event { r#type: kind.into(), kv: kv.encode_to_vec().into() }
}

fn watched(fragment: bool, events: Vec<Event>) -> WatchResponse {
    WatchResponse { fragment, events, ..Default::default() }
}

#[tokio::test]
async fn a_seam_joins_fragments_and_leaves_no_watch() {
    // The headers carry the server's revision, far ahead of the events (T10).
    let watch = vec![
        watched(true, vec![event(EventType::Put, "a", 7), event(EventType::Delete, "b", 7)]),
        watched(true, vec![event(EventType::Put, "c", 7)]),
        watched(false, vec![event(EventType::Put, "d", 7), event(EventType::Put, "a", 8)]),
    ];
    let (fake, member) = pinned(Script { revision: 900, watch, ..Script::default() }).await;
    let seam = member.seam(Revision(7)).await.unwrap();
    assert_eq!(seam.proof, Proof::Proven);
    let shape: Vec<_> = seam.records.iter().map(|record| (record.main.0, record.sub, record.change)).collect();
    use Change::{Put, Tombstone};
    assert_eq!(shape, [(7, 0, Put), (7, 1, Tombstone), (7, 2, Put), (7, 3, Put)]);
    fake.streams_are_closed().await;
}

#[tokio::test]
async fn a_seam_where_nothing_was_written_is_unproven() {
    let (fake, member) = pinned(Script::default()).await;
    let seam = member.seam(Revision::EMPTY).await.unwrap();
    assert_eq!((seam.records.len(), seam.proof), (0, Proof::Unproven(Unproven::NothingWritten)));
    assert_eq!(fake.open_streams(), 0);
}

/// Old versions lose the tombstones of the compaction's own revision without a word (T8).
#[tokio::test]
async fn a_seam_at_the_compact_revision_is_unproven() {
    let watch = vec![watched(false, vec![event(EventType::Put, "a", 7)])];
    let script = Script { revision: 7, watch, ..Script::default() };
    for compaction in [Compaction::Before(7), Compaction::DuringWatch(7), Compaction::DuringWatch(8)] {
        let (fake, member) = pinned(Script { compaction, ..script.clone() }).await;
        let seam = member.seam(Revision(7)).await.unwrap();
        assert_eq!((seam.records.len(), seam.proof), (0, Proof::Unproven(Unproven::Compacted)), "{compaction:?}");
        fake.streams_are_closed().await;
    }
    let (_fake, member) = pinned(Script { compaction: Compaction::Before(6), ..script }).await;
    assert_eq!(member.seam(Revision(7)).await.unwrap().proof, Proof::Proven);
}

#[tokio::test]
async fn a_silent_watch_is_waited_for_and_given_up() {
    let (fake, member) = pinned(Script { revision: 7, ..Script::default() }).await;
    let seam = member.seam(Revision(7)).await.unwrap();
    assert_eq!(seam.proof, Proof::Unproven(Unproven::Silent));
    fake.streams_are_closed().await;
}

#[tokio::test]
async fn a_snapshot_comes_whole() {
    let image: Bytes = (0..1_000_448_u32).map(|i| (i % 253) as u8).collect::<Vec<_>>().into();
    let (fake, member) = pinned(Script { image: image.clone(), ..Script::default() }).await;
    let mut stream = member.snapshot().await.unwrap();
    assert_eq!((stream.expected_bytes(), stream.version()), (image.len() as u64, Some("3.6.0")));
    assert_eq!(drain(&mut stream).await.unwrap(), image);
    assert_eq!(stream.image_bytes(), image.len() as u64);
    assert_eq!(stream.sha256(), Some(Sha256::digest(&image).into()));
    assert!(stream.next().await.unwrap().is_none());
    fake.streams_are_closed().await;
}

#[tokio::test]
async fn a_snapshot_that_is_cut_or_altered_is_damaged() {
    let faults = [
        (SnapshotFault::EndAfter(0), "ended early"),
        (SnapshotFault::EndAfter(32 << 10), "ended early"),
        (SnapshotFault::EndAfter(224 << 10), "ended early"),
        (SnapshotFault::EndAfter(256 << 10), "ended early"),
        (SnapshotFault::WrongDigest, "SHA-256 differs"),
    ];
    for (snapshot_fault, said) in faults {
        let (fake, member) = pinned(Script { snapshot_fault, ..Script::default() }).await;
        let error = match member.snapshot().await {
            Err(error) => error,
            Ok(mut stream) => {
                let error = drain(&mut stream).await.unwrap_err();
                assert_eq!(stream.sha256(), None);
                assert!(stream.next().await.is_err(), "{snapshot_fault:?}: an error is final");
                error
            }
        };
        assert_eq!(error.kind(), ErrorKind::Damaged, "{snapshot_fault:?}");
        assert!(error.message().contains(said) && error.message().contains(&fake.endpoint), "{error}");
    }
}

#[tokio::test]
async fn a_member_that_goes_away_is_unavailable() {
    let (_fake, member) =
        pinned(Script { snapshot_fault: SnapshotFault::FailAfter(64 << 10), ..Script::default() }).await;
    let error = drain(&mut member.snapshot().await.unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("server stopped"), "{error}");
}

#[tokio::test]
async fn a_snapshot_that_stalls_is_cancelled() {
    for bytes in [0, 64 << 10] {
        let snapshot_fault = SnapshotFault::StallAfter(bytes);
        let (fake, member) = pinned(Script { snapshot_fault, ..Script::default() }).await;
        let failed = async {
            let mut stream = member.snapshot().await?;
            drain(&mut stream).await
        };
        let error = failed.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{bytes}");
        fake.streams_are_closed().await;
    }
}

/// A defragment waits for every open stream while it holds the write lock (T11): a store that hangs must not
/// reach etcd.
#[tokio::test]
async fn a_snapshot_that_nobody_reads_is_cancelled() {
    let (fake, member) = pinned(Script { image: vec![1; 32 << 20].into(), ..Script::default() }).await;
    let mut stream = member.snapshot().await.unwrap();
    assert_eq!(fake.open_streams(), 1);
    fake.streams_are_closed().await;
    let error = drain(&mut stream).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("nothing read it"), "{error}");
}

#[tokio::test]
async fn a_snapshot_that_is_dropped_is_cancelled() {
    let snapshot_fault = SnapshotFault::StallAfter(64 << 10);
    let fake = FakeEtcd::start(Script { snapshot_fault, ..Script::default() }).await;
    let mut options = options(&[&fake]);
    options.stall_timeout = Duration::from_secs(600);
    let member = Member::pin(&options, &Silent).await.unwrap();
    let mut stream = member.snapshot().await.unwrap();
    stream.next().await.unwrap();
    assert_eq!(fake.open_streams(), 1);
    drop(stream);
    fake.streams_are_closed().await;
}

#[tokio::test]
async fn hash_kv_tells_what_it_hashed() {
    let (_fake, member) = pinned(Script { revision: 9, ..Script::default() }).await;
    let answer = member.hash_kv(HashAt::Current).await.unwrap();
    assert_eq!((answer.hash, answer.compact_revision, answer.hash_revision), (42, None, None));
    assert_eq!(answer.header_revision, Revision(9));
    let (_fake, member) = pinned(Script { revision: 9, compaction: Compaction::Before(5), ..Script::default() }).await;
    let answer = member.hash_kv(HashAt::Revision(Revision(8))).await.unwrap();
    assert_eq!((answer.compact_revision, answer.hash_revision), (Some(Revision(5)), Some(Revision(8))));
    let error = member.hash_kv(HashAt::Revision(Revision(3))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
