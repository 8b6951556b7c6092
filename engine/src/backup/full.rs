//! One full: etcd's snapshot stream straight into the archive.
//!
//! The order matters. Without a key, first a look whether the archive is an encrypted one. Then the seam: a linearizable
//! read through the pinned member gives L, and a watch gives the records of L. Then the stream, so that the image's own
//! revision is L or later. Then, where it is due, HashKV at L: of the same member, whose identity is looked at once
//! more, because the stream does not tell who sends it. The object is committed only after the stream has ended with the
//! SHA-256 that etcd sent; on every other path it is taken back.
//!
//! A full opens a lineage, or is taken into one that is being captured: then it is committed only where a
//! [`SeamWitness`] has seen the same records at L, and still stands by it when the stream has ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::hash_kv::{HashKvOutcome, HashKvPlan, HashKvPolicy};
use super::place::SeamWitness;
use crate::archive::{Archive, BackupWriter, WriteLimits};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::{EtcdOptions, Identity, Member, MemberStatus, Proof, SeamCapture, SnapshotStream, Standing};
use crate::format::{
    BackupName, CaptureFacts, FooterFacts, HistoryDigest, KeyId, LineageId, NameKind, ObjectNonce, Seam, SeamProof,
    Source, TimeMark,
};
use crate::monitor::{Event, Phase};
use crate::run::RunContext;

/// What to back up, and how.
#[derive(Debug, Clone)]
pub struct FullRequest {
    /// The source.
    pub etcd: EtcdOptions,
    /// Bounds and compression.
    pub limits: WriteLimits,
    /// Stored with the backup and shown.
    pub labels: BTreeMap<String, String>,
    /// Of etcdbr; stored with the backup.
    pub tool_version: String,
    /// When the source is asked for its HashKV.
    pub hash_kv: HashKvPolicy,
}

/// A full that is durable.
#[derive(Debug, Clone)]
pub struct FullSummary {
    /// Its name.
    pub name: BackupName,
    /// The key that it is encrypted with.
    pub key_id: Option<KeyId>,
    /// The pinned member.
    pub source: Source,
    /// Bytes of the image.
    pub plain_bytes: u64,
    /// Bytes of the object.
    pub stored_bytes: u64,
    /// When work began.
    pub started: UnixMillis,
    /// When the object was durable.
    pub finished: UnixMillis,
    /// As requested.
    pub labels: BTreeMap<String, String>,
    /// What it will be compared with when it is restored.
    pub hash_kv: HashKvOutcome,
}

/// A full whose lineage and seam are settled, and whose stream has not begun.
#[derive(Debug)]
pub struct BegunFull {
    name: BackupName,
    started: UnixMillis,
    member: Member,
    standing: Standing,
    source: Source,
    seam: Seam,
    time_mark: TimeMark,
    auth_state: Vec<u8>,
    /// D of the seam.
    history: HistoryDigest,
    /// Who captures the lineage; nobody where this full opens it.
    witness: Option<Arc<dyn SeamWitness>>,
}

/// What comes of the beginning of a full in a lineage that is being captured.
#[derive(Debug)]
pub enum Beginning {
    /// It is of the lineage's history.
    Proven(Box<BegunFull>),
    /// Nothing shows that it is.
    Unproven(Error),
}

/// Takes one full in a lineage of its own.
///
/// # Errors
/// Those of etcd and of the store; `Refused` for an unencrypted backup into an archive that has encrypted ones;
/// `Interrupted`. No object exists then, and no upload is left.
pub async fn take_full(archive: &Archive, request: &FullRequest, context: &RunContext) -> Result<FullSummary> {
    let begun = async {
        check_policy(archive, context).await?;
        let member = Member::pin(&request.etcd, &*context.monitor).await?;
        begin_full(&member, context).await
    };
    run_full(context.unless_stopped(begun).await?, archive, request, context).await
}

