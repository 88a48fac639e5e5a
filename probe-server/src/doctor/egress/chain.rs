//! A server's certificate chain: taken in a handshake that trusts nobody, then judged by two stores.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;

use super::EgressOptions;

/// Certificates of a chain that are looked at; more is no honest server's.
const MAX_CERTIFICATES: usize = 16;

/// What a store says of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Trusted,
    /// Its issuer is unknown, or its signature wrong; in the verifier's words.
    Untrusted(String),
    /// Trusted, but for another name.
    WrongName,
    /// The store itself cannot be had.
    NoStore(String),
}

/// How the leaf's validity stands to the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    Now,
    Past,
    Future,
}

/// A chain, judged. The two judgements leave time out; [`Chain::validity`] says it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chain {
    pub(super) public: Trust,
    pub(super) host: Trust,
    pub(super) validity: Validity,
    /// Of the leaf: who signed it, for whom, and from when to when.
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) lifetime: String,
}

/// The two stores.
pub(super) struct Judges {
    public: Arc<dyn ServerCertVerifier>,
    host: Result<Arc<dyn ServerCertVerifier>, String>,
}

impl Judges {
    pub(super) fn new(options: &EgressOptions) -> Result<Self, rustls::Error> {
        let mut public = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in &options.public_roots {
            public.add(root.clone())?;
        }
        let host = match &options.host_store {
            Some(roots) => {
                let mut store = RootCertStore::empty();
                for root in roots {
                    store.add(root.clone())?;
                }
                with_roots(store).map_err(|error| error.to_string())
            }
            None => rustls_platform_verifier::Verifier::new(provider())
                .map(|verifier| Arc::new(verifier) as Arc<dyn ServerCertVerifier>)
                .map_err(|error| error.to_string()),
        };
        let public = with_roots(public).map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { public, host })
    }

    /// Judges a chain, its leaf first, that `name` showed at `now`.
    pub(super) fn judge(
        &self,
        certificates: &[CertificateDer<'static>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Chain {
        let parsed = certificates.first().map(|leaf| x509_parser::parse_x509_certificate(leaf));
        let Some(Ok((_, leaf))) = parsed else {
            let broken = Trust::Untrusted("the certificate cannot be read".to_owned());
            let nothing = String::new();
            return Chain {
                public: broken.clone(),
                host: broken,
                validity: Validity::Now,
                issuer: nothing.clone(),
                subject: nothing.clone(),
                lifetime: nothing,
            };
        };
        let lifetime = leaf.validity();
        let (from, to) = (lifetime.not_before.timestamp(), lifetime.not_after.timestamp());
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = match seconds {
            early if early < from => Validity::Future,
            late if late > to => Validity::Past,
            _ => Validity::Now,
        };
        // Out of its time a chain is judged as of its own middle, so that trust and time are told apart.
        let middle = u64::try_from(from + (to - from) / 2).unwrap_or(0);
        let at = match validity {
            Validity::Now => now,
            Validity::Past | Validity::Future => {
                UnixTime::since_unix_epoch(std::time::Duration::from_secs(middle))
            }
        };
        Chain {
            public: trust(self.public.as_ref(), certificates, name, at),
            host: match &self.host {
                Ok(verifier) => trust(verifier.as_ref(), certificates, name, at),
                Err(error) => Trust::NoStore(error.clone()),
            },
            validity,
            issuer: leaf.issuer().to_string(),
            subject: leaf.subject().to_string(),
            lifetime: format!("{} to {}", lifetime.not_before, lifetime.not_after),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn with_roots(
    store: RootCertStore,
) -> Result<Arc<dyn ServerCertVerifier>, rustls::client::VerifierBuilderError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build()?;
    Ok(verifier)
}

fn trust(
    verifier: &dyn ServerCertVerifier,
    certificates: &[CertificateDer<'static>],
    name: &ServerName<'_>,
    at: UnixTime,
) -> Trust {
    let Some((leaf, between)) = certificates.split_first() else {
        return Trust::Untrusted("no certificate".to_owned());
    };
    match verifier.verify_server_cert(leaf, between, name, &[], at) {
        Ok(_) => Trust::Trusted,
        Err(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => Trust::WrongName,
        Err(error) => Trust::Untrusted(error.to_string()),
    }
}

/// Makes a TLS handshake and hands out the chain, whoever signed it. No byte of application data is sent.
pub(super) async fn handshake(
    stream: TcpStream,
    name: ServerName<'static>,
) -> io::Result<Vec<CertificateDer<'static>>> {
    let collector = Arc::new(Collector { provider: provider(), chain: Mutex::new(Vec::new()) });
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(collector.clone())
        .with_no_client_auth();
    let connected = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let chain = std::mem::take(&mut *collector.chain.lock().unwrap_or_else(PoisonError::into_inner));
    // A server that closes after its certificate (it wants one of ours) has shown what is asked for.
    if chain.is_empty() {
        connected?;
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no certificate was shown"));
    }
    Ok(chain)
}

/// The other side does not speak TLS at all.
pub(super) fn is_not_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(_)))
}

/// Accepts every chain, to look at it afterwards.
#[derive(Debug)]
struct Collector {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Collector {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(leaf).chain(between).take(MAX_CERTIFICATES);
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) =
            all.map(|certificate| certificate.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
