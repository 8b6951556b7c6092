//! An S3 server inside the test: it counts, it refuses what Dell ECS and its kin refuse, and it fails as planned.
//!
//! Written by hand over hyper, because half of what it is for is breaking HTTP in ways that no S3 library offers.
//! It checks the access key and, where a payload is signed, the payload's hash; not the signature itself, which
//! the tests against MinIO do.

mod bucket;
mod fault;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use etcdbr_engine::secret::SecretText;
use etcdbr_engine::store::{Credentials, Provider, RetryPolicy, StaticKeys, StoreOptions};
use futures::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use bucket::{Bucket, MODIFIED_HTTP, Object, Refusal, escape, hex};
use fault::Faults;
pub use fault::{Act, Operation};

const ACCESS_KEY: &str = "AKTESTACCESSKEY";
const SECRET_KEY: &str = "a-secret-of-the-tests";

/// Whom the server plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A store that takes whatever the SDK sends, short of `aws-chunked` bodies, which it could not decode.
    Plain,
    /// Dell ECS: checksums, trailers and bodies of no announced length are refused.
    Ecs,
}

/// A running server on a free loopback port. Stopped on drop.
#[derive(Debug)]
pub struct S3Server {
    endpoint: String,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    mode: Mode,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    buckets: BTreeMap<String, Bucket>,
    faults: Faults,
    /// How far its clock is off, seconds.
    clock_shift_s: i64,
}

impl S3Server {
    /// Starts a server with one bucket.
    ///
    /// # Panics
    /// Where there is no loopback.
    pub async fn start(mode: Mode, bucket: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let shared = Arc::new(Shared { mode, state: Mutex::default() });
        shared.lock().buckets.insert(bucket.to_owned(), Bucket::default());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self { endpoint, shared, accepting }
    }

    /// `http://127.0.0.1:port`
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The access key that it takes.
    pub fn access_key(&self) -> &str {
        ACCESS_KEY
    }

    /// Its secret.
    pub fn secret_key(&self) -> &str {
        SECRET_KEY
    }

    /// Options for a store in `bucket`, with waits of a millisecond between attempts.
    pub fn options(&self, bucket: &str) -> StoreOptions {
        let provider = if self.shared.mode == Mode::Ecs { Provider::Ecs } else { Provider::S3 };
        let mut options = StoreOptions::new(provider, bucket);
        options.endpoint = Some(self.endpoint.clone());
        options.credentials = Credentials::Static(StaticKeys {
            access_key: SecretText::new(ACCESS_KEY),
            secret_key: SecretText::new(SECRET_KEY),
            session_token: None,
        });
        options.retry = RetryPolicy { base: Duration::from_millis(1), ..RetryPolicy::default() };
        options
    }

    /// Plans `act` for the `nth` request of `operation` from now (1: the next).
    pub fn fail_nth(&self, operation: Operation, nth: u64, act: Act) {
        self.shared.lock().faults.plan(operation, nth, 1, act);
    }

    /// Plans `act` for all requests of `operation` from now on.
    pub fn fail_all(&self, operation: Operation, act: Act) {
        self.shared.lock().faults.plan(operation, 1, u64::MAX, act);
    }

    /// Its clock shows so many seconds more from now on.
    pub fn shift_clock(&self, seconds: i64) {
        self.shared.lock().clock_shift_s = seconds;
    }

    /// Nothing that was planned happens any more.
    pub fn heal(&self) {
        self.shared.lock().faults.heal();
    }

    /// Listings show no object that comes from now on; everything can be read.
    pub fn lag_listings(&self) {
        self.shared.lock().buckets.values_mut().for_each(|bucket| bucket.lag(true));
    }

    /// Listings show everything again.
    pub fn catch_listings_up(&self) {
        self.shared.lock().buckets.values_mut().for_each(|bucket| bucket.lag(false));
    }

    /// Requests for `operation` so far, failed ones included.
    pub fn count(&self, operation: Operation) -> u64 {
        self.shared.lock().faults.counts.get(&operation).copied().unwrap_or_default()
    }

