//! Whom a listener turns away, and what both ends say of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use probe_net::clock;
use probe_protocol::invite::Invite;
use probe_protocol::target::Target;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Carrier, Hello, HelloKeys, Refusal, Refuse};
use probe_protocol::wire::{BODY_AT, HANDSHAKE_LEN, Kind};
use tests::kernel::{Host, Lab};
use tests::middlebox::Topology;

use crate::wire::{Answer, hello, hello_bytes, open_udp_on, read_answer};
use crate::world::{Checked, Listener, PATIENCE, PORT, admin, at, check, in_lab, programs, run, wait};

/// A socket of the client's, connected to the listener.
pub(crate) fn udp_to(host: &Host, target: SocketAddr) -> UdpSocket {
    let socket = host.run(|| UdpSocket::bind(("0.0.0.0", 0))).unwrap().unwrap();
    socket.connect(target).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn tcp_to(host: &Host, target: SocketAddr) -> std::net::TcpStream {
    let stream = host.run(|| std::net::TcpStream::connect_timeout(&target, PATIENCE)).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn refused(checked: &Checked, reason: &str, words: &[&str]) {
    assert_eq!(checked.ran.status, Some(3), "{}", checked.story());
    assert_eq!(checked.document["refused"]["reason"], reason, "{}", checked.story());
    let says = checked.document["refused"]["says"].as_str().unwrap();
    let summary = checked.document["verdict"]["summary"].as_str().unwrap();
    for word in words {
        assert!(says.contains(word), "{word:?} in {says:?}");
    }
    assert!(!summary.is_empty());
}

/// What a listener answers a client that speaks these versions of the protocol, over UDP and over TCP.
fn answers(lab: &Lab, listener: &Listener, versions: (u8, u8)) -> [Refuse; 2] {
    let target = lab.target(PORT);
    let hello = |carrier| Hello {
        min_version: versions.0,
        max_version: versions.1,
        ..hello(versions.0, 1, carrier, Dress::Random)
    };
    let keys = || HelloKeys::of_invite(&listener.key().key);
    let udp = open_udp_on(udp_to(lab.client(), target), keys(), hello(Carrier::Udp)).err().unwrap();

    let (mut keys, mut stream) = (keys(), tcp_to(lab.client(), target));
    let wire = hello_bytes(&mut keys, &hello(Carrier::Tcp), true);
    stream.write_all(&wire).unwrap();
    let mut answer = vec![0; wire.len()];
    stream.read_exact(&mut answer).unwrap();
    let Answer::Refuse(tcp) = read_answer(&mut keys, Dress::Random, &mut answer) else {
        panic!("not refused")
    };
    [udp, tcp]
}

#[test]
fn a_listener_tells_clients_of_other_versions_which_end_to_update() {
    in_lab("refusals::a_listener_tells_clients_of_other_versions_which_end_to_update", || {
        let lab = Lab::start(&Topology::default(), &[], 1).unwrap();
        let listener = Listener::start(lab.server(), &[]);
        let this = probe_protocol::PROTOCOL_VERSION;
        for (versions, wanted, update) in [
            ((0, this - 1), Refusal::ClientTooOld, "update probe-client"),
            ((this + 1, this + 3), Refusal::ListenerTooOld, "update probe-server"),
        ] {
            for refuse in answers(&lab, &listener, versions) {
                assert_eq!(refuse.reason, Some(wanted));
                assert!(wanted.to_string().contains(update));
                assert_eq!((refuse.min_version, refuse.max_version), (this, this));
            }
            let told = listener.wait_for("refused", |line| line["says"].as_str().unwrap().contains(update));
            assert!(told["source"].as_str().unwrap().starts_with("198.51.100.4:"));
        }
    });
}

/// A listener of another version: it refuses every client, in the words that all versions share.
fn listener_of_another_version(host: &Host, invite: Invite, reason: Refusal) {
    let answer = move |record: &mut [u8]| {
        let mut keys = HelloKeys::of_invite(&invite.key);
        let header = keys.keys.open(record).ok()?;
        let other = probe_protocol::PROTOCOL_VERSION + 1;
        let refuse =
            Refuse { reason: Some(reason), min_version: other, max_version: other, software: [9, 0, 0] };
        record[BODY_AT..HANDSHAKE_LEN].copy_from_slice(&refuse.encode());
        keys.keys.seal_as(other, keys.id, header.seq, Kind::Refuse, record).ok()
    };
    let udp = host.run(|| UdpSocket::bind(("0.0.0.0", PORT))).unwrap().unwrap();
    let tcp = host.run(|| TcpListener::bind(("0.0.0.0", PORT))).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            if length == HANDSHAKE_LEN && answer(&mut buffer[..length]).is_some() {
                let _ = udp.send_to(&buffer[..length], from);
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut record = [0; HANDSHAKE_LEN];
            if stream.read_exact(&mut record).is_ok() && answer(&mut record).is_some() {
                let _ = stream.write_all(&record);
            }
        }
    });
}

