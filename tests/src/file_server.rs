//! An HTTP server of one file, in the manners that servers have, and with the failures that a test plans.
//!
//! It stands for what presigned URLs lead to: a GET is answered, and nothing but the URL says that it may be.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::tls::TestTls;

/// What no output may ever show: a part of every URL of a server's file.
pub const SECRET: &str = "5ec0e7deadbeef0badc0ffee";
const MODIFIED: &str = "Fri, 02 Jan 2026 03:04:05 GMT";
/// How many bytes a body is sent at a time.
const FRAME_BYTES: usize = 32 << 10;

/// How a server serves.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Whether it knows ranges.
    pub ranges: bool,
    /// Whether it says how long a whole file is.
    pub length: bool,
    /// The ETag: `{}` stands for the file's digest; empty for none.
    pub etag: &'static str,
    /// Whether it sends Last-Modified.
    pub last_modified: bool,
    /// Whether it answers 412 where If-Match names another ETag; otherwise it ignores If-Match.
    pub conditions: bool,
    /// Content-Encoding to claim.
    pub coding: Option<&'static str>,
    /// How long each answer takes to begin.
    pub latency: Duration,
    /// Where it is not 0: from the second request on, answers begin only once so many requests wait for one.
    pub gather: usize,
    /// No range is answered with more bytes.
    pub longest_range: u64,
}

impl Default for Manner {
    /// As S3.
    fn default() -> Self {
        Self {
            ranges: true,
            length: true,
            etag: "\"{}\"",
            last_modified: true,
            conditions: true,
            coding: None,
            latency: Duration::ZERO,
            gather: 0,
            longest_range: u64::MAX,
        }
    }
}

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub enum Act {
    /// Another answer: status and body.
    Answer(u16, String),
    /// The connection is cut after so many bytes of the body.
    CutBody(usize),
    /// Nothing follows so many bytes of the body, while the connection stays.
    Stall(usize),
    /// No answer at all while the connection stays.
    Silence,
    /// The connection is cut without an answer.
    Hangup,
    /// The file is another one from this request on.
    Replace(Bytes),
    /// A redirect.
    Redirect(String),
    /// For this request no ranges are known.
    ForgetRanges,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `GET`, and nothing else.
    pub method: Method,
    /// Its path with query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
}

impl Seen {
    /// A header's text; empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A running server on a free loopback port; stopped on drop.
#[derive(Debug)]
pub struct FileServer {
    origin: String,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    gathered: Notify,
}

#[derive(Debug, Default)]
struct State {
    file: Bytes,
    manner: Manner,
    /// First and last request, from 1, of each act.
    acts: Vec<(usize, usize, Act)>,
    seen: Vec<Seen>,
    /// Requests that wait for others.
    waiting: usize,
}

impl FileServer {
    /// A server of `file`.
    ///
    /// # Panics
    /// Where there is no loopback.
    pub async fn start(file: impl Into<Bytes>) -> Self {
        Self::serve(file.into(), None).await
    }

    /// The same over TLS, with the server certificate of `tls`.
    ///
    /// # Panics
    /// Where there is no loopback.
    pub async fn start_tls(file: impl Into<Bytes>, tls: &TestTls) -> Self {
        let (cert, key) = tls.server();
        let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).expect("written by generate");
        let key = PrivateKeyDer::from_pem_file(key).expect("written by generate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("ring has them").with_no_client_auth().with_single_cert(chain, key);
        Self::serve(file.into(), Some(TlsAcceptor::from(Arc::new(config.expect("a key that fits"))))).await
    }

    async fn serve(file: Bytes, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let origin = format!("{scheme}://{}", listener.local_addr().expect("it is bound"));
        let shared = Arc::new(Shared::default());
        shared.lock().file = file;
        let accepting = tokio::spawn(accept(listener, tls, shared.clone())).abort_handle();
        Self { origin, shared, accepting }
    }

    /// `http://127.0.0.1:port`
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The URL of the file, with a secret in its query.
    pub fn url(&self) -> String {
        format!("{}/backups/snapshot.db?X-Amz-Signature={SECRET}", self.origin)
    }

    /// Changes how it serves.
    pub fn manner(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.shared.lock().manner);
    }

    /// Plans `act` for the `nth` request from now (1: the next).
    pub fn fail_nth(&self, nth: usize, act: Act) {
        self.plan(nth, nth, act);
    }

    /// Plans `act` for the `nth` request from now and all later ones.
    pub fn fail_from(&self, nth: usize, act: Act) {
        self.plan(nth, usize::MAX / 2, act);
    }

