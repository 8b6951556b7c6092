//! What a backup is proven with: HashKV as the source itself answers it, asked sparingly, compared before anything is
//! installed; and `verify`, which proves the same without restoring.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etcd_client::CompactionOptions;
use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat};
use etcdbr_tests::etcdbr::{Etcdbr, Outcome};
use etcdbr_tests::fake_etcd::{Compaction, FakeEtcd, HashFault, Script};
use etcdbr_tests::keyspace::{HashKv, current_revision, hash_kv};
use etcdbr_tests::plant::{Planted, image_of};
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Picture, Site, assert_failed, write_history};
use etcdbr_tests::tmpfs::Tmpfs;
use serde_json::{Value, json};
use tonic::Code;

fn snapshot(site: &Site, endpoint: &str, more: &[&str]) -> Value {
    let run = site.command(&["snapshot", "--once", "--output=json", "--endpoints", endpoint]);
    run.args(more).succeed().json()
}

fn restore(site: &Site, dir: &Path, more: &[&str]) -> Outcome {
    site.restore(&[Seat::new("m0")], 0, dir).args(more).run()
}

fn verify(site: &Site, more: &[&str]) -> Outcome {
    site.command(&["verify", "--output=json"]).args(more).run()
}

/// The documents on standard output, one a line.
fn documents(outcome: &Outcome) -> Vec<Value> {
    outcome.stdout.lines().map(|line| serde_json::from_str(line).expect("a line is a document")).collect()
}

fn answer(revision: i64, hash: HashKv) -> Value {
    json!({"revision": revision, "compact_revision": hash.compact_revision, "hash": hash.hash})
}

#[tokio::test]
async fn the_sources_own_hash_is_stored_and_proves_every_restore() {
    for version in EtcdVersion::MINORS {
        let site = Site::local();
        let source = Etcd::start(version).await;
        write_history(&mut source.client().await, 200).await;
        let picture = Picture::of(&mut source.client().await).await;
        let expected = answer(picture.keyspace.revision, picture.hash);
        assert!(picture.hash.compact_revision > 0, "the records are pruned in the comparison");
        let backup = site.backup(&source);
        assert_eq!(backup["hashkv"], expected, "{version:?}: {backup}");
        let words = format!("HashKV {} up to revision {}", picture.hash.hash, picture.keyspace.revision);
        let listed = site.command(&["list", "--details"]).succeed().stdout;
        assert!(listed.contains(&words), "{listed}");

        let plan = restore(&site, &site.path("restored"), &["--dry-run"]).stdout;
        assert!(plan.contains(&words), "{plan}");
        let restored = restore(&site, &site.path("restored"), &["--output=json"]).json();
        let proof = json!({
            "integrity": "authenticated", "image_sha256": true, "tree": "sound", "hashkv": expected,
            "hashkv_missing": null, "skipped": false,
        });
        assert_eq!(restored["proof"], proof, "{version:?}");
        let outcome = verify(&site, &[]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let verified = &documents(&outcome)[0];
        assert_eq!((&verified["proof"], &verified["sound"]), (&proof, &json!(true)), "{version:?}");
        assert_eq!(verified["backup"], backup["backup"]);
        let told = restore(&site, &site.path("again"), &[]).stdout;
        assert!(told.contains("every byte authenticated") && told.contains(&words), "{told}");
    }
}

#[tokio::test]
async fn writes_and_a_compaction_during_the_backup_do_not_disturb_the_proof() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_6).await;
    write_history(&mut source.client().await, 500).await;
    let mut client = source.client().await;
    let writes = tokio::spawn(async move {
        for i in 0.. {
            let Ok(answer) = client.put(format!("/history/during/{}", i % 50), format!("{i}"), None).await else {
                break;
            };
            let revision = answer.header().unwrap().revision();
            if i % 40 == 0 && client.compact(revision - 30, None).await.is_err() {
                break;
            }
        }
    });
    let mut stored = 0;
    for run in 0..6 {
        let backup = snapshot(&site, &source.endpoint(), &["--hashkv-interval=1ms"]);
        stored += usize::from(backup["hashkv"].is_object());
        let dir = site.path(&format!("restored-{run}"));
        let restored = restore(&site, &dir, &["--output=json"]).json();
        assert_eq!(restored["proof"]["hashkv"], backup["hashkv"], "{restored}");
    }
    writes.abort();
    assert!(stored > 0, "no answer was stored at all");
}

