//! A certificate authority for one test: a server certificate for the loopback addresses and one for a client.

use std::fs;
use std::path::{Path, PathBuf};

use etcd_client::{Certificate, Identity, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;

/// Generated certificates and keys, as PEM files in a directory of their own.
#[derive(Debug)]
pub struct TestTls {
    dir: TempDir,
}

impl TestTls {
    /// A new authority with a server and a client certificate.
    pub fn generate() -> Self {
        let dir = tempfile::Builder::new().prefix("etcdbr-tls").tempdir().expect("a temporary directory");
        let mut params = CertificateParams::new(Vec::new()).expect("no names to refuse");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "etcdbr test authority");
        let ca = CertifiedIssuer::self_signed(params, key()).expect("a certificate can be signed");
        fs::write(dir.path().join("ca.pem"), ca.pem()).expect("written");
        // etcd dials its own gRPC gateway as a client, with its server certificate.
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        issue(dir.path(), &ca, "server", &["localhost", "127.0.0.1"], &both);
        issue(dir.path(), &ca, "client", &["client"], &[ExtendedKeyUsagePurpose::ClientAuth]);
        Self { dir }
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The server's certificate and key.
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join("server.pem"), self.dir.path().join("server.key"))
    }

    /// The client's certificate and key.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join("client.pem"), self.dir.path().join("client.key"))
    }

    /// The same for `etcd-client`.
    pub fn client_options(&self) -> TlsOptions {
        let (cert, key) = self.client();
        let read = |path: PathBuf| fs::read(path).expect("written by generate");
        TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read(self.ca())))
            .identity(Identity::from_pem(read(cert), read(key)))
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key can be generated")
}

fn issue(
    dir: &Path,
    ca: &CertifiedIssuer<'_, KeyPair>,
    name: &str,
    alt_names: &[&str],
    usages: &[ExtendedKeyUsagePurpose],
) {
    let names: Vec<String> = alt_names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("valid names");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.extended_key_usages = usages.to_vec();
    let key = key();
    let cert = params.signed_by(&key, ca).expect("a certificate can be signed");
    fs::write(dir.join(format!("{name}.pem")), cert.pem()).expect("written");
    fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).expect("written");
}
