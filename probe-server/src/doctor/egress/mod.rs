//! Going out: can this host reach the licence server, and is it really the licence server that answers?
//!
//! Its name is looked up, TCP connected and the TLS handshake made, nothing more is sent. The chain is judged twice,
//! against the public roots and against this host's own store, and the same is done with a control host, so that an
//! inspector is told apart from a private certificate ([`verdict`]).

mod chain;
mod proxy;
mod verdict;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;

use super::report::Part;
use chain::{Chain, Judges};

/// For the name, for TCP and for TLS, each.
const TIME_OUT: Duration = Duration::from_millis(2500);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 6;

/// A name (or address) and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A DNS name, or an address in text.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What is wrong with a `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// No colon, or nothing before it.
    #[error("`{0}` is not of the form HOST:PORT")]
    Form(String),
    /// The port is not a number from 1 to 65535.
    #[error("the port of `{0}` is not a number from 1 to 65535")]
    Port(String),
}

impl std::str::FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let form = || HostPortError::Form(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        if host.is_empty() || (bare.is_none() && host.contains(':')) || host.chars().any(char::is_whitespace)
        {
            return Err(form());
        }
        let port: u16 = port.parse().map_err(|_| HostPortError::Port(text.to_owned()))?;
        if port == 0 {
            return Err(HostPortError::Port(text.to_owned()));
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What the check of the way out asks and trusts. The fields below the first two exist for tests and for networks
/// that answer differently than the public one.
#[derive(Clone, Debug)]
pub struct EgressOptions {
    /// The licence server.
    pub license: HostPort,
    /// A server of the public internet that shows what an inspector does to others.
    pub control: HostPort,
    /// Addresses to take instead of asking for a name; an empty list stands for a name that is not found.
    pub resolve: Vec<(String, Vec<SocketAddr>)>,
    /// Roots that count as public, beside those of the web.
    pub public_roots: Vec<CertificateDer<'static>>,
    /// Roots that stand for this host's own store, in its place.
    pub host_store: Option<Vec<CertificateDer<'static>>>,
    /// The time at which chains are judged; `None`: this host's own clock.
    pub now: Option<UnixTime>,
}

impl Default for EgressOptions {
    fn default() -> Self {
        Self {
            license: HostPort { host: "licensing.gojetstream.io".to_owned(), port: 8885 },
            control: HostPort { host: "www.iana.org".to_owned(), port: 443 },
            resolve: Vec::new(),
            public_roots: Vec::new(),
            host_store: None,
            now: None,
        }
    }
}

/// How far a connection came.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    /// The name does not resolve, in the system's words.
    NoName(String),
    /// TCP did not open.
    NoTcp { how: Silence, said: String },
    /// TCP opened, TLS did not.
    NoTls { how: &'static str, said: String },
    /// TLS opened, with this chain.
    Chain(Chain),
}

/// Why TCP did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    Refused,
    Silent,
    NoRoute,
}

/// The check of the way out.
pub(super) async fn check(options: &EgressOptions) -> Part {
    let proxies = proxy::from_environment(std::env::vars());
    let now = options.now.unwrap_or_else(UnixTime::now);
    let stores = options.clone();
    // The host's own store is read from many files.
    let judges = match tokio::task::spawn_blocking(move || Judges::new(&stores)).await {
        Ok(Ok(judges)) => Arc::new(judges),
        Ok(Err(error)) => return verdict::no_tls(&error.to_string()),
        Err(error) => return verdict::no_tls(&error.to_string()),
    };
    let (license, control) = tokio::join!(
        look(&options.license, options, &judges, now),
        look(&options.control, options, &judges, now)
    );
    verdict::verdict(options, &license, &control, &proxies)
}

async fn look(target: &HostPort, options: &EgressOptions, judges: &Arc<Judges>, now: UnixTime) -> Seen {
    let addresses = match resolve(target, options).await {
        Ok(addresses) => addresses,
        Err(said) => return Seen::NoName(said),
    };
    let stream = match connect(addresses).await {
        Ok(stream) => stream,
        Err((how, said)) => return Seen::NoTcp { how, said },
    };
    let Ok(name) = ServerName::try_from(target.host.clone()) else {
        return Seen::NoName(format!("`{}` is not a name that a certificate can carry", target.host));
    };
    match tokio::time::timeout(TIME_OUT, chain::handshake(stream, name.clone())).await {
        Ok(Ok(certificates)) => {
            let judges = judges.clone();
            // Some systems ask the network themselves while they verify.
            let judged = tokio::task::spawn_blocking(move || judges.judge(&certificates, &name, now)).await;
            judged
                .map_or_else(|error| Seen::NoTls { how: "not-judged", said: error.to_string() }, Seen::Chain)
        }
        Ok(Err(error)) => {
            let kind = error.kind();
            let how = if kind == io::ErrorKind::UnexpectedEof {
                "tls-closed"
            } else if matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted) {
                "tls-reset"
            } else if chain::is_not_tls(&error) {
                "not-tls"
            } else {
                "tls-refused"
            };
            Seen::NoTls { how, said: error.to_string() }
        }
        Err(_) => Seen::NoTls { how: "tls-silent", said: "no answer to the TLS ClientHello".to_owned() },
    }
}

