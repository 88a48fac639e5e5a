//! A licence server of the tests' own, and everything that can stand in its way.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use probe_protocol::cause::Cause;
use probe_protocol::finding::Severity;
use probe_server::doctor::{HostPort, Options, Report, State, run};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::lab::{Netns, can};

const LICENSE: &str = "licence.example.net";
const CONTROL: &str = "control.example.org";
const LICENSE_AT: ([u8; 4], u16) = ([127, 0, 0, 1], 8885);
const CONTROL_AT: ([u8; 4], u16) = ([127, 0, 0, 2], 443);

/// A certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn root(&self) -> CertificateDer<'static> {
        self.0.as_ref().der().clone()
    }

    /// A key and a certificate for `name`, valid in the years given.
    fn sign(&self, name: &str, years: (i32, i32)) -> Arc<CertifiedKey> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let signing = rustls::crypto::ring::sign::any_supported_type(&private).unwrap();
        Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing))
    }
}

/// A time in the middle of the certificates' lives, so that the tests do not age.
const YEAR_2030: u64 = 1_900_000_000;
const ALWAYS: (i32, i32) = (2020, 2040);

/// How a server answers who connects.
enum Answer {
    Tls(Arc<dyn ResolvesServerCert>),
    /// These bytes, whatever was said.
    Bytes(&'static [u8]),
    /// Nothing: closes.
    Close,
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// An inspector: signs for whatever name is asked for.
struct Inspector(Authority);

impl std::fmt::Debug for Inspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inspector")
    }
}

impl ResolvesServerCert for Inspector {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.sign(hello.server_name()?, ALWAYS))
    }
}

