//! How this room reaches servers: hyper over our TLS, and what TLS says when it fails.
//!
//! One connector for every store and source, so that one piece of code is tried by all tests. HTTP/1.1 only: S3 speaks
//! nothing else.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;

use crate::error::ErrorKind;
use crate::store::options::Pace;

/// A connection unused for longer is closed: many load balancers drop them silently after 60 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Kept open per host between requests.
const MAX_IDLE_CONNECTIONS: usize = 64;

/// A client whose clones share connections.
pub(super) type HttpClient<B> = Client<HttpsConnector<HttpConnector>, B>;

/// A client for http and https.
pub(super) fn http_client<B>(tls: ClientConfig, pace: Pace) -> HttpClient<B>
where
    B: Body<Data = Bytes> + Send,
{
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(pace.connect_timeout));
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .build(connector)
}

/// Where `error` is TLS's, and no later attempt would help: its kind, and what to do.
pub(super) fn tls_mistake(error: &(dyn StdError + 'static)) -> Option<(ErrorKind, &'static str)> {
    match cause::<rustls::Error>(error)? {
        rustls::Error::InvalidCertificate(_) => {
            Some((ErrorKind::Denied, "give the CA that signed the store's certificate"))
        }
        rustls::Error::InvalidMessage(_) => {
            Some((ErrorKind::Invalid, "does the endpoint speak TLS? if not, begin it with http://"))
        }
        _ => None,
    }
}

/// The first cause of type `T`; looks through `io::Error`, which hides what it wraps from `source`.
pub(super) fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    None
}
