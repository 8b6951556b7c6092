//! The `etcdbr` command: words in, exit code out. What it does is in `etcdbr-engine`.

mod args;
mod commands;
mod output;
mod point;
mod progress;
mod proof;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use etcdbr_engine::{Error, ErrorKind};

use crate::args::OutputArgs;

/// Streams an etcd cluster into an object store and gives any moment of it back.
#[derive(Debug, Parser)]
#[command(name = "etcdbr", version = env!("ETCDBR_VERSION"), max_term_width = 110, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Back up a running etcd into the archive
    Snapshot(Box<commands::snapshot::SnapshotArgs>),
    /// Show what the archive holds
    List(commands::list::ListArgs),
    /// Turn a backup into a data directory that etcd starts from
    Restore(commands::restore::RestoreArgs),
    /// Show what is in a plain snapshot.db or in a backup, in the figures of `etcdutl snapshot status`
    Status(commands::status::StatusArgs),
    /// Write a backup as a plain snapshot.db
    Export(commands::export::ExportArgs),
    /// Prove backups without restoring them: every byte, the tree of the database, etcd's own HashKV
    Verify(commands::verify::VerifyArgs),
    /// Make wide deltas of narrow ones, as a sidecar does by itself
    Rollup(commands::rollup::RollupCommand),
    /// Remove what no policy keeps from the archive, or abandoned uploads from its store
    Gc(commands::gc::GcArgs),
    /// Make a URL under which a backup can be fetched as a plain snapshot, or remove what such URLs lead to
    Presign(commands::presign::PresignArgs),
    /// Try everything that backups and restores need, and say what is missing
    Doctor(commands::doctor::DoctorArgs),
    /// Make a key for encrypted backups
    Keygen(commands::keygen::KeygenArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = cli.output.output;
    // One thread waits for the network: it hands etcd's stream on in pieces of 32 KiB, and between threads each of them
    // would cost a wake-up. What computes or works on files has threads of its own.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(output, &Error::new(ErrorKind::Internal, "cannot start").caused_by(error)),
    };
    let done = runtime.block_on(async {
        let context = progress::context(output, signals::stop_on_signal());
        match cli.command {
            Command::Snapshot(args) => commands::snapshot::run(*args, output, &context).await,
            Command::List(args) => commands::list::run(args, output, &context).await,
            Command::Restore(args) => commands::restore::run(args, output, &context).await,
            Command::Status(args) => commands::status::run(args, output, &context).await,
            Command::Export(args) => commands::export::run(args, output, &context).await,
            Command::Verify(args) => commands::verify::run(args, output, &context).await,
            Command::Rollup(args) => commands::rollup::run(args, output, &context).await,
            Command::Gc(args) => commands::gc::run(args, output, &context).await,
            Command::Presign(args) => commands::presign::run(args, output, &context).await,
            Command::Doctor(args) => commands::doctor::run(args, output, &context).await,
            Command::Keygen(args) => commands::keygen::run(&args, output),
        }
    });
    // A file operation that hangs (a dead mount) must not keep a finished command alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(output, &error),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        for command in Cli::command().get_subcommands().chain([&Cli::command()]) {
            for argument in command.get_arguments() {
                let Some(long) = argument.get_long() else { continue };
                if matches!(long, "help" | "version") {
                    continue;
                }
                let expected = format!("ETCDBR_{}", long.to_uppercase().replace('-', "_"));
                let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
                assert_eq!(variable.as_deref(), Some(expected.as_str()), "{} --{long}", command.get_name());
            }
        }
    }
}
