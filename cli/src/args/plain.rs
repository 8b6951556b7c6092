//! A plain snapshot, where one is restored.

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::archive::ReadLimits;
use etcdbr_engine::foreign::{HashCheck, PlainOptions, PlainSnapshot};
use etcdbr_engine::run::RunContext;
use etcdbr_engine::store::{HttpOptions, Lanes, Location};
use etcdbr_engine::tls::TlsOptions;
use etcdbr_engine::{Error, ErrorKind, Result};

/// A plain snapshot.
#[derive(Args)]
#[command(next_help_heading = "Plain snapshot")]
pub(crate) struct PlainArgs {
    /// Restore this snapshot.db instead of a backup: a file, or an http(s) URL such as a presigned one. No archive, key or
    /// credentials are needed. A presigned URL is a secret: better given in the environment variable
    #[arg(
        long,
        env = "ETCDBR_SNAPSHOT",
        value_name = "FILE|URL",
        hide_env_values = true,
        conflicts_with_all = ["backup", "lineage", "revision", "at", "before_delete", "allow_partial", "defragment"]
    )]
    snapshot: Option<String>,
    /// Restore the snapshot without its SHA-256: one that was copied from a data directory has none
    #[arg(long, env = "ETCDBR_SKIP_HASH_CHECK", value_parser = BoolishValueParser::new())]
    skip_hash_check: bool,
}

impl std::fmt::Debug for PlainArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainArgs").finish_non_exhaustive()
    }
}

/// Where a plain snapshot is, and how it is read.
pub(crate) struct PlainSource {
    location: Location,
    options: PlainOptions,
}

impl PlainArgs {
    /// What the flags mean; `None` where no plain snapshot is given. `tls` is for URLs.
    ///
    /// # Errors
    /// `Invalid` for a place that cannot be read, or a flag without the snapshot that it is for.
    pub(crate) fn source(
        self,
        tls: TlsOptions,
        limits: ReadLimits,
        context: &RunContext,
    ) -> Result<Option<PlainSource>> {
        let Some(place) = self.snapshot else {
            if self.skip_hash_check {
                let error = Error::new(ErrorKind::Invalid, "--skip-hash-check is given without --snapshot");
                return Err(error.hint("backups of an archive are always checked; --skip-proof leaves out the rest"));
            }
            return Ok(None);
        };
        let location = Location::parse(&place).map_err(|error| error.about("--snapshot"))?;
        let options = PlainOptions {
            http: HttpOptions::new(tls, context.clock.clone()),
            lanes: Lanes { range_bytes: limits.read_bytes, parallel: limits.parallel_reads },
            hash_check: if self.skip_hash_check { HashCheck::Skipped } else { HashCheck::Required },
        };
        Ok(Some(PlainSource { location, options }))
    }
}

impl PlainSource {
    /// Opens it.
    ///
    /// # Errors
    /// Those of the engine.
    pub(crate) async fn open(&self) -> Result<PlainSnapshot> {
        PlainSnapshot::open(&self.location, &self.options).await
    }

    /// The flags that name the same snapshot again. A URL has none: it is a secret, and stays in the environment.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = match &self.location {
            Location::File(path) => vec!["--snapshot".to_owned(), path.display().to_string()],
            Location::Url(_) => Vec::new(),
        };
        if self.options.hash_check == HashCheck::Skipped {
            flags.push("--skip-hash-check".to_owned());
        }
        flags
    }
}
