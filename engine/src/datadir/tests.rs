//! The room as a whole: an image becomes a data directory, or the target stays as it was.

mod faults;
mod place;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use etcdbr_proto::mvccpb::KeyValue;
use prost::Message;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use super::*;
use crate::bbolt::{BoltFile, BulkWriter, check};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Change, Record};
use crate::revision::Revision;

type Buckets = BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>;

fn put(main: i64, key: &'static str, lease: i64) -> Record {
    let kv = KeyValue {
        key: Bytes::from(key),
        create_revision: main,
        mod_revision: main,
        version: 1,
        lease,
        ..<_>::default()
    };
    Record { main: Revision(main), sub: 0, change: Change::Put, value: kv.encode_to_vec().into() }
}

fn revision_key(main: i64) -> Vec<u8> {
    Record { main: Revision(main), sub: 0, change: Change::Put, value: Bytes::new() }.bucket_key()
}

/// The buckets of a small cluster that has lived: compacted, alarmed, with users and a lease.
fn buckets() -> Buckets {
    let bucket =
        |entries: &[(&[u8], &[u8])]| entries.iter().map(|&(key, value)| (key.to_vec(), value.to_vec())).collect();
    let records = (2..700).map(|main| if main == 9 { put(main, "/leased", 77) } else { put(main, "/a", 0) });
    [
        ("alarm", bucket(&[(b"\x08\x01\x10\x01", b"")])),
        ("auth", bucket(&[(b"authEnabled", b"\x01"), (b"authRevision", b"\0\0\0\0\0\0\0\x01")])),
        ("authRoles", bucket(&[])),
        ("authUsers", bucket(&[(b"root", b"\x0a\x04root")])),
        ("cluster", bucket(&[(b"clusterVersion", b"3.7.0"), (b"downgrade", b"{}")])),
        ("key", records.map(|record| (record.bucket_key(), record.value.to_vec())).collect()),
        ("lease", bucket(&[(&5_i64.to_be_bytes(), b"\x08\x05\x10\x3c")])),
        ("members", bucket(&[(b"1", b"{\"id\":1}")])),
        ("members_removed", bucket(&[(b"2", b"removed")])),
        (
            "meta",
            bucket(&[
                (b"consistent_index", b"\0\0\0\0\0\0\x10\0"),
                (b"finishedCompactRev", &revision_key(100)),
                (b"scheduledCompactRev", &revision_key(200)),
                (b"storageVersion", b"3.7.0"),
                (b"term", b"\0\0\0\0\0\0\0\x09"),
            ]),
        ),
    ]
    .into()
}

fn image_of(buckets: &Buckets) -> Vec<u8> {
    let mut writer = BulkWriter::create(Vec::new(), 4096).unwrap();
    for (name, entries) in buckets {
        writer.bucket(name.as_bytes(), entries.iter().map(Ok)).unwrap();
    }
    let written = writer.finish().unwrap();
    let mut bytes = written.out;
    for (offset, meta) in written.metas {
        bytes[offset as usize..offset as usize + meta.len()].copy_from_slice(&meta);
    }
    bytes
}

fn buckets_of(bytes: &[u8]) -> BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>> {
    let file = BoltFile::open(bytes).unwrap();
    check(&file).unwrap();
    let mut all = BTreeMap::new();
    for (name, bucket) in file.buckets().unwrap() {
        let entries: &mut BTreeMap<_, _> = all.entry(String::from_utf8(name.to_vec()).unwrap()).or_default();
        let mut cursor = file.cursor(&bucket);
        let mut entry = cursor.first().unwrap();
        while let Some(found) = entry {
            entries.insert(found.key.to_vec(), found.value.to_vec());
            entry = cursor.next().unwrap();
        }
    }
    all
}

fn options() -> StageOptions {
    StageOptions { durability: Durability::None, wal: Preallocate::No }
}

fn membership() -> Membership {
    Membership::resolve(&MembershipRequest::default()).unwrap()
}

fn stage(data_dir: &Path) -> Result<StagedDataDir> {
    StagedDataDir::create(data_dir, 1 << 20, options())
}

fn ready(data_dir: &Path, image: &[u8]) -> Result<ReadyDataDir> {
    let mut staged = stage(data_dir)?;
    for piece in image.chunks(5000) {
        staged.write_image(piece)?;
    }
    finished(staged, &membership())
}

fn finished(mut staged: StagedDataDir, membership: &Membership) -> Result<ReadyDataDir> {
    let image = staged.image()?;
    let examined = image.examine(Scrutiny::Strict, None, &mut |_| Ok(()))?;
    staged.finish(image, examined, membership, &Ending::default())
}

fn restore(data_dir: &Path) -> Result<PathBuf> {
    Ok(ready(data_dir, &image_of(&buckets()))?.install()?.path)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn refusal<T>(result: Result<T>, kind: ErrorKind, words: &[&str]) {
    let error: Error = result.err().expect("it should be refused");
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{error} should say: {word}");
    }
}

