//! Whether users, roles and permissions have changed, of which a watch tells nothing.
//!
//! Every question here is a raft entry, a write on every member: ask about once a minute, not more.

use etcdbr_proto::authpb::Permission;
use etcdbr_proto::etcdserverpb::auth_client::AuthClient;
use etcdbr_proto::etcdserverpb::{
    AuthRoleGetRequest, AuthRoleListRequest, AuthStatusRequest, AuthUserGetRequest, AuthUserListRequest,
};
use prost::Message;
use sha2::{Digest, Sha256};

use super::fault::Fault;
use super::member::Member;
use super::session::Session;
use crate::error::Result;

/// Where users, roles and permissions stand: two of these are equal, or something has changed. Those of different
/// minor versions of etcd may differ although nothing has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthMark(Known);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    /// What etcd 3.5 and later count themselves.
    Status { enabled: bool, revision: u64 },
    /// SHA-256 over what etcd 3.4 shows; a password that was changed is not seen.
    Digest([u8; 32]),
}

impl AuthMark {
    /// Bytes that are equal where the marks are.
    pub fn encode(&self) -> Vec<u8> {
        match &self.0 {
            Known::Status { enabled, revision } => [&[u8::from(*enabled)][..], &revision.to_be_bytes()].concat(),
            Known::Digest(digest) => digest.to_vec(),
        }
    }
}

impl Member {
    /// Where users, roles and permissions stand. One raft entry; of an etcd 3.4, which does not count them, two and
    /// one for each user and each role.
    ///
    /// # Errors
    /// As every question; `Denied` where the user is not root.
    pub async fn auth_mark(&self) -> Result<AuthMark> {
        let session = self.session();
        let known = match status(session).await {
            Err(fault) if fault.is_unknown_question() => digest(session).await.map(Known::Digest),
            known => known,
        };
        known.map(AuthMark).map_err(|fault| session.error(fault, "read the state of its authentication"))
    }
}

async fn status(session: &Session) -> Result<Known, Fault> {
    let answer = session
        .ask(AuthStatusRequest {}, session.request_timeout(), |channel, request| async move {
            AuthClient::new(channel).auth_status(request).await
        })
        .await?;
    Ok(Known::Status { enabled: answer.enabled, revision: answer.auth_revision })
}

/// Everything is preceded by its kind and its length, so that no two states give the same bytes.
async fn digest(session: &Session) -> Result<[u8; 32], Fault> {
    let mut digest = Sha256::new();
    let mut add = |kind: &[u8; 4], bytes: &[u8]| {
        digest.update(kind);
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    if is_enabled(session).await? {
        add(b"on  ", b"");
    }
    for user in users(session).await? {
        add(b"user", user.as_bytes());
        for role in roles_of(session, user).await? {
            add(b"has ", role.as_bytes());
        }
    }
    for role in roles(session).await? {
        add(b"role", role.as_bytes());
        for permission in permissions_of(session, role).await? {
            add(b"may ", &permission.encode_to_vec());
        }
    }
    Ok(digest.finalize().into())
}

/// Whether somebody who has not logged in is turned away. Who has no credentials would not get past that at all.
async fn is_enabled(session: &Session) -> Result<bool, Fault> {
    if !session.has_credentials() {
        return Ok(false);
    }
    let answer = session
        .ask_as_nobody(AuthUserListRequest {}, |channel, request| async move {
            AuthClient::new(channel).user_list(request).await
        })
        .await;
    match answer {
        Ok(_) => Ok(false),
        Err(fault) if fault.wants_user() => Ok(true),
        Err(fault) => Err(fault),
    }
}

async fn users(session: &Session) -> Result<Vec<String>, Fault> {
    let answer = session
        .ask(AuthUserListRequest {}, session.request_timeout(), |channel, request| async move {
            AuthClient::new(channel).user_list(request).await
        })
        .await?;
    Ok(sorted(answer.users))
}

/// None of a user who is gone since the list was read: the next list is without him.
async fn roles_of(session: &Session, name: String) -> Result<Vec<String>, Fault> {
    let answer = session
        .ask(AuthUserGetRequest { name }, session.request_timeout(), |channel, request| async move {
            AuthClient::new(channel).user_get(request).await
        })
        .await;
    match answer {
        Ok(answer) => Ok(sorted(answer.roles)),
        Err(fault) if fault.is_unknown_name() => Ok(Vec::new()),
        Err(fault) => Err(fault),
    }
}

async fn roles(session: &Session) -> Result<Vec<String>, Fault> {
    let answer = session
        .ask(AuthRoleListRequest {}, session.request_timeout(), |channel, request| async move {
            AuthClient::new(channel).role_list(request).await
        })
        .await?;
    Ok(sorted(answer.roles))
}

/// As [`roles_of`].
async fn permissions_of(session: &Session, role: String) -> Result<Vec<Permission>, Fault> {
    let answer = session
        .ask(AuthRoleGetRequest { role }, session.request_timeout(), |channel, request| async move {
            AuthClient::new(channel).role_get(request).await
        })
        .await;
    match answer {
        // In etcd's own order: it keeps them sorted by key.
        Ok(answer) => Ok(answer.perm),
        Err(fault) if fault.is_unknown_name() => Ok(Vec::new()),
        Err(fault) => Err(fault),
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}
