//! Whether everything is there that backups and restores will need, before they need it: one verdict a question.
//!
//! What can be asked without harm is asked: nothing of etcd is written, and HashKV, for which a member stands still, is
//! left alone. Of the store, a few small objects are written under a place of their own beside the archive's, read in
//! every way that a restore reads, and removed.

mod finding;
mod known;
mod source;
mod stored;

pub use finding::{Finding, Subject, Verdict};
pub use known::known_faults;

use crate::archive::Archive;
use crate::etcd::EtcdOptions;
use crate::run::RunContext;

/// Asks `etcd` and `archive`, each where it is given. What fails is a finding, not an error.
pub async fn examine(etcd: Option<&EtcdOptions>, archive: Option<&Archive>, context: &RunContext) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(options) = etcd {
        findings.extend(source::examine(options, context).await);
    }
    if let Some(archive) = archive {
        findings.extend(stored::examine(archive, context).await);
    }
    findings
}
