//! Users, roles and passwords: made in one etcd, to be found in another one.

use std::collections::BTreeMap;

use etcd_client::{Client, Permission};

use crate::etcd::Etcd;

/// The user who may do everything, and his password.
pub const ROOT: (&str, &str) = ("root", "correct horse");
/// A user who may read and write below [`ALICES`], and her password.
pub const ALICE: (&str, &str) = ("alice", "battery staple");
/// Where Alice may write.
pub const ALICES: &str = "/alice/";

/// Every user and role that an etcd has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts {
    /// The roles of each user.
    pub users: BTreeMap<String, Vec<String>>,
    /// The permissions of each role, as the client shows them.
    pub roles: BTreeMap<String, Vec<String>>,
}

impl Accounts {
    /// What `client` is told.
    ///
    /// # Panics
    /// Where etcd refuses.
    pub async fn read(client: &mut Client) -> Self {
        let mut accounts = Self::default();
        for name in client.user_list().await.expect("the list of users").users() {
            let roles = client.user_get(name.as_str()).await.expect("a user").roles().to_vec();
            accounts.users.insert(name.clone(), roles);
        }
        for name in client.role_list().await.expect("the list of roles").roles() {
            if name == "root" {
                // It has none; from 3.6 on etcd answers what it stands for.
                accounts.roles.insert(name.clone(), Vec::new());
                continue;
            }
            let role = client.role_get(name.as_str()).await.expect("a role");
            let permissions = role.permissions().iter().map(|permission| format!("{permission:?}")).collect();
            accounts.roles.insert(name.clone(), permissions);
        }
        accounts
    }
}

/// Makes roles and users, and has etcd ask everybody from now on who they are.
///
/// # Panics
/// Where etcd refuses.
pub async fn enable_auth(client: &mut Client) {
    client.role_add("root").await.expect("a role");
    client.role_add("tenant").await.expect("a role");
    let permissions =
        [Permission::read_write(ALICES).with_prefix(), Permission::read("/shared"), Permission::write("\0x")];
    for permission in permissions {
        client.role_grant_permission("tenant", permission).await.expect("a permission");
    }
    client.role_add("empty").await.expect("a role");
    for ((name, password), role) in [(ROOT, "root"), (ALICE, "tenant")] {
        client.user_add(name, password, None).await.expect("a user");
        client.user_grant_role(name, role).await.expect("a role for a user");
    }
    client.user_add("roleless", "x", None).await.expect("a user");
    client.auth_enable().await.expect("authentication can be switched on");
}

/// A client of `etcd` that may do everything, by the password that the source knew.
///
/// # Panics
/// Where it is refused.
pub async fn root_of(etcd: &Etcd) -> Client {
    etcd.client_of(ROOT.0, ROOT.1).await.expect("the old password of root")
}

/// Old passwords open, wrong ones do not, and a user may do what he might.
///
/// # Panics
/// Where it is otherwise.
pub async fn assert_auth_works(etcd: &Etcd) {
    let mut alice = etcd.client_of(ALICE.0, ALICE.1).await.expect("the old password of Alice");
    alice.get(ALICES, None).await.expect("Alice reads what is hers");
    alice.get("/registry/", None).await.expect_err("Alice reads what is not hers");
    alice.put("/shared", "x", None).await.expect_err("Alice writes what she may only read");
    assert!(etcd.client_of(ALICE.0, "wrong").await.is_err(), "a wrong password opens");
    let mut nobody = etcd.client().await;
    nobody.get(ALICES, None).await.expect_err("nobody in particular reads");
}
