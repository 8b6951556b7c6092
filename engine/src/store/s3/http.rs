//! The SDK's HTTP over hyper with our rustls configuration.
//!
//! The SDK's own client takes no certificate verifier, so private and unchecked servers need this one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use hyper::header::{CONTENT_LENGTH, DATE, HeaderValue};
use hyper::{Method, Request};
use rustls::ClientConfig;

use crate::store::connector::{HttpClient as Client, http_client};
use crate::store::options::Pace;
use crate::store::s3::pace::{Counted, Paced, Sent, watched};
use crate::store::times::ToldTime;

/// The client of one store; clones share connections.
#[derive(Clone)]
pub(super) struct Http {
    client: Client<Counted>,
    pace: Pace,
    told_time: Arc<ToldTime>,
}

impl Http {
    pub(super) fn new(tls: ClientConfig, pace: Pace) -> Self {
        Self { client: http_client(tls, pace), pace, told_time: Arc::default() }
    }

    /// The server's clock.
    pub(super) fn told_time(&self) -> Arc<ToldTime> {
        self.told_time.clone()
    }

    async fn send(self, request: HttpRequest, answer_timeout: Duration) -> Result<HttpResponse, ConnectorError> {
        let mut request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        announce_length(&mut request);
        let sent = Arc::new(Sent::default());
        let request = request.map(|body| Counted::new(body, Arc::clone(&sent)));
        let answer = watched(self.client.request(request), &sent, &self.pace, answer_timeout)
            .await
            .map_err(|error| ConnectorError::timeout(error.into()))?
            .map_err(|error| ConnectorError::io(error.into()))?;
        if let Some(date) = answer.headers().get(DATE).and_then(|date| date.to_str().ok()) {
            self.told_time.hear(date);
        }
        let answer = answer.map(|body| SdkBody::from_body_1_x(Paced::new(body, self.pace)));
        HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
    }
}

/// Says `Content-Length: 0` where hyper and the SDK say nothing: to begin an upload is a POST without a body, and
/// Google's S3 answers 411 to it. The header is not among the signed ones.
fn announce_length(request: &mut Request<SdkBody>) {
    let takes_body = matches!(*request.method(), Method::POST | Method::PUT);
    if takes_body && request.body().content_length() == Some(0) {
        request.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl HttpClient for Http {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let answer_timeout = settings.read_timeout().unwrap_or(self.pace.answer_timeout);
        SharedHttpConnector::new(Connection { http: self.clone(), answer_timeout })
    }
}

/// The client, for calls whose answers may take so long.
#[derive(Debug)]
struct Connection {
    http: Http,
    answer_timeout: Duration,
}

impl HttpConnector for Connection {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.http.clone().send(request, self.answer_timeout))
    }
}
