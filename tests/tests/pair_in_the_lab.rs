//! The real programs in the real-kernel lab: what the foundation has to show, scenario by scenario.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is all test code")]

use std::sync::Mutex;

use tests::kernel::{binaries, in_namespaces, play};
use tests::scenario::Scenario;

/// So many at once, of each of the two slices: they wait more than they work.
const AT_ONCE: usize = 2;

/// Plays scenarios and fails with all that is wrong in any of them.
fn all_right(test: &str, names: &[&str]) {
    in_namespaces(test, || {
        let binaries = binaries().unwrap();
        let (waiting, wrong) = (Mutex::new(names.iter()), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let next = waiting.lock().unwrap().next();
                        let Some(name) = next else { return };
                        let played = play(&Scenario::load(name, 0).unwrap(), 0, binaries, None).unwrap();
                        if !played.judgement.is_right() {
                            let (judgement, said) = (played.judgement, played.said);
                            wrong.lock().unwrap().push(format!("{name}: {:#?}\n{said}", judgement.wrong));
                        }
                    }
                });
            }
        });
        let wrong = wrong.into_inner().unwrap();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn what_is_blocked_is_named_and_what_is_clean_is_not_accused() {
    all_right(
        "what_is_blocked_is_named_and_what_is_clean_is_not_accused",
        &[
            "clean",
            "clean-veth",
            "udp-blocked",
            "tcp-refused",
            "tcp-filtered",
            "nothing-there",
            "web-server",
            "loss-udp-up-3",
        ],
    );
}

#[test]
fn what_is_altered_dropped_or_forgotten_is_named() {
    all_right(
        "what_is_altered_dropped_or_forgotten_is_named",
        &[
            "quic-blocked",
            "mtu-black-hole",
            "nat-rebinding",
            "dscp-rewritten",
            "loss-random",
            "listener-restarted",
            "benign-wifi",
            "clean-quick",
        ],
    );
}
