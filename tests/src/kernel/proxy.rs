//! A proxy on the side host: it ends TCP connections, TLS too where told to, and makes its own to the listener.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use super::Host;
use crate::middlebox::{Proxy, ProxyKind};

/// A connection of which nothing was heard for so long in its beginning is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The first byte of a TLS record that holds a handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// A proxy at work; it ends when this is dropped.
pub(super) struct RunningProxy {
    connections: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What each connection works with.
struct Work {
    kind: ProxyKind,
    targets: [Option<SocketAddr>; 2],
    authority: Option<Authority>,
    connections: Arc<AtomicU64>,
}

impl RunningProxy {
    /// Starts one on a host. `targets` is where the listener is, over IPv4 and IPv6.
    pub(super) fn start(host: &Host, proxy: &Proxy, targets: [Option<SocketAddr>; 2]) -> io::Result<Self> {
        let connections = Arc::new(AtomicU64::new(0));
        let kind = proxy.kind;
        let authority = (kind == ProxyKind::Inspect).then(|| Authority::new(&proxy.issuer)).transpose()?;
        let work = Arc::new(Work { kind, targets, authority, connections: connections.clone() });
        let listener = host.run(|| TcpListener::bind(("::", proxy.port)))??;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        let host = host.clone();
        let thread = std::thread::Builder::new().name("proxy".into()).spawn(move || {
            // Sockets made on this thread, to the listener, belong to the host.
            if host.enter().is_err() {
                return;
            }
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                tokio::select! {
                    _ = serve(listener, work) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { connections, stop: Some(stop), thread: Some(thread) })
    }

    /// Connections taken so far.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for RunningProxy {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, work: Arc<Work>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (inner, from) = listener.accept().await?;
        work.connections.fetch_add(1, Ordering::Relaxed);
        let work = work.clone();
        tokio::spawn(async move {
            // A connection that fails is closed, which is all that either end can see of it.
            let _ = carry(inner, from, &work).await;
        });
    }
}

async fn carry(mut inner: TcpStream, from: SocketAddr, work: &Work) -> io::Result<()> {
    let v6 = from.ip().to_canonical().is_ipv6();
    let target = work.targets[usize::from(v6)].ok_or(io::ErrorKind::AddrNotAvailable)?;
    inner.set_nodelay(true)?;
    match work.kind {
        ProxyKind::Portal => return welcome(inner).await,
        ProxyKind::Connect => {
            let to = asked_for(&mut inner).await?;
            let outer = connect(to).await?;
            inner.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            return join(inner, outer).await;
        }
        ProxyKind::Relay | ProxyKind::Inspect => {}
    }
    let Some(authority) = &work.authority else {
        return join(inner, connect(target).await?).await;
    };
    let mut first = [0];
    let peeked = tokio::time::timeout(PATIENCE, inner.peek(&mut first)).await;
    if !matches!(peeked, Ok(Ok(1))) || first[0] != HANDSHAKE {
        return join(inner, connect(target).await?).await;
    }
    let start = soon(LazyConfigAcceptor::new(rustls::server::Acceptor::default(), inner)).await?;
    let hello = start.client_hello();
    let name = hello.server_name().map(str::to_owned);
    let protocols: Vec<Vec<u8>> =
        hello.alpn().map(|list| list.map(<[u8]>::to_vec).collect()).unwrap_or_default();
    let outer = connect(target).await?;
    let to: ServerName<'static> = match name.clone().map(ServerName::try_from) {
        Some(Ok(name)) => name,
        Some(Err(_)) | None => target.ip().into(),
    };
    let outer = soon(TlsConnector::from(authority.client(protocols)?).connect(to, outer)).await?;
    let chosen = outer.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let name = name.unwrap_or_else(|| target.ip().to_string());
    let inner = soon(start.into_stream(authority.server(&name, chosen)?)).await?;
    join(inner, outer).await
}

/// Reads a request's head; what is longer than a head should be is refused.
async fn head(inner: &mut TcpStream) -> io::Result<String> {
    const LONGEST: usize = 8192;
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let byte = soon(inner.read_u8()).await?;
        bytes.push(byte);
        if bytes.len() > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Sends whoever asks for anything to the portal's own page. What is no HTTP gets the same, as portals do.
async fn welcome(mut inner: TcpStream) -> io::Result<()> {
    const PAGE: &[u8] =
        b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/login\r\nContent-Length: 0\r\n\
        Connection: close\r\n\r\n";
    let mut first = [0; 1024];
    let _ = tokio::time::timeout(PATIENCE, inner.read(&mut first)).await;
    inner.write_all(PAGE).await?;
    inner.shutdown().await
}

/// Where a CONNECT request wants to go.
async fn asked_for(inner: &mut TcpStream) -> io::Result<SocketAddr> {
    let head = head(inner).await?;
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let target: Option<SocketAddr> = target.and_then(|target| target.parse().ok());
    if target.is_none() {
        inner.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\n\r\n").await?;
    }
    target.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A step of a connection's beginning: its other end may have gone a way that does not lead here any more.
async fn soon<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, step).await.map_err(io::Error::other)?
}

async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = soon(TcpStream::connect(target)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn join<A, B>(mut inner: A, mut outer: B) -> io::Result<()>
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    tokio::io::copy_bidirectional(&mut inner, &mut outer).await.map(|_| ())
}

/// A certificate authority that nobody was asked about.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Authority {
    fn new(name: &str) -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?.der().clone();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
            provider: Arc::new(ring::default_provider()),
        })
    }

    /// In the listener's name, with a certificate made on the spot.
    fn server(&self, name: &str, protocol: Option<Vec<u8>>) -> io::Result<Arc<ServerConfig>> {
        let mut params = CertificateParams::new([name.to_owned()]).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        let secret = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
            .map_err(io::Error::other)?;
        config.alpn_protocols.extend(protocol);
        Ok(Arc::new(config))
    }

    /// Towards the listener, whoever it says it is.
    fn client(&self, protocols: Vec<Vec<u8>>) -> io::Result<Arc<ClientConfig>> {
        let verifier = Arc::new(Anybody(self.provider.signature_verification_algorithms));
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = protocols;
        Ok(Arc::new(config))
    }
}

/// Takes any certificate, as inspectors do that are set up carelessly.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
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
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
