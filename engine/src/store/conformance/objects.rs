//! Checks of single objects.

use bytes::Bytes;

use super::{Place, ensure, ensure_equal, ensure_fails, pattern};
use crate::error::{ErrorKind, Result};
use crate::store::object::{ByteRange, ETag};

pub(super) async fn what_is_put_is_read_back(place: &Place<'_>) -> Result<()> {
    for bytes in [1, 2, 4_095, 1 << 20] {
        let body = pattern(bytes);
        let key = place.put(&format!("object-{bytes}"), body.clone()).await?;
        let answer = place.store.read(&key, ByteRange::Exact { start: 0, len: bytes }, None).await?;
        ensure(answer.bytes == body, || format!("{bytes} bytes came back different"))?;
        ensure_equal(&(answer.start, answer.object_bytes), &(0, bytes), "start and size")?;
    }
    Ok(())
}

pub(super) async fn empty_objects_are_refused(place: &Place<'_>) -> Result<()> {
    let key = place.key("empty");
    ensure_fails(place.store.put(&key, Bytes::new()).await, ErrorKind::Invalid, "an empty put")?;
    ensure_fails(place.store.head(&key).await, ErrorKind::NotFound, "head of what was refused")
}

pub(super) async fn ranges_give_exactly_what_was_asked_for(place: &Place<'_>) -> Result<()> {
    let body = pattern(100_000);
    let key = place.put("object", body.clone()).await?;
    let exact = |start, len| (ByteRange::Exact { start, len }, start, len);
    let suffix = |len: u64| (ByteRange::Suffix(len), 100_000_u64.saturating_sub(len), len.min(100_000));
    let ranges = [
        exact(0, 1),
        exact(1, 99_999),
        exact(99_999, 1),
        exact(40_000, 20_000),
        suffix(1),
        suffix(100_000),
        suffix(100_001),
        suffix(u64::from(u32::MAX)),
    ];
    for (range, start, len) in ranges {
        let answer = place.store.read(&key, range, None).await.map_err(|error| error.about(format!("{range:?}")))?;
        let expected = body.slice(start as usize..(start + len) as usize);
        ensure(answer.bytes == expected, || format!("{range:?} gave other bytes"))?;
        ensure_equal(&(answer.start, answer.object_bytes), &(start, 100_000), "start and size")?;
    }
    Ok(())
}

pub(super) async fn ranges_past_the_end_are_damage(place: &Place<'_>) -> Result<()> {
    let key = place.put("object", pattern(1_000)).await?;
    for (start, len) in [(999, 2), (0, 1_001), (1_000, 1), (5_000, 10), (u64::MAX - 1, 2)] {
        let range = ByteRange::Exact { start, len };
        let answer = place.store.read(&key, range, None).await;
        ensure_fails(answer, ErrorKind::Damaged, &format!("{range:?} of 1000 bytes"))?;
    }
    for range in [ByteRange::Suffix(0), ByteRange::Exact { start: 0, len: 0 }] {
        ensure_fails(place.store.read(&key, range, None).await, ErrorKind::Invalid, &format!("{range:?}"))?;
    }
    Ok(())
}

pub(super) async fn another_version_is_damage(place: &Place<'_>) -> Result<()> {
    let key = place.put("object", pattern(100)).await?;
    let range = ByteRange::Exact { start: 10, len: 10 };
    let etag = place.store.read(&key, range, None).await?.etag;
    ensure_equal(&place.store.read(&key, range, Some(&etag)).await?.etag, &etag, "the pinned version")?;
    let other = ETag("\"00000000000000000000000000000000\"".to_owned());
    ensure_fails(place.store.read(&key, range, Some(&other)).await, ErrorKind::Damaged, "a read of another version")?;
    place.store.delete(std::slice::from_ref(&key)).await?;
    place.put("object", pattern(101)).await?;
    ensure_fails(place.store.read(&key, range, Some(&etag)).await, ErrorKind::Damaged, "a read of what was replaced")
}

pub(super) async fn what_is_missing_is_not_found(place: &Place<'_>) -> Result<()> {
    place.put("there/object", pattern(1)).await?;
    for name in ["object", "there", "there/object/below", "there/obj"] {
        let key = place.key(name);
        ensure_fails(place.store.head(&key).await, ErrorKind::NotFound, &format!("head of {name}"))?;
        let read = place.store.read(&key, ByteRange::Suffix(1), None).await;
        ensure_fails(read, ErrorKind::NotFound, &format!("read of {name}"))?;
    }
    Ok(())
}

pub(super) async fn head_tells_size_and_version(place: &Place<'_>) -> Result<()> {
    let key = place.put("object", pattern(1_234)).await?;
    let meta = place.store.head(&key).await?;
    ensure_equal(&(meta.key.as_str(), meta.bytes), &(key.as_str(), 1_234), "key and size")?;
    ensure(meta.modified.0 > 0, || "no time".to_owned())?;
    let read = place.store.read(&key, ByteRange::Suffix(1), Some(&meta.etag)).await?;
    ensure_equal(&read.etag, &meta.etag, "the version read")
}

pub(super) async fn delete_is_idempotent(place: &Place<'_>) -> Result<()> {
    let mut keys = Vec::new();
    for number in 0..20 {
        keys.push(place.put(&format!("folder/{number}"), pattern(1)).await?);
    }
    let kept = place.put("folder/kept", pattern(1)).await?;
    keys.push(place.key("folder/never-there"));
    place.store.delete(&keys).await?;
    place.store.delete(&keys).await?;
    place.store.delete(&[]).await?;
    ensure_equal(&place.keys().await?, &vec![kept], "keys that are left")
}

pub(super) async fn bad_keys_are_refused(place: &Place<'_>) -> Result<()> {
    for key in ["", "/absolute", "a//b", "a/../b", "..", "folder/", "a\0b"] {
        let put = place.store.put(key, pattern(1)).await;
        ensure_fails(put, ErrorKind::Invalid, &format!("put of {key:?}"))?;
        let read = place.store.read(key, ByteRange::Suffix(1), None).await;
        ensure_fails(read, ErrorKind::Invalid, &format!("read of {key:?}"))?;
    }
    Ok(())
}

pub(super) async fn odd_keys_go_through(place: &Place<'_>) -> Result<()> {
    let names =
        ["a b", "a+b", "a%20b", "a&b=<c>'\"", "ключ/ünï", "~tilde/.dot", "question?mark#hash", "semi;colon,comma@at"];
    let mut expected = Vec::new();
    for (name, bytes) in names.iter().zip(1..) {
        let key = place.put(name, pattern(bytes)).await.map_err(|error| error.about(name))?;
        let meta = place.store.head(&key).await.map_err(|error| error.about(name))?;
        ensure_equal(&meta.bytes, &bytes, name)?;
        expected.push(key);
    }
    expected.sort();
    ensure_equal(&place.keys().await?, &expected, "listed keys")
}