/// Streams the image of a full into the archive.
///
/// # Errors
/// As [`take_full`].
pub async fn run_full(
    begun: BegunFull,
    archive: &Archive,
    request: &FullRequest,
    context: &RunContext,
) -> Result<FullSummary> {
    let started = begun.started;
    let hash_kv = HashKvPlan::make(request.hash_kv, begun.source.cluster, archive, context);
    let hash_kv = context.unless_stopped(async { Ok(hash_kv.await) }).await?;
    let mut stream = context.unless_stopped(begun.member.snapshot()).await?;
    let BegunFull { name, member, source, seam, time_mark, auth_state, history, witness, .. } = begun;
    context.note(format!(
        "streaming {} (member {}, etcd {}) at revision {} into {}",
        source.endpoint,
        source.member,
        source.etcd_version,
        seam.revision,
        archive.describe()
    ));
    let total_bytes = source.db_bytes.max(stream.expected_bytes());
    context.monitor.tell(Event::Begin { phase: Phase::Backup, total_bytes });
    let mut writer = archive.writer(name, request.limits)?;
    let sealed = async {
        let plain_sha256 = transfer(&mut stream, &mut writer, context).await?;
        same_member(&member, context).await?;
        let (outcome, hash_kv_asked) = hash_kv.ask(&member, seam.revision, context).await?;
        let time_marks = vec![time_mark];
        let capture = CaptureFacts { time_marks, auth_state, hash_kv_asked, ..CaptureFacts::default() };
        let mut facts = facts(request, plain_sha256, seam, source, capture, history, (started, context.clock.now()));
        facts.hash_kv = outcome.answers();
        writer.seal_all(&facts).await?;
        // The last question before the commit: whoever captures has not paused since the first one, which came before
        // the stream; and what leads to the seam is durable, so that no revision can be missing before it.
        if let Some(witness) = witness {
            witness.settled(facts.revisions.0).await?;
        }
        Ok((facts, outcome))
    };
    let (facts, hash_kv) = match context.unless_stopped(sealed).await {
        Ok(sealed) => sealed,
        Err(error) => {
            // Held open while the store is asked to forget, it would pin pages of etcd's database.
            drop(stream);
            return Err(writer.abort_after(error).await);
        }
    };
    let written = writer.commit().await?;
    context.monitor.tell(Event::End(Phase::Backup));
    Ok(FullSummary {
        name: written.name,
        key_id: archive.keyring().ids().first().copied(),
        source: facts.source,
        plain_bytes: written.plain_bytes,
        stored_bytes: written.stored_bytes,
        started,
        finished: context.clock.now(),
        labels: facts.labels,
        hash_kv,
    })
}

/// The stream itself does not tell who sends it: a load balancer could have led it to another member.
async fn same_member(member: &Member, context: &RunContext) -> Result<()> {
    match member.status().await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::Refused => Err(error),
        Err(error) => {
            context.note(format!("who sent the snapshot could not be looked at once more: {error}"));
            Ok(())
        }
    }
}

fn facts(
    request: &FullRequest,
    plain_sha256: [u8; 32],
    seam: Seam,
    source: Source,
    capture: CaptureFacts,
    history: HistoryDigest,
    (started, finished): (UnixMillis, UnixMillis),
) -> FooterFacts {
    FooterFacts {
        plain_sha256,
        revisions: (seam.revision, seam.revision),
        seam: Some(seam),
        hash_kv: Vec::new(),
        source,
        history: (history, history),
        capture,
        labels: request.labels.clone(),
        tool_version: request.tool_version.clone(),
        started,
        finished,
    }
}

/// Refuses an unencrypted backup into an archive that has encrypted ones; says where a backup is not encrypted.
///
/// # Errors
/// `Refused`; those of the store.
pub async fn check_policy(archive: &Archive, context: &RunContext) -> Result<()> {
    if archive.keyring().is_empty() {
        archive.check_encryption_policy(&archive.catalogue().await?).await?;
        context.note("no encryption key was given: this backup is not encrypted (`etcdbr keygen` makes a key)");
    }
    Ok(())
}

/// Settles the lineage and the seam of a full that opens a lineage: what follows the seam may be captured from now on.
///
/// # Errors
/// Those of etcd.
pub async fn begin_full(member: &Member, context: &RunContext) -> Result<BegunFull> {
    begin(member, None, context).await
}

