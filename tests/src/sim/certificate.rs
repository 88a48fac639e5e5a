//! The simulated listener's certificate. Its key is fixed and of Ed25519, so that it and its signatures have the same
//! length in every run; `probe-server`'s own is of ECDSA, whose signatures have not.

use std::sync::Arc;

use probe_protocol::invite;
use quinn_proto::crypto::rustls::QuicServerConfig;
use rcgen::{CertificateParams, DnType, KeyPair, SerialNumber};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// RFC 8410: an Ed25519 private key in PKCS #8, before its 32 bytes.
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// What a QUIC client may ask for (RFC 7301), as `probe-server` has it.
const QUIC_ALPN: [&[u8]; 2] = [b"probe", b"h3"];

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS does not take it.
    #[error("cannot use the certificate: {0}")]
    Use(#[from] rustls::Error),
    /// QUIC does not take TLS's configuration.
    #[error("cannot use the certificate for QUIC: {0}")]
    Quic(#[from] quinn_proto::crypto::rustls::NoInitialCipherSuite),
}

/// A certificate, ready for TLS and QUIC.
#[derive(Clone)]
pub(super) struct Certificate {
    fingerprint: [u8; 32],
    tls: Arc<ServerConfig>,
    quic: Arc<QuicServerConfig>,
}

impl Certificate {
    /// The lab's own.
    pub(super) fn new() -> Result<Self, CertificateError> {
        let key = [&PKCS8[..], &[0x42; 32]].concat();
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.clone()))?;
        let mut params = CertificateParams::new(["probe-server".to_owned(), "localhost".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, "probe-server");
        params.serial_number = Some(SerialNumber::from(8886));
        let der = params.self_signed(&pair)?.der().clone();
        let fingerprint = invite::fingerprint(&der);
        let tls = config(&der, &key, &[])?;
        let quic = QuicServerConfig::try_from(config(&der, &key, &QUIC_ALPN)?)?;
        Ok(Self { fingerprint, tls: Arc::new(tls), quic: Arc::new(quic) })
    }

    /// SHA-256 of it.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// For TLS over TCP.
    pub(super) fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.tls)
    }

    /// For QUIC.
    pub(super) fn quic(&self) -> Arc<QuicServerConfig> {
        Arc::clone(&self.quic)
    }
}

fn config(
    der: &CertificateDer<'static>,
    key: &[u8],
    alpn: &[&[u8]],
) -> Result<ServerConfig, CertificateError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], PrivatePkcs8KeyDer::from(key.to_vec()).into())?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}
