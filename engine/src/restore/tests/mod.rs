//! Moments of histories, restored from archives that are made here.

mod history;
mod leases;
mod moments;
mod refusals;
mod rollups;
mod sweeps;
mod targets;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use self::history::{Dice, History};
use super::*;
use crate::archive::{Archive, Keyring, KeyringSource, OnGap, ReadLimits, Selection, WriteLimits};
use crate::bbolt::{BoltFile, BulkWriter, check};
use crate::clock::{Clock, UnixMillis};
use crate::datadir::{
    Durability, HashPoint, MISSING_LEASE_TTL_S, MembershipRequest, Preallocate, StageOptions, hash_kv,
};
use crate::error::Result;
use crate::format::{
    ArchivePrefix, BackupName, CaptureFacts, FooterFacts, HashKvAnswer, HistoryDigest, LeaseGrant, LeaseTtl, LineageId,
    NameKind, ObjectNonce, Seam, SeamProof, Source, TimeMark,
};
use crate::monitor::Recorder;
use crate::pipeline::CompressionLevel;
use crate::record::{Change, Record};
use crate::replay::{HashKvProof, Thoroughness};
use crate::revision::{ClusterId, MemberId, Revision};
use crate::run::RunContext;
use crate::secret::SecretText;
use crate::store::LocalStore;
use crate::store::faulty::FaultyStore;

/// When revision 0 was.
const EPOCH: i64 = 1_763_724_000_000;
/// Between two revisions.
const TICK_MS: i64 = 1000;
const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// When the source stood at `revision`.
fn time_of(revision: i64) -> UnixMillis {
    UnixMillis(EPOCH + revision * TICK_MS)
}

fn lineage(birth: i64) -> LineageId {
    LineageId { birth: time_of(birth), cluster: ClusterId(0xcafe), random: birth as u32 }
}

/// An archive in a directory, and somewhere to restore to.
struct Site {
    dir: TempDir,
    store: Arc<FaultyStore>,
    archive: Archive,
    context: RunContext,
    nonce: std::cell::Cell<u64>,
}

/// What a full shall be.
#[derive(Debug, Clone)]
struct Full {
    lineage: LineageId,
    seam: i64,
    /// The image's own revision.
    revision: i64,
    /// What it is compacted at; 0: never.
    floor: i64,
    history: HistoryDigest,
    leases: Vec<(i64, i64)>,
    db_bytes: u64,
    answers: Vec<HashKvAnswer>,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(dir.path().join("archive").to_str().unwrap()).unwrap();
        let store = Arc::new(FaultyStore::new(Arc::new(store)));
        let keyring = Keyring::load(&KeyringSource::Text(SecretText::new(KEY))).unwrap().0;
        let archive = Archive::new(store.clone(), ArchivePrefix::new("c").unwrap(), keyring);
        let context = RunContext {
            clock: Clock::system(),
            monitor: Arc::new(Recorder::default()),
            stop: CancellationToken::new(),
        };
        std::fs::create_dir(dir.path().join("archive")).unwrap();
        Self { dir, store, archive, context, nonce: std::cell::Cell::new(1) }
    }

    fn name(&self, lineage: LineageId, kind: NameKind, created: UnixMillis) -> BackupName {
        let nonce = self.nonce.replace(self.nonce.get() + 1);
        BackupName { lineage, kind, created, nonce: ObjectNonce(nonce.to_be_bytes()) }
    }

    /// A full of `history`; its name.
    async fn full(&self, history: &History, full: Full) -> BackupName {
        let image = image(&history.compacted(full.revision, full.floor), full.floor, &full.leases);
        let seam = Revision(full.seam);
        let name = self.name(full.lineage, NameKind::Full { seam }, time_of(full.seam));
        let records = history.between(full.seam, full.seam);
        let proof = if records.is_empty() { SeamProof::Unproven } else { SeamProof::Proven };
        let facts = FooterFacts {
            plain_sha256: Sha256::digest(&image).into(),
            revisions: (seam, seam),
            seam: Some(Seam { revision: seam, records, proof }),
            hash_kv: full.answers.clone(),
            history: (full.history, full.history),
            capture: CaptureFacts {
                time_marks: vec![TimeMark { time: time_of(full.seam), revision: seam }],
                ..CaptureFacts::default()
            },
            ..facts(full.seam, full.db_bytes)
        };
        let limits = WriteLimits { chunk_bytes: 20_000, ..WriteLimits::default() };
        let mut writer = self.archive.writer(name, limits).unwrap();
        writer.push(&image).await.unwrap();
        writer.finish(&facts).await.unwrap();
        name
    }

    /// A delta of `first..=last` with `capture`; its name.
    async fn delta(
        &self,
        (lineage, history): (LineageId, &History),
        (first, last): (i64, i64),
        before: HistoryDigest,
        capture: CaptureFacts,
    ) -> BackupName {
        let created = capture.time_marks.last().map_or(time_of(last), |mark| mark.time);
        let name = self.name(lineage, NameKind::Delta { first: Revision(first), last: Revision(last) }, created);
        let facts = FooterFacts {
            revisions: (Revision(first), Revision(last)),
            history: (before, before),
            capture,
            ..facts(last, 1 << 30)
        };
        let records = history.between(first, last);
        let sealed = self.archive.seal_delta(name, &records, facts, CompressionLevel::Zstd(1)).unwrap();
        self.archive.put_delta(&sealed).await.unwrap();
        name
    }

    async fn remove(&self, name: &BackupName) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    fn path(&self, name: &BackupName) -> PathBuf {
        self.dir.path().join("archive").join(ArchivePrefix::new("c").unwrap().key(name))
    }

    fn target_dir(&self) -> PathBuf {
        self.dir.path().join(format!("etcd-{}", self.nonce.replace(self.nonce.get() + 1)))
    }

    async fn plan(&self, point: &PointRequest, data_dir: PathBuf) -> Result<RestorePlan> {
        let request = RestoreRequest {
            membership: MembershipRequest::default(),
            data_dir,
            limits: ReadLimits { read_bytes: 30_000, parallel_reads: 3, threads: 2 },
            thoroughness: Thoroughness::Full,
            staging: StageOptions { durability: Durability::None, wal: Preallocate::No },
            bump: None,
            missing_lease_ttl_s: MISSING_LEASE_TTL_S,
            purpose: Purpose::Restore,
        };
        plan_restore(&self.archive, point, request, &self.context).await
    }

    async fn restore(&self, point: &PointRequest) -> Result<Outcome> {
        let data_dir = self.target_dir();
        let plan = self.plan(point, data_dir.clone()).await?;
        run(plan, data_dir, &self.context).await
    }

    /// Restores `revision` of the newest lineage.
    async fn restore_revision(&self, revision: i64, way: WayWanted) -> Result<Outcome> {
        self.restore(&PointRequest { target: Target::Revision(Revision(revision)), way, ..newest() }).await
    }
}

