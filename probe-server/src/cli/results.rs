//! `probe-server results`.

use serde::Serialize;
use serde_json::Value;

use super::args::{ResultsArgs, ResultsCommand};
use super::{Exit, Failure, harmless, print, say};
use crate::state::{StateDir, Stored, StoredMeta};

pub(super) fn run(args: &ResultsArgs) -> Result<Exit, Failure> {
    let path = match &args.state_dir {
        Some(dir) => dir.clone(),
        None => StateDir::default_path()?,
    };
    let state = StateDir::open(&path)?;
    match &args.command {
        None | Some(ResultsCommand::List) => list(&state, args.json),
        Some(ResultsCommand::Show { id }) => show(&state.show_result(id)?, args.json),
    }
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    meta: StoredMeta,
    received: String,
    verdict: Option<Value>,
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |t| t.to_string())
}

fn list(state: &StateDir, as_json: bool) -> Result<Exit, Failure> {
    let (metas, damaged) = state.list_results()?;
    let rows = metas.into_iter().map(|meta| {
        let document = state.show_result(&meta.id).ok().and_then(|s| s.document);
        let verdict = document.and_then(|d| d.get("verdict").cloned());
        Row { received: time(meta.received_s), meta, verdict }
    });
    for name in damaged {
        say(&format!("probe-server: results/{} is damaged and left out", harmless(&name)));
    }
    if as_json {
        let rows: Vec<_> = rows.collect();
        let text = serde_json::to_string_pretty(&rows).map_err(std::io::Error::other)?;
        return print(&format!("{text}\n")).map(|()| Exit::Ok);
    }
    let mut text = String::new();
    for row in rows {
        let summary =
            row.verdict.as_ref().and_then(|v| v.get("summary")?.as_str()).unwrap_or("no verdict in it");
        let line = format!("{}  {}  {}  {summary}", row.meta.id, row.received, row.meta.source);
        text.push_str(&harmless(&line).replace('\n', " "));
        text.push('\n');
    }
    if text.is_empty() {
        text.push_str("No results have been handed in yet.\n");
    }
    print(&text).map(|()| Exit::Ok)
}

fn show(stored: &Stored, as_json: bool) -> Result<Exit, Failure> {
    let Some(document) = &stored.document else {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "result {} holds no document: what the client handed in is not compressed JSON",
                stored.meta.id
            ),
        ));
    };
    if as_json {
        // JSON escapes control characters by itself.
        let text = serde_json::to_string_pretty(document).map_err(std::io::Error::other)?;
        return print(&format!("{text}\n")).map(|()| Exit::Ok);
    }
    let meta = &stored.meta;
    let mut text = format!("Result {}, received {} from {}\n", meta.id, time(meta.received_s), meta.source);
    if let Some(label) = &meta.invite {
        text.push_str(&format!("Invite {label}, session {}\n", meta.session));
    }
    let say = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("unknown").to_owned();
    if let Some(summary) = document.pointer("/verdict/summary") {
        text.push_str(&format!("\n{}\n", say(Some(summary))));
    }
    if let Some(Value::Object(reachability)) = document.get("reachability") {
        text.push('\n');
        for (transport, state) in reachability {
            text.push_str(&format!("  {transport:<5} {}\n", say(Some(state))));
        }
    }
    if let Some(Value::Array(findings)) = document.get("findings") {
        for finding in findings {
            let of = |key: &str| say(finding.get(key));
            text.push_str(&format!(
                "\n{} ({}, {})\n  {}\n",
                of("cause"),
                of("severity"),
                of("direction"),
                of("fix")
            ));
        }
    }
    text.push_str("\nAll of it: probe-server results show ID --json\n");
    print(&harmless(&text)).map(|()| Exit::Ok)
}
