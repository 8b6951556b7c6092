//! `etcdbr keygen`: a new archive key.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use etcdbr_engine::archive::Keyring;
use etcdbr_engine::{Error, ErrorKind, Result};
use serde_json::json;

use crate::args::OutputFormat;
use crate::output;

/// Flags of `etcdbr keygen`.
#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// Write the key to this new file, with mode 0600, instead of standard output
    #[arg(long, env = "ETCDBR_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
}

const ADVICE: &str = "keep this key where the archive is not, and keep a second copy: whoever has both reads every secret \
                      of your cluster, and without the key no backup can be restored, by nobody";

/// Makes a key.
///
/// # Errors
/// `Refused` where the file exists; `Local` where it cannot be written.
pub(crate) fn run(args: &KeygenArgs, format: OutputFormat) -> Result<()> {
    let (id, key) = Keyring::generate()?;
    match &args.key_file {
        Some(path) => {
            write_key(path, key.expose())?;
            let document = json!({"key_id": id.to_string(), "file": path});
            output::result(format, &format!("wrote key {id} to {}", path.display()), &document);
        }
        None => output::result(format, key.expose(), &json!({"key_id": id.to_string(), "key": key.expose()})),
    }
    output::log(format_args!("key {id}: {ADVICE}"));
    Ok(())
}

fn write_key(path: &Path, key: &str) -> Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                Error::new(ErrorKind::Refused, format!("{} exists, and may be the only copy of a key", path.display()))
                    .hint("choose another name")
            } else {
                Error::file("create", path, error)
            }
        })?;
    let written = writeln!(file, "{key}").and_then(|()| file.sync_all()).and_then(|()| sync_parent(path));
    written.map_err(|error| {
        // Half a key is none, and would be in the way of the next try.
        let _ = std::fs::remove_file(path);
        Error::file("write", path, error)
    })
}

/// The name of a new file is durable once its directory is.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}
