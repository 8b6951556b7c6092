//! A running sidecar seen from outside, and what it has captured, read back from the archive.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcdbr_engine::archive::{
    Archive, BackupEntry, Catalogue, ChainTarget, Keyring, KeyringSource, Lineage, OnGap, ReadLimits, chain_to, gaps,
};
use etcdbr_engine::format::{ArchivePrefix, HistoryDigest, HistoryFold, LeaseList, NameKind, RecordsDecoder, TimeMark};
use etcdbr_engine::record::Record;
use etcdbr_engine::revision::Revision;
use etcdbr_engine::store::ObjectStore;
use futures::TryStreamExt;

use crate::etcdbr::{Outcome, Running};
use crate::s3::S3Server;
use crate::scenario::{BUCKET, Site};

/// Far more than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A sidecar of a site; killed when dropped.
#[derive(Debug)]
pub struct Sidecar {
    running: Running,
}

impl Sidecar {
    /// Starts one that cuts a delta every 200 ms.
    pub fn start(site: &Site, endpoints: &[String]) -> Self {
        Self::start_with(site, endpoints, &[])
    }

    /// The same with more flags.
    pub fn start_with(site: &Site, endpoints: &[String], flags: &[&str]) -> Self {
        Self::start_every(site, endpoints, "200ms", flags)
    }

    /// Starts one that cuts a delta every `period`.
    pub fn start_every(site: &Site, endpoints: &[String], period: &str, flags: &[&str]) -> Self {
        let endpoints = endpoints.join(",");
        let run = site.command(&["snapshot", "--output=json", "--endpoints", &endpoints]);
        // Tests do not run into the hour, nor into the end of a period, unless they want to.
        let quiet = ["--schedule=", "--rollup-periods=0", "--garbage-collection-period=0"];
        let wanted = |quiet: &&str| {
            let name = quiet.trim_end_matches('0');
            flags.iter().any(|flag| flag.starts_with(name))
        };
        let run = run.args(quiet.iter().filter(|quiet| !wanted(quiet)));
        Self { running: run.args(["--delta-snapshot-period", period]).args(flags).spawn() }
    }

    /// Waits until everything up to `revision` is durable.
    ///
    /// # Panics
    /// Where it is not for long, or the sidecar ends.
    pub async fn durable(&mut self, revision: i64) {
        self.until(&format!("revision {revision} to be durable"), |said| durable(said) >= revision).await;
    }

    /// Waits until it has said `words` `times` times.
    ///
    /// # Panics
    /// Where it does not for long, or the sidecar ends.
    pub async fn said(&mut self, words: &str, times: usize) {
        self.until(&format!("{times} times {words:?}"), |said| said.matches(words).count() >= times).await;
    }

    /// Waits until a lineage is open for the `times`th time.
    ///
    /// # Panics
    /// As [`Self::said`].
    pub async fn opened(&mut self, times: usize) {
        self.said(" is open", times).await;
    }

