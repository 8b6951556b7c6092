//! The one TLS stack (rustls over ring) of the etcd and store clients.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, ErrorKind, Result};

/// Whether the other side must prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerIdentity {
    /// Its certificate must lead to a trusted root and name the host.
    #[default]
    Verified,
    /// Any certificate will do: only for tests and broken installations.
    Unchecked,
}

/// What a TLS client is given.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// PEM file of the roots to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of our own certificate chain and its key.
    pub client_identity: Option<ClientIdentity>,
    /// Whether the server's certificate is checked.
    pub server_identity: ServerIdentity,
}

/// Our own certificate.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    /// PEM file of the certificate chain.
    pub cert_file: PathBuf,
    /// PEM file of its private key.
    pub key_file: PathBuf,
}

impl TlsOptions {
    /// The rustls configuration. Without `ca_file` the system's roots are trusted; where the system has none (an
    /// empty container), Mozilla's.
    ///
    /// # Errors
    /// `Invalid` for a file that cannot be read or holds no certificate or key.
    pub fn client_config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(ErrorKind::Internal, "tls protocol versions").caused_by(error))?;
        let builder = match self.server_identity {
            ServerIdentity::Verified => builder.with_root_certificates(self.roots()?),
            ServerIdentity::Unchecked => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
            }
        };
        match &self.client_identity {
            None => Ok(builder.with_no_client_auth()),
            Some(identity) => {
                let chain = certificates(&identity.cert_file)?;
                let key = PrivateKeyDer::from_pem_file(&identity.key_file)
                    .map_err(|error| unusable(&identity.key_file, "private key").caused_by(error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| unusable(&identity.cert_file, "certificate").caused_by(error))
            }
        }
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.ca_file {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| unusable(file, "certificate").caused_by(error))?;
            }
            return Ok(roots);
        }
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        }
        Ok(roots)
    }
}

fn certificates(file: &PathBuf) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(file, "certificate").caused_by(error))?;
    if found.is_empty() { Err(unusable(file, "certificate")) } else { Ok(found) }
}

fn unusable(file: &std::path::Path, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("no usable {what} in {}", file.display()))
        .hint("it must be a readable PEM file")
}

/// Accepts every certificate, but still checks that the peer holds its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
