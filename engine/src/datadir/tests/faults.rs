//! The n-th file operation of an install fails, for every n; and the order in which they come.

use std::io;

use super::super::disk::trouble::{Reach, during};
use super::*;

/// What a restore does to the disk when it has to last.
fn durable_restore(data_dir: &Path, image: &[u8]) -> Result<PathBuf> {
    let mut staged = StagedDataDir::create(data_dir, 1 << 20, StageOptions::default())?;
    for piece in image.chunks(image.len() / 3) {
        staged.write_image(piece)?;
    }
    Ok(finished(staged, &membership())?.install()?.path)
}

/// Records behind those of the image.
fn later() -> impl Iterator<Item = Record> {
    (700..1_500).map(|main| put(main, "/b", 0))
}

/// The same where records are added to the image.
fn durable_append(data_dir: &Path, image: &[u8]) -> Result<PathBuf> {
    let mut staged = StagedDataDir::create(data_dir, 1 << 20, StageOptions::default())?;
    staged.write_image(image)?;
    let base = staged.image()?;
    staged.grow(&base, |growth| {
        for record in later() {
            growth.append(std::iter::once(Ok(record.as_ref())))?;
        }
        growth.change_leases(&LeaseChanges { granted: BTreeMap::from([(9, 60)]), ..LeaseChanges::default() })
    })?;
    Ok(finished(staged, &membership())?.install()?.path)
}

/// The same where the database is written anew.
fn durable_rewrite(data_dir: &Path, image: &[u8]) -> Result<PathBuf> {
    let mut staged = StagedDataDir::create(data_dir, 1 << 20, StageOptions::default())?;
    let mut scratch = staged.scratch()?;
    scratch.write_image(image)?;
    let base = scratch.image()?;
    staged.compose(&base, |composition| {
        base.records(Scrutiny::Strict, &mut |record| composition.push(record))?;
        later().try_for_each(|record| composition.push(&record.as_ref()))?;
        Ok(((), Remainder::default()))
    })?;
    Ok(finished(staged, &membership())?.install()?.path)
}

/// Mode, owner, group, and the contents of a file.
type Seen = (u32, u32, u32, Option<Vec<u8>>);

/// Everything under `dir`: mode, owner, and what a file holds.
fn picture(dir: &Path) -> BTreeMap<PathBuf, Seen> {
    let found = fs::metadata(dir).unwrap();
    let contents = found.is_file().then(|| fs::read(dir).unwrap());
    let mut all = BTreeMap::from([(dir.to_owned(), (found.mode(), found.uid(), found.gid(), contents))]);
    if found.is_dir() {
        names(dir).iter().for_each(|name| all.extend(picture(&dir.join(name))));
    }
    all
}

/// A place for a data directory of this name: with parents that are missing, absent, or there and somebody else's.
fn site(data_dir: &str) -> (TempDir, PathBuf) {
    let temp = TempDir::new().unwrap();
    let data_dir = temp.path().join(data_dir);
    if data_dir == temp.path() {
        fs::create_dir(temp.path().join("lost+found")).unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o750)).unwrap();
        // Only root can give files away.
        let _ = std::os::unix::fs::chown(temp.path(), Some(12_345), Some(54_321));
    }
    (temp, data_dir)
}

fn is_stage(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains("etcdbr-"))
}

#[test]
fn a_fault_at_any_file_operation_leaves_the_target_as_it_was() {
    faults_leave_the_target_as_it_was(&["", "etcd", "a/b/etcd"], durable_restore, 0);
}

#[test]
fn a_fault_at_any_file_operation_of_an_append_leaves_the_target_as_it_was() {
    faults_leave_the_target_as_it_was(&["", "etcd"], durable_append, 800);
}

#[test]
fn a_fault_at_any_file_operation_of_a_rewrite_leaves_the_target_as_it_was() {
    faults_leave_the_target_as_it_was(&["", "etcd"], durable_rewrite, 800);
}

/// How many of the records that follow the image an installed database has.
fn records_behind_the_image(data_dir: &Path) -> usize {
    let buckets = buckets_of(&fs::read(data_dir.join("member/snap/db")).unwrap());
    buckets["key"].keys().filter(|key| **key >= revision_key(700)).count()
}

type Restoring = fn(&Path, &[u8]) -> Result<PathBuf>;

