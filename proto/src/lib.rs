//! Messages and nothing else: what etcdbr stores ([`etcdbr`]), and what etcd says on the wire and keeps on disk.
//!
//! Field numbers of etcd's messages are etcd's own. The schema is in `proto/proto`; `docs/format.md` says what
//! surrounds the stored messages.

#![allow(missing_docs, clippy::all, unreachable_pub)]

/// The stored schema of etcdbr.
pub mod etcdbr {
    pub mod v1 {
        tonic::include_proto!("etcdbr.v1");
    }
}

/// etcd's client API and raft-log messages of its server.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// Keys, values and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Records of the `authUsers` and `authRoles` buckets.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// Records of the `lease` bucket.
pub mod leasepb {
    tonic::include_proto!("leasepb");
}

/// Raft's own messages, as a WAL holds them.
pub mod raftpb {
    tonic::include_proto!("raftpb");
}

/// Frames of a WAL.
pub mod walpb {
    tonic::include_proto!("walpb");
}

/// The wrapper of a `.snap` file.
pub mod snappb {
    tonic::include_proto!("snappb");
}