fn is_whole(data_dir: &Path) {
    assert_eq!(names(&data_dir.join("member")), ["snap", "wal"]);
    assert_eq!(names(&data_dir.join("member/snap")), ["0000000000000001-0000000000000001.snap", "db"]);
    assert_eq!(names(&data_dir.join("member/wal")), ["0000000000000000-0000000000000000.wal"]);
}

// What becomes of the image.

#[test]
fn the_clusters_buckets_are_new_and_the_datas_are_kept() {
    let temp = TempDir::new().unwrap();
    let data_dir = restore(&temp.path().join("etcd")).unwrap();
    let got = buckets_of(&fs::read(data_dir.join("member/snap/db")).unwrap());
    let membership = membership();
    let own = membership.own();
    let mut expected = buckets();
    for emptied in ["alarm", "cluster", "members_removed"] {
        expected.insert(emptied, BTreeMap::new());
    }
    expected.insert("members", [(own.id.to_string().into_bytes(), own.json().unwrap())].into());
    let lease = |id: i64, value: &[u8]| (id.to_be_bytes().to_vec(), value.to_vec());
    expected.insert("lease", [lease(5, b"\x08\x05\x10\x3c"), lease(77, b"\x08\x4d\x10\x90\x1c")].into());
    let meta = expected.get_mut("meta").unwrap();
    meta.insert(b"consistent_index".to_vec(), 1_u64.to_be_bytes().to_vec());
    meta.insert(b"term".to_vec(), 1_u64.to_be_bytes().to_vec());
    meta.insert(b"confState".to_vec(), membership.conf_state_json().unwrap());
    meta.remove(&b"storageVersion"[..]);
    let expected: BTreeMap<_, _> = expected.into_iter().map(|(name, entries)| (name.to_owned(), entries)).collect();
    assert_eq!(got, expected);
}

#[test]
fn facts_tell_revision_floor_auth_and_leases() {
    let temp = TempDir::new().unwrap();
    let image = image_of(&buckets());
    let ready = ready(&temp.path().join("etcd"), &image).unwrap();
    let DatabaseFacts { image: facts, db_bytes, written_bytes, .. } = ready.facts().clone();
    assert_eq!((facts.revision, facts.compact_floor, facts.records), (Revision(699), Some(Revision(200)), 698));
    assert_eq!((facts.auth, facts.leases, facts.missing_leases), (AuthState::Enabled, 1, 1));
    let path = ready.install().unwrap().path.join("member/snap/db");
    assert_eq!(fs::metadata(path).unwrap().len(), db_bytes);
    assert!(written_bytes >= db_bytes && written_bytes < db_bytes + 4096);
}

#[test]
fn a_compaction_beyond_the_last_record_raises_the_revision() {
    let mut buckets = buckets();
    buckets.get_mut("meta").unwrap().insert(b"finishedCompactRev".to_vec(), revision_key(900));
    let temp = TempDir::new().unwrap();
    let ready = ready(&temp.path().join("etcd"), &image_of(&buckets)).unwrap();
    assert_eq!((ready.facts().image.revision, ready.facts().image.compact_floor), (Revision(900), Some(Revision(900))));
}

#[test]
fn an_empty_etcd_is_at_revision_1() {
    let temp = TempDir::new().unwrap();
    let empty: Buckets = [("key", BTreeMap::new()), ("meta", BTreeMap::new())].into();
    let ready = ready(&temp.path().join("etcd"), &image_of(&empty)).unwrap();
    let facts = &ready.facts().image;
    assert_eq!((facts.revision, facts.compact_floor, facts.auth), (Revision::EMPTY, None, AuthState::Disabled));
}

#[test]
fn what_follows_the_image_is_cut_off() {
    let temp = TempDir::new().unwrap();
    let mut image = image_of(&buckets());
    let used = image.len();
    image.resize(used + 100_000, 0xff);
    let ready = ready(&temp.path().join("etcd"), &image).unwrap();
    assert!(ready.facts().db_bytes < used as u64 + 50_000);
    ready.install().unwrap();
    buckets_of(&fs::read(temp.path().join("etcd/member/snap/db")).unwrap());
}

#[test]
fn an_unknown_bucket_is_refused_by_name() {
    let temp = TempDir::new().unwrap();
    let mut buckets = buckets();
    buckets.insert("lease2", BTreeMap::new());
    refusal(ready(&temp.path().join("etcd"), &image_of(&buckets)), ErrorKind::Refused, &["lease2"]);
    assert!(names(temp.path()).is_empty());
}

