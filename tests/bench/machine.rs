//! What kind of machine the figures are from: enough to compare, nothing that names it.

use std::fs::read_to_string;
use std::path::Path;
use std::process::Command;

use etcdbr_tests::etcd::EtcdVersion;

/// One line: processor, memory, kernel, file system, versions.
pub(crate) fn describe(dir: &Path) -> String {
    let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&cpuinfo, "model name").unwrap_or("processor unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = field(&memory, "MemTotal").and_then(|kb| kb.trim_end_matches(" kB").parse().ok()).unwrap_or(0);
    let release = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<&str> = release.trim().split('.').take(2).collect();
    let versions: Vec<String> =
        [EtcdVersion::V3_5_1, EtcdVersion::V3_5, EtcdVersion::V3_6, EtcdVersion::V3_7].map(version_of).to_vec();
    format!(
        "{cores} cores ({model}), {} GiB, Linux {}, {}; etcd {}",
        kib.div_ceil(1 << 20),
        kernel.join("."),
        file_system(dir),
        versions.join(", ")
    )
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start().strip_prefix(':')?.trim())
}

/// The kind of the file system that holds `dir`: that of the longest mount point above it.
fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = read_to_string("/proc/mounts").unwrap_or_default();
    let mut fields = mounts.lines().map(|line| line.split(' '));
    let kind = fields
        .by_ref()
        .filter_map(|mut mount| Some((mount.next()?, mount.next()?, mount.next()?)))
        .filter(|(_, at, _)| dir.starts_with(at))
        .max_by_key(|(_, at, _)| at.len());
    kind.map_or_else(String::new, |(device, _, kind)| {
        let virtual_disk = if device.starts_with("/dev/vd") { " on a virtual disk" } else { "" };
        format!("{kind}{virtual_disk}")
    })
}

fn version_of(version: EtcdVersion) -> String {
    let output = Command::new(version.dir().join("etcd")).arg("--version").output().expect("etcd runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    field(&said, "etcd Version").unwrap_or("?").to_owned()
}
