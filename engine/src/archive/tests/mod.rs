//! Archives in a directory, undamaged and damaged in every way; and what "latest" means.

mod damage;
mod deltas;
mod faults;
mod merge;
mod selection;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};

use super::*;
use crate::clock::UnixMillis;
use crate::error::{ErrorKind, Result};
use crate::format::{
    BackupName, CaptureFacts, FooterFacts, HistoryDigest, LineageId, NameKind, ObjectNonce, Seam, SeamProof, Source,
};
use crate::pipeline::CompressionLevel;
use crate::record::{Change, Record};
use crate::revision::{ClusterId, MemberId, Revision};
use crate::secret::SecretText;
use crate::store::LocalStore;
use crate::store::faulty::{Call, FaultyStore};

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const OTHER_KEY: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

/// Chunks and parts of a few hundred bytes, so that small backups have many.
const SMALL: WriteLimits =
    WriteLimits { chunk_bytes: 300, part_bytes: 500, parallel_parts: 2, threads: 2, level: CompressionLevel::Zstd(1) };

fn keyring(key: &str) -> Keyring {
    Keyring::load(&KeyringSource::Text(SecretText::new(key))).unwrap().0
}

struct TestArchive {
    dir: tempfile::TempDir,
    store: Arc<FaultyStore>,
    archive: Archive,
}

impl TestArchive {
    fn new(keyring: Keyring) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(FaultyStore::new(Arc::new(LocalStore::new(dir.path().to_str().unwrap()).unwrap())));
        let archive = Archive::new(store.clone(), ArchivePrefix::new("cluster-a").unwrap(), keyring);
        Self { dir, store, archive }
    }

    fn with_keyring(&self, keyring: Keyring) -> Archive {
        Archive::new(self.store.clone(), ArchivePrefix::new("cluster-a").unwrap(), keyring)
    }

    fn path(&self, name: &BackupName) -> std::path::PathBuf {
        self.dir.path().join(self.archive.prefix.key(name))
    }
}

fn name(birth: i64) -> BackupName {
    let created = UnixMillis(1_763_724_000_000 + birth);
    BackupName {
        lineage: LineageId { birth: created, cluster: ClusterId(0xcafe), random: 7 },
        kind: NameKind::Full { seam: Revision(42) },
        created,
        nonce: ObjectNonce([5; 8]),
    }
}

fn facts(name: &BackupName, plain: &[u8]) -> FooterFacts {
    let history = HistoryDigest::at_seam(&name.lineage, Revision(42));
    FooterFacts {
        plain_sha256: Sha256::digest(plain).into(),
        revisions: (Revision(42), Revision(42)),
        seam: Some(Seam {
            revision: Revision(42),
            records: vec![Record { main: Revision(42), sub: 0, change: Change::Put, value: b"\x0a\x01k"[..].into() }],
            proof: SeamProof::Proven,
        }),
        hash_kv: Vec::new(),
        source: Source {
            cluster: ClusterId(0xcafe),
            member: MemberId(1),
            member_name: "m1".to_owned(),
            endpoint: "http://127.0.0.1:2379".to_owned(),
            etcd_version: "3.6.0".to_owned(),
            raft_term: 2,
            raft_index: 99,
            db_bytes: 4096,
            db_bytes_in_use: 4000,
        },
        history: (history, history),
        capture: CaptureFacts::default(),
        labels: BTreeMap::from([("stage".to_owned(), "test".to_owned())]),
        tool_version: "test".to_owned(),
        started: UnixMillis(1),
        finished: UnixMillis(2),
    }
}

async fn write(archive: &Archive, name: BackupName, plain: &[u8], limits: WriteLimits) -> Result<WrittenBackup> {
    let mut writer = archive.writer(name, limits)?;
    for piece in plain.chunks(77) {
        if let Err(error) = writer.push(piece).await {
            return Err(writer.abort_after(error).await);
        }
    }
    writer.finish(&facts(&name, plain)).await
}

async fn read(archive: &Archive, name: &BackupName) -> Result<Vec<u8>> {
    let reader = archive.open(name).await?;
    let limits = ReadLimits { read_bytes: 600, parallel_reads: 3, threads: 2 };
    let chunks: Vec<_> =
        reader.chunks(limits).map(|chunk| chunk.map(|(bytes, _)| bytes.to_vec())).try_collect().await?;
    Ok(chunks.concat())
}

