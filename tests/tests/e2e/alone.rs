//! Each carrier and each dress alone, all others dropped by their content from the first packet on.

use tests::kernel::Lab;
use tests::middlebox::{Forwarding, NatKind, Topology};

use crate::world::{Checked, Listener, PORT, check, in_lab, rules};

const NO_TCP: &str = "[[rule]]\nname = 'no TCP'\nmatch = { protocol = ['tcp'] }\ndo = { act = 'drop' }\n";
const NO_UDP: &str = "[[rule]]\nname = 'no UDP'\nmatch = { protocol = ['udp'] }\ndo = { act = 'drop' }\n";
/// What is left once the rules before have let their one image pass. Replies meet the rules in the opposite order.
const NO_OTHER_UDP: &str = "[[rule]]\nname = 'no other UDP'\n\
    match = { protocol = ['udp'], direction = 'up' }\ndo = { act = 'drop' }\n";
const NO_QUIC: &str = "[[rule]]\nname = 'no QUIC'\n\
    match = { protocol = ['udp'], quic = {}, sticky = true }\ndo = { act = 'drop' }\n";
const NO_TLS: &str = "[[rule]]\nname = 'no TLS'\n\
    match = { protocol = ['tcp'], tls = {}, sticky = true }\ndo = { act = 'drop' }\n";
/// Whatever opens with the first bytes of a QUIC version 1 long header, real or not.
const NO_LONG_HEADERS: &str = "[[rule]]\nname = 'no long headers'\n\
    match = { protocol = ['udp'], content = { at = 1, hex = '00000001' }, sticky = true }\ndo = { act = 'drop' }\n";
const NO_INVERTED_LONG_HEADERS: &str = "[[rule]]\nname = 'no inverted long headers'\n\
    match = { protocol = ['udp'], content = { at = 1, hex = 'fffffffe' }, sticky = true }\ndo = { act = 'drop' }\n";
const NO_PRINTABLE_UDP: &str = "[[rule]]\nname = 'no printable UDP'\n\
    match = { protocol = ['udp'], printable = true }\ndo = { act = 'drop' }\n";
/// Datagrams of the size of probes, the end of which is zeros.
const ZEROS: &str = "content = { at = 96, hex = '00000000000000000000000000000000' }";

/// Checks through rules, and wants exactly these flows to measure something.
fn only(images: &[&str], text: &str) -> Checked {
    let topology = Topology {
        client_nat: Some(NatKind::default()),
        server_nat: Some(Forwarding::default()),
        ..Topology::default()
    };
    let lab = Lab::start(&topology, &rules(text), 1).unwrap();
    let listener = Listener::start(lab.server(), &[]);
    let checked = check(lab.client(), &listener.invite(lab.target(PORT)), &["--quick"]);
    let alive: Vec<&str> = checked
        .flows()
        .filter(|(_, flow)| flow["received"].as_u64().unwrap() > 0)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(alive, images, "{}", checked.story());
    assert_eq!(checked.ran.status, Some(1), "measured, with findings\n{}", checked.story());
    assert_eq!(checked.document["run"]["measured"], true);
    for image in images {
        assert_eq!(checked.flow(image)["end"], "finished", "{}", checked.story());
        assert_eq!(checked.flow(image)["lost"]["unknown"], 0, "{}", checked.story());
    }
    checked
}

fn open(checked: &Checked, transports: &[&str]) {
    for transport in ["tcp", "tls", "udp", "quic"] {
        let wanted = transports.contains(&transport);
        assert_eq!(checked.reach(transport) == "open", wanted, "{transport}\n{}", checked.story());
    }
}

#[test]
fn udp_random() {
    in_lab("alone::udp_random", || {
        // It opens just as `zero` does, so that one is told apart by its probes.
        let no_zeros = format!(
            "[[rule]]\nname = 'no zeros'\nmatch = {{ protocol = ['udp'], {ZEROS} }}\ndo = {{ act = 'drop' }}\n"
        );
        let text = [NO_TCP, NO_LONG_HEADERS, NO_INVERTED_LONG_HEADERS, NO_PRINTABLE_UDP, &no_zeros].concat();
        open(&only(&["udp/random"], &text), &["udp"]);
    });
}

#[test]
fn udp_zero() {
    in_lab("alone::udp_zero", || {
        let no_others = format!(
            "[[rule]]\nname = 'probes of zeros pass'\nmatch = {{ protocol = ['udp'], {ZEROS} }}\ndo = {{ act = 'pass' }}\n\
             [[rule]]\nname = 'no other probes'\nmatch = {{ protocol = ['udp'], direction = 'up', size_over = 155, size_under = 157 }}\n\
             do = {{ act = 'drop' }}\n"
        );
        let text = [NO_TCP, NO_LONG_HEADERS, NO_INVERTED_LONG_HEADERS, NO_PRINTABLE_UDP, &no_others].concat();
        open(&only(&["udp/zero"], &text), &["udp"]);
    });
}

#[test]
fn udp_ascii() {
    in_lab("alone::udp_ascii", || {
        let pass = "[[rule]]\nname = 'printable passes'\nmatch = { protocol = ['udp'], printable = true }\n\
            do = { act = 'pass' }\n";
        open(&only(&["udp/ascii"], &[NO_TCP, pass, NO_OTHER_UDP].concat()), &["udp"]);
    });
}

#[test]
fn udp_quic_shaped() {
    in_lab("alone::udp_quic_shaped", || {
        let pass = NO_LONG_HEADERS.replace("no long headers", "long headers pass").replace("drop", "pass");
        open(&only(&["udp/quic-shaped"], &[NO_TCP, NO_QUIC, &pass, NO_OTHER_UDP].concat()), &["udp"]);
    });
}

#[test]
fn quic() {
    in_lab("alone::quic", || {
        let pass = NO_QUIC.replace("no QUIC", "QUIC passes").replace("drop", "pass");
        open(&only(&["quic"], &[NO_TCP, &pass, NO_OTHER_UDP].concat()), &["quic"]);
    });
}

#[test]
fn quic_inverse() {
    in_lab("alone::quic_inverse", || {
        let pass = NO_INVERTED_LONG_HEADERS
            .replace("no inverted long headers", "inverted long headers pass")
            .replace("drop", "pass");
        open(&only(&["quic-inverse"], &[NO_TCP, &pass, NO_OTHER_UDP].concat()), &[]);
    });
}

#[test]
fn tcp_random() {
    in_lab("alone::tcp_random", || {
        let no_text = "[[rule]]\nname = 'no text'\nmatch = { protocol = ['tcp'], printable = true, sticky = true }\n\
            do = { act = 'drop' }\n";
        open(&only(&["tcp/random"], &[NO_UDP, NO_TLS, no_text].concat()), &["tcp"]);
    });
}

#[test]
fn tcp_ascii() {
    in_lab("alone::tcp_ascii", || {
        // Few bytes have few chances to repeat, whatever they are.
        let no_noise = "[[rule]]\nname = 'no noise'\n\
            match = { protocol = ['tcp'], size_over = 200, entropy_over = 0.86, sticky = true }\n\
            do = { act = 'drop' }\n";
        open(&only(&["tcp/ascii"], &[NO_UDP, NO_TLS, no_noise].concat()), &["tcp"]);
    });
}

#[test]
fn tls() {
    in_lab("alone::tls", || {
        let no_other = "[[rule]]\nname = 'no other TCP'\n\
            match = { protocol = ['tcp'], known_protocol = false, sticky = true }\ndo = { act = 'drop' }\n";
        open(&only(&["tls"], &[NO_UDP, no_other].concat()), &["tls"]);
    });
}
