//! Real etcd processes: one member or several, on new directories or on restored ones.
//!
//! Ready means that the member answers a linearizable read; nothing here sleeps for a guessed time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, Error as ClientError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ports::free_port;
use crate::process::Server;
use crate::tls::TestTls;
use crate::tools::tool_dir;

/// How long a member may take until it serves.
const READY_LIMIT: Duration = Duration::from_secs(90);
const READY_POLL: Duration = Duration::from_millis(50);
const DEFAULT_TOKEN: &str = "etcd-cluster";

/// The releases that the tests run against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EtcdVersion {
    /// The newest 3.4 to be had: schema of bolt alone, no storage version.
    V3_4,
    /// 3.5.1, known for losing records on a crash.
    V3_5_1,
    /// 3.5, pinned.
    V3_5,
    /// 3.6, pinned.
    V3_6,
    /// 3.7, pinned.
    V3_7,
}

impl EtcdVersion {
    /// One of each minor version.
    pub const MINORS: [Self; 4] = [Self::V3_4, Self::V3_5, Self::V3_6, Self::V3_7];

    /// Its name for `scripts/tools.sh`.
    pub fn tool(self) -> &'static str {
        match self {
            Self::V3_4 => "etcd-3.4",
            Self::V3_5_1 => "etcd-3.5.1",
            Self::V3_5 => "etcd-3.5",
            Self::V3_6 => "etcd-3.6",
            Self::V3_7 => "etcd-3.7",
        }
    }

    /// The directory with `etcd`, `etcdctl` and, but for 3.4, `etcdutl`.
    pub fn dir(self) -> PathBuf {
        tool_dir(self.tool())
    }

    /// The flag `--experimental-<name>`, which is `--<name>` from 3.6 on (3.7 refuses the old form).
    pub fn experimental(self, name: &str) -> String {
        if self >= Self::V3_6 { format!("--{name}") } else { format!("--experimental-{name}") }
    }

    /// The flags that every member gets: tests crash processes, not machines, and fsync costs them minutes.
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::V3_4 => &["--logger=zap", "--log-outputs=stderr"],
            _ => &["--log-outputs=stderr", "--unsafe-no-fsync=true"],
        }
    }
}

/// The name and addresses of a member, settled before it exists: a restore writes them down first.
#[derive(Debug, Clone)]
pub struct Seat {
    /// `--name`.
    pub name: String,
    client_port: u16,
    peer_port: u16,
    secure: bool,
}

impl Seat {
    /// A member `name` on free ports.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), client_port: free_port(), peer_port: free_port(), secure: false }
    }

    /// `n` members named `m0`, `m1` and so on.
    pub fn several(n: usize) -> Vec<Self> {
        (0..n).map(|i| Self::new(&format!("m{i}"))).collect()
    }

    /// Where clients reach it.
    pub fn client_url(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.secure { "https" } else { "http" }, self.client_port)
    }

    /// Where other members reach it.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }
}

/// The value of `--initial-cluster` for `seats`.
pub fn initial_cluster(seats: &[Seat]) -> String {
    seats.iter().map(|seat| format!("{}={}", seat.name, seat.peer_url())).collect::<Vec<_>>().join(",")
}

/// How a member is to be started.
#[derive(Debug, Clone)]
pub struct EtcdBuilder {
    version: EtcdVersion,
    seat: Seat,
    cluster: Option<String>,
    existing: bool,
    token: String,
    quota_bytes: Option<u64>,
    data_dir: Option<PathBuf>,
    tls: Option<Arc<TestTls>>,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl EtcdBuilder {
    /// The member's name and addresses; free ones otherwise.
    pub fn seat(mut self, seat: Seat) -> Self {
        self.seat = seat;
        self
    }

    /// `--initial-cluster`; the member alone otherwise.
    pub fn cluster(mut self, initial_cluster: &str) -> Self {
        self.cluster = Some(initial_cluster.to_owned());
        self
    }

    /// The member joins a cluster that runs already, after a `member add`.
    pub fn joining(mut self) -> Self {
        self.existing = true;
        self
    }

    /// `--initial-cluster-token`.
    pub fn token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }

    /// `--quota-backend-bytes`.
    pub fn quota(mut self, bytes: u64) -> Self {
        self.quota_bytes = Some(bytes);
        self
    }