/// Every fault of `restoring`, which adds so many records to those of the image.
fn faults_leave_the_target_as_it_was(names: &[&str], restoring: Restoring, added: usize) {
    let image = image_of(&buckets());
    for (name, reach) in names.iter().flat_map(|name| [(*name, Reach::Once), (*name, Reach::FromThenOn)]) {
        for nth in 1.. {
            let (temp, data_dir) = site(name);
            let before = picture(temp.path());
            let kind = if nth % 2 == 0 { io::ErrorKind::StorageFull } else { io::ErrorKind::PermissionDenied };
            let (done, operations) = during(nth, reach, kind, || restoring(&data_dir, &image));
            let what = format!("{name:?} {reach:?} {nth}: {:?}", operations.get(nth - 1));
            let Some((action, path)) = operations.get(nth - 1) else {
                assert!(nth > 30, "{what}: too few operations");
                done.expect(&what);
                assert_eq!(records_behind_the_image(&data_dir), added, "{what}");
                break;
            };
            if data_dir.join("member").exists() {
                is_whole(&data_dir);
                assert_eq!(records_behind_the_image(&data_dir), added, "{what}");
                // Clearing up is not worth an error; a name that may not last is.
                assert!(["remove", "sync"].contains(action), "{what}");
                if *action == "sync" || reach == Reach::FromThenOn {
                    let error = done.expect_err(&what);
                    assert!(error.next_step().is_some_and(|hint| hint.contains("in place")), "{what}: {error:?}");
                }
                continue;
            }
            let error = done.expect_err(&what);
            assert_eq!(error.kind(), ErrorKind::Local, "{what}: {error}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{what}: {error}");
            assert_eq!(error.next_step().is_some(), kind == io::ErrorKind::StorageFull, "{what}: {error:?}");
            let mut after = picture(temp.path());
            if reach == Reach::FromThenOn {
                // Nothing could be taken back. The next restore does that.
                after.retain(|path, _| {
                    before.contains_key(path)
                        || !path.ancestors().any(is_stage) && !path.ends_with("a") && !path.ends_with("a/b")
                });
            }
            assert_eq!(after, before, "{what}");
            restore(&data_dir).expect(&what);
            is_whole(&data_dir);
            assert!(!picture(temp.path()).keys().any(|path| is_stage(path)), "{what}: a leftover");
        }
    }
}

/// What a rename makes visible has been synced before it, and the names that it changes are synced after it.
#[test]
fn everything_is_synced_before_it_is_named() {
    for (name, renamed) in [("", "member"), ("etcd", "etcd"), ("a/b/etcd", "a/b/etcd")] {
        let (temp, data_dir) = site(name);
        let (done, operations) =
            during(usize::MAX, Reach::Once, io::ErrorKind::Other, || durable_restore(&data_dir, &image_of(&buckets())));
        done.unwrap();
        let renamed = temp.path().join(renamed);
        let rename =
            operations.iter().position(|(action, path)| action.starts_with("rename") && *path == renamed).unwrap();
        let (before, after) = operations.split_at(rename);
        for (at, (action, path)) in before.iter().enumerate().filter(|(_, (_, path))| is_in_stage(path)) {
            let synced = before[at..].iter().any(|(later, other)| *later == "sync" && other == path);
            let holds_nothing_that_lasts = name.is_empty() && is_stage(path);
            assert!(
                synced
                    || !["create", "write", "allocate", "cut", "change the owner of"].contains(action)
                    || holds_nothing_that_lasts,
                "{action} {path:?}"
            );
        }
        let synced = |path: &Path| after.iter().any(|(action, other)| *action == "sync" && other == path);
        assert!(synced(renamed.parent().unwrap()), "{after:?}");
        assert!(name != "a/b/etcd" || synced(&temp.path().join("a")) && synced(temp.path()), "{after:?}");
        // The metas make the new root valid: all else is on disk before they are.
        let db: Vec<_> =
            before.iter().filter(|(_, path)| path.ends_with("snap/db")).map(|(action, _)| *action).collect();
        let rewrite: Vec<_> = db.iter().skip_while(|action| **action != "cut").copied().collect();
        assert!(
            rewrite.ends_with(&["write", "sync", "write", "write", "sync"])
                || rewrite.ends_with(&["write", "sync", "write", "write", "sync", "change the owner of", "sync"]),
            "{rewrite:?}"
        );
    }
}

fn export(path: &Path) -> Result<PathBuf> {
    let mut file = PlainFile::create(path, 6, Durability::Fsync)?;
    file.write_image(b"im")?;
    file.write_image(b"age!")?;
    file.install([7; 32])
}

#[test]
fn a_fault_at_any_file_operation_of_an_export_leaves_no_file() {
    for reach in [Reach::Once, Reach::FromThenOn] {
        for nth in 1.. {
            let temp = TempDir::new().unwrap();
            let path = temp.path().join("snapshot.db");
            let (done, operations) = during(nth, reach, io::ErrorKind::StorageFull, || export(&path));
            let what = format!("{reach:?} {nth}: {:?}", operations.get(nth - 1));
            let Some((action, struck)) = operations.get(nth - 1) else {
                assert!(nth > 8, "{what}: too few operations");
                assert_eq!(fs::read(done.expect(&what)).unwrap(), [b"image!".as_slice(), &[7; 32]].concat());
                break;
            };
            let error = done.expect_err(&what);
            assert_eq!(error.kind(), ErrorKind::Local, "{what}: {error}");
            assert!(error.to_string().contains(struck.to_str().unwrap()), "{what}: {error}");
            if path.exists() {
                assert!(*action == "sync" && error.next_step().unwrap().contains("in place"), "{what}: {error:?}");
                assert_eq!(fs::read(&path).unwrap().len(), 6 + 32, "{what}");
                continue;
            }
            assert!(reach == Reach::FromThenOn || names(temp.path()).is_empty(), "{what}: a leftover");
            export(&path).expect(&what);
            assert_eq!(names(temp.path()), ["snapshot.db"], "{what}: a leftover");
        }
    }
}

fn is_in_stage(path: &Path) -> bool {
    path.ancestors().any(is_stage)
}
