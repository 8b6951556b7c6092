//! Questions to the live cluster. None of them writes, and none makes a member stand still.

use super::finding::{Finding, Subject, Verdict};
use super::known::known_faults;
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::{Alarm, EtcdOptions, Member, MemberStatus, Role, WatchEnd, WatchLimits};
use crate::monitor::Silent;
use crate::revision::Revision;
use crate::run::RunContext;

const SUBJECT: Subject = Subject::Source;
/// A database that is emptier than this is worth a defragmentation: a full streams all of it.
const FULL_PERCENT: u64 = 50;
const SMALL_DB_BYTES: u64 = 100 << 20;

/// Asks every endpoint who it is, and one member everything that a backup asks.
pub(super) async fn examine(options: &EtcdOptions, context: &RunContext) -> Vec<Finding> {
    let mut findings = Vec::new();
    for endpoint in &options.endpoints {
        let alone = EtcdOptions { endpoints: vec![endpoint.clone()], ..options.clone() };
        findings.extend(endpoint_alone(endpoint, &alone, context).await);
    }
    let pinned = context.unless_stopped(Member::pin(options, &Silent)).await;
    findings.push(Finding::of(SUBJECT, "a member can be used", &pinned, |member| {
        let identity = member.identity();
        format!("{} of cluster {} is asked", identity.endpoint, identity.cluster)
    }));
    if let Ok(member) = pinned {
        findings.extend(permissions(&member, context).await);
    }
    findings
}

/// Reachability, state and version of one endpoint.
async fn endpoint_alone(endpoint: &str, options: &EtcdOptions, context: &RunContext) -> Vec<Finding> {
    let status = context.unless_stopped(async { Member::pin(options, &Silent).await?.status().await }).await;
    let mut findings = vec![Finding::of(SUBJECT, "endpoint answers", &status, |status| {
        format!("{endpoint}: etcd {}, {:?}, database of {} MiB", status.version, status.role, status.db_bytes >> 20)
    })];
    if let Ok(status) = status {
        findings.extend(alarms(endpoint, &status));
        findings.push(version(endpoint, &status.version));
        findings.extend(emptiness(endpoint, &status));
    }
    findings
}

fn alarms(endpoint: &str, status: &MemberStatus) -> Vec<Finding> {
    let mut findings: Vec<Finding> = status
        .alarms()
        .iter()
        .map(|alarm| {
            let next_step = match alarm {
                Alarm::NoSpace(_) => "compact and defragment the cluster, then `etcdctl alarm disarm`",
                Alarm::Corrupt(_) => {
                    "do not take backups of this member; replace it with a new one, or restore the cluster"
                }
            };
            let verdict = if matches!(alarm, Alarm::Corrupt(_)) { Verdict::Bad } else { Verdict::Warning };
            Finding { verdict, ..Finding::warning(SUBJECT, "no alarms", format!("{endpoint}: {alarm}"), next_step) }
        })
        .collect();
    if status.role == Role::Leaderless {
        let seen = format!("{endpoint} sees no leader");
        let next_step = "see why the members do not reach each other; without a leader nothing can be captured";
        findings.push(Finding { verdict: Verdict::Bad, ..Finding::warning(SUBJECT, "has a leader", seen, next_step) });
    }
    findings
}

fn version(endpoint: &str, version: &str) -> Finding {
    const QUESTION: &str = "version has no known faults";
    match known_faults(version) {
        None => Finding::warning(
            SUBJECT,
            QUESTION,
            format!("{endpoint}: etcd {version} is none of 3.4 to 3.7"),
            "take a backup and restore it before relying on it",
        ),
        Some(faults) if faults.is_empty() => Finding::good(SUBJECT, QUESTION, format!("{endpoint}: etcd {version}")),
        Some(faults) => Finding::warning(
            SUBJECT,
            QUESTION,
            format!("{endpoint}: etcd {version}: {}", faults.join("; ")),
            "update to the newest patch of its minor version",
        ),
    }
}

fn emptiness(endpoint: &str, status: &MemberStatus) -> Option<Finding> {
    let mostly_empty = status.db_bytes_in_use * 100 < status.db_bytes * FULL_PERCENT;
    (mostly_empty && status.db_bytes >= SMALL_DB_BYTES).then(|| {
        let seen = format!(
            "{endpoint}: {} of {} MiB in use; a full streams all of them",
            status.db_bytes_in_use >> 20,
            status.db_bytes >> 20
        );
        Finding::warning(SUBJECT, "database is not mostly empty", seen, "defragment it when it is quiet")
    })
}

/// Every kind of question that a full and a capture ask.
async fn permissions(member: &Member, context: &RunContext) -> Vec<Finding> {
    let revision = context.unless_stopped(member.linearizable_revision()).await;
    let mut findings =
        vec![Finding::of(SUBJECT, "has a quorum", &revision, |revision| format!("at revision {revision}"))];
    let image = context.unless_stopped(first_of_image(member)).await;
    findings.push(Finding::of(SUBJECT, "snapshots may be taken", &image, |bytes| {
        format!("it would stream {} MiB", bytes >> 20)
    }));
    let watch = context.unless_stopped(watched(member)).await;
    findings.push(Finding::of(SUBJECT, "everything may be watched", &watch, |from| format!("from revision {from} on")));
    let leases = context.unless_stopped(member.leases()).await;
    findings.push(Finding::of(SUBJECT, "leases may be listed", &leases, |leases| format!("{} leases", leases.len())));
    let auth = context.unless_stopped(member.auth_mark()).await;
    findings.push(Finding::of(SUBJECT, "changes of users may be seen", &auth, |_| "they may".to_owned()));
    findings
}

/// The first bytes of an image, and how many it would have; the stream is cancelled at once.
async fn first_of_image(member: &Member) -> Result<u64> {
    let mut image = member.snapshot().await?;
    match image.next().await? {
        Some(_) => Ok(image.expected_bytes()),
        None => Err(Error::new(ErrorKind::Damaged, "etcd streams an image of no bytes")),
    }
}

/// Opens a watch on what is to come and lets go of it.
async fn watched(member: &Member) -> Result<Revision> {
    let from = Revision(member.status().await?.revision.0 + 1);
    member.watch(from, WatchLimits::default()).await.map_err(WatchEnd::into_error)?;
    Ok(from)
}
