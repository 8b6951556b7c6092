//! An etcd that does as it is told: speaks the gRPC services a backup asks, and fails where a test scripts it.
//!
//! It keeps no data: a [`Script`] holds its answers. What it saw (open streams, logins) can be asked afterwards.

use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use etcdbr_proto::authpb::Permission;
use etcdbr_proto::etcdserverpb::auth_server::{Auth, AuthServer};
use etcdbr_proto::etcdserverpb::cluster_server::{Cluster, ClusterServer};
use etcdbr_proto::etcdserverpb::kv_server::{Kv, KvServer};
use etcdbr_proto::etcdserverpb::lease_server::{Lease, LeaseServer};
use etcdbr_proto::etcdserverpb::maintenance_server::{Maintenance, MaintenanceServer};
use etcdbr_proto::etcdserverpb::watch_request::RequestUnion;
use etcdbr_proto::etcdserverpb::watch_server::{Watch, WatchServer};
use etcdbr_proto::etcdserverpb::{
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleListRequest, AuthRoleListResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserGetRequest, AuthUserGetResponse, AuthUserListRequest, AuthUserListResponse,
    AuthenticateRequest, AuthenticateResponse, HashKvRequest, HashKvResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, Member, MemberListRequest, MemberListResponse,
    RangeRequest, RangeResponse, ResponseHeader, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
    WatchRequest, WatchResponse,
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

/// What follows the responses of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchTail {
    /// Nothing, for ever.
    Silence,
    /// The end of the stream, as if all were well.
    End,
    /// An error with this text.
    Fail(Code, &'static str),
}

/// How the question for HashKV goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashFault {
    /// Not at all.
    None,
    /// The answer takes this long.
    Slow(Duration),
    /// An error of this code and text.
    Error(Code, &'static str),
    /// The answer is that of another member.
    OtherMember(u64),
    /// The answer names this compact revision, as one out of a cache does.
    CompactRevision(i64),
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
    /// What a watch gives after its `created`.
    pub watch: Vec<WatchResponse>,
    /// And what after that.
    pub watch_tail: WatchTail,
    /// So many linearizable reads time out before one is answered, and each takes the raft index on by one.
    pub lag: usize,
    /// So many raft terms pass by in each linearizable read.
    pub terms_a_read: u64,
    /// Leases by id, with their TTL.
    pub leases: Vec<(i64, i64)>,
    /// The auth revision; an etcd 3.4 has none.
    pub auth_revision: Option<u64>,
    /// Users, with their roles.
    pub users: Vec<(String, Vec<String>)>,
    /// Roles, each with one key that it may read.
    pub roles: Vec<(String, Vec<u8>)>,
    /// The database.
    pub image: Bytes,
    /// How its stream goes wrong.
    pub snapshot_fault: SnapshotFault,
    /// How HashKV goes wrong.
    pub hash_fault: HashFault,
    /// The member id in statuses once a snapshot was sent, where it is another one: a load balancer.
    pub member_after_snapshot: Option<u64>,
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
            watch_tail: WatchTail::Silence,
            lag: 0,
            terms_a_read: 0,
            leases: Vec::new(),
            auth_revision: None,
            users: Vec::new(),
            roles: Vec::new(),
            image: Bytes::from(vec![7; 256 << 10]),
            snapshot_fault: SnapshotFault::None,
            hash_fault: HashFault::None,
            member_after_snapshot: None,
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

/// How many do something, now and at most.
#[derive(Default)]
struct Meter {
    now: AtomicUsize,
    most: AtomicUsize,
}

struct State {
    script: Script,
    compacted: AtomicI64,
    open_streams: AtomicUsize,
    logins: AtomicUsize,
    reads: AtomicUsize,
    watches: AtomicUsize,
    lease_questions: Meter,
    hashes: AtomicUsize,
    snapshots: AtomicUsize,
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
            reads: AtomicUsize::new(0),
            watches: AtomicUsize::new(0),
            lease_questions: Meter::default(),
            hashes: AtomicUsize::new(0),
            snapshots: AtomicUsize::new(0),
            token: Mutex::new(None),
        });
        let fake = Fake(state.clone());
        let router = Server::builder()
            .add_service(KvServer::new(fake.clone()))
            .add_service(WatchServer::new(fake.clone()))
            .add_service(ClusterServer::new(fake.clone()))
            .add_service(AuthServer::new(fake.clone()))
            .add_service(LeaseServer::new(fake.clone()))
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

    /// Compacts at `revision`, from now on.
    pub fn compact(&self, revision: i64) {
        self.state.compacted.store(revision, Ordering::SeqCst);
    }

    /// How many watches were ever asked for.
    pub fn watches(&self) -> usize {
        self.state.watches.load(Ordering::SeqCst)
    }

    /// How many leases were asked about, at most at once.
    pub fn lease_questions_at_once(&self) -> usize {
        self.state.lease_questions.most.load(Ordering::SeqCst)
    }

    /// How often somebody asked for HashKV.
    pub fn hashes(&self) -> usize {
        self.state.hashes.load(Ordering::SeqCst)
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
        let RangeRequest { revision, serializable, .. } = *request.get_ref();
        if !serializable && self.0.reads.fetch_add(1, Ordering::SeqCst) < self.0.script.lag {
            return Err(Status::unavailable("etcdserver: request timed out"));
        }
        if revision > self.0.script.revision {
            return Err(Status::new(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"));
        }
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
        if self.0.script.learner {
            return Err(Status::unavailable("etcdserver: rpc not supported for learner"));
        }
        if request.metadata().get("hasleader").is_none() {
            return Err(Status::invalid_argument("without a leader a watch must not be silent"));
        }
        self.0.watches.fetch_add(1, Ordering::SeqCst);
        let permitted = self.check_token(&request);
        let first = request.into_inner().message().await?.and_then(|request| request.request_union);
        let Some(RequestUnion::CreateRequest(create)) = first else {
            return Err(Status::invalid_argument("the first request of a watch creates it"));
        };
        if create.key != b"\0" || create.range_end != b"\0" || !create.fragment {
            return Err(Status::invalid_argument("a capture watches the whole key space, fragmented"));
        }
        let header = self.key_header();
        let created = WatchResponse { header, created: true, ..Default::default() };
        if let Err(status) = permitted {
            // As etcd does: the stream is well, the watch on it is refused, and the reason is Go's print of an error.
            let cancel_reason = format!("rpc error: code = {:?} desc = {}", status.code(), status.message());
            let refused = WatchResponse { canceled: true, cancel_reason, ..created };
            return Ok(Response::new(self.counted(stream::iter([Ok(refused)]).chain(stream::pending()))));
        }
        if let Compaction::DuringWatch(revision) = self.0.script.compaction {
            self.0.compacted.store(revision, Ordering::SeqCst);
        }
        let compacted = self.0.compacted.load(Ordering::SeqCst);
        let rest = if create.start_revision < compacted {
            // etcd leaves the header's revision and the reason empty.
            vec![WatchResponse { header: None, canceled: true, compact_revision: compacted, ..Default::default() }]
        } else {
            let scripted = self.0.script.watch.clone();
            scripted.into_iter().map(|response| WatchResponse { header, ..response }).collect()
        };
        let answers = stream::iter([created].into_iter().chain(rest).map(Ok));
        Ok(Response::new(match self.0.script.watch_tail {
            WatchTail::Silence => self.counted(answers.chain(stream::pending())),
            WatchTail::End => self.counted(answers),
            WatchTail::Fail(code, said) => self.counted(answers.chain(stream::iter([Err(Status::new(code, said))]))),
        }))
    }
}

#[tonic::async_trait]
impl Lease for Fake {
    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.check_token(&request)?;
        let meter = &self.0.lease_questions;
        meter.most.fetch_max(meter.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        meter.now.fetch_sub(1, Ordering::SeqCst);
        let id = request.get_ref().id;
        let known = self.0.script.leases.iter().find(|(known, _)| *known == id);
        let (ttl, granted_ttl) = known.map_or((-1, 0), |(_, ttl)| (ttl - 1, *ttl));
        Ok(Response::new(LeaseTimeToLiveResponse { header: self.key_header(), id, ttl, granted_ttl, keys: vec![] }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.check_token(&request)?;
        if self.0.script.learner {
            return Err(Status::unavailable("etcdserver: rpc not supported for learner"));
        }
        let leases = self.0.script.leases.iter().map(|(id, _)| LeaseStatus { id: *id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: self.key_header(), leases }))
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
    async fn auth_status(&self, request: Request<AuthStatusRequest>) -> Result<Response<AuthStatusResponse>, Status> {
        self.check_root(&request)?;
        let Some(auth_revision) = self.0.script.auth_revision else {
            return Err(Status::unimplemented("unknown method AuthStatus for service etcdserverpb.Auth"));
        };
        let enabled = self.0.script.credentials.is_some();
        Ok(Response::new(AuthStatusResponse { header: self.key_header(), enabled, auth_revision }))
    }

    async fn user_list(&self, request: Request<AuthUserListRequest>) -> Result<Response<AuthUserListResponse>, Status> {
        self.check_root(&request)?;
        let users = self.0.script.users.iter().map(|(user, _)| user.clone()).collect();
        Ok(Response::new(AuthUserListResponse { header: self.key_header(), users }))
    }

    async fn user_get(&self, request: Request<AuthUserGetRequest>) -> Result<Response<AuthUserGetResponse>, Status> {
        self.check_root(&request)?;
        let found = self.0.script.users.iter().find(|(user, _)| *user == request.get_ref().name);
        let (_, roles) = found.ok_or(Status::failed_precondition("etcdserver: user name not found"))?;
        Ok(Response::new(AuthUserGetResponse { header: self.key_header(), roles: roles.clone() }))
    }

    async fn role_list(&self, request: Request<AuthRoleListRequest>) -> Result<Response<AuthRoleListResponse>, Status> {
        self.check_root(&request)?;
        let roles = self.0.script.roles.iter().map(|(role, _)| role.clone()).collect();
        Ok(Response::new(AuthRoleListResponse { header: self.key_header(), roles }))
    }

    async fn role_get(&self, request: Request<AuthRoleGetRequest>) -> Result<Response<AuthRoleGetResponse>, Status> {
        self.check_root(&request)?;
        let found = self.0.script.roles.iter().find(|(role, _)| *role == request.get_ref().role);
        let (_, key) = found.ok_or(Status::failed_precondition("etcdserver: role name not found"))?;
        let perm = vec![Permission { perm_type: 0, key: key.clone(), range_end: Vec::new() }];
        Ok(Response::new(AuthRoleGetResponse { header: self.key_header(), perm }))
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
        let streamed = self.0.snapshots.load(Ordering::SeqCst) > 0;
        let reads = u64::try_from(self.0.reads.load(Ordering::SeqCst)).unwrap_or(0);
        let member = script.member_after_snapshot.filter(|_| streamed).unwrap_or(script.member);
        Ok(Response::new(StatusResponse {
            header: self.header(member),
            version: "3.6.16".to_owned(),
            db_size,
            leader: script.leader,
            raft_index: 11 + reads,
            raft_term: 2 + script.terms_a_read * reads,
            raft_applied_index: 11,
            errors: script.errors.clone(),
            db_size_in_use: db_size / 2,
            is_learner: script.learner,
        }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        self.check_root(&request)?;
        self.0.hashes.fetch_add(1, Ordering::SeqCst);
        let mut header = self.key_header();
        let mut compact_revision = self.0.compacted.load(Ordering::SeqCst);
        match &self.0.script.hash_fault {
            HashFault::None => {}
            HashFault::CompactRevision(revision) => compact_revision = *revision,
            HashFault::Slow(delay) => tokio::time::sleep(*delay).await,
            HashFault::Error(code, text) => return Err(Status::new(*code, *text)),
            HashFault::OtherMember(member) => header = self.header(*member),
        }
        let asked = request.into_inner().revision;
        if asked > 0 && asked < compact_revision {
            return Err(Status::new(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"));
        }
        let compact_revision = if compact_revision == 0 { -1 } else { compact_revision };
        Ok(Response::new(HashKvResponse { header, hash: 42, compact_revision, hash_revision: asked }))
    }

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.check_root(&request)?;
        self.0.snapshots.fetch_add(1, Ordering::SeqCst);
        let fake = self.clone();
        let answers = stream::unfold(0, move |index| {
            let fake = fake.clone();
            async move { fake.snapshot_message(index).await.map(|message| (message, index + 1)) }
        });
        Ok(Response::new(self.counted(answers)))
    }
}
