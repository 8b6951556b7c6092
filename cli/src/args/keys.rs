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
        let source = match (&self.encryption_key_file, key_variable()?) {
            (Some(_), Some(_)) => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("both --encryption-key-file and {KEY_VARIABLE} are given"),
                )
                .hint("give one of them"));
            }
            (Some(file), None) => KeyringSource::File(file.clone()),
            (None, Some(text)) => KeyringSource::Text(text),
            (None, None) => KeyringSource::Unencrypted,
        };
        let (keyring, warning) = Keyring::load(&source)?;
        if let Some(warning) = warning {
            context.warn(warning);
        }
        Ok(keyring)
    }

    /// The flags that give the same keys again; a key in the environment has none.
    pub(crate) fn flags(&self) -> Vec<String> {
        self.encryption_key_file
            .iter()
            .flat_map(|file| ["--encryption-key-file".to_owned(), file.display().to_string()])
            .collect()
    }
}

/// The variable's text. One that is set and empty is a key that got lost on its way, not the wish to go without.
fn key_variable() -> Result<Option<SecretText>> {
    let Some(value) = std::env::var_os(KEY_VARIABLE) else { return Ok(None) };
    match value.into_string().map(SecretText::new) {
        Ok(text) if !text.expose().is_empty() => Ok(Some(text)),
        _ => Err(Error::new(ErrorKind::Key, format!("{KEY_VARIABLE} is set, but holds no key"))
            .hint("put the key into it, or unset it to go without encryption")),
    }
}
