//! etcd's own small files: WAL segments and `.snap`.

use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};
use etcdbr_engine::datadir::{read_snap, read_wal};
use etcdbr_proto::{etcdserverpb, raftpb, snappb, walpb};
use prost::Message;

/// Types of WAL records.
const METADATA: i64 = 1;
const ENTRY: i64 = 2;
const STATE: i64 = 3;
const CRC: i64 = 4;
const SNAPSHOT: i64 = 5;

fn conf_state() -> raftpb::ConfState {
    raftpb::ConfState { voters: vec![7, u64::MAX], ..Default::default() }
}

// --- WAL ---

fn conf_change(index: u64) -> raftpb::Entry {
    let r#type = raftpb::ConfChangeType::ConfChangeAddNode.into();
    let change = raftpb::ConfChange { id: 0, r#type, node_id: 7, context: Some(b"{\"id\":7}".to_vec()) };
    let r#type = raftpb::EntryType::EntryConfChange.into();
    raftpb::Entry { r#type, term: 1, index, data: Some(change.encode_to_vec()) }
}

pub(crate) fn wals() -> Vec<Vec<u8>> {
    let metadata = (METADATA, etcdserverpb::Metadata { node_id: 7, cluster_id: 9 }.encode_to_vec());
    let entry = |index| (ENTRY, conf_change(index).encode_to_vec());
    let state = (STATE, raftpb::HardState { term: 1, vote: 7, commit: 2 }.encode_to_vec());
    let first = (SNAPSHOT, walpb::Snapshot { index: 0, term: 0, conf_state: None }.encode_to_vec());
    let last = (SNAPSHOT, walpb::Snapshot { index: 2, term: 1, conf_state: Some(conf_state()) }.encode_to_vec());
    let whole = [(CRC, Vec::new()), metadata.clone(), first, entry(1), entry(2), state, last];
    let mut preallocated = wal_of(&whole);
    preallocated.resize(8_192, 0);
    vec![wal_of(&whole), preallocated, wal_of(&[(CRC, Vec::new()), metadata])]
}

fn wal_of(records: &[(i64, Vec<u8>)]) -> Vec<u8> {
    let mut wal = Vec::new();
    let mut crc = 0;
    for (r#type, data) in records {
        push_record(&mut wal, &mut crc, *r#type, Some(data.clone()));
    }
    wal
}

fn push_record(wal: &mut Vec<u8>, crc: &mut u32, r#type: i64, data: Option<Vec<u8>>) {
    if r#type != CRC {
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(*crc ^ u32::MAX));
        digest.update(data.as_deref().unwrap_or_default());
        *crc = digest.finalize() as u32;
    }
    let record = walpb::Record { r#type, crc: *crc, data }.encode_to_vec();
    let padding = record.len().next_multiple_of(8) - record.len();
    let mark = if padding == 0 { 0 } else { 0x80 | padding as u64 };
    wal.extend_from_slice(&(record.len() as u64 | mark << 56).to_le_bytes());
    wal.extend_from_slice(&record);
    wal.resize(wal.len() + padding, 0);
}

/// What is a WAL is the same one with zeroes behind it, as etcd allocates them.
pub(crate) fn wal(input: &[u8]) -> String {
    match read_wal(input) {
        Ok(content) => {
            let longer = [input, &[0; 64]].concat();
            assert_eq!(read_wal(&longer).expect("as good as without them"), content);
            format!("{} entries", content.entries.len().min(9))
        }
        Err(error) => error.to_string(),
    }
}

/// Gives every record of a WAL the checksum that belongs to it, up to where its framing ends.
pub(crate) fn mend_wal(input: Vec<u8>) -> Vec<u8> {
    let (mut mended, mut crc, mut at) = (Vec::new(), 0, 0);
    while let Some(field) = input.get(at..).and_then(<[u8]>::first_chunk).map(|field| u64::from_le_bytes(*field)) {
        let len = (field & (u64::MAX >> 8)) as usize;
        let padding = if field >> 63 == 1 { (field >> 56 & 7) as usize } else { 0 };
        let Some(record) = input[at + 8..].get(..len).filter(|record| !record.is_empty()) else { break };
        let Ok(record) = walpb::Record::decode(record) else { break };
        push_record(&mut mended, &mut crc, record.r#type, record.data);
        at = (at + 8 + len + padding).min(input.len());
    }
    mended.extend_from_slice(&input[at..]);
    mended
}

// --- .snap ---

pub(crate) fn snaps() -> Vec<Vec<u8>> {
    let metadata = raftpb::SnapshotMetadata { conf_state: conf_state(), index: 2, term: 1 };
    let data = raftpb::Snapshot { data: Some(b"{\"Root\":{\"Path\":\"/\"}}".to_vec()), metadata }.encode_to_vec();
    let empty = raftpb::Snapshot::default().encode_to_vec();
    [data, empty].map(snap_of).into()
}

fn snap_of(data: Vec<u8>) -> Vec<u8> {
    snappb::Snapshot { crc: crc32_iscsi(&data), data: Some(data) }.encode_to_vec()
}

/// What is a `.snap` file says the same when it is written again.
pub(crate) fn snap(input: &[u8]) -> String {
    match read_snap(input) {
        Ok(file) => {
            let written = raftpb::Snapshot { data: Some(file.v2_store.clone()), metadata: file.metadata.clone() };
            assert_eq!(read_snap(&snap_of(written.encode_to_vec())).unwrap(), file);
            format!("{} voters", file.metadata.conf_state.voters.len().min(3))
        }
        Err(error) => format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string)),
    }
}

/// Gives a `.snap` file the checksum that belongs to it.
pub(crate) fn mend_snap(input: Vec<u8>) -> Vec<u8> {
    match snappb::Snapshot::decode(&input[..]) {
        Ok(wrapper) => snap_of(wrapper.data.unwrap_or_default()),
        Err(_) => input,
    }
}
