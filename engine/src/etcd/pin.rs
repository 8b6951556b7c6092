//! Chooses the member that one full is taken from.

use std::sync::Arc;

use futures::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::endpoint::{Endpoint, EtcdOptions};
use super::fault::Fault;
use super::session::Session;
use super::status::{Alarm, MemberStatus, Role, ask_status};
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::{Event, Monitor};

/// An endpoint that answered.
pub(super) struct Candidate {
    pub(super) session: Arc<Session>,
    pub(super) status: MemberStatus,
}

/// Asks every endpoint for its status and takes the best: a follower before the leader (a snapshot costs the
/// member something), one that its cluster calls corrupt last of all.
///
/// # Errors
/// `Unavailable` where no endpoint answers, `Denied` where one wants other credentials and none answers, `Refused`
/// where they belong to different clusters or are learners all; each names the endpoints.
pub(super) async fn choose(options: &EtcdOptions, monitor: &dyn Monitor) -> Result<Candidate> {
    let endpoints = options.parsed_endpoints()?;
    let tls = options.tls.clone().unwrap_or_default().client_config()?;
    let asked = endpoints.into_iter().map(|endpoint| {
        warn_of_plain_text(&endpoint, options, monitor);
        ask(endpoint, tls.clone(), options)
    });
    let mut candidates = Vec::new();
    let mut failures = Vec::new();
    for answer in join_all(asked).await {
        match answer {
            Ok(candidate) => candidates.push(candidate),
            Err(error) => failures.push(error),
        }
    }
    one_cluster(&candidates)?;
    let (learners, mut voters): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|candidate| candidate.status.role == Role::Learner);
    if voters.is_empty() {
        return Err(nobody(failures, &learners));
    }
    for failure in failures {
        monitor.tell(Event::Warning(format!("skipping an endpoint: {failure}")));
    }
    for learner in learners {
        monitor.tell(Event::Note(format!("skipping {}: it is a learner", learner.session.endpoint())));
    }
    // Stable: among equals the operator's order decides.
    voters.sort_by_key(|candidate| rank(&candidate.status));
    let chosen = voters.swap_remove(0);
    warn_of_state(&chosen, monitor);
    Ok(chosen)
}

/// Connects and asks, both within `connect_timeout`: which of the two it was that took too long is what the operator
/// wants to know.
async fn ask(endpoint: Endpoint, tls: rustls::ClientConfig, options: &EtcdOptions) -> Result<Candidate> {
    let limit = options.connect_timeout;
    let deadline = Instant::now() + limit;
    let late = |fault: Fault, action| fault.into_error(&endpoint, options.user(), action);
    let session = match timeout_at(deadline, Session::open(endpoint.clone(), tls, options)).await {
        Ok(opened) => Arc::new(opened?),
        Err(_) => return Err(late(Fault::Unreachable(limit), "connect")),
    };
    match timeout_at(deadline, ask_status(&session)).await {
        Ok(Ok(status)) => Ok(Candidate { session, status }),
        Ok(Err(fault)) => Err(session.error(fault, "read its status")),
        Err(_) => Err(late(Fault::Deadline(limit), "read its status")),
    }
}

fn rank(status: &MemberStatus) -> u8 {
    if status.alarms().contains(&Alarm::Corrupt(status.member)) {
        return 3;
    }
    match status.role {
        Role::Follower => 0,
        Role::Leader => 1,
        Role::Leaderless | Role::Learner => 2,
    }
}

fn one_cluster(candidates: &[Candidate]) -> Result<()> {
    let Some((first, rest)) = candidates.split_first() else { return Ok(()) };
    match rest.iter().find(|other| other.status.cluster != first.status.cluster) {
        None => Ok(()),
        Some(other) => Err(Error::new(
            ErrorKind::Refused,
            format!(
                "--endpoints names two clusters: {} belongs to {}, {} to {}",
                first.session.endpoint(),
                first.status.cluster,
                other.session.endpoint(),
                other.status.cluster
            ),
        )
        .hint("name the members of one cluster only")),
    }
}

/// The error of a cluster of which no voting member answered.
fn nobody(failures: Vec<Error>, learners: &[Candidate]) -> Error {
    let mut said: Vec<String> = failures.iter().map(ToString::to_string).collect();
    said.extend(learners.iter().map(|learner| format!("{}: it is a learner", learner.session.endpoint())));
    let denied = failures.iter().find(|error| error.kind() == ErrorKind::Denied);
    let kind = match (denied, failures.is_empty()) {
        (Some(_), _) => ErrorKind::Denied,
        (None, true) => ErrorKind::Refused,
        (None, false) => ErrorKind::Unavailable,
    };
    let hint = denied.or(failures.first()).and_then(Error::next_step);
    let hint = hint.unwrap_or("point --endpoints at a voting member, or promote this one first").to_owned();
    Error::new(kind, format!("no member can be used: {}", said.join("; "))).hint(hint)
}

fn warn_of_plain_text(endpoint: &Endpoint, options: &EtcdOptions, monitor: &dyn Monitor) {
    if options.tls.is_some() && endpoint.scheme() == &http::uri::Scheme::HTTP {
        monitor.tell(Event::Warning(format!("{endpoint} is not encrypted: the TLS flags have no effect on http://")));
    }
}

fn warn_of_state(chosen: &Candidate, monitor: &dyn Monitor) {
    let endpoint = chosen.session.endpoint();
    for alarm in chosen.status.alarms() {
        monitor.tell(Event::Warning(format!("{endpoint} reports {alarm}")));
    }
    if chosen.status.role == Role::Leaderless {
        monitor.tell(Event::Warning(format!("{endpoint} sees no leader")));
    }
}