async fn run(plan: RestorePlan, data_dir: PathBuf, context: &RunContext) -> Result<Outcome> {
    let done = run_restore(plan, context).await;
    let summary = match done {
        Ok(summary) => summary,
        Err(error) => {
            assert!(!data_dir.exists(), "a restore that failed has left {}", data_dir.display());
            return Err(error);
        }
    };
    let db = std::fs::read(data_dir.join("member/snap/db")).unwrap();
    Ok(Outcome { summary, db })
}

fn newest() -> PointRequest {
    PointRequest::newest(Selection::Latest)
}

/// What was restored.
struct Outcome {
    summary: RestoreSummary,
    db: Vec<u8>,
}

impl Outcome {
    fn bucket(&self, name: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let file = BoltFile::open(&self.db).unwrap();
        check(&file).unwrap();
        let mut entries = BTreeMap::new();
        let Some(bucket) = file.bucket(name.as_bytes()).unwrap() else { return entries };
        let mut cursor = file.cursor(&bucket);
        let mut entry = cursor.first().unwrap();
        while let Some(found) = entry {
            entries.insert(found.key.to_vec(), found.value.to_vec());
            entry = cursor.next().unwrap();
        }
        entries
    }

    /// Fails unless the records are exactly these.
    fn assert_records(&self, expected: &[Record], what: &str) {
        let got = self.bucket("key");
        let expected: BTreeMap<_, _> =
            expected.iter().map(|record| (record.bucket_key(), record.value.to_vec())).collect();
        let other = |(key, value): &(&Vec<u8>, &Vec<u8>), than: &BTreeMap<_, _>| than.get(*key) != Some(*value);
        let more: Vec<_> = got.iter().filter(|entry| other(entry, &expected)).map(|entry| entry.0).collect();
        let less: Vec<_> = expected.iter().filter(|entry| other(entry, &got)).map(|entry| entry.0).collect();
        assert!(more.is_empty() && less.is_empty(), "{what}: {more:?} too much, {less:?} missing");
    }

    /// Ids and seconds of the leases.
    fn leases(&self) -> Vec<(i64, i64)> {
        use prost::Message;
        let lease = |value: &Vec<u8>| etcdbr_proto::leasepb::Lease::decode(value.as_slice()).unwrap();
        self.bucket("lease").values().map(lease).map(|lease| (lease.id, lease.ttl)).collect()
    }

    /// What etcd will be compacted at, and has been.
    fn compactions(&self) -> (i64, i64) {
        let meta = self.bucket("meta");
        let main = |key: &[u8]| meta.get(key).map_or(0, |value| i64::from_be_bytes(value[..8].try_into().unwrap()));
        (main(b"scheduledCompactRev"), main(b"finishedCompactRev"))
    }

    fn point(&self) -> &RestoredPoint {
        match &self.summary.restored {
            Restored::Point(point) => point,
            Restored::Plain(name) => panic!("{name} is no moment"),
        }
    }
}