    /// How often it has said `words`.
    pub fn times(&self, words: &str) -> usize {
        self.running.said().matches(words).count()
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&str) -> bool) {
        let started = Instant::now();
        while !reached(&self.running.said()) {
            assert!(!self.running.ended(), "the sidecar has ended, waiting for {what}:\n{}", self.running.said());
            assert!(started.elapsed() < PATIENCE, "waiting for {what}:\n{}", self.running.said());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// All that it has said.
    pub fn words(&self) -> String {
        self.running.said()
    }

    /// The revision that it said is durable.
    pub fn durable_revision(&self) -> i64 {
        durable(&self.running.said())
    }

    /// SIGKILL.
    pub fn kill9(self) -> Outcome {
        self.running.kill9();
        self.running.wait()
    }

    /// SIGTERM.
    pub fn terminate(self) -> Outcome {
        self.running.terminate();
        self.running.wait()
    }

    /// SIGTERM, which must end it with success.
    ///
    /// # Panics
    /// Where it does not.
    pub fn stop(self) -> Outcome {
        let outcome = self.terminate();
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }
}

/// The last revision that `said` calls durable, in the lineage that it speaks of last.
fn durable(said: &str) -> i64 {
    durable_point(said).map_or(0, |(_, revision)| revision)
}

/// The lineage and the revision that `said` calls durable last.
pub fn durable_point(said: &str) -> Option<(String, i64)> {
    let last = said.lines().rev().find(|line| line.contains("durable_revision"))?;
    let json: serde_json::Value = serde_json::from_str(last).ok()?;
    Some((json["lineage"].as_str()?.to_owned(), json["durable_revision"].as_i64()?))
}

/// What an archive holds.
#[derive(Debug)]
pub struct Captured {
    archive: Archive,
    /// All of it.
    pub catalogue: Catalogue,
}

impl Captured {
    /// That of a site with a directory.
    ///
    /// # Panics
    /// Where it cannot be listed.
    pub async fn of(site: &Site) -> Self {
        Self::in_store(site.store(), site.path("key")).await
    }

    /// That in the bucket of an in-process S3.
    ///
    /// # Panics
    /// Where it cannot be listed.
    pub async fn on(server: &S3Server, site: &Site) -> Self {
        let store = etcdbr_engine::store::open(&server.options(BUCKET)).await.expect("a store of ours");
        Self::in_store(store, site.path("key")).await
    }

    /// That in a store.
    ///
    /// # Panics
    /// Where it cannot be listed.
    pub async fn in_store(store: Arc<dyn ObjectStore>, key: PathBuf) -> Self {
        let keyring = Keyring::load(&KeyringSource::File(key)).expect("a key file").0;
        let archive = Archive::new(store, ArchivePrefix::new("prod").expect("a prefix"), keyring);
        let catalogue = archive.catalogue().await.expect("an archive can be listed");
        Self { archive, catalogue }
    }

    /// The archive itself.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The time marks of a lineage's deltas, in the order of their names' times.
    ///
    /// # Panics
    /// Where one cannot be opened.
    pub async fn time_marks(&self, lineage: &Lineage) -> Vec<TimeMark> {
        let mut marks = Vec::new();
        for entry in &lineage.backups {
            let reader = self.archive.open(&entry.name).await.expect("an object can be opened");
            marks.extend(reader.footer().facts.capture.time_marks.iter().copied());
        }
        marks
    }

    /// The lineages, oldest first.
    pub fn lineages(&self) -> Vec<&Lineage> {
        self.catalogue.lineages.values().collect()
    }

    /// The granted time to live of every lease that the deltas of a lineage tell of.
    ///
    /// # Panics
    /// Where one cannot be opened.
    pub async fn leases(&self, lineage: &Lineage) -> BTreeMap<i64, i64> {
        let mut granted = BTreeMap::new();
        for entry in &lineage.backups {
            let reader = self.archive.open(&entry.name).await.expect("an object can be opened");
            let capture = &reader.footer().facts.capture;
            if capture.lease_list == LeaseList::Complete {
                granted.clear();
            }
            granted.extend(capture.leases.iter().map(|lease| (lease.id, lease.ttl_s)));
        }
        granted
    }

    /// The digest of every full's seam is the one that the deltas around it lead to, from the first full on.
    ///
    /// # Panics
    /// Where one is not, or a delta does not reach the next seam.
    pub async fn assert_fulls_meet_deltas(&self, lineage: &Lineage) {
        assert_eq!(gaps(lineage), [], "gaps in {}", lineage.id);
        let seam = |entry: &BackupEntry| match entry.name.kind {
            NameKind::Full { seam } => Some(seam),
            NameKind::Delta { .. } => None,
        };
        let mut fulls: Vec<_> = lineage.backups.iter().filter_map(|entry| Some((seam(entry)?, entry))).collect();
        fulls.sort_unstable_by_key(|(seam, _)| *seam);
        let later: Vec<_> = fulls[1..].iter().map(|(_, entry)| entry.name).collect();
        // Without the later fulls the chain begins with the first one.
        let (first, records) = self.records(&lineage.without(&later)).await;
        for (seam, entry) in &fulls {
            let facts = &self.archive.open(&entry.name).await.expect("a full can be opened").footer().facts.clone();
            let mut fold = HistoryFold::after(Revision(first), HistoryDigest::at_seam(&lineage.id, Revision(first)));
            for record in records.iter().take_while(|record| record.main <= *seam) {
                fold.push(&record.as_ref()).expect("no revision is missing");
            }
            assert_eq!(fold.finish(), (*seam, facts.history.1), "D of {}", entry.name);
            let own: Vec<_> = records.iter().filter(|record| record.main == *seam).cloned().collect();
            if *seam > Revision(first) {
                assert_eq!(facts.seam.as_ref().map(|seam| seam.records.clone()), Some(own), "{}", entry.name);
            }
        }
    }

    /// The seam of a lineage and every record behind it, all digests checked.
    ///
    /// # Panics
    /// Where there is a gap, or anything does not agree.
    pub async fn records(&self, lineage: &Lineage) -> (i64, Vec<Record>) {
        assert_eq!(gaps(lineage), [], "gaps in {}", lineage.id);
        let chain = chain_to(lineage, ChainTarget::Newest, OnGap::Refuse).expect("a chain without a gap");
        let full = self.archive.open(&chain.full.name).await.expect("a full can be opened");
        let digest = full.footer().facts.history.1;
        let mut fold = HistoryFold::after(chain.seam(), digest);
        let mut records: Vec<Record> = Vec::new();
        for entry in &chain.deltas {
            let reader = self.archive.open_listed(entry).await.expect("a delta can be opened");
            let chunks: Vec<Vec<u8>> = reader
                .chunks(ReadLimits::default())
                .map_ok(|(chunk, _)| chunk.to_vec())
                .try_collect()
                .await
                .unwrap_or_else(|error| panic!("{error}"));
            for record in chunks.iter().flat_map(|chunk| RecordsDecoder::new(chunk)) {
                let record = record.expect("a record");
                let place = (record.main, record.sub);
                if records.last().map_or((chain.seam(), i64::MAX), |last| (last.main, last.sub)) >= place {
                    continue;
                }
                fold.push(&record).expect("no revision is missing");
                let value = record.value.to_vec().into();
                records.push(Record { main: record.main, sub: record.sub, change: record.change, value });
            }
            let (reached, digest) = fold.clone().finish();
            assert_eq!((reached, digest), (reader.footer().facts.revisions.1, reader.footer().facts.history.1));
        }
        let Revision(seam) = chain.seam();
        (seam, records)
    }
}
