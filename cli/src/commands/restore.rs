//! `etcdbr restore`: turn a backup into a data directory that etcd starts from.

use std::path::PathBuf;

use clap::Args;
use etcdbr_engine::Result;
use etcdbr_engine::archive::{ReadLimits, Selection};
use etcdbr_engine::datadir::MembershipRequest;
use etcdbr_engine::format::{BackupName, LineageId};
use etcdbr_engine::restore::{Purpose, RestorePlan, RestoreRequest, RestoreSummary, plan_restore, run_restore};
use etcdbr_engine::run::RunContext;
use serde_json::{Value, json};

use crate::args::{KeyArgs, OutputFormat, StoreArgs};
use crate::output::{self, human_bytes};

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
    /// The backup to restore, as `list` names it [default: the latest]
    #[arg(long, env = "ETCDBR_BACKUP", value_name = "NAME", conflicts_with = "lineage")]
    backup: Option<BackupName>,
    /// Restore the latest backup of this lineage
    #[arg(long, env = "ETCDBR_LINEAGE", value_name = "ID")]
    lineage: Option<LineageId>,
    /// Show what would be done, and do nothing
    #[arg(long, env = "ETCDBR_DRY_RUN")]
    dry_run: bool,
    /// Threads that decrypt and decompress [default: all cores]
    #[arg(long, env = "ETCDBR_COMPRESSION_THREADS", value_name = "N", help_heading = "Archive", value_parser = clap::value_parser!(u16).range(1..=256))]
    compression_threads: Option<u16>,
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
    let selection = match (args.backup, args.lineage) {
        (Some(name), _) => Selection::Backup(name),
        (None, Some(id)) => Selection::Lineage(id),
        (None, None) => Selection::Latest,
    };
    let mut limits = ReadLimits::default();
    limits.threads = args.compression_threads.map_or(limits.threads, usize::from);
    let request = RestoreRequest {
        selection,
        membership: MembershipRequest {
            name: args.name,
            initial_cluster: args.initial_cluster,
            token: args.initial_cluster_token,
            advertise_peer_urls: args.initial_advertise_peer_urls,
        },
        data_dir: args.data_dir,
        limits,
        purpose: if args.dry_run { Purpose::DryRun } else { Purpose::Restore },
    };
    let archive = args.store.archive(args.keys.keyring(context)?).await?;
    let plan = context.unless_stopped(plan_restore(&archive, request)).await?;
    if args.dry_run {
        output::result(format, &plan_text(&plan), &plan_document(&plan));
        return Ok(());
    }
    context.note(format!("restoring {} into {}", plan.backup.name, plan.data_dir.display()));
    let summary = run_restore(plan, context).await?;
    output::result(format, &summary_text(&summary), &summary_document(&summary));
    Ok(())
}

fn plan_text(plan: &RestorePlan) -> String {
    let (footer, own) = (plan.reader().footer(), plan.membership.own());
    let facts = &footer.facts;
    let mut out = format!(
        "plan: restore {}\n  taken     {} from {} (etcd {}), at revision {} or a little later\n  \
         reads     1 object, {}\n  writes    {} into {} ({} must be free)\n  memory    {}\n  member    {} of {}\n",
        plan.backup.name,
        facts.started,
        facts.source.endpoint,
        facts.source.etcd_version,
        facts.revisions.1,
        human_bytes(plan.backup.stored_bytes),
        human_bytes(footer.plain_bytes),
        plan.data_dir.display(),
        human_bytes(plan.needed_bytes),
        human_bytes(plan.memory_bytes()),
        own.name,
        plan.membership.initial_cluster(),
    );
    if plan.membership.members().len() > 1 {
        out += "run on each member (with the same archive flags):\n";
        for line in member_lines(plan) {
            out += &format!("  {line}\n");
        }
    }
    out
}

/// The command for each member, all from the same backup.
fn member_lines(plan: &RestorePlan) -> Vec<String> {
    let membership = &plan.membership;
    let line = |name: &str, urls: &[String]| {
        format!(
            "etcdbr restore --backup {} --data-dir {} --name {name} --initial-cluster {} --initial-cluster-token {} \
             --initial-advertise-peer-urls {}",
            plan.backup.name,
            plan.data_dir.display(),
            membership.initial_cluster(),
            membership.token(),
            urls.join(","),
        )
    };
    membership.members().iter().map(|member| line(&member.name, &member.peer_urls)).collect()
}

fn plan_document(plan: &RestorePlan) -> Value {
    let footer = plan.reader().footer();
    json!({
        "dry_run": true,
        "backup": plan.backup.name.to_string(),
        "lineage": plan.backup.name.lineage.to_string(),
        "revision": footer.facts.revisions.1.0,
        "objects": 1,
        "stored_bytes": plan.backup.stored_bytes,
        "image_bytes": footer.plain_bytes,
        "needed_bytes": plan.needed_bytes,
        "memory_bytes": plan.memory_bytes(),
        "data_dir": plan.data_dir,
        "member": plan.membership.own().name,
        "initial_cluster": plan.membership.initial_cluster(),
        "commands": member_lines(plan),
    })
}

fn summary_text(summary: &RestoreSummary) -> String {
    let facts = &summary.facts;
    let compacted =
        facts.compact_floor.map_or_else(|| "never compacted".to_owned(), |floor| format!("compacted at {floor}"));
    let mut out = format!(
        "restored {} into {} in {:.1} s\n  revision {}, {compacted}, {}; proven: every byte authenticated, SHA-256 of the image, tree of the db\n",
        summary.backup.name,
        summary.data_dir.display(),
        summary.duration_ms as f64 / 1000.0,
        facts.revision,
        human_bytes(facts.db_bytes),
    );
    if facts.leases > 0 {
        out += &format!("  {} leases: each counts its full TTL again from the start of etcd\n", facts.leases);
    }
    out +=
        &format!("start etcd with (its own listen and certificate flags beside these):\n  {}\n", start_line(summary));
    out
}

fn start_line(summary: &RestoreSummary) -> String {
    let own = summary.membership.own();
    let urls = own.peer_urls.join(",");
    format!(
        "etcd --name {} --data-dir {} --initial-advertise-peer-urls {urls} --listen-peer-urls {urls} \
         --initial-cluster {} --initial-cluster-token {} --initial-cluster-state new",
        own.name,
        summary.data_dir.display(),
        summary.membership.initial_cluster(),
        summary.membership.token(),
    )
}

fn summary_document(summary: &RestoreSummary) -> Value {
    let facts = &summary.facts;
    json!({
        "backup": summary.backup.name.to_string(),
        "data_dir": summary.data_dir,
        "revision": facts.revision.0,
        "compact_revision": facts.compact_floor.map(|floor| floor.0),
        "db_bytes": facts.db_bytes,
        "leases": facts.leases,
        "member": summary.membership.own().name,
        "cluster_id": summary.membership.cluster_id().to_string(),
        "duration_ms": summary.duration_ms,
        "proof": ["authenticated", "image-sha256", "tree"],
        "start": start_line(summary),
    })
}
