//! `etcdbr snapshot`: back up a running etcd into the archive.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::archive::WriteLimits;
use etcdbr_engine::backup::{FullRequest, FullSummary, HashKvOutcome, HashKvPolicy, take_full};
use etcdbr_engine::capture::{CaptureOptions, CutLimits, Gauges};
use etcdbr_engine::daemon::{Duty, FullSchedule, Listener, SidecarRequest, run_fulls, run_sidecar};
use etcdbr_engine::etcd::WatchLimits;
use etcdbr_engine::pipeline::CompressionLevel;
use etcdbr_engine::run::RunContext;
use etcdbr_engine::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::args::{
    EtcdArgs, KeyArgs, OutputFormat, StoreArgs, UpkeepArgs, parse_bytes, parse_duration, parse_interval, parse_label,
    parse_level,
};
use crate::output::{self, human_bytes};
use crate::proof;

/// S3 takes no smaller parts.
const MIN_PART_BYTES: u64 = 5 << 20;
/// Larger parts would break the memory bound.
const MAX_PART_BYTES: u64 = 512 << 20;

/// More objects than ten a second help nobody.
const MIN_DELTA_PERIOD: Duration = Duration::from_millis(100);
/// Below this etcdbrctl takes no deltas.
const ETCDBRCTL_MIN_DELTA_PERIOD: Duration = Duration::from_secs(1);
/// A delta is sealed and stored in one piece.
const MAX_DELTA_BYTES: u64 = 256 << 20;
/// Less would not hold a few deltas.
const MIN_WAITING_BYTES: u64 = 1 << 20;

/// Flags of `etcdbr snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// Take one full backup and exit; without it, run beside etcd and capture everything that happens
    #[arg(long, env = "ETCDBR_ONCE", value_parser = BoolishValueParser::new())]
    once: bool,
    /// Work only while the member at --endpoints leads its cluster: of several sidecars, each of which is given its own
    /// member alone, one captures and the others stand by
    #[arg(long, env = "ETCDBR_LEADER_ONLY", value_parser = BoolishValueParser::new(), conflicts_with = "once")]
    leader_only: bool,
    /// Text to store with the backup and show in `list --details`; may be given several times
    #[arg(long = "label", env = "ETCDBR_LABEL", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// How long a change waits at most before it is on its way into the store: 100ms or more. 0: fulls alone
    #[arg(long, env = "ETCDBR_DELTA_SNAPSHOT_PERIOD", value_name = "DURATION", default_value = "5s", value_parser = parse_interval, help_heading = "Deltas")]
    delta_snapshot_period: Duration,
    /// Size of the changes that are on their way at once, whatever the period
    #[arg(long, env = "ETCDBR_DELTA_SNAPSHOT_MEMORY_LIMIT", value_name = "SIZE", default_value = "10MiB", value_parser = parse_bytes, help_heading = "Deltas")]
    delta_snapshot_memory_limit: u64,
    /// When fulls are taken, beside those that are needed: five fields of cron. Empty: never
    #[arg(
        short = 's',
        long,
        env = "ETCDBR_SCHEDULE",
        value_name = "CRON",
        default_value = "0 */1 * * *",
        help_heading = "Fulls"
    )]
    schedule: String,
    /// Time zone of the schedule, as IANA names it
    #[arg(long, env = "ETCDBR_SCHEDULE_TIME_ZONE", value_name = "ZONE", default_value = "UTC", help_heading = "Fulls")]
    schedule_time_zone: String,
    /// Fulls come up to so much later than the schedule says, by chance: a fleet does not take them all at once
    #[arg(long, env = "ETCDBR_SCHEDULE_JITTER", value_name = "DURATION", default_value = "0", value_parser = parse_interval, help_heading = "Fulls")]
    schedule_jitter: Duration,
    /// Take a full when the deltas since the last one have this size, as stored; they go on beside it
    #[arg(long, env = "ETCDBR_FULL_AFTER_DELTAS_BYTES", value_name = "SIZE", value_parser = parse_bytes, help_heading = "Fulls")]
    full_after_deltas_bytes: Option<u64>,
    /// What may wait, compressed and sealed, for a store that is slow or down; then capture pauses
    #[arg(long, env = "ETCDBR_MEMORY_LIMIT", value_name = "SIZE", default_value = "64MiB", value_parser = parse_bytes, help_heading = "Deltas")]
    memory_limit: u64,
    /// How long a shutdown may take to store what was captured
    #[arg(long, env = "ETCDBR_SHUTDOWN_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = parse_duration, help_heading = "Deltas")]
    shutdown_timeout: Duration,
    /// Answer /metrics (Prometheus), /healthz and /readyz at this address, as in 127.0.0.1:9379 [default: nowhere]
    #[arg(long, env = "ETCDBR_METRICS_ADDR", value_name = "IP:PORT", conflicts_with = "once")]
    metrics_addr: Option<SocketAddr>,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Ask etcd for its HashKV, which restores are proven with, at most this often; the member stands still meanwhile.
    /// 0: never [default: 6h, and not again where it took more than 500 ms]
    #[arg(long, env = "ETCDBR_HASHKV_INTERVAL", value_name = "TIME", value_parser = parse_interval)]
    hashkv_interval: Option<Duration>,
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
    #[command(flatten)]
    upkeep: UpkeepArgs,
}

