//! The listener's own host: what is wrong with it before any client connects.
//!
//! [`run`] looks at the port, the OS firewall, the way out to the licence server, the addresses and the system's
//! limits; each answer is `ok`, `problem` or `unknown` with what it would take, never a guess. Nothing is changed.
//! [`main`] is the command `probe-server doctor`.

pub mod firewall;

mod addresses;
mod args;
mod egress;
mod exec;
mod limits;
mod network;
mod port;
mod report;

use std::net::IpAddr;
use std::time::Duration;

pub use args::{DoctorArgs, main};
pub use egress::{EgressOptions, HostPort, HostPortError};
pub use report::{Check, FindingEvent, Report, SCHEMA_VERSION, State};

use report::Part;

/// No subject takes longer; all are looked at side by side, so neither does the whole.
const TIME_OUT: Duration = Duration::from_secs(8);
/// For what the subjects share.
const NETWORK_TIME_OUT: Duration = Duration::from_millis(1500);

/// What is looked at, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The listener's port, for TCP and UDP.
    pub port: u16,
    /// The way out.
    pub egress: EgressOptions,
    /// The listener runs in this process and holds the port: it is not tried.
    pub listening: bool,
    /// The address under which clients reached this host, once one has told.
    pub seen: Option<IpAddr>,
    /// The invite to hand out, where there is one already; its host is the public address where that is known.
    pub invite: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: probe_protocol::DEFAULT_PORT,
            egress: EgressOptions::default(),
            listening: false,
            seen: None,
            invite: None,
        }
    }
}

/// Looks at this host. Ends within 10 s whatever the host does, and changes nothing on it.
pub async fn run(options: &Options) -> Report {
    let network = match within("network", NETWORK_TIME_OUT, network::Network::read()).await {
        Ok(network) => network,
        Err(check) => return Report::new([Part::default().check(check)]),
    };
    let port = options.port;
    let (held, firewall, egress, addresses, limits) = tokio::join!(
        within("port", TIME_OUT, port::check(port, options.listening)),
        within("firewall", TIME_OUT, firewall::check(port, &network)),
        within("licence", TIME_OUT, egress::check(&options.egress)),
        within("addresses", TIME_OUT, addresses::check(port, &network, options.seen)),
        within("limits", TIME_OUT, limits::check()),
    );
    let late = |check: Check| Part::default().check(check);
    let (addresses, public) = addresses.unwrap_or_else(|check| (late(check), None));
    Report::new([
        held.unwrap_or_else(late),
        firewall.unwrap_or_else(late),
        egress.unwrap_or_else(late),
        addresses,
        limits.unwrap_or_else(late),
        invite(options, public.or(options.seen)),
    ])
}

/// What `work` says, or that it did not end in time.
async fn within<T>(name: &str, time_out: Duration, work: impl Future<Output = T>) -> Result<T, Check> {
    tokio::time::timeout(time_out, work).await.map_err(|_| {
        let says = format!("not done within {} s", time_out.as_secs_f32());
        Check::unknown(name, says, "a host that answers faster")
    })
}

/// The command to hand out.
fn invite(options: &Options, public: Option<IpAddr>) -> Part {
    let target = match (&options.invite, public) {
        (Some(invite), _) => format!("'{invite}'"),
        (None, Some(IpAddr::V6(v6))) => format!("[{v6}]:{}", options.port),
        (None, Some(IpAddr::V4(v4))) => format!("{v4}:{}", options.port),
        (None, None) => {
            let says = format!("hand out: probe-client check PUBLIC-ADDRESS:{}", options.port);
            return Part::default().check(Check::unknown("invite", says, "the public address of this host"));
        }
    };
    Part::default().check(Check::ok("invite", format!("hand out: probe-client check {target}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_hand_out_names_what_is_known() {
        let says = |invite_text: Option<&str>, public: Option<&str>| {
            let options = Options { invite: invite_text.map(str::to_owned), ..Options::default() };
            invite(&options, public.map(|text| text.parse().unwrap())).checks.remove(0)
        };
        assert!(says(None, Some("203.0.113.7")).says.ends_with("probe-client check 203.0.113.7:8886"));
        assert!(says(None, Some("2001:db8::7")).says.ends_with("probe-client check [2001:db8::7]:8886"));
        let invite = "probe://203.0.113.7:8886/#abc";
        assert!(
            says(Some(invite), None).says.ends_with("probe-client check 'probe://203.0.113.7:8886/#abc'")
        );
        assert_eq!(says(None, None).state, State::Unknown);
    }
}
