//! Compiles `proto/` without `protoc`: protox reads the schema, tonic and prost write the Rust.

use std::error::Error;

const FILES: [&str; 9] = [
    "etcd/mvcc.proto",
    "etcd/rpc.proto",
    "etcd/metadata.proto",
    "etcd/auth.proto",
    "etcd/lease.proto",
    "etcd/raft.proto",
    "etcd/wal.proto",
    "etcd/snap.proto",
    "etcdbr/object.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let server = std::env::var_os("CARGO_FEATURE_SERVER").is_some();
    tonic_prost_build::configure()
        .build_server(server)
        // Values and snapshot blobs stay slices of the buffer that they were received in.
        .bytes(".mvccpb")
        .bytes(".etcdserverpb.SnapshotResponse")
        .bytes(".etcdbr.v1.Record")
        .btree_map(".etcdbr.v1.ObjectFooter.labels")
        .compile_fds(protox::compile(FILES, ["proto"])?)?;
    Ok(())
}
