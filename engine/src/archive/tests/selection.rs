//! What "latest" means, and where it is refused.

use super::*;

fn entry(cluster: u64, birth: i64, created: i64) -> BackupEntry {
    let name = BackupName {
        lineage: LineageId { birth: UnixMillis(birth), cluster: ClusterId(cluster), random: 0 },
        kind: NameKind::Full { seam: Revision(created) },
        created: UnixMillis(created),
        nonce: ObjectNonce([0; 8]),
    };
    BackupEntry { name, stored_bytes: 1, modified: UnixMillis(0) }
}

/// The creation time of what is selected as latest.
fn latest(entries: &[BackupEntry]) -> Result<i64> {
    select(&Catalogue::of(entries.to_vec()), &Selection::Latest).map(|entry| entry.name.created.0)
}

#[test]
fn an_empty_archive_has_no_latest() {
    assert_eq!(latest(&[]).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_latest_is_the_newest_full_of_the_lineage_written_last() {
    // The lineage born first was written last.
    assert_eq!(latest(&[entry(1, 10, 10), entry(1, 20, 20), entry(1, 10, 30)]).unwrap(), 30);
    // A row of single fulls, as cron makes them.
    assert_eq!(latest(&[entry(1, 10, 10), entry(1, 20, 20), entry(1, 30, 30)]).unwrap(), 30);
}

#[test]
fn a_delta_alone_is_not_what_a_restore_begins_with() {
    let mut delta = entry(1, 10, 40);
    delta.name.kind = NameKind::Delta { last: Revision(50), first: Revision(41) };
    assert_eq!(latest(&[entry(1, 10, 10), delta.clone()]).unwrap(), 10);
    let catalogue = Catalogue::of([delta.clone()]);
    assert_eq!(select(&catalogue, &Selection::Latest).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(select(&catalogue, &Selection::Backup(delta.name)).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn interleaved_lineages_are_refused_and_named() {
    let entries = [entry(1, 10, 10), entry(1, 10, 20), entry(1, 15, 15), entry(1, 15, 25), entry(1, 10, 30)];
    let error = latest(&entries).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    for id in [entries[0].name.lineage, entries[2].name.lineage] {
        assert!(error.to_string().contains(&id.to_string()), "{error}");
        let chosen = select(&Catalogue::of(entries.clone()), &Selection::Lineage(id)).unwrap().name;
        assert_eq!(chosen.lineage, id);
    }
    assert!(select(&Catalogue::of(entries.clone()), &Selection::Backup(entries[0].name)).is_ok());
}

#[test]
fn lineages_one_after_the_other_are_not_interleaved() {
    assert_eq!(latest(&[entry(1, 10, 10), entry(1, 10, 20), entry(1, 30, 30), entry(1, 30, 40)]).unwrap(), 40);
    // A full in a lineage of its own beside a living lineage.
    assert_eq!(latest(&[entry(1, 10, 10), entry(1, 15, 15), entry(1, 10, 20), entry(1, 10, 30)]).unwrap(), 30);
}

#[test]
fn clusters_that_take_turns_are_refused() {
    let turns = [entry(1, 10, 10), entry(2, 20, 20), entry(1, 30, 30), entry(2, 40, 40), entry(1, 50, 50)];
    let error = latest(&turns).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("clusters 1 and 2"), "{error}");
}

#[test]
fn a_cluster_restored_under_a_new_token_follows_the_old_one() {
    assert_eq!(latest(&[entry(1, 10, 10), entry(1, 20, 20), entry(2, 30, 30), entry(2, 40, 40)]).unwrap(), 40);
}

#[test]
fn what_is_not_there_is_not_found() {
    let catalogue = Catalogue::of([entry(1, 10, 10)]);
    let absent = entry(1, 11, 11).name;
    for selection in [Selection::Backup(absent), Selection::Lineage(absent.lineage)] {
        assert_eq!(select(&catalogue, &selection).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
