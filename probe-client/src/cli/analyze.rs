//! `analyze`: from somebody's packet trace to the report on standard output.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::BoolishValueParser;
use indicatif::ProgressBar;
use probe_analysis::rate::trace::Analyser;
use probe_protocol::DEFAULT_PORT;
use probe_protocol::finding::Severity;

use super::args::FailOn;
use super::exit::Exit;
use super::output::{self, Failure};
use crate::report::{Origin, build, json, text};
use crate::trace;

#[derive(Debug, Args)]
pub(super) struct AnalyzeArgs {
    /// A packet trace: CSV with the columns t_send_us,bytes,t_recv_us (empty t_recv_us: lost), and optionally
    /// flow,direction,transport; rows in sending order. - reads standard input.
    #[arg(env = "PROBE_TRACE", value_name = "TRACE.csv")]
    pub(super) trace: PathBuf,

    /// Prints the report as one JSON document (its schema: `probe-client schema`).
    #[arg(long, env = "PROBE_JSON", value_parser = BoolishValueParser::new())]
    pub(super) json: bool,

    /// Ends with status 1 where something of this severity or above is found.
    #[arg(long, env = "PROBE_FAIL_ON", value_name = "SEVERITY", default_value = "degraded")]
    pub(super) fail_on: FailOn,
}

pub(super) fn run(args: &AnalyzeArgs) -> Result<Exit, Failure> {
    let failed = |says: String| Failure::Trace { path: args.trace.clone(), says };
    let (from, length): (Box<dyn Read>, Option<u64>) = if args.trace == Path::new("-") {
        (Box::new(io::stdin().lock()), None)
    } else {
        let file = File::open(&args.trace).map_err(|e| failed(e.to_string()))?;
        let meta = file.metadata().map_err(|e| failed(e.to_string()))?;
        if meta.is_dir() {
            return Err(failed("it is a folder".to_owned()));
        }
        (Box::new(file), Some(meta.len()))
    };
    let bar = match length.filter(|_| io::stderr().is_terminal()) {
        Some(length) => ProgressBar::new(length),
        None => ProgressBar::hidden(),
    };
    let mut analyser = Analyser::default();
    let read = trace::read(bar.wrap_read(from), &mut analyser);
    bar.finish_and_clear();
    let (names, seen) = read.map_err(|e| failed(e.to_string()))?;
    let title = args.trace.file_name().map_or_else(|| "-".to_owned(), |n| n.to_string_lossy().into_owned());
    let analysis = analyser.finish().into_analysis(&title, |flow| names.of(flow));
    let origin = Origin { id: None, kind: "analyze", port: DEFAULT_PORT, quick: false };
    let mut report = build(analysis, origin);
    report.not_examined = not_examined(&seen);
    if args.json {
        output::data(&json::render(&report)?)?;
    } else {
        output::data(&text::render(&report, output::look()))?;
    }
    Ok(Exit::of(&report, Severity::from(args.fail_on)))
}

/// What the columns of a trace do not tell.
fn not_examined(seen: &trace::Seen) -> Vec<crate::report::model::NotExamined> {
    let mut list = Vec::new();
    let mut add = |what: &str, why: &str| {
        list.push(crate::report::model::NotExamined { what: what.to_owned(), why: why.to_owned() });
    };
    add("reachability, packet sizes, marks and contents", "a trace of times and lengths does not show them");
    if !(seen.tcp && seen.udp) {
        add(
            "whether UDP is treated worse than TCP",
            "the trace holds no rows of both in its transport column",
        );
    }
    if !seen.direction {
        add("which way is harmed", "the trace has no direction column");
    }
    if seen.without_bytes > 0 {
        add("rows without bytes", "they carry no load");
    }
    list
}