/// Bytes that compress a little.
fn sample(bytes: usize) -> Vec<u8> {
    (0_u32..).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(bytes).collect()
}

#[tokio::test]
async fn backups_round_trip_with_and_without_encryption() {
    for keyring in [Keyring::default(), keyring(KEY)] {
        let test = TestArchive::new(keyring);
        for (birth, bytes) in [0, 1, 299, 300, 301, 4000].into_iter().enumerate() {
            let (name, plain) = (name(birth as i64), sample(bytes));
            let written = write(&test.archive, name, &plain, SMALL).await.unwrap();
            assert_eq!(written.plain_bytes, bytes as u64);
            assert_eq!(std::fs::metadata(test.path(&name)).unwrap().len(), written.stored_bytes);
            assert_eq!(read(&test.archive, &name).await.unwrap(), plain);
        }
        assert_eq!(test.archive.catalogue().await.unwrap().lineages.len(), 6);
    }
}

#[tokio::test]
async fn a_small_backup_is_one_put_and_three_gets() {
    let test = TestArchive::new(keyring(KEY));
    let limits = WriteLimits::default();
    write(&test.archive, name(0), &sample(100_000), limits).await.unwrap();
    assert_eq!((test.store.count(Call::Put), test.store.count(Call::StartUpload)), (1, 0));
    read(&test.archive, &name(0)).await.unwrap();
    // The end with the footer, the header, one run of frames. (Up to 64 KiB the first one has it all.)
    assert_eq!(test.store.count(Call::Read), 3);
}

#[tokio::test]
async fn footers_tell_what_was_stored() {
    let test = TestArchive::new(keyring(KEY));
    write(&test.archive, name(0), &sample(1000), SMALL).await.unwrap();
    let reader = test.archive.open(&name(0)).await.unwrap();
    assert_eq!(reader.footer().facts, facts(&name(0), &sample(1000)));
    assert_eq!(reader.footer().chunks.len(), 4);
}

#[tokio::test]
async fn a_wrong_key_is_named_by_its_id() {
    let test = TestArchive::new(keyring(KEY));
    write(&test.archive, name(0), &sample(10), SMALL).await.unwrap();
    let id = keyring(KEY).ids()[0].to_string();
    for wrong in [keyring(OTHER_KEY), Keyring::default()] {
        let error = test.with_keyring(wrong).open(&name(0)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        assert!(error.to_string().contains(&id) && error.to_string().contains(&name(0).to_string()), "{error}");
    }
}

#[tokio::test]
async fn an_unencrypted_backup_does_not_join_encrypted_ones() {
    let test = TestArchive::new(keyring(KEY));
    let plain = test.with_keyring(Keyring::default());
    plain.check_encryption_policy(&plain.catalogue().await.unwrap()).await.unwrap();
    write(&plain, name(0), &sample(10), SMALL).await.unwrap();
    plain.check_encryption_policy(&plain.catalogue().await.unwrap()).await.unwrap();
    write(&test.archive, name(1), &sample(10), SMALL).await.unwrap();
    let error = plain.check_encryption_policy(&plain.catalogue().await.unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    test.archive.check_encryption_policy(&plain.catalogue().await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn foreign_objects_are_counted_and_left_alone() {
    let test = TestArchive::new(Keyring::default());
    write(&test.archive, name(0), &sample(10), SMALL).await.unwrap();
    std::fs::write(test.path(&name(0)).with_file_name("README"), "hello").unwrap();
    let catalogue = test.archive.catalogue().await.unwrap();
    assert_eq!((catalogue.lineages.len(), catalogue.foreign_keys), (1, 1));
}

#[tokio::test]
async fn an_archive_beside_ours_is_not_seen() {
    let test = TestArchive::new(Keyring::default());
    let beside = Archive::new(test.store.clone(), ArchivePrefix::new("cluster-a-2").unwrap(), Keyring::default());
    write(&beside, name(0), &sample(10), SMALL).await.unwrap();
    assert!(test.archive.catalogue().await.unwrap().lineages.is_empty());
}
