//! Backups that no etcdbr would make, written through the engine's own writer: every frame is genuine, and what they
//! say of themselves is what a test wants.

use std::sync::Arc;

use etcdbr_engine::archive::{Archive, Keyring, KeyringSource, WriteLimits};
use etcdbr_engine::clock::UnixMillis;
use etcdbr_engine::format::{
    ArchivePrefix, BackupName, CaptureFacts, FooterFacts, HashKvAnswer, HistoryDigest, LineageId, NameKind,
    ObjectNonce, Seam, SeamProof, Source,
};
use etcdbr_engine::revision::{ClusterId, MemberId, Revision};
use etcdbr_engine::store::LocalStore;
use sha2::{Digest, Sha256};

use crate::etcd::Etcd;
use crate::scenario::Site;

/// When the first of them was taken.
const BIRTH_UNIX_MS: i64 = 1_763_724_000_000;

/// A backup to be.
#[derive(Debug, Clone)]
pub struct Planted {
    image: Vec<u8>,
    plain_sha256: [u8; 32],
    cluster: u64,
    seam: i64,
    created_unix_ms: i64,
    hash_kv: Vec<HashKvAnswer>,
    keyring: KeyringSource,
}

impl Planted {
    /// `image`, whatever it is, as an encrypted full of `site` with its seam at revision `seam`.
    pub fn new(site: &Site, image: &[u8], seam: i64) -> Self {
        Self {
            image: image.to_vec(),
            plain_sha256: Sha256::digest(image).into(),
            cluster: 1,
            seam,
            created_unix_ms: BIRTH_UNIX_MS,
            hash_kv: Vec::new(),
            keyring: KeyringSource::File(site.path("key")),
        }
    }

    /// It is not encrypted.
    pub fn unencrypted(mut self) -> Self {
        self.keyring = KeyringSource::Unencrypted;
        self
    }

    /// It promises the SHA-256 of `other`.
    pub fn promising(mut self, other: &[u8]) -> Self {
        self.plain_sha256 = Sha256::digest(other).into();
        self
    }

    /// It is of this cluster.
    pub fn cluster(mut self, cluster: u64) -> Self {
        self.cluster = cluster;
        self
    }

    /// It was taken so many minutes after the others.
    pub fn minutes_later(mut self, minutes: i64) -> Self {
        self.created_unix_ms += minutes * 60_000;
        self
    }

    /// Its source is said to have answered `hash` at `revision`, compacted at `compact_revision` (-1: never).
    pub fn hash_kv(mut self, revision: i64, compact_revision: i64, hash: u32) -> Self {
        let (revision, compact_revision) = (Revision(revision), Revision(compact_revision));
        self.hash_kv.push(HashKvAnswer { revision, compact_revision, hash, duration_ms: 1 });
        self
    }

    /// Writes it into the archive of `site`, which is a directory; its name.
    ///
    /// # Panics
    /// Where that fails.
    pub async fn write(self, site: &Site) -> String {
        let (keyring, _) = Keyring::load(&self.keyring).expect("a keyring");
        let store = Arc::new(LocalStore::new(site.path("archive")).expect("a directory"));
        let archive = Archive::new(store, ArchivePrefix::new("prod").expect("a prefix"), keyring);
        let (created, seam) = (UnixMillis(self.created_unix_ms), Revision(self.seam));
        let name = BackupName {
            lineage: LineageId::new(created, ClusterId(self.cluster)).expect("random bytes"),
            kind: NameKind::Full { seam },
            created,
            nonce: ObjectNonce::random().expect("random bytes"),
        };
        let history = HistoryDigest::at_seam(&name.lineage, seam);
        let facts = FooterFacts {
            plain_sha256: self.plain_sha256,
            revisions: (seam, seam),
            seam: Some(Seam { revision: seam, records: Vec::new(), proof: SeamProof::Unproven }),
            hash_kv: self.hash_kv,
            source: Source {
                cluster: ClusterId(self.cluster),
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
            started: created,
            finished: created,
        };
        let mut writer = archive.writer(name, WriteLimits::default()).expect("random bytes");
        writer.push(&self.image).await.expect("room");
        writer.finish(&facts).await.expect("room");
        name.to_string()
    }
}

/// `count` names of one lineage without a gap, one for each minute: a full in place of each sixtieth delta of one revision.
pub fn names(count: i64) -> impl Iterator<Item = BackupName> {
    let lineage = LineageId { birth: UnixMillis(BIRTH_UNIX_MS), cluster: ClusterId(1), random: 1 };
    (0..count).map(move |n| {
        let revision = Revision(10 + n / 60 * 59 + n % 60);
        let kind = match n % 60 {
            0 => NameKind::Full { seam: revision },
            _ => NameKind::Delta { first: revision, last: revision },
        };
        let created = UnixMillis(BIRTH_UNIX_MS + n * 60_000);
        BackupName { lineage, kind, created, nonce: ObjectNonce([7; 8]) }
    })
}

/// The image of `etcd` as its own tool saves it, without the trailer.
///
/// # Panics
/// Where it cannot be saved.
pub fn image_of(etcd: &Etcd) -> Vec<u8> {
    let saved = etcd.home().join("saved.db");
    etcd.etcdctl(&["snapshot", "save", saved.to_str().expect("a path of ours")]);
    let mut image = std::fs::read(saved).expect("what was saved");
    image.truncate(image.len() - 32);
    image
}
