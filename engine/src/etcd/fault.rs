//! The one place where what gRPC says becomes our error.
//!
//! etcd's errors are told apart by their text: its codes are too coarse (a learner is `Unavailable` on 3.5 and
//! `FailedPrecondition` on 3.6, a missing user is `InvalidArgument`), its texts are part of its API.

use std::error::Error as StdError;
use std::time::Duration;

use http::uri::Scheme;
use tonic::{Code, Status};

use super::endpoint::Endpoint;
use crate::error::{Error, ErrorKind};

const HINT_DOWN: &str = "check that the member runs and that --endpoints names its client URL";
const HINT_SLOW: &str = "the member is overloaded or has no quorum: look at its log, then try again";
const HINT_SILENT: &str = "check that the member runs, and that no firewall swallows what is sent to it";
const HINT_USER: &str = "give --etcd-username and --etcd-password of a user with the role root";
const HINT_ROOT: &str = "etcd gives snapshots to users with the role root only";
const HINT_LEARNER: &str = "point --endpoints at a voting member, or promote this one first";
const HINT_CA: &str = "give the root that signed etcd's certificate with --cacert, and a host name that is in it";
const HINT_CERT: &str = "give a client certificate that etcd trusts with --cert and --key";
const HINT_HTTPS: &str = "check that the member runs; if it speaks TLS, write https:// in --endpoints";
const HINT_CUT: &str = "check that the member runs; if it wants a client certificate, give --cert and --key";
const HINT_HTTP: &str = "if this member does not speak TLS, write http:// in --endpoints";

/// Why a question got no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// etcd answered with an error, or the connection broke under the question.
    Status(Box<Status>),
    /// No connection could be made.
    Transport(tonic::transport::Error),
    /// Nothing came within this time.
    Deadline(Duration),
    /// Nobody took up the connection within this time, nor refused it.
    Unreachable(Duration),
    /// A stream that should go on for ever was ended by the server.
    Ended,
    /// An error of ours.
    Ours(Error),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Fault {
    /// Whether etcd says that the revision asked for is compacted.
    pub(super) fn is_compacted(&self) -> bool {
        self.says("required revision has been compacted")
    }

    /// Whether a message was longer than we take.
    pub(super) fn is_too_large(&self) -> bool {
        self.says("decoded message length too large")
    }

    /// Whether the user may not do this.
    pub(super) fn is_denied(&self) -> bool {
        self.says("permission denied")
    }

    /// Whether no such user or role is known.
    pub(super) fn is_unknown_name(&self) -> bool {
        self.says("user name not found") || self.says("role name not found")
    }

    /// Whether no such lease is known.
    pub(super) fn is_unknown_lease(&self) -> bool {
        self.says("requested lease not found")
    }

    /// Whether the revision asked for is ahead of the member.
    pub(super) fn is_ahead(&self) -> bool {
        self.says("required revision is a future revision")
    }

    /// Whether this etcd does not know the question.
    pub(super) fn is_unknown_question(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::Unimplemented)
    }

    /// Whether etcd wants to know who asks.
    pub(super) fn wants_user(&self) -> bool {
        self.says("user name is empty")
    }

    /// Whether a fresh token may help.
    pub(super) fn wants_token(&self) -> bool {
        self.says("invalid auth token") || self.says("revision of auth store is old") || self.wants_user()
    }

    /// Whether credentials were shown to an etcd whose authentication is off.
    pub(super) fn is_auth_off(&self) -> bool {
        self.says("authentication is not enabled")
    }

    fn says(&self, text: &str) -> bool {
        matches!(self, Self::Status(status) if status.message().contains(text))
    }

    /// The error of `action` (as in "read its status") at `endpoint`, asked as `user`.
    pub(super) fn into_error(self, endpoint: &Endpoint, user: Option<&str>, action: &str) -> Error {
        let cannot = |why: &str| format!("{endpoint}: cannot {action}: {why}");
        match self {
            Self::Ours(error) => error.about(endpoint),
            Self::Deadline(limit) => {
                Error::new(ErrorKind::Unavailable, cannot(&format!("no answer within {limit:?}"))).hint(HINT_SLOW)
            }
            Self::Unreachable(limit) => {
                let why = format!("nobody answers at that address (tried for {limit:?})");
                Error::new(ErrorKind::Unavailable, cannot(&why)).hint(HINT_SILENT)
            }
            Self::Ended => Error::new(ErrorKind::Unavailable, cannot("the stream was ended")).hint(HINT_DOWN),
            Self::Transport(error) => {
                let (kind, why, hint) = connection_fault(&error, HINT_DOWN);
                Error::new(kind, cannot(&why)).hint(hint)
            }
            Self::Status(status) if status.source().is_some() => {
                let (kind, why, hint) = connection_fault(status.as_ref(), cut_hint(endpoint.scheme()));
                Error::new(kind, cannot(&why)).hint(hint)
            }
            Self::Status(status) => {
                let (kind, why, hint) = answered_fault(&status, user);
                let error = Error::new(kind, cannot(&why));
                if let Some(hint) = hint { error.hint(hint) } else { error }
            }
        }
    }
}

