//! The keys of the archive.

use std::path::PathBuf;

use clap::Args;
use etcdbr_engine::archive::{Keyring, KeyringSource};
use etcdbr_engine::run::RunContext;
use etcdbr_engine::secret::SecretText;
use etcdbr_engine::{Error, ErrorKind, Result};

/// Holds the key itself; there is no flag for it, because flags show in process lists.
const KEY_VARIABLE: &str = "ETCDBR_ENCRYPTION_KEY";

/// The keys of the archive.
#[derive(Debug, Args)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct KeyArgs {
    /// File of base64 keys, one a line: the first one writes, all of them read (see `etcdbr keygen`). The variable
    /// ETCDBR_ENCRYPTION_KEY can hold the keys themselves instead
    #[arg(long, env = "ETCDBR_ENCRYPTION_KEY_FILE", value_name = "FILE")]
    encryption_key_file: Option<PathBuf>,
}

impl KeyArgs {
    /// Loads the keyring; what the operator should know of its file is told.
    ///
    /// # Errors
    /// `Invalid` where both file and variable are given; `Key` for what is no keyring.
    pub(crate) fn keyring(&self, context: &RunContext) -> Result<Keyring> {
        let text = std::env::var(KEY_VARIABLE).ok().filter(|text| !text.trim().is_empty());
        let source = match (&self.encryption_key_file, text) {
            (Some(_), Some(_)) => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("both --encryption-key-file and {KEY_VARIABLE} are given"),
                )
                .hint("give one of them"));
            }
            (Some(file), None) => KeyringSource::File(file.clone()),
            (None, Some(text)) => KeyringSource::Text(SecretText::new(text)),
            (None, None) => KeyringSource::Unencrypted,
        };
        let (keyring, warning) = Keyring::load(&source)?;
        if let Some(warning) = warning {
            context.warn(warning);
        }
        Ok(keyring)
    }
}
