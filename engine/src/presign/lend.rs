//! Uploads a backup as a plain snapshot and signs a URL to it.
//!
//! # Why nothing is left behind where this fails
//! The copy holds everything in the clear, so that its name is removed on every path but the good one: what was sent is
//! aborted, and the object deleted as well, for a commit whose answer was lost may have made it visible.

use std::time::Duration;

use futures::TryStreamExt;

use crate::archive::{
    Archive, BackupEntry, BackupReader, CopyLimits, CopyWriter, PlainCopies, ReadLimits, Selection, select,
};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{PlainCopyName, Protection};
use crate::monitor::{Event, Phase};
use crate::run::RunContext;
use crate::store::{PresignedUrl, SessionEnd};

/// Whether what is encrypted may leave in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Plaintext {
    /// It may not.
    #[default]
    Refused,
    /// The operator said that it may.
    Allowed,
}

/// What the operator wants.
#[derive(Debug, Clone)]
pub struct PresignRequest {
    /// Which backup.
    pub selection: Selection,
    /// How long the URL shall live.
    pub lifetime: Duration,
    /// No longer URL is of use, characters.
    pub max_url_chars: usize,
    /// Whether an encrypted backup may be lent.
    pub plaintext: Plaintext,
    /// Bounds of reading.
    pub limits: ReadLimits,
    /// Bounds of the upload.
    pub upload: CopyLimits,
}

/// A copy that can be made; nothing has been written.
#[derive(Debug)]
pub struct PresignPlan {
    /// The full.
    pub backup: BackupEntry,
    /// The key that its copy will have.
    pub key: String,
    name: PlainCopyName,
    reader: BackupReader,
    request: PresignRequest,
}

/// A copy that can be fetched.
#[derive(Debug)]
pub struct PresignSummary {
    /// The full.
    pub backup: BackupEntry,
    /// The key of its copy.
    pub key: String,
    /// Bytes of the copy.
    pub snapshot_bytes: u64,
    /// Its URL.
    pub url: PresignedUrl,
    /// Copies of earlier calls that are still there; `None` where the store does not tell.
    pub earlier: Option<PlainCopies>,
}

/// Plans a copy, and signs once to see whether that works and what comes of it.
///
/// # Errors
/// `Refused` for an encrypted backup where plaintext is not allowed; `Invalid` for a store that signs no URLs, a lifetime
/// that no signature has, or a URL that would be too long; those of selecting and opening the backup.
pub async fn plan_presign(archive: &Archive, request: PresignRequest, context: &RunContext) -> Result<PresignPlan> {
    let name = PlainCopyName::new(context.clock.now())?;
    sign(archive, &name, &request, context).await?;
    let catalogue = archive.catalogue().await?;
    let backup = select(&catalogue, &request.selection)?.clone();
    let reader = archive.open(&backup.name).await?;
    let encrypted = matches!(reader.header().protection, Protection::Aes256Gcm { .. });
    if encrypted && request.plaintext == Plaintext::Refused {
        let what = format!("{} is encrypted, and whoever has the URL could read all of it", backup.name);
        return Err(Error::new(ErrorKind::Refused, what).hint(
            "give --allow-plaintext if that is meant; the copy lies in the bucket in the clear until it is deleted",
        ));
    }
    let key = archive.copy_key(&name);
    Ok(PresignPlan { backup, key, name, reader, request })
}

impl PresignPlan {
    /// Bytes that will be uploaded.
    pub fn snapshot_bytes(&self) -> u64 {
        self.reader.snapshot_bytes()
    }
}

/// Runs a plan: uploads the copy, then signs its URL, whose time counts from then.
///
/// # Errors
/// `Damaged` for a backup that is not whole; those of the store; `Interrupted`. No copy is left then, or the error says
/// that one may be.
pub async fn run_presign(archive: &Archive, plan: PresignPlan, context: &RunContext) -> Result<PresignSummary> {
    let mut writer = archive.copy_writer(&plan.name, plan.request.upload);
    let lent = async {
        context.unless_stopped(transfer(&plan, &mut writer, context)).await?;
        writer.commit().await?;
        context.unless_stopped(sign(archive, &plan.name, &plan.request, context)).await
    };
    let url = match lent.await {
        Ok(url) => url,
        Err(error) => return Err(take_back(archive, &plan, writer, error).await),
    };
    context.monitor.tell(Event::End(Phase::Upload));
    // Only told: a writer need not be allowed to list.
    let earlier = context.unless_stopped(archive.copies()).await.ok().map(|mut found| {
        found.copies.retain(|copy| copy.name != plan.name);
        found
    });
    let snapshot_bytes = plan.snapshot_bytes();
    Ok(PresignSummary { backup: plan.backup, key: plan.key, snapshot_bytes, url, earlier })
}

async fn transfer(plan: &PresignPlan, writer: &mut CopyWriter, context: &RunContext) -> Result<()> {
    context.monitor.tell(Event::Begin { phase: Phase::Upload, total_bytes: plan.snapshot_bytes() });
    let mut pieces = std::pin::pin!(plan.reader.snapshot(plan.request.limits));
    let mut plain_bytes = 0;
    while let Some(piece) = pieces.try_next().await? {
        writer.push(&piece).await?;
        plain_bytes += piece.len() as u64;
        context.monitor.tell(Event::Progress { plain_bytes, stored_bytes: 0 });
    }
    writer.flush().await
}

async fn sign(
    archive: &Archive,
    name: &PlainCopyName,
    request: &PresignRequest,
    context: &RunContext,
) -> Result<PresignedUrl> {
    let now = context.clock.now();
    let url = archive.presign_copy(name, now, request.lifetime).await?;
    let chars = url.url.expose().chars().count();
    if chars > request.max_url_chars {
        let token = if url.session == SessionEnd::Lasting {
            "use a shorter --store-prefix or bucket name"
        } else {
            "the token of the temporary credentials takes most of it: sign with lasting ones"
        };
        let what = format!("the URL would have {chars} characters, more than {}", request.max_url_chars);
        return Err(Error::new(ErrorKind::Invalid, what)
            .hint(format!("{token}, or raise --max-url-length where its reader takes more")));
    }
    if url.end() <= now {
        return Err(Error::new(ErrorKind::Denied, format!("the credentials that would sign ended at {}", url.end()))
            .hint("renew the temporary credentials"));
    }
    Ok(url)
}

/// Removes what there is of a copy because of `error`, which is returned; it says so where that failed as well.
async fn take_back(archive: &Archive, plan: &PresignPlan, mut writer: CopyWriter, error: Error) -> Error {
    let aborted = writer.abort().await;
    let deleted = archive.delete_copies(&[plan.name]).await;
    match aborted.and(deleted) {
        Ok(_) => error,
        Err(left) => {
            let key = &plan.key;
            error.about(format!(
                "({key} may be left behind, in the clear; `etcdbr presign --delete` removes it: {left})"
            ))
        }
    }
}
