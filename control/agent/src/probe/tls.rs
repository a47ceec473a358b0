//! TLS of health checks (rustls): with the certificate checked against the agent's authorities, or not at all.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sluice_api::placement::Verify;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where Debian keeps the authorities.
pub const CA_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why there are no clients.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of authorities cannot be read.
    #[error("authorities {path}: {source}")]
    Authorities {
        /// File.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate in it is none.
    #[error("authorities {path}: {source}")]
    Certificate {
        /// File.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The library refused its own settings.
    #[error("set up TLS: {0}")]
    Setup(rustls::Error),
}

/// Both ways to ask. Sessions are not resumed: each check proves a whole handshake.
#[derive(Clone)]
pub struct Clients {
    checking: TlsConnector,
    believing: TlsConnector,
}

impl Clients {
    /// Clients that trust the authorities of a PEM file; without one, `verify: ca` fails each check.
    ///
    /// # Errors
    /// The file is named and cannot be used.
    pub fn new(authorities: Option<&Path>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = authorities {
            let read = |source| TlsError::Authorities { path: path.to_owned(), source };
            for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
                let added = roots.add(certificate.map_err(read)?);
                added.map_err(|source| TlsError::Certificate { path: path.to_owned(), source })?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let with = || {
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
            builder.with_safe_default_protocol_versions().map_err(TlsError::Setup)
        };
        let mut checking = with()?.with_root_certificates(roots).with_no_client_auth();
        let verifier = Arc::new(Believing(Arc::clone(&provider)));
        let mut believing =
            with()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        for config in [&mut checking, &mut believing] {
            config.resumption = rustls::client::Resumption::disabled();
        }
        Ok(Clients { checking: Arc::new(checking).into(), believing: Arc::new(believing).into() })
    }

    /// A handshake.
    ///
    /// # Errors
    /// It failed, or the certificate is not as demanded.
    pub async fn connect(
        &self,
        stream: TcpStream,
        verify: Verify,
        host: Option<&str>,
        address: SocketAddr,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = match host {
            // The Host field may carry a port; the name asked for does not.
            Some(host) => ServerName::try_from(without_port(host).to_owned()).map_err(io::Error::other)?,
            None => ServerName::from(address.ip()),
        };
        let client = match verify {
            Verify::Ca => &self.checking,
            Verify::None => &self.believing,
        };
        client.connect(name, stream).await
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
    .trim_matches(['[', ']'])
}

/// Believes every certificate; the handshake's signatures are still checked, so the peer has the key.
#[derive(Debug)]
struct Believing(Arc<CryptoProvider>);

impl ServerCertVerifier for Believing {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_asked_for_has_no_port() {
        assert_eq!(without_port("www.example:8443"), "www.example");
        assert_eq!(without_port("www.example"), "www.example");
        assert_eq!(without_port("[2001:db8::1]"), "2001:db8::1");
        assert_eq!(without_port("[2001:db8::1]:443"), "2001:db8::1");
    }
}
