//! Damage done to a small backup in every way, one at a time: no reader takes it for whole, each names it, and a restore
//! leaves nothing.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcdbr_engine::archive::{Archive, Keyring, ReadLimits, Selection};
use etcdbr_engine::clock::UnixMillis;
use etcdbr_engine::datadir::{Durability, MISSING_LEASE_TTL_S, MembershipRequest, Preallocate, StageOptions};
use etcdbr_engine::format::{BackupName, LineageId, NameKind, ObjectNonce};
use etcdbr_engine::replay::Thoroughness;
use etcdbr_engine::restore::{PointRequest, Purpose, RestoreRequest, plan_restore, run_restore};
use etcdbr_engine::revision::Revision;
use etcdbr_engine::store::LocalStore;
use etcdbr_engine::verify::{Scope, VerifyRequest, plan_verify, run_verify};
use etcdbr_engine::{ErrorKind, Result};
use etcdbr_tests::tiny;

/// What reads a backup from end to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Restore,
    Verify,
}

const READERS: [Reader; 2] = [Reader::Restore, Reader::Verify];

/// A small backup in a directory, and a place for what is made of it.
struct Patient {
    archive: Archive,
    name: BackupName,
    bytes: Vec<u8>,
    dir: tempfile::TempDir,
}

impl Patient {
    async fn new(keyring: Keyring) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("target")).unwrap();
        let archive = tiny::archive(Arc::new(LocalStore::new(dir.path().join("archive")).unwrap()), keyring);
        let image = tiny::image();
        let name = tiny::write_full(&archive, tiny::LIMITS, tiny::REVISION, (&image, &image)).await.unwrap();
        let mut patient = Self { archive, name, bytes: Vec::new(), dir };
        patient.bytes = std::fs::read(patient.path(&name)).unwrap();
        patient
    }

    fn path(&self, name: &BackupName) -> PathBuf {
        self.dir.path().join("archive").join(tiny::PREFIX).join("etcdbr/v1").join(name.to_string())
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    async fn read(&self, reader: Reader, name: &BackupName) -> Result<()> {
        match reader {
            Reader::Restore => {
                let request = RestoreRequest {
                    membership: MembershipRequest::default(),
                    data_dir: self.target().join("etcd"),
                    limits: ReadLimits::default(),
                    thoroughness: Thoroughness::Full,
                    bump: None,
                    staging: StageOptions { durability: Durability::None, wal: Preallocate::No },
                    missing_lease_ttl_s: MISSING_LEASE_TTL_S,
                    purpose: Purpose::Restore,
                };
                let point = PointRequest::newest(Selection::Backup(*name));
                let context = tiny::context();
                let plan = plan_restore(&self.archive, &point, request, &context).await?;
                run_restore(plan, &context).await.map(drop)
            }
            Reader::Verify => {
                let scope = Scope::One(Selection::Backup(*name));
                let request = VerifyRequest { scope, scratch_dir: self.target(), limits: ReadLimits::default() };
                let plan = plan_verify(&self.archive, request).await?;
                run_verify(&self.archive, &plan, &tiny::context(), &mut |_| {}).await.map(drop)
            }
        }
    }

    /// Puts `bytes` in the place of the backup, and expects that every reader refuses them.
    async fn expect_refusal(&self, bytes: &[u8], what: &str) {
        self.expect_refusal_as(&self.name, bytes, what).await;
    }

    async fn expect_refusal_as(&self, name: &BackupName, bytes: &[u8], what: &str) {
        std::fs::write(self.path(name), bytes).unwrap();
        for reader in READERS {
            let error = self.read(reader, name).await.expect_err(&format!("{reader:?} took it: {what}"));
            assert!(error.to_string().contains(&name.to_string()), "{reader:?}, {what}: {error}");
            let kinds = [ErrorKind::Damaged, ErrorKind::Invalid, ErrorKind::Key, ErrorKind::Refused];
            assert!(kinds.contains(&error.kind()), "{reader:?}, {what}: {error:?}");
            assert_eq!(std::fs::read_dir(self.target()).unwrap().count(), 0, "{reader:?}, {what}: left something");
        }
    }

    /// Where the frames of the chunks lie.
    async fn frames(&self) -> Vec<Range<usize>> {
        let reader = self.archive.open(&self.name).await.unwrap();
        let range = |start: u64, len: u32| start as usize..start as usize + len as usize;
        reader.footer().chunks.iter().map(|chunk| range(chunk.stored_start, chunk.stored_bytes)).collect()
    }
}