/// Takes one full, or runs until it is stopped.
///
/// # Errors
/// Those of the engine; `Invalid` for flags that cannot be right.
pub(crate) async fn run(args: SnapshotArgs, format: OutputFormat, context: &RunContext) -> Result<()> {
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
    let beside = if args.once { None } else { Some((beside(&args)?, args.upkeep.request(args.compression_level)?)) };
    let duty = if args.leader_only { Duty::WhileLeading } else { Duty::Always };
    let archive = args.store.archive(args.keys.keyring(context)?).await?;
    let request = FullRequest {
        etcd: args.etcd.options()?,
        limits,
        labels: args.labels.into_iter().collect(),
        tool_version: env!("ETCDBR_VERSION").to_owned(),
        hash_kv: match args.hashkv_interval {
            None => HashKvPolicy::Sparing,
            Some(Duration::ZERO) => HashKvPolicy::Never,
            Some(interval) => HashKvPolicy::Every(interval),
        },
    };
    if let Some((beside, upkeep)) = beside {
        let gauges = Gauges::default();
        let _listener = listener(args.metrics_addr, &gauges, context).await?;
        let (schedule, capture) = match beside {
            Beside::Fulls(schedule) => {
                return run_fulls(&archive, &request, (&schedule, duty), (&upkeep, &gauges), context).await;
            }
            Beside::Deltas(schedule, capture) => (schedule, capture),
        };
        let (memory_limit, shutdown_timeout) = (args.memory_limit, args.shutdown_timeout);
        if args.delta_snapshot_period < ETCDBRCTL_MIN_DELTA_PERIOD {
            context.note("deltas are taken: etcdbrctl would have switched them off, with a period below one second");
        }
        let full = request;
        let sidecar = SidecarRequest { duty, full, schedule, capture, upkeep, memory_limit, gauges, shutdown_timeout };
        return run_sidecar(&archive, &sidecar, context).await;
    }
    let summary = take_full(&archive, &request, context).await?;
    output::result(format, &text(&summary), &document(&summary));
    Ok(())
}

/// Answers where it was told to.
async fn listener(addr: Option<SocketAddr>, gauges: &Gauges, context: &RunContext) -> Result<Option<Listener>> {
    let Some(addr) = addr else { return Ok(None) };
    let listener = Listener::open(addr, gauges.clone(), context.clock.clone()).await?;
    context.note(format!("metrics are at http://{}/metrics", listener.addr()));
    Ok(Some(listener))
}

/// What it does without `--once`.
enum Beside {
    /// Fulls, each in a lineage of its own.
    Fulls(FullSchedule),
    /// Deltas, and fulls among them.
    Deltas(Option<FullSchedule>, CaptureOptions),
}

fn beside(args: &SnapshotArgs) -> Result<Beside> {
    let schedule = match args.schedule.trim() {
        "" => None,
        pattern => Some(FullSchedule::parse(pattern, &args.schedule_time_zone, args.schedule_jitter)?),
    };
    match schedule {
        schedule if !args.delta_snapshot_period.is_zero() => Ok(Beside::Deltas(schedule, capture_options(args)?)),
        Some(schedule) => Ok(Beside::Fulls(schedule)),
        None => Err(Error::new(ErrorKind::Invalid, "--delta-snapshot-period 0 without a --schedule backs nothing up")
            .hint("give a --schedule, or --once")),
    }
}

/// How deltas are captured.
fn capture_options(args: &SnapshotArgs) -> Result<CaptureOptions> {
    let out_of_bounds = |what: String, hint: &str| Err(Error::new(ErrorKind::Invalid, what).hint(hint));
    if args.delta_snapshot_period < MIN_DELTA_PERIOD {
        let what = format!("--delta-snapshot-period {:?} is too short", args.delta_snapshot_period);
        return out_of_bounds(what, "it must be 100ms or more, or 0 for fulls alone");
    }
    if !(1 << 20..=MAX_DELTA_BYTES).contains(&args.delta_snapshot_memory_limit) {
        let what = format!("--delta-snapshot-memory-limit {} is out of bounds", args.delta_snapshot_memory_limit);
        return out_of_bounds(what, "it must be 1MiB to 256MiB");
    }
    if args.memory_limit < MIN_WAITING_BYTES {
        let what = format!("--memory-limit {} is too small", args.memory_limit);
        return out_of_bounds(what, "it must be 1MiB or more");
    }
    if args.full_after_deltas_bytes == Some(0) {
        let what = "--full-after-deltas-bytes 0 would take a full after every delta".to_owned();
        return out_of_bounds(what, "leave it out to take none for their size");
    }
    Ok(CaptureOptions {
        cut: CutLimits { period: args.delta_snapshot_period, bytes: args.delta_snapshot_memory_limit as usize },
        watch: WatchLimits::default(),
        level: args.compression_level,
        tool_version: env!("ETCDBR_VERSION").to_owned(),
        full_after_bytes: args.full_after_deltas_bytes,
    })
}

fn text(summary: &FullSummary) -> String {
    let seconds = duration_ms(summary) as f64 / 1000.0;
    let ratio = summary.plain_bytes as f64 / summary.stored_bytes.max(1) as f64;
    let encryption = summary.key_id.map_or_else(|| "not encrypted".to_owned(), |id| format!("encrypted with key {id}"));
    format!(
        "backup {}\n{} at revision {}: {} stored as {} ({ratio:.1}x), {encryption}, in {seconds:.1} s\n{}",
        summary.name,
        summary.source.endpoint,
        revision(summary),
        human_bytes(summary.plain_bytes),
        human_bytes(summary.stored_bytes),
        match &summary.hash_kv {
            HashKvOutcome::Stored(answer) => format!("{} is stored with it", proof::answer_text(answer)),
            HashKvOutcome::Missing(why) => format!("no HashKV is stored with it: {why}"),
        },
    )
}

fn document(summary: &FullSummary) -> Value {
    let (hash_kv, missing) = match &summary.hash_kv {
        HashKvOutcome::Stored(answer) => (Some(proof::answer_document(answer)), None),
        HashKvOutcome::Missing(why) => (None, Some(why)),
    };
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
        "hashkv": hash_kv,
        "hashkv_missing": missing,
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