    /// Starts on this directory, such as a restored one, and leaves it behind.
    pub fn data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = Some(dir.to_owned());
        self
    }

    /// Serves clients by TLS and asks them for a certificate.
    pub fn tls(mut self, tls: &Arc<TestTls>) -> Self {
        self.tls = Some(tls.clone());
        self.seat.secure = true;
        self
    }

    /// One more argument, as etcd spells it.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until it serves.
    pub async fn start(self) -> Etcd {
        let mut etcd = self.launch();
        etcd.ready().await;
        etcd
    }

    /// Starts it without waiting: a member of several serves only once most of them run.
    pub fn launch(mut self) -> Etcd {
        self.seat.secure = self.tls.is_some();
        let home = tempfile::Builder::new().prefix("etcdbr-etcd").tempdir().expect("a temporary directory");
        let data_dir = self.data_dir.clone().unwrap_or_else(|| home.path().join("data"));
        let log = home.path().join("log");
        let args = self.command_line(&data_dir);
        let program = self.version.dir().join("etcd");
        let mut etcd = Etcd { plan: self, program, args, data_dir, log, home, server: None };
        etcd.launch();
        etcd
    }

    fn command_line(&self, data_dir: &Path) -> Vec<String> {
        let seat = &self.seat;
        let alone = initial_cluster(std::slice::from_ref(seat));
        let mut args = vec![
            format!("--name={}", seat.name),
            format!("--data-dir={}", data_dir.display()),
            format!("--listen-client-urls={}", seat.client_url()),
            format!("--advertise-client-urls={}", seat.client_url()),
            format!("--listen-peer-urls={}", seat.peer_url()),
            format!("--initial-advertise-peer-urls={}", seat.peer_url()),
            format!("--initial-cluster={}", self.cluster.as_ref().unwrap_or(&alone)),
            format!("--initial-cluster-token={}", self.token),
            format!("--initial-cluster-state={}", if self.existing { "existing" } else { "new" }),
        ];
        args.extend(self.version.flags().iter().map(|flag| (*flag).to_owned()));
        args.extend(self.quota_bytes.map(|bytes| format!("--quota-backend-bytes={bytes}")));
        if let Some(tls) = &self.tls {
            let (cert, key) = tls.server();
            args.push(format!("--cert-file={}", cert.display()));
            args.push(format!("--key-file={}", key.display()));
            args.push(format!("--trusted-ca-file={}", tls.ca().display()));
            args.push("--client-cert-auth".to_owned());
        }
        args.extend(self.args.iter().cloned());
        args
    }
}

/// A member of an etcd cluster; stopped when dropped.
#[derive(Debug)]
pub struct Etcd {
    server: Option<Server>,
    plan: EtcdBuilder,
    program: PathBuf,
    args: Vec<String>,
    data_dir: PathBuf,
    log: PathBuf,
    home: TempDir,
}

