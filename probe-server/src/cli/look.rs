//! What the doctor says while the listener runs.

use serde::Serialize;

use super::args::ServeArgs;
use super::{Failure, print};
use crate::doctor::{self, Options, Report, State};

/// Looks at this host beside the listener, and tells what is wrong with it.
pub(super) async fn look(args: ServeArgs, port: u16, invite: String) {
    let options = Options { port, invite: Some(invite), ..Options::default() };
    let report = doctor::run(&options).await;
    // It has read the rules of the host and verified chains of certificates, and does not run again.
    probe_net::memory::give_back();
    if let Err(failure) = tell(&report, args.json) {
        tracing::warn!(says = failure.says, "what the doctor found could not be told");
    }
}

fn tell(report: &Report, json: bool) -> Result<(), Failure> {
    /// A finding as an event: its own fields, and what it is.
    #[derive(Serialize)]
    struct Found<'a, T> {
        event: &'static str,
        #[serde(flatten)]
        finding: &'a T,
    }
    if json {
        return report.findings.iter().try_for_each(|finding| {
            let found = Found { event: "finding", finding };
            let text = serde_json::to_string(&found).map_err(std::io::Error::other)?;
            print(&format!("{text}\n"))
        });
    }
    if report.findings.is_empty() {
        let unknown: Vec<_> =
            report.checks.iter().filter(|c| c.state == State::Unknown).map(|c| c.name.as_str()).collect();
        let rest = match &unknown[..] {
            [] => String::new(),
            names => format!(" (could not tell: {}; probe-server doctor says why)", names.join(", ")),
        };
        return print(&format!("This host: nothing wrong was found{rest}.\n"));
    }
    print(&format!("This host:\n{}", report.text()))
}
