//! The command line of `probe-server doctor`.

use std::io::Write as _;
use std::process::ExitCode;

use super::{HostPort, Options, run};

/// Look at this host: the port, the firewall, the way out, the addresses, the limits. Changes nothing.
#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// The listener's port, for TCP and UDP
    #[arg(long, env = "PROBE_PORT", default_value_t = probe_protocol::DEFAULT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The licence server that the product must reach
    #[arg(
        long,
        env = "PROBE_LICENSE_HOST",
        value_name = "HOST:PORT",
        default_value = "licensing.gojetstream.io:8885"
    )]
    pub license_host: HostPort,
    /// A server of the internet to compare it with
    #[arg(long, env = "PROBE_CONTROL_HOST", value_name = "HOST:PORT", default_value = "www.iana.org:443")]
    pub control_host: HostPort,
    /// Print one JSON document
    #[arg(long, env = "PROBE_JSON")]
    pub json: bool,
}

impl DoctorArgs {
    /// What [`run`] is to look at.
    pub fn options(&self) -> Options {
        let mut options = Options { port: self.port, ..Options::default() };
        options.egress.license = self.license_host.clone();
        options.egress.control = self.control_host.clone();
        options
    }
}

/// The command: looks, prints the report on standard output, and ends with 0 or 1 (3 where it cannot print).
pub async fn main(args: &DoctorArgs) -> ExitCode {
    let report = run(&args.options()).await;
    let text = if args.json { report.to_json().map(|json| json + "\n") } else { Ok(report.text()) };
    let mut out = std::io::stdout().lock();
    let printed = text.map_err(std::io::Error::from).and_then(|text| out.write_all(text.as_bytes()));
    match printed {
        Ok(()) => ExitCode::from(report.exit_status()),
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::from(report.exit_status()),
        Err(_) => ExitCode::from(3),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        doctor: DoctorArgs,
    }

    #[test]
    fn flags_have_their_defaults_and_bad_ones_are_refused() {
        let args = Cli::try_parse_from(["doctor"]).ok().unwrap().doctor;
        assert_eq!(args.options().port, 8886);
        assert_eq!(args.license_host, Options::default().egress.license);
        assert_eq!(args.control_host, Options::default().egress.control);
        for bad in
            [["--port", "0"], ["--port", "x"], ["--license-host", "nowhere"], ["--license-host", "a:0"]]
        {
            assert!(Cli::try_parse_from(["doctor", bad[0], bad[1]]).is_err(), "{bad:?}");
        }
    }
}
