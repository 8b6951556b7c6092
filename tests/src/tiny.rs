//! A database and backups of a few kilobytes, made in memory: for tests that go through every byte or every call.

use std::sync::Arc;

use etcdbr_engine::archive::{Archive, Keyring, KeyringSource, WriteLimits};
use etcdbr_engine::bbolt::BulkWriter;
use etcdbr_engine::clock::{Clock, UnixMillis};
use etcdbr_engine::format::{
    ArchivePrefix, BackupName, CaptureFacts, FooterFacts, HistoryDigest, LineageId, NameKind, ObjectNonce, Seam,
    SeamProof, Source,
};
use etcdbr_engine::monitor::Silent;
use etcdbr_engine::pipeline::CompressionLevel;
use etcdbr_engine::revision::{ClusterId, MemberId, Revision};
use etcdbr_engine::run::RunContext;
use etcdbr_engine::secret::SecretText;
use etcdbr_engine::store::ObjectStore;
use etcdbr_engine::{Error, Result};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// The revision of [`image`].
pub const REVISION: Revision = Revision(11);
/// Chunks of one page and parts of half a kilobyte: the few kilobytes of [`image`] have many of both.
pub const LIMITS: WriteLimits =
    WriteLimits { chunk_bytes: 4096, part_bytes: 500, parallel_parts: 2, threads: 2, level: CompressionLevel::Zstd(1) };
/// The prefix of the archive, as `--store-prefix` has it.
pub const PREFIX: &str = "prod";

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// The key of a `key` record.
fn revision_key(main: u8, tombstone: bool) -> Vec<u8> {
    let mut key = [0; 17].to_vec();
    (key[7], key[8]) = (main, b'_');
    key.extend(tombstone.then_some(b't'));
    key
}

/// A stored `KeyValue` with a one-byte key: created at, modified at, version, value.
fn stored(key: u8, create: u8, modified: u8, version: u8, value: &[u8]) -> Vec<u8> {
    let head = [0x0a, 1, key, 0x10, create, 0x18, modified, 0x20, version, 0x2a];
    // A length of two bytes, as a varint has it from 128 on; readers take it for smaller ones as well.
    let len = [value.len() as u8 | 0x80, (value.len() >> 7) as u8];
    [&head[..], &len, value].concat()
}

/// What an etcd 3.6 streams that holds a key of two versions, one of six long ones, a deleted key and a lease, at
/// [`REVISION`]: a database of seven pages.
///
/// # Panics
/// Never: it is the same every time.
pub fn image() -> Vec<u8> {
    image_with(&[b'x'; 1500])
}

/// [`image`] with this value, of 128 to 16,383 bytes, six times.
///
/// # Panics
/// Where the value is too long.
pub fn image_with(value: &[u8]) -> Vec<u8> {
    let mut records = vec![
        (revision_key(2, false), stored(b'a', 2, 2, 1, b"first")),
        (revision_key(3, false), stored(b'b', 3, 3, 1, b"gone")),
        (revision_key(4, false), stored(b'a', 2, 4, 2, b"second")),
        (revision_key(5, true), vec![0x0a, 1, b'b']),
    ];
    records.extend((6..=11).map(|main| (revision_key(main, false), stored(b'c', 6, main, main - 5, value))));
    let meta: [(Vec<u8>, Vec<u8>); 3] = [
        (b"consistent_index".to_vec(), 9_u64.to_be_bytes().to_vec()),
        (b"storageVersion".to_vec(), b"3.6.0".to_vec()),
        (b"term".to_vec(), 2_u64.to_be_bytes().to_vec()),
    ];
    let lease = [(77_u64.to_be_bytes().to_vec(), vec![0x08, 0x4d, 0x10, 0x90, 0x1c])];
    let mut writer = BulkWriter::create(Vec::new(), 4096).expect("memory takes all");
    for name in
        ["alarm", "auth", "authRoles", "authUsers", "cluster", "key", "lease", "members", "members_removed", "meta"]
    {
        let entries: &[(Vec<u8>, Vec<u8>)] = match name {
            "key" => &records,
            "lease" => &lease,
            "meta" => &meta,
            _ => &[],
        };
        writer.bucket(name.as_bytes(), entries.iter().cloned().map(Ok)).expect("entries in order");
    }
    let written = writer.finish().expect("memory takes all");
    let mut bytes = written.out;
    for (offset, meta) in written.metas {
        bytes[offset as usize..offset as usize + meta.len()].copy_from_slice(&meta);
    }
    bytes
}

/// A keyring of one key, always the same.
///
/// # Panics
/// Never.
pub fn keyring() -> Keyring {
    Keyring::load(&KeyringSource::Text(SecretText::new(KEY))).expect("a key").0
}

/// The archive under [`PREFIX`] of `store`.
///
/// # Panics
/// Never.
pub fn archive(store: Arc<dyn ObjectStore>, keyring: Keyring) -> Archive {
    Archive::new(store, ArchivePrefix::new(PREFIX).expect("a prefix"), keyring)
}

/// Surroundings in which nobody watches and nobody stops.
pub fn context() -> RunContext {
    RunContext { clock: Clock::system(), monitor: Arc::new(Silent), stop: CancellationToken::new() }
}

/// Writes `image`, whatever it is, as a genuine full with its seam at `seam` and the SHA-256 of `promised`.
///
/// # Errors
/// Those of the archive.
///
/// # Panics
/// Where the machine has no random bytes.
pub async fn write_full(
    archive: &Archive,
    limits: WriteLimits,
    seam: Revision,
    (image, promised): (&[u8], &[u8]),
) -> Result<BackupName> {
    let created = UnixMillis(1_763_724_000_000);
    let name = BackupName {
        lineage: LineageId::new(created, ClusterId(1)).expect("random bytes"),
        kind: NameKind::Full { seam },
        created,
        nonce: ObjectNonce::random().expect("random bytes"),
    };
    let mut writer = archive.writer(name, limits)?;
    if let Err(error) = writer.push(image).await {
        return Err::<_, Error>(writer.abort_after(error).await);
    }
    writer.finish(&facts(&name, seam, promised)).await?;
    Ok(name)
}

fn facts(name: &BackupName, seam: Revision, promised: &[u8]) -> FooterFacts {
    let history = HistoryDigest::at_seam(&name.lineage, seam);
    FooterFacts {
        plain_sha256: Sha256::digest(promised).into(),
        revisions: (seam, seam),
        seam: Some(Seam { revision: seam, records: Vec::new(), proof: SeamProof::Unproven }),
        hash_kv: Vec::new(),
        source: Source {
            cluster: ClusterId(1),
            member: MemberId(1),
            member_name: String::new(),
            endpoint: String::new(),
            etcd_version: String::new(),
            raft_term: 1,
            raft_index: 1,
            db_bytes: 0,
            db_bytes_in_use: 0,
        },
        history: (history, history),
        capture: CaptureFacts::default(),
        labels: Default::default(),
        tool_version: String::new(),
        started: name.created,
        finished: name.created,
    }
}
