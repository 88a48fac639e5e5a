//! A lab that is killed leaves nothing behind.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is all test code")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::kernel::in_namespaces;

/// Processes that live in the network namespace of this inode.
fn processes_in(namespace: u64) -> Vec<String> {
    let inside = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        name.parse::<u32>().ok()?;
        let found = std::fs::metadata(entry.path().join("ns/net")).ok()?.ino();
        (found == namespace).then_some(name)
    };
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| inside(entry.unwrap())).collect()
}

#[test]
fn a_killed_lab_takes_everything_with_it() {
    in_namespaces("a_killed_lab_takes_everything_with_it", || {
        let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"))
            .args(["run", "nothing-there", "--"])
            // A grandchild in the background, out of its parent's session, is the hardest to find.
            .args(["sh", "-c", "setsid sleep 1000 & stat -Lc %i /proc/thread-self/ns/net; wait"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(lab.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let namespace: u64 = line.trim().parse().unwrap();
        assert!(processes_in(namespace).len() >= 2, "shell and sleep run in it");
        lab.kill().unwrap();
        lab.wait().unwrap();
        for _ in 0..500 {
            if processes_in(namespace).is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("left behind: {:?}", processes_in(namespace));
    });
}

#[test]
fn a_command_in_the_lab_ends_it_with_its_own_status() {
    in_namespaces("a_command_in_the_lab_ends_it_with_its_own_status", || {
        let status = Command::new(env!("CARGO_BIN_EXE_lab"))
            .args(["run", "nothing-there", "--", "sh", "-c", "test -n \"$LAB_TARGET\" && exit 42"])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(42));
    });
}
