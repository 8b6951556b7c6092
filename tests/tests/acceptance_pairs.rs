//! From every minor version of etcd onto every one: what was restored is the source, and goes on as the source does.
//!
//! Equal are the database without any etcd, what the new etcd serves, and what both of them make of the same puts of
//! every key, right after the start and after another one.

use std::collections::BTreeSet;

use etcd_client::Client;
use etcdbr_tests::accounts::{assert_auth_works, enable_auth, root_of};
use etcdbr_tests::database::Database;
use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::load::edge_history;
use etcdbr_tests::scenario::{Picture, Site, end_of_all, put_every_key, write_history};

/// What is to be found of a source.
struct Source {
    site: Site,
    /// At the backup.
    backed_up: Picture,
    /// Every key of the history, those that are dead included.
    keys: BTreeSet<Vec<u8>>,
    /// After one more put of each of them, and after two.
    rounds: [Picture; 2],
}

const ROUNDS: [&str; 2] = ["once", "twice"];

impl Source {
    async fn prepare(version: EtcdVersion) -> Self {
        let site = Site::local();
        let source = Etcd::start(version).await;
        let mut client = source.client().await;
        write_history(&mut client, 1_000).await;
        edge_history(&mut client).await;
        enable_auth(&mut client).await;
        let mut client = root_of(&source).await;
        let backed_up = Picture::of(&mut client).await;
        let backup = site.backup_as_root(&source);
        assert_eq!(backup["revision"], backed_up.keyspace.revision);
        let keys = Database::snapshot(&mut client).await.keys();
        assert!(keys.len() > backed_up.keyspace.entries.len(), "some keys are dead");
        let rounds = [Self::round(&mut client, &keys, 0).await, Self::round(&mut client, &keys, 1).await];
        Self { site, backed_up, keys, rounds }
    }

    async fn round(client: &mut Client, keys: &BTreeSet<Vec<u8>>, round: usize) -> Picture {
        put_every_key(client, keys, ROUNDS[round]).await;
        Picture::of(client).await
    }

    /// The restore of it that `version` starts on.
    async fn assert_restores_onto(&self, version: EtcdVersion) {
        let restored = self.site.restore_alone(version, &format!("{version:?}"));
        restored.assert_is(&self.backed_up);
        let mut etcd = restored.etcd.start().await;
        assert_auth_works(&etcd).await;
        let mut client = root_of(&etcd).await;
        self.backed_up.assert_seen_by(&mut client).await;
        for (round, expected) in self.rounds.iter().enumerate() {
            put_every_key(&mut client, &self.keys, ROUNDS[round]).await;
            expected.assert_seen_by(&mut client).await;
            etcd.restart().await;
            client = root_of(&etcd).await;
            expected.assert_seen_by(&mut client).await;
        }
        let end = end_of_all(&mut client).await;
        etcd.restart().await;
        end.assert_seen_by(&mut root_of(&etcd).await).await;
    }
}

async fn onto_every_version(source: EtcdVersion) {
    let source = Source::prepare(source).await;
    for target in EtcdVersion::MINORS {
        println!("onto {target:?}");
        source.assert_restores_onto(target).await;
    }
}

#[tokio::test]
async fn etcd_3_4_restores_onto_every_version() {
    onto_every_version(EtcdVersion::V3_4).await;
}

#[tokio::test]
async fn etcd_3_5_restores_onto_every_version() {
    onto_every_version(EtcdVersion::V3_5).await;
}

#[tokio::test]
async fn etcd_3_6_restores_onto_every_version() {
    onto_every_version(EtcdVersion::V3_6).await;
}

#[tokio::test]
async fn etcd_3_7_restores_onto_every_version() {
    onto_every_version(EtcdVersion::V3_7).await;
}
