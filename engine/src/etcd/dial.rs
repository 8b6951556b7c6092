//! Opens the HTTP/2 connection to one endpoint, over our own TLS stack.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, TryFutureExt};
use http::Uri;
use http::uri::Scheme;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tonic::codegen::Service;
use tonic::transport::Channel;

use super::endpoint::Endpoint;
use super::fault::Fault;
use crate::error::Result;

/// What one stream may have in flight: the default of 64 KiB holds a snapshot to a few MB a round trip.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// What all streams of a connection may have in flight, and so the most that unread data takes of our memory.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// What is read from a connection at once. Of itself HTTP/2 asks for 8 KiB at a time: 120,000 questions a gigabyte.
const READ_BYTES: usize = 256 << 10;
/// Pings of an open stream; etcd closes a connection that pings more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A ping that is not answered for so long ends the connection.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to `endpoint`, made now and made again when it is lost.
///
/// # Errors
/// A fault of transport where nobody answers or TLS fails within `connect_timeout`.
pub(super) async fn dial(endpoint: &Endpoint, tls: ClientConfig, connect_timeout: Duration) -> Result<Channel, Fault> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(PING_INTERVAL));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http2().wrap_connector(tcp);
    let target = endpoint.uri(endpoint.scheme().clone()).map_err(Fault::Ours)?;
    let plain = endpoint.uri(Scheme::HTTP).map_err(Fault::Ours)?;
    let channel = tonic::transport::Endpoint::from(plain)
        .origin(target.clone())
        .user_agent(concat!("etcdbr/", env!("CARGO_PKG_VERSION")))
        .map_err(Fault::Transport)?
        .connect_timeout(connect_timeout)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .connect_with_connector(Dialler { target, https })
        .await;
    channel.map_err(Fault::Transport)
}

/// Goes to `target`, whatever address tonic names: tonic, once any crate of the build turns its own TLS on, will
/// not let a connector of ours open an `https` address, so it is told an `http` one.
#[derive(Clone)]
struct Dialler {
    target: Uri,
    https: HttpsConnector<HttpConnector>,
}

/// A connection that is read in large pieces.
type Buffered = TokioIo<BufReader<TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>>>;

impl Service<Uri> for Dialler {
    type Response = Buffered;
    type Error = <HttpsConnector<HttpConnector> as Service<Uri>>::Error;
    type Future = BoxFuture<'static, Result<Buffered, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, _named_by_tonic: Uri) -> Self::Future {
        let buffered = |stream| TokioIo::new(BufReader::with_capacity(READ_BYTES, TokioIo::new(stream)));
        self.https.call(self.target.clone()).map_ok(buffered).boxed()
    }
}
