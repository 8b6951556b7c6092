//! The stores from outside: the conformance suite on each, and every fault by its name.
//!
//! Requests are counted and never timed; waits between attempts are a millisecond.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcdbr_engine::ErrorKind;
use etcdbr_engine::store::conformance::{self, Scale};
use etcdbr_engine::store::faulty::{Call, FaultyStore};
use etcdbr_engine::store::{
    ByteRange, ETag, ListQuery, LocalStore, ObjectStore, Pace, PartNumber, Provider, RetryPolicy, StoreOptions, open,
};
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};

const BUCKET: &str = "bucket";
const PART_BYTES: u64 = 300 << 10;
const MAX_ATTEMPTS: u64 = 8;

async fn start() -> (S3Server, Arc<dyn ObjectStore>) {
    start_as(Mode::Ecs).await
}

async fn start_as(mode: Mode) -> (S3Server, Arc<dyn ObjectStore>) {
    let server = S3Server::start(mode, BUCKET).await;
    let store = open(&server.options(BUCKET)).await.unwrap();
    (server, store)
}

/// A store that loses patience after 100 ms.
async fn impatient(server: &S3Server) -> Arc<dyn ObjectStore> {
    let mut options = server.options(BUCKET);
    let patience = Duration::from_millis(100);
    options.pace = Pace { window: patience, answer_timeout: patience, complete_timeout: patience, ..Pace::default() };
    open(&options).await.unwrap()
}

fn body(bytes: u64) -> Bytes {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

/// An upload of two parts, up to its completion.
async fn upload(store: &dyn ObjectStore) -> etcdbr_engine::Result<Bytes> {
    let body = body(PART_BYTES + 9);
    let upload = store.start_upload("a/upload", PART_BYTES).await?;
    upload.put_part(PartNumber(1), body.slice(..PART_BYTES as usize)).await?;
    upload.put_part(PartNumber(2), body.slice(PART_BYTES as usize..)).await?;
    upload.complete().await?;
    Ok(body)
}

async fn read_all(store: &dyn ObjectStore, key: &str, len: u64) -> etcdbr_engine::Result<Bytes> {
    Ok(store.read(key, ByteRange::Exact { start: 0, len }, None).await?.bytes)
}

#[tokio::test]
async fn plain_s3_conforms() {
    let (_server, store) = start_as(Mode::Plain).await;
    conformance::run(store.as_ref(), "a/prefix", &Scale::small()).await.assert_clean();
}

#[tokio::test]
async fn ecs_conforms() {
    let (server, store) = start_as(Mode::Ecs).await;
    conformance::run(store.as_ref(), "a/prefix", &Scale::small()).await.assert_clean();
    assert_eq!((server.keys().len(), server.pending().len()), (0, 0), "the suite leaves nothing");
}

#[tokio::test]
async fn a_decorated_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::new(Arc::new(LocalStore::new(dir.path()).unwrap()));
    conformance::run(&store, "a/prefix", &Scale::small()).await.assert_clean();
    assert!(store.count(Call::Complete) > 0);
}