/// The addresses of a name. The system's resolver cannot be stopped, so it runs on a thread that nobody waits for.
async fn resolve(target: &HostPort, options: &EgressOptions) -> Result<Vec<SocketAddr>, String> {
    if let Some((_, addresses)) = options.resolve.iter().find(|(host, _)| *host == target.host) {
        return if addresses.is_empty() { Err("name not found".to_owned()) } else { Ok(addresses.clone()) };
    }
    let (send, receive) = tokio::sync::oneshot::channel();
    let question = (target.host.clone(), target.port);
    let thread = std::thread::Builder::new().name("name lookup".to_owned()).spawn(move || {
        let answer = std::net::ToSocketAddrs::to_socket_addrs(&question);
        // Nobody listens any more if it took too long.
        let _ = send.send(answer.map(|all| all.take(MAX_ADDRESSES).collect::<Vec<_>>()));
    });
    if let Err(error) = thread {
        return Err(error.to_string());
    }
    match tokio::time::timeout(TIME_OUT, receive).await {
        Ok(Ok(Ok(addresses))) if addresses.is_empty() => Err("the name has no address".to_owned()),
        Ok(Ok(Ok(addresses))) => Ok(addresses),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(_)) => Err("the resolver stopped".to_owned()),
        Err(_) => Err("the resolver did not answer in time".to_owned()),
    }
}

/// The first of the addresses that takes the connection; or the clearest refusal.
async fn connect(addresses: Vec<SocketAddr>) -> Result<TcpStream, (Silence, String)> {
    let mut tries = tokio::task::JoinSet::new();
    for address in addresses.into_iter().take(MAX_ADDRESSES) {
        tries.spawn(async move {
            match tokio::time::timeout(TIME_OUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => {
                    let kind = error.kind();
                    let how = if matches!(
                        kind,
                        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
                    ) {
                        Silence::Refused
                    } else if kind == io::ErrorKind::TimedOut {
                        Silence::Silent
                    } else {
                        Silence::NoRoute
                    };
                    Err((how, format!("{address}: {error}")))
                }
                Err(_) => Err((Silence::Silent, format!("{address}: no answer"))),
            }
        });
    }
    let mut clearest: Option<(Silence, String)> = None;
    while let Some(tried) = tries.join_next().await {
        match tried {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(failed)) => {
                let rank = |how: Silence| match how {
                    Silence::Refused => 2,
                    Silence::Silent => 1,
                    Silence::NoRoute => 0,
                };
                if clearest.as_ref().is_none_or(|(how, _)| rank(failed.0) > rank(*how)) {
                    clearest = Some(failed);
                }
            }
            Err(_) => {}
        }
    }
    Err(clearest.unwrap_or((Silence::NoRoute, "no address".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_read() {
        let read = |text: &str| text.parse::<HostPort>().map(|target| target.to_string());
        assert_eq!(read("licensing.gojetstream.io:8885").as_deref(), Ok("licensing.gojetstream.io:8885"));
        assert_eq!(read("[2001:db8::1]:443").as_deref(), Ok("[2001:db8::1]:443"));
        for bad in ["", "host", ":443", "2001:db8::1:443", "a b:1"] {
            assert!(matches!(read(bad), Err(HostPortError::Form(_))), "{bad}");
        }
        for bad in ["host:", "host:0", "host:70000", "host:x"] {
            assert!(matches!(read(bad), Err(HostPortError::Port(_))), "{bad}");
        }
    }
}
