//! A restore held against the model: every record, the hash, the leases, and what a real etcd makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use etcdbr_proto::leasepb;
use prost::Message;

use crate::database::{Database, Entries};
use crate::etcd::{Etcd, EtcdVersion, Seat};
use crate::keyspace::{HashKv, Keyspace, hash_kv};
use crate::model::{Known, Model, show};
use crate::model_world::Noted;
use crate::scenario::{Site, put_every_key};
use crate::sidecar::Captured;
use etcdbr_engine::archive::{Gap, Lineage, gaps};
use etcdbr_engine::format::NameKind;

/// Granted by a restore to leases that were gone before anybody could ask.
const ASSUMED_TTL_S: i64 = 3_600;

/// What is known of the source of an archive.
#[derive(Debug)]
pub struct Source<'a> {
    /// What it held.
    pub model: &'a Model,
    /// What it answered.
    pub noted: &'a Noted,
    /// The leases whose TTL capture had all the time to ask for.
    pub lasting: &'a BTreeSet<i64>,
}

/// What can be asked of a lineage.
#[derive(Debug, Clone)]
pub struct Reach {
    /// Its id.
    pub lineage: String,
    /// The revision of its first full, at least.
    pub seam: i64,
    /// The last one that it leads to without a gap.
    pub last: i64,
    /// Where its objects end, up to there.
    pub ends: BTreeSet<i64>,
    /// The first gap.
    pub gap: Option<Gap>,
}

impl Reach {
    /// Of every lineage of an archive that has a full.
    pub fn of(captured: &Captured) -> Vec<Self> {
        captured.lineages().into_iter().filter_map(Self::of_lineage).collect()
    }

    fn of_lineage(lineage: &Lineage) -> Option<Self> {
        let (mut seam, mut ends) = (None, BTreeSet::new());
        for entry in &lineage.backups {
            match entry.name.kind {
                NameKind::Full { seam: own } => {
                    seam = Some(seam.map_or(own.0, |seam: i64| seam.min(own.0)));
                    ends.insert(own.0);
                }
                NameKind::Delta { last, .. } => drop(ends.insert(last.0)),
            }
        }
        let (seam, gap) = (seam?, gaps(lineage).first().copied());
        let last = gap.map_or(*ends.last()?, |gap| gap.first.0 - 1);
        ends.retain(|end| (seam..=last).contains(end));
        Some(Self { lineage: lineage.id.to_string(), seam, last, ends, gap })
    }
}

/// What one restore has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// The compact revision of the database; -1 for none.
    pub floor: i64,
    /// Whether a hash that the source itself gave was held against it.
    pub answered: bool,
}

/// Restores, each into the same place.
#[derive(Debug)]
pub struct Bench<'a> {
    site: &'a Site,
    seat: Seat,
}

impl<'a> Bench<'a> {
    /// For the archive of `site`; `seat` is that of all members that will be restored.
    pub fn new(site: &'a Site, seat: Seat) -> Self {
        Self { site, seat }
    }

    /// Restores `revision` of `lineage` and compares all that a file shows. Nothing where the image of the lineage's
    /// full was compacted behind the revision when it was taken, as the refusal must say.
    ///
    /// # Panics
    /// Where it fails, or anything differs.
    pub fn compare(&self, lineage: &str, revision: i64, flags: &[&str], source: &Source<'_>) -> Option<Compared> {
        let context = format!("revision {revision} of {lineage}, {flags:?}");
        let database = self.restore((lineage, revision, flags), source)?;
        let floor = database.floor();
        assert!(floor <= revision, "{context}: compacted at {floor}");
        let at_some_time = floor == -1 || source.noted.compactions.contains_key(&floor);
        assert!(at_some_time, "{context}: the source was never compacted at {floor}");
        assert_records(&context, &database.bucket("key"), source.model, (revision, floor));
        let native = database.hash_kv(revision, floor).hash;
        assert_eq!(native, source.model.hash(revision, floor), "{context}: HashKV at floor {floor}");
        // Where the restored one is compacted further than the source was, it lacks what the source hashed.
        let answer = source.noted.hashes.get(&revision).filter(|answer| floor <= answer.compact_revision);
        if let Some(answer) = answer {
            assert_eq!(database.hash_kv(revision, answer.compact_revision), *answer, "{context}: the source's HashKV");
        }
        assert_leases(&context, &database.bucket("lease"), source, revision);
        Some(Compared { floor, answered: answer.is_some() })
    }