impl Etcd {
    /// A member of `version`, alone in its cluster unless told otherwise.
    pub fn builder(version: EtcdVersion) -> EtcdBuilder {
        EtcdBuilder {
            version,
            seat: Seat::new("default"),
            cluster: None,
            existing: false,
            token: DEFAULT_TOKEN.to_owned(),
            quota_bytes: None,
            data_dir: None,
            tls: None,
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// A new single member of `version`, ready.
    pub async fn start(version: EtcdVersion) -> Self {
        Self::builder(version).start().await
    }

    /// Its release.
    pub fn version(&self) -> EtcdVersion {
        self.plan.version
    }

    /// Its name and addresses.
    pub fn seat(&self) -> &Seat {
        &self.plan.seat
    }

    /// Where clients reach it.
    pub fn endpoint(&self) -> String {
        self.plan.seat.client_url()
    }

    /// Its `--data-dir`.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A directory that lives as long as this value, for whatever the test keeps beside the member.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its process id.
    ///
    /// # Panics
    /// Where it is stopped.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("the member runs").pid()
    }

    /// Everything that it has logged, over all its starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The value of a metric without labels, as the member gives it at `/metrics`.
    ///
    /// # Panics
    /// Where it cannot be reached or has no such metric.
    pub async fn metric(&self, name: &str) -> f64 {
        let address = format!("127.0.0.1:{}", self.plan.seat.client_port);
        let mut stream = TcpStream::connect(&address).await.expect("the member can be reached");
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the member listens");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("the member answers");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name}")).trim().parse().expect("a metric is a number")
    }

    /// etcd's own count of its watchers once it is `expected`, or for as long as that may take: a watcher ends when
    /// the reset of its stream arrives.
    pub async fn watchers(&self, expected: f64) -> f64 {
        for _ in 0..300 {
            let count = self.metric("etcd_debugging_mvcc_watcher_total").await;
            if count == expected {
                return count;
            }
            tokio::time::sleep(READY_POLL).await;
        }
        self.metric("etcd_debugging_mvcc_watcher_total").await
    }

    /// A new client of this member alone.
    ///
    /// # Panics
    /// Where it cannot be reached.
    pub async fn client(&self) -> Client {
        self.try_client(None).await.expect("the member can be reached")
    }

    /// A new client that signs in.
    ///
    /// # Errors
    /// Where the member cannot be reached or refuses the password.
    pub async fn client_of(&self, user: &str, password: &str) -> Result<Client, ClientError> {
        self.try_client(Some((user, password))).await
    }

    async fn try_client(&self, user: Option<(&str, &str)>) -> Result<Client, ClientError> {
        let mut options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(5));
        if let Some((name, password)) = user {
            options = options.with_user(name, password);
        }
        if let Some(tls) = &self.plan.tls {
            options = options.with_tls(tls.client_options());
        }
        Client::connect([self.endpoint()], Some(options)).await
    }

    /// The output of `etcdctl` with `args`, against this member.
    ///
    /// # Panics
    /// Where it fails.
    pub fn etcdctl(&self, args: &[&str]) -> String {
        let mut command = Command::new(self.plan.version.dir().join("etcdctl"));
        command.arg(format!("--endpoints={}", self.endpoint())).args(args);
        if let Some(tls) = &self.plan.tls {
            let (cert, key) = tls.client();
            command.arg("--cacert").arg(tls.ca()).arg("--cert").arg(cert).arg("--key").arg(key);
        }
        let output = command.output().expect("etcdctl runs");
        assert!(output.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// SIGTERM, and waits; the data dir stays.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.stop();
        }
    }

    /// SIGKILL, and waits; the data dir stays.
    pub fn kill9(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill9();
        }
    }

    /// Starts the stopped member again, on the same directory and ports, and waits until it serves.
    pub async fn restart(&mut self) {
        self.stop();
        self.launch();
        self.ready().await;
    }

    fn launch(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command.envs(self.plan.env.iter().map(|(name, value)| (name, value)));
        let title = format!("{} {}", self.plan.version.tool(), self.plan.seat.name);
        self.server = Some(Server::spawn(&title, command, &self.log));
    }

    /// Waits until the member serves linearizable reads.
    ///
    /// # Panics
    /// Where it ends instead, or takes longer than it may.
    pub async fn ready(&mut self) {
        let deadline = Instant::now() + READY_LIMIT;
        while !self.serves().await {
            let server = self.server.as_mut().expect("the member was launched");
            if let Some(status) = server.exited() {
                panic!("{} ended with {status} before it served", self.plan.version.tool());
            }
            assert!(Instant::now() < deadline, "{} does not serve after {READY_LIMIT:?}", self.plan.version.tool());
            tokio::time::sleep(READY_POLL).await;
        }
    }

    async fn serves(&self) -> bool {
        let Ok(mut client) = self.try_client(None).await else { return false };
        let read = tokio::time::timeout(Duration::from_secs(3), client.get("etcdbr-ready", None));
        match read.await {
            Err(_) => false,
            Ok(Ok(_)) => true,
            // With authentication on, the refusal is an answer of a member that serves.
            Ok(Err(ClientError::GRpcStatus(status))) => {
                status.message().contains("user name is empty") || status.message().contains("permission denied")
            }
            Ok(Err(_)) => false,
        }
    }
}

/// Several members of one cluster, all running.
#[derive(Debug)]
pub struct EtcdCluster {
    /// The members, in the order of their seats.
    pub members: Vec<Etcd>,
}

impl EtcdCluster {
    /// A new cluster of `n` members.
    pub async fn start(version: EtcdVersion, n: usize) -> Self {
        let seats = Seat::several(n);
        Self::start_with(seats, |seat, cluster| Etcd::builder(version).seat(seat).cluster(cluster)).await
    }

    /// A cluster on directories that were restored for `seats`, in the same order.
    pub async fn start_restored(version: EtcdVersion, seats: Vec<Seat>, data_dirs: &[PathBuf]) -> Self {
        let mut dirs = data_dirs.iter();
        Self::start_with(seats, |seat, cluster| {
            let dir = dirs.next().expect("a directory for every seat");
            Etcd::builder(version).seat(seat).cluster(cluster).data_dir(dir)
        })
        .await
    }

    /// Launches all of them, then waits for each.
    pub async fn start_with(seats: Vec<Seat>, mut member: impl FnMut(Seat, &str) -> EtcdBuilder) -> Self {
        let cluster = initial_cluster(&seats);
        let mut members: Vec<Etcd> = seats.into_iter().map(|seat| member(seat, &cluster).launch()).collect();
        for etcd in &mut members {
            etcd.ready().await;
        }
        Self { members }
    }

    /// The client URLs of all members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    /// The position of the member that leads.
    ///
    /// # Panics
    /// Where no member leads.
    pub async fn leader(&self) -> usize {
        for (position, etcd) in self.members.iter().enumerate() {
            let status = etcd.client().await.status().await.expect("a member answers status");
            if status.header().expect("every answer has a header").member_id() == status.leader() {
                return position;
            }
        }
        panic!("no member leads");
    }
}
