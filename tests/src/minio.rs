//! A real MinIO with a drive of its own.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::types::{
    DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold, ObjectLockLegalHoldStatus,
    ObjectLockRetentionMode, ObjectLockRule,
};
use etcdbr_engine::secret::SecretText;
use etcdbr_engine::store::{Credentials as StoreCredentials, Provider, StaticKeys, StoreOptions};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ports::free_port;
use crate::process::Server;
use crate::tools::tool_dir;

const ACCESS_KEY: &str = "etcdbr-test-access";
const SECRET_KEY: &str = "etcdbr-test-secret-key";
/// Where it tells its counts.
const REQUESTS_PATH: &str = "/minio/metrics/v3/api/requests";
/// A request that nothing else here makes.
const MARK: &str = "GetBucketLocation";
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A MinIO that runs; stopped when dropped.
#[derive(Debug)]
pub struct Minio {
    server: Server,
    port: u16,
    home: TempDir,
}

impl Minio {
    /// Starts one and waits until it takes requests.
    ///
    /// # Panics
    /// Where it does not come up.
    pub async fn start() -> Self {
        let home = tempfile::Builder::new().prefix("etcdbr-minio").tempdir().expect("a temporary directory");
        let (port, console) = (free_port(), free_port());
        let mut command = Command::new(tool_dir("minio").join("minio"));
        command
            .args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}")])
            .args(["--console-address", &format!("127.0.0.1:{console}")])
            .arg(home.path().join("drive"))
            .env("HOME", home.path())
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .env("MINIO_PROMETHEUS_AUTH_TYPE", "public")
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off");
        let server = Server::spawn("minio", command, &home.path().join("log"));
        let mut minio = Self { server, port, home };
        minio.ready().await;
        minio
    }

    async fn ready(&mut self) {
        let client = self.client();
        let deadline = Instant::now() + READY_LIMIT;
        while let Err(error) = client.list_buckets().send().await {
            if let Some(status) = self.server.exited() {
                panic!("minio ended with {status} before it served");
            }
            assert!(Instant::now() < deadline, "minio does not serve: {}", DisplayErrorContext(error));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The id of the credentials.
    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// The secret of the credentials.
    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The directory that lives as long as this value.
    pub fn home(&self) -> &std::path::Path {
        self.home.path()
    }

    /// Options for a store of ours in `bucket`.
    pub fn options(&self, bucket: &str) -> StoreOptions {
        let mut options = StoreOptions::new(Provider::S3, bucket);
        options.endpoint = Some(self.endpoint());
        options.credentials = StoreCredentials::Static(StaticKeys {
            access_key: SecretText::new(ACCESS_KEY),
            secret_key: SecretText::new(SECRET_KEY),
            session_token: None,
        });
        options
    }

    /// A client that is not ours.
    pub fn client(&self) -> Client {
        let http = aws_smithy_http_client::Builder::new().build_http();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(self.endpoint())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
            .force_path_style(true)
            .http_client(http)
            .build();
        Client::from_conf(config)
    }

    /// Makes a bucket.
    ///
    /// # Panics
    /// Where MinIO refuses.
    pub async fn create_bucket(&self, name: &str) {
        self.client().create_bucket().bucket(name).send().await.expect("a new bucket");
    }

    /// Makes a bucket that keeps versions and locks each new one for so many days, for everybody.
    ///
    /// # Panics
    /// Where MinIO refuses.
    pub async fn create_locked_bucket(&self, name: &str, days: i32) {
        let client = self.client();
        client.create_bucket().bucket(name).object_lock_enabled_for_bucket(true).send().await.expect("a new bucket");
        let retention = DefaultRetention::builder().mode(ObjectLockRetentionMode::Compliance).days(days).build();
        let lock = ObjectLockConfiguration::builder()
            .object_lock_enabled(ObjectLockEnabled::Enabled)
            .rule(ObjectLockRule::builder().default_retention(retention).build())
            .build();
        let call = client.put_object_lock_configuration().bucket(name).object_lock_configuration(lock);
        call.send().await.expect("a locked bucket");
    }

    /// Puts an object under a legal hold.
    ///
    /// # Panics
    /// Where MinIO refuses.
    pub async fn hold(&self, bucket: &str, key: &str) {
        let hold = ObjectLockLegalHold::builder().status(ObjectLockLegalHoldStatus::On).build();
        let call = self.client().put_object_legal_hold().bucket(bucket).key(key).legal_hold(hold);
        call.send().await.expect("an object of a locked bucket");
    }

    /// Requests so far, by the name of the operation as S3 has it (`GetObject`), by MinIO's own account. That is a moment
    /// behind: so this waits until it knows of a request that only this function makes.
    ///
    /// # Panics
    /// Where MinIO does not tell for long.
    pub async fn requests(&self) -> BTreeMap<String, u64> {
        let marked = self.told_requests().await.get(MARK).copied().unwrap_or_default();
        self.client().get_bucket_location().bucket("none").send().await.expect_err("there is no such bucket");
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let told = self.told_requests().await;
            // An account that was told twice may be older than the mark.
            if told.get(MARK).is_some_and(|count| *count > marked) {
                return told;
            }
            assert!(Instant::now() < deadline, "minio does not tell its requests: {told:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn told_requests(&self) -> BTreeMap<String, u64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("minio listens");
        let request = format!("GET {REQUESTS_PATH} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\n\r\n", self.port);
        stream.write_all(request.as_bytes()).await.expect("minio reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("minio answers");
        let counts = text.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("minio_api_requests_total{name=\"")?.split_once('"')?;
            Some((name.to_owned(), rest.rsplit(' ').next()?.parse::<f64>().ok()? as u64))
        });
        counts.collect()
    }

    /// The keys of all objects of a bucket.
    ///
    /// # Panics
    /// Where MinIO refuses.
    pub async fn keys(&self, bucket: &str) -> Vec<String> {
        let mut pages = self.client().list_objects_v2().bucket(bucket).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.expect("a page of the listing");
            keys.extend(page.contents().iter().filter_map(|object| object.key()).map(str::to_owned));
        }
        keys
    }

    /// One object's bytes.
    ///
    /// # Panics
    /// Where MinIO refuses.
    pub async fn object(&self, bucket: &str, key: &str) -> Vec<u8> {
        let answer = self.client().get_object().bucket(bucket).key(key).send().await.expect("an object");
        answer.body.collect().await.expect("the object's bytes").to_vec()
    }

    /// Every object of a bucket with its bytes: what a thief of the bucket would hold.
    pub async fn objects(&self, bucket: &str) -> Vec<(String, Vec<u8>)> {
        let mut objects = Vec::new();
        for key in self.keys(bucket).await {
            let bytes = self.object(bucket, &key).await;
            objects.push((key, bytes));
        }
        objects
    }

    /// The multipart uploads that were begun for the key `key` and neither completed nor aborted. MinIO lists them
    /// only by the object's whole name.
    ///
    /// # Panics
    /// Where MinIO refuses.
    pub async fn pending_multiparts(&self, bucket: &str, key: &str) -> usize {
        let answer = self.client().list_multipart_uploads().bucket(bucket).prefix(key).send().await;
        answer.expect("the list of multipart uploads").uploads().len()
    }

    /// The multipart uploads of the whole server that are pending, counted on its drive.
    pub fn pending_multiparts_on_drive(&self) -> usize {
        let root = self.home.path().join("drive/.minio.sys/multipart");
        let objects = std::fs::read_dir(root).into_iter().flatten().flatten();
        objects.map(|object| std::fs::read_dir(object.path()).into_iter().flatten().flatten().count()).sum()
    }
}
