//! An etcd that does as it is told: speaks the gRPC services a backup asks, and fails where a test scripts it.
//!
//! It keeps no data: a [`Script`] holds its answers. What it saw (open streams, logins) can be asked afterwards.

use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use etcdbr_proto::etcdserverpb::auth_server::{Auth, AuthServer};
use etcdbr_proto::etcdserverpb::cluster_server::{Cluster, ClusterServer};
use etcdbr_proto::etcdserverpb::kv_server::{Kv, KvServer};
use etcdbr_proto::etcdserverpb::maintenance_server::{Maintenance, MaintenanceServer};
use etcdbr_proto::etcdserverpb::watch_request::RequestUnion;
use etcdbr_proto::etcdserverpb::watch_server::{Watch, WatchServer};
use etcdbr_proto::etcdserverpb::{
    AuthStatusRequest, AuthStatusResponse, AuthenticateRequest, AuthenticateResponse, HashKvRequest, HashKvResponse,
    Member, MemberListRequest, MemberListResponse, RangeRequest, RangeResponse, ResponseHeader, SnapshotRequest,
    SnapshotResponse, StatusRequest, StatusResponse, WatchRequest, WatchResponse,
};
use futures::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

/// etcd's own message size of a snapshot.
const SNAPSHOT_STEP_BYTES: usize = 32 << 10;

/// How the snapshot stream goes wrong; byte counts are multiples of 32 KiB or cut one message short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotFault {
    /// Not at all.
    None,
    /// It ends, as if all were well, after so many bytes of the image.
    EndAfter(usize),
    /// It ends with an error after so many bytes.
    FailAfter(usize),
    /// Nothing comes after so many bytes.
    StallAfter(usize),
    /// All bytes come, and the trailer is not theirs.
    WrongDigest,
}

/// When the fake's history is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compaction {
    /// It was, at this revision (0: never).
    Before(i64),
    /// It will be, at this revision, while a watch is open.
    DuringWatch(i64),
}

/// What the fake is and answers.
#[derive(Debug, Clone)]
pub struct Script {
    /// Its cluster.
    pub cluster: u64,
    /// Its member id.
    pub member: u64,
    /// The member id in headers of answers about keys: another one where a load balancer stands before it.
    pub key_member: u64,
    /// Whom it takes for the leader (0: nobody).
    pub leader: u64,
    /// Whether it is a learner.
    pub learner: bool,
    /// `errors` of its status.
    pub errors: Vec<String>,
    /// Its revision.
    pub revision: i64,
    /// Its compaction.
    pub compaction: Compaction,
    /// User and password that it wants; authentication is off without.
    pub credentials: Option<(String, String)>,
    /// Whether that user may take snapshots.
    pub user_is_root: bool,
    /// What a watch gives after its `created`; then it is silent.
    pub watch: Vec<WatchResponse>,
    /// The database.
    pub image: Bytes,
    /// How its stream goes wrong.
    pub snapshot_fault: SnapshotFault,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            cluster: 0xc1,
            member: 0xa1,
            key_member: 0xa1,
            leader: 0xa1,
            learner: false,
            errors: Vec::new(),
            revision: 1,
            compaction: Compaction::Before(0),
            credentials: None,
            user_is_root: true,
            watch: Vec::new(),
            image: Bytes::from(vec![7; 256 << 10]),
            snapshot_fault: SnapshotFault::None,
        }
    }
}

impl Script {
    /// A member of the default cluster, whose leader is `leader`.
    pub fn member(member: u64, leader: u64) -> Self {
        Self { member, key_member: member, leader, ..Self::default() }
    }
}

/// A running fake; stops when dropped.
pub struct FakeEtcd {
    /// `http://127.0.0.1:port`.
    pub endpoint: String,
    state: Arc<State>,
    server: JoinHandle<()>,
}

struct State {
    script: Script,
    compacted: AtomicI64,
    open_streams: AtomicUsize,
    logins: AtomicUsize,
    token: Mutex<Option<String>>,
}

