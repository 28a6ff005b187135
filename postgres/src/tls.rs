//! TLS towards Postgres, with libpq's meaning of `sslmode`.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

/// What is asked of the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    None,
    Chain(Roots),
    ChainAndName(Roots),
}

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    System,
    File(PathBuf),
}

impl Roots {
    /// Where libpq looks when `sslrootcert` is not given; else the system's.
    pub(crate) fn usual() -> Self {
        match env::home_dir().map(|home| home.join(".postgresql/root.crt")) {
            Some(path) if path.exists() => Self::File(path),
            _ => Self::System,
        }
    }

    fn load(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let certificates = match self {
            Self::System => {
                let loaded = rustls_native_certs::load_native_certs();
                for error in &loaded.errors {
                    tracing::debug!(%error, "a certificate of the system is left out");
                }
                loaded.certs
            }
            Self::File(path) => CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect)
                .map_err(|error| format!("cannot read sslrootcert {}: {error}", path.display()))?,
        };
        if certificates.is_empty() {
            return Err(match self {
                Self::System => "the system has no certificates; name a file with sslrootcert".to_owned(),
                Self::File(path) => format!("sslrootcert {} holds no certificate", path.display()),
            });
        }
        Ok(certificates)
    }
}

/// # Errors
/// The reason why the certificates cannot be used.
pub(crate) fn connector(verification: &Verification) -> Result<MakeRustlsConnect, String> {
    // Named, because other libraries of the program bring a second provider into the same rustls.
    let provider = Arc::new(ring::default_provider());
    let (trusted, check_name) = match verification {
        Verification::None => (None, false),
        Verification::Chain(roots) => (Some(roots.load()?), false),
        Verification::ChainAndName(roots) => (Some(roots.load()?), true),
    };
    let trust = trusted.map(|certificates| {
        let mut anchors = RootCertStore::empty();
        anchors.add_parsable_certificates(certificates.iter().cloned());
        Trust { anchors, certificates }
    });
    let verifier = Verifier { provider: Arc::clone(&provider), trust, check_name };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    trust: Option<Trust>,
    check_name: bool,
}

#[derive(Debug)]
struct Trust {
    anchors: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            // A self-signed server certificate that is itself the trusted one, usual with Postgres, is no chain to
            // webpki.
            if !trust.certificates.contains(end_entity) {
                verify_server_cert_signed_by_trust_anchor(
                    &parsed,
                    &trust.anchors,
                    intermediates,
                    now,
                    self.provider.signature_verification_algorithms.all,
                )?;
            }
            if self.check_name {
                verify_server_name(&parsed, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
