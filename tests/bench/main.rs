//! `make bench`: backup and restore beside what they are to be compared with, in one run, as ratios.
//!
//! ```text
//! etcdbr-bench [--size BYTES] [--rounds N] [--only backup|restore|deltas|hour|list|idle] --cache DIR
//! ```
//! Machines are shared and noisy: each figure is the median of pairs whose two runs follow each other. Tables go to
//! standard output, what is going on to standard error.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its purpose")]

mod backups;
mod bench;
mod dataset;
mod deltas;
mod drain;
mod history;
mod hour;
mod idle;
mod leaves;
mod listing;
mod machine;
mod objects;
mod puts;
mod report;
mod restores;

use std::path::PathBuf;

use bench::Bench;
use dataset::{Dataset, Wear};
use etcdbr_tests::etcd::EtcdVersion;

const DEFAULT_BYTES: u64 = 1_000_000_000;
const DEFAULT_ROUNDS: usize = 5;

/// What was asked for.
#[derive(Debug)]
struct Options {
    size: u64,
    rounds: usize,
    only: Option<String>,
    cache: PathBuf,
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [command, endpoint] = args.as_slice()
        && command == "drain"
    {
        println!("{}", drain::drain(endpoint, None).await);
        return;
    }
    let options = parse(&args);
    std::fs::create_dir_all(&options.cache).expect("the cache can be made");
    let wants = |part: &str| options.only.as_ref().is_none_or(|only| only == part);

    let bench = Bench::new(&options.cache, options.rounds);
    println!("{}", machine::describe(&options.cache));
    if wants("list") {
        println!("{}", report::table("List, on MinIO", &listing::measure(&bench).await));
    }
    if wants("idle") {
        println!("{}", report::table("Idle, on MinIO", &idle::measure().await));
    }
    if !["hour", "deltas", "backup", "restore"].into_iter().any(wants) {
        return;
    }
    let fresh = Dataset::prepare(&options.cache, options.size, Wear::Fresh).await;
    if wants("hour") {
        println!("{}", report::table("An hour of deltas, on MinIO", &hour::measure(&bench, &fresh).await));
    }
    if !["deltas", "backup", "restore"].into_iter().any(wants) {
        return;
    }
    let churned = Dataset::prepare(&options.cache, options.size, Wear::Churned).await;
    println!("fresh {} MB, churned {} MB; medians of {}\n", mb(&fresh), mb(&churned), options.rounds);

    if wants("deltas") {
        for dataset in [&fresh, &churned] {
            let (capture, restore) = deltas::measure(&bench, dataset, &bench.directory("deltas")).await;
            println!("{}", report::table(&format!("Capture, {}", dataset.wear.name()), &capture));
            println!("{}", report::table(&format!("Restore with deltas, {}", dataset.wear.name()), &restore));
        }
    }
    if !wants("backup") && !wants("restore") {
        return;
    }
    let archives = [bench.directory("fresh"), bench.directory("churned")];
    let mut lines = Vec::new();
    for version in [EtcdVersion::V3_7, EtcdVersion::V3_6, EtcdVersion::V3_5_1] {
        if wants("backup") || version == EtcdVersion::V3_5_1 {
            lines.extend(backups::measure(&bench, &fresh, version, &archives[0]).await);
        }
    }
    lines.extend(backups::measure(&bench, &churned, EtcdVersion::V3_5_1, &archives[1]).await);
    println!("{}", report::table("Backup", &lines));
    if wants("restore") {
        let of_fresh = restores::measure(&bench, &fresh, &archives[0]);
        let of_churned = restores::measure(&bench, &churned, &archives[1]);
        let wear = restores::wear(&of_fresh, &of_churned);
        let lines = [of_fresh.lines, of_churned.lines, vec![wear]].concat();
        println!("{}", report::table("Restore", &lines));
    }
}

fn mb(dataset: &Dataset) -> u64 {
    dataset.bytes / 1_000_000
}

fn parse(args: &[String]) -> Options {
    let mut options = Options { size: DEFAULT_BYTES, rounds: DEFAULT_ROUNDS, only: None, cache: PathBuf::new() };
    for pair in args.chunks(2) {
        match [pair[0].as_str(), pair.get(1).map_or("", String::as_str)] {
            ["--size", bytes] => options.size = bytes.parse().expect("--size takes a number of bytes"),
            ["--rounds", rounds] => options.rounds = rounds.parse().expect("--rounds takes a number"),
            ["--only", part @ ("backup" | "restore" | "deltas" | "hour" | "list" | "idle")] => {
                options.only = Some(part.to_owned())
            }
            ["--cache", dir] if !dir.is_empty() => options.cache = dir.into(),
            _ => panic!("not understood: {pair:?}"),
        }
    }
    assert!(!options.cache.as_os_str().is_empty(), "--cache DIR is missing");
    options
}