#[tokio::test]
async fn ecs_refuses_what_amazon_takes() {
    let server = S3Server::start(Mode::Ecs, BUCKET).await;
    let options = server.options(BUCKET);
    // The SDK as it comes, with its checksums: the mode must notice.
    let keys = aws_credential_types::Credentials::new(server.access_key(), server.secret_key(), None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(keys)
        .region(aws_sdk_s3::config::Region::new("us-east-1"))
        .endpoint_url(server.endpoint())
        .force_path_style(true)
        .build();
    let client = aws_sdk_s3::Client::from_conf(config);
    let put = client.put_object().bucket(BUCKET).key("k").body(Bytes::from_static(b"x").into()).send().await;
    assert_eq!(put.unwrap_err().raw_response().unwrap().status().as_u16(), 400);
    open(&options).await.unwrap().put("k", Bytes::from_static(b"x")).await.unwrap();
}

#[tokio::test]
async fn a_store_that_answers_403_is_denied_at_once() {
    let (server, store) = start().await;
    for operation in [Operation::Put, Operation::Get, Operation::List, Operation::Create, Operation::Delete] {
        server.fail_all(operation, Act::Answer(403, "AccessDenied"));
    }
    let errors = [
        store.put("a/k", body(1)).await.unwrap_err(),
        read_all(store.as_ref(), "a/k", 1).await.unwrap_err(),
        store.list(&ListQuery::default()).await.unwrap_err(),
        upload(store.as_ref()).await.unwrap_err(),
        store.delete(&["a/k".into()]).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.next_step().unwrap().contains("credentials") && error.to_string().contains("bucket"), "{error}");
    }
    for operation in [Operation::Put, Operation::Get, Operation::List, Operation::Create, Operation::Delete] {
        assert_eq!(server.count(operation), 1, "{operation:?}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_denied() {
    let server = S3Server::start(Mode::Ecs, BUCKET).await;
    let lookup = |name: &str| match name {
        "ECS_ENDPOINT" => Some(server.endpoint().to_owned()),
        "ECS_ACCESS_KEY_ID" => Some("somebody".to_owned()),
        "ECS_SECRET_ACCESS_KEY" => Some("else".to_owned()),
        _ => None,
    };
    let store = open(&StoreOptions::ecs_from_env(BUCKET, None, lookup).unwrap()).await.unwrap();
    let error = store.list(&ListQuery::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(error.next_step(), Some("the store does not know this access key"));
}

#[tokio::test]
async fn an_unknown_bucket_is_named_at_once() {
    let server = S3Server::start(Mode::Ecs, BUCKET).await;
    let store = open(&server.options("nowhere")).await.unwrap();
    for error in [
        store.put("a/k", body(1)).await.unwrap_err(),
        store.list(&ListQuery::default()).await.unwrap_err(),
        upload(store.as_ref()).await.unwrap_err(),
        read_all(store.as_ref(), "a/k", 1).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("no such bucket nowhere"), "{error}");
    }
    assert_eq!((server.count(Operation::Put), server.count(Operation::List)), (1, 1));
}

#[tokio::test]
async fn a_store_that_answers_500_or_503_once_is_asked_again() {
    let (server, store) = start().await;
    use Operation::{Complete, Create, Delete, Get, Head, List, Part, Put};
    for operation in [Complete, Create, Delete, Get, Head, List, Part, Put] {
        server.fail_nth(operation, 1, Act::Answer(503, "SlowDown"));
        server.fail_nth(operation, 2, Act::Answer(500, "InternalError"));
        server.fail_nth(operation, 3, Act::Answer(429, "TooManyRequests"));
    }
    store.put("a/k", body(10)).await.unwrap();
    assert_eq!(read_all(store.as_ref(), "a/k", 10).await.unwrap(), body(10));
    assert_eq!(store.head("a/k").await.unwrap().bytes, 10);
    assert_eq!(store.list(&ListQuery::default()).await.unwrap().objects.len(), 1);
    let sent = upload(store.as_ref()).await.unwrap();
    assert_eq!(server.object("a/upload").unwrap(), sent);
    store.delete(&["a/k".into()]).await.unwrap();
    for operation in [Create, Delete, Get, List, Put, Complete] {
        assert_eq!(server.count(operation), 4, "{operation:?}");
    }
    assert_eq!(server.count(Part), 5);
}

#[tokio::test]
async fn a_store_that_stays_at_500_or_503_is_unavailable_after_eight_attempts() {
    for (status, code) in [(500, "InternalError"), (503, "SlowDown")] {
        let (server, store) = start().await;
        server.fail_all(Operation::Put, Act::Answer(status, code));
        server.fail_all(Operation::Get, Act::Answer(status, code));
        let error = store.put("a/k", body(10)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains(code) && error.to_string().contains("a/k"), "{error}");
        let error = read_all(store.as_ref(), "a/k", 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!((server.count(Operation::Put), server.count(Operation::Get)), (MAX_ATTEMPTS, MAX_ATTEMPTS));
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable() {
    let (server, store) = start().await;
    let endpoint = server.endpoint().to_owned();
    drop(server);
    tokio::task::yield_now().await;
    let error = store.put("a/k", body(10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&endpoint) && error.next_step().is_some(), "{error:?}");
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_part_sends_it_again() {
    let (server, store) = start().await;
    server.fail_nth(Operation::Part, 1, Act::CutRequest(100_000));
    server.fail_nth(Operation::Put, 1, Act::CutRequest(1));
    let sent = upload(store.as_ref()).await.unwrap();
    assert_eq!(server.object("a/upload").unwrap(), sent);
    assert_eq!(server.count(Operation::Part), 3);
    store.put("a/k", body(10)).await.unwrap();
    assert_eq!(server.count(Operation::Put), 2);
}

#[tokio::test]
async fn a_body_that_breaks_goes_on_where_it_broke() {
    let (server, store) = start().await;
    store.put("a/k", body(400_000)).await.unwrap();
    server.fail_nth(Operation::Get, 1, Act::CutBody(100_000));
    server.fail_nth(Operation::Get, 2, Act::CutBody(200_000));
    let answer = store.read("a/k", ByteRange::Suffix(390_000), None).await.unwrap();
    assert_eq!(answer.bytes, body(400_000).slice(10_000..));
    assert_eq!((answer.start, answer.object_bytes, server.count(Operation::Get)), (10_000, 400_000, 3));
}

#[tokio::test]
async fn a_body_that_breaks_is_never_stitched_to_another_version() {
    let (server, store) = start().await;
    store.put("a/k", body(400_000)).await.unwrap();
    server.fail_nth(Operation::Get, 1, Act::CutBody(100_000));
    server.fail_nth(Operation::Get, 2, Act::Replace);
    let error = read_all(store.as_ref(), "a/k", 400_000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("a/k") && error.to_string().contains("changed"), "{error}");
}

#[tokio::test]
async fn a_body_that_always_breaks_is_an_error_and_not_a_shorter_answer() {
    let (server, store) = start().await;
    store.put("a/k", body(400_000)).await.unwrap();
    server.fail_all(Operation::Get, Act::CutBody(0));
    let error = read_all(store.as_ref(), "a/k", 400_000).await.unwrap_err();
    assert_eq!((error.kind(), server.count(Operation::Get)), (ErrorKind::Unavailable, MAX_ATTEMPTS));
    assert!(error.to_string().contains("a/k"), "{error}");
}

#[tokio::test]
async fn a_store_that_ignores_ranges_is_refused() {
    let (server, store) = start().await;
    store.put("a/k", body(1_000)).await.unwrap();
    server.fail_all(Operation::Get, Act::IgnoreRange);
    assert_eq!(read_all(store.as_ref(), "a/k", 1_000).await.unwrap(), body(1_000));
    let range = ByteRange::Exact { start: 1, len: 10 };
    assert_eq!(store.read("a/k", range, None).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_slow_trickle_is_cut_and_asked_for_again() {
    let server = S3Server::start(Mode::Ecs, BUCKET).await;
    let store = impatient(&server).await;
    store.put("a/k", body(400_000)).await.unwrap();
    server.fail_nth(Operation::Get, 1, Act::Trickle);
    server.fail_nth(Operation::List, 1, Act::Trickle);
    assert_eq!(read_all(store.as_ref(), "a/k", 400_000).await.unwrap(), body(400_000));
    assert_eq!(server.count(Operation::Get), 2);
    assert_eq!(store.list(&ListQuery::default()).await.unwrap().objects.len(), 1);
    assert_eq!(server.count(Operation::List), 2);
}

#[tokio::test]
async fn a_store_that_only_trickles_is_unavailable() {
    let server = S3Server::start(Mode::Ecs, BUCKET).await;
    let mut options = server.options(BUCKET);
    options.retry = RetryPolicy { max_attempts: 3, ..options.retry };
    options.pace = Pace { window: Duration::from_millis(100), ..Pace::default() };
    let store = open(&options).await.unwrap();
    store.put("a/k", body(400_000)).await.unwrap();
    server.fail_all(Operation::Get, Act::Trickle);
    let error = read_all(store.as_ref(), "a/k", 400_000).await.unwrap_err();
    assert_eq!((error.kind(), server.count(Operation::Get)), (ErrorKind::Unavailable, 3));
    assert!(error.to_string().contains("only"), "{error}");
}

#[tokio::test]
async fn a_store_that_says_nothing_is_asked_again() {
    let server = S3Server::start(Mode::Ecs, BUCKET).await;
    let store = impatient(&server).await;
    for operation in [Operation::Put, Operation::Get, Operation::Part] {
        server.fail_nth(operation, 1, Act::Silence);
    }
    store.put("a/k", body(5_000_000)).await.unwrap();
    assert_eq!(read_all(store.as_ref(), "a/k", 5_000_000).await.unwrap(), body(5_000_000));
    upload(store.as_ref()).await.unwrap();
    assert_eq!((server.count(Operation::Put), server.count(Operation::Get), server.count(Operation::Part)), (2, 2, 3));
}

#[tokio::test]
async fn a_lost_answer_of_a_put_writes_the_same_bytes_again() {
    let (server, store) = start().await;
    server.fail_nth(Operation::Put, 1, Act::LoseAnswer);
    store.put("a/k", body(10)).await.unwrap();
    assert_eq!((server.object("a/k").unwrap(), server.count(Operation::Put)), (body(10), 2));
}

#[tokio::test]
async fn a_lost_answer_of_complete_is_settled_by_head() {
    let (server, store) = start().await;
    server.fail_nth(Operation::Complete, 1, Act::LoseAnswer);
    let sent = upload(store.as_ref()).await.unwrap();
    assert_eq!(server.object("a/upload").unwrap(), sent);
    assert_eq!((server.count(Operation::Complete), server.count(Operation::Head)), (1, 1));
}

#[tokio::test]
async fn an_upload_that_is_gone_was_completed_or_must_start_again() {
    let (server, store) = start().await;
    // The first answer is lost and so is that of the HEAD; the second complete hears that there is no such upload.
    server.fail_nth(Operation::Complete, 1, Act::LoseAnswer);
    server.fail_nth(Operation::Head, 1, Act::Answer(503, "SlowDown"));
    upload(store.as_ref()).await.unwrap();
    assert_eq!((server.count(Operation::Complete), server.count(Operation::Head)), (2, 2));
    server.fail_all(Operation::Complete, Act::Answer(404, "NoSuchUpload"));
    let upload = store.start_upload("a/other", PART_BYTES).await.unwrap();
    upload.put_part(PartNumber(1), body(1)).await.unwrap();
    let error = upload.complete().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("gone"), "{error}");
    upload.abort().await.unwrap();
    assert!(server.pending().is_empty());
}

#[tokio::test]
async fn an_error_inside_a_200_is_an_error() {
    let (server, store) = start().await;
    server.fail_nth(Operation::Complete, 1, Act::ErrorInside("InternalError"));
    upload(store.as_ref()).await.unwrap();
    assert_eq!(server.count(Operation::Complete), 2);
    server.fail_all(Operation::Complete, Act::ErrorInside("AccessDenied"));
    let refused = store.start_upload("a/other", PART_BYTES).await.unwrap();
    refused.put_part(PartNumber(1), body(1)).await.unwrap();
    refused.complete().await.unwrap_err();
    assert!(server.object("a/other").is_none());
}

#[tokio::test]
async fn an_upload_that_fails_can_be_taken_back() {
    let (server, store) = start().await;
    server.fail_all(Operation::Part, Act::Answer(500, "InternalError"));
    server.fail_nth(Operation::Abort, 1, Act::LoseAnswer);
    let upload = store.start_upload("a/upload", PART_BYTES).await.unwrap();
    assert_eq!(upload.put_part(PartNumber(1), body(10)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(server.pending().len(), 1);
    upload.abort().await.unwrap();
    assert_eq!((server.pending().len(), server.keys().len()), (0, 0));
}

#[tokio::test]
async fn an_object_that_is_shorter_than_its_range_is_damaged() {
    let (server, store) = start().await;
    store.put("a/k", body(100)).await.unwrap();
    let etag = store.head("a/k").await.unwrap().etag;
    let range = ByteRange::Exact { start: 100, len: 1 };
    let error = store.read("a/k", range, Some(&etag)).await.unwrap_err();
    assert_eq!((error.kind(), server.count(Operation::Get)), (ErrorKind::Damaged, 1));
    let other = ETag("\"other\"".into());
    let error = store.read("a/k", ByteRange::Suffix(1), Some(&other)).await.unwrap_err();
    assert_eq!((error.kind(), server.count(Operation::Get)), (ErrorKind::Damaged, 2));
}

#[tokio::test]
async fn https_to_a_plain_port_says_what_to_do() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let mut options = server.options(BUCKET);
    options.endpoint = Some(server.endpoint().replace("http://", ""));
    let error = open(&options).await.unwrap().put("k", body(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.next_step().unwrap().contains("http://"), "{error:?}");
}

#[tokio::test]
async fn options_that_cannot_be_right_are_refused_before_anything_is_sent() {
    let mut options = StoreOptions::new(Provider::S3, "");
    assert_eq!(open(&options).await.unwrap_err().kind(), ErrorKind::Invalid);
    options.container = BUCKET.into();
    options.endpoint = Some("ftp://host".into());
    assert_eq!(open(&options).await.unwrap_err().kind(), ErrorKind::Invalid);
    let options = StoreOptions::new(Provider::Ecs, BUCKET);
    assert_eq!(open(&options).await.unwrap_err().kind(), ErrorKind::Invalid);
}
