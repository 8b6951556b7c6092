//! What a watch does not tell, asked of real etcds: leases, users and roles, and how far a member has come.

use std::time::Duration;

use etcd_client::LeaseGrantOptions;
use etcdbr_engine::etcd::{EtcdOptions, Member};
use etcdbr_engine::monitor::Silent;
use etcdbr_engine::secret::SecretText;
use etcdbr_tests::etcd::{Etcd, EtcdCluster, EtcdVersion};
use futures::TryStreamExt;
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn leases_are_listed_and_their_ttl_is_what_was_granted() {
    for version in EtcdVersion::MINORS {
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        let member = Member::pin(&EtcdOptions::new([etcd.endpoint()]), &Silent).await.unwrap();
        assert_eq!(member.leases().await.unwrap(), [0; 0], "{version:?}");
        let mut granted = vec![(-5, 600), (i64::MIN + 1, 3_600), (i64::MAX, 7), (1 << 40, 86_400)];
        for (id, ttl) in &granted {
            client.lease_grant(*ttl, Some(LeaseGrantOptions::new().with_id(*id))).await.unwrap();
        }
        client.lease_revoke(granted.pop().unwrap().0).await.unwrap();
        let mut ids = member.leases().await.unwrap();
        ids.push(1 << 40);
        let mut known: Vec<_> = member.lease_ttls_s(ids).try_collect().await.unwrap();
        known.sort_unstable();
        let mut expected: Vec<_> = granted.into_iter().map(|(id, ttl)| (id, Some(ttl))).collect();
        expected.push((1 << 40, None));
        expected.sort_unstable();
        assert_eq!(known, expected, "{version:?}");
    }
}

#[tokio::test]
async fn a_change_of_users_and_roles_moves_the_mark() {
    for version in EtcdVersion::MINORS {
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        let mut options = EtcdOptions::new([etcd.endpoint()]);
        options.credentials = Some(("root".to_owned(), SecretText::new("pw")));
        // Authentication is off, and is turned on under the member that is pinned.
        let member = Member::pin(&options, &Silent).await.unwrap();
        let mut marks = vec![member.auth_mark().await.unwrap()];
        let mut moved = async |what: &str| {
            let mark = member.auth_mark().await.unwrap();
            assert_ne!(Some(&mark), marks.last(), "{version:?}: {what}");
            assert_eq!(mark, member.auth_mark().await.unwrap(), "{version:?}: {what}: asked twice");
            marks.push(mark);
        };
        client.role_add("root").await.unwrap();
        moved("a role").await;
        client.user_add("root", "pw", None).await.unwrap();
        moved("a user").await;
        client.user_grant_role("root", "root").await.unwrap();
        moved("a user's role").await;
        client.auth_enable().await.unwrap();
        moved("authentication").await;
        let mut root = etcd.client_of("root", "pw").await.unwrap();
        root.role_add("some").await.unwrap();
        moved("another role").await;
        root.role_grant_permission("some", etcd_client::Permission::read("/x")).await.unwrap();
        moved("a permission").await;
        root.put("/x", "1", None).await.unwrap();
        let last = member.auth_mark().await.unwrap();
        assert_eq!(Some(&last), marks.last(), "{version:?}: a put is no change");
    }
}

/// A follower that was stopped for a while is behind when it goes on; what it says then is not believed before it has
/// caught up.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_lags_is_waited_for() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_7] {
        let cluster = EtcdCluster::start(version, 3).await;
        let leader = cluster.leader().await;
        let (ahead, late) = (&cluster.members[leader], &cluster.members[(leader + 1) % 3]);
        let pin = async |etcd: &Etcd| Member::pin(&EtcdOptions::new([etcd.endpoint()]), &Silent).await.unwrap();
        let (first, other) = (pin(ahead).await, pin(late).await);
        for _ in 0..2 {
            let pid = Pid::from_raw(late.pid() as i32).unwrap();
            kill_process(pid, Signal::STOP).unwrap();
            let mut client = ahead.client().await;
            for i in 0..300 {
                client.put("/a", i.to_string(), None).await.unwrap();
            }
            let known = first.standing(PATIENCE).await.unwrap();
            kill_process(pid, Signal::CONT).unwrap();
            let standing = other.standing(PATIENCE).await.unwrap();
            assert_eq!(standing.follows(&known), Ok(()), "{version:?}: {standing:?} after {known:?}");
        }
    }
}
