//! `probe-server [serve]`.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::Serialize;
use tokio::runtime::Builder;
use tokio::sync::mpsc;

use super::args::ServeArgs;
use super::{Exit, Failure, print, say};
use crate::config::{Config, StatePlace};
use crate::core::allow::AllowList;
use crate::core::event::Event;
use crate::core::limits::Limits;
use crate::listener::{Listener, Running};
use crate::state::StateDir;

/// The first line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename = "listening")]
struct Listening {
    tcp: Vec<String>,
    udp: Vec<String>,
    invite: String,
    fingerprint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<String>,
    version: &'static str,
}

pub(super) fn run(args: ServeArgs) -> Result<Exit, Failure> {
    init_log();
    // Two threads beside the packet thread: TLS and QUIC must not wait for one another's handshakes.
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(serve(args));
    // A task that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

/// Logs go to standard error; `PROBE_LOG` says how much.
fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PROBE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // Fails where a log is set up already, as in tests.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .try_init();
}

fn config(args: &ServeArgs) -> Result<Config, Failure> {
    let state_dir = match &args.state_dir {
        Some(dir) => dir.clone(),
        None => StateDir::default_path()?,
    };
    let mut limits = Limits::with_sessions(args.max_sessions);
    if let Some(n) = args.max_sessions_per_source {
        limits.sessions_per_source = n;
        limits.flows_per_source = limits.flows;
    }
    Ok(Config {
        bind: args.bind.clone(),
        port: args.port,
        public: args.public.clone(),
        state: StatePlace::Dir(state_dir),
        certificate: args.cert.clone().zip(args.key_pem.clone()),
        open_to_all: args.open,
        allow: AllowList(args.allow.clone()),
        max_rate: args.max_rate.map(|b| b.0),
        limits,
        max_connections: max_connections(Config::default().max_connections),
    })
}

/// Descriptors for everything that is no client's connection.
#[cfg(unix)]
const OWN_DESCRIPTORS: u64 = 128;

/// As many connections as the system gives descriptors for. Shells give programs far fewer than they may ask for, and
/// a listener that has run out of them can turn nobody away, but only leave all waiting.
#[cfg(unix)]
fn max_connections(wanted: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    let needed = (wanted as u64).saturating_add(OWN_DESCRIPTORS);
    let asked = needed.min(hard);
    let raised = soft < asked && setrlimit(Resource::RLIMIT_NOFILE, asked, hard).is_ok();
    let limit = if raised { asked } else { soft };
    wanted.min(usize::try_from(limit.saturating_sub(OWN_DESCRIPTORS)).unwrap_or(wanted)).max(1)
}

#[cfg(not(unix))]
fn max_connections(wanted: usize) -> usize {
    wanted
}

async fn serve(args: ServeArgs) -> Result<Exit, Failure> {
    // Before anything is announced: a signal that comes right after must not kill.
    let mut signals = Signals::new()?;
    let mut running = Listener::start(config(&args)?)?;
    let metrics = args.metrics.map(|addr| running.serve_metrics(addr)).transpose()?;
    let events = running.events();
    announce(&args, &running, metrics)?;
    let told = tokio::spawn(tell(events, args.json));
    if !args.no_doctor {
        let port = running.udp().first().map_or(args.port, SocketAddr::port);
        tokio::spawn(super::look::look(args.clone(), port, running.target().to_url()));
    }
    signals.next().await;
    if !args.json {
        say("probe-server: ending; once more ends at once");
    }
    let exit = tokio::select! {
        () = running.shutdown() => Exit::Ok,
        () = signals.next() => Exit::Stopped,
    };
    // The events end with the listener; the last of them are still told.
    let _ = tokio::time::timeout(Duration::from_millis(100), told).await;
    Ok(exit)
}

fn announce(args: &ServeArgs, running: &Running, metrics: Option<SocketAddr>) -> Result<(), Failure> {
    let texts = |addrs: &[SocketAddr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
    let invite = running.target().to_url();
    if args.json {
        return line(&Listening {
            tcp: texts(running.tcp()),
            udp: texts(running.udp()),
            invite,
            fingerprint: HEXLOWER.encode(&running.fingerprint()),
            metrics: metrics.map(|m| m.to_string()),
            version: env!("CARGO_PKG_VERSION"),
        });
    }
    let mut addrs = texts(running.udp());
    addrs.sort();
    let guess = match (&args.public, running.target().ip()) {
        (None, Some(ip)) if is_private(ip) => {
            "\nIf remote users reach this host under another address, put that in its place (or use --public HOST).\n"
        }
        _ => "",
    };
    let metrics = metrics.map_or(String::new(), |m| format!("Metrics: http://{m}/metrics\n"));
    print(&format!(
        "probe-server {} takes TCP and UDP on {}.\n{metrics}\n\
         Give remote users this one command:\n\n  probe-client check '{invite}'\n{guess}\n\
         It carries a key: whoever has it may use this listener in full. Ctrl-C ends.\n",
        env!("CARGO_PKG_VERSION"),
        addrs.join(" and "),
    ))
}

fn is_private(ip: std::net::IpAddr) -> bool {
    match ip {
        std::net::IpAddr::V4(v4) => {
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
        }
        std::net::IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

fn line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(std::io::Error::other)?;
    print(&format!("{text}\n"))
}

async fn tell(events: Option<mpsc::Receiver<Event>>, json: bool) {
    let Some(mut events) = events else { return };
    while let Some(event) = events.recv().await {
        let told = if json { line(&event) } else { print(&format!("{}\n", human(&event))) };
        if told.is_err() {
            return;
        }
    }
}

fn human(event: &Event) -> String {
    match event {
        Event::SessionOpened { session, source, carrier, invite } => {
            let who = invite.as_ref().map_or("no invite".to_owned(), |label| format!("invite {label}"));
            format!("session {session}: opened from {source} over {}, {who}", carrier.name())
        }
        Event::SessionMoved { session, old, new } => format!("session {session}: moved from {old} to {new}"),
        Event::SessionClosed { session, reason } => format!("session {session}: over, {}", reason.says()),
        Event::Refused { source, says, .. } => format!("refused {source}: {says}"),
        Event::ResultReceived { session, id, .. } => {
            format!("session {session}: handed in its result (probe-server results show {id})")
        }
    }
}

/// SIGTERM and Ctrl-C.
struct Signals {
    #[cfg(unix)]
    term: tokio::signal::unix::Signal,
    #[cfg(unix)]
    int: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    #[cfg(not(unix))]
    #[expect(clippy::unnecessary_wraps, reason = "as on Unix")]
    fn new() -> std::io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
