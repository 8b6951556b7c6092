//! The watch and its probes against an etcd that fails as scripted: what is told, and that no watcher stays behind.

use std::time::Duration;

use etcdbr_engine::ErrorKind;
use etcdbr_engine::etcd::{EtcdOptions, Member, Readable, Revisions, WatchEnd, WatchLimits, WatchStream};
use etcdbr_engine::monitor::Silent;
use etcdbr_engine::revision::{ClusterId, Revision};
use etcdbr_engine::secret::SecretText;
use etcdbr_proto::etcdserverpb::WatchResponse;
use etcdbr_proto::mvccpb::event::EventType;
use etcdbr_proto::mvccpb::{Event, KeyValue};
use etcdbr_tests::fake_etcd::{Compaction, FakeEtcd, Script, WatchTail};
use futures::TryStreamExt;
use prost::Message;
use tonic::Code;

/// As short as can be told from an answer.
const LIMIT: Duration = Duration::from_secs(3);

fn options(fake: &FakeEtcd) -> EtcdOptions {
    let mut options = EtcdOptions::new([fake.endpoint.as_str()]);
    (options.connect_timeout, options.request_timeout) = (LIMIT, LIMIT);
    options
}

async fn pinned(script: Script) -> (FakeEtcd, Member) {
    let fake = FakeEtcd::start(script).await;
    let member = Member::pin(&options(&fake), &Silent).await.unwrap();
    (fake, member)
}

async fn watch(member: &Member, start: i64) -> Result<WatchStream, WatchEnd> {
    member.watch(Revision(start), WatchLimits::default()).await
}