#[tokio::test]
async fn without_an_answer_the_result_says_so() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_5).await;
    source.client().await.put("k", "v", None).await.unwrap();
    let backup = snapshot(&site, &source.endpoint(), &["--hashkv-interval=0"]);
    assert_eq!((&backup["hashkv"], &backup["hashkv_missing"]), (&Value::Null, &json!("--hashkv-interval is 0")));
    let restored = restore(&site, &site.path("a"), &["--output=json"]).json();
    assert_eq!(restored["proof"]["hashkv"], Value::Null);
    assert_eq!(restored["proof"]["hashkv_missing"], json!("no HashKV was stored with this backup"));
    let told = restore(&site, &site.path("b"), &[]).stdout;
    assert!(told.contains("not compared with etcd's own HashKV: no HashKV was stored"), "{told}");
}

/// A compaction's own revision may be answered from a cache, with the compaction before it: of other records.
#[tokio::test]
async fn a_seam_that_the_source_is_compacted_at() {
    for version in EtcdVersion::MINORS.into_iter().chain([EtcdVersion::V3_5_1]) {
        let site = Site::local();
        let source = Etcd::start(version).await;
        let mut client = source.client().await;
        write_history(&mut client, 100).await;
        let revision = current_revision(&mut client).await;
        client.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
        let backup = site.backup(&source);
        let restored = restore(&site, &site.path("restored"), &["--output=json"]).json();
        println!("{version:?}: {} {}", backup["hashkv"], backup["hashkv_missing"]);
        assert_eq!(restored["proof"]["hashkv"], backup["hashkv"], "{version:?}");
        if backup["hashkv"].is_null() {
            let why = backup["hashkv_missing"].as_str().unwrap();
            assert!(why.contains("compacted"), "{version:?}: {why}");
        }
    }
}

#[tokio::test]
async fn a_hash_that_differs_stops_a_restore_and_a_verification() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = source.client().await;
    write_history(&mut client, 100).await;
    let picture = Picture::of(&mut client).await;
    let (revision, HashKv { hash, compact_revision }) = (picture.keyspace.revision, picture.hash);
    let image = image_of(&source);
    drop(source);
    let wrong = hash ^ 1;
    let planted = Planted::new(&site, &image, revision).hash_kv(revision, compact_revision, wrong);
    let name = planted.write(&site).await;
    let words = [name.as_str(), &wrong.to_string(), &hash.to_string(), "HashKV"];
    let dir = site.path("restored");
    assert_failed(&restore(&site, &dir, &[]), 6, &words);
    assert!(!dir.exists());
    assert_failed(&verify(&site, &[]), 6, &words);

    // In an emergency it comes back all the same, and the result cannot be misread.
    let outcome = restore(&site, &dir, &["--skip-proof"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("NOT PROVEN (--skip-proof)"), "{}", outcome.stdout);
    let skipped = restore(&site, &site.path("again"), &["--skip-proof", "--output=json"]).json();
    let proof = &skipped["proof"];
    assert_eq!((&proof["skipped"], &proof["hashkv"], &proof["tree"]), (&json!(true), &Value::Null, &json!("skipped")));
    assert_eq!(proof["integrity"], json!("authenticated"), "{proof}");
    let seat = Seat::new("m0");
    let dir = site.path("served");
    site.restore(std::slice::from_ref(&seat), 0, &dir).arg("--skip-proof").succeed();
    let target = Etcd::builder(EtcdVersion::V3_5).seat(seat).data_dir(&dir).start().await;
    picture.assert_seen_by(&mut target.client().await).await;
}

