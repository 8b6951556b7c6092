//! What an S3 error means: whether the next attempt may succeed, what the caller should do, what the operator.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::error::{Error, ErrorKind};
use crate::store::connector::{cause, tls_mistake};
use crate::store::retry::Failure;

/// Errors of a store that pass, whatever their status.
const PASSING_CODES: [&str; 14] = [
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "InternalError",
    "ServiceUnavailable",
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "OperationAborted",
    "ServerBusy",
    "BadDigest",
    "IncompleteBody",
    "XMinioServerNotInitialized",
];

/// What a failed call was about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    /// What could not be done: `read`, `list`, …
    pub(super) action: &'a str,
    /// The key or prefix.
    pub(super) key: &'a str,
    /// The store, as `describe` gives it.
    pub(super) store: &'a str,
}

/// An error of the SDK, boiled down.
#[derive(Debug)]
pub(super) struct S3Failure {
    /// HTTP status, where an answer came.
    pub(super) status: Option<u16>,
    /// The store's own code (`NoSuchKey`, …), where it gave one.
    pub(super) code: Option<String>,
    passing: bool,
    kind: ErrorKind,
    hint: Option<String>,
    source: Box<dyn StdError + Send + Sync>,
}

impl S3Failure {
    /// Reads an error of the SDK.
    pub(super) fn new<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        match error {
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                let region = service.raw().headers().get("x-amz-bucket-region").map(str::to_owned);
                let code = service.err().code().map(str::to_owned);
                let message = service.err().message().unwrap_or_default().to_owned();
                Self::of_answer(status, code, &message, region)
            }
            SdkError::ResponseError(response) => {
                let status = response.raw().status().as_u16();
                let source = SdkError::<E, HttpResponse>::ResponseError(response).into();
                Self { status: Some(status), ..Self::of_passage(source, "does the endpoint speak S3?") }
            }
            other => Self::of_dispatch(other.into()),
        }
    }

    /// Neither an answer nor a word of one: connection, TLS, credentials.
    fn of_dispatch(source: Box<dyn StdError + Send + Sync>) -> Self {
        if let Some(found) = cause::<CredentialsError>(source.as_ref()) {
            let passing = matches!(found, CredentialsError::ProviderTimedOut(_));
            let hint = "give credentials in the environment or in a profile";
            return Self { passing, ..Self::of_mistake(source, ErrorKind::Denied, hint) };
        }
        match tls_mistake(source.as_ref()) {
            Some((kind, hint)) => Self::of_mistake(source, kind, hint),
            None => Self::of_passage(source, "is the endpoint right, and is the store up?"),
        }
    }

    /// Something on the way that may pass.
    fn of_passage(source: Box<dyn StdError + Send + Sync>, hint: &str) -> Self {
        let hint = Some(hint.to_owned());
        Self { status: None, code: None, passing: true, kind: ErrorKind::Unavailable, hint, source }
    }

    /// Something on the way that stays until somebody mends it.
    fn of_mistake(source: Box<dyn StdError + Send + Sync>, kind: ErrorKind, hint: &str) -> Self {
        Self { passing: false, kind, ..Self::of_passage(source, hint) }
    }

    fn of_answer(status: u16, code: Option<String>, message: &str, region: Option<String>) -> Self {
        let word = code.as_deref().unwrap_or_default();
        let passing = matches!(status, 408 | 429 | 500 | 502 | 503 | 504) || PASSING_CODES.contains(&word);
        let (kind, hint) = if passing { (ErrorKind::Unavailable, None) } else { meaning(status, word) };
        let hint = match region {
            Some(region) if matches!(status, 301 | 307 | 400) => Some(format!("the bucket is in region {region}")),
            _ => hint.map(str::to_owned),
        };
        let mut said = format!("the store answered {status}");
        for text in [word, message] {
            if !text.is_empty() {
                said = format!("{said} {text}");
            }
        }
        Self { status: Some(status), code, passing, kind, hint, source: said.into() }
    }

    /// Whether the store said this code.
    pub(super) fn is_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether what was asked for is not there, upload or object; a missing bucket is something else.
    pub(super) fn is_missing(&self) -> bool {
        self.status == Some(404) && !self.is_code("NoSuchBucket")
    }

    /// Whether the next attempt may succeed.
    pub(super) fn is_passing(&self) -> bool {
        self.passing
    }

    /// The engine's error.
    pub(super) fn error(self, subject: Subject<'_>) -> Error {
        let Subject { action, key, store } = subject;
        let message = match (self.status, self.kind) {
            (Some(404), _) if self.is_code("NoSuchBucket") => format!("cannot {action} {key}: no such {store}"),
            (Some(404), _) if matches!(action, "read" | "look at") => format!("no object {key} in {store}"),
            (Some(412), _) => format!("{key} in {store} changed while it was read"),
            (Some(416), _) => format!("{key} in {store} is shorter than what was asked for"),
            _ => format!("cannot {action} {key} in {store}"),
        };
        let error = Error::new(self.kind, message).caused_by(self.source);
        // Only objects can be absent; for anything else the whole service is another one.
        let elsewhere = self.status == Some(404) && !matches!(action, "read" | "look at");
        match self.hint.or(elsewhere.then(|| "check that the endpoint leads to a store that speaks S3".to_owned())) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// For the next decision of `Attempts::again`.
    pub(super) fn failure(self, subject: Subject<'_>) -> Failure {
        if self.passing { Failure::Passing(self.error(subject)) } else { Failure::Final(self.error(subject)) }
    }
}

