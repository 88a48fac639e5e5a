//! Scenarios are played and judged; programs that only say their lines stand in for the real ones.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is all test code")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::kernel::{Binaries, Stage, StageError, in_namespaces, play};
use tests::scenario::Scenario;

const SERVER: &str = r#"
echo started >> "$(dirname "$0")/starts"
echo '{"event":"listening","tcp":[],"udp":[],"invite":"probe://[::]:8886/#secret","fingerprint":"f"}'
exec sleep 1000
"#;

/// Says that TCP is refused where the invite was as it must be, and leaves with 1.
const CLIENT: &str = r#"
case "$2" in "probe://203.0.113.7:8886/#secret") cause=tcp-refused;; *) cause=unreachable;; esac
sleep 1
echo '{"findings":[{"cause":"'$cause'","severity":"blocking","side":"path","direction":"up","parameters":{}}],
       "reachability":{"tcp":"refused","udp":"open","quic":"open"},"flows":[]}'
exit 1
"#;

fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn actors(folder: &Path, server: &str, client: &str) -> Binaries {
    Binaries {
        server: script(folder, "probe-server", server),
        client: script(folder, "probe-client", client),
    }
}

#[test]
fn what_is_said_is_judged_by_what_had_to_be_said() {
    in_namespaces("what_is_said_is_judged_by_what_had_to_be_said", || {
        let folder = tempfile::tempdir().unwrap();
        let binaries = actors(folder.path(), SERVER, CLIENT);
        let right = play(&Scenario::load("tcp-refused", 0).unwrap(), 0, &binaries, None).unwrap();
        assert!(right.judgement.is_right(), "{:?}", right.judgement);
        assert!(right.took >= Duration::from_secs(1));
        let wrong = play(&Scenario::load("clean", 0).unwrap(), 0, &binaries, None).unwrap();
        assert_eq!(wrong.judgement.accused.len(), 1, "{:?}", wrong.judgement);
        assert_eq!(wrong.status, Some(1));
    });
}

#[test]
fn a_listener_restarts_in_the_middle() {
    in_namespaces("a_listener_restarts_in_the_middle", || {
        let folder = tempfile::tempdir().unwrap();
        let binaries = actors(folder.path(), SERVER, CLIENT);
        let text = "about = 'restart'\n[[event]]\nwhat = 'restart-listener'\nat = '200ms'\ngap = '200ms'\n\
                    [[event]]\nwhat = 'stall-client'\nat = '100ms'\nlength = '100ms'";
        play(&Scenario::parse("restart", text, 0).unwrap(), 0, &binaries, None).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("starts")).unwrap().lines().count(), 2);
    });
}

#[test]
fn a_listener_that_does_not_listen_is_an_error_and_so_is_no_json() {
    in_namespaces("a_listener_that_does_not_listen_is_an_error_and_so_is_no_json", || {
        let folder = tempfile::tempdir().unwrap();
        let scenario = Scenario::load("clean", 0).unwrap();
        for server in ["exit 3", "echo hello; sleep 5"] {
            let binaries = actors(folder.path(), server, CLIENT);
            assert!(
                matches!(Stage::set(&scenario, 0, &binaries), Err(StageError::NotListening(_))),
                "{server}"
            );
        }
        let binaries = actors(folder.path(), SERVER, "echo no JSON");
        let played = play(&scenario, 0, &binaries, None).unwrap();
        assert!(played.judgement.wrong.iter().any(|wrong| wrong.contains("JSON")), "{:?}", played.judgement);
    });
}