/// A server in a namespace, until it is dropped.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn new(host: &Netns, at: ([u8; 4], u16), answer: Answer) -> Self {
        let listener = host.run(|| bind(at));
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let config = match &answer {
            Answer::Tls(resolver) => Some(Arc::new(
                rustls::ServerConfig::builder_with_provider(Arc::new(
                    rustls::crypto::ring::default_provider(),
                ))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(resolver.clone()),
            )),
            Answer::Bytes(_) | Answer::Close => None,
        };
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                if let Some(config) = &config {
                    let mut tls = rustls::ServerConnection::new(config.clone()).unwrap();
                    drop(tls.complete_io(&mut stream));
                } else if let Answer::Bytes(bytes) = &answer {
                    use std::io::{Read as _, Write as _};
                    drop(stream.read(&mut [0; 2048]));
                    drop(stream.write_all(bytes));
                } else {
                    use std::io::Read as _;
                    drop(stream.read(&mut [0; 2048]));
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

/// Binds, once the port is free: a process that another test is just starting holds the descriptors of all of them
/// until its exec.
fn bind(at: ([u8; 4], u16)) -> TcpListener {
    let end = std::time::Instant::now() + crate::lab::GENEROUS;
    loop {
        match TcpListener::bind(SocketAddr::from(at)) {
            Ok(listener) => return listener,
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && std::time::Instant::now() < end =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{at:?}: {error}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}

fn tls(key: Arc<CertifiedKey>) -> Answer {
    Answer::Tls(Arc::new(Fixed(key)))
}

/// A world with a public root, and a host that asks in it.
struct World {
    host: Netns,
    public: Authority,
    options: Options,
}

impl World {
    fn new() -> Self {
        let public = Authority::new("Public Root of the Tests");
        let mut options = Options::default();
        options.egress.license = HostPort { host: LICENSE.to_owned(), port: LICENSE_AT.1 };
        options.egress.control = HostPort { host: CONTROL.to_owned(), port: CONTROL_AT.1 };
        options.egress.resolve = vec![
            (LICENSE.to_owned(), vec![LICENSE_AT.into()]),
            (CONTROL.to_owned(), vec![CONTROL_AT.into()]),
        ];
        options.egress.public_roots = vec![public.root()];
        options.egress.host_store = Some(vec![public.root()]);
        options.egress.now = Some(UnixTime::since_unix_epoch(Duration::from_secs(YEAR_2030)));
        Self { host: Netns::new(), public, options }
    }

    fn license(&self, answer: Answer) -> Server {
        Server::new(&self.host, LICENSE_AT, answer)
    }

    fn control(&self) -> Server {
        Server::new(&self.host, CONTROL_AT, tls(self.public.sign(CONTROL, ALWAYS)))
    }

    fn examine(&self) -> Report {
        self.host.block_on(async { run(&self.options).await })
    }

    /// The one finding about the way out.
    fn finds(&self, cause: Cause, kind: Option<&str>, issuer: Option<&str>, severity: Severity) -> Report {
        let report = self.examine();
        let found: Vec<_> = report
            .findings
            .iter()
            .filter(|finding| finding.cause.id().starts_with("egress") || finding.cause == Cause::Unexplained)
            .collect();
        let [found] = found.as_slice() else { panic!("one finding: {}", report.text()) };
        assert_eq!(found.cause, cause, "{}", report.text());
        assert_eq!(found.parameters.kind.as_deref(), kind, "{}", report.text());
        assert_eq!(found.parameters.issuer.as_deref(), issuer, "{}", report.text());
        assert_eq!(found.severity, severity, "{}", report.text());
        report
    }
}

fn here(name: &str) -> bool {
    can(name, &["ip", "nft"])
}

#[test]
fn a_public_chain_is_good() {
    if !here("a_public_chain_is_good") {
        return;
    }
    let world = World::new();
    let _servers = (world.license(tls(world.public.sign(LICENSE, ALWAYS))), world.control());
    let report = world.examine();
    assert!(report.findings.is_empty(), "{}", report.text());
    for name in ["licence-name", "licence-tcp", "licence-tls", "proxy"] {
        assert_eq!(report.check(name).unwrap().state, State::Ok, "{}", report.text());
    }
    assert_eq!(report.exit_status(), 0);
}

#[test]
fn a_private_chain_is_told_from_an_inspector_by_the_control_host() {
    if !here("a_private_chain_is_told_from_an_inspector_by_the_control_host") {
        return;
    }
    let mut world = World::new();
    let private = Authority::new("Own Licence CA");
    let _servers = (world.license(tls(private.sign(LICENSE, ALWAYS))), world.control());
    let issuer = Some("CN=Own Licence CA");
    world.finds(Cause::EgressBlocked, Some("private-certificate"), issuer, Severity::Blocking);
    // The twin: the host trusts it, so it may be the host's own server; nothing is accused.
    world.options.egress.host_store = Some(vec![world.public.root(), private.root()]);
    let report = world.finds(Cause::Unexplained, Some("private-certificate"), issuer, Severity::Info);
    assert_eq!(report.exit_status(), 0);
}

#[test]
fn an_inspector_is_named_with_its_issuer() {
    if !here("an_inspector_is_named_with_its_issuer") {
        return;
    }
    let mut world = World::new();
    let _servers = (world.license(tls(world.public.sign(LICENSE, ALWAYS))), world.control());
    let inspector = Authority::new("Example Corp Inspection CA");
    let root = inspector.root();
    // A real intercepting proxy: every connection is taken, whatever its address, and answered in its name.
    let _proxy =
        Server::new(&world.host, ([127, 0, 0, 1], 9999), Answer::Tls(Arc::new(Inspector(inspector))));
    world.host.nft("table ip n { chain o { type nat hook output priority -100; tcp dport { 443, 8885 } redirect to :9999; } }");
    let issuer = Some("CN=Example Corp Inspection CA");
    world.finds(Cause::EgressIntercepted, None, issuer, Severity::Blocking);
    world.options.egress.host_store = Some(vec![world.public.root(), root]);
    world.finds(Cause::EgressIntercepted, None, issuer, Severity::Degraded);
    // The twin: the inspector gone, the same host and the same servers are clean.
    world.host.sh("nft flush ruleset");
    assert!(world.examine().findings.is_empty());
}

#[test]
fn ports_that_are_closed_or_dropped_and_names_that_are_not_there() {
    if !here("ports_that_are_closed_or_dropped_and_names_that_are_not_there") {
        return;
    }
    let mut world = World::new();
    let _control = world.control();
    let report = world.finds(Cause::EgressBlocked, Some("refused"), None, Severity::Blocking);
    assert!(
        report.check("licence-tcp").unwrap().says.contains("shows its public certificate"),
        "{}",
        report.text()
    );
    let license = world.license(tls(world.public.sign(LICENSE, ALWAYS)));
    world.host.nft("table ip f { chain i { type filter hook input priority 0; tcp dport 8885 drop; } }");
    world.finds(Cause::EgressBlocked, Some("silent"), None, Severity::Blocking);
    // Nobody answers at all, and still it ends.
    world.host.nft("table ip f { chain i { type filter hook input priority 0; policy drop; } }");
    let ended = world
        .host
        .block_on(async { tokio::time::timeout(Duration::from_secs(10), run(&world.options)).await.is_ok() });
    assert!(ended, "the whole run ends within 10 s");
    world.host.sh("nft flush ruleset");
    drop(license);
    world.options.egress.resolve[0].1.clear();
    let report = world.finds(Cause::EgressNameNotFound, None, None, Severity::Blocking);
    assert_eq!(report.check("licence-name").unwrap().state, State::Problem);
    world.options.egress.resolve[1].1.clear();
    let report = world.finds(Cause::EgressNameNotFound, None, None, Severity::Blocking);
    assert!(report.findings[0].fix.contains("No name resolves"), "{}", report.text());
    // No way at all: loopback is all this host has.
    world.options.egress.resolve[0].1 = vec![SocketAddr::from(([203, 0, 113, 1], 8885))];
    world.finds(Cause::EgressBlocked, Some("no-route"), None, Severity::Blocking);
}

#[test]
fn tls_that_does_not_come_about() {
    if !here("tls_that_does_not_come_about") {
        return;
    }
    let world = World::new();
    let _control = world.control();
    let page = world.license(Answer::Bytes(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"));
    world.finds(Cause::EgressBlocked, Some("not-tls"), None, Severity::Blocking);
    drop(page);
    let _close = world.license(Answer::Close);
    world.finds(Cause::EgressBlocked, Some("tls-closed"), None, Severity::Blocking);
}

#[test]
fn certificates_out_of_their_time_and_clocks_that_are_wrong() {
    if !here("certificates_out_of_their_time_and_clocks_that_are_wrong") {
        return;
    }
    let mut world = World::new();
    let expired = world.license(tls(world.public.sign(LICENSE, (2020, 2025))));
    world.finds(Cause::Unexplained, Some("expired-certificate"), None, Severity::Blocking);
    let _control = world.control();
    world.finds(Cause::EgressBlocked, Some("expired-certificate"), None, Severity::Blocking);
    drop(expired);
    let other = world.license(tls(world.public.sign("other.example.net", ALWAYS)));
    world.finds(Cause::EgressBlocked, Some("wrong-name-certificate"), None, Severity::Blocking);
    drop(other);
    let _license = world.license(tls(world.public.sign(LICENSE, ALWAYS)));
    // 1970-01-02: a host whose clock was never set.
    world.options.egress.now = Some(UnixTime::since_unix_epoch(Duration::from_secs(86_400)));
    let report = world.finds(Cause::EgressBlocked, Some("wrong-clock"), None, Severity::Blocking);
    assert!(!report.findings[0].commands.is_empty());
}