    /// Keys of uploads that are not ended.
    pub fn pending(&self) -> Vec<String> {
        let state = self.shared.lock();
        state.buckets.values().flat_map(|bucket| bucket.uploads.values()).map(|upload| upload.key.clone()).collect()
    }

    /// Keys of objects.
    pub fn keys(&self) -> Vec<String> {
        let state = self.shared.lock();
        state.buckets.values().flat_map(|bucket| bucket.objects.keys()).cloned().collect()
    }

    /// Puts an object into `bucket` as if somebody had done so before.
    ///
    /// # Panics
    /// Where there is no such bucket.
    pub fn insert(&self, bucket: &str, key: &str, body: Bytes) {
        let mut state = self.shared.lock();
        let bucket = state.buckets.get_mut(bucket).expect("a bucket of this server");
        bucket.objects.insert(key.to_owned(), Object::new(body));
    }

    /// The bytes of an object, wherever it is.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        let state = self.shared.lock();
        state.buckets.values().find_map(|bucket| bucket.objects.get(key)).map(|object| object.body.clone())
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections die with this task.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { shared.answer(request).await.map(|answer| shared.dated(answer)) }
    });
    // A connection that a fault cuts ends with an error: that is its purpose.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Body = UnsyncBoxBody<Bytes, Cut>;

/// The connection is to be cut.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

