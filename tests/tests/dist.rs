//! The static binary of `make dist`, where nothing of the machine is around it: an empty chroot.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::tools::workspace;
use tempfile::TempDir;

/// A directory that holds the static binary alone; none where there is no such binary or no right to chroot.
fn empty_root() -> Option<TempDir> {
    let binary: PathBuf = workspace().join("dist/etcdbr");
    if !binary.exists() {
        println!("skipped: dist/etcdbr is not there; make dist builds it");
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can chroot");
        return None;
    }
    let root = tempfile::tempdir().expect("a temporary directory");
    fs::copy(binary, root.path().join("etcdbr")).expect("the binary is copied");
    Some(root)
}

fn run(root: &TempDir, args: &[&str]) -> Output {
    let mut command = Command::new("chroot");
    command.env_clear().env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    command.arg(root.path()).arg("/etcdbr").args(args).output().expect("chroot runs")
}

#[test]
fn the_static_binary_runs_in_an_empty_chroot() {
    let Some(root) = empty_root() else { return };
    let output = run(&root, &["--version"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.starts_with(b"etcdbr "), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn the_static_binary_resolves_names_in_a_chroot() {
    let Some(root) = empty_root() else { return };
    fs::create_dir_all(root.path().join("etc")).expect("made");
    fs::create_dir_all(root.path().join("archive")).expect("made");
    fs::write(root.path().join("etc/hosts"), "127.0.0.1 source.etcd.test\n").expect("written");
    let etcd = Etcd::start(EtcdVersion::V3_5).await;
    etcd.client().await.put("key", "value", None).await.expect("a put");
    let backup = |host: &str| {
        let endpoint = etcd.endpoint().replace("127.0.0.1", host);
        let store = ["--storage-provider", "Local", "--store-container", "/archive"];
        run(&root, &[&["snapshot", "--once", "--endpoints", &endpoint], store.as_slice()].concat())
    };
    let output = backup("source.etcd.test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read_dir(root.path().join("archive")).expect("readable").next().is_some(), "no backup was written");
    assert!(!backup("nowhere.etcd.test").status.success(), "a name that is nowhere was resolved");
}
