//! A file behind a URL comes whole and of one version, or not at all, whatever its server does.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use etcdbr_engine::clock::Clock;
use etcdbr_engine::store::{HttpObject, HttpOptions, Lanes, Pace, RetryPolicy, SourceUrl, Transfer};
use etcdbr_engine::tls::TlsOptions;
use etcdbr_engine::{Error, ErrorKind, Result};
use etcdbr_tests::file_server::{Act, FileServer, Manner, SECRET};
use etcdbr_tests::load::Noise;
use etcdbr_tests::tls::TestTls;
use futures::TryStreamExt;

const RANGE_BYTES: u64 = 64 << 10;
const MAX_ATTEMPTS: usize = 8;

fn file(seed: u64) -> Bytes {
    // No multiple of the range.
    Noise::new(seed).bytes(700_001).into()
}

fn ranges_of(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(RANGE_BYTES)).unwrap()
}

fn options() -> HttpOptions {
    let mut options = HttpOptions::new(TlsOptions::default(), Clock::system());
    options.retry = RetryPolicy { base: Duration::from_millis(1), ..RetryPolicy::default() };
    options
}

/// Patience of a test for servers that stall.
fn impatient() -> HttpOptions {
    let window = Duration::from_millis(200);
    HttpOptions { pace: Pace { window, answer_timeout: window, ..Pace::default() }, ..options() }
}

async fn open(url: &str, options: &HttpOptions) -> Result<HttpObject> {
    HttpObject::open(SourceUrl::parse(url)?, options, Lanes { range_bytes: RANGE_BYTES, parallel: 4 }).await
}

async fn fetch(server: &FileServer, options: &HttpOptions) -> Result<Bytes> {
    let object = open(&server.url(), options).await?;
    let object_bytes = object.object_bytes();
    let pieces: Vec<Bytes> = object.into_pieces().try_collect().await?;
    let whole: BytesMut = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
    assert_eq!(whole.len() as u64, object_bytes);
    Ok(whole.freeze())
}