/// A request, taken apart.
struct Asked {
    operation: Operation,
    bucket: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let (head, mut body) = request.into_parts();
        let Some(asked) = Asked::read(&head.method, head.uri.path(), head.uri.query().unwrap_or(""), head.headers)
        else {
            return Ok(refuse((501, "NotImplemented")));
        };
        let act = self.lock().faults.strike(asked.operation);
        match act {
            Some(Act::CutRequest(bytes)) => return cut_request(&mut body, bytes).await,
            Some(Act::Silence) => std::future::pending().await,
            Some(Act::Answer(status, code)) => {
                // The body is taken, so that the answer is not lost in a reset.
                let _ = body.collect().await;
                return Ok(refuse((status, code)));
            }
            _ => {}
        }
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        if let Err(refusal) = self.inspect(&asked, &body) {
            return Ok(refuse(refusal));
        }
        match act {
            Some(Act::ErrorInside(code)) => return Ok(xml(200, &error_xml(code))),
            Some(Act::Replace) => self.replace(&asked),
            _ => {}
        }
        let ignore_range = act == Some(Act::IgnoreRange);
        let answer = self.perform(&asked, body, ignore_range).unwrap_or_else(refuse);
        match act {
            Some(Act::LoseAnswer) => Err(Cut),
            Some(Act::CutBody(bytes)) => Ok(cut_body(answer, bytes).await),
            Some(Act::Trickle) => Ok(trickle(answer).await),
            _ => Ok(answer),
        }
    }

    /// With the `Date` of a clock that is off; hyper puts the right one.
    fn dated(&self, mut answer: Response<Body>) -> Response<Body> {
        let shift_s = self.lock().clock_shift_s;
        if shift_s != 0 {
            let now = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(shift_s);
            let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            answer.headers_mut().insert("date", date.parse().expect("a date is a header"));
        }
        answer
    }

    /// Refuses who is not known, what arrived changed, and what the mode does not take.
    fn inspect(&self, asked: &Asked, body: &Bytes) -> Result<(), Refusal> {
        let header = |name: &str| asked.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        if asked.query.contains_key("X-Amz-Signature") {
            // The method is signed as well: a HEAD of what was signed for GET is refused.
            let known = asked.query("X-Amz-Credential").starts_with(&format!("{ACCESS_KEY}/"));
            let good = known && asked.operation == Operation::Get && asked.query("X-Amz-SignedHeaders") == "host";
            return if good { Ok(()) } else { Err((403, "SignatureDoesNotMatch")) };
        }
        if !header("authorization").contains(&format!("Credential={ACCESS_KEY}/")) {
            return Err((403, "InvalidAccessKeyId"));
        }
        let hash = header("x-amz-content-sha256");
        if hash.starts_with("STREAMING-") || header("content-encoding").contains("aws-chunked") {
            return Err((501, "NotImplemented"));
        }
        if hash != "UNSIGNED-PAYLOAD" && hash != hex(body) {
            return Err((400, "XAmzContentSHA256Mismatch"));
        }
        if self.mode == Mode::Plain {
            return Ok(());
        }
        let sends_checksums = asked.headers.keys().any(|name| {
            let name = name.as_str();
            name.starts_with("x-amz-checksum") || name.starts_with("x-amz-sdk-checksum") || name == "x-amz-trailer"
        });
        if sends_checksums {
            return Err((400, "InvalidArgument"));
        }
        let takes_body = matches!(asked.operation, Operation::Put | Operation::Part | Operation::Create);
        if takes_body && !asked.headers.contains_key("content-length") {
            return Err((411, "MissingContentLength"));
        }
        Ok(())
    }

    fn perform(&self, asked: &Asked, body: Bytes, ignore_range: bool) -> Result<Response<Body>, Refusal> {
        let mut state = self.lock();
        let bucket = state.buckets.get_mut(&asked.bucket).ok_or((404, "NoSuchBucket"))?;
        let (key, id) = (asked.key.as_str(), asked.query("uploadId"));
        match asked.operation {
            Operation::Put => {
                let object = Object::new(body);
                let answer = tagged(&object.etag);
                bucket.objects.insert(key.to_owned(), object);
                Ok(answer)
            }
            Operation::Get | Operation::Head => {
                let object = bucket.objects.get(key).ok_or((404, "NoSuchKey"))?;
                if asked.headers.get("if-match").is_some_and(|etag| *etag != *object.etag) {
                    return Err((412, "PreconditionFailed"));
                }
                let range = asked.headers.get("range").and_then(|range| range.to_str().ok());
                send(object, range.filter(|_| !ignore_range))
            }
            Operation::Delete => {
                bucket.objects.remove(key);
                Ok(empty(204))
            }
            Operation::List => {
                let (prefix, delimiter, after) =
                    (asked.query("prefix"), asked.query("delimiter"), asked.query("start-after"));
                Ok(xml(200, &bucket.list(prefix, delimiter, after)))
            }
            Operation::Create => {
                let id = bucket.begin(key);
                let root = "InitiateMultipartUploadResult";
                Ok(xml(200, &format!("<{root}><UploadId>{id}</UploadId></{root}>")))
            }
            Operation::Part => {
                let number = asked.query("partNumber").parse().map_err(|_| (400, "InvalidArgument"))?;
                Ok(tagged(&bucket.put_part(key, id, number, body)?))
            }
            Operation::Complete => {
                let etag = bucket.complete(key, id, &parts_of(&body))?;
                let root = "CompleteMultipartUploadResult";
                Ok(xml(200, &format!("<{root}><ETag>{}</ETag></{root}>", escape(&etag))))
            }
            Operation::Abort => bucket.abort(key, id).map(|()| empty(204)),
            Operation::ListUploads => {
                Ok(xml(200, &bucket.list_uploads(asked.query("prefix"), asked.query("upload-id-marker"))))
            }
        }
    }

    fn replace(&self, asked: &Asked) {
        let mut state = self.lock();
        if let Some(object) = state.buckets.get_mut(&asked.bucket).and_then(|b| b.objects.get_mut(&asked.key)) {
            *object = Object::new(object.body.iter().map(|byte| !byte).collect());
        }
    }
}

impl Asked {
    fn read(method: &Method, path: &str, query: &str, headers: HeaderMap) -> Option<Self> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query: BTreeMap<_, _> = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decode(name), decode(value)))
            .collect();
        let path = path.strip_prefix('/')?;
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let has = |name: &str| query.contains_key(name);
        let operation = match (method.as_str(), key.is_empty()) {
            ("GET", true) if has("uploads") => Operation::ListUploads,
            ("GET", true) if query.get("list-type").is_some_and(|kind| kind == "2") => Operation::List,
            ("PUT", false) if has("uploadId") => Operation::Part,
            ("PUT", false) => Operation::Put,
            ("POST", false) if has("uploads") => Operation::Create,
            ("POST", false) if has("uploadId") => Operation::Complete,
            ("DELETE", false) if has("uploadId") => Operation::Abort,
            ("DELETE", false) => Operation::Delete,
            ("GET", false) => Operation::Get,
            ("HEAD", false) => Operation::Head,
            _ => return None,
        };
        Some(Self { operation, bucket: decode(bucket), key: decode(key), query, headers })
    }

    fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

