//! The yardstick of a backup: a client that takes etcd's snapshot stream and does nothing with it.
//!
//! It runs as a process of its own, as the backup does, over HTTP/2 windows that never fill.

use std::io::Write;
use std::path::Path;

use etcdbr_proto::etcdserverpb::SnapshotRequest;
use etcdbr_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::Endpoint;

const WINDOW_BYTES: u32 = 16 << 20;
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Reads the stream of `endpoint` to its end, into `file` where one is named; answers the bytes.
///
/// # Panics
/// Where etcd refuses or the file cannot be written.
pub(crate) async fn drain(endpoint: &str, file: Option<&Path>) -> u64 {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).expect("a URL");
    let endpoint = endpoint.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    let channel = endpoint.tcp_nodelay(true).connect().await.expect("etcd can be reached");
    let mut client = MaintenanceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut stream = client.snapshot(SnapshotRequest {}).await.expect("a snapshot").into_inner();
    let mut file = file.map(|path| std::fs::File::create(path).expect("the file can be created"));
    let mut bytes = 0;
    while let Some(message) = stream.message().await.expect("the stream goes on") {
        bytes += message.blob.len() as u64;
        if let Some(file) = &mut file {
            file.write_all(&message.blob).expect("the file can be written");
        }
    }
    if let Some(file) = file {
        file.sync_all().expect("the file can be synced");
    }
    bytes
}
