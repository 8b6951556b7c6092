//! `etcdbr restore`: turn a backup or a plain snapshot into a data directory that etcd starts from.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::archive::ReadLimits;
use etcdbr_engine::datadir::{AuthState, DirectIo, Member, MembershipRequest, RevisionBump, StageOptions};
use etcdbr_engine::replay::Thoroughness;
use etcdbr_engine::restore::{
    Purpose, RestorePlan, RestoreRequest, RestoreSource, RestoreSummary, Restored, plan_plain_restore, plan_restore,
    run_restore,
};
use etcdbr_engine::run::RunContext;
use etcdbr_engine::store::Transfer;
use etcdbr_engine::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::args::{KeyArgs, OutputFormat, PlainArgs, PointArgs, StoreArgs, parse_ttl_s};
use crate::output::{self, human_bytes};
use crate::{point, proof};

/// Flags of `etcdbr restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The data directory to make: absent, or empty
    #[arg(short = 'd', long, env = "ETCDBR_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Name of the member [default: the one of --initial-cluster with our peer URLs, else `default`]
    #[arg(long, env = "ETCDBR_NAME", help_heading = "New cluster")]
    name: Option<String>,
    /// Members of the new cluster, name=peer-url each [default: our name with our peer URLs]
    #[arg(long, env = "ETCDBR_INITIAL_CLUSTER", value_name = "NAME=URL,...", help_heading = "New cluster")]
    initial_cluster: Option<String>,
    /// Token of the new cluster; the same on every member
    #[arg(
        long,
        env = "ETCDBR_INITIAL_CLUSTER_TOKEN",
        value_name = "TOKEN",
        default_value = "etcd-cluster",
        help_heading = "New cluster"
    )]
    initial_cluster_token: String,
    /// Our peer URLs [default: those of our name in --initial-cluster]
    #[arg(
        long,
        env = "ETCDBR_INITIAL_ADVERTISE_PEER_URLS",
        value_name = "URL",
        value_delimiter = ',',
        help_heading = "New cluster"
    )]
    initial_advertise_peer_urls: Vec<String>,
    /// Let the new cluster's revisions go on this far beyond those of the backup, as etcdutl does; with --mark-compacted
    #[arg(long, env = "ETCDBR_BUMP_REVISION", value_name = "N", help_heading = "New cluster")]
    bump_revision: Option<NonZeroU64>,
    /// Make all revisions before that compacted, so that watchers begin anew; with --bump-revision
    #[arg(long, env = "ETCDBR_MARK_COMPACTED", value_parser = BoolishValueParser::new(), help_heading = "New cluster")]
    mark_compacted: bool,
    /// Time to live of leases that keys name and that the backup does not know
    #[arg(long, env = "ETCDBR_MISSING_LEASE_TTL", value_name = "DURATION", default_value = "1h", value_parser = parse_ttl_s)]
    missing_lease_ttl: i64,
    /// For emergencies: install what authenticates without checking the tree of the database or its HashKV
    #[arg(long, env = "ETCDBR_SKIP_PROOF", value_parser = BoolishValueParser::new())]
    skip_proof: bool,
    /// Show what would be done, and do nothing
    #[arg(long, env = "ETCDBR_DRY_RUN", value_parser = BoolishValueParser::new())]
    dry_run: bool,
    /// Threads that decrypt and decompress [default: all cores]
    #[arg(long, env = "ETCDBR_COMPRESSION_THREADS", value_name = "N", help_heading = "Archive", value_parser = clap::value_parser!(u16).range(1..=256))]
    compression_threads: Option<u16>,
    #[command(flatten)]
    point: PointArgs,
    #[command(flatten)]
    plain: PlainArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Restores, or shows the plan.
