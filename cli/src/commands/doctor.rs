//! `etcdbr doctor`: whether everything is there that backups and restores need.

use clap::{Args, ValueEnum};
use etcdbr_engine::doctor::{Finding, Verdict, examine};
use etcdbr_engine::run::RunContext;
use etcdbr_engine::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::args::{EtcdArgs, KeyArgs, OutputFormat, StoreArgs};
use crate::output;

/// Whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Asked {
    /// The cluster alone
    Etcd,
    /// The store and the archive in it alone
    Store,
}

/// Flags of `etcdbr doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Ask only this one [default: both]
    #[arg(long, env = "ETCDBR_ONLY", value_enum)]
    only: Option<Asked>,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Asks, and prints a verdict a line.
///
/// # Errors
/// `Invalid` for flags that cannot be right, `Key` for what is no key; `Refused` where a verdict is bad.
pub(crate) async fn run(args: DoctorArgs, format: OutputFormat, context: &RunContext) -> Result<()> {
    let etcd = if args.only == Some(Asked::Store) { None } else { Some(args.etcd.options()?) };
    let archive = if args.only == Some(Asked::Etcd) {
        None
    } else {
        Some(args.store.archive(args.keys.keyring(context)?).await?)
    };
    let findings = examine(etcd.as_ref(), archive.as_ref(), context).await;
    context.check_stop()?;
    output::result(format, &text(&findings), &document(&findings));
    let bad = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
    match bad {
        0 => Ok(()),
        _ => Err(Error::new(ErrorKind::Refused, format!("{bad} of {} verdicts are bad", findings.len()))
            .hint("mend what they name; backups or restores will fail until then")),
    }
}

fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        out += &format!("{:7}  {:7}  {}: {}\n", finding.verdict, finding.subject, finding.question, finding.seen);
        if let Some(next_step) = finding.next_step.as_ref().filter(|_| finding.verdict != Verdict::Good) {
            out += &format!("{:18}-> {next_step}\n", "");
        }
    }
    out
}

fn document(findings: &[Finding]) -> Value {
    let entry = |finding: &Finding| {
        json!({
            "subject": finding.subject.to_string(),
            "question": finding.question,
            "verdict": finding.verdict.to_string(),
            "seen": finding.seen,
            "next_step": finding.next_step,
        })
    };
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Good);
    json!({ "verdict": worst.to_string(), "findings": findings.iter().map(entry).collect::<Vec<_>>() })
}