#[test]
fn an_image_without_records_or_meta_is_damaged() {
    for missing in ["key", "meta"] {
        let temp = TempDir::new().unwrap();
        let mut buckets = buckets();
        buckets.remove(missing);
        refusal(ready(&temp.path().join("etcd"), &image_of(&buckets)), ErrorKind::Damaged, &["bucket", missing]);
    }
}

#[test]
fn an_image_cut_short_is_damaged_and_leaves_nothing() {
    let temp = TempDir::new().unwrap();
    let image = image_of(&buckets());
    for len in [0, 100, 4096, image.len() - 4096, image.len() - 1] {
        refusal(ready(&temp.path().join("etcd"), &image[..len]), ErrorKind::Damaged, &["database"]);
        assert!(names(temp.path()).is_empty());
    }
}

#[test]
fn records_that_etcd_would_stop_at_are_damaged() {
    let broken: [(Vec<u8>, Vec<u8>); 3] = [
        (b"not a revision".to_vec(), Vec::new()),
        (revision_key(10_000), b"\x0a\xff".to_vec()),
        ([revision_key(10_000), b"x".to_vec()].concat(), Vec::new()),
    ];
    for (key, value) in broken {
        let temp = TempDir::new().unwrap();
        let mut buckets = buckets();
        buckets.get_mut("key").unwrap().insert(key, value);
        refusal(ready(&temp.path().join("etcd"), &image_of(&buckets)), ErrorKind::Damaged, &["database"]);
    }
}

#[test]
fn three_members_get_the_same_database() {
    let temp = TempDir::new().unwrap();
    let cluster = "a=http://h:1,b=http://h:2,c=http://h:3";
    let mut databases = Vec::new();
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let (name, initial_cluster) = (Some(name.to_owned()), Some(cluster.to_owned()));
        let request = MembershipRequest { name: name.clone(), initial_cluster, ..MembershipRequest::default() };
        let mut staged = stage(&temp.path().join(name.unwrap())).unwrap();
        staged.write_image(&image_of(&buckets())).unwrap();
        let member =
            finished(staged, &Membership::resolve(&request).unwrap()).unwrap().install().unwrap().path.join("member");
        databases.push(fs::read(member.join("snap/db")).unwrap());
        assert!(member.join("snap/0000000000000001-0000000000000003.snap").exists());
        ids.push(
            read_wal(&fs::read(member.join("wal/0000000000000000-0000000000000000.wal")).unwrap()).unwrap().member,
        );
    }
    assert!(databases.iter().all(|database| *database == databases[0]));
    assert_eq!(buckets_of(&databases[0])["members"].len(), 3);
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

// What is found in an image.

/// `image` in a scratch file.
fn scratched(image: &[u8]) -> Image {
    let temp = TempDir::new().unwrap();
    let mut scratch = Scratch::create(temp.path(), image.len() as u64).unwrap();
    for piece in image.chunks(5000) {
        scratch.write_image(piece).unwrap();
    }
    scratch.image().unwrap()
}

#[test]
fn both_scrutinies_find_the_same_but_for_pages() {
    let image = scratched(&image_of(&buckets()));
    let strict = image.examine(Scrutiny::Strict, None, &mut |_| Ok(())).unwrap();
    let readable = image.examine(Scrutiny::Readable, None, &mut |_| Ok(())).unwrap();
    assert!(strict.facts.pages.is_some_and(|pages| pages.used > 10));
    assert_eq!(readable.facts, ImageFacts { pages: None, ..strict.facts.clone() });
    assert_eq!((strict.facts.missing_leases, strict.hash), (1, None));
    // All puts are of two keys.
    assert_eq!(image.live_keys().unwrap(), 2);
}

#[test]
fn an_examination_hashes_what_hash_kv_hashes() {
    let buckets = buckets();
    let image = scratched(&image_of(&buckets));
    let point =
        |revision, compact: Option<i64>| HashPoint { revision: Revision(revision), compact: compact.map(Revision) };
    for point in
        [point(699, Some(200)), point(650, Some(600)), point(500, None), point(1, None), point(9_999, Some(9_000))]
    {
        let records = || Ok(buckets["key"].iter().map(|(key, value)| Ok((key, value))));
        let expected = hash_kv(records, point).unwrap();
        for scrutiny in [Scrutiny::Strict, Scrutiny::Readable] {
            let examined = image.examine(scrutiny, Some(point), &mut |_| Ok(())).unwrap();
            assert_eq!(examined.hash, Some(expected), "{point:?}");
        }
    }
}

