//! `etcdbr snapshot`: back up a running etcd into the archive.

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::archive::WriteLimits;
use etcdbr_engine::backup::{FullRequest, FullSummary, take_full};
use etcdbr_engine::pipeline::CompressionLevel;
use etcdbr_engine::run::RunContext;
use etcdbr_engine::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::args::{EtcdArgs, KeyArgs, OutputFormat, StoreArgs, parse_bytes, parse_label, parse_level};
use crate::output::{self, human_bytes};

/// S3 takes no smaller parts.
const MIN_PART_BYTES: u64 = 5 << 20;
/// Larger parts would break the memory bound.
const MAX_PART_BYTES: u64 = 512 << 20;

/// Flags of `etcdbr snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// Take one full backup and exit
    #[arg(long, env = "ETCDBR_ONCE", value_parser = BoolishValueParser::new())]
    once: bool,
    /// Text to store with the backup and show in `list --details`; may be given several times
    #[arg(long = "label", env = "ETCDBR_LABEL", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = parse_label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// Parts of an upload that are on their way at once
    #[arg(long, env = "ETCDBR_MAX_PARALLEL_CHUNK_UPLOADS", value_name = "N", default_value_t = 5, help_heading = "Archive",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    max_parallel_chunk_uploads: u16,
    /// Size of a part, at least 5MiB; memory is this times the parts on their way
    #[arg(long, env = "ETCDBR_MIN_CHUNK_SIZE", value_name = "SIZE", default_value = "8MiB", value_parser = parse_bytes, help_heading = "Archive")]
    min_chunk_size: u64,
    /// zstd level 1 (fastest) to 19 (smallest), or none
    #[arg(long, env = "ETCDBR_COMPRESSION_LEVEL", value_name = "LEVEL", default_value = "1", value_parser = parse_level, help_heading = "Archive")]
    compression_level: CompressionLevel,
    /// Threads that compress and encrypt
    #[arg(long, env = "ETCDBR_COMPRESSION_THREADS", value_name = "N", default_value_t = 1, help_heading = "Archive",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    compression_threads: u16,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Takes one full.
///
/// # Errors
/// Those of the engine; `Invalid` for flags that cannot be right.
pub(crate) async fn run(args: SnapshotArgs, format: OutputFormat, context: &RunContext) -> Result<()> {
    if !args.once {
        return Err(Error::new(ErrorKind::Invalid, "this etcdbr takes single backups only: --once is missing")
            .hint("run `etcdbr snapshot --once`, from cron for a schedule"));
    }
    if !(MIN_PART_BYTES..=MAX_PART_BYTES).contains(&args.min_chunk_size) {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("--min-chunk-size {} is out of bounds", args.min_chunk_size),
        )
        .hint("it must be 5MiB to 512MiB"));
    }
    let limits = WriteLimits {
        part_bytes: args.min_chunk_size as usize,
        parallel_parts: args.max_parallel_chunk_uploads.into(),
        threads: args.compression_threads.into(),
        level: args.compression_level,
        ..WriteLimits::default()
    };
    let archive = args.store.archive(args.keys.keyring(context)?).await?;
    let request = FullRequest {
        etcd: args.etcd.options()?,
        limits,
        labels: args.labels.into_iter().collect(),
        tool_version: env!("ETCDBR_VERSION").to_owned(),
    };
    let summary = take_full(&archive, &request, context).await?;
    output::result(format, &text(&summary), &document(&summary));
    Ok(())
}

fn text(summary: &FullSummary) -> String {
    let seconds = duration_ms(summary) as f64 / 1000.0;
    let ratio = summary.plain_bytes as f64 / summary.stored_bytes.max(1) as f64;
    let encryption = summary.key_id.map_or_else(|| "not encrypted".to_owned(), |id| format!("encrypted with key {id}"));
    format!(
        "backup {}\n{} at revision {}: {} stored as {} ({ratio:.1}x), {encryption}, in {seconds:.1} s",
        summary.name,
        summary.source.endpoint,
        revision(summary),
        human_bytes(summary.plain_bytes),
        human_bytes(summary.stored_bytes),
    )
}

fn document(summary: &FullSummary) -> Value {
    json!({
        "backup": summary.name.to_string(),
        "kind": "full",
        "lineage": summary.name.lineage.to_string(),
        "revision": revision(summary),
        "image_bytes": summary.plain_bytes,
        "stored_bytes": summary.stored_bytes,
        "encrypted": summary.key_id.is_some(),
        "key_id": summary.key_id.map(|id| id.to_string()),
        "started": summary.started.to_string(),
        "finished": summary.finished.to_string(),
        "duration_ms": duration_ms(summary),
        "cluster_id": summary.source.cluster.to_string(),
        "member_id": summary.source.member.to_string(),
        "endpoint": summary.source.endpoint,
        "etcd_version": summary.source.etcd_version,
        "labels": summary.labels,
    })
}

fn duration_ms(summary: &FullSummary) -> i64 {
    summary.finished.0 - summary.started.0
}

fn revision(summary: &FullSummary) -> i64 {
    match summary.name.kind {
        etcdbr_engine::format::NameKind::Full { seam } => seam.0,
        etcdbr_engine::format::NameKind::Delta { last, .. } => last.0,
    }
}
