//! Checks of uploads in parts.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;

use super::{Place, ensure, ensure_equal, ensure_fails, pattern};
use crate::error::{ErrorKind, Result};
use crate::store::contract::Upload;
use crate::store::object::{ByteRange, PartNumber};

/// The body cut into parts, numbered from 1.
fn parts(body: &Bytes, part_bytes: u64) -> Vec<(PartNumber, Bytes)> {
    let part_bytes = part_bytes as usize;
    let starts = (0..body.len()).step_by(part_bytes);
    starts.zip(1..).map(|(at, n)| (PartNumber(n), body.slice(at..body.len().min(at + part_bytes)))).collect()
}

async fn start(place: &Place<'_>, name: &str) -> Result<Arc<dyn Upload>> {
    place.store.start_upload(&place.key(name), place.scale.part_bytes).await
}

async fn ensure_holds(place: &Place<'_>, name: &str, body: &Bytes) -> Result<()> {
    let range = ByteRange::Exact { start: 0, len: body.len() as u64 };
    let answer = place.store.read(&place.key(name), range, None).await?;
    ensure_equal(&answer.object_bytes, &(body.len() as u64), "size")?;
    ensure(answer.bytes == *body, || format!("{name} came back different"))
}

pub(super) async fn uploads_of_every_size_are_read_back(place: &Place<'_>) -> Result<()> {
    let part = place.scale.part_bytes;
    for bytes in [1, part - 1, part, part + 1, 2 * part, 2 * part + 7] {
        let (name, body) = (format!("upload-{bytes}"), pattern(bytes));
        let upload = start(place, &name).await?;
        for (number, piece) in parts(&body, part) {
            upload.put_part(number, piece).await?;
        }
        upload.complete().await.map_err(|error| error.about(format!("{bytes} bytes")))?;
        ensure_holds(place, &name, &body).await?;
    }
    Ok(())
}

pub(super) async fn parts_may_come_at_once_and_out_of_order(place: &Place<'_>) -> Result<()> {
    let body = pattern(4 * place.scale.part_bytes + 1);
    let upload = start(place, "upload").await?;
    let pieces = parts(&body, place.scale.part_bytes).into_iter().rev();
    try_join_all(pieces.map(|(number, piece)| upload.put_part(number, piece))).await?;
    upload.complete().await?;
    ensure_holds(place, "upload", &body).await
}

pub(super) async fn a_part_may_be_sent_again(place: &Place<'_>) -> Result<()> {
    let body = pattern(2 * place.scale.part_bytes);
    let upload = start(place, "upload").await?;
    for _ in 0..2 {
        for (number, piece) in parts(&body, place.scale.part_bytes) {
            upload.put_part(number, piece).await?;
        }
    }
    upload.complete().await?;
    ensure_holds(place, "upload", &body).await
}

pub(super) async fn nothing_is_visible_before_complete(place: &Place<'_>) -> Result<()> {
    let body = pattern(place.scale.part_bytes + 1);
    let upload = start(place, "folder/upload").await?;
    for (number, piece) in parts(&body, place.scale.part_bytes) {
        upload.put_part(number, piece).await?;
        let key = place.key("folder/upload");
        ensure_fails(place.store.head(&key).await, ErrorKind::NotFound, "head before complete")?;
        ensure_equal(&place.keys().await?, &vec![], "keys before complete")?;
    }
    upload.complete().await?;
    ensure_equal(&place.keys().await?, &vec![place.key("folder/upload")], "keys after complete")?;
    ensure_equal(&place.store.pending_uploads(&place.folder).await?, &vec![], "pending after complete")
}

pub(super) async fn abort_leaves_nothing(place: &Place<'_>) -> Result<()> {
    let upload = start(place, "upload").await?;
    upload.put_part(PartNumber(1), pattern(place.scale.part_bytes)).await?;
    upload.abort().await?;
    upload.abort().await?;
    ensure_equal(&place.keys().await?, &vec![], "keys after abort")?;
    ensure_equal(&place.store.pending_uploads(&place.folder).await?, &vec![], "pending after abort")?;
    ensure(upload.put_part(PartNumber(2), pattern(1)).await.is_err(), || "a part was taken after abort".to_owned())?;
    ensure(upload.complete().await.is_err(), || "complete succeeded after abort".to_owned())?;
    ensure_equal(&place.keys().await?, &vec![], "keys after all")
}

pub(super) async fn incomplete_uploads_are_refused(place: &Place<'_>) -> Result<()> {
    let part = place.scale.part_bytes;
    let cases: [&[(u32, u64)]; 4] = [&[], &[(2, part)], &[(1, part), (3, 1)], &[(1, part - 1), (2, 1)]];
    for sent in cases {
        let upload = start(place, "upload").await?;
        for &(number, bytes) in sent {
            upload.put_part(PartNumber(number), pattern(bytes)).await?;
        }
        ensure_fails(upload.complete().await, ErrorKind::Invalid, &format!("complete of parts {sent:?}"))?;
        upload.abort().await?;
    }
    let upload = start(place, "upload").await?;
    for (number, bytes) in [(0, part), (10_001, part), (1, part + 1), (1, 0)] {
        let answer = upload.put_part(PartNumber(number), pattern(bytes)).await;
        ensure_fails(answer, ErrorKind::Invalid, &format!("part {number} of {bytes} bytes"))?;
    }
    upload.abort().await?;
    ensure_equal(&place.keys().await?, &vec![], "keys after all")
}

pub(super) async fn pending_uploads_are_listed_and_aborted(place: &Place<'_>) -> Result<()> {
    let (ours, other) = (start(place, "ours/upload").await?, start(place, "ours-too/upload").await?);
    ours.put_part(PartNumber(1), pattern(place.scale.part_bytes)).await?;
    other.put_part(PartNumber(1), pattern(place.scale.part_bytes)).await?;
    let pending = place.store.pending_uploads(&place.key("ours/")).await?;
    let keys: Vec<_> = pending.iter().map(|upload| upload.key.clone()).collect();
    ensure_equal(&keys, &vec![place.key("ours/upload")], "pending uploads under ours/")?;
    ensure(pending[0].started.0 > 0, || "no time".to_owned())?;
    for _ in 0..2 {
        place.store.abort_pending(&pending[0]).await?;
    }
    ensure_equal(&place.store.pending_uploads(&place.key("ours/")).await?, &vec![], "pending after abort")?;
    ensure(ours.complete().await.is_err(), || "complete succeeded after its upload was aborted".to_owned())?;
    other.complete().await?;
    ensure_equal(&place.keys().await?, &vec![place.key("ours-too/upload")], "keys after all")
}