/// A database as a source's snapshot stream would give it.
fn image(records: &[Record], floor: i64, leases: &[(i64, i64)]) -> Vec<u8> {
    use prost::Message;
    let revision = |main: i64| {
        Record { main: Revision(main), sub: 0, change: Change::Put, value: bytes::Bytes::new() }.bucket_key()
    };
    let mut meta = vec![(b"consistent_index".to_vec(), 99_u64.to_be_bytes().to_vec())];
    if floor > 0 {
        meta.push((b"finishedCompactRev".to_vec(), revision(floor)));
        meta.push((b"scheduledCompactRev".to_vec(), revision(floor)));
    }
    let mut leases = leases.to_vec();
    leases.sort_unstable_by_key(|(id, _)| *id as u64);
    let leases = leases.iter().map(|&(id, ttl)| {
        let lease = etcdbr_proto::leasepb::Lease { id, ttl, remaining_ttl: 0 };
        Ok((id.to_be_bytes().to_vec(), lease.encode_to_vec()))
    });
    let mut writer = BulkWriter::create(Vec::new(), 4096).unwrap();
    writer.bucket(b"auth", [Ok((b"authRevision", 1_u64.to_be_bytes()))]).unwrap();
    writer.bucket(b"key", records.iter().map(|record| Ok((record.bucket_key(), record.value.clone())))).unwrap();
    writer.bucket(b"lease", leases).unwrap();
    writer.bucket(b"meta", meta.into_iter().map(Ok)).unwrap();
    let written = writer.finish().unwrap();
    let mut bytes = written.out;
    for (offset, meta) in written.metas {
        bytes[offset as usize..offset as usize + meta.len()].copy_from_slice(&meta);
    }
    bytes
}

fn facts(revision: i64, db_bytes: u64) -> FooterFacts {
    FooterFacts {
        plain_sha256: [0; 32],
        revisions: (Revision(0), Revision(0)),
        seam: None,
        hash_kv: Vec::new(),
        source: Source {
            cluster: ClusterId(0xcafe),
            member: MemberId(1),
            member_name: "m1".to_owned(),
            endpoint: "http://127.0.0.1:2379".to_owned(),
            etcd_version: "3.6.0".to_owned(),
            raft_term: 2,
            raft_index: 99,
            db_bytes,
            db_bytes_in_use: 0,
        },
        history: (HistoryDigest([0; 32]), HistoryDigest([0; 32])),
        capture: CaptureFacts::default(),
        labels: BTreeMap::new(),
        tool_version: "test".to_owned(),
        started: time_of(revision),
        finished: UnixMillis(time_of(revision).0 + 1),
    }
}

/// HashKV of `records` as a source that is compacted at `floor` (0: never) answers it.
fn answer(records: &[Record], revision: i64, floor: i64) -> HashKvAnswer {
    let compact = (floor > 0).then_some(Revision(floor));
    let entries = || Ok(records.iter().map(|record| Ok((record.bucket_key(), record.value.clone()))));
    let hash = hash_kv(entries, HashPoint { revision: Revision(revision), compact }).unwrap();
    let compact_revision = compact.unwrap_or(Revision(-1));
    HashKvAnswer { revision: Revision(revision), compact_revision, hash, duration_ms: 1 }
}

/// What capture knows at `revision`.
fn capture(revision: i64, compact: i64) -> CaptureFacts {
    CaptureFacts {
        time_marks: vec![TimeMark { time: time_of(revision), revision: Revision(revision) }],
        compact_revision: (compact > 0).then_some(Revision(compact)),
        ..CaptureFacts::default()
    }
}

fn grants(leases: &[(i64, i64)]) -> Vec<LeaseGrant> {
    leases.iter().map(|&(id, ttl_s)| LeaseGrant { id, ttl_s, known: LeaseTtl::Granted }).collect()
}

/// A lineage with one full and deltas without a gap.
struct Simple {
    site: Site,
    history: History,
    lineage: LineageId,
    digests: BTreeMap<i64, HistoryDigest>,
    full: BackupName,
    deltas: Vec<BackupName>,
}

impl Simple {
    /// 60 revisions; a full at 20 that reaches 25 and is compacted at 10; deltas of 5 revisions.
    async fn new() -> Self {
        Self::of(History::random(&mut Dice::new(7), 60)).await
    }

    async fn of(history: History) -> Self {
        let (site, lineage) = (Site::new(), lineage(20));
        let digests = history.digests(&lineage, 20);
        let full = Full {
            lineage,
            seam: 20,
            revision: 25,
            floor: 10,
            history: digests[&20],
            leases: (1..=4).map(|id| (id, 60)).collect(),
            db_bytes: 1 << 30,
            answers: vec![answer(&history.records, 20, 10)],
        };
        let full = site.full(&history, full).await;
        let mut simple = Self { site, history, lineage, digests, full, deltas: Vec::new() };
        for first in (21..=simple.history.last).step_by(5) {
            let last = (first + 4).min(simple.history.last);
            let name = simple.delta(first, last, capture(last, 0)).await;
            simple.deltas.push(name);
        }
        simple
    }

    async fn delta(&self, first: i64, last: i64, capture: CaptureFacts) -> BackupName {
        self.site.delta((self.lineage, &self.history), (first, last), self.digests[&(first - 1)], capture).await
    }
}