/// What authenticates nothing is not helped by `--skip-proof`.
#[tokio::test]
async fn skipping_the_proof_skips_no_authentication() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let name = site.backup(&source)["backup"].as_str().unwrap().to_owned();
    let object = object(&site, &name);
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let dir = site.path("restored");
    assert_failed(&restore(&site, &dir, &["--skip-proof"]), 6, &[&name]);
    let planted = Planted::new(&site, &[1; 40_960], 2).promising(&[2; 40_960]).minutes_later(1_000_000);
    let name = planted.write(&site).await;
    let run = site.restore(&[Seat::new("m0")], 0, &dir).args(["--skip-proof", "--backup", &name]).run();
    assert_failed(&run, 6, &[&name, "SHA-256"]);
    assert!(!dir.exists());
}

/// A lease that a live key names and that has no record gets one, proof or no proof.
#[tokio::test]
async fn skipping_the_proof_grants_missing_leases() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = source.client().await;
    let lease = client.lease_grant(3_600, None).await.unwrap().id();
    let leased = etcd_client::PutOptions::new().with_lease(lease);
    client.put("leased", "v", Some(leased)).await.unwrap();
    let revision = current_revision(&mut client).await;
    let image = without_leases(&image_of(&source));
    Planted::new(&site, &image, revision).write(&site).await;
    for more in [&["--output=json"][..], &["--output=json", "--skip-proof"]] {
        let seat = Seat::new("m0");
        let dir = site.path(&format!("restored-{}", more.len()));
        let restored = site.restore(std::slice::from_ref(&seat), 0, &dir).args(more).succeed().json();
        assert_eq!((&restored["leases"], &restored["granted_leases"]), (&json!(0), &json!(1)), "{restored}");
        let target = Etcd::builder(EtcdVersion::V3_5).seat(seat).data_dir(&dir).start().await;
        let mut client = target.client().await;
        let kept = etcd_client::PutOptions::new().with_ignore_lease();
        client.put("leased", "w", Some(kept)).await.unwrap();
        assert_eq!(client.get("leased", None).await.unwrap().kvs()[0].lease(), lease);
    }
}

/// `image` with an empty bucket of leases, written as etcdbr writes.
fn without_leases(image: &[u8]) -> Vec<u8> {
    use etcdbr_engine::bbolt::{BoltFile, Extension};
    let file = BoltFile::open(image).unwrap();
    let mut bytes = image[..usize::try_from(file.used_bytes()).unwrap()].to_vec();
    let mut extension = Extension::begin(file, Vec::new()).unwrap();
    extension.replace(b"lease", std::iter::empty::<etcdbr_engine::Result<(Vec<u8>, Vec<u8>)>>()).unwrap();
    let extended = extension.finish().unwrap();
    bytes.extend_from_slice(&extended.out);
    for (offset, meta) in extended.metas {
        let start = usize::try_from(offset).unwrap();
        bytes[start..start + meta.len()].copy_from_slice(&meta);
    }
    bytes
}

