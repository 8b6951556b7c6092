//! The write-ahead log of a cluster that was just restored: who its members are, and nothing applied beyond that.
//!
//! Framing: an 8-byte little-endian length field (low 56 bits: record length; top byte: `0x80 | padding` where there
//! is padding), the record, zeroes up to a multiple of 8. Checksums are CRC-32C and roll on from record to record.
//! The bytes are those that `etcdutl snapshot restore` of 3.5 and 3.6 writes; every etcd from 3.4 to 3.7 reads them.

use etcdbr_proto::{etcdserverpb, raftpb, walpb};
use prost::Message;

use super::membership::{Member, Membership};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::{ClusterId, MemberId};

/// The file name of the first segment: sequence 0, first index 0.
pub(super) const FIRST_SEGMENT: &str = "0000000000000000-0000000000000000.wal";
/// Bytes that etcd allocates for a segment beforehand.
pub const SEGMENT_BYTES: u64 = 64_000_000;
/// The raft term of everything that a restore writes.
pub(super) const TERM: u64 = 1;

const LENGTH_BYTES: usize = 8;
const TYPE_METADATA: i64 = 1;
const TYPE_ENTRY: i64 = 2;
const TYPE_STATE: i64 = 3;
const TYPE_CRC: i64 = 4;
const TYPE_SNAPSHOT: i64 = 5;

/// The segment that makes our own member one of `membership`, as far as its records go.
pub(super) fn encode(membership: &Membership) -> Result<Vec<u8>> {
    let mut wal = Encoder::default();
    wal.frame(TYPE_CRC, None);
    let (node_id, cluster_id) = (membership.own().id.0, membership.cluster_id().0);
    wal.push(TYPE_METADATA, &etcdserverpb::Metadata { node_id, cluster_id });
    wal.push(TYPE_SNAPSHOT, &walpb::Snapshot { index: 0, term: 0, conf_state: None });
    for (index, member) in (1..).zip(membership.members()) {
        wal.push(TYPE_ENTRY, &entry(index, member)?);
    }
    let vote = membership.members().first().map_or(0, |member| member.id.0);
    let index = membership.count();
    wal.push(TYPE_STATE, &raftpb::HardState { term: TERM, vote, commit: index });
    wal.push(TYPE_SNAPSHOT, &walpb::Snapshot { index, term: TERM, conf_state: Some(conf_state(membership)) });
    Ok(wal.bytes)
}

/// All members as voters.
pub(super) fn conf_state(membership: &Membership) -> raftpb::ConfState {
    let voters = membership.members().iter().map(|member| member.id.0).collect();
    raftpb::ConfState { voters, ..raftpb::ConfState::default() }
}

