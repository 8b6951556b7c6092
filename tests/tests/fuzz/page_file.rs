//! bbolt files: opened, checked, walked both ways, cut, carried on.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use etcdbr_engine::Result;
use etcdbr_engine::bbolt::{BoltFile, Bucket, BulkWriter, Extension, Written, check, check_visiting};

const PAGE: usize = 1024;
/// The sizes that a page may have.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 10..=24;

type Entries = Vec<(Vec<u8>, Vec<u8>)>;
type Buckets = BTreeMap<Vec<u8>, Entries>;

// --- seeds ---

fn records(count: u64, key_len: usize, value_len: usize) -> Entries {
    let key = |n: u64| format!("{n:0key_len$}").into_bytes();
    (0..count).map(|n| (key(n), vec![n as u8; value_len])).collect()
}

/// Trees of no level up to five; records of several pages; a root that is a branch; a file with free pages.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let one = |entries| Buckets::from([(b"key".to_vec(), entries)]);
    let etcd = ["alarm", "auth", "cluster", "key", "lease", "meta"];
    let etcds = etcd.iter().zip(0..).map(|(name, n)| (name.as_bytes().to_vec(), records(n * n, 17, 10))).collect();
    let many = (0..60).map(|n| (format!("bucket-{n:02}").into_bytes(), records(n % 5, 8, 20))).collect();
    let mut seeds: Vec<Vec<u8>> = [
        Buckets::new(),
        one(Entries::new()),
        one(records(3, 17, 10)),
        one(records(8, 17, 60)),
        one(records(60, 17, 40)),
        // Few pages, so that one is soon taken for another.
        one(records(4, 17, 600)),
        one(records(5, 450, 300)),
        one(records(40, 17, 600)),
        one(records(24, 300, 40)),
        one(records(6, 17, 2_500)),
        etcds,
        many,
    ]
    .iter()
    .map(written)
    .collect();
    let extended = extend(seeds[4].clone(), &BoltFile::open(&seeds[4]).unwrap(), &Change { cut: 30, add: 9 }).unwrap();
    seeds.push(extended);
    seeds
}

fn written(buckets: &Buckets) -> Vec<u8> {
    let mut writer = BulkWriter::create(Vec::new(), PAGE as u32).unwrap();
    for (name, entries) in buckets {
        writer.bucket(name, entries.iter().map(|(key, value)| Ok((key, value)))).unwrap();
    }
    with_metas(Vec::new(), writer.finish().unwrap())
}

fn with_metas(mut bytes: Vec<u8>, written: Written<Vec<u8>>) -> Vec<u8> {
    bytes.extend_from_slice(&written.out);
    for (offset, meta) in written.metas {
        bytes[offset as usize..][..meta.len()].copy_from_slice(&meta);
    }
    bytes
}

/// Gives both metas the checksum that belongs to them.
pub(crate) fn mend(mut input: Vec<u8>) -> Vec<u8> {
    let page_size = input.get(24..28).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_le_bytes(*bytes));
    let known = page_size.filter(|size| PAGE_SIZES.clone().any(|shift| 1 << shift == *size));
    for meta in [0, known.unwrap_or(PAGE as u32) as usize] {
        let Some(body) = input.get_mut(meta + 16..meta + 80) else { continue };
        let hash = body[..56]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        body[56..].copy_from_slice(&hash.to_le_bytes());
    }
    input
}

// --- the target ---

/// What passes the strict check reads the same in every way, and what is made of it passes too.
pub(crate) fn target(input: &[u8]) -> String {
    let file = match BoltFile::open(input) {
        Ok(file) => file,
        Err(error) => return error.to_string(),
    };
    let mut seen = Buckets::new();
    let checked = check_visiting(&file, &mut |bucket, entry| {
        seen.entry(bucket.to_vec()).or_default().push((entry.key.to_vec(), entry.value.to_vec()));
        Ok(())
    });
    let walked = walk(&file);
    let change = Change::of(input);
    let changed = extend(input.to_vec(), &file, &change);
    match checked {
        Ok(facts) => {
            for bucket in facts.buckets {
                let entries = seen.entry(bucket.name).or_default();
                assert_eq!(entries.len() as u64, bucket.entries);
            }
            assert_eq!(walked.expect("what was checked can be walked"), seen);
            change.apply(&mut seen);
            let bytes = changed.expect("what was checked can be extended");
            let after = BoltFile::open(&bytes).expect("what was extended opens");
            check(&after).expect("what was extended is sound");
            assert_eq!(walk(&after).expect("what was extended can be walked"), seen);
            format!("{} buckets, {} pages free", seen.len().min(8), facts.free_pages.min(3))
        }
        Err(error) => {
            let said = |result: std::result::Result<(), String>| result.err().unwrap_or_default();
            let walked = said(walked.map(drop).map_err(|error| error.to_string()));
            let changed = said(changed.map(drop).map_err(|error| error.to_string()));
            format!("{error} / {walked} / {changed}")
        }
    }
}

