//! Checks of listings.

use futures::{StreamExt, TryStreamExt};

use super::{Place, ensure, ensure_equal, pattern};
use crate::error::Result;
use crate::store::listing::ListDepth;

/// Objects under way at once while a listing is filled.
const PUTS_IN_FLIGHT: usize = 16;

async fn fill(place: &Place<'_>, names: &[String]) -> Result<Vec<String>> {
    let puts = names.iter().map(|name| place.put(name, pattern(1))).collect::<Vec<_>>();
    let mut keys: Vec<String> = futures::stream::iter(puts).buffer_unordered(PUTS_IN_FLIGHT).try_collect().await?;
    keys.sort();
    Ok(keys)
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub(super) async fn keys_come_in_byte_order(place: &Place<'_>) -> Result<()> {
    // `-` and `.` sort before `/`, which sorts before `0`.
    let names = owned(&["a/b", "a-b", "a.b", "a0", "a/b-/c", "a/b0", "B", "b", "a-b-/x", "a/c/d/e", "é"]);
    let keys = fill(place, &names).await?;
    ensure_equal(&place.keys().await?, &keys, "listed keys")
}

pub(super) async fn start_after_is_exclusive(place: &Place<'_>) -> Result<()> {
    let keys = fill(place, &owned(&["a", "a-b", "a-b0", "c/d", "c/e/f", "c/g", "h"])).await?;
    let mut marks = keys.clone();
    marks.extend(["a-", "a-b/", "c", "c/", "c/e", "c/e/", "c/e/f0", "z"].map(|name| place.key(name)));
    for mark in marks {
        let expected: Vec<_> = keys.iter().filter(|key| **key > mark).cloned().collect();
        let listed = place.list(&place.folder, Some(mark.clone()), ListDepth::All).await?;
        ensure_equal(&listed.keys, &expected, &format!("keys after {mark}"))?;
    }
    Ok(())
}

pub(super) async fn a_prefix_with_its_slash_is_exact(place: &Place<'_>) -> Result<()> {
    fill(place, &owned(&["etcd/a", "etcd-2/a", "etcd2/a", "etc"])).await?;
    for (prefix, expected) in [
        ("etcd/", &["etcd/a"][..]),
        ("etcd", &["etcd-2/a", "etcd/a", "etcd2/a"]),
        ("etcd-", &["etcd-2/a"]),
        ("etcd/a", &["etcd/a"]),
        ("etcd/a/", &[]),
        ("nothing/", &[]),
    ] {
        let expected: Vec<_> = expected.iter().map(|name| place.key(name)).collect();
        let listed = place.list(&place.key(prefix), None, ListDepth::All).await?;
        ensure_equal(&listed.keys, &expected, &format!("keys under {prefix}"))?;
    }
    Ok(())
}

pub(super) async fn folders_stand_for_what_is_deeper(place: &Place<'_>) -> Result<()> {
    fill(place, &owned(&["a", "b/c", "b/d/e", "b-/f", "g/h/i"])).await?;
    let listed = place.list(&place.folder, None, ListDepth::Folder).await?;
    ensure_equal(&listed.keys, &vec![place.key("a")], "objects")?;
    ensure_equal(&listed.folders, &["b-/", "b/", "g/"].map(|name| place.key(name)).to_vec(), "folders")?;
    let listed = place.list(&place.folder, Some(place.key("b/")), ListDepth::Folder).await?;
    ensure_equal(&listed.folders, &vec![place.key("g/")], "folders after b/")?;
    let listed = place.list(&place.key("b/"), None, ListDepth::Folder).await?;
    ensure_equal(&(listed.keys, listed.folders), &(vec![place.key("b/c")], vec![place.key("b/d/")]), "under b/")?;
    // A folder goes with its last object.
    place.store.delete(&[place.key("g/h/i")]).await?;
    let listed = place.list(&place.folder, Some(place.key("b/")), ListDepth::Folder).await?;
    ensure_equal(&listed.folders, &vec![], "folders after g/h/i is deleted")
}

pub(super) async fn long_listings_come_in_pages(place: &Place<'_>) -> Result<()> {
    let names: Vec<_> = (0..place.scale.listed_keys).map(|n| format!("{}/{n:06}", n % 3)).collect();
    let keys = fill(place, &names).await?;
    let listed = place.list(&place.folder, None, ListDepth::All).await?;
    ensure(listed.keys == keys, || format!("{} of {} keys, or in another order", listed.keys.len(), keys.len()))?;
    let pages = keys.len().div_ceil(1_000);
    ensure(listed.pages >= pages, || format!("{} pages, expected {pages}", listed.pages))?;
    let tail = place.list(&place.folder, Some(keys[keys.len() - 3].clone()), ListDepth::All).await?;
    ensure_equal(&tail.keys, &keys[keys.len() - 2..].to_vec(), "the last two keys")
}

pub(super) async fn long_listings_of_folders_come_in_pages(place: &Place<'_>) -> Result<()> {
    let names: Vec<_> = (0..place.scale.listed_keys).map(|n| format!("{n:06}/object")).collect();
    fill(place, &names).await?;
    let folders: Vec<_> = (0..place.scale.listed_keys).map(|n| place.key(&format!("{n:06}/"))).collect();
    let listed = place.list(&place.folder, None, ListDepth::Folder).await?;
    ensure(listed.folders == folders, || format!("{} of {} folders, or doubled", listed.folders.len(), folders.len()))
}
