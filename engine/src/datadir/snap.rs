//! The `.snap` file: raft's snapshot of the members, which etcd up to 3.6 reads at start and 3.7 only writes.
//!
//! A wrapper with a CRC-32C around `raftpb.Snapshot`, whose data is the v2 store as JSON: the members' URLs. There is
//! no `/0/version` in it: that means "undecided", and lets any version start.

use std::collections::BTreeMap;

use etcdbr_proto::{raftpb, snappb};
use prost::Message;
use serde::Serialize;

use super::membership::{Membership, go_json};
use super::wal::{TERM, conf_state};
use crate::error::{Error, ErrorKind, Result};

/// The file's name in `member/snap`: term and index.
pub(super) fn file_name(membership: &Membership) -> String {
    format!("{TERM:016x}-{:016x}.snap", membership.count())
}

/// The file's bytes.
pub(super) fn encode(membership: &Membership) -> Result<Vec<u8>> {
    let metadata =
        raftpb::SnapshotMetadata { conf_state: conf_state(membership), index: membership.count(), term: TERM };
    let data = raftpb::Snapshot { data: Some(v2_store(membership)?), metadata }.encode_to_vec();
    Ok(snappb::Snapshot { crc: crc_fast::crc32_iscsi(&data), data: Some(data) }.encode_to_vec())
}

/// A node of the v2 store: a directory where it has children.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    path: String,
    created_index: u64,
    modified_index: u64,
    expire_time: &'static str,
    value: String,
    children: Option<BTreeMap<String, Node>>,
}

impl Node {
    fn new(path: impl Into<String>, index: u64) -> Self {
        let (path, expire_time) = (path.into(), "0001-01-01T00:00:00Z");
        Self { path, created_index: index, modified_index: index, expire_time, value: String::new(), children: None }
    }

    fn with(mut self, children: impl IntoIterator<Item = (String, Node)>) -> Self {
        self.children = Some(children.into_iter().collect());
        self
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct V2Store {
    root: Node,
    current_index: u64,
    current_version: u64,
}

/// The v2 store of a cluster to which the members were added one by one, from index 1.
fn v2_store(membership: &Membership) -> Result<Vec<u8>> {
    let mut members = Vec::new();
    for (index, member) in (1..).zip(membership.members()) {
        let path = format!("/0/members/{}", member.id);
        let mut urls = Node::new(format!("{path}/raftAttributes"), index);
        urls.value = String::from_utf8_lossy(&member.raft_attributes_json()?).into_owned();
        members.push((member.id.to_string(), Node::new(path, index).with([("raftAttributes".to_owned(), urls)])));
    }
    let members = Node::new("/0/members", 1).with(members);
    let cluster = Node::new("/0", 0).with([("members".to_owned(), members)]);
    let root = Node::new("/", 0).with([("0".to_owned(), cluster), ("1".to_owned(), Node::new("/1", 0).with([]))]);
    go_json(&V2Store { root, current_index: membership.count(), current_version: 2 })
}

/// What a `.snap` file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapFile {
    /// Index, term and members.
    pub metadata: raftpb::SnapshotMetadata,
    /// The v2 store as JSON.
    pub v2_store: Vec<u8>,
}

/// Reads a `.snap` file and checks its checksum.
///
/// # Errors
/// `Damaged` where it does not parse or has another checksum.
pub fn read_snap(bytes: &[u8]) -> Result<SnapFile> {
    let unparsable =
        |error: prost::DecodeError| Error::new(ErrorKind::Damaged, "the .snap file does not parse").caused_by(error);
    let wrapper = snappb::Snapshot::decode(bytes).map_err(unparsable)?;
    let data = wrapper.data.unwrap_or_default();
    if crc_fast::crc32_iscsi(&data) != wrapper.crc {
        return Err(Error::new(ErrorKind::Damaged, "the .snap file has a wrong checksum"));
    }
    let snapshot = raftpb::Snapshot::decode(&data[..]).map_err(unparsable)?;
    Ok(SnapFile { metadata: snapshot.metadata, v2_store: snapshot.data.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::super::membership::MembershipRequest;
    use super::*;

    fn membership() -> Membership {
        let initial_cluster = Some("m1=http://127.0.0.1:41791".to_owned());
        let request = MembershipRequest { initial_cluster, token: "tok".to_owned(), ..MembershipRequest::default() };
        Membership::resolve(&request).unwrap()
    }

    #[test]
    fn the_end_is_that_of_etcdutls_file() {
        let snap = encode(&membership()).unwrap();
        let end = [
            &[0x12, 0x13, 0x0a, 0x0d, 0x08][..],
            &[0xc7, 0x91, 0x82, 0xe0, 0xfe, 0xcc, 0xdf, 0xa0, 0xb3, 0x01], // the member's id, a varint
            &[0x28, 0, 0x10, 1, 0x18, 1],
        ];
        assert!(snap.ends_with(&end.concat()));
        assert_eq!(file_name(&membership()), "0000000000000001-0000000000000001.snap");
    }

    #[test]
    fn the_v2_store_holds_the_members_and_nothing_else() {
        let snap = read_snap(&encode(&membership()).unwrap()).unwrap();
        let expected = concat!(
            r#"{"Root":{"Path":"/","CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","#,
            r#""Children":{"0":{"Path":"/0","CreatedIndex":0,"ModifiedIndex":0,"#,
            r#""ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{"members":{"Path":"/0/members","#,
            r#""CreatedIndex":1,"ModifiedIndex":1,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","#,
            r#""Children":{"b3417e67ec0088c7":{"Path":"/0/members/b3417e67ec0088c7","CreatedIndex":1,"#,
            r#""ModifiedIndex":1,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{"raftAttributes":"#,
            r#"{"Path":"/0/members/b3417e67ec0088c7/raftAttributes","CreatedIndex":1,"ModifiedIndex":1,"#,
            r#""ExpireTime":"0001-01-01T00:00:00Z","Value":"{\"peerURLs\":[\"http://127.0.0.1:41791\"]}","#,
            r#""Children":null}}}}}}},"1":{"Path":"/1","CreatedIndex":0,"ModifiedIndex":0,"#,
            r#""ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{}}}},"CurrentIndex":1,"CurrentVersion":2}"#,
        );
        assert_eq!(String::from_utf8(snap.v2_store).unwrap(), expected);
    }

    #[test]
    fn a_flipped_byte_is_found() {
        let snap = encode(&membership()).unwrap();
        for at in 0..snap.len() {
            let mut broken = snap.clone();
            broken[at] ^= 1;
            assert_eq!(read_snap(&broken).unwrap_err().kind(), ErrorKind::Damaged, "byte {at}");
        }
    }
}
