//! The program itself: what it prints where, and with which status, above all for bad input.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::process::{Command, Output, Stdio};

fn probe_client(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_probe-client"));
    // Nothing of the environment that the tests run in may have a say.
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    probe_client(arguments).output().unwrap()
}

/// One line on standard error that says so, nothing on standard output, and the status.
fn refused(mut command: Command, status: i32, says: &str) {
    let out = command.output().unwrap();
    let error = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(status), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(says), "{error:?} does not say {says:?}");
    assert!(out.stdout.is_empty());
}

#[test]
fn bad_command_lines_are_told_in_one_line_with_status_2() {
    for (arguments, says) in [
        (&["check", "--nonsense"][..], "unexpected argument '--nonsense'"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["check"], "give a target"),
        (&["check", "https://example.org"], "not of the probe:// kind"),
        (&["check", "example.org:99999"], "not a port"),
        (&["check", "[2001:db8::1"], "not an IPv6 address in brackets"),
        (&["check", "a b"], "neither a host name nor an address"),
        (&["check", ""], "names no host"),
        (&["check", "probe://example.org/#abc"], "the invite is incomplete"),
        (&["check", "example.org", "--rate", "fast"], "not a rate in bits per second"),
        (&["check", "example.org", "--rate", "0"], "more than zero"),
        (&["check", "example.org", "--fail-on", "everything"], "invalid value 'everything'"),
        (&["check", "example.org", "--local"], "cannot be used with"),
        (&["check", "--local", "--out", "/nonexistent/x.probe"], "/nonexistent"),
        (&["check", "--local", "--out", "Cargo.toml"], "Cargo.toml is there already"),
        (&["soak", "127.0.0.1", "--for", "12h"], "--out"),
        (&["soak", "127.0.0.1", "--for", "12", "--out", "/nonexistent/x.probe"], "not a length of time"),
        (&["soak", "127.0.0.1", "--for", "12h", "--out", "/nonexistent/x.probe"], "/nonexistent"),
        (&["soak", "127.0.0.1", "--out", "Cargo.toml"], "Cargo.toml is there already"),
        (&["soak", "127.0.0.1", "--out", "Cargo.toml", "--resume"], "Cargo.toml is not a .probe file"),
        (&["soak", "127.0.0.1", "--out", "x.probe", "--resume", "--force"], "cannot be used with"),
        (&["diagnose", "/nonexistent.probe"], "there is no file /nonexistent.probe"),
        (&["diagnose", "Cargo.toml"], "Cargo.toml is not a .probe file"),
        (&["diagnose", "src"], "src is not a .probe file"),
        (&["export", "Cargo.toml", "--format", "csv"], "Cargo.toml is not a .probe file"),
        (&["export", "Cargo.toml", "--format", "xml"], "invalid value 'xml'"),
        (&["export", "Cargo.toml"], "--format"),
        (&["check", "example.org", "--key-file", "/nonexistent/key"], "cannot be read"),
    ] {
        refused(probe_client(arguments), 2, says);
    }
}

#[test]
fn commands_of_later_versions_say_so_whatever_is_asked_of_them() {
    for arguments in
        [&["report", "x.probe", "--html", "x.html"][..], &["compare", "a.probe", "b.probe", "--help"]]
    {
        refused(probe_client(arguments), 2, &format!("`{}` is not in this version", arguments[0]));
    }
    let help = String::from_utf8(output(&["--help"]).stdout).unwrap();
    assert!(help.contains("check") && help.contains("schema"));
    for hidden in ["report ", "compare"] {
        assert!(!help.contains(hidden), "{help}");
    }
}

#[test]
fn a_rehearsal_needs_an_invite_a_rate_and_a_length() {
    let whole = ["rehearse", "example.org", "--rate", "50M", "--for", "10s"];
    refused(probe_client(&whole), 2, "needs the admin's invite");
    refused(probe_client(&whole[..4]), 2, "--for <DURATION>");
    refused(probe_client(&["rehearse", "example.org", "--rate", "fast", "--for", "10s"]), 2, "fast");
}

#[test]
fn damaged_keys_are_told_without_showing_them() {
    let key = |value: &str| {
        let mut command = probe_client(&["check", "example.org"]);
        command.env("PROBE_KEY", value);
        command
    };
    let damaged = "a".repeat(probe_protocol::invite::INVITE_CHARS);
    refused(key(&damaged), 2, "PROBE_KEY: the invite is damaged");
    assert!(!String::from_utf8(key(&damaged).output().unwrap().stderr).unwrap().contains(&damaged));
    refused(key("too short"), 2, "PROBE_KEY");
    refused(key("probe://example.org:8886/"), 2, "PROBE_KEY holds no invite");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    for (content, says) in [
        (&b""[..], "holds no invite"),
        (b"abc\n", "the invite is incomplete"),
        (b"\xff\xfe\x00", "holds no invite"),
    ] {
        std::fs::write(&file, content).unwrap();
        refused(probe_client(&["check", "example.org", "--key-file", file.to_str().unwrap()]), 2, says);
    }
    refused(
        probe_client(&["check", "example.org", "--key-file", folder.path().to_str().unwrap()]),
        2,
        "holds no invite",
    );
}

#[test]
fn the_schema_the_completions_and_the_manual_are_printed() {
    let schema = output(&["schema"]);
    assert!(schema.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert!(schema.pointer("/properties/schema_version").is_some());
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = output(&["completions", shell]);
        assert!(script.status.success() && script.stdout.len() > 100, "{shell}");
    }
    let page = String::from_utf8(output(&["man"]).stdout).unwrap();
    assert!(page.contains(".TH probe-client") && page.contains("SUBCOMMANDS"));
    assert!(String::from_utf8(output(&["--version"]).stdout).unwrap().starts_with("probe-client "));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = probe_client(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn no_arguments_show_the_help_and_are_wrong() {
    let out = output(&[]);
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8(out.stderr).unwrap().contains("Usage: probe-client"));
}

/// A port on loopback on which nothing listens: bound, and let go again.
fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn an_unreachable_listener_is_a_result_with_status_3() {
    let target = format!("127.0.0.1:{}", closed_port());
    let out = output(&["check", &target, "--quick", "--json"]);
    let progress = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(3), "{progress}");
    assert!(progress.starts_with(&format!("Checking {target}: takes up to ")), "{progress}");
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(document["findings"][0]["cause"], "unreachable");
    assert_eq!(document["findings"][0]["parameters"]["kind"], "refused");
    assert_eq!(document["run"]["target"], target);
    assert_eq!(document["reachability"]["tcp"], "refused");
}

#[test]
fn a_name_that_is_unknown_is_a_result_with_status_3() {
    // RFC 6761 section 6.4: this name is never resolved.
    let out = output(&["check", "listener.invalid", "--json"]);
    assert_eq!(out.status.code(), Some(3));
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(document["findings"][0]["parameters"]["kind"], "name-not-found");
}