/// Everything, through cursors in both directions, which must agree; a third look by key finds the same.
fn walk(file: &BoltFile<'_>) -> Result<Buckets> {
    let mut all = Buckets::new();
    for (name, bucket) in file.buckets()? {
        let entries = walk_bucket(file, &bucket)?;
        all.insert(name.to_vec(), entries);
    }
    Ok(all)
}

fn walk_bucket(file: &BoltFile<'_>, bucket: &Bucket<'_>) -> Result<Entries> {
    let mut cursor = file.cursor(bucket);
    let mut forwards = Entries::new();
    let mut entry = cursor.first()?;
    while let Some(found) = entry {
        forwards.push((found.key.to_vec(), found.value.to_vec()));
        entry = cursor.next()?;
    }
    let mut backwards = forwards.iter().rev();
    let mut entry = cursor.last()?;
    while let Some(found) = entry {
        let (key, value) = backwards.next().expect("as many backwards as forwards");
        assert_eq!((found.key, found.value), (key.as_slice(), value.as_slice()));
        entry = cursor.prev()?;
    }
    assert_eq!(backwards.next(), None, "as many backwards as forwards");
    for (key, _) in forwards.iter().step_by(7) {
        // A branch key that is not its child's first may lead elsewhere; the strict check refuses that.
        let _ = cursor.seek(key)?;
    }
    Ok(forwards)
}

/// The change of one bucket and a new one: what is from entry `cut` on goes, `add` entries come.
struct Change {
    cut: usize,
    add: u8,
}

const CHANGED: &[u8] = b"key";
const NEW: &[u8] = b"zz-new";

impl Change {
    fn of(input: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        input.hash(&mut hasher);
        let hash = hasher.finish();
        Self { cut: (hash % 67) as usize, add: (hash >> 32) as u8 % 20 }
    }

    /// What comes behind `last`.
    fn added(&self, last: &[u8]) -> Entries {
        (0..self.add).map(|n| ([last, &[0, n]].concat(), vec![n; usize::from(n) * 40])).collect()
    }

    fn apply(&self, buckets: &mut Buckets) {
        if let Some(entries) = buckets.get_mut(CHANGED) {
            entries.truncate(self.cut);
            let last = entries.last().map(|entry| entry.0.clone()).unwrap_or_default();
            entries.extend(self.added(&last));
        } else if self.add > 0 {
            buckets.insert(CHANGED.to_vec(), self.added(b""));
        }
        buckets.insert(NEW.to_vec(), self.added(b"new"));
    }
}

fn extend(mut bytes: Vec<u8>, file: &BoltFile<'_>, change: &Change) -> Result<Vec<u8>> {
    let mut extension = Extension::begin(*file, Vec::new())?;
    let mut last = Vec::new();
    if let Some(bucket) = file.bucket(CHANGED)? {
        let mut cursor = file.cursor(&bucket);
        let mut entry = cursor.first()?;
        for _ in 0..change.cut {
            let Some(found) = entry else { break };
            last = found.key.to_vec();
            entry = cursor.next()?;
        }
        if let Some(first_gone) = entry {
            extension.cut(CHANGED, first_gone.key)?;
        }
    }
    let pairs = |entries: Entries| entries.into_iter().map(Ok);
    extension.append(CHANGED, pairs(change.added(&last)))?;
    extension.replace(NEW, pairs(change.added(b"new")))?;
    bytes.truncate(usize::try_from(file.used_bytes()).expect("it is in memory"));
    Ok(with_metas(bytes, extension.finish()?))
}
