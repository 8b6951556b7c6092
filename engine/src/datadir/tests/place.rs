//! Where a data directory comes to be: its modes and owners, what stands in its place, and what another restore left there.

use super::*;

#[test]
fn a_data_dir_that_does_not_exist_comes_into_being() {
    let temp = TempDir::new().unwrap();
    let data_dir = temp.path().join("etcd");
    assert_eq!(restore(&data_dir).unwrap(), data_dir);
    is_whole(&data_dir);
    assert_eq!(names(temp.path()), ["etcd"]);
}

#[test]
fn modes_are_those_that_etcd_asks_for() {
    let temp = TempDir::new().unwrap();
    let data_dir = restore(&temp.path().join("etcd")).unwrap();
    let mode = |path: &str| fs::metadata(data_dir.join(path)).unwrap().permissions().mode() & 0o777;
    for dir in ["", "member", "member/snap", "member/wal"] {
        assert_eq!(mode(dir), 0o700, "{dir}");
    }
    let snap = "member/snap/0000000000000001-0000000000000001.snap";
    for file in ["member/snap/db", "member/wal/0000000000000000-0000000000000000.wal", snap] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
}

#[test]
fn everything_can_be_synced_and_the_wal_allocated() {
    let temp = TempDir::new().unwrap();
    let options = StageOptions::default();
    let mut staged = StagedDataDir::create(&temp.path().join("a/b/etcd"), 1 << 20, options).unwrap();
    staged.write_image(&image_of(&buckets())).unwrap();
    let data_dir = finished(staged, &membership()).unwrap().install().unwrap().path;
    is_whole(&data_dir);
    let wal = data_dir.join("member/wal/0000000000000000-0000000000000000.wal");
    assert_eq!(fs::metadata(&wal).unwrap().len(), 64_000_000);
    assert_eq!(read_wal(&fs::read(&wal).unwrap()).unwrap().member, membership().own().id);
}

#[test]
fn a_slash_at_the_end_changes_nothing() {
    let temp = TempDir::new().unwrap();
    let data_dir = temp.path().join("etcd");
    let with_slash = PathBuf::from(format!("{}/", data_dir.display()));
    assert_eq!(restore(&with_slash).unwrap(), data_dir);
    fs::remove_dir_all(data_dir.join("member")).unwrap();
    assert_eq!(restore(&with_slash).unwrap(), data_dir);
    is_whole(&data_dir);
}

#[test]
fn an_existing_empty_dir_keeps_its_owner_mode_and_attributes() {
    let temp = TempDir::new().unwrap();
    let data_dir = temp.path().join("etcd");
    fs::create_dir(&data_dir).unwrap();
    fs::set_permissions(&data_dir, fs::Permissions::from_mode(0o750)).unwrap();
    let before = fs::metadata(&data_dir).unwrap();
    restore(&data_dir).unwrap();
    let after = fs::metadata(&data_dir).unwrap();
    assert_eq!((before.ino(), before.mode(), before.uid()), (after.ino(), after.mode(), after.uid()));
    is_whole(&data_dir);
    assert_eq!(names(&data_dir), ["member"]);
}

#[test]
fn what_root_restores_belongs_to_the_owner_of_the_data_dir() {
    let temp = TempDir::new().unwrap();
    if fs::metadata(temp.path()).unwrap().uid() != 0 {
        return; // Only root can give files away.
    }
    std::os::unix::fs::chown(temp.path(), Some(12_345), Some(54_321)).unwrap();
    restore(temp.path()).unwrap();
    for path in ["member", "member/snap", "member/snap/db", "member/wal/0000000000000000-0000000000000000.wal"] {
        let found = fs::metadata(temp.path().join(path)).unwrap();
        assert_eq!((found.uid(), found.gid()), (12_345, 54_321), "{path}");
    }
}

#[test]
fn lost_and_found_is_not_content() {
    let temp = TempDir::new().unwrap();
    fs::create_dir(temp.path().join("lost+found")).unwrap();
    restore(temp.path()).unwrap();
    assert_eq!(names(temp.path()), ["lost+found", "member"]);
}

#[test]
fn a_symbolic_link_to_a_dir_is_followed_and_one_to_nothing_refused() {
    let temp = TempDir::new().unwrap();
    let link = temp.path().join("link");
    symlink(temp.path().join("real"), &link).unwrap();
    refusal(restore(&link), ErrorKind::Invalid, &["symbolic link"]);
    fs::create_dir(temp.path().join("real")).unwrap();
    restore(&link).unwrap();
    is_whole(&temp.path().join("real"));
}

#[test]
fn missing_parents_are_created_and_taken_back() {
    let temp = TempDir::new().unwrap();
    let data_dir = temp.path().join("a/b/etcd");
    drop(stage(&data_dir).unwrap());
    assert!(names(temp.path()).is_empty());
    restore(&data_dir).unwrap();
    is_whole(&data_dir);
}

