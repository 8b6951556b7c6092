//! Where the pinned tools are. `scripts/tools.sh` installs them and knows the versions; nothing is installed from here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

static FOUND: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

/// The directory that holds the pinned tool `name`, such as `etcd-3.5` or `minio`.
///
/// # Panics
/// Where it is not installed: the message is the command that installs it.
pub fn tool_dir(name: &str) -> PathBuf {
    let mut found = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let found = found.get_or_insert_with(HashMap::new);
    if let Some(dir) = found.get(name) {
        return dir.clone();
    }
    let script = workspace().join("scripts/tools.sh");
    let output = Command::new(&script).args(["--path", name]).output().expect("scripts/tools.sh runs");
    assert!(
        output.status.success(),
        "{name} is missing: run scripts/tools.sh {name}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let dir = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    found.insert(name.to_owned(), dir.clone());
    dir
}
