//! The certificate, and what TLS and QUIC are configured with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use probe_protocol::invite;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;

use crate::state::{StateDir, StateError};

/// The exporter that both ends compare, RFC 9266: 32 bytes, the context empty.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// What a QUIC client may ask for (RFC 7301); QUIC demands that one is agreed on.
const QUIC_ALPN: [&[u8]; 2] = [b"probe", b"h3"];

/// Why there is no certificate to serve with.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A PEM file cannot be read or holds nothing of the kind.
    #[error("cannot use {} as {what}: {why}", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// As what.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("the certificate and its key cannot be used: {0}")]
    Unusable(String),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(String),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Certificate {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Certificate {
    /// The admin's own, from PEM files.
    ///
    /// # Errors
    /// [`TlsError::Pem`].
    pub fn from_pem(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let bad = |path: &Path, what, why: String| TlsError::Pem { path: path.to_owned(), what, why };
        let chain = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| bad(cert, "a certificate", e.to_string()))?;
        if chain.is_empty() {
            return Err(bad(cert, "a certificate", "there is none in it".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, "a private key", e.to_string()))?;
        Ok(Self { chain, key })
    }

    /// The fingerprint of the first certificate in a PEM file.
    ///
    /// # Errors
    /// [`TlsError::Pem`].
    pub fn fingerprint_of_pem(cert: &Path) -> Result<[u8; 32], TlsError> {
        let bad = |e: rustls::pki_types::pem::Error| TlsError::Pem {
            path: cert.to_owned(),
            what: "a certificate",
            why: e.to_string(),
        };
        CertificateDer::from_pem_file(cert).map(|c| invite::fingerprint(&c)).map_err(bad)
    }

    /// The listener's own: made once and kept.
    ///
    /// # Errors
    /// A [`TlsError`].
    pub fn own(state: Option<&StateDir>) -> Result<Self, TlsError> {
        if let Some(state) = state
            && let Some((cert, key)) = state.certificate()?
        {
            let certificate = Self::from_der(cert, key);
            // A damaged one must say so now, not at the first handshake.
            return match certificate.tls() {
                Ok(_) => Ok(certificate),
                Err(error) => Err(state.certificate_is_damaged(error.to_string()).into()),
            };
        }
        let (cert, key) = make()?;
        if let Some(state) = state {
            state.keep_certificate(&cert, &key)?;
        }
        Ok(Self::from_der(cert, key))
    }

    fn from_der(cert: Vec<u8>, key: Vec<u8>) -> Self {
        Self { chain: vec![cert.into()], key: PrivatePkcs8KeyDer::from(key).into() }
    }

    /// SHA-256 of the certificate, as invites carry it.
    pub fn fingerprint(&self) -> [u8; 32] {
        invite::fingerprint(self.chain.first().map_or(&[][..], |c| c.as_ref()))
    }

    /// For TLS over TCP: any ALPN a client offers is fine, none is chosen.
    ///
    /// # Errors
    /// [`TlsError::Unusable`].
    pub fn tls(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.config(&[]).map(Arc::new)
    }

    /// For QUIC.
    ///
    /// # Errors
    /// [`TlsError::Unusable`].
    pub fn quic(&self) -> Result<Arc<quinn::crypto::rustls::QuicServerConfig>, TlsError> {
        let config = self.config(&QUIC_ALPN)?;
        let quic = quinn::crypto::rustls::QuicServerConfig::try_from(config);
        quic.map(Arc::new).map_err(|e| TlsError::Unusable(e.to_string()))
    }

    fn config(&self, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
        let unusable = |e: rustls::Error| TlsError::Unusable(e.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(unusable)?;
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(config)
    }
}

fn make() -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let failed = |e: rcgen::Error| TlsError::Make(e.to_string());
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let names = ["probe-server".to_owned(), "localhost".to_owned()];
    let mut params = rcgen::CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "probe-server");
    let cert = params.self_signed(&key).map_err(failed)?;
    Ok((cert.der().to_vec(), key.serialize_der()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_certificate_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let first = Certificate::own(Some(&state)).unwrap().fingerprint();
        assert_eq!(Certificate::own(Some(&state)).unwrap().fingerprint(), first);
        assert_ne!(Certificate::own(None).unwrap().fingerprint(), first);
        std::fs::write(dir.path().join("key.der"), b"no key").unwrap();
        let error = Certificate::own(Some(&state)).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[test]
    fn the_admins_own_is_read_from_pem() {
        let dir = tempfile::tempdir().unwrap();
        let (cert_path, key_path) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(&cert_path, cert.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        let loaded = Certificate::from_pem(&cert_path, &key_path).unwrap();
        assert_eq!(loaded.fingerprint(), invite::fingerprint(cert.der()));
        loaded.quic().unwrap();
        assert!(matches!(Certificate::from_pem(&key_path, &key_path), Err(TlsError::Pem { .. })));
        assert!(matches!(Certificate::from_pem(&cert_path, &cert_path), Err(TlsError::Pem { .. })));
        let other = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&key_path, other.serialize_pem()).unwrap();
        assert!(Certificate::from_pem(&cert_path, &key_path).unwrap().tls().is_err());
    }
}
