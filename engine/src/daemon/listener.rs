//! What a supervisor and a Prometheus ask: `/metrics`, `/healthz`, `/readyz`, over HTTP/1.1.
//!
//! A sidecar is healthy and ready as soon as it answers, also while its store is down: a pod that is taken out of service
//! for that would take its etcd with it. How far behind it is, the metrics say.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::exposition::exposition;
use crate::capture::Gauges;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// Who asks more often than that, or more slowly, waits.
const CONNECTIONS: usize = 16;
const HEADER_WAIT: Duration = Duration::from_secs(5);
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers at an address for as long as it lives.
#[derive(Debug)]
pub struct Listener {
    addr: SocketAddr,
    _answering: AbortOnDropHandle<()>,
}

impl Listener {
    /// Answers at `addr` from now on; port 0 is any that is free.
    ///
    /// # Errors
    /// `Local` where the address is taken or not ours.
    pub async fn open(addr: SocketAddr, gauges: Gauges, clock: Clock) -> Result<Self> {
        let refused = |error: std::io::Error| {
            Error::new(ErrorKind::Local, format!("cannot listen at --metrics-addr {addr}"))
                .hint("another process may have the port: choose another one")
                .caused_by(error)
        };
        let listener = TcpListener::bind(addr).await.map_err(refused)?;
        let addr = listener.local_addr().map_err(refused)?;
        let answering = tokio::spawn(accept(listener, gauges, clock));
        Ok(Self { addr, _answering: AbortOnDropHandle::new(answering) })
    }

    /// Where it answers.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

async fn accept(listener: TcpListener, gauges: Gauges, clock: Clock) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, for example: that passes.
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let (gauges, clock) = (gauges.clone(), clock.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &gauges, &clock);
                async { Ok::<_, Infallible>(answer) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_WAIT);
            // A client that breaks off is no concern of ours.
            let _ = timeout(CONNECTION_LIFE, server.serve_connection(TokioIo::new(stream), service)).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, gauges: &Gauges, clock: &Clock) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is answered here\n".to_owned());
    }
    match request.uri().path() {
        "/metrics" => match exposition(&gauges.figures(), clock.now()) {
            Ok(text) => respond(StatusCode::OK, OPEN_METRICS, text),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        },
        "/healthz" | "/readyz" => respond(StatusCode::OK, "application/json", "{\"health\":true}\n".to_owned()),
        _ => respond(StatusCode::NOT_FOUND, "text/plain", "there are /metrics, /healthz and /readyz\n".to_owned()),
    }
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
