//! One connection to one endpoint, and the token that it speaks with.

use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use etcdbr_proto::etcdserverpb::AuthenticateRequest;
use etcdbr_proto::etcdserverpb::auth_client::AuthClient;
use rustls::ClientConfig;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::dial::dial;
use super::endpoint::{Endpoint, EtcdOptions};
use super::fault::Fault;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretText;

/// The largest message that is taken. A fragmented watch sends two requests' worth (3 MiB unless etcd's
/// `--max-request-bytes` was raised), a snapshot 32 KiB; above this a length prefix is taken for garbage.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The metadata key under which etcd looks for its token.
const TOKEN_KEY: &str = "token";

/// A connection, with what each question to it needs.
pub(super) struct Session {
    endpoint: Endpoint,
    channel: Channel,
    credentials: Option<(String, SecretText)>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
    /// Held by the one that logs in: each login costs etcd a slow password hash.
    login: AsyncMutex<()>,
    request_timeout: Duration,
    stall_timeout: Duration,
}

impl Session {
    /// Connects to `endpoint`.
    ///
    /// # Errors
    /// A fault of transport.
    pub(super) async fn open(endpoint: Endpoint, tls: ClientConfig, options: &EtcdOptions) -> Result<Self, Error> {
        match dial(&endpoint, tls, options.connect_timeout).await {
            Err(fault) => Err(fault.into_error(&endpoint, options.user(), "connect")),
            Ok(channel) => Ok(Self {
                endpoint,
                channel,
                credentials: options.credentials.clone(),
                token: Mutex::new(None),
                login: AsyncMutex::new(()),
                request_timeout: options.request_timeout,
                stall_timeout: options.stall_timeout,
            }),
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    pub(super) fn stall_timeout(&self) -> Duration {
        self.stall_timeout
    }

    /// The error of `action` at this endpoint.
    pub(super) fn error(&self, fault: Fault, action: &str) -> Error {
        fault.into_error(&self.endpoint, self.user(), action)
    }

    fn user(&self) -> Option<&str> {
        self.credentials.as_ref().map(|(user, _)| user.as_str())
    }

    /// Whether there is a user to log in as.
    pub(super) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// Asks `question` through `rpc`, and once more with a fresh token where etcd wants one.
    ///
    /// # Errors
    /// What etcd answers, or a deadline where nothing comes within `limit`.
    pub(super) async fn ask<Q, A, F, Fut>(&self, question: Q, limit: Duration, rpc: F) -> Result<A, Fault>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let token = self.token();
        match self.ask_with(token.clone(), question.clone(), limit, &rpc).await {
            Err(fault) if fault.wants_token() && self.has_credentials() => {
                self.replace_token(token).await?;
                self.ask_with(self.token(), question, limit, &rpc).await
            }
            answer => answer,
        }
    }

    /// Asks as somebody who has not logged in.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(super) async fn ask_as_nobody<Q, A, F, Fut>(&self, question: Q, rpc: F) -> Result<A, Fault>
    where
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        self.ask_with(None, question, self.request_timeout, &rpc).await
    }

    /// Fetches a token where there are credentials. An etcd whose authentication is off needs none, and gets none.
    ///
    /// # Errors
    /// What etcd answers.
    pub(super) async fn renew_token(&self) -> Result<(), Fault> {
        self.replace_token(self.token()).await
    }

    /// Fetches a token, unless somebody else has replaced `stale` meanwhile.
    async fn replace_token(&self, stale: Option<MetadataValue<Ascii>>) -> Result<(), Fault> {
        let Some((user, password)) = &self.credentials else { return Ok(()) };
        let _one_at_a_time = self.login.lock().await;
        if self.token() != stale {
            return Ok(());
        }
        let question = AuthenticateRequest { name: user.clone(), password: password.expose().to_owned() };
        let answer = within(self.request_timeout, AuthClient::new(self.channel.clone()).authenticate(question)).await;
        let token = match answer {
            Ok(answer) => Some(token_value(&answer.into_inner().token)?),
            Err(fault) if fault.is_auth_off() => None,
            Err(fault) => return Err(fault),
        };
        if let Ok(mut held) = self.token.lock() {
            *held = token;
        }
        Ok(())
    }

    fn token(&self) -> Option<MetadataValue<Ascii>> {
        self.token.lock().ok().and_then(|held| held.clone())
    }

    async fn ask_with<Q, A, F, Fut>(
        &self,
        token: Option<MetadataValue<Ascii>>,
        question: Q,
        limit: Duration,
        rpc: &F,
    ) -> Result<A, Fault>
    where
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let mut request = Request::new(question);
        if let Some(token) = token {
            request.metadata_mut().insert(TOKEN_KEY, token);
        }
        Ok(within(limit, rpc(self.channel.clone(), request)).await?.into_inner())
    }
}

fn token_value(token: &str) -> Result<MetadataValue<Ascii>, Fault> {
    let mut value = MetadataValue::try_from(token)
        .map_err(|_| Fault::Ours(Error::new(ErrorKind::Refused, "etcd gave a token that no header can carry")))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn within<A>(limit: Duration, answer: impl Future<Output = Result<A, Status>>) -> Result<A, Fault> {
    match timeout(limit, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Fault::Deadline(limit)),
    }
}
