//! What the operator says about the cluster, and the addresses in it.

use std::fmt;
use std::time::Duration;

use http::Uri;
use http::uri::{Authority, Scheme};

use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretText;
use crate::tls::TlsOptions;

/// More endpoints than any cluster has members; all of them are asked at once.
pub const ENDPOINTS_MAX: usize = 64;

/// How the cluster is reached.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// `http://host:port`, `https://host:port` or `host:port` each; the latter is TLS where `tls` is given, as
    /// etcdctl has it.
    pub endpoints: Vec<String>,
    /// What the TLS flags say; `None` where none of them was given (`https://` then trusts the system's roots).
    pub tls: Option<TlsOptions>,
    /// User name and password, where etcd's authentication is on.
    pub credentials: Option<(String, SecretText)>,
    /// Bound of name resolution, TCP and TLS together; the first answer of a member must come as soon.
    pub connect_timeout: Duration,
    /// Bound of one question and its answer.
    pub request_timeout: Duration,
    /// A snapshot stream that gives nothing, or that nothing reads, for so long is cancelled.
    pub stall_timeout: Duration,
}

impl EtcdOptions {
    /// Default of `connect_timeout`.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// Default of `request_timeout`: twice what etcd itself gives a request before it answers "timed out".
    pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
    /// Default of `stall_timeout`: long enough for a store's retries, short for an etcd that is held up by it.
    pub const STALL_TIMEOUT: Duration = Duration::from_secs(60);

    /// Options for `endpoints` with the default timeouts, without TLS and credentials.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: None,
            credentials: None,
            connect_timeout: Self::CONNECT_TIMEOUT,
            request_timeout: Self::REQUEST_TIMEOUT,
            stall_timeout: Self::STALL_TIMEOUT,
        }
    }

    /// The endpoints, each one once, in the order given.
    ///
    /// # Errors
    /// `Invalid` where there is none, too many, or one that is no address.
    pub(super) fn parsed_endpoints(&self) -> Result<Vec<Endpoint>> {
        let bare_scheme = if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let mut parsed: Vec<Endpoint> = Vec::new();
        for text in &self.endpoints {
            let endpoint = Endpoint::parse(text, &bare_scheme)?;
            if !parsed.contains(&endpoint) {
                parsed.push(endpoint);
            }
        }
        match parsed.len() {
            0 => Err(Error::new(ErrorKind::Invalid, "--endpoints names no endpoint")
                .hint("give at least one, as in --endpoints https://127.0.0.1:2379")),
            1..=ENDPOINTS_MAX => Ok(parsed),
            count => Err(Error::new(
                ErrorKind::Invalid,
                format!("--endpoints names {count} endpoints, more than {ENDPOINTS_MAX}"),
            )),
        }
    }

    /// Who we are to etcd, for messages.
    pub(super) fn user(&self) -> Option<&str> {
        self.credentials.as_ref().map(|(user, _)| user.as_str())
    }
}

/// The address of one member: `http` or `https`, host and port; shown as `scheme://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    scheme: Scheme,
    authority: Authority,
}

impl Endpoint {
    /// Reads `text`; without a scheme it gets `bare_scheme`.
    ///
    /// # Errors
    /// `Invalid`, naming `--endpoints`. A text with a user in it is not repeated: what follows may be a password.
    fn parse(text: &str, bare_scheme: &Scheme) -> Result<Self> {
        let text = text.trim();
        if text.contains('@') {
            return Err(Error::new(ErrorKind::Invalid, "--endpoints: an endpoint must not carry a user")
                .hint("give --etcd-username and --etcd-password instead"));
        }
        let bad = |why: &str| {
            Error::new(ErrorKind::Invalid, format!("--endpoints: {text:?} {why}"))
                .hint("an endpoint is http://host:port, https://host:port or host:port")
        };
        let (scheme, rest) = match text.split_once("://") {
            None => (bare_scheme.clone(), text),
            Some(("http", rest)) => (Scheme::HTTP, rest),
            Some(("https", rest)) => (Scheme::HTTPS, rest),
            Some((other, _)) => return Err(bad(&format!("has the scheme {other:?}"))),
        };
        let authority: Authority =
            rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| bad("is no host and port"))?;
        if authority.host().is_empty() || authority.host() == "[]" {
            return Err(bad("has no host"));
        }
        if authority.port_u16().is_none_or(|port| port == 0) {
            return Err(bad("has no port (etcd's is 2379)"));
        }
        Ok(Self { scheme, authority })
    }

    /// Whether the connection is encrypted.
    pub(super) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// The URI of this endpoint under `scheme`.
    pub(super) fn uri(&self, scheme: Scheme) -> Result<Uri> {
        Uri::builder()
            .scheme(scheme)
            .authority(self.authority.clone())
            .path_and_query("/")
            .build()
            .map_err(|error| Error::new(ErrorKind::Internal, format!("uri of {self}")).caused_by(error))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String> {
        Endpoint::parse(text, &Scheme::HTTP).map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn endpoints_as_etcdctl_takes_them() {
        assert_eq!(parsed("127.0.0.1:2379").unwrap(), "http://127.0.0.1:2379");
        assert_eq!(parsed(" https://etcd-0.etcd:2379/ ").unwrap(), "https://etcd-0.etcd:2379");
        assert_eq!(parsed("http://[::1]:2379").unwrap(), "http://[::1]:2379");
        let mut options = EtcdOptions::new(["a:1", "http://b:2", "a:1"]);
        options.tls = Some(TlsOptions::default());
        let shown: Vec<_> = options.parsed_endpoints().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["https://a:1", "http://b:2"]);
    }

    #[test]
    fn bad_endpoints_name_the_flag() {
        for text in
            ["", "host", "host:", "host:0", "host:99999", ":2379", "unix:///x", "ftp://a:1", "http://a:1/x", "a b:1"]
        {
            let error = parsed(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(error.message().contains("--endpoints"), "{error}");
        }
        assert_eq!(EtcdOptions::new([""; 0]).parsed_endpoints().unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_password_in_an_endpoint_is_not_repeated() {
        let error = parsed("https://root:hunter2@host:2379").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