    fn restore(&self, (lineage, revision, flags): (&str, i64, &[&str]), source: &Source<'_>) -> Option<Database> {
        let dir = self.site.path("restored");
        if dir.exists() {
            fs::remove_dir_all(&dir).expect("a directory of ours");
        }
        let revision_text = revision.to_string();
        let run = self.site.restore(std::slice::from_ref(&self.seat), 0, &dir);
        let run = run.args(["--lineage", lineage, "--revision", &revision_text, "--output=json"]).args(flags);
        let outcome = tokio::task::block_in_place(|| run.run());
        let later = source.noted.compactions.keys().filter(|floor| **floor > revision);
        if later.into_iter().any(|floor| outcome.stderr.contains(&format!("compacted at {floor}"))) {
            return None;
        }
        assert_eq!(outcome.code, Some(0), "revision {revision} of {lineage} {flags:?}:\n{}", outcome.stderr);
        let database = Database::in_dir(&dir);
        database.assert_sound();
        let json = outcome.json();
        assert_eq!((json["revision"].as_i64(), database.revision()), (Some(revision), revision), "{json}");
        Some(database)
    }

    /// Starts an etcd on what was restored last, which is of `revision`: it serves the hash that the file has, and counts
    /// versions on as the source would have.
    ///
    /// # Panics
    /// Where it does not.
    pub async fn serve(&self, version: EtcdVersion, revision: i64, model: &Model) {
        let dir = self.site.path("restored");
        let database = Database::in_dir(&dir);
        // With so long an election timeout no lease is over before the end.
        let etcd = Etcd::builder(version).seat(self.seat.clone()).data_dir(&dir).arg("--election-timeout=20000");
        let etcd = etcd.start().await;
        let mut client = etcd.client().await;
        let served = hash_kv(&mut client, 0).await;
        assert_eq!(database.hash_kv(revision, served.compact_revision), served, "HashKV of the file at {revision}");
        let expected = HashKv { hash: model.hash(revision, served.compact_revision), ..served };
        assert_eq!(served, expected, "HashKV of the model at {revision}");
        let (keys, alive) = (model.keys(model.revision()), model.alive(revision));
        put_every_key(&mut client, &keys, "once more").await;
        let after = Keyspace::read(&mut client).await;
        for key in &keys {
            let now = &after.entries[key];
            let (version, create_revision, lease) = alive
                .get(key)
                .map_or((1, now.mod_revision, 0), |then| (then.version + 1, then.create_revision, then.lease));
            let (ours, theirs) = ((version, create_revision, lease), (now.version, now.create_revision, now.lease));
            assert_eq!(theirs, ours, "version, create revision and lease of {} behind {revision}", show(key));
        }
    }
}

/// Every record is one of the model's; none of those that a compaction at the floor leaves is missing; and of each key
/// the end of its history is there, without a hole.
fn assert_records(context: &str, entries: &Entries, model: &Model, (revision, floor): (i64, i64)) {
    let records = model.upto(revision);
    let known: BTreeMap<&[u8], &Known> = records.iter().map(|record| (record.stored.0.as_slice(), record)).collect();
    for (key, value) in entries {
        match known.get(key.as_slice()) {
            None => panic!("{context}: {} is no record of the source", show(key)),
            Some(record) => assert!(
                record.stored.1 == *value,
                "{context}: {}/{} of {} is {} and should be {}",
                record.main,
                record.sub,
                show(&record.key),
                show(value),
                show(&record.stored.1)
            ),
        }
    }
    for record in model.left(revision, floor) {
        let what = format!("{}/{} of {}, floor {floor}", record.main, record.sub, show(&record.key));
        assert!(entries.contains_key(&record.stored.0), "{context}: lacks {what}");
    }
    let mut begun = BTreeSet::new();
    for record in records {
        if entries.contains_key(&record.stored.0) {
            begun.insert(record.key.as_slice());
        } else {
            let hole = begun.contains(record.key.as_slice());
            assert!(!hole, "{context}: a hole at {}/{} of {}", record.main, record.sub, show(&record.key));
        }
    }
}

/// Every lease of a live key has a record, with the TTL that it was granted wherever capture could know it.
fn assert_leases(context: &str, entries: &Entries, source: &Source<'_>, revision: i64) {
    let record = |value: &Vec<u8>| leasepb::Lease::decode(value.as_slice()).expect("a lease");
    let stored: BTreeMap<i64, i64> = entries.values().map(record).map(|lease| (lease.id, lease.ttl)).collect();
    for (key, live) in source.model.alive(revision).into_iter().filter(|(_, live)| live.lease != 0) {
        let ttl = stored.get(&live.lease);
        let granted = &source.noted.granted[&live.lease];
        let fits = ttl.is_some_and(|ttl| {
            granted.contains(ttl) || (*ttl == ASSUMED_TTL_S && !source.lasting.contains(&live.lease))
        });
        assert!(fits, "{context}: lease {} of {} has {ttl:?} s, granted {granted:?}", live.lease, show(&key));
    }
}