fn keyrings() -> [Keyring; 2] {
    [Keyring::default(), tiny::keyring()]
}

#[tokio::test]
async fn every_reader_takes_what_is_whole() {
    for keyring in keyrings() {
        let patient = Patient::new(keyring).await;
        assert!((500..5_000).contains(&patient.bytes.len()), "{} bytes", patient.bytes.len());
        assert!(patient.frames().await.len() > 4);
        for reader in READERS {
            patient.read(reader, &patient.name).await.unwrap();
        }
        assert!(patient.target().join("etcd/member/snap/db").exists());
    }
}

#[tokio::test]
async fn any_flipped_byte() {
    for keyring in keyrings() {
        let patient = Patient::new(keyring).await;
        for at in 0..patient.bytes.len() {
            for flip in [1 << (at % 8), 0xff] {
                let mut bytes = patient.bytes.clone();
                bytes[at] ^= flip;
                patient.expect_refusal(&bytes, &format!("byte {at} of {} ^ {flip:#04x}", bytes.len())).await;
            }
        }
    }
}

#[tokio::test]
async fn any_truncation_and_anything_appended() {
    for keyring in keyrings() {
        let patient = Patient::new(keyring).await;
        for len in 0..patient.bytes.len() {
            patient.expect_refusal(&patient.bytes[..len], &format!("cut to {len}")).await;
        }
        for len in [1, 2, 15, 16, 17, 500, patient.bytes.len()] {
            // Also what looks like an end of its own.
            let tail = &patient.bytes[patient.bytes.len() - len..];
            for more in [vec![0; len], tail.to_vec()] {
                patient.expect_refusal(&[&patient.bytes, &more[..]].concat(), &format!("{len} bytes more")).await;
            }
        }
    }
}

#[tokio::test]
async fn frames_in_other_places() {
    for keyring in keyrings() {
        let patient = Patient::new(keyring).await;
        let frames = patient.frames().await;
        let (first, last) = (frames[0].start, frames[frames.len() - 1].end);
        let with = |order: &[usize]| {
            let middle: Vec<u8> =
                order.iter().flat_map(|frame| patient.bytes[frames[*frame].clone()].to_vec()).collect();
            [&patient.bytes[..first], &middle, &patient.bytes[last..]].concat()
        };
        let order: Vec<usize> = (0..frames.len()).collect();
        assert_eq!(with(&order), patient.bytes);
        for a in 0..frames.len() {
            let mut missing = order.clone();
            missing.remove(a);
            patient.expect_refusal(&with(&missing), &format!("without frame {a}")).await;
            for b in (0..frames.len()).filter(|b| *b != a) {
                let (mut swapped, mut copied, mut inserted) = (order.clone(), order.clone(), order.clone());
                swapped.swap(a, b);
                copied[b] = a;
                inserted.insert(b, a);
                for (bytes, what) in [(swapped, "swapped with"), (copied, "in place of"), (inserted, "inserted before")]
                {
                    patient.expect_refusal(&with(&bytes), &format!("frame {a} {what} {b}")).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_frame_of_another_backup() {
    for keyring in keyrings() {
        let patient = Patient::new(keyring.clone()).await;
        let donor = Patient::new(keyring).await;
        let (frames, spares) = (patient.frames().await, donor.frames().await);
        for (frame, spare) in frames.into_iter().zip(spares) {
            let mut bytes = patient.bytes.clone();
            bytes.splice(frame.clone(), donor.bytes[spare].iter().copied());
            patient.expect_refusal(&bytes, &format!("bytes {frame:?} of another backup")).await;
        }
        patient.expect_refusal(&donor.bytes, "another backup altogether").await;
    }
}

#[tokio::test]
async fn an_object_under_another_name() {
    for keyring in keyrings() {
        let patient = Patient::new(keyring).await;
        let own = patient.name;
        for name in [
            BackupName { lineage: LineageId { random: own.lineage.random ^ 1, ..own.lineage }, ..own },
            BackupName { lineage: LineageId { birth: UnixMillis(own.lineage.birth.0 - 1), ..own.lineage }, ..own },
            BackupName { kind: NameKind::Full { seam: Revision(tiny::REVISION.0 - 1) }, ..own },
            BackupName { created: UnixMillis(own.created.0 + 1), ..own },
            BackupName { nonce: ObjectNonce([9; 8]), ..own },
        ] {
            std::fs::create_dir_all(parent(&patient.path(&name))).unwrap();
            patient.expect_refusal_as(&name, &patient.bytes, &name.to_string()).await;
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap()
}
