//! How results are printed.

use clap::{Args, ValueEnum};

/// The form of what is printed to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document on one line.
    Json,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// Form of the result on standard output; log lines go to standard error
    #[arg(long, env = "ETCDBR_OUTPUT", value_enum, default_value_t, global = true)]
    pub(crate) output: OutputFormat,
}