/// A tree that the strict check refuses, and that can be read: `--skip-proof` gives it back.
#[test]
fn what_is_only_readable_is_refused_by_the_strict_check_alone() {
    let mut bytes = image_of(&buckets());
    let file = BoltFile::open(&bytes).unwrap();
    let free = (2..file.meta().high_water.0).find(|page| {
        let at = *page as usize * 4096;
        // A branch: its first key gets smaller than its child's.
        bytes[at + 8] == 1
    });
    let at = free.expect("a branch") as usize * 4096 + 16;
    let position = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    bytes[at + position + 7] -= 1;
    let image = scratched(&bytes);
    let strict = image.examine(Scrutiny::Strict, None, &mut |_| Ok(()));
    refusal(strict, ErrorKind::Damaged, &["page", "key"]);
    let readable = image.examine(Scrutiny::Readable, None, &mut |_| Ok(())).unwrap();
    assert_eq!((readable.facts.records, readable.facts.revision), (698, Revision(699)));
}

#[test]
fn attention_ends_an_examination() {
    let big: BTreeMap<_, _> = (2..200).map(|main| (revision_key(main), vec![0; 40_000])).collect();
    let mut buckets = buckets();
    let value = put(2, "/big", 0).value.to_vec();
    let padded = |_: &Vec<u8>| [value.as_slice(), b"\x2a\xc0\xb8\x02", &vec![0; 40_000]].concat();
    buckets.insert("key", big.into_iter().map(|(key, old)| (key, padded(&old))).collect());
    let image = scratched(&image_of(&buckets));
    let mut told = Vec::new();
    image
        .examine(Scrutiny::Strict, None, &mut |read| {
            told.push(read);
            Ok(())
        })
        .unwrap();
    assert!(told.len() == 1 && told[0] >= 4 << 20, "{told:?}");
    let stopped = |_| Err(Error::new(ErrorKind::Interrupted, "stopped"));
    refusal(image.examine(Scrutiny::Strict, None, &mut { stopped }), ErrorKind::Interrupted, &["stopped"]);
}

#[test]
fn an_image_in_mid_compaction_has_the_floor_that_was_asked_for() {
    let image = scratched(&image_of(&buckets()));
    let facts = image.examine(Scrutiny::Strict, None, &mut |_| Ok(())).unwrap().facts;
    assert_eq!(facts.compact_floor, Some(Revision(200)), "finished is 100");
}

// Where revisions go on.

fn bumped(buckets: &Buckets, by: u64) -> Result<(DatabaseFacts, Vec<u8>)> {
    let temp = TempDir::new().unwrap();
    let mut staged = stage(&temp.path().join("etcd"))?;
    staged.write_image(&image_of(buckets))?;
    let image = staged.image()?;
    let examined = image.examine(Scrutiny::Strict, None, &mut |_| Ok(()))?;
    let bump = RevisionBump::by(by.try_into().expect("not zero"));
    let ready = staged.finish(image, examined, &membership(), &Ending { bump: Some(bump), ..Ending::default() })?;
    let facts = ready.facts().clone();
    let path = ready.install()?.path;
    Ok((facts, fs::read(path.join("member/snap/db")).unwrap()))
}

#[test]
fn a_bump_appends_its_marker_and_schedules_the_compaction() {
    let (facts, bytes) = bumped(&buckets(), 1000).unwrap();
    assert_eq!((facts.image.revision, facts.revision), (Revision(699), Revision(1699)));
    assert_eq!((facts.image.compact_floor, facts.compact_revision), (Some(Revision(200)), Some(Revision(1699))));
    let got = buckets_of(&bytes);
    let mut records = buckets()["key"].clone();
    records.insert(revision_key(1699), Vec::new());
    assert_eq!(got["key"], records);
    assert_eq!(got["meta"][&b"scheduledCompactRev"[..]], revision_key(1699));
    assert_eq!(got["meta"][&b"finishedCompactRev"[..]], revision_key(100), "untouched");
    // It reads like any other image.
    let facts = scratched(&bytes).examine(Scrutiny::Strict, None, &mut |_| Ok(())).unwrap().facts;
    assert_eq!((facts.revision, facts.compact_floor, facts.records), (Revision(1699), Some(Revision(1699)), 699));
}

#[test]
fn a_bump_counts_from_the_revision_whatever_it_comes_from() {
    let empty: Buckets = [("key", BTreeMap::new()), ("meta", BTreeMap::new())].into();
    let (facts, bytes) = bumped(&empty, 7).unwrap();
    assert_eq!(facts.revision, Revision(8), "an empty etcd is at revision 1");
    assert_eq!(buckets_of(&bytes)["key"].keys().collect::<Vec<_>>(), [&revision_key(8)]);
    let mut compacted = buckets();
    compacted.get_mut("meta").unwrap().insert(b"finishedCompactRev".to_vec(), revision_key(900));
    assert_eq!(bumped(&compacted, 1).unwrap().0.revision, Revision(901));
}

#[test]
fn a_bump_beyond_all_revisions_is_refused() {
    for by in [u64::MAX, i64::MAX as u64, i64::MAX as u64 / 2] {
        refusal(bumped(&buckets(), by), ErrorKind::Invalid, &["--bump-revision", &by.to_string()]);
    }
}