    fn plan(&self, first: usize, last: usize, act: Act) {
        let mut state = self.shared.lock();
        let so_far = state.seen.len();
        state.acts.push((so_far + first, so_far + last, act));
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The connections die with this task.
async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), shared.clone());
        connections.spawn(async move {
            match tls {
                None => serve(stream, shared).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { shared.answer(request).await }
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until as many wait as the manner asks for.
    async fn gather(&self) {
        let gathered = self.gathered.notified();
        tokio::pin!(gathered);
        // From here on no notice is missed.
        gathered.as_mut().enable();
        {
            let mut state = self.lock();
            if state.manner.gather == 0 || state.seen.len() == 1 {
                return;
            }
            state.waiting += 1;
            if state.waiting == state.manner.gather {
                state.waiting = 0;
                self.gathered.notify_waiters();
            }
        }
        gathered.await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let (act, latency) = {
            let mut state = self.lock();
            let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
            state.seen.push(Seen { method: request.method().clone(), path, headers: request.headers().clone() });
            let number = state.seen.len();
            let act = state.acts.iter().find(|(first, last, _)| (*first..=*last).contains(&number));
            let act = act.map(|(_, _, act)| act.clone());
            if let Some(Act::Replace(file)) = &act {
                state.file = file.clone();
            }
            (act, state.manner.latency)
        };
        tokio::time::sleep(latency).await;
        self.gather().await;
        match &act {
            Some(Act::Answer(status, body)) => return Ok(page(*status, body)),
            Some(Act::Silence) => std::future::pending().await,
            Some(Act::Hangup) => return Err(Cut),
            Some(Act::Redirect(to)) => {
                let builder = Response::builder().status(307).header("location", to);
                return Ok(builder.body(full(Bytes::new())).expect("a valid location"));
            }
            _ => {}
        }
        let (file, manner) = {
            let state = self.lock();
            (state.file.clone(), state.manner.clone())
        };
        let forget = matches!(act, Some(Act::ForgetRanges));
        let (builder, part) = match head(&file, &manner, request.headers(), forget) {
            Ok(found) => found,
            Err(status) => return Ok(page(status, "")),
        };
        let body = match act {
            Some(Act::CutBody(bytes)) => ended(part, bytes, End::Cut),
            Some(Act::Stall(bytes)) => ended(part, bytes, End::Silence),
            _ => ended(part.clone(), part.len(), End::Whole),
        };
        Ok(builder.body(body).expect("valid headers"))
    }
}

/// The head of a good answer and the bytes that belong to it, or the status of a bad one.
fn head(
    file: &Bytes,
    manner: &Manner,
    asked: &HeaderMap,
    forget: bool,
) -> Result<(hyper::http::response::Builder, Bytes), u16> {
    let header = |name: &str| asked.get(name).and_then(|value| value.to_str().ok());
    let etag = manner.etag.replace("{}", &digest(file));
    if manner.conditions && header("if-match").is_some_and(|wanted| wanted != etag) {
        return Err(412);
    }
    let mut builder = Response::builder();
    if !etag.is_empty() {
        builder = builder.header("etag", etag);
    }
    if manner.last_modified {
        builder = builder.header("last-modified", MODIFIED);
    }
    if let Some(coding) = manner.coding {
        builder = builder.header("content-encoding", coding);
    }
    let range = header("range").filter(|_| manner.ranges && !forget);
    let part = match range {
        None => file.clone(),
        Some(range) => {
            let (first, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or(400_u16)?;
            let (first, last): (u64, u64) = (first.parse().map_err(|_| 400_u16)?, last.parse().map_err(|_| 400_u16)?);
            let end = (file.len() as u64).min(last + 1).min(first.saturating_add(manner.longest_range));
            if first >= end {
                return Err(416);
            }
            builder = builder.status(206).header("content-range", format!("bytes {first}-{}/{}", end - 1, file.len()));
            file.slice(first as usize..end as usize)
        }
    };
    if manner.length || range.is_some() {
        builder = builder.header("content-length", part.len());
    }
    Ok((builder, part))
}

fn digest(file: &[u8]) -> String {
    Sha256::digest(file).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

enum End {
    Whole,
    Cut,
    Silence,
}

/// The first `bytes` of `body`, then what `end` says.
fn ended(body: Bytes, bytes: usize, end: End) -> Body {
    let start = body.slice(..body.len().min(bytes));
    let frames = stream::unfold(start, move |mut rest| async move {
        let frame = rest.split_to(rest.len().min(FRAME_BYTES));
        if frame.is_empty() { None } else { Some((Ok(Frame::data(frame)), rest)) }
    });
    let tail = stream::once(async move {
        match end {
            End::Whole => None,
            End::Cut => {
                // The pause lets what was sent arrive before the connection ends.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some(Err(Cut))
            }
            End::Silence => std::future::pending().await,
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(frames.chain(tail.filter_map(std::future::ready))))
}

fn page(status: u16, text: &str) -> Response<Body> {
    Response::builder().status(status).body(full(text.to_owned().into())).expect("a valid status")
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync()
}