#[tokio::test]
async fn an_answer_of_a_source_that_was_compacted_less_is_not_compared() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = source.client().await;
    write_history(&mut client, 100).await;
    let before = current_revision(&mut client).await;
    let less = hash_kv(&mut client, before).await;
    client.compact(before - 1, Some(CompactionOptions::new().with_physical())).await.unwrap();
    let planted = Planted::new(&site, &image_of(&source), before);
    let name = planted.hash_kv(before, less.compact_revision, less.hash).write(&site).await;
    let outcome = verify(&site, &["--backup", &name]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let proof = &documents(&outcome)[0]["proof"];
    let why = proof["hashkv_missing"].as_str().unwrap();
    assert!(why.contains(&less.compact_revision.to_string()) && why.contains(&(before - 1).to_string()), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_not_asked_again_soon_and_not_where_it_was_slow() {
    let site = Site::local();
    let fast = FakeEtcd::start(Script::default()).await;
    let slow = HashFault::Slow(Duration::from_millis(600));
    let slow = FakeEtcd::start(Script { cluster: 0xc2, hash_fault: slow, ..Script::default() }).await;
    for (fake, reason) in [(&fast, "less than 21600s ago"), (&slow, "--hashkv-interval")] {
        let asked = |more: &[&str]| snapshot(&site, &fake.endpoint, more);
        assert_eq!(asked(&[])["hashkv"]["hash"], json!(42));
        // The third knows from the second what the first did.
        for _ in 0..2 {
            let backup = asked(&[]);
            let why = backup["hashkv_missing"].as_str().unwrap();
            assert!(backup["hashkv"].is_null() && why.contains(reason), "{backup}");
        }
        assert_eq!(fake.hashes(), 1);
        assert!(asked(&["--hashkv-interval=1ms"])["hashkv"].is_object(), "asked for");
        assert!(asked(&["--hashkv-interval=1h"])["hashkv"].is_null());
        assert!(asked(&["--hashkv-interval=0"])["hashkv"].is_null());
        assert_eq!(fake.hashes(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_that_cannot_be_had_fails_no_backup() {
    for (fault, word) in [
        (HashFault::Error(Code::PermissionDenied, "etcdserver: permission denied"), "permission denied"),
        (HashFault::Error(Code::Unavailable, "etcdserver: rpc not supported for learner"), "learner"),
        (HashFault::Error(Code::Unavailable, "etcdserver: request timed out"), "timed out"),
        (HashFault::Error(Code::Unimplemented, "unknown method HashKV"), "unknown method"),
        (HashFault::Error(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"), "compacted"),
    ] {
        let site = Site::local();
        let fake = FakeEtcd::start(Script { hash_fault: fault, ..Script::default() }).await;
        let backup = snapshot(&site, &fake.endpoint, &[]);
        let why = backup["hashkv_missing"].as_str().unwrap();
        assert!(backup["hashkv"].is_null() && why.contains(word), "{backup}");
        assert!(!why.contains('\n'), "one line");
        let name = backup["backup"].as_str().unwrap();
        assert!(object(&site, name).is_file());
        // A refusal cost nothing: the next full asks again.
        snapshot(&site, &fake.endpoint, &[]);
        assert_eq!(fake.hashes(), 2);
    }
}

/// An answer for a revision that the member may be compacted at is worth nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_out_of_the_cache_of_a_compaction_is_not_stored() {
    let site = Site::local();
    let compaction = Compaction::Before(9);
    // Compacted at 9, and at revision 9: the fake answers with 9 itself, which is no cache; then with what lies before.
    let honest = FakeEtcd::start(Script { revision: 9, compaction, ..Script::default() }).await;
    assert_eq!(snapshot(&site, &honest.endpoint, &[])["hashkv"]["compact_revision"], json!(9));
    let hash_fault = HashFault::CompactRevision(5);
    let cached =
        FakeEtcd::start(Script { cluster: 0xc2, revision: 9, compaction, hash_fault, ..Script::default() }).await;
    let backup = snapshot(&site, &cached.endpoint, &[]);
    assert!(backup["hashkv_missing"].as_str().unwrap().contains("revision 9"), "{backup}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_is_noticed_after_the_stream() {
    let behind = [
        Script { member_after_snapshot: Some(0xb2), ..Script::default() },
        Script { hash_fault: HashFault::OtherMember(0xb2), ..Script::default() },
    ];
    for script in behind {
        let site = Site::local();
        let fake = FakeEtcd::start(script).await;
        let run = site.command(&["snapshot", "--once", "--endpoints", &fake.endpoint]).run();
        assert_failed(&run, 4, &[&fake.endpoint, "member b2", "member a1", "load balancer"]);
        assert!(!site.path("archive/prod").exists() || files_under(&site.path("archive")) == 0);
    }
}

/// What is not there to be read costs a line, not the backup.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_cannot_be_listed_takes_a_backup_all_the_same() {
    let fake = FakeEtcd::start(Script::default()).await;
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    server.fail_nth(Operation::List, 1, Act::Answer(403, "AccessDenied"));
    let run = site.command(&["snapshot", "--once", "--output=json", "--endpoints", &fake.endpoint]).run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("cannot tell when HashKV was last asked"), "{}", run.stderr);
    assert!(run.json()["hashkv"].is_object());
    assert_eq!(server.keys().len(), 1);
}

// verify

fn object(site: &Site, name: &str) -> PathBuf {
    site.path("archive/prod/etcdbr/v1").join(name)
}

fn files_under(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { files_under(&entry.path()) } else { 1 }).sum()
}

/// A small real database in a local archive; its backup's name.
async fn site_with_backup() -> (Site, Etcd, String) {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_6).await;
    write_history(&mut source.client().await, 100).await;
    let name = site.backup(&source)["backup"].as_str().unwrap().to_owned();
    (site, source, name)
}

#[tokio::test]
async fn verify_names_what_is_damaged_cut_or_of_another_key() {
    let (site, _source, name) = site_with_backup().await;
    let path = object(&site, &name);
    let bytes = std::fs::read(&path).unwrap();
    for place in [0, 20, bytes.len() / 2, bytes.len() - 40, bytes.len() - 3] {
        let mut bad = bytes.clone();
        bad[place] ^= 1;
        std::fs::write(&path, bad).unwrap();
        let outcome = verify(&site, &[]);
        assert!(matches!(outcome.code, Some(2 | 5 | 6)), "byte {place}: {}", outcome.stderr);
        outcome.assert_refused(&[&name]);
    }
    for len in [0, 10, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        assert_failed(&verify(&site, &[]), 6, &[&name]);
    }
    std::fs::write(&path, &bytes).unwrap();
    let other = site.path("other-key");
    Etcdbr::new(["keygen", "--key-file"]).arg(&other).succeed();
    assert_failed(&site.unkeyed(&["verify"]).arg("--encryption-key-file").arg(&other).run(), 5, &[&name]);
    assert_failed(&site.unkeyed(&["verify"]).run(), 5, &[&name, "no key was given"]);
    assert_eq!(verify(&site, &[]).code, Some(0));
    let nothing = ["--backup", &name.replace("full/0000000000000000", "full/0000000000000001")];
    assert_failed(&verify(&site, &nothing), 3, &["does not hold backup"]);
}

#[tokio::test]
async fn verify_all_goes_on_and_tells_the_worst() {
    let (site, source, first) = site_with_backup().await;
    let second = site.backup(&source)["backup"].as_str().unwrap().to_owned();
    let third = site.backup(&source)["backup"].as_str().unwrap().to_owned();
    let unencrypted = Planted::new(&site, &image_of(&source), 2).cluster(7).unencrypted().write(&site).await;
    let outcome = verify(&site, &["--all"]);
    assert_failed(&outcome, 4, &["1 of 4 backups is not sound", &unencrypted, "not encrypted"]);
    let told = documents(&outcome);
    assert_eq!(told.iter().filter(|document| document["sound"] == json!(true)).count(), 3);

    let path = object(&site, &second);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let outcome = verify(&site, &["--all"]);
    assert_failed(&outcome, 6, &["2 of 4 backups are not sound", &second]);
    let verdict = |name: &str| {
        let found = documents(&outcome).into_iter().find(|document| document["backup"] == json!(name));
        found.unwrap_or_else(|| panic!("{name} is not in {}", outcome.stdout))
    };
    assert_eq!((&verdict(&first)["sound"], &verdict(&third)["sound"]), (&json!(true), &json!(true)));
    assert_eq!(verdict(&second)["error"]["kind"], json!("damaged"));
    assert_eq!(verdict(&second)["error"]["exit_code"], json!(6));
    assert_eq!(verdict(&unencrypted)["error"]["kind"], json!("refused"));
    // Without the key, the unencrypted one is sound, and the others say what they need.
    let outcome = site.unkeyed(&["verify", "--all"]).run();
    assert_failed(&outcome, 5, &["3 of 4 backups are not sound", "no key was given"]);
    assert!(outcome.stdout.contains(&format!("sound {unencrypted}")), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("checksums (the backup is not encrypted)"), "{}", outcome.stdout);
}

#[tokio::test]
async fn verify_all_of_several_unencrypted_lineages() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_4).await;
    write_history(&mut source.client().await, 50).await;
    for _ in 0..2 {
        site.unkeyed(&["snapshot", "--once", "--endpoints", &source.endpoint()]).succeed();
    }
    let other = Etcd::builder(EtcdVersion::V3_7).token("another").start().await;
    site.unkeyed(&["snapshot", "--once", "--endpoints", &other.endpoint()]).succeed();
    let before = files_under(&site.path("archive"));
    let outcome = site.unkeyed(&["verify", "--all", "--output=json"]).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let told = documents(&outcome);
    assert!(told.len() == 3 && told.iter().all(|document| document["proof"]["integrity"] == json!("checksums")));
    assert_eq!(files_under(&site.path("archive")), before, "verify only reads");
    let lineage = told[0]["backup"].as_str().unwrap().split('/').next().unwrap().to_owned();
    let outcome = site.unkeyed(&["verify", "--output=json", "--lineage", &lineage]).run();
    assert_eq!(documents(&outcome)[0]["backup"], told[0]["backup"]);
    assert_failed(&site.unkeyed(&["verify", "--all", "--lineage", &lineage]).run(), 2, &["--lineage"]);
    assert_failed(&Site::local().unkeyed(&["verify", "--all"]).run(), 3, &["no full backup"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_leaves_nothing_behind_even_when_killed() {
    let source = Etcd::start(EtcdVersion::V3_5).await;
    source.client().await.put("noise", etcdbr_tests::load::Noise::new(1).bytes(1 << 20), None).await.unwrap();
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    // Chunks of 4 MiB in the clear: frames are fetched one at a time.
    for i in 0..12 {
        let value = etcdbr_tests::load::Noise::new(i).bytes(1 << 20);
        source.client().await.put(format!("noise/{i}"), value, None).await.unwrap();
    }
    site.backup(&source);
    let scratch = site.path("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let left = || std::fs::read_dir(&scratch).unwrap().count();
    let run = || site.command(&["verify"]).arg("--scratch-dir").arg(&scratch);
    let done = run().run();
    assert_eq!((done.code, left()), (Some(0), 0), "{}", done.stderr);
    let of_scratch = |path: &PathBuf| path.starts_with(&scratch) && *path != scratch;
    assert!(done.files.iter().any(of_scratch), "it was used: {:?}", done.files);

    for kill in [false, true] {
        let before = server.count(Operation::Get);
        server.fail_nth(Operation::Get, 4, Act::Silence);
        let running = run().spawn();
        wait_until(|| server.count(Operation::Get) >= before + 4).await;
        if kill {
            running.kill9();
        } else {
            running.interrupt();
        }
        let outcome = running.wait();
        assert_eq!(outcome.code, if kill { None } else { Some(130) }, "{}", outcome.stderr);
        assert_eq!(left(), 0);
    }
}

async fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come about within a minute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_scratch_dir_that_is_full_or_absent_is_told() {
    let (site, _source, name) = site_with_backup().await;
    let absent = site.path("absent");
    let run = |dir: &Path| site.command(&["verify"]).arg("--scratch-dir").arg(dir).run();
    assert_failed(&run(&absent), 9, &[absent.to_str().unwrap()]);
    let Some(small) = Tmpfs::mount(&site.path("small"), "size=64k") else {
        println!("skipped: this machine does not allow mounts");
        return;
    };
    let outcome = run(small.path());
    assert_failed(&outcome, 9, &["not enough space", small.path().to_str().unwrap(), "--scratch-dir"]);
    assert_failed(&site.command(&["verify", "--all"]).arg("--scratch-dir").arg(small.path()).run(), 9, &[&name]);
    let Some(large) = Tmpfs::mount(&site.path("large"), "size=64m") else { return };
    assert_eq!(run(large.path()).code, Some(0));
}