#[test]
fn a_client_says_which_end_to_update() {
    in_lab("refusals::a_client_says_which_end_to_update", || {
        for (reason, name, words) in [
            (Refusal::ListenerTooOld, "listener-too-old", "update probe-server"),
            (Refusal::ClientTooOld, "client-too-old", "update probe-client"),
        ] {
            let lab = Lab::start(&Topology::default(), &[], 1).unwrap();
            let invite = Invite { key: [7; 16], fingerprint: [8; 32], expires_minute: None };
            listener_of_another_version(lab.server(), invite, reason);
            let target = lab.target(PORT);
            let target = Target { host: target.ip().to_string(), port: PORT, invite: Some(invite) }.to_url();
            refused(&check(lab.client(), &target, &["--quick"]), name, &[words]);
        }
    });
}

/// Makes an invite with the real program, as its label and its text.
fn invite(state: &std::path::Path, arguments: &[&str]) -> (String, String) {
    let made = admin(state, &[&["invite", "--json"], arguments].concat());
    assert!(made.status.success(), "{made:?}");
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    (made["label"].as_str().unwrap().to_owned(), made["invite"].as_str().unwrap().to_owned())
}

#[test]
fn an_invite_works_until_it_is_revoked_and_then_is_refused_in_words() {
    in_lab("refusals::an_invite_works_until_it_is_revoked_and_then_is_refused_in_words", || {
        let lab = Lab::start(&Topology::default(), &[], 1).unwrap();
        let listener = Listener::start(lab.server(), &[]);
        // Both are made while the listener runs.
        let (label, text) = invite(listener.state.path(), &["--for", "7d"]);
        let target = at(&text, lab.target(PORT));
        // It learns of a new invite within a second or two.
        let key = text.parse::<Target>().unwrap().invite.unwrap().key;
        let hello = || hello(3, 1, Carrier::Udp, Dress::Random);
        let opened = || {
            let socket = udp_to(lab.client(), lab.target(PORT));
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut keys = HelloKeys::of_invite(&key);
            socket.send(&hello_bytes(&mut keys, &hello(), false)).unwrap();
            let mut buffer = [0; 2000];
            let length = socket.recv(&mut buffer).ok()?;
            Some(read_answer(&mut keys, Dress::Random, &mut buffer[..length]))
        };
        let start = clock::now();
        while !matches!(opened(), Some(Answer::Challenge(_))) {
            assert!(clock::now().since(start) < PATIENCE, "the new invite is never known");
        }
        let good = check(lab.client(), &target, &["--quick"]);
        assert_eq!(
            (good.ran.status, &good.document["run"]["authenticated"]),
            (Some(0), &true.into()),
            "{}",
            good.story()
        );

        let revoked = admin(listener.state.path(), &["invite", "--revoke", &label]);
        assert!(revoked.status.success(), "{revoked:?}");
        let start = clock::now();
        while !matches!(opened(), Some(Answer::Refuse(Refuse { reason: Some(Refusal::InviteRevoked), .. }))) {
            assert!(clock::now().since(start) < PATIENCE, "it is never revoked");
        }
        let checked = check(lab.client(), &target, &["--quick"]);
        refused(&checked, "invite-revoked", &["revoked", "probe-server invite"]);
        listener.wait_for("refused", |line| line["reason"] == "invite-revoked");

        // For people.
        let mut command = lab.client().command(&programs().client);
        command.args(["check", "--quick", &target]);
        let ran = run(command, Duration::from_secs(60) + PATIENCE);
        assert_eq!(ran.status, Some(3));
        assert!(ran.stdout.contains("invite has been revoked"), "{}\n{}", ran.stdout, ran.stderr());
        assert!(!ran.stdout.contains(target.split_once('#').unwrap().1), "the key is not shown");
    });
}

#[test]
fn an_invite_that_is_revoked_in_the_middle_ends_the_run_in_words() {
    in_lab("refusals::an_invite_that_is_revoked_in_the_middle_ends_the_run_in_words", || {
        let lab = Lab::start(&Topology::default(), &[], 1).unwrap();
        let listener = Listener::start(lab.server(), &[]);
        let listed = admin(listener.state.path(), &["invite", "--list", "--json"]);
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        let label = listed[0]["label"].as_str().unwrap().to_owned();
        let (client, target) = (lab.client(), listener.invite(lab.target(PORT)));
        let checked = std::thread::scope(|scope| {
            let checking = scope.spawn(|| check(client, &target, &[]));
            listener.wait_for("session-opened", |_| true);
            let revoked = admin(listener.state.path(), &["invite", "--revoke", &label]);
            assert!(revoked.status.success(), "{revoked:?}");
            checking.join().unwrap()
        });
        assert_eq!(checked.ran.status, Some(3), "{}", checked.story());
        assert_eq!(checked.document["refused"]["reason"], "invite-revoked", "{}", checked.story());
        let says = checked.document["refused"]["says"].as_str().unwrap();
        assert!(says.starts_with("after ") && says.contains("revoked"), "{says}");
        assert_eq!(checked.causes(), Vec::<String>::new(), "{}", checked.story());
        assert_eq!(checked.document["run"]["complete"], false);
        assert_eq!(checked.document["run"]["measured"], true);
    });
}