/// What an answer that will not change means, and what to do.
fn meaning(status: u16, code: &str) -> (ErrorKind, Option<&'static str>) {
    match (status, code) {
        (_, "NoSuchBucket") => {
            (ErrorKind::NotFound, Some("check --store-container and the endpoint; buckets are not created"))
        }
        (_, "RequestTimeTooSkewed") => (ErrorKind::Denied, Some("set this machine's clock")),
        (_, "ExpiredToken" | "InvalidToken") => (ErrorKind::Denied, Some("renew the temporary credentials")),
        (_, "InvalidAccessKeyId") => (ErrorKind::Denied, Some("the store does not know this access key")),
        (_, "SignatureDoesNotMatch") => {
            (ErrorKind::Denied, Some("check the secret key, the region and this machine's clock"))
        }
        (_, "AuthorizationHeaderMalformed") | (301 | 307, _) => {
            (ErrorKind::Invalid, Some("set the bucket's region and endpoint"))
        }
        (401 | 403, _) => {
            (ErrorKind::Denied, Some("check the credentials, their permissions on the bucket and this machine's clock"))
        }
        (404, _) => (ErrorKind::NotFound, None),
        (412, _) => (ErrorKind::Damaged, Some("list the store again and start over")),
        (416, _) => (ErrorKind::Damaged, Some("the object is not whole; choose another backup")),
        (507, _) => (ErrorKind::Unavailable, Some("the store is full: make room in it")),
        _ => (ErrorKind::Invalid, Some("the store does not take this request: check endpoint, provider and container")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject<'_> = Subject { action: "read", key: "a/b", store: "bucket x" };

    fn answer(status: u16, code: &str) -> S3Failure {
        S3Failure::of_answer(status, Some(code.to_owned()).filter(|code| !code.is_empty()), "", None)
    }

    #[test]
    fn what_passes_is_tried_again() {
        for (status, code) in [(500, ""), (503, "SlowDown"), (429, ""), (200, "InternalError"), (400, "RequestTimeout")]
        {
            let failure = answer(status, code);
            assert!(failure.is_passing(), "{status} {code}");
            assert_eq!(failure.error(SUBJECT).kind(), ErrorKind::Unavailable);
        }
    }

    #[test]
    fn what_does_not_pass_says_what_to_do() {
        for (status, code, kind) in [
            (403, "AccessDenied", ErrorKind::Denied),
            (403, "", ErrorKind::Denied),
            (400, "ExpiredToken", ErrorKind::Denied),
            (404, "NoSuchBucket", ErrorKind::NotFound),
            (404, "NoSuchKey", ErrorKind::NotFound),
            (412, "PreconditionFailed", ErrorKind::Damaged),
            (416, "InvalidRange", ErrorKind::Damaged),
            (301, "PermanentRedirect", ErrorKind::Invalid),
            (411, "MissingContentLength", ErrorKind::Invalid),
            (501, "NotImplemented", ErrorKind::Invalid),
        ] {
            let failure = answer(status, code);
            assert!(!failure.is_passing(), "{status} {code}");
            let error = failure.error(SUBJECT);
            assert_eq!(error.kind(), kind, "{status} {code}");
            assert!(error.to_string().contains("a/b") && error.to_string().contains("bucket x"), "{error}");
            assert!(error.next_step().is_some() || kind == ErrorKind::NotFound);
        }
    }

    #[test]
    fn another_region_is_named() {
        let failure = S3Failure::of_answer(301, Some("PermanentRedirect".into()), "", Some("eu-north-1".into()));
        assert_eq!(failure.error(SUBJECT).next_step(), Some("the bucket is in region eu-north-1"));
    }

    #[test]
    fn causes_are_found_inside_io_errors() {
        let inner = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = S3Failure::of_dispatch(Box::new(std::io::Error::other(inner)));
        assert!(!error.is_passing());
        assert_eq!(error.error(SUBJECT).kind(), ErrorKind::Denied);
    }

    #[test]
    fn what_fails_on_the_way_says_what_to_do() {
        let certificate = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let plain_http = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let slow = CredentialsError::provider_timed_out(std::time::Duration::from_secs(1));
        let causes: [(Box<dyn StdError + Send + Sync>, bool, ErrorKind, &str); 5] = [
            (certificate.into(), false, ErrorKind::Denied, "CA"),
            (plain_http.into(), false, ErrorKind::Invalid, "http://"),
            (CredentialsError::not_loaded_no_source().into(), false, ErrorKind::Denied, "credentials"),
            (slow.into(), true, ErrorKind::Denied, "credentials"),
            (std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into(), true, ErrorKind::Unavailable, "up?"),
        ];
        for (cause, passing, kind, hint) in causes {
            let said = cause.to_string();
            let failure = S3Failure::of_dispatch(cause);
            assert_eq!(failure.is_passing(), passing, "{said}");
            let error = failure.error(SUBJECT);
            assert_eq!(error.kind(), kind, "{said}");
            assert!(error.next_step().is_some_and(|step| step.contains(hint)), "{said}: {error}");
        }
    }
}