impl FakeEtcd {
    /// Serves `script` on a free loopback port.
    pub async fn start(script: Script) -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let endpoint = format!("http://{}", incoming.local_addr().expect("a bound address"));
        let compacted = if let Compaction::Before(revision) = script.compaction { revision } else { 0 };
        let state = Arc::new(State {
            script,
            compacted: AtomicI64::new(compacted),
            open_streams: AtomicUsize::new(0),
            logins: AtomicUsize::new(0),
            token: Mutex::new(None),
        });
        let fake = Fake(state.clone());
        let router = Server::builder()
            .add_service(KvServer::new(fake.clone()))
            .add_service(WatchServer::new(fake.clone()))
            .add_service(ClusterServer::new(fake.clone()))
            .add_service(AuthServer::new(fake.clone()))
            .add_service(MaintenanceServer::new(fake));
        let server = tokio::spawn(async move {
            router.serve_with_incoming(incoming).await.expect("the fake serves");
        });
        Self { endpoint, state, server }
    }

    /// How often somebody logged in.
    pub fn logins(&self) -> usize {
        self.state.logins.load(Ordering::SeqCst)
    }

    /// Makes all tokens invalid, as a restart of etcd does.
    pub fn forget_tokens(&self) {
        *self.state.token.lock().expect("no panic") = None;
    }

    /// Watches and snapshot streams that are open now.
    pub fn open_streams(&self) -> usize {
        self.state.open_streams.load(Ordering::SeqCst)
    }

    /// Waits until no stream is open.
    ///
    /// # Panics
    /// Where that takes more than 5 s.
    pub async fn streams_are_closed(&self) {
        for _ in 0..500 {
            if self.open_streams() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} streams are still open", self.open_streams());
    }
}

impl Drop for FakeEtcd {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone)]
struct Fake(Arc<State>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Counts a stream as open until the server drops it.
struct OpenStream(Arc<State>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open_streams.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Fake {
    fn header(&self, member_id: u64) -> Option<ResponseHeader> {
        let Script { cluster, revision, .. } = self.0.script;
        Some(ResponseHeader { cluster_id: cluster, member_id, revision, raft_term: 2 })
    }

    fn key_header(&self) -> Option<ResponseHeader> {
        self.header(self.0.script.key_member)
    }

    /// etcd's own errors for a request without a token and with a wrong one.
    fn check_token<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if self.0.script.credentials.is_none() {
            return Ok(());
        }
        let Some(token) = request.metadata().get("token") else {
            return Err(Status::invalid_argument("etcdserver: user name is empty"));
        };
        let valid = self.0.token.lock().expect("no panic");
        if valid.as_ref().is_some_and(|valid| token.as_bytes() == valid.as_bytes()) {
            Ok(())
        } else {
            Err(Status::unauthenticated("etcdserver: invalid auth token"))
        }
    }

    fn check_root<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.check_token(request)?;
        if self.0.script.credentials.is_some() && !self.0.script.user_is_root {
            return Err(Status::permission_denied("etcdserver: permission denied"));
        }
        Ok(())
    }

    /// `answers`, counted as open until dropped.
    fn counted<T: Send + 'static>(
        &self,
        answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Answers<T> {
        self.0.open_streams.fetch_add(1, Ordering::SeqCst);
        let open = OpenStream(self.0.clone());
        Box::pin(answers.map(move |answer| {
            let _ = &open;
            answer
        }))
    }

    /// Message `index` of the snapshot; `None` is the end.
    async fn snapshot_message(&self, index: usize) -> Option<Result<SnapshotResponse, Status>> {
        let Script { image, snapshot_fault, .. } = &self.0.script;
        let from = index * SNAPSHOT_STEP_BYTES;
        let past = |limit: usize| from >= limit;
        match *snapshot_fault {
            SnapshotFault::EndAfter(bytes) if past(bytes) => return None,
            SnapshotFault::FailAfter(bytes) if past(bytes) => {
                return (from < bytes + SNAPSHOT_STEP_BYTES)
                    .then(|| Err(Status::unavailable("etcdserver: server stopped")));
            }
            SnapshotFault::StallAfter(bytes) if past(bytes) => std::future::pending().await,
            _ => {}
        }
        let message = |remaining_bytes, blob| {
            Some(Ok(SnapshotResponse { header: None, remaining_bytes, blob, version: "3.6.0".to_owned() }))
        };
        if from < image.len() {
            let to = image.len().min(from + SNAPSHOT_STEP_BYTES);
            return message((image.len() - to) as u64, image.slice(from..to));
        }
        if from >= image.len().next_multiple_of(SNAPSHOT_STEP_BYTES) + SNAPSHOT_STEP_BYTES {
            return None;
        }
        let mut digest = Sha256::digest(image).to_vec();
        if *snapshot_fault == SnapshotFault::WrongDigest {
            digest[31] ^= 1;
        }
        message(0, digest.into())
    }
}