/// An error of this kind that says these words and names the URL, but not its query.
fn assert_error(error: &Error, kind: ErrorKind, words: &[&str]) {
    let said = format!("{error:?}");
    assert_eq!(error.kind(), kind, "{said}");
    for word in words.iter().chain(&["/backups/snapshot.db?…"]) {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(!said.contains(SECRET), "{said}");
}

async fn start_with(change: impl FnOnce(&mut Manner)) -> FileServer {
    let server = FileServer::start(file(1)).await;
    server.manner(change);
    server
}

#[tokio::test]
async fn ranges_are_pinned_and_nothing_but_the_url_is_sent() {
    let server = start_with(|_| {}).await;
    assert_eq!(fetch(&server, &options()).await.unwrap(), file(1));
    let seen = server.seen();
    assert_eq!(seen.len(), ranges_of(700_001));
    assert_eq!((seen[0].header("range"), seen[0].header("if-match")), ("bytes=0-65535", ""));
    for request in &seen {
        assert_eq!(request.method, "GET", "HEAD is refused where a GET is signed");
        assert!(request.path.contains(SECRET));
        for absent in ["authorization", "cookie", "referer"] {
            assert!(!request.headers.contains_key(absent), "{absent}");
        }
        assert_eq!(request.header("accept-encoding"), "identity");
    }
    assert!(seen[1..].iter().all(|request| request.header("if-match").starts_with('"')));
}

#[tokio::test]
async fn a_file_of_one_range_takes_one_request() {
    let server = FileServer::start(file(1).slice(..100)).await;
    assert_eq!(fetch(&server, &options()).await.unwrap(), file(1).slice(..100));
    assert_eq!(server.seen().len(), 1);
}

/// On a server that is slow to answer that is what beats one stream.
#[tokio::test]
async fn ranges_are_under_way_in_parallel() {
    let whole = Bytes::from(Noise::new(3).bytes(13 * RANGE_BYTES as usize));
    let server = FileServer::start(whole.clone()).await;
    // After the first request an answer is given only once four of them wait for one.
    server.manner(|manner| manner.gather = 4);
    assert_eq!(fetch(&server, &options()).await.unwrap(), whole);
    assert_eq!(server.seen().len(), 13);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_in_one_stream() {
    let server = start_with(|manner| manner.ranges = false).await;
    assert_eq!(open(&server.url(), &options()).await.unwrap().transfer(), Transfer::OneStream);
    assert_eq!(fetch(&server, &options()).await.unwrap(), file(1));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_server_that_says_nothing_of_versions_is_read_in_one_stream() {
    let server = start_with(|manner| (manner.etag, manner.last_modified) = ("", false)).await;
    assert_eq!(fetch(&server, &options()).await.unwrap(), file(1));
    let ranges: Vec<_> = server.seen().iter().map(|request| request.header("range").to_owned()).collect();
    assert_eq!(ranges, ["bytes=0-65535", ""]);
}

#[tokio::test]
async fn a_weak_tag_pins_nothing_and_the_time_of_the_file_is_compared() {
    let server = start_with(|manner| manner.etag = "W/\"{}\"").await;
    assert_eq!(fetch(&server, &options()).await.unwrap(), file(1));
    assert!(server.seen().iter().all(|request| !request.headers.contains_key("if-match")));
    assert_eq!(server.seen().len(), ranges_of(700_001));
    server.manner(|manner| manner.etag = "");
    server.fail_nth(3, Act::Replace(file(2).slice(..600_000)));
    assert_error(&fetch(&server, &options()).await.unwrap_err(), ErrorKind::Damaged, &["changed"]);
}

#[tokio::test]
async fn a_file_that_changes_is_never_stitched_together() {
    let server = start_with(|_| {}).await;
    server.fail_nth(3, Act::Replace(file(2)));
    assert_error(&fetch(&server, &options()).await.unwrap_err(), ErrorKind::Damaged, &["changed", "start over"]);
    // A server that ignores If-Match is caught by its ETag.
    let server = start_with(|manner| manner.conditions = false).await;
    server.fail_nth(3, Act::Replace(file(2)));
    assert_error(&fetch(&server, &options()).await.unwrap_err(), ErrorKind::Damaged, &["changed"]);
}

#[tokio::test]
async fn a_stream_that_breaks_begins_again_and_gives_nothing_twice() {
    let server = start_with(|manner| manner.ranges = false).await;
    server.fail_nth(1, Act::CutBody(300_000));
    server.fail_nth(2, Act::CutBody(200_000));
    server.fail_nth(3, Act::CutBody(500_000));
    assert_eq!(fetch(&server, &options()).await.unwrap(), file(1));
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn a_stream_that_begins_again_with_other_bytes_is_refused() {
    // Nothing but the bytes themselves tells that it changed.
    let server = start_with(|manner| {
        (manner.ranges, manner.etag, manner.last_modified) = (false, "", false);
    })
    .await;
    server.fail_nth(1, Act::CutBody(300_000));
    server.fail_nth(2, Act::Replace(file(2)));
    assert_error(&fetch(&server, &options()).await.unwrap_err(), ErrorKind::Damaged, &["changed"]);
}

#[tokio::test]
async fn a_range_that_breaks_goes_on_where_it_broke() {
    let server = start_with(|_| {}).await;
    server.fail_nth(1, Act::CutBody(10_000));
    server.fail_nth(2, Act::CutBody(20_000));
    assert_eq!(fetch(&server, &options()).await.unwrap(), file(1));
    let seen = server.seen();
    assert_eq!((seen[1].header("range"), seen[2].header("range")), ("bytes=10000-65535", "bytes=30000-65535"));
    assert!(seen[1].header("if-match").starts_with('"'));
}

#[tokio::test]
async fn a_server_may_answer_with_less_than_was_asked_for() {
    let server = start_with(|manner| manner.longest_range = 40_000).await;
    let (url, options) = (SourceUrl::parse(&server.url()).unwrap(), options());
    let open = || HttpObject::open(url.clone(), &options, Lanes { range_bytes: 100_000, parallel: 2 });
    assert_error(&open().await.unwrap_err(), ErrorKind::Invalid, &["only 40000"]);
    server.manner(|manner| manner.longest_range = 70_000);
    let pieces: Vec<Bytes> = open().await.unwrap().into_pieces().try_collect().await.unwrap();
    assert_eq!(pieces.concat(), file(1));
}

#[tokio::test]
async fn what_passes_is_asked_for_again() {
    let server = start_with(|_| {}).await;
    for (nth, act) in [
        (1, Act::Answer(503, "<Error><Code>SlowDown</Code></Error>".into())),
        (2, Act::Hangup),
        (4, Act::Answer(500, String::new())),
        (5, Act::Answer(429, String::new())),
        (6, Act::ForgetRanges),
    ] {
        server.fail_nth(nth, act);
    }
    assert_eq!(fetch(&server, &options()).await.unwrap(), file(1));
    assert_eq!(server.seen().len(), ranges_of(700_001) + 5);
}

#[tokio::test]
async fn a_server_that_stays_down_or_keeps_breaking_is_unavailable() {
    let server = start_with(|_| {}).await;
    server.fail_from(1, Act::Answer(503, "<Error><Code>SlowDown</Code></Error>".into()));
    assert_error(&fetch(&server, &options()).await.unwrap_err(), ErrorKind::Unavailable, &["503", "SlowDown"]);
    assert_eq!(server.seen().len(), MAX_ATTEMPTS);
    for ranges in [true, false] {
        let server = start_with(|manner| manner.ranges = ranges).await;
        server.fail_from(1, Act::CutBody(100));
        assert_error(&fetch(&server, &options()).await.unwrap_err(), ErrorKind::Unavailable, &["broke off"]);
        assert_eq!(server.seen().len(), MAX_ATTEMPTS);
    }
    let url = server.url();
    drop(server);
    tokio::task::yield_now().await;
    assert_error(&open(&url, &options()).await.unwrap_err(), ErrorKind::Unavailable, &["server up"]);
}

#[tokio::test]
async fn a_server_that_stalls_or_says_nothing_is_asked_again() {
    for ranges in [true, false] {
        let server = start_with(|manner| manner.ranges = ranges).await;
        server.fail_nth(1, Act::Silence);
        server.fail_nth(2, Act::Stall(10_000));
        server.fail_nth(3, Act::Stall(30_000));
        assert_eq!(fetch(&server, &impatient()).await.unwrap(), file(1), "ranges: {ranges}");
    }
    let server = start_with(|_| {}).await;
    server.fail_from(1, Act::Stall(10));
    assert_error(&fetch(&server, &impatient()).await.unwrap_err(), ErrorKind::Unavailable, &["only", "within 200 ms"]);
}

/// The one who reads may take his time: that is no stall.
#[tokio::test]
async fn a_slow_reader_is_not_a_server_that_stalls() {
    for ranges in [true, false] {
        let server = start_with(|manner| manner.ranges = ranges).await;
        let object = open(&server.url(), &impatient()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut pieces = object.into_pieces();
        let mut whole = Vec::new();
        while let Some(piece) = pieces.try_next().await.unwrap() {
            whole.extend_from_slice(&piece);
            if whole.len() < 200_000 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        assert_eq!(whole, file(1), "ranges: {ranges}");
        assert_eq!(server.seen().len(), if ranges { ranges_of(700_001) } else { 1 });
    }
}

#[tokio::test]
async fn an_expired_url_is_told_from_other_refusals() {
    let server = start_with(|_| {}).await;
    let xml = |code: &str, message: &str| format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let dated = |date: &str| format!("{}&X-Amz-Date={date}&X-Amz-Expires=60", server.url());
    let url = dated("20260102T030405Z");
    for (status, body, kind, words) in [
        (403, xml("AccessDenied", "Request has expired"), ErrorKind::Denied, "expired at 2026-01-02T03:05:05.000Z"),
        // The reason got lost on the way, but the clock knows.
        (403, String::new(), ErrorKind::Denied, "expired at 2026-01-02T03:05:05.000Z"),
        (400, xml("ExpiredToken", "The provided token has expired."), ErrorKind::Denied, "session"),
        (403, xml("SignatureDoesNotMatch", "no"), ErrorKind::Denied, "quoted"),
        (404, xml("NoSuchKey", ""), ErrorKind::NotFound, "no such file"),
        (404, xml("NoSuchBucket", ""), ErrorKind::NotFound, "no such bucket"),
    ] {
        server.fail_nth(1, Act::Answer(status, body));
        assert_error(&open(&url, &options()).await.unwrap_err(), kind, &[words]);
    }
    // Without the store's word and before its time the URL is not called expired.
    server.fail_nth(1, Act::Answer(403, xml("AccessDenied", "Access Denied")));
    let error = open(&dated("22260102T030405Z"), &options()).await.unwrap_err();
    assert_error(&error, ErrorKind::Denied, &["refuses", "Access Denied", "whoever signed it"]);
    assert!(!error.to_string().contains("expired"), "{error}");
}

#[tokio::test]
async fn a_url_that_expires_on_the_way_says_so() {
    let server = start_with(|_| {}).await;
    let expired = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
    server.fail_from(4, Act::Answer(403, expired.into()));
    assert_error(&fetch(&server, &options()).await.unwrap_err(), ErrorKind::Denied, &["the URL expired"]);
}

#[tokio::test]
async fn answers_that_cannot_be_used_are_refused_at_once() {
    type Change = fn(&mut Manner);
    let changes: [(Change, &str); 2] = [
        (|manner| manner.coding = Some("gzip"), "encoded (gzip)"),
        (|manner| (manner.ranges, manner.length) = (false, false), "how long"),
    ];
    for (change, words) in changes {
        let server = start_with(change).await;
        assert_error(&open(&server.url(), &options()).await.unwrap_err(), ErrorKind::Invalid, &[words]);
        assert_eq!(server.seen().len(), 1);
    }
    let empty = FileServer::start(Bytes::new()).await;
    assert_error(&open(&empty.url(), &options()).await.unwrap_err(), ErrorKind::Damaged, &["empty"]);
}

#[tokio::test]
async fn redirects_are_followed_as_far_as_they_may_lead() {
    let (door, server) = (start_with(|_| {}).await, start_with(|_| {}).await);
    door.fail_from(1, Act::Redirect(server.url()));
    assert_eq!(fetch(&door, &options()).await.unwrap(), file(1));
    assert_eq!(door.seen().len(), server.seen().len(), "each request begins at the URL that was given");

    let round = start_with(|_| {}).await;
    round.fail_from(1, Act::Redirect(round.url()));
    assert_error(&open(&round.url(), &options()).await.unwrap_err(), ErrorKind::Invalid, &["redirects more than 5"]);
    assert_eq!(round.seen().len(), 6);
}

#[tokio::test]
async fn tls_is_checked_and_never_given_up() {
    let tls = TestTls::generate();
    let trusting = TlsOptions { ca_file: Some(tls.ca()), ..TlsOptions::default() };
    let trusting = HttpOptions { tls: trusting, ..options() };
    let secure = FileServer::start_tls(file(1), &tls).await;
    assert_eq!(fetch(&secure, &trusting).await.unwrap(), file(1));
    let seen = secure.seen().len();
    let error = open(&secure.url(), &options()).await.unwrap_err();
    assert_error(&error, ErrorKind::Denied, &["--store-cacert"]);
    assert_eq!(secure.seen().len(), seen);

    // From http to https, and never back.
    let plain = start_with(|_| {}).await;
    plain.fail_from(1, Act::Redirect(secure.url()));
    assert_eq!(fetch(&plain, &trusting).await.unwrap(), file(1));
    let (plain, asked) = (start_with(|_| {}).await, secure.url());
    secure.fail_from(1, Act::Redirect(plain.url()));
    assert_error(&open(&asked, &trusting).await.unwrap_err(), ErrorKind::Refused, &["from https to http://"]);
    assert!(plain.seen().is_empty());
}