///
/// # Errors
/// Those of the engine.
pub(crate) async fn run(args: RestoreArgs, format: OutputFormat, context: &RunContext) -> Result<()> {
    if args.mark_compacted != args.bump_revision.is_some() {
        return Err(Error::new(ErrorKind::Invalid, "--bump-revision and --mark-compacted go together")
            .hint("a bump alone would leave watchers waiting for revisions that never come"));
    }
    let mut limits = ReadLimits::default();
    limits.threads = args.compression_threads.map_or(limits.threads, usize::from);
    let request = RestoreRequest {
        membership: MembershipRequest {
            name: args.name,
            initial_cluster: args.initial_cluster,
            token: args.initial_cluster_token,
            advertise_peer_urls: args.initial_advertise_peer_urls,
        },
        data_dir: args.data_dir,
        limits,
        thoroughness: if args.skip_proof { Thoroughness::Skip } else { Thoroughness::Full },
        staging: StageOptions::default(),
        bump: args.bump_revision.map(RevisionBump::by),
        missing_lease_ttl_s: args.missing_lease_ttl,
        purpose: if args.dry_run { Purpose::DryRun } else { Purpose::Restore },
    };
    let (plan, source_flags) = match args.plain.source(args.store.tls(), limits, context)? {
        Some(plain) => {
            let snapshot = context.unless_stopped(plain.open()).await?;
            (plan_plain_restore(snapshot, request)?, plain.flags())
        }
        None => {
            let archive_flags = [args.store.flags(), args.keys.flags()].concat();
            let archive = args.store.archive(args.keys.keyring(context)?).await?;
            (plan_restore(&archive, &args.point.request(), request, context).await?, archive_flags)
        }
    };
    if args.dry_run {
        let lines = member_lines(&plan, &source_flags);
        output::result(format, &plan_text(&plan, &lines), &plan_document(&plan, &lines));
        return Ok(());
    }
    context.note(format!("restoring {} into {}", plan.source.name(), plan.data_dir.display()));
    let summary = run_restore(plan, context).await?;
    output::result(format, &summary_text(&summary), &summary_document(&summary));
    Ok(())
}

fn plan_text(plan: &RestorePlan, lines: &[String]) -> String {
    let own = plan.membership.own();
    let mut out = format!("plan: restore {}\n{}", plan.source.name(), source_text(&plan.source));
    out += &format!(
        "  writes    {} into {} ({} must be free)\n  memory    {}\n  member    {} of {}\n",
        human_bytes(plan.source.written_bytes()),
        plan.data_dir.display(),
        human_bytes(plan.needed_bytes),
        human_bytes(plan.memory_bytes()),
        own.name,
        plan.membership.initial_cluster(),
    );
    if plan.membership.members().len() > 1 {
        out += match &plan.source {
            RestoreSource::Plain(snapshot) if snapshot.transfer().is_some() => {
                "run on each member, with the URL in ETCDBR_SNAPSHOT:\n"
            }
            RestoreSource::Plain(_) => "run on each member, with the same file:\n",
            RestoreSource::Point(_) => "run on each member:\n",
        };
        for line in lines {
            out += &format!("  {line}\n");
        }
    }
    out
}

fn source_text(source: &RestoreSource) -> String {
    match source {
        RestoreSource::Point(plan) => point::plan_text(plan),
        RestoreSource::Plain(snapshot) => {
            let way = match snapshot.transfer() {
                None => "a file",
                Some(Transfer::Ranges) => "a URL, in parallel ranges",
                Some(Transfer::OneStream) => "a URL, in one stream: its server knows no ranges",
            };
            format!("  reads     {way}, {}\n", human_bytes(snapshot.image_bytes()))
        }
    }
}

/// The command for each member, all from the same source.
fn member_lines(plan: &RestorePlan, source_flags: &[String]) -> Vec<String> {
    let membership = &plan.membership;
    let line = |member: &Member| {
        let mut words = vec!["etcdbr".to_owned(), "restore".to_owned()];
        words.extend(source_flags.iter().cloned());
        if let RestoreSource::Point(plan) = &plan.source {
            words.extend(point::explicit_flags(plan));
        }
        for (flag, value) in [
            ("--data-dir", plan.data_dir.display().to_string()),
            ("--name", member.name.clone()),
            ("--initial-cluster", membership.initial_cluster()),
            ("--initial-cluster-token", membership.token().to_owned()),
            ("--initial-advertise-peer-urls", member.peer_urls.join(",")),
        ] {
            words.extend([flag.to_owned(), value]);
        }
        if let Some(bump) = plan.bump {
            words.extend(["--bump-revision".to_owned(), bump.revisions().to_string(), "--mark-compacted".to_owned()]);
        }
        if plan.thoroughness == Thoroughness::Skip {
            words.push("--skip-proof".to_owned());
        }
        output::shell_line(&words)
    };
    membership.members().iter().map(line).collect()
}

fn plan_document(plan: &RestorePlan, lines: &[String]) -> Value {
    let mut document = json!({
        "dry_run": true,
        "image_bytes": plan.source.image_bytes(),
        "needed_bytes": plan.needed_bytes,
        "memory_bytes": plan.memory_bytes(),
        "data_dir": plan.data_dir,
        "member": plan.membership.own().name,
        "initial_cluster": plan.membership.initial_cluster(),
        "commands": lines,
    });
    let about = match &plan.source {
        RestoreSource::Point(plan) => point::plan_document(plan),
        RestoreSource::Plain(snapshot) => json!({"snapshot": snapshot.name(), "objects": 1}),
    };
    add(&mut document, about);
    document
}