#[tonic::async_trait]
impl Kv for Fake {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.check_token(&request)?;
        let revision = request.get_ref().revision;
        if revision > 0 && revision < self.0.compacted.load(Ordering::SeqCst) {
            return Err(Status::new(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"));
        }
        Ok(Response::new(RangeResponse { header: self.key_header(), ..Default::default() }))
    }
}

#[tonic::async_trait]
impl Watch for Fake {
    type WatchStream = Answers<WatchResponse>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        self.check_token(&request)?;
        if self.0.script.learner {
            return Err(Status::unavailable("etcdserver: rpc not supported for learner"));
        }
        let first = request.into_inner().message().await?.and_then(|request| request.request_union);
        let Some(RequestUnion::CreateRequest(create)) = first else {
            return Err(Status::invalid_argument("the first request of a watch creates it"));
        };
        if create.key != b"\0" || create.range_end != b"\0" || !create.fragment {
            return Err(Status::invalid_argument("a capture watches the whole key space, fragmented"));
        }
        if let Compaction::DuringWatch(revision) = self.0.script.compaction {
            self.0.compacted.store(revision, Ordering::SeqCst);
        }
        let header = self.key_header();
        let created = WatchResponse { header, created: true, ..Default::default() };
        let compacted = self.0.compacted.load(Ordering::SeqCst);
        let rest = if create.start_revision < compacted {
            // etcd leaves the header's revision and the reason empty.
            vec![WatchResponse { header: None, canceled: true, compact_revision: compacted, ..Default::default() }]
        } else {
            let scripted = self.0.script.watch.clone();
            scripted.into_iter().map(|response| WatchResponse { header, ..response }).collect()
        };
        let answers = stream::iter([created].into_iter().chain(rest).map(Ok)).chain(stream::pending());
        Ok(Response::new(self.counted(answers)))
    }
}

#[tonic::async_trait]
impl Cluster for Fake {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        self.check_token(&request)?;
        let id = self.0.script.member;
        let member = Member { id, name: format!("member-{id:x}"), ..Default::default() };
        Ok(Response::new(MemberListResponse { header: self.header(id), members: vec![member] }))
    }
}

#[tonic::async_trait]
impl Auth for Fake {
    async fn auth_status(&self, _: Request<AuthStatusRequest>) -> Result<Response<AuthStatusResponse>, Status> {
        Err(Status::unimplemented("a backup does not ask this: every answer costs a raft entry"))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let Some((user, password)) = &self.0.script.credentials else {
            return Err(Status::failed_precondition("etcdserver: authentication is not enabled"));
        };
        let login = self.0.logins.fetch_add(1, Ordering::SeqCst);
        let asked = request.into_inner();
        if (&asked.name, &asked.password) != (user, password) {
            return Err(Status::invalid_argument("etcdserver: authentication failed, invalid user ID or password"));
        }
        let token = format!("token.{login}");
        *self.0.token.lock().expect("no panic") = Some(token.clone());
        Ok(Response::new(AuthenticateResponse { header: self.key_header(), token }))
    }
}

#[tonic::async_trait]
impl Maintenance for Fake {
    type SnapshotStream = Answers<SnapshotResponse>;

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.check_token(&request)?;
        let script = &self.0.script;
        let db_size = i64::try_from(script.image.len()).unwrap_or(i64::MAX);
        Ok(Response::new(StatusResponse {
            header: self.header(script.member),
            version: "3.6.16".to_owned(),
            db_size,
            leader: script.leader,
            raft_index: 11,
            raft_term: 2,
            raft_applied_index: 11,
            errors: script.errors.clone(),
            db_size_in_use: db_size / 2,
            is_learner: script.learner,
        }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        self.check_root(&request)?;
        let compact_revision = self.0.compacted.load(Ordering::SeqCst);
        let asked = request.into_inner().revision;
        if asked > 0 && asked < compact_revision {
            return Err(Status::new(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"));
        }
        let compact_revision = if compact_revision == 0 { -1 } else { compact_revision };
        let header = self.key_header();
        Ok(Response::new(HashKvResponse { header, hash: 42, compact_revision, hash_revision: asked }))
    }

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.check_root(&request)?;
        let fake = self.clone();
        let answers = stream::unfold(0, move |index| {
            let fake = fake.clone();
            async move { fake.snapshot_message(index).await.map(|message| (message, index + 1)) }
        });
        Ok(Response::new(self.counted(answers)))
    }
}