/// Settles the seam of a full in `lineage`, which `witness` captures through the same `member`.
///
/// # Errors
/// Those of etcd and of the witness.
pub async fn begin_full_within(
    lineage: LineageId,
    member: &Member,
    witness: Arc<dyn SeamWitness>,
    context: &RunContext,
) -> Result<Beginning> {
    let mut begun = begin(member, Some(lineage), context).await?;
    if begun.standing.cluster != lineage.cluster {
        let what =
            format!("{} is of cluster {}, not of lineage {lineage}", begun.source.endpoint, begun.standing.cluster);
        return Err(Error::new(ErrorKind::Refused, what));
    }
    match witness.meet(&begun.seam, begun.time_mark).await {
        Ok(history) => {
            begun.history = history;
            begun.witness = Some(witness);
            Ok(Beginning::Proven(Box::new(begun)))
        }
        Err(error) if error.kind() == ErrorKind::Refused => Ok(Beginning::Unproven(error)),
        Err(error) => Err(error),
    }
}

async fn begin(member: &Member, within: Option<LineageId>, context: &RunContext) -> Result<BegunFull> {
    let started = context.clock.now();
    let revision = member.linearizable_revision().await?;
    let time_mark = TimeMark { time: context.clock.now(), revision };
    let status = member.status().await?;
    // Before the image: what changes in between is in it, and is noticed as a change.
    // Who may not ask goes without.
    let auth_state = member.auth_mark().await.map(|mark| mark.encode()).unwrap_or_default();
    let capture = member.seam(revision).await?;
    if let Proof::Unproven(reason) = &capture.proof {
        context.note(format!("revision {revision} has no records to prove continuity with ({reason})"));
    }
    let name = BackupName {
        lineage: within.map_or_else(|| LineageId::new(started, status.cluster), Ok)?,
        kind: NameKind::Full { seam: revision },
        created: started,
        nonce: ObjectNonce::random()?,
    };
    let standing =
        Standing { cluster: status.cluster, revision, raft_term: status.raft_term, raft_index: status.raft_index };
    let source = source(member.identity(), &status);
    let (member, seam) = (member.clone(), seam(capture));
    let history = HistoryDigest::at_seam(&name.lineage, revision);
    Ok(BegunFull { name, started, member, standing, source, seam, time_mark, auth_state, history, witness: None })
}

impl BegunFull {
    /// The name that it will have.
    pub fn name(&self) -> &BackupName {
        &self.name
    }

    /// Where capture meets it.
    pub fn seam(&self) -> &Seam {
        &self.seam
    }

    /// Where the cluster stood.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// When the source stood at the seam.
    pub fn time_mark(&self) -> TimeMark {
        self.time_mark
    }

    /// What the source said of users and roles before the image; empty where it may not be asked.
    pub fn auth_state(&self) -> &[u8] {
        &self.auth_state
    }

    /// The member that gives it.
    pub fn source(&self) -> &Source {
        &self.source
    }
}

/// Moves the image; returns its SHA-256, which etcd's own has been compared with.
async fn transfer(stream: &mut SnapshotStream, writer: &mut BackupWriter, context: &RunContext) -> Result<[u8; 32]> {
    /// Bytes between two reports of progress.
    const REPORT_BYTES: u64 = 4 << 20;
    let mut reported = 0;
    while let Some(bytes) = stream.next().await? {
        writer.push(&bytes).await?;
        if stream.image_bytes() - reported >= REPORT_BYTES {
            reported = stream.image_bytes();
            context.monitor.tell(Event::Progress { plain_bytes: reported, stored_bytes: writer.stored_bytes() });
        }
    }
    stream.sha256().ok_or_else(|| Error::new(ErrorKind::Internal, "the snapshot stream ended without a verdict"))
}

/// How objects name the member that gave them.
pub(crate) fn source(identity: &Identity, status: &MemberStatus) -> Source {
    Source {
        cluster: status.cluster,
        member: status.member,
        member_name: identity.name.clone().unwrap_or_default(),
        endpoint: identity.endpoint.clone(),
        etcd_version: status.version.clone(),
        raft_term: status.raft_term,
        raft_index: status.raft_index,
        db_bytes: status.db_bytes,
        db_bytes_in_use: status.db_bytes_in_use,
    }
}

fn seam(capture: SeamCapture) -> Seam {
    let proof = match capture.proof {
        Proof::Proven => SeamProof::Proven,
        Proof::Unproven(_) => SeamProof::Unproven,
    };
    Seam { revision: capture.revision, records: capture.records, proof }
}