fn entry(index: u64, member: &Member) -> Result<raftpb::Entry> {
    let change = raftpb::ConfChange {
        id: 0,
        r#type: raftpb::ConfChangeType::ConfChangeAddNode.into(),
        node_id: member.id.0,
        context: Some(member.json()?),
    };
    let r#type = raftpb::EntryType::EntryConfChange.into();
    Ok(raftpb::Entry { r#type, term: TERM, index, data: Some(change.encode_to_vec()) })
}

#[derive(Default)]
struct Encoder {
    bytes: Vec<u8>,
    crc: u32,
}

impl Encoder {
    fn push(&mut self, r#type: i64, data: &impl Message) {
        let data = data.encode_to_vec();
        self.crc = rolled_crc(self.crc, &data);
        self.frame(r#type, Some(data));
    }

    fn frame(&mut self, r#type: i64, data: Option<Vec<u8>>) {
        let record = walpb::Record { r#type, crc: self.crc, data }.encode_to_vec();
        let padding = record.len().next_multiple_of(LENGTH_BYTES) - record.len();
        let mark = if padding == 0 { 0 } else { 0x80 | padding as u64 };
        self.bytes.extend_from_slice(&(record.len() as u64 | mark << 56).to_le_bytes());
        self.bytes.extend_from_slice(&record);
        self.bytes.resize(self.bytes.len() + padding, 0);
    }
}

/// CRC-32C of what was hashed into `crc` and `data` behind it.
fn rolled_crc(crc: u32, data: &[u8]) -> u32 {
    let before = u64::from(crc ^ u32::MAX);
    let mut digest = crc_fast::Digest::new_with_init_state(crc_fast::CrcAlgorithm::Crc32Iscsi, before);
    digest.update(data);
    digest.finalize() as u32
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq)]
pub struct WalContent {
    /// The member whose WAL it is.
    pub member: MemberId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Raft entries, state and snapshots, in order.
    pub entries: Vec<WalEntry>,
}

/// A record of a segment.
#[derive(Debug, Clone, PartialEq)]
pub enum WalEntry {
    /// A raft entry.
    Entry(raftpb::Entry),
    /// Term, vote and commit from here on.
    State(raftpb::HardState),
    /// The applied state up to here is elsewhere.
    Snapshot(walpb::Snapshot),
}

/// Reads a first segment up to where its records end, and checks every checksum.
///
/// # Errors
/// `Damaged`, with the offset, for a frame that is cut short, does not parse or has another checksum.
pub fn read_wal(bytes: &[u8]) -> Result<WalContent> {
    let (mut crc, mut at) = (0, 0);
    let mut metadata = None;
    let mut entries = Vec::new();
    while let Some((record, next)) = frame_at(bytes, at)? {
        let data = record.data.unwrap_or_default();
        let damaged = |what: &str| Error::new(ErrorKind::Damaged, format!("the record at byte {at} of the WAL {what}"));
        if record.r#type == TYPE_CRC {
            if crc != 0 && record.crc != crc {
                return Err(damaged("has a wrong checksum"));
            }
            crc = record.crc;
        } else {
            crc = rolled_crc(crc, &data);
            if record.crc != crc {
                return Err(damaged("has a wrong checksum"));
            }
        }
        let unparsable = |error: prost::DecodeError| damaged("does not parse").caused_by(error);
        match record.r#type {
            TYPE_CRC => {}
            TYPE_METADATA => metadata = Some(etcdserverpb::Metadata::decode(&data[..]).map_err(unparsable)?),
            TYPE_ENTRY => entries.push(WalEntry::Entry(raftpb::Entry::decode(&data[..]).map_err(unparsable)?)),
            TYPE_STATE => entries.push(WalEntry::State(raftpb::HardState::decode(&data[..]).map_err(unparsable)?)),
            TYPE_SNAPSHOT => entries.push(WalEntry::Snapshot(walpb::Snapshot::decode(&data[..]).map_err(unparsable)?)),
            _ => return Err(damaged("is of an unknown type")),
        }
        at = next;
    }
    let metadata = metadata.ok_or_else(|| Error::new(ErrorKind::Damaged, "the WAL has no metadata"))?;
    Ok(WalContent { member: MemberId(metadata.node_id), cluster: ClusterId(metadata.cluster_id), entries })
}

/// The record at byte `at` and where the next one is; `None` where the records end.
fn frame_at(bytes: &[u8], at: usize) -> Result<Option<(walpb::Record, usize)>> {
    let rest = &bytes[at..];
    let damaged = || Error::new(ErrorKind::Damaged, format!("the record at byte {at} of the WAL is cut short"));
    let Some(field) = rest.first_chunk().map(|field| u64::from_le_bytes(*field)) else {
        // Too few bytes for another length, unless they are one that was cut off.
        return if rest.iter().all(|byte| *byte == 0) { Ok(None) } else { Err(damaged()) };
    };
    if field == 0 {
        return Ok(None);
    }
    let len = (field & (u64::MAX >> 8)) as usize;
    let padding = if field >> 63 == 1 { (field >> 56 & 7) as usize } else { 0 };
    let record = rest[LENGTH_BYTES..].get(..len).ok_or_else(damaged)?;
    rest[LENGTH_BYTES..].get(..len + padding).ok_or_else(damaged)?;
    let record = walpb::Record::decode(record).map_err(|error| damaged().caused_by(error))?;
    Ok(Some((record, at + LENGTH_BYTES + len + padding)))
}

#[cfg(test)]
mod tests {
    use super::super::membership::MembershipRequest;
    use super::*;

    /// What `etcdutl snapshot restore` of 3.5 and 3.6 writes for member m1 at http://127.0.0.1:41791, token `tok`.
    const GOLDEN: &str = "\
        040000000000008408041000000000001f0000000000008108011092c0a4d8051a1508c79182e0feccdfa0b30110d0c6a6e7a08094f1\
        10000e00000000000082080510afb4ee85071a040800100000007000000000000000080210fbc3d5d30f1a6608011001180122\
        5e0800100018c79182e0feccdfa0b301224d7b226964223a31323931363734343139313038313438323433392c227065657255\
        524c73223a5b22687474703a2f2f3132372e302e302e313a3431373931225d2c226e616d65223a226d31227d19000000000000\
        8708031086dd90dd071a0f080110c79182e0feccdfa0b3011801000000000000001d00000000000083080510f5f8cbe0011a13\
        080110011a0d08c79182e0feccdfa0b3012800000000";

    fn membership(cluster: &str) -> Membership {
        let initial_cluster = Some(cluster.to_owned());
        let request = MembershipRequest { initial_cluster, token: "tok".to_owned(), ..MembershipRequest::default() };
        Membership::resolve(&request).unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_are_those_of_etcdutl() {
        let wal = encode(&membership("m1=http://127.0.0.1:41791")).unwrap();
        assert_eq!(wal.len(), 280);
        assert_eq!(hex(&wal), GOLDEN);
    }

    #[test]
    fn three_members_are_read_back_and_preallocated_zeroes_end_it() {
        let membership = membership("default=http://h:1,b=http://h:2,c=http://h:3");
        let mut wal = encode(&membership).unwrap();
        wal.resize(1 << 20, 0);
        let content = read_wal(&wal).unwrap();
        assert_eq!((content.member, content.cluster), (membership.own().id, membership.cluster_id()));
        assert_eq!(content.entries.len(), 6);
        let last = walpb::Snapshot { index: 3, term: 1, conf_state: Some(conf_state(&membership)) };
        assert_eq!(content.entries.last(), Some(&WalEntry::Snapshot(last)));
    }

    #[test]
    fn a_flipped_byte_is_found() {
        let wal = encode(&membership("m1=http://127.0.0.1:41791")).unwrap();
        for at in 0..wal.len() {
            let mut broken = wal.clone();
            broken[at] ^= 0x10;
            // Padding is not covered by anything, nor does it mean anything.
            if let Ok(content) = read_wal(&broken) {
                assert_eq!(content, read_wal(&wal).unwrap(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_wal_cut_short_is_found() {
        let wal = encode(&membership("m1=http://127.0.0.1:41791")).unwrap();
        let whole = read_wal(&wal).unwrap();
        for len in 0..wal.len() {
            let read = read_wal(&wal[..len]);
            assert_ne!(read.as_ref().ok(), Some(&whole), "{len} bytes");
            // Records end at multiples of eight: behind one of them it cannot be seen here that more is missing.
            assert!(len % 8 == 0 || read.is_err(), "{len} bytes");
        }
    }
}