#[test]
fn a_member_is_refused_and_kept() {
    let temp = TempDir::new().unwrap();
    fs::create_dir_all(temp.path().join("member/snap")).unwrap();
    fs::write(temp.path().join("member/snap/db"), b"precious").unwrap();
    refusal(restore(temp.path()), ErrorKind::Refused, &["already holds a member"]);
    assert_eq!(fs::read(temp.path().join("member/snap/db")).unwrap(), b"precious");
    assert_eq!(names(temp.path()), ["member"]);
}

#[test]
fn a_running_etcd_is_named() {
    let temp = TempDir::new().unwrap();
    fs::create_dir_all(temp.path().join("member/snap")).unwrap();
    let db = File::create(temp.path().join("member/snap/db")).unwrap();
    flock(&db, FlockOperation::LockExclusive).unwrap();
    refusal(restore(temp.path()), ErrorKind::Refused, &["an etcd is running"]);
}

#[test]
fn other_content_is_refused_by_name() {
    let temp = TempDir::new().unwrap();
    fs::write(temp.path().join("notes"), b"").unwrap();
    refusal(restore(temp.path()), ErrorKind::Refused, &["not empty", "notes"]);
    assert_eq!(names(temp.path()), ["notes"]);
}

#[test]
fn a_file_in_its_place_is_refused() {
    let temp = TempDir::new().unwrap();
    let file = temp.path().join("etcd");
    fs::write(&file, b"").unwrap();
    refusal(restore(&file), ErrorKind::Invalid, &["not a directory"]);
    refusal(restore(Path::new("")), ErrorKind::Invalid, &["--data-dir"]);
}

#[test]
fn a_leftover_without_a_lock_is_removed() {
    for (leftover, data_dir) in [(".etcdbr-0/member", ""), (".etcd.etcdbr-0/member", "etcd")] {
        let temp = TempDir::new().unwrap();
        fs::create_dir_all(temp.path().join(leftover)).unwrap();
        restore(&temp.path().join(data_dir)).unwrap();
        assert_eq!(names(temp.path()), [if data_dir.is_empty() { "member" } else { "etcd" }]);
    }
}

#[test]
fn the_stage_of_another_data_dir_is_left_alone() {
    let temp = TempDir::new().unwrap();
    fs::create_dir(temp.path().join(".etcd2.etcdbr-0")).unwrap();
    restore(&temp.path().join("etcd")).unwrap();
    assert_eq!(names(temp.path()), [".etcd2.etcdbr-0", "etcd"]);
}

#[test]
fn a_locked_stage_means_another_restore() {
    for data_dir in ["", "etcd"] {
        let temp = TempDir::new().unwrap();
        let data_dir = temp.path().join(data_dir);
        let first = stage(&data_dir).unwrap();
        let before = names(temp.path());
        refusal(stage(&data_dir), ErrorKind::Refused, &["another restore is under way"]);
        assert_eq!(names(temp.path()), before, "the first one is not touched");
        drop(first);
        restore(&data_dir).unwrap();
    }
}

#[test]
fn a_failed_restore_leaves_nothing() {
    for data_dir in ["", "etcd", "a/b/c"] {
        let temp = TempDir::new().unwrap();
        let data_dir = temp.path().join(data_dir);
        let mut staged = stage(&data_dir).unwrap();
        staged.write_image(b"not a database").unwrap();
        refusal(finished(staged, &membership()), ErrorKind::Damaged, &["not an etcd database"]);
        assert!(names(temp.path()).is_empty());
        drop(ready(&data_dir, &image_of(&buckets())).unwrap());
        assert!(names(temp.path()).is_empty(), "ready, but not installed");
    }
}

#[test]
fn too_little_space_is_told_with_numbers() {
    let temp = TempDir::new().unwrap();
    let needed = u64::MAX / 2;
    for data_dir in ["", "a/etcd"] {
        let refused = StagedDataDir::create(&temp.path().join(data_dir), needed, options());
        refusal(refused, ErrorKind::Local, &["not enough space", &needed.to_string()]);
        assert!(names(temp.path()).is_empty());
    }
}

#[test]
fn what_comes_into_the_place_meanwhile_is_not_replaced() {
    // Empty directories, which a plain rename would replace.
    for (data_dir, newcomer) in [("", "member"), ("etcd", "etcd"), ("etcd", "etcd/member")] {
        let temp = TempDir::new().unwrap();
        let ready = ready(&temp.path().join(data_dir), &image_of(&buckets())).unwrap();
        let newcomer = temp.path().join(newcomer);
        fs::create_dir_all(&newcomer).unwrap();
        let before = fs::metadata(&newcomer).unwrap().ino();
        refusal(ready.install(), ErrorKind::Refused, &[]);
        assert_eq!(fs::metadata(&newcomer).unwrap().ino(), before);
        assert!(names(&newcomer).is_empty());
        assert_eq!(names(temp.path()).len(), 1, "the stage is gone");
    }
}
