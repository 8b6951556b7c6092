//! One GET: sent, redirected, and its body taken piece by piece while it moves.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, IF_MATCH, LOCATION, RANGE, USER_AGENT};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::store::connector::{HttpClient, http_client, tls_mistake};
use crate::store::http::answer::AnswerHead;
use crate::store::http::refusal::Refusal;
use crate::store::http::url::SourceUrl;
use crate::store::object::ETag;
use crate::store::options::Pace;
use crate::store::retry::{Failure, RetryPolicy};
use crate::tls::TlsOptions;

/// Redirects that one request follows.
const MAX_REDIRECTS: usize = 5;
/// Of an error's body no more is read.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// What reading from a URL needs.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Whom to trust.
    pub tls: TlsOptions,
    /// How slow the server may be.
    pub pace: Pace,
    /// How often requests are made again.
    pub retry: RetryPolicy,
    /// To tell whether a URL has expired.
    pub clock: Clock,
}

impl HttpOptions {
    /// Options with every default.
    pub fn new(tls: TlsOptions, clock: Clock) -> Self {
        Self { tls, pace: Pace::default(), retry: RetryPolicy::default(), clock }
    }
}

/// A client for one URL. It sends nothing that would tell who we are: no credentials, no cookies.
#[derive(Debug)]
pub(super) struct Transport {
    client: HttpClient<Empty<Bytes>>,
    pub(super) url: SourceUrl,
    pub(super) pace: Pace,
    pub(super) retry: RetryPolicy,
    clock: Clock,
}

/// A good answer; its body has not been read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: AnswerHead,
    pub(super) body: Moving,
}

impl Transport {
    /// # Errors
    /// `Invalid` for a CA file that cannot be used.
    pub(super) fn new(url: SourceUrl, options: &HttpOptions) -> Result<Self> {
        let client = http_client(options.tls.client_config()?, options.pace);
        Ok(Self { client, url, pace: options.pace, retry: options.retry, clock: options.clock.clone() })
    }

    /// Asks for the object or, with `range` (`bytes=…`), for a part of it; with `pin`, of that version alone. Follows
    /// redirects, each time from the first URL: where they lead may live shorter than we read.
    pub(super) async fn ask(&self, range: Option<&str>, pin: Option<&ETag>) -> Result<Answer, Failure> {
        let mut url = self.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.ask_once(&url, range, pin).await?;
            let status = answer.status().as_u16();
            match status {
                200 | 206 => {
                    let head = AnswerHead::of(status, answer.headers());
                    return Ok(Answer { head, body: Moving::new(answer.into_body(), self.pace) });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
                    let location = location.ok_or_else(|| {
                        self.final_error(Error::new(ErrorKind::Invalid, "it redirects without saying where"))
                    })?;
                    url = url.redirected(location).map_err(|error| self.final_error(error))?;
                }
                _ => return Err(self.refused(&url, status, answer.into_body()).await),
            }
        }
        let error = Error::new(ErrorKind::Invalid, format!("it redirects more than {MAX_REDIRECTS} times"));
        Err(self.final_error(error.hint("check the URL")))
    }

    async fn ask_once(
        &self,
        url: &SourceUrl,
        range: Option<&str>,
        pin: Option<&ETag>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::get(url.expose())
            .header(ACCEPT_ENCODING, "identity")
            .header(USER_AGENT, concat!("etcdbr/", env!("CARGO_PKG_VERSION")));
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        if let Some(pin) = pin {
            request = request.header(IF_MATCH, &pin.0);
        }
        let request = request.body(Empty::new()).map_err(|error| {
            self.final_error(Error::new(ErrorKind::Invalid, "no request can be made of it").caused_by(error))
        })?;
        let limit = self.pace.answer_timeout;
        match timeout(limit, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.broken(error)),
            Err(_) => Err(self.broken(timed_out(format!("no answer within {} ms", limit.as_millis())))),
        }
    }

    async fn refused(&self, url: &SourceUrl, status: u16, body: Incoming) -> Failure {
        let mut body = Moving::new(body, self.pace);
        let mut said = Vec::new();
        // What cannot be read of it changes nothing about the refusal.
        while let Ok(Some(piece)) = body.next().await {
            said.extend_from_slice(&piece[..piece.len().min(MAX_ERROR_BYTES - said.len())]);
            if said.len() == MAX_ERROR_BYTES {
                break;
            }
        }
        let body = String::from_utf8_lossy(&said);
        match (Refusal { url, status, body: &body, now: self.clock.now() }).failure() {
            Failure::Passing(error) => Failure::Passing(error.about(&self.url)),
            Failure::Final(error) => self.final_error(error),
        }
    }

    /// A connection or a body that failed.
    pub(super) fn broken(&self, error: impl StdError + Send + Sync + 'static) -> Failure {
        match tls_mistake(&error) {
            Some((kind, hint)) => {
                let hint = if kind == ErrorKind::Denied { format!("{hint} with --store-cacert") } else { hint.into() };
                self.final_error(Error::new(kind, "TLS failed").caused_by(error).hint(hint))
            }
            None => {
                let broken = Error::new(ErrorKind::Unavailable, "the download broke off").caused_by(error);
                Failure::Passing(broken.about(&self.url).hint("is the URL right, and is the server up?"))
            }
        }
    }

    /// An error about this URL that no further attempt would change.
    pub(super) fn final_error(&self, error: Error) -> Failure {
        Failure::Final(error.about(&self.url))
    }
}

/// A body that fails when it stalls: in each window of the time that we wait for it a minimum of bytes comes. The time
/// that its reader takes elsewhere does not count.
#[derive(Debug)]
pub(super) struct Moving {
    body: Incoming,
    pace: Pace,
    waited: Duration,
    window_bytes: u64,
}

impl Moving {
    fn new(body: Incoming, pace: Pace) -> Self {
        Self { body, pace, waited: Duration::ZERO, window_bytes: 0 }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// Those of the connection; `TimedOut`.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let began = Instant::now();
            let frame = timeout(self.pace.window.saturating_sub(self.waited), self.body.frame()).await;
            self.waited += began.elapsed();
            let piece = match frame {
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(io::Error::other(error)),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Err(_) => Bytes::new(),
            };
            self.window_bytes += piece.len() as u64;
            if self.waited >= self.pace.window {
                if self.window_bytes < self.pace.min_window_bytes {
                    let window = self.pace.window.as_millis();
                    return Err(timed_out(format!("only {} bytes came within {window} ms", self.window_bytes)));
                }
                (self.waited, self.window_bytes) = (Duration::ZERO, 0);
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }
}

fn timed_out(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}
