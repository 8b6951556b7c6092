//! The manifests in `deploy/` are what Kubernetes takes, and their arguments are what `etcdbr` takes.

use std::path::{Path, PathBuf};
use std::process::Command;

use etcdbr_tests::etcdbr::Etcdbr;
use etcdbr_tests::tools::{tool_dir, workspace};
use serde_json::Value;

/// The version of Kubernetes whose schemas they are held against.
const KUBERNETES: &str = "1.34";
/// What `etcdbr` may use beside what may wait for the store.
const OWN_MIB: u64 = 128;

/// Rules for Prometheus are a resource of its operator, whose schema Kubernetes does not have: `rules.rs` looks at them.
const NOT_OF_KUBERNETES: &str = "prometheus-rule.yaml";

fn manifests() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(workspace().join("deploy")).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    let is_manifest = |file: &PathBuf| {
        file.extension().is_some_and(|extension| extension == "yaml") && !file.ends_with(NOT_OF_KUBERNETES)
    };
    files.filter(is_manifest).collect()
}

fn python(args: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", tool_dir("manifests")).args(args);
    command
}

/// Every object of a file.
pub(crate) fn objects(file: &Path) -> Vec<Value> {
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = python(&["-c", script]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every container of ours, wherever it stands, with the time that its pod has to end.
fn sidecars(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(fields)
            if fields.get("name").is_some_and(|name| name == "etcdbr") && fields.contains_key("args") =>
        {
            vec![value]
        }
        Value::Object(fields) => fields.values().flat_map(sidecars).collect(),
        Value::Array(items) => items.iter().flat_map(sidecars).collect(),
        _ => Vec::new(),
    }
}

fn args(sidecar: &Value) -> Vec<&str> {
    sidecar["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect()
}

fn mib(text: &str) -> u64 {
    text.trim_end_matches("MiB").trim_end_matches("Mi").parse().unwrap()
}

#[test]
fn kubernetes_takes_the_manifests() {
    let files = manifests();
    assert!(files.len() >= 3, "{files:?}");
    let run = python(&["-m", "kubernetes_validate", "--strict", "-k", KUBERNETES]).args(&files).output().unwrap();
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
}

#[test]
fn a_manifest_that_is_wrong_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = dir.path().join("wrong.yaml");
    let right = std::fs::read_to_string(workspace().join("deploy/cronjob.yaml")).unwrap();
    std::fs::write(&wrong, right.replace("concurrencyPolicy", "concurencyPolicy")).unwrap();
    let run = python(&["-m", "kubernetes_validate", "--strict", "-k", KUBERNETES]).arg(&wrong).output().unwrap();
    assert!(!run.status.success());
}

#[test]
fn etcdbr_takes_their_arguments() {
    let mut seen = 0;
    for file in manifests() {
        for object in objects(&file) {
            for sidecar in sidecars(&object) {
                Etcdbr::new(args(sidecar)).arg("--help").succeed();
                let refused = Etcdbr::new(args(sidecar)).args(["--no-such-flag", "--help"]).run();
                assert_ne!(refused.code, Some(0), "a flag that there is not is taken");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 3);
}

#[test]
fn their_limits_honour_the_memory_budget() {
    for file in manifests() {
        for object in objects(&file) {
            for sidecar in sidecars(&object) {
                let waiting = args(sidecar).iter().find_map(|arg| arg.strip_prefix("--memory-limit=")).map_or(0, mib);
                let limit = mib(sidecar["resources"]["limits"]["memory"].as_str().unwrap());
                assert!(limit >= waiting + OWN_MIB, "{}: {limit} MiB", file.display());
            }
        }
    }
}
