//! Puts the version with the git commit into the binary.

use std::process::Command;

fn main() {
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).or_else(|| std::env::var("ETCDBR_COMMIT").ok());
    let version = env!("CARGO_PKG_VERSION");
    match commit {
        Some(commit) => println!("cargo::rustc-env=ETCDBR_VERSION={version} ({commit})"),
        None => println!("cargo::rustc-env=ETCDBR_VERSION={version}"),
    }
    println!("cargo::rerun-if-env-changed=ETCDBR_COMMIT");
    // HEAD changes with a checkout, the log of HEAD with a commit.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
