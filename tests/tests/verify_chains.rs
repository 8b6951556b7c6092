//! `verify` and `list` of captured histories: what is sound is told to be, and what is not is named.

use std::path::PathBuf;
use std::sync::Arc;

use etcdbr_engine::archive::{BackupEntry, ReadLimits, Selection, WriteLimits};
use etcdbr_engine::clock::{Clock, UnixMillis};
use etcdbr_engine::format::{
    BackupName, CaptureFacts, FooterFacts, HashKvAnswer, HistoryDigest, HistoryFold, NameKind, ObjectNonce, Seam,
    SeamProof,
};
use etcdbr_engine::monitor::Silent;
use etcdbr_engine::pipeline::CompressionLevel;
use etcdbr_engine::record::Record;
use etcdbr_engine::revision::Revision;
use etcdbr_engine::run::RunContext;
use etcdbr_engine::verify::{Scope, Verdict, VerifyRequest, plan_verify, run_verify};
use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::etcdbr::Outcome;
use etcdbr_tests::keyspace::{current_revision, hash_kv};
use etcdbr_tests::load::Noise;
use etcdbr_tests::plant::image_of;
use etcdbr_tests::scenario::{Site, assert_failed, write_history};
use etcdbr_tests::sidecar::{Captured, Sidecar};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// A captured history in a directory.
struct Story {
    site: Site,
    source: Etcd,
    captured: Captured,
    last: i64,
}

/// A full and at least four deltas.
async fn story() -> Story {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = source.client().await;
    write_history(&mut client, 40).await;
    let mut sidecar = Sidecar::start(&site, &[source.endpoint()]);
    sidecar.opened(1).await;
    for batch in 0..5 {
        for key in 0..8 {
            client.put(format!("/chained/{key}"), format!("{batch}"), None).await.unwrap();
        }
        sidecar.durable(current_revision(&mut client).await).await;
    }
    sidecar.stop();
    let captured = Captured::of(&site).await;
    assert!(deltas(&captured).len() >= 4, "{:?}", captured.catalogue);
    let last = current_revision(&mut client).await;
    Story { site, source, captured, last }
}

/// The deltas with records, in order.
fn deltas(captured: &Captured) -> Vec<BackupEntry> {
    let has_records =
        |entry: &&BackupEntry| matches!(entry.name.kind, NameKind::Delta { first, last } if first <= last);
    let mut deltas: Vec<_> = captured.lineages()[0].backups.iter().filter(has_records).cloned().collect();
    deltas.sort_unstable_by_key(|entry| range(&entry.name));
    deltas
}

fn range(name: &BackupName) -> (i64, i64) {
    match name.kind {
        NameKind::Delta { first, last } => (first.0, last.0),
        NameKind::Full { seam } => (seam.0, seam.0),
    }
}

fn verify(site: &Site, more: &[&str]) -> Outcome {
    site.command(&["verify", "--output=json"]).args(more).run()
}

fn documents(outcome: &Outcome) -> Vec<Value> {
    outcome.stdout.lines().map(|line| serde_json::from_str(line).expect("a line is a document")).collect()
}

/// The names of what is not sound.
fn findings(outcome: &Outcome) -> Vec<String> {
    let told = documents(outcome).into_iter().filter(|document| document["sound"] == json!(false));
    told.map(|document| document["backup"].as_str().unwrap().to_owned()).collect()
}

fn object(site: &Site, name: &BackupName) -> PathBuf {
    site.path(&format!("archive/prod/etcdbr/v1/{name}"))
}

fn damage(path: &PathBuf) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

impl Story {
    /// Facts of the lineage's own last delta, for one that is planted.
    async fn facts(&self) -> FooterFacts {
        let last = deltas(&self.captured).pop().unwrap();
        self.captured.archive().open(&last.name).await.unwrap().footer().facts.clone()
    }

    async fn records(&self) -> (i64, Vec<Record>) {
        self.captured.records(self.captured.lineages()[0]).await
    }

    fn name(&self, kind: NameKind, later_ms: i64) -> BackupName {
        let lineage = self.captured.lineages()[0];
        let created = UnixMillis(lineage.last_written().0 + later_ms);
        BackupName { lineage: lineage.id, kind, created, nonce: ObjectNonce::random().unwrap() }
    }