fn put(key: &str, revision: i64) -> Event {
    let kv = KeyValue {
        key: key.to_owned().into(),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        ..Default::default()
    };
    Event { r#type: EventType::Put.into(), kv: kv.encode_to_vec().into() }
}

fn puts(fragment: bool, revisions: &[i64]) -> WatchResponse {
    let event = |(i, revision): (usize, &i64)| put(&format!("/{i}"), *revision);
    WatchResponse { fragment, events: revisions.iter().enumerate().map(event).collect(), ..Default::default() }
}

/// Main revisions of what `watch` gives until it ends, and the end.
async fn drain(watch: &mut WatchStream) -> (Vec<i64>, WatchEnd) {
    let mut mains = Vec::new();
    loop {
        match watch.next().await {
            Ok(Revisions { records, .. }) => mains.extend(records.iter().map(|record| record.main.0)),
            Err(end) => return (mains, end),
        }
    }
}

/// What a watch from revision 5 on gives of `responses`, at a member at revision 20; the fake has lost it afterwards.
async fn given(responses: Vec<WatchResponse>, tail: WatchTail) -> (Vec<i64>, WatchEnd, Revision) {
    let (fake, member) = pinned(Script { revision: 20, watch: responses, watch_tail: tail, ..Script::default() }).await;
    let mut stream = watch(&member, 5).await.unwrap();
    let (mains, end) = drain(&mut stream).await;
    fake.streams_are_closed().await;
    (mains, end, stream.next_revision())
}

#[tokio::test]
async fn a_gap_is_told_after_what_came_before_it() {
    let (mains, end, next) = given(vec![puts(false, &[5, 6]), puts(false, &[7, 9])], WatchTail::Silence).await;
    assert_eq!((mains, next), (vec![5, 6, 7], Revision(8)));
    assert!(matches!(end, WatchEnd::Gap { expected: Revision(8), got: Revision(9) }), "{end:?}");
    assert_eq!(end.into_error().kind(), ErrorKind::Damaged);
    let (mains, end, next) = given(vec![puts(false, &[6])], WatchTail::Silence).await;
    assert_eq!((mains, next), (vec![], Revision(5)));
    assert!(matches!(end, WatchEnd::Gap { expected: Revision(5), got: Revision(6) }), "{end:?}");
}

#[tokio::test]
async fn a_step_back_in_time_is_dropped() {
    let responses = vec![puts(false, &[3, 4]), puts(false, &[5, 6]), puts(false, &[4, 5, 6]), puts(false, &[6, 7])];
    let (mains, end, next) = given(responses, WatchTail::End).await;
    assert_eq!((mains, next), (vec![5, 6, 7], Revision(8)));
    assert!(matches!(end, WatchEnd::Unavailable(_)), "{end:?}");
}

#[tokio::test]
async fn a_step_back_amid_fragments_is_not_guessed_at() {
    let responses = vec![puts(true, &[5, 6]), puts(true, &[5]), puts(false, &[6])];
    let (mains, end, next) = given(responses, WatchTail::Silence).await;
    assert_eq!((mains, next), (vec![5], Revision(6)));
    assert!(matches!(end, WatchEnd::Contradiction { revision: Revision(5), .. }), "{end:?}");
}

/// A revision whose last fragment never comes is not given, and is where the next watch begins.
#[tokio::test]
async fn a_fragment_without_end_is_given_again() {
    let (mains, end, next) = given(vec![puts(true, &[5, 6]), puts(true, &[])], WatchTail::End).await;
    assert_eq!((mains, next), (vec![5], Revision(6)));
    assert!(matches!(end, WatchEnd::Unavailable(_)), "{end:?}");
}

#[tokio::test]
async fn responses_without_events_say_nothing() {
    let progress = || puts(false, &[]);
    let responses = vec![progress(), puts(false, &[5]), progress(), puts(true, &[6]), progress(), puts(false, &[7])];
    let (mains, _, next) = given(responses, WatchTail::End).await;
    assert_eq!((mains, next), (vec![5, 6, 7], Revision(8)));
}

#[tokio::test]
async fn an_event_above_its_header_is_a_contradiction() {
    let (mains, end, next) = given(vec![puts(false, &[5]), puts(false, &[6, 21])], WatchTail::Silence).await;
    assert_eq!((mains, next), (vec![5], Revision(6)));
    assert!(matches!(end, WatchEnd::Contradiction { revision: Revision(21), .. }), "{end:?}");
}

#[tokio::test]
async fn an_event_that_changes_nothing_is_a_contradiction() {
    let empty = Event { r#type: EventType::Put.into(), kv: bytes::Bytes::new() };
    let response = WatchResponse { events: vec![put("/a", 5), empty], ..Default::default() };
    let (mains, end, next) = given(vec![response], WatchTail::Silence).await;
    assert_eq!((mains, next), (vec![], Revision(5)));
    assert!(matches!(end, WatchEnd::Contradiction { .. }), "{end:?}");
}

#[tokio::test]
async fn a_cancellation_is_told_by_its_reason() {
    let cancelled = |compact_revision, reason: &str| WatchResponse {
        canceled: true,
        compact_revision,
        cancel_reason: reason.to_owned(),
        ..Default::default()
    };
    let (_, end, next) = given(vec![puts(false, &[5]), cancelled(9, "")], WatchTail::Silence).await;
    assert!(matches!(end, WatchEnd::Compacted { at: Some(Revision(9)) }), "{end:?}");
    assert_eq!((end.into_error().kind(), next), (ErrorKind::NotFound, Revision(6)));
    let (_, end, _) = given(vec![cancelled(0, "the moon is full")], WatchTail::Silence).await;
    assert!(matches!(&end, WatchEnd::Cancelled { reason } if reason == "the moon is full"), "{end:?}");
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    let (_, end, _) = given(vec![cancelled(0, denied)], WatchTail::Silence).await;
    assert!(matches!(end, WatchEnd::Denied(_)), "{end:?}");
}

#[tokio::test]
async fn the_end_of_the_stream_is_told_by_its_status() {
    let ends = [
        (Code::Unavailable, "etcdserver: server stopped", ErrorKind::Unavailable),
        (Code::Unavailable, "etcdserver: no leader", ErrorKind::Unavailable),
        (Code::Unavailable, "etcdserver: rpc not supported for learner", ErrorKind::Refused),
        (Code::Unauthenticated, "etcdserver: invalid auth token", ErrorKind::Denied),
        (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", ErrorKind::NotFound),
    ];
    for (code, said, kind) in ends {
        let (mains, end, next) = given(vec![puts(false, &[5])], WatchTail::Fail(code, said)).await;
        assert_eq!((mains, next), (vec![5], Revision(6)), "{said}");
        let matches = match kind {
            ErrorKind::Unavailable => matches!(end, WatchEnd::Unavailable(_)),
            ErrorKind::Refused => matches!(end, WatchEnd::Refused(_)),
            ErrorKind::Denied => matches!(end, WatchEnd::Denied(_)),
            _ => matches!(end, WatchEnd::Compacted { .. }),
        };
        assert!(matches, "{said}: {end:?}");
        assert_eq!(end.into_error().kind(), kind, "{said}");
    }
}

/// More than any fragment of an etcd that this product may meet: taken for garbage, not for data.
#[tokio::test]
async fn a_message_beyond_all_measure_is_refused() {
    let kv = KeyValue {
        key: "/a".into(),
        create_revision: 6,
        mod_revision: 6,
        version: 1,
        value: vec![1; 65 << 20].into(),
        lease: 0,
    };
    let event = Event { r#type: EventType::Put.into(), kv: kv.encode_to_vec().into() };
    let response = WatchResponse { events: vec![event], ..Default::default() };
    let (mains, end, _) = given(vec![puts(false, &[5]), response], WatchTail::Silence).await;
    assert_eq!(mains, [5]);
    assert!(matches!(end, WatchEnd::TooLarge { revision: Revision(6), .. }), "{end:?}");
}

#[tokio::test]
async fn a_watch_at_the_compact_revision_is_refused() {
    let script = Script { revision: 20, watch: vec![puts(false, &[5])], ..Script::default() };
    for compaction in [Compaction::Before(5), Compaction::DuringWatch(5), Compaction::Before(6)] {
        let (fake, member) = pinned(Script { compaction, ..script.clone() }).await;
        let Err(WatchEnd::Compacted { at: Some(at) }) = watch(&member, 5).await else { panic!("{compaction:?}") };
        assert!(at >= Revision(5), "{compaction:?}");
        fake.streams_are_closed().await;
    }
    let (_fake, member) = pinned(Script { compaction: Compaction::Before(4), ..script }).await;
    assert_eq!(watch(&member, 5).await.unwrap().next().await.unwrap().last, Revision(5));
}

/// A watch that is late reads the database, and a compaction may come between: what it gave of that is proven.
#[tokio::test]
async fn a_compaction_under_a_late_watch_is_noticed() {
    let late = vec![puts(false, &[5, 6]), puts(false, &[7, 8])];
    let (fake, member) = pinned(Script { revision: 20, watch: late, ..Script::default() }).await;
    let mut stream = watch(&member, 5).await.unwrap();
    assert_eq!(stream.next().await.unwrap().last, Revision(6));
    fake.compact(7);
    let end = stream.next().await.unwrap_err();
    assert!(matches!(end, WatchEnd::Compacted { at: Some(Revision(7)) }), "{end:?}");
    assert_eq!(stream.next_revision(), Revision(7));
    fake.streams_are_closed().await;
    // One that is not late is given its events as they are made.
    let live = vec![puts(false, &[20])];
    let (fake, member) = pinned(Script { revision: 20, watch: live, ..Script::default() }).await;
    let mut stream = watch(&member, 20).await.unwrap();
    fake.compact(20);
    assert_eq!(stream.next().await.unwrap().last, Revision(20));
}

#[tokio::test]
async fn a_load_balancer_in_between_is_refused() {
    let (fake, member) = pinned(Script { key_member: 0xa2, revision: 20, ..Script::default() }).await;
    let Err(WatchEnd::Refused(error)) = watch(&member, 5).await else { panic!("it was not refused") };
    assert_eq!(error.kind(), ErrorKind::Refused);
    fake.streams_are_closed().await;
}

fn with_login(script: Script) -> Script {
    Script { credentials: Some(("root".to_owned(), "right".to_owned())), ..script }
}

async fn pin_as_root(fake: &FakeEtcd) -> Member {
    let mut options = options(fake);
    options.credentials = Some(("root".to_owned(), SecretText::new("right")));
    Member::pin(&options, &Silent).await.unwrap()
}

#[tokio::test]
async fn a_watch_with_a_stale_token_logs_in_once() {
    let script = with_login(Script { revision: 20, watch: vec![puts(false, &[5])], ..Script::default() });
    let fake = FakeEtcd::start(script).await;
    let member = pin_as_root(&fake).await;
    let before = fake.logins();
    fake.forget_tokens();
    assert_eq!(watch(&member, 5).await.unwrap().next().await.unwrap().last, Revision(5));
    assert_eq!(fake.logins(), before + 1);
    fake.streams_are_closed().await;
}

/// Each login costs etcd a password hash: those who find the token stale at the same time share one.
#[tokio::test]
async fn many_questions_with_a_stale_token_log_in_once() {
    let leases = (1..=100).map(|id| (id, 60)).collect();
    let fake = FakeEtcd::start(with_login(Script { leases, ..Script::default() })).await;
    let member = pin_as_root(&fake).await;
    let before = fake.logins();
    fake.forget_tokens();
    let known: Vec<_> = member.lease_ttls_s(1..=100).try_collect().await.unwrap();
    assert_eq!((known.len(), fake.logins()), (100, before + 1));
}

#[tokio::test]
async fn leases_are_asked_about_a_few_at_a_time() {
    let leases: Vec<(i64, i64)> = (-500..500).filter(|id| *id != 0).map(|id| (id, 1000 + id)).collect();
    let (fake, member) = pinned(Script { leases: leases.clone(), ..Script::default() }).await;
    let mut ids = member.leases().await.unwrap();
    ids.push(12345);
    let mut known: Vec<_> = member.lease_ttls_s(ids).try_collect().await.unwrap();
    known.sort_unstable();
    assert_eq!(known.pop(), Some((12345, None)), "gone");
    assert_eq!(known, leases.into_iter().map(|(id, ttl)| (id, Some(ttl))).collect::<Vec<_>>());
    assert!((2..=8).contains(&fake.lease_questions_at_once()), "{} at once", fake.lease_questions_at_once());
}

#[tokio::test]
async fn a_change_of_users_or_roles_is_seen() {
    let user = |name: &str, roles: &[&str]| (name.to_owned(), roles.iter().map(|role| (*role).to_owned()).collect());
    let role = |name: &str, key: &str| (name.to_owned(), key.as_bytes().to_vec());
    let first = Script { users: vec![user("a", &["r"]), user("b", &[])], ..Script::default() };
    let first = Script { roles: vec![role("r", "/x"), role("s", "/y")], ..first };
    let mark = async |script: Script| {
        let fake = FakeEtcd::start(script).await;
        pin_as_root(&fake).await.auth_mark().await.unwrap()
    };
    let mut other_order = first.clone();
    other_order.users.reverse();
    other_order.roles.reverse();
    assert_eq!(mark(first.clone()).await, mark(other_order).await);
    let changes = [
        Script { users: vec![user("a", &["r"])], ..first.clone() },
        Script { users: vec![user("a", &[]), user("b", &["r"])], ..first.clone() },
        Script { roles: vec![role("r", "/x"), role("s", "/z")], ..first.clone() },
        Script { roles: vec![role("r", "/x"), role("s", "/y"), role("t", "")], ..first.clone() },
        with_login(first.clone()),
    ];
    for change in changes {
        assert_ne!(mark(first.clone()).await, mark(change.clone()).await, "{change:?}");
    }
    let counted = |auth_revision| Script { auth_revision: Some(auth_revision), ..Script::default() };
    assert_eq!(mark(counted(7)).await, mark(Script { users: vec![user("c", &[])], ..counted(7) }).await);
    assert_ne!(mark(counted(7)).await, mark(counted(8)).await);
    assert_ne!(mark(counted(7)).await, mark(with_login(counted(7))).await);
}

#[tokio::test]
async fn a_member_that_lags_is_waited_for() {
    let (_fake, member) = pinned(Script { lag: 3, revision: 20, ..Script::default() }).await;
    let standing = member.standing(Duration::from_secs(30)).await.unwrap();
    assert_eq!((standing.cluster, standing.revision, standing.raft_index), (ClusterId(0xc1), Revision(20), 15));
    let (_fake, member) = pinned(Script { lag: 1000, revision: 20, ..Script::default() }).await;
    let error = member.standing(Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_compact_revision_is_asked_for_only_where_something_is_compacted() {
    // The events would be those of a whole database.
    let (fake, member) = pinned(Script { revision: 20, watch: vec![puts(false, &[2])], ..Script::default() }).await;
    assert_eq!(member.compact_revision().await.unwrap(), None);
    assert_eq!((fake.watches(), fake.open_streams()), (0, 0));
    fake.compact(11);
    assert_eq!(member.compact_revision().await.unwrap(), Some(Revision(11)));
    assert_eq!(member.readable(Revision(10)).await.unwrap(), Readable::Compacted);
    assert_eq!(member.readable(Revision(11)).await.unwrap(), Readable::Yes);
    assert_eq!(member.readable(Revision(21)).await.unwrap(), Readable::NotYet);
    fake.streams_are_closed().await;
}

/// What swallows packets is told apart from what does not answer.
#[tokio::test]
async fn an_endpoint_that_swallows_everything_is_called_unreachable() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    // Linux drops the first packets of further connections once the queue of those not yet taken up is full.
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(500), tokio::net::TcpStream::connect(address)).await
    {
        queued.push(stream);
    }
    let mut options = EtcdOptions::new([address.to_string()]);
    options.connect_timeout = Duration::from_millis(500);
    let error = Member::pin(&options, &Silent).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let hint = error.next_step().unwrap();
    assert!(hint.contains("firewall") && !hint.contains("overloaded"), "{error:?}");
}
