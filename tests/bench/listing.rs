//! What it takes to list ten thousand backups.

use bytes::Bytes;
use etcdbr_engine::format::ArchivePrefix;
use etcdbr_engine::store::open;
use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::load::Noise;
use etcdbr_tests::minio::Minio;
use etcdbr_tests::plant::names;
use etcdbr_tests::scenario::{BUCKET, Site};
use futures::{StreamExt, stream};

use crate::bench::{Bench, seconds, timed};
use crate::report::{Line, Target, median};

const BACKUPS: i64 = 10_000;
/// As of a delta of a second.
const OBJECT_BYTES: usize = 2_000;
const PUTS_AT_ONCE: usize = 32;
const LIMIT_S: f64 = 1.0;

/// Lists a bucket of a real MinIO, in which nothing but the newest backup can be opened: nothing else is.
///
/// # Panics
/// Where a part of it fails.
pub(crate) async fn measure(bench: &Bench) -> Vec<Line> {
    let minio = Minio::start().await;
    let site = Site::minio(&minio).await;
    let store = open(&minio.options(BUCKET)).await.expect("a bucket of ours");
    let (prefix, body) =
        (ArchivePrefix::new("prod").expect("a prefix"), Bytes::from(Noise::new(5).bytes(OBJECT_BYTES)));
    let puts = stream::iter(names(BACKUPS - 1)).map(|name| {
        let (key, body, store) = (prefix.key(&name), body.clone(), store.clone());
        async move { store.put(&key, body).await }
    });
    puts.buffer_unordered(PUTS_AT_ONCE).for_each(|put| async { put.expect("an object is stored") }).await;
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    etcd.client().await.put("/list", "x", None).await.expect("a put");
    site.backup(&etcd);
    drop(etcd);

    let before = minio.requests().await;
    let (mut text, mut json) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        text.push(timed(site.command(&["list"])));
        json.push(timed(site.command(&["list", "--output=json"])));
    }
    let after = minio.requests().await;
    let lists = json.len() + text.len();
    let made = |name: &str| (after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0)) as f64 / lists as f64;
    vec![
        Line::figure(
            format!("list of {BACKUPS} backups"),
            median(text.iter().map(seconds)),
            "s",
            Target::AtMost(LIMIT_S),
        ),
        Line::figure("the same as JSON", median(json.iter().map(seconds)), "s", Target::AtMost(LIMIT_S)),
        Line::figure("its LISTs", made("ListObjectsV2"), "", Target::None),
        Line::figure(
            "its GETs (one header says whether they are encrypted)",
            made("GetObject"),
            "",
            Target::AtMost(1.0),
        ),
        Line::figure(
            "its peak memory",
            median(json.iter().map(|run| run.peak_rss_bytes as f64 / 1e6)),
            "MB",
            Target::None,
        ),
    ]
}
