//! The room as a whole: trees of every shape written, extended, cut, checked and read; and files that are damaged.

mod cut;
mod damage;
mod extend;
mod shapes;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::layout::{FLAG_LEAF, bucket_header, page_header};
use super::page::Holds;
use super::pages::PageWriter;
use super::tree::Tree;
use super::*;
use crate::error::{ErrorKind, Result};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;
type Buckets = BTreeMap<Vec<u8>, Entries>;

const PAGE: usize = 1024;

/// A file of the pages given, from page 2 on; each is padded.
fn file_of(page_size: usize, pages: &[&[u8]], root: PageId) -> Vec<u8> {
    let mut bytes = vec![0; 2 * page_size];
    for page in pages {
        bytes.extend_from_slice(page);
        bytes.resize(bytes.len().next_multiple_of(page_size), 0);
    }
    let high_water = PageId((bytes.len() / page_size) as u64);
    for (page, txid) in [(0, 4), (1, 3)] {
        let meta = Meta { page_size: page_size as u32, root, sequence: 0, high_water, txid };
        put(&mut bytes, page * page_size, &meta.encode(PageId(page as u64)));
    }
    bytes
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

/// The file of `bytes` after `change`; what was there is not touched but for the metas.
fn extend<'a>(bytes: &'a [u8], change: impl FnOnce(&mut Extension<'a, Vec<u8>>) -> Result<()>) -> Vec<u8> {
    let file = BoltFile::open(bytes).unwrap();
    let mut extension = Extension::begin(file, Vec::new()).unwrap();
    change(&mut extension).unwrap();
    let written = extension.finish().unwrap();
    assert_eq!(written.out.len() as u64, written.written_bytes);
    let mut result = bytes[..file.used_bytes() as usize].to_vec();
    result.extend_from_slice(&written.out);
    assert_eq!(result.len() as u64, written.high_water.0 * file.page_size() as u64);
    for (offset, meta) in written.metas {
        put(&mut result, offset as usize, &meta);
    }
    result
}

/// A file of these buckets, written from nothing.
fn written(page_size: usize, buckets: &Buckets) -> Vec<u8> {
    let mut writer = BulkWriter::create(Vec::new(), page_size as u32).unwrap();
    for (name, entries) in buckets {
        writer.bucket(name, ok(entries)).unwrap();
    }
    let written = writer.finish().unwrap();
    assert_eq!(written.out.len() as u64, written.written_bytes);
    assert_eq!(written.written_bytes, written.high_water.0 * page_size as u64);
    let mut bytes = written.out;
    for (offset, meta) in written.metas {
        put(&mut bytes, offset as usize, &meta);
    }
    bytes
}

fn ok(entries: &Entries) -> impl Iterator<Item = Result<(&Vec<u8>, &Vec<u8>)>> {
    entries.iter().map(Ok)
}

/// Everything in a file, through cursors; forwards and backwards must agree.
fn read(bytes: &[u8]) -> Buckets {
    let file = BoltFile::open(bytes).unwrap();
    let mut all = Buckets::new();
    for (name, bucket) in file.buckets().unwrap() {
        let mut cursor = file.cursor(&bucket);
        let (mut forwards, mut backwards) = (Vec::new(), Vec::new());
        let mut entry = cursor.first().unwrap();
        while let Some(found) = entry {
            forwards.push((found.key.to_vec(), found.value.to_vec()));
            entry = cursor.next().unwrap();
        }
        entry = cursor.last().unwrap();
        while let Some(found) = entry {
            backwards.push((found.key.to_vec(), found.value.to_vec()));
            entry = cursor.prev().unwrap();
        }
        backwards.reverse();
        assert_eq!(forwards, backwards);
        all.insert(name.to_vec(), forwards.into_iter().collect());
    }
    all
}

fn facts(bytes: &[u8]) -> TreeFacts {
    check(&BoltFile::open(bytes).unwrap()).unwrap()
}

/// `count` entries with keys of 17 bytes, as etcd's `key` bucket has them.
fn records(from: u64, count: u64, value_len: usize) -> Entries {
    (from..from + count).map(|n| (record_key(n), vec![n as u8; value_len])).collect()
}

fn record_key(n: u64) -> Vec<u8> {
    format!("{n:017}").into_bytes()
}

fn one_bucket(entries: Entries) -> Buckets {
    [(b"key".to_vec(), entries)].into()
}

/// Trees of no level up to three, with keys and values that need pages of their own among them.
fn entries() -> impl Strategy<Value = Entries> {
    let key =
        prop_oneof![8 => prop::collection::vec(any::<u8>(), 1..20), 1 => prop::collection::vec(any::<u8>(), 300..900)];
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..60),
        1 => prop::collection::vec(any::<u8>(), 900..5000)
    ];
    prop_oneof![
        3 => prop::collection::btree_map(key.clone(), value.clone(), 0..10),
        2 => prop::collection::btree_map(key, value, 0..400)
    ]
}

/// What follows `old`: keys behind its last one, with values of these lengths.
fn following(old: &Entries, value_lens: Vec<usize>) -> Entries {
    let last = old.last_key_value().map(|last| last.0.clone()).unwrap_or_default();
    let key = |n: usize| [&last[..], &(n as u32).to_be_bytes()].concat();
    value_lens.into_iter().enumerate().map(|(n, len)| (key(n), vec![7; len])).collect()
}
