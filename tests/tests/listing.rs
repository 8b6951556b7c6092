//! What a listing costs: pages of names, whatever the archive holds.

use bytes::Bytes;
use etcdbr_engine::format::ArchivePrefix;
use etcdbr_tests::plant::names;
use etcdbr_tests::s3::{Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site};

/// Ten thousand backups are ten pages of names, and one header, which says whether they are encrypted.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_backups_are_ten_pages() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let prefix = ArchivePrefix::new("prod").unwrap();
    for name in names(10_000) {
        server.insert(BUCKET, &prefix.key(&name), Bytes::from_static(b"nobody reads this"));
    }
    let told = site.unkeyed(&["list", "--output=json"]).succeed().json();
    assert_eq!(told["totals"]["fulls"].as_u64().zip(told["totals"]["deltas"].as_u64()), Some((167, 9_833)), "{told}");
    let restores = told["lineages"][0]["restores"].as_array().unwrap();
    assert_eq!(restores.len(), 1, "{restores:?}");
    let count = |operation| server.count(operation);
    assert_eq!((count(Operation::List), count(Operation::Head)), (10, 0));
    assert!(count(Operation::Get) <= 1, "{} reads", count(Operation::Get));
}
