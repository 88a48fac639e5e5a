//! Hosts that are not as comfortable as they could be.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tests::kernel::Lab;
use tests::middlebox::Topology;

use crate::world::{Listener, PORT, check, in_lab, programs, run};

/// Whom the system gives no rights at all.
const NOBODY: u32 = 65_534;

#[test]
fn both_ends_run_without_privileges() {
    in_lab("hosts::both_ends_run_without_privileges", || {
        let lab = Lab::start(&Topology::default(), &[], 1).unwrap();
        // Where nobody may reach them: the build folder need not be open to others.
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let copy = |program: &std::path::Path| {
            let to = place.path().join(program.file_name().unwrap());
            std::fs::copy(program, &to).unwrap();
            to
        };
        let (server, client) = (copy(&programs().server), copy(&programs().client));
        let state = Arc::new(tempfile::tempdir().unwrap());
        let as_nobody = |program: &std::path::Path| {
            let mut command = Command::new(program);
            // In a user namespace nobody has no number, and who runs the test has no rights outside it anyway.
            if std::os::unix::fs::chown(state.path(), Some(NOBODY), Some(NOBODY)).is_ok() {
                command.uid(NOBODY).gid(NOBODY);
            }
            command
        };
        let mut command = as_nobody(&server);
        command.args(["--json", "--no-doctor", "--state-dir"]).arg(state.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = lab.server().run(|| command.spawn()).unwrap().unwrap();
        let listener = Listener::of(child, Arc::clone(&state));
        let uid = std::fs::read_to_string(format!("/proc/{}/status", listener.child.id())).unwrap();
        let ids = uid.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim().to_owned();
        if nix::unistd::geteuid().is_root()
            && std::fs::metadata(state.path()).is_ok_and(|m| owner(&m) == NOBODY)
        {
            assert_eq!(ids.trim_start_matches('0'), "", "it has no capabilities");
        }

        let invite = listener.invite(lab.target(PORT));
        let mut command = as_nobody(&client);
        command.args(["check", "--json", "--quick", &invite]).env("HOME", "/nonexistent");
        let ran = lab.client().run(|| run(command, std::time::Duration::from_secs(90))).unwrap();
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(ran.status, Some(0), "{}\n{}", ran.stdout, ran.stderr());
        for transport in ["tcp", "tls", "udp", "quic"] {
            assert_eq!(report["reachability"][transport], "open", "{}", ran.stderr());
        }
    });
}

fn owner(metadata: &std::fs::Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::uid(metadata)
}

#[test]
fn both_ends_run_where_ipv6_is_switched_off() {
    in_lab("hosts::both_ends_run_where_ipv6_is_switched_off", || {
        let lab = Lab::start(&Topology { ipv6: false, ..Topology::default() }, &[], 1).unwrap();
        for host in [lab.client(), lab.server()] {
            for part in ["all", "default", "lo"] {
                let path = format!("/proc/sys/net/ipv6/conf/{part}/disable_ipv6");
                host.run(|| std::fs::write(&path, "1")).unwrap().unwrap();
            }
        }
        let listener = Listener::start(lab.server(), &[]);
        assert!(
            listener.first["udp"].as_array().unwrap().iter().any(|a| a == "0.0.0.0:8886"),
            "{}",
            listener.first
        );
        let checked = check(lab.client(), &listener.invite(lab.target(PORT)), &["--quick"]);
        assert_eq!((checked.ran.status, checked.causes()), (Some(0), vec![]), "{}", checked.story());
    });
}

#[test]
fn ipv6_alone_is_enough() {
    in_lab("hosts::ipv6_alone_is_enough", || {
        let lab = Lab::start(&Topology::default(), &[], 1).unwrap();
        let listener = Listener::start(lab.server(), &["--bind", "::"]);
        let checked = check(lab.client(), &listener.invite(lab.target_v6(PORT).unwrap()), &["--quick"]);
        assert_eq!((checked.ran.status, checked.causes()), (Some(0), vec![]), "{}", checked.story());
        for transport in ["tcp", "tls", "udp", "quic"] {
            assert_eq!(checked.reach(transport), "open", "{}", checked.story());
        }
    });
}
