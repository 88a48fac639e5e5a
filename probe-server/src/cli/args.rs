//! Flags. Every one has an environment variable.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use probe_protocol::DEFAULT_PORT;
use probe_protocol::target::Target;

use super::units::{Bits, Span};
use crate::core::allow::Cidr;
use crate::doctor::DoctorArgs;

/// Stands in for the product on its one port: run it on the future host before installing anything, and give remote
/// users the one command that it prints.
#[derive(Debug, Parser)]
#[command(name = "probe-server", version, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do; to serve where none is given.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `serve`.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Listen on the port and answer clients (the default).
    Serve(ServeArgs),
    /// Look at this host: port, firewall, way out to the licence server, addresses.
    Doctor(DoctorArgs),
    /// Make, list or take back invites.
    Invite(InviteArgs),
    /// Show what clients handed in.
    Results(ResultsArgs),
}

/// How to serve.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Address to listen on; may be given several times [default: all of IPv4 and IPv6]
    #[arg(long, value_name = "ADDR", env = "PROBE_BIND", value_delimiter = ',')]
    pub bind: Vec<IpAddr>,
    /// Port, for TCP and UDP; 0 takes a free one
    #[arg(long, value_name = "PORT", env = "PROBE_PORT", default_value_t = DEFAULT_PORT)]
    pub port: u16,
    /// Where state is kept [default: the platform's place for it]
    #[arg(long, value_name = "DIR", env = "PROBE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// How remote users reach this host, for the invite
    #[arg(long, value_name = "HOST[:PORT]", env = "PROBE_PUBLIC")]
    pub public: Option<Target>,
    /// Clients without an invite may do all, not only the short check
    #[arg(long, env = "PROBE_OPEN")]
    pub open: bool,
    /// Network that may use the listener; may be given several times [default: all]
    #[arg(long, value_name = "CIDR", env = "PROBE_ALLOW", value_delimiter = ',')]
    pub allow: Vec<Cidr>,
    /// Bits per second of all replies together, such as 200M
    #[arg(long, value_name = "BITS", env = "PROBE_MAX_RATE")]
    pub max_rate: Option<Bits>,
    /// Sessions at the same time
    #[arg(long, value_name = "N", env = "PROBE_MAX_SESSIONS", default_value_t = 1024, value_parser = at_least_one)]
    pub max_sessions: usize,
    /// Sessions of one source address at the same time [default: a quarter of all]
    #[arg(long, value_name = "N", env = "PROBE_MAX_SESSIONS_PER_SOURCE", value_parser = at_least_one)]
    pub max_sessions_per_source: Option<usize>,
    /// Serve Prometheus metrics on this address
    #[arg(long, value_name = "ADDR", env = "PROBE_METRICS")]
    pub metrics: Option<SocketAddr>,
    /// Certificate to use in place of an own one (PEM)
    #[arg(long, value_name = "FILE", env = "PROBE_CERT", requires = "key_pem")]
    pub cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", env = "PROBE_KEY_PEM", requires = "cert")]
    pub key_pem: Option<PathBuf>,
    /// Do not look at this host first
    #[arg(long, env = "PROBE_NO_DOCTOR")]
    pub no_doctor: bool,
    /// Print events as one JSON object a line
    #[arg(long, env = "PROBE_JSON")]
    pub json: bool,
}

/// What to do about invites.
#[derive(Clone, Debug, clap::Args)]
pub struct InviteArgs {
    /// How remote users reach this host
    #[arg(long, value_name = "HOST[:PORT]", env = "PROBE_PUBLIC")]
    pub public: Option<Target>,
    /// Where state is kept [default: the platform's place for it]
    #[arg(long, value_name = "DIR", env = "PROBE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Certificate that the listener uses in place of an own one (PEM)
    #[arg(long, value_name = "FILE", env = "PROBE_CERT")]
    pub cert: Option<PathBuf>,
    /// Make a new invite that is good for so long, such as 7d
    #[arg(long = "for", value_name = "DURATION", env = "PROBE_FOR", conflicts_with_all = ["revoke", "list"])]
    pub for_: Option<Span>,
    /// Take an invite back, for good
    #[arg(long, value_name = "LABEL", env = "PROBE_REVOKE", conflicts_with = "list")]
    pub revoke: Option<String>,
    /// List the invites; their secrets are not shown
    #[arg(long, env = "PROBE_LIST")]
    pub list: bool,
    /// Print JSON
    #[arg(long, env = "PROBE_JSON")]
    pub json: bool,
}

/// What to do about results.
#[derive(Clone, Debug, clap::Args)]
pub struct ResultsArgs {
    /// To list where none is given.
    #[command(subcommand)]
    pub command: Option<ResultsCommand>,
    /// Where state is kept [default: the platform's place for it]
    #[arg(long, value_name = "DIR", env = "PROBE_STATE_DIR", global = true)]
    pub state_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long, env = "PROBE_JSON", global = true)]
    pub json: bool,
}

/// Commands about results.
#[derive(Clone, Debug, Subcommand)]
pub enum ResultsCommand {
    /// One line per result (the default)
    List,
    /// All of one result
    Show {
        /// As the list names it
        id: String,
    },
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1_000_000) => Ok(n),
        Ok(_) | Err(_) => Err("a number from 1 to 1000000 is wanted".to_owned()),
    }
}