/// An object or the range of it that was asked for.
fn send(object: &Object, range: Option<&str>) -> Result<Response<Body>, Refusal> {
    let size = object.body.len();
    let builder = Response::builder().header("etag", &object.etag).header("last-modified", MODIFIED_HTTP);
    let Some(range) = range else {
        return Ok(builder.status(200).body(full(object.body.clone())).expect("valid headers"));
    };
    let (first, last) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')).ok_or((400, "InvalidArgument"))?;
    let (first, end) = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => (first, size.min(last.saturating_add(1))),
        (Err(_), Ok(suffix)) => (size.saturating_sub(suffix), size),
        // Larger than any of our objects.
        (Ok(first), Err(_)) => (first, size),
        (Err(_), Err(_)) => (0, size),
    };
    if first >= end {
        return Err((416, "InvalidRange"));
    }
    let content_range = format!("bytes {first}-{}/{size}", end - 1);
    let builder = builder.status(206).header("content-range", content_range);
    Ok(builder.body(full(object.body.slice(first..end))).expect("valid headers"))
}

/// Numbers and etags of a CompleteMultipartUpload.
fn parts_of(body: &[u8]) -> Vec<(u32, String)> {
    let text = String::from_utf8_lossy(body).replace("&quot;", "\"");
    let between = |text: &str, tag: &str| {
        let rest = &text[text.find(&format!("<{tag}>"))? + tag.len() + 2..];
        Some(rest[..rest.find('<')?].to_owned())
    };
    let part = |text: &str| Some((between(text, "PartNumber")?.parse().ok()?, between(text, "ETag")?));
    text.split("<Part>").skip(1).filter_map(part).collect()
}

async fn cut_request(body: &mut Incoming, bytes: usize) -> Result<Response<Body>, Cut> {
    let mut seen = 0;
    while seen < bytes {
        match body.frame().await {
            Some(Ok(frame)) => seen += frame.data_ref().map_or(0, Bytes::len),
            _ => break,
        }
    }
    Err(Cut)
}

/// The head announces the whole body, of which only some bytes follow.
async fn cut_body(answer: Response<Body>, bytes: usize) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    head.headers.insert("content-length", body.len().into());
    let start = Ok(Frame::data(body.slice(..body.len().min(bytes))));
    // The pause lets what was sent arrive before the connection ends.
    let end = stream::once(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(Cut)
    });
    Response::from_parts(head, BodyExt::boxed_unsync(StreamBody::new(stream::iter([start]).chain(end))))
}

async fn trickle(answer: Response<Body>) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    head.headers.insert("content-length", body.len().into());
    let drops = stream::unfold(body, |mut rest| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if rest.is_empty() { None } else { Some((Ok(Frame::data(rest.split_to(1))), rest)) }
    });
    Response::from_parts(head, BodyExt::boxed_unsync(StreamBody::new(drops)))
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn empty(status: u16) -> Response<Body> {
    Response::builder().status(status).body(full(Bytes::new())).expect("valid status")
}

fn tagged(etag: &str) -> Response<Body> {
    Response::builder().header("etag", etag).body(full(Bytes::new())).expect("valid etag")
}

fn xml(status: u16, text: &str) -> Response<Body> {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}");
    let builder = Response::builder().status(status).header("content-type", "application/xml");
    builder.body(full(text.into())).expect("valid status")
}

fn refuse((status, code): Refusal) -> Response<Body> {
    xml(status, &error_xml(code))
}

fn error_xml(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>as the test planned</Message></Error>")
}

/// Percent-decoding; a `+` stands for itself, as the SDK sends `%20` for a space.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
