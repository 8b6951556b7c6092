//! How the source is reached; names as `etcdctl` and `etcdbrctl` have them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::etcd::EtcdOptions;
use etcdbr_engine::secret::SecretText;
use etcdbr_engine::tls::{ClientIdentity, ServerIdentity, TlsOptions};
use etcdbr_engine::{Error, ErrorKind, Result};

use super::parse_duration;

/// How the source is reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Source etcd")]
pub(crate) struct EtcdArgs {
    /// Endpoints of the cluster's members; one is chosen, a follower if there is one
    #[arg(
        short = 'e',
        long,
        env = "ETCDBR_ENDPOINTS",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379"
    )]
    endpoints: Vec<String>,
    /// PEM file of the certificate authorities to trust
    #[arg(long, env = "ETCDBR_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// PEM file of the client certificate
    #[arg(long, env = "ETCDBR_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// PEM file of the client certificate's key
    #[arg(long, env = "ETCDBR_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Do not check the servers' certificates
    #[arg(long, env = "ETCDBR_INSECURE_SKIP_TLS_VERIFY", value_parser = BoolishValueParser::new())]
    insecure_skip_tls_verify: bool,
    /// User, where etcd's authentication is on; it needs the role root
    #[arg(long, env = "ETCDBR_ETCD_USERNAME", value_name = "NAME")]
    etcd_username: Option<String>,
    /// Password of that user; better given in the environment variable
    #[arg(long, env = "ETCDBR_ETCD_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    etcd_password: Option<SecretArg>,
    /// How long to wait for a connection
    #[arg(long, env = "ETCDBR_ETCD_CONNECTION_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    etcd_connection_timeout: Duration,
    /// How long to wait for the answer to a question
    #[arg(long, env = "ETCDBR_ETCD_REQUEST_TIMEOUT", value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
    etcd_request_timeout: Duration,
    /// How long a snapshot stream may stand still before it is cancelled
    #[arg(long, env = "ETCDBR_ETCD_SNAPSHOT_STALL_TIMEOUT", value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
    etcd_snapshot_stall_timeout: Duration,
}

/// A secret that was given as an argument.
#[derive(Debug, Clone)]
pub(crate) struct SecretArg(SecretText);

impl From<&str> for SecretArg {
    fn from(text: &str) -> Self {
        Self(SecretText::new(text))
    }
}

impl From<String> for SecretArg {
    fn from(text: String) -> Self {
        Self(SecretText::new(text))
    }
}

impl EtcdArgs {
    /// What the flags mean.
    ///
    /// # Errors
    /// `Invalid` for a user without a password, or the other way round.
    pub(crate) fn options(self) -> Result<EtcdOptions> {
        let credentials = match (self.etcd_username, self.etcd_password) {
            (None, None) => None,
            // etcdctl's own form: --user name:password.
            (Some(user), None) => match user.split_once(':') {
                Some((user, password)) => Some((user.to_owned(), SecretText::new(password))),
                None => return Err(incomplete("--etcd-username is given without --etcd-password")),
            },
            (Some(user), Some(password)) => Some((user, password.0)),
            (None, Some(_)) => return Err(incomplete("--etcd-password is given without --etcd-username")),
        };
        let server_identity =
            if self.insecure_skip_tls_verify { ServerIdentity::Unchecked } else { ServerIdentity::Verified };
        let client_identity =
            self.cert.zip(self.key).map(|(cert_file, key_file)| ClientIdentity { cert_file, key_file });
        let any_tls = self.cacert.is_some() || client_identity.is_some() || self.insecure_skip_tls_verify;
        let tls = any_tls.then_some(TlsOptions { ca_file: self.cacert, client_identity, server_identity });
        Ok(EtcdOptions {
            endpoints: self.endpoints,
            tls,
            credentials,
            connect_timeout: self.etcd_connection_timeout,
            request_timeout: self.etcd_request_timeout,
            stall_timeout: self.etcd_snapshot_stall_timeout,
        })
    }
}

fn incomplete(what: &str) -> Error {
    Error::new(ErrorKind::Invalid, what).hint("give both, or name:password as --etcd-username")
}