/// A reason that etcd gave as text alone, when it cancelled a watch: an error of its own, code and all, as Go
/// prints it.
pub(super) fn cancelled(reason: &str) -> Fault {
    let said = reason.split_once(" desc = ").map_or(reason, |(_code, said)| said);
    Status::new(Code::Cancelled, said).into()
}

/// What etcd itself answered.
fn answered_fault(status: &Status, user: Option<&str>) -> (ErrorKind, String, Option<&'static str>) {
    let said = status.message();
    let why = said.strip_prefix("etcdserver: ").unwrap_or(said);
    let why = if why.is_empty() { status.code().to_string() } else { why.to_owned() };
    let is = |text: &str| said.contains(text);
    let as_user = match user {
        Some(user) => format!("{why} (user {user:?})"),
        None => format!("{why} (no user was given)"),
    };
    if is("permission denied") || status.code() == Code::PermissionDenied {
        (ErrorKind::Denied, as_user, Some(HINT_ROOT))
    } else if is("authentication failed") || is("user name is empty") || status.code() == Code::Unauthenticated {
        (ErrorKind::Denied, as_user, Some(HINT_USER))
    } else if is("not supported for learner") {
        (ErrorKind::Refused, why, Some(HINT_LEARNER))
    } else if is("required revision has been compacted") {
        (ErrorKind::NotFound, why, None)
    } else if status.code() == Code::Unimplemented {
        (ErrorKind::Refused, format!("{why} (is this an etcd of 3.4 or later?)"), None)
    } else {
        (ErrorKind::Unavailable, why, Some(HINT_SLOW))
    }
}

/// The hint for a connection that was made and broke under a question. A server that speaks TLS breaks a plain one
/// so; and in TLS 1.3 a client may speak before it hears that its certificate is missed, and then never hears it.
fn cut_hint(scheme: &Scheme) -> &'static str {
    if scheme == &Scheme::HTTPS { HINT_CUT } else { HINT_HTTPS }
}

/// What went wrong below gRPC, told from the deepest cause.
fn connection_fault(error: &(dyn StdError + 'static), otherwise: &'static str) -> (ErrorKind, String, &'static str) {
    let mut causes = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    let all = causes.join(": ");
    let root = causes.pop().unwrap_or_default();
    let has = |texts: &[&str]| texts.iter().any(|text| all.contains(text));
    if has(&["invalid peer certificate"]) {
        (ErrorKind::Denied, root, HINT_CA)
    } else if has(&["received fatal alert"]) {
        (ErrorKind::Denied, root, HINT_CERT)
    } else if has(&["InvalidContentType", "corrupt message", "tls handshake eof"]) {
        (ErrorKind::Unavailable, format!("it does not speak TLS ({root})"), HINT_HTTP)
    } else if has(&["deadline has elapsed", "timed out"]) {
        (ErrorKind::Unavailable, format!("nobody answers at that address ({root})"), HINT_SILENT)
    } else {
        (ErrorKind::Unavailable, root, otherwise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(status: Status) -> Error {
        let mut options = super::super::EtcdOptions::new(["h:1"]);
        options.credentials = None;
        let endpoint = options.parsed_endpoints().unwrap().remove(0);
        Fault::from(status).into_error(&endpoint, Some("ann"), "stream a snapshot")
    }

    #[test]
    fn etcds_texts_decide_before_its_codes() {
        let cases = [
            (Code::InvalidArgument, "etcdserver: user name is empty", ErrorKind::Denied),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                ErrorKind::Denied,
            ),
            (Code::Unauthenticated, "etcdserver: invalid auth token", ErrorKind::Denied),
            (Code::PermissionDenied, "etcdserver: permission denied", ErrorKind::Denied),
            (Code::Unavailable, "etcdserver: rpc not supported for learner", ErrorKind::Refused),
            (Code::FailedPrecondition, "etcdserver: rpc not supported for learner", ErrorKind::Refused),
            (Code::Unimplemented, "unknown service etcdserverpb.Maintenance", ErrorKind::Refused),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", ErrorKind::NotFound),
            (Code::Unavailable, "etcdserver: no leader", ErrorKind::Unavailable),
            (Code::Unavailable, "etcdserver: request timed out", ErrorKind::Unavailable),
        ];
        for (code, text, kind) in cases {
            let error = error_of(Status::new(code, text));
            assert_eq!(error.kind(), kind, "{text}");
            assert!(error.message().starts_with("http://h:1: cannot stream a snapshot: "), "{error}");
        }
    }

    #[test]
    fn permission_denied_names_the_user() {
        let error = error_of(Status::permission_denied("etcdserver: permission denied"));
        assert!(error.message().contains("\"ann\""), "{error}");
        assert!(error.next_step().unwrap().contains("root"));
    }
}
