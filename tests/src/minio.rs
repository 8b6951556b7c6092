//! A real MinIO with a drive of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::error::DisplayErrorContext;
use tempfile::TempDir;

use crate::ports::free_port;
use crate::process::Server;
use crate::tools::tool_dir;

const ACCESS_KEY: &str = "etcdbr-test-access";
const SECRET_KEY: &str = "etcdbr-test-secret-key";
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