    /// The digest at `revision`.
    async fn digest(&self, revision: i64) -> HistoryDigest {
        let (seam, records) = self.records().await;
        let full = self.captured.lineages()[0].latest_full().unwrap();
        let before = self.captured.archive().open(&full.name).await.unwrap().footer().facts.history.1;
        let mut fold = HistoryFold::after(Revision(seam), before);
        for record in records.iter().filter(|record| record.main.0 <= revision) {
            fold.push(&record.as_ref()).unwrap();
        }
        fold.finish().1
    }

    /// Plants a delta of `records`, which follow the digest `before`.
    async fn plant(&self, records: &[Record], before: HistoryDigest) -> BackupName {
        let (first, last) = (records.first().unwrap().main, records.last().unwrap().main);
        let name = self.name(NameKind::Delta { first, last }, 10);
        let facts = FooterFacts { history: (before, before), ..self.facts().await };
        let archive = self.captured.archive();
        let sealed = archive.seal_delta(name, records, facts, CompressionLevel::Zstd(1)).unwrap();
        archive.put_delta(&sealed).await.unwrap();
        name
    }

    /// Plants a full of the same lineage: the image of now, its seam at the last revision, with this digest and answer.
    async fn plant_full(&self, history: HistoryDigest, answer: HashKvAnswer) -> BackupName {
        let image = image_of(&self.source);
        let seam = Revision(self.last);
        let name = self.name(NameKind::Full { seam }, 20);
        let facts = FooterFacts {
            plain_sha256: Sha256::digest(&image).into(),
            revisions: (seam, seam),
            seam: Some(Seam { revision: seam, records: Vec::new(), proof: SeamProof::Unproven }),
            hash_kv: vec![answer],
            history: (history, history),
            capture: CaptureFacts::default(),
            ..self.facts().await
        };
        let mut writer = self.captured.archive().writer(name, WriteLimits::default()).unwrap();
        writer.push(&image).await.unwrap();
        writer.finish(&facts).await.unwrap();
        name
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_replayed_to_its_end_without_an_etcd() {
    let Story { site, source, captured, last } = story().await;
    drop(source);
    let outcome = verify(&site, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let told = &documents(&outcome)[0];
    let (seam, records) = captured.records(captured.lineages()[0]).await;
    assert_eq!((&told["sound"], &told["reaches"]), (&json!(true), &json!(last)), "{told}");
    assert_eq!(told["deltas"], json!(deltas(&captured).len()), "{told}");
    assert_eq!(told["delta_records"], json!(records.len()), "{told}");
    assert_eq!(told["proof"]["hashkv"]["revision"], json!(seam), "{told}");
    let outcome = verify(&site, &["--all"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let text = site.command(&["verify"]).succeed().stdout;
    assert!(text.contains(&format!("lead on to revision {last}")), "{text}");
    // A full that is named is verified alone.
    let full = captured.lineages()[0].latest_full().unwrap().name.to_string();
    assert_eq!(documents(&verify(&site, &["--backup", &full]))[0]["deltas"], json!(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_delta_is_named_by_its_revisions() {
    let story = story().await;
    let (site, all) = (&story.site, deltas(&story.captured));
    let whole = site.command(&["list", "--output=json"]).succeed().json();
    let lost = &all[1].name;
    let (first, last) = range(lost);
    std::fs::remove_file(object(site, lost)).unwrap();
    let words = format!("revisions {first} to {last} are missing in lineage {}", lost.lineage);
    assert_failed(&verify(site, &[]), 4, &[&words]);
    let outcome = verify(site, &["--all"]);
    assert_failed(&outcome, 4, &["1 of ", "is not sound", &words]);
    // The full is sound all the same, and what lies behind the gap is read.
    assert!(documents(&outcome).iter().any(|document| document["sound"] == json!(true)), "{}", outcome.stdout);
    damage(&object(site, &all[3].name));
    let outcome = verify(site, &["--all"]);
    assert_failed(&outcome, 6, &["2 of ", &all[3].name.to_string()]);
    assert!(outcome.stdout.contains(&words), "{}", outcome.stdout);

    let listed = site.command(&["list"]).succeed().stdout;
    assert!(listed.contains(&format!("MISSING revisions {first} to {last}")), "{listed}");
    let seam = range(&story.captured.lineages()[0].latest_full().unwrap().name).0;
    assert!(listed.contains(&format!("restores revisions {seam} to {}, of ", first - 1)), "{listed}");
    let json = site.command(&["list", "--output=json"]).succeed().json();
    let lineage = &json["lineages"][0];
    assert_eq!(lineage["missing"], json!([{"first": first, "last": last}]));
    assert_eq!(lineage["restores"][0]["last_revision"], json!(first - 1), "{lineage}");
    let before = &whole["lineages"][0];
    assert_eq!(before["missing"], json!([]));
    let window = &before["restores"][0];
    assert_eq!((&window["first_revision"], &window["last_revision"]), (&json!(seam), &json!(story.last)), "{before}");
    assert_eq!(window["until"], before["last_written"], "{before}");
    assert_eq!(before["totals"]["deltas"], json!(all.len()), "{before}");
    assert_eq!((&before["totals"]["fulls"], &whole["totals"]), (&json!(1), &before["totals"]));
    let bytes = story.captured.lineages()[0].backups.iter().map(|entry| entry.stored_bytes).sum::<u64>();
    assert_eq!((&whole["totals"]["stored_bytes"], &whole["encrypted"]), (&json!(bytes), &json!(true)));
    let details = site.command(&["list", "--details"]).succeed().stdout;
    assert!(details.contains(", encrypted\n"), "{details}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_delta_is_named() {
    let story = story().await;
    let (site, all) = (&story.site, deltas(&story.captured));
    // Another lineage, which nothing is wrong with.
    let other = site.backup(&story.source)["backup"].as_str().unwrap().to_owned();
    for delta in [&all[1], &all[3]] {
        damage(&object(site, &delta.name));
    }
    let of_lineage = ["--lineage", &story.captured.lineages()[0].id.to_string()];
    assert_failed(&verify(site, &of_lineage), 6, &[&all[1].name.to_string()]);
    let outcome = verify(site, &["--all"]);
    assert_failed(&outcome, 6, &["2 of "]);
    for name in [&all[1].name, &all[3].name] {
        assert!(outcome.stdout.contains(&name.to_string()), "{name} is not named: {}", outcome.stdout);
    }
    assert_eq!(findings(&outcome).len(), 2, "{}", outcome.stdout);
    let sound = |document: &Value| document["sound"] == json!(true) && document["backup"] == json!(other);
    assert!(documents(&outcome).iter().any(sound), "{}", outcome.stdout);
}

/// The records of the chain from the first revision of delta `n` on, the last of them with another value.
async fn forked(story: &Story, n: usize, upto: i64) -> (Vec<Record>, HistoryDigest) {
    let first = range(&deltas(&story.captured)[n].name).0;
    let (_, records) = story.records().await;
    let mut records: Vec<Record> =
        records.into_iter().filter(|record| (first..=upto).contains(&record.main.0)).collect();
    let last = records.last_mut().unwrap();
    let mut value = last.value.to_vec();
    let end = value.len() - 1;
    value[end] ^= 1;
    last.value = value.into();
    (records, story.digest(first - 1).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forked_delta_is_named_wherever_it_lies() {
    // Inside the chain, where no restore of the newest moment would read it: it agrees at its beginning, not at its end.
    let story = story().await;
    let site = &story.site;
    let inner = range(&deltas(&story.captured)[2].name);
    let (records, before) = forked(&story, 2, inner.0).await;
    assert!(inner.0 < inner.1, "a delta of several revisions");
    let fork = story.plant(&records, before).await.to_string();
    assert_eq!(verify(site, &[]).code, Some(0));
    let outcome = verify(site, &["--all"]);
    let words = [fork.as_str(), "another history", &format!("revision {}", inner.0)];
    assert_failed(&outcome, 4, &words);
    assert_eq!(findings(&outcome), std::slice::from_ref(&fork));
    std::fs::remove_file(site.path(&format!("archive/prod/etcdbr/v1/{fork}"))).unwrap();
    // Where the chain goes through it: what follows does not meet it.
    let end = range(&deltas(&story.captured)[2].name).1;
    let (records, before) = forked(&story, 1, end).await;
    let fork = story.plant(&records, before).await.to_string();
    for flags in [&[][..], &["--all"]] {
        assert_failed(&verify(site, flags), 4, &[&fork, "another history", &format!("revision {end}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_full_is_held_against_the_chain_before_it() {
    let story = story().await;
    let site = &story.site;
    let hash = hash_kv(&mut story.source.client().await, story.last).await;
    let answer = HashKvAnswer {
        revision: Revision(story.last),
        compact_revision: Revision(hash.compact_revision),
        hash: hash.hash,
        duration_ms: 1,
    };
    let digest = story.digest(story.last).await;
    let full = story.plant_full(digest, answer).await;
    let outcome = verify(site, &["--all"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let told = documents(&outcome);
    let expected = json!({"revision": story.last, "compact_revision": hash.compact_revision, "hash": hash.hash});
    assert_eq!(told[0]["delta_hashkv"], json!([expected]), "{}", outcome.stdout);
    assert_eq!((told.len(), &told[1]["backup"]), (2, &json!(full.to_string())));
    let text = site.command(&["verify", "--all"]).succeed().stdout;
    assert!(text.contains(&format!("with them, HashKV {} up to revision {}", hash.hash, story.last)), "{text}");
    std::fs::remove_file(object(site, &full)).unwrap();

    // A full of another history, by its digest.
    let full = story.plant_full(HistoryDigest([7; 32]), answer).await;
    let outcome = verify(site, &["--all"]);
    assert_failed(&outcome, 4, &[&full.to_string(), "another history"]);
    std::fs::remove_file(object(site, &full)).unwrap();

    // Records that the source did not have: the answer is another one, for the chain as for the full.
    story.plant_full(digest, HashKvAnswer { hash: hash.hash ^ 1, ..answer }).await;
    let outcome = verify(site, &["--all"]);
    assert_failed(&outcome, 6, &["HashKV"]);
    let first = story.captured.lineages()[0].latest_full().unwrap().name.to_string();
    assert!(findings(&outcome).contains(&first), "{}", outcome.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_only_mark_time_are_verified_too() {
    let story = story().await;
    let site = &story.site;
    let digest = story.digest(story.last).await;
    let kind = NameKind::Delta { first: Revision(story.last + 1), last: Revision(story.last) };
    let good = story.name(kind, 10);
    let revisions = (Revision(story.last + 1), Revision(story.last));
    for (name, history, code) in [(good, digest, 0), (story.name(kind, 11), HistoryDigest([7; 32]), 4)] {
        let facts = FooterFacts { revisions, history: (history, history), ..story.facts().await };
        let archive = story.captured.archive();
        let sealed = archive.seal_delta(name, &[], facts, CompressionLevel::Zstd(1)).unwrap();
        archive.put_delta(&sealed).await.unwrap();
        let outcome = verify(site, &["--all"]);
        assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
        assert_eq!(findings(&outcome).len(), usize::from(code > 0), "{}", outcome.stdout);
    }
    damage(&object(site, &good));
    assert_failed(&verify(site, &["--all"]), 6, &[&good.to_string()]);
    assert_failed(&verify(site, &[]), 6, &[&good.to_string()]);
    let listed = site.command(&["list"]).succeed().stdout;
    assert!(listed.contains("  mark  "), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fulls_beside_capture_are_held_against_the_deltas_between_them() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = source.client().await;
    write_history(&mut client, 40).await;
    let flags = ["--full-after-deltas-bytes=100KiB", "--hashkv-interval=1ms"];
    let mut sidecar = Sidecar::start_with(&site, &[source.endpoint()], &flags);
    sidecar.opened(1).await;
    let mut noise = Noise::new(3);
    while sidecar.times("is durable") < 2 {
        for key in 0..20 {
            client.put(format!("/much/{key}"), noise.bytes(1_000), None).await.unwrap();
        }
    }
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    let outcome = verify(&site, &["--all"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let told = documents(&outcome);
    assert!(told.len() >= 2, "{}", outcome.stdout);
    let compared = |document: &&Value| !document["delta_hashkv"].as_array().unwrap().is_empty();
    assert!(told.iter().filter(compared).count() > 0, "{}", outcome.stdout);
}

/// What is deleted between the listing and the reading is not damage where something else has the same records, and a gap
/// where nothing has.
#[tokio::test(flavor = "multi_thread")]
async fn deltas_that_vanish_under_a_verification() {
    for scope in [Scope::All, Scope::One(Selection::Latest)] {
        let story = story().await;
        let context = RunContext { clock: Clock::system(), monitor: Arc::new(Silent), stop: CancellationToken::new() };
        let archive = story.captured.archive();
        let (scratch_dir, limits) = (story.site.path(""), ReadLimits::default());
        let request = || VerifyRequest { scope: scope.clone(), scratch_dir: scratch_dir.clone(), limits };
        let (_, records) = story.records().await;
        let all = deltas(&story.captured);
        let (first, last) = (range(&all[1].name).0, range(&all[2].name).1);
        let inside: Vec<Record> =
            records.into_iter().filter(|record| (first..=last).contains(&record.main.0)).collect();
        let before = story.digest(first - 1).await;
        let mut told = Vec::new();
        let mut report = |verdict: Verdict<'_>| told.push((verdict.backup.name, verdict.outcome.is_ok()));

        let plan = plan_verify(archive, request()).await.unwrap();
        let wide = story.plant(&inside, before).await;
        for delta in &all[1..=2] {
            std::fs::remove_file(object(&story.site, &delta.name)).unwrap();
        }
        let summary = run_verify(archive, &plan, &context, &mut report).await.unwrap();
        assert_eq!(summary.sound, 1, "{scope:?}");
        let plan = plan_verify(archive, request()).await.unwrap();
        std::fs::remove_file(object(&story.site, &wide)).unwrap();
        let error = run_verify(archive, &plan, &context, &mut report).await.unwrap_err();
        assert!(error.to_string().contains(&format!("revisions {first} to {last} are missing")), "{error}");
        assert!(told.iter().any(|(_, sound)| *sound), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lineage_without_a_full_restores_nothing() {
    let story = story().await;
    let (site, lineage) = (&story.site, story.captured.lineages()[0]);
    std::fs::remove_file(object(site, &lineage.latest_full().unwrap().name)).unwrap();
    let listed = site.command(&["list"]).succeed().stdout;
    assert!(listed.contains("NOTHING OF IT CAN BE RESTORED"), "{listed}");
    let json = site.command(&["list", "--output=json"]).succeed().json();
    assert_eq!(json["lineages"][0]["restores"], json!([]));
    assert_failed(&verify(site, &["--all"]), 3, &["no full backup"]);
    assert_failed(&verify(site, &[]), 3, &[&lineage.id.to_string()]);
    // Beside another lineage its deltas are read all the same, and the log says what they are worth.
    site.backup(&story.source);
    let outcome = verify(site, &["--all"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(&format!("lineage {} has no full", lineage.id)), "{}", outcome.stderr);
    damage(&object(site, &deltas(&story.captured)[0].name));
    assert_failed(&verify(site, &["--all"]), 6, &[&deltas(&story.captured)[0].name.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_says_whether_backups_are_encrypted() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_6).await;
    let empty = site.unkeyed(&["list", "--output=json"]).succeed().json();
    assert_eq!((&empty["encrypted"], &empty["totals"]["fulls"]), (&Value::Null, &json!(0)));
    site.unkeyed(&["snapshot", "--once", "--endpoints", &source.endpoint()]).succeed();
    for flags in [&["list"][..], &["list", "--details"]] {
        let text = site.unkeyed(flags).succeed().stdout;
        assert!(text.contains("in all: 1 fulls, 0 deltas, 0 marks, ") && text.contains("NOT ENCRYPTED"), "{text}");
        let json = site.unkeyed(flags).arg("--output=json").succeed().json();
        assert_eq!((&json["encrypted"], &json["totals"]["fulls"]), (&json!(false), &json!(1)));
    }
}