/// The fields of `more`, an object, in `document` as well.
fn add(document: &mut Value, more: Value) {
    if let (Some(fields), Value::Object(more)) = (document.as_object_mut(), more) {
        fields.extend(more);
    }
}

fn summary_text(summary: &RestoreSummary) -> String {
    let facts = &summary.facts.image;
    let (name, taken) = match &summary.restored {
        Restored::Point(restored) => (point::name(&restored.chain), point::restored_text(restored)),
        Restored::Plain(name) => (name.clone(), String::new()),
    };
    let compacted = summary
        .facts
        .compact_revision
        .map_or_else(|| "never compacted".to_owned(), |revision| format!("compacted at {revision}"));
    let mut out = format!(
        "restored {name} into {} in {:.1} s\n{taken}  revision {}, {compacted}, {}\n",
        summary.data_dir.display(),
        summary.duration_ms as f64 / 1000.0,
        summary.facts.revision,
        human_bytes(summary.facts.db_bytes),
    );
    if facts.revision != summary.facts.revision {
        out += &format!(
            "  the backup is at revision {}; etcd goes on at {}, all before is compacted\n",
            facts.revision, summary.facts.revision
        );
    }
    out += &proof::text(&summary.proof);
    if summary.facts.direct_io == DirectIo::Unavailable {
        out += "  written through the page cache: this file system has no direct I/O, which is faster\n";
    }
    if facts.leases + facts.missing_leases > 0 {
        out += &format!("  {} leases: each counts its full TTL again from the start of etcd\n", facts.leases);
    }
    if summary.facts.assumed_leases > 0 {
        let leases = summary.facts.assumed_leases;
        out += &format!("  {leases} leases that keys name are not known and were granted --missing-lease-ttl\n");
    }
    if facts.auth == AuthState::Enabled {
        out += "  authentication is on, with the users and passwords of the backup\n";
    }
    out +=
        &format!("start etcd with (its own client and certificate flags beside these):\n  {}\n", start_line(summary));
    out
}

fn start_line(summary: &RestoreSummary) -> String {
    let (membership, own) = (&summary.membership, summary.membership.own());
    let listen: Vec<String> = own.peer_urls.iter().map(|url| listen_url(url)).collect();
    let mut words = vec!["etcd".to_owned()];
    for (flag, value) in [
        ("--name", own.name.clone()),
        ("--data-dir", summary.data_dir.display().to_string()),
        ("--listen-peer-urls", listen.join(",")),
        ("--initial-advertise-peer-urls", own.peer_urls.join(",")),
        ("--initial-cluster", membership.initial_cluster()),
        ("--initial-cluster-token", membership.token().to_owned()),
        ("--initial-cluster-state", "new".to_owned()),
    ] {
        words.extend([flag.to_owned(), value]);
    }
    output::shell_line(&words)
}

/// etcd binds addresses and `localhost` only; for any other name it listens everywhere.
fn listen_url(advertised: &str) -> String {
    let (scheme, rest) = advertised.split_once("://").unwrap_or(("http", advertised));
    let (host, port) = rest.rsplit_once(':').unwrap_or((rest, "2380"));
    let bindable = host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    if bindable { advertised.to_owned() } else { format!("{scheme}://0.0.0.0:{port}") }
}

fn summary_document(summary: &RestoreSummary) -> Value {
    let facts = &summary.facts.image;
    let mut document = json!({
        "data_dir": summary.data_dir,
        "revision": summary.facts.revision.0,
        "backup_revision": facts.revision.0,
        "compact_revision": summary.facts.compact_revision.map(|revision| revision.0),
        "db_bytes": summary.facts.db_bytes,
        "direct_io": summary.facts.direct_io == DirectIo::Used,
        "leases": facts.leases,
        "granted_leases": summary.facts.assumed_leases,
        "authentication": facts.auth == AuthState::Enabled,
        "member": summary.membership.own().name,
        "cluster_id": summary.membership.cluster_id().to_string(),
        "duration_ms": summary.duration_ms,
        "proof": proof::document(&summary.proof),
        "start": start_line(summary),
    });
    let about = match &summary.restored {
        Restored::Point(restored) => point::restored_document(restored),
        Restored::Plain(name) => json!({"snapshot": name}),
    };
    add(&mut document, about);
    document
}

#[cfg(test)]
mod tests {
    use super::listen_url;

    #[test]
    fn etcd_listens_where_it_can_bind() {
        assert_eq!(listen_url("https://10.0.0.1:2380"), "https://10.0.0.1:2380");
        assert_eq!(listen_url("http://[::1]:2380"), "http://[::1]:2380");
        assert_eq!(listen_url("http://localhost:2380"), "http://localhost:2380");
        assert_eq!(listen_url("https://node1.example:2381"), "https://0.0.0.0:2381");
    }
}