#[test]
fn an_expired_invite_is_refused_in_words() {
    in_lab("refusals::an_expired_invite_is_refused_in_words", || {
        let lab = Lab::start(&Topology::default(), &[], 1).unwrap();
        let state = Arc::new(tempfile::tempdir().unwrap());
        let (label, text) = invite(state.path(), &["--for", "1h"]);
        // Two hours go by.
        let file = state.path().join("invites.json");
        let mut document: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let records = document["invites"].as_array_mut().unwrap();
        let record = records.iter_mut().find(|record| record["label"] == label.as_str()).unwrap();
        record["expires_minute"] = (record["expires_minute"].as_u64().unwrap() - 120).into();
        std::fs::write(&file, document.to_string()).unwrap();
        let mut target: Target = at(&text, lab.target(PORT)).parse().unwrap();
        let invite = target.invite.as_mut().unwrap();
        invite.expires_minute = invite.expires_minute.map(|minute| minute - 120);

        let listener = Listener::start_in(lab.server(), Arc::clone(&state), &[]);
        let checked = check(lab.client(), &target.to_url(), &["--quick"]);
        refused(&checked, "invite-expired", &["expired", "probe-server invite"]);
        assert_eq!(
            checked.causes(),
            Vec::<String>::new(),
            "nothing is wrong with the path\n{}",
            checked.story()
        );
        listener.wait_for("refused", |line| line["reason"] == "invite-expired");
        let listed = admin(state.path(), &["invite", "--list"]);
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.lines().any(|l| l.contains(&label) && l.contains("expired")), "{listed}");
    });
}

#[test]
fn a_key_that_the_listener_does_not_know_is_said_to_be_of_another_one() {
    in_lab("refusals::a_key_that_the_listener_does_not_know_is_said_to_be_of_another_one", || {
        let lab = Lab::start(&Topology::default(), &[], 1).unwrap();
        let listener = Listener::start(lab.server(), &[]);
        let other = Invite { key: [7; 16], ..listener.key() };
        let target = lab.target(PORT);
        let target = Target { host: target.ip().to_string(), port: PORT, invite: Some(other) }.to_url();
        let checked = check(lab.client(), &target, &["--quick"]);
        assert_eq!(checked.ran.status, Some(3), "{}", checked.story());
        assert!(checked.causes().contains(&"wrong-host".to_owned()), "{}", checked.story());
        assert!(
            checked.document["findings"][0].to_string().contains("does not know this invite"),
            "{}",
            checked.story()
        );
    });
}

#[test]
fn a_verdict_is_handed_in_and_shown_to_the_admin() {
    in_lab("refusals::a_verdict_is_handed_in_and_shown_to_the_admin", || {
        let lab = Lab::start(&Topology::default(), &[], 1).unwrap();
        let mut listener = Listener::start(lab.server(), &[]);
        let checked = check(lab.client(), &listener.invite(lab.target(PORT)), &["--quick"]);
        let event = listener.wait_for("result-received", |_| true);
        let id = event["id"].as_str().unwrap();
        let shown = admin(listener.state.path(), &["results", "show", id, "--json"]);
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        let text = shown.to_string();
        assert!(text.contains(checked.document["verdict"]["summary"].as_str().unwrap()), "{shown:#}");
        let listed = String::from_utf8(admin(listener.state.path(), &["results"]).stdout).unwrap();
        assert!(listed.contains(id), "{listed}");

        // Without an invite nothing is handed in, and the report says what that means.
        let bare = check(lab.client(), &lab.target(PORT).to_string(), &["--quick"]);
        assert_eq!(bare.ran.status, Some(0), "{}", bare.story());
        assert_eq!(bare.document["run"]["authenticated"], false, "{}", bare.story());
        for transport in ["tcp", "tls", "udp", "quic"] {
            assert_eq!(bare.reach(transport), "open", "{}", bare.story());
        }
        listener.signal(Signal::SIGTERM);
        assert!(wait(&mut listener.child, PATIENCE));
        let kept = listener.said().iter().filter(|line| line["event"] == "result-received").count();
        assert_eq!(kept, 1);
    });
}

#[test]
fn what_is_no_invite_is_told_in_one_line() {
    let name = "refusals::what_is_no_invite_is_told_in_one_line";
    in_lab(name, || {
        let text = Target {
            host: "192.0.2.1".into(),
            port: PORT,
            invite: Some(Invite { key: [7; 16], fingerprint: [8; 32], expires_minute: None }),
        }
        .to_url();
        for (target, says) in [
            (&text[..text.len() - 1], "incomplete"),
            (&text.replacen("#a", "#b", 1), "damaged"),
            ("192.0.2.1:99999", "port"),
        ] {
            let mut command = Command::new(&programs().client);
            command.args(["check", target]);
            let ran = run(command, PATIENCE);
            assert_eq!(ran.status, Some(2), "{}", ran.stderr());
            assert!(ran.complaint("probe-client").contains(says), "{says}: {}", ran.stderr());
            assert_eq!(ran.stdout, "");
        }
    });
}
