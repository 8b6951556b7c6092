//! What it costs to restore an hour of a delta a second: the same records as few deltas, as many, and as many with their rollups.
//!
//! The records were captured from a real etcd; the hour is that of the names (see `etcdbr_tests::hour`).

use std::path::Path;
use std::time::Duration;

use etcdbr_engine::store::open;
use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::etcdbr::Outcome;
use etcdbr_tests::hour::History;
use etcdbr_tests::minio::Minio;
use etcdbr_tests::scenario::Site;
use etcdbr_tests::sidecar::{Captured, Sidecar};

use crate::bench::{Bench, paired, seconds, show_seconds, timed};
use crate::dataset::{Dataset, SEED};
use crate::history;
use crate::objects::Objects;
use crate::report::{Line, Target};

const REVISIONS: usize = 36_000;
const HOUR: usize = 3_600;
const FEW: usize = 44;
const SECOND: Duration = Duration::from_secs(1);
const QUOTA_BYTES: u64 = 16 << 30;
const OVER_FEW: f64 = 1.5;
const LISTS: f64 = 6.0;
const GETS: f64 = 200.0;

/// One way to keep the hour, and what its restores cost.
struct Kept {
    what: String,
    site: Site,
    runs: Vec<Outcome>,
    lists: u64,
    gets: u64,
}

/// Captures on top of `dataset`, keeps it in three ways in one MinIO and restores each.
///
/// # Panics
/// Where a part of it fails.
pub(crate) async fn measure(bench: &Bench, dataset: &Dataset) -> Vec<Line> {
    let minio = Minio::start().await;
    let source = Site::minio(&minio).await;
    capture(bench, dataset, &source).await;
    let store = open(&minio.options(etcdbr_tests::scenario::BUCKET)).await.expect("a bucket of ours");
    let captured = Captured::in_store(store.clone(), source.path("key")).await;
    let history = History::read(&captured, store.as_ref()).await;

    let mut kept = Vec::new();
    for (bucket, deltas) in [("few", FEW), ("many", HOUR), ("rolled-up", HOUR)] {
        minio.create_bucket(bucket).await;
        let site = Site::s3(&minio.endpoint(), minio.access_key(), minio.secret_key(), bucket);
        std::fs::copy(source.path("key"), site.path("key")).expect("a key");
        let store = open(&minio.options(bucket)).await.expect("a bucket of ours");
        let archive = Captured::in_store(store.clone(), site.path("key")).await.archive().clone();
        history.put((&archive, store.as_ref()), deltas, SECOND * (HOUR / deltas) as u32).await;
        let mut what = format!("{deltas} deltas");
        if bucket == "rolled-up" {
            let rollups = history.roll_up(&archive, SECOND * HOUR as u32).await;
            what += &format!(" and {rollups} rollups");
        }
        kept.push(Kept { what, site, runs: Vec::new(), lists: 0, gets: 0 });
    }
    for _ in 0..bench.rounds {
        for kept in &mut kept {
            restore(&minio, kept, &bench.path("target")).await;
        }
    }
    let few = kept[0].runs.clone();
    kept.iter().flat_map(|kept| lines(kept, &few)).collect()
}

async fn capture(bench: &Bench, dataset: &Dataset, site: &Site) {
    let data_dir = bench.path("hour");
    dataset.unpack(EtcdVersion::V3_5_1, &data_dir);
    let etcd = Etcd::builder(EtcdVersion::V3_5_1).quota(QUOTA_BYTES).data_dir(&data_dir).start().await;
    let mut sidecar = Sidecar::start_every(site, &[etcd.endpoint()], "1s", &[]);
    sidecar.opened(1).await;
    let commits = history::write(&etcd.client().await, &Objects::new(SEED), dataset.keys(), REVISIONS).await;
    sidecar.durable(commits.last().expect("something was written").0).await;
    sidecar.stop();
    drop(etcd);
    std::fs::remove_dir_all(&data_dir).expect("the source can be removed");
}

async fn restore(minio: &Minio, kept: &mut Kept, target: &Path) {
    let before = minio.requests().await;
    kept.runs.push(timed(kept.site.command(&["restore", "--output=json"]).arg("--data-dir").arg(target)));
    let after = minio.requests().await;
    let made = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
    (kept.lists, kept.gets) = (made("ListObjectsV2"), made("GetObject"));
    std::fs::remove_dir_all(target).expect("the target can be removed");
}

fn lines(kept: &Kept, few: &[Outcome]) -> Vec<Line> {
    let rolled_up = kept.what.contains("rollups");
    let limit = |limit| if rolled_up { Target::AtMost(limit) } else { Target::None };
    vec![
        Line::ratio(
            format!("restore of an hour kept as {}", kept.what),
            show_seconds(&kept.runs),
            format!("{FEW} deltas {}", show_seconds(few)),
            paired(&kept.runs, few, |ours, few| seconds(ours) / seconds(few)),
            limit(OVER_FEW),
        ),
        Line::figure("its LISTs", kept.lists as f64, "", limit(LISTS)),
        Line::figure("its GETs", kept.gets as f64, "", limit(GETS)),
    ]
}
