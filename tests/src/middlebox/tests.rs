use std::net::SocketAddr;

use probe_protocol::time::WallTime;

use super::*;
use crate::packet::{Part, Protocol};
use crate::rules::units::Span;

const START: Timestamp = Timestamp(5_000_000_000);

struct Net {
    middlebox: Middlebox,
    now: Timestamp,
}

impl Net {
    fn new(topology: &Topology) -> Self {
        Self::with_rules(topology, "")
    }

    fn with_rules(topology: &Topology, text: &str) -> Self {
        #[derive(serde::Deserialize)]
        struct File {
            #[serde(default)]
            rule: Vec<Rule>,
        }
        let rules = toml::from_str::<File>(text).unwrap().rule;
        Self { middlebox: Middlebox::new(topology, &rules, 1, START).unwrap(), now: START }
    }

    /// Hands a host's packet in, and gives what hosts receive at once.
    fn send(&mut self, from: Port, packet: Packet) -> Vec<(Port, Packet)> {
        let moment = Moment { now: self.now, wall: WallTime(0) };
        self.middlebox.receive(moment, from, packet.into_bytes());
        let mut ready = Vec::new();
        self.middlebox.take_ready(&mut ready);
        assert!(ready.iter().all(|(_, packet)| packet.checksums_right()));
        ready
    }

    /// The one packet that comes out.
    fn one(&mut self, from: Port, packet: Packet) -> (Port, Packet) {
        let mut ready = self.send(from, packet);
        assert_eq!(ready.len(), 1, "{ready:?}");
        ready.remove(0)
    }

    fn why(&mut self) -> Vec<&'static str> {
        self.middlebox.sink().truth.lines().map(|line| line.why).collect()
    }
}

fn natted() -> Topology {
    Topology {
        client_nat: Some(NatKind::default()),
        server_nat: Some(Forwarding::default()),
        ..Topology::default()
    }
}

fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

fn inside() -> SocketAddr {
    at([192, 168, 86, 2], 4000)
}

fn public() -> SocketAddr {
    at(Topology::CLIENT_PUBLIC, 4000)
}

fn target() -> SocketAddr {
    at(Topology::SERVER_PUBLIC, 8886)
}

fn listener() -> SocketAddr {
    at([10, 8, 86, 7], 8886)
}

fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Packet {
    build::udp(from, to, payload).unwrap()
}

#[test]
fn a_datagram_goes_up_and_its_answer_down() {
    let mut net = Net::new(&natted());
    let (port, packet) = net.one(Port::Client, udp(inside(), target(), b"up"));
    assert_eq!((port, packet.from(), packet.to()), (Port::Server, public(), listener()));
    assert_eq!(packet.ttl(), build::TTL - 2, "two routers");
    let (port, packet) = net.one(Port::Server, udp(listener(), public(), b"down"));
    assert_eq!((port, packet.from(), packet.to()), (Port::Client, target(), inside()));
}

#[test]
fn each_hop_says_when_the_time_to_live_runs_out() {
    let mut net = Net::new(&natted());
    let hops = [IpAddr::V4([192, 168, 86, 1].into()), IpAddr::V4(Topology::SERVER_PUBLIC)];
    for (ttl, hop) in (1u8..).zip(hops) {
        let mut packet = udp(inside(), target(), b"who is there?");
        packet.set_ttl(ttl);
        let (port, answer) = net.one(Port::Client, packet);
        assert_eq!((port, answer.source(), answer.icmp()), (Port::Client, hop, Some((11, 0))));
        let quoted = build::quoted(&answer).unwrap();
        assert_eq!((quoted.from(), quoted.to()), (inside(), target()), "the quote is as it was sent");
    }
    let mut packet = udp(inside(), target(), b"there");
    packet.set_ttl(3);
    assert_eq!(net.one(Port::Client, packet).0, Port::Server);
}

#[test]
fn strangers_are_filtered_and_what_is_not_forwarded_is_dropped_or_refused() {
    let mut net = Net::new(&natted());
    assert!(net.send(Port::Server, udp(at([10, 8, 86, 7], 99), public(), b"hello?")).is_empty());
    assert!(net.send(Port::Client, udp(inside(), at(Topology::SERVER_PUBLIC, 98), b"x")).is_empty());
    assert_eq!(net.why(), ["no mapping", "no mapping"]);
    let forwarding = Forwarding { refuses: true, ..Forwarding::default() };
    let mut net = Net::new(&Topology { server_nat: Some(forwarding), ..natted() });
    let (port, answer) = net.one(Port::Client, udp(inside(), at(Topology::SERVER_PUBLIC, 99), b"x"));
    assert_eq!((port, answer.icmp()), (Port::Client, Some((3, 3))));
    assert_eq!(answer.source(), IpAddr::V4(Topology::SERVER_PUBLIC));
}

#[test]
fn a_mapping_lives_as_long_as_it_is_refreshed_from_the_side_that_counts() {
    for (refreshed_by, alive) in [(None, true), (Some(Direction::Down), true), (Some(Direction::Up), false)] {
        let nat = NatKind { udp_idle: Span::secs(20), refreshed_by, ..NatKind::default() };
        let mut net = Net::new(&Topology { client_nat: Some(nat), ..natted() });
        net.send(Port::Client, udp(inside(), target(), b"up"));
        let mut last = 0;
        for _ in 0..3 {
            net.now += Duration::from_secs(15);
            last = net.send(Port::Server, udp(listener(), public(), b"down")).len();
        }
        assert_eq!(last == 1, alive, "{refreshed_by:?}");
    }
}

#[test]
fn a_forgotten_mapping_comes_back_under_another_port_where_ports_are_not_kept() {
    let nat = NatKind { keeps_ports: false, ..NatKind::default() };
    let mut net = Net::new(&Topology { client_nat: Some(nat), ..natted() });
    let (_, before) = net.one(Port::Client, udp(inside(), target(), b"1"));
    net.middlebox.forget_mappings();
    let (_, after) = net.one(Port::Client, udp(inside(), target(), b"2"));
    assert_ne!(before.source_port(), after.source_port());
    assert!(net.send(Port::Server, udp(listener(), before.from(), b"down")).is_empty());
}

#[test]
fn a_rule_in_the_lan_forgets_in_time_for_the_packet_itself() {
    let nat = NatKind { keeps_ports: false, ..NatKind::default() };
    let rule = "[[rule]]\nname='forget'\nat='lan'\nmatch={direction='up',idle_over='10s'}\ndo={act='forget'}";
    let mut net = Net::with_rules(&Topology { client_nat: Some(nat), ..natted() }, rule);
    let (_, before) = net.one(Port::Client, udp(inside(), target(), b"1"));
    net.now += Duration::from_secs(10);
    let (_, same) = net.one(Port::Client, udp(inside(), target(), b"2"));
    net.now += Duration::from_secs(11);
    let (_, other) = net.one(Port::Client, udp(inside(), target(), b"3"));
    assert_eq!(before.source_port(), same.source_port());
    assert_ne!(before.source_port(), other.source_port());
}

#[test]
fn a_nat_that_is_full_maps_no_more_until_mappings_run_out() {
    let nat = NatKind { limit: 10, udp_idle: Span::secs(20), ..NatKind::default() };
    let mut net = Net::new(&Topology { client_nat: Some(nat), ..natted() });
    let open =
        |net: &mut Net, port| net.send(Port::Client, udp(at([192, 168, 86, 2], port), target(), b"x")).len();
    let passed: usize = (1000..1015).map(|port| open(&mut net, port)).sum();
    assert_eq!(passed, 10);
    net.now += Duration::from_secs(21);
    assert_eq!(open(&mut net, 2000), 1);
}

#[test]
fn fragments_follow_their_first_and_without_it_go_nowhere() {
    let topology = Topology { path_mtu: 576, ..natted() };
    let mut net = Net::new(&topology);
    net.send(Port::Client, udp(inside(), target(), b"open"));
    let mut down = udp(listener(), public(), &[7; 1400]).into_bytes();
    down[6] = 0; // may be cut
    down[10..12].fill(0);
    let sum = !crate::packet::checksum::sum(&down[..20]);
    down[10..12].copy_from_slice(&sum.to_be_bytes());
    let pieces = net.send(Port::Server, Packet::parse(down).unwrap());
    assert_eq!(pieces.len(), 3);
    assert!(pieces.iter().all(|(port, piece)| *port == Port::Client && piece.destination() == inside().ip()));
    // A piece of another datagram, whose first never came.
    let mut stray = pieces[1].1.bytes().to_vec();
    stray[4] ^= 0x55;
    stray[10..12].fill(0);
    let sum = !crate::packet::checksum::sum(&stray[..20]);
    stray[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut stray = Packet::parse(stray).unwrap();
    assert_eq!(stray.part(), Part::Later);
    stray.set_source(listener().ip());
    stray.set_destination(public().ip());
    let again = Packet::parse(stray.bytes().to_vec()).unwrap();
    assert!(net.send(Port::Server, stray).is_empty());
    assert!(net.why().is_empty(), "its first one may be late");
    net.now += Duration::from_secs(61);
    assert!(net.send(Port::Server, again).is_empty());
    assert_eq!(net.why(), ["first fragment not seen"]);
}

#[test]
fn fragments_that_overtake_their_first_wait_for_it() {
    let mut net = Net::new(&natted());
    let mut whole = udp(inside(), target(), &[7; 1400]);
    whole.allow_fragments(7);
    let [first, second, third]: [Packet; 3] = fragment::cut(&whole, 576).unwrap().try_into().unwrap();
    assert!(net.send(Port::Client, third).is_empty());
    let of_another = {
        let mut whole = udp(inside(), target(), &[8; 1000]);
        whole.allow_fragments(8);
        fragment::cut(&whole, 576).unwrap().remove(1)
    };
    assert!(net.send(Port::Client, of_another).is_empty());
    let arrived = net.send(Port::Client, first);
    assert_eq!(arrived.len(), 2, "the first and the one that waited, and no other datagram's");
    let mut arrived = arrived;
    arrived.extend(net.send(Port::Client, second));
    let mut reassembly = fragment::Reassembly::default();
    let whole = arrived.into_iter().find_map(|(port, piece)| {
        assert_eq!(port, Port::Server);
        reassembly.take(piece)
    });
    let whole = whole.unwrap();
    assert_eq!((whole.to(), whole.payload()), (listener(), &[7u8; 1400][..]));
    assert!(whole.checksums_right());
}

#[test]
fn cross_traffic_shares_the_path_and_reaches_whom_it_is_for() {
    let topology = Topology { side_host: true, ..natted() };
    let side = at(topology.side().v4, 7);
    let mut net = Net::new(&topology);
    assert_eq!(net.one(Port::Side, udp(side, target(), b"x")).0, Port::Server);
    assert_eq!(net.one(Port::Server, udp(listener(), side, b"x")).0, Port::Side);
    assert_eq!(net.one(Port::Client, udp(inside(), side, b"x")).0, Port::Side);
    assert_eq!(net.one(Port::Side, udp(side, public(), b"x")).0, Port::Client);
}

#[test]
fn everything_repeats_from_the_seed() {
    let rules = "[[rule]]\nname='lan'\nat='lan'\ndo={act='delay',by='1ms',jitter='9ms',overtake=true}\n\
                 [[rule]]\nname='loss'\ndo={act='loss',good_to_bad=0.05,bad_to_good=0.3}\n\
                 [[rule]]\nname='again'\ndo={act='duplicate',share=0.1,after='1ms'}\n\
                 [[rule]]\nname='line'\ndo={act='queue',rate='2M',limit='20k',order='fair'}";
    let run = |seed| {
        let topology = natted();
        let mut net = Net::with_rules(&topology, rules);
        let parsed: toml::Table = rules.parse().unwrap();
        let list: Vec<Rule> = parsed["rule"].clone().try_into().unwrap();
        net.middlebox = Middlebox::new(&topology, &list, seed, START).unwrap();
        let mut log = Vec::new();
        for index in 0..600u16 {
            let moment = Moment { now: net.now, wall: WallTime(0) };
            let packet =
                udp(at([192, 168, 86, 2], 3000 + index % 7), target(), &index.to_be_bytes().repeat(200));
            net.middlebox.receive(moment, Port::Client, packet.into_bytes());
            net.now += Duration::from_micros(1300);
            while net.middlebox.next() <= net.now {
                let at = net.middlebox.next();
                net.middlebox.poll(Moment { now: at, wall: WallTime(0) });
                let mut ready = Vec::new();
                net.middlebox.take_ready(&mut ready);
                log.extend(ready.into_iter().map(|(_, packet)| (at, packet.into_bytes())));
            }
        }
        log
    };
    let first = run(1);
    assert!(first.len() > 100);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
}

#[test]
fn tcp_and_udp_have_ports_of_their_own() {
    let mut net = Net::new(&natted());
    net.send(Port::Client, udp(inside(), target(), b"x"));
    let answer = build::tcp(listener(), public(), &build::Tcp::default(), b"").unwrap();
    assert_eq!(answer.protocol(), Protocol::Tcp);
    assert!(net.send(Port::Server, answer).is_empty());
}

#[test]
fn a_client_in_the_listeners_own_network_is_seen_as_the_router_or_as_itself() {
    for (hairpin, client_nat, seen) in [
        (Hairpin::Public, Some(NatKind::default()), at(Topology::SERVER_PUBLIC, 4000)),
        (Hairpin::Private, None, at([10, 8, 86, 4], 4000)),
    ] {
        let topology = Topology {
            ipv6: false,
            client_nat,
            server_nat: Some(Forwarding::default()),
            hairpin: Some(hairpin),
            ..Topology::default()
        };
        assert_eq!(topology.contradiction(), None);
        let mut net = Net::new(&topology);
        let own = at(topology.client().v4, 4000);
        let (port, up) = net.one(Port::Client, build::udp(own, target(), b"hello").unwrap());
        assert_eq!((port, up.from(), up.to()), (Port::Server, seen, listener()));
        let (port, down) = net.one(Port::Server, build::udp(listener(), seen, b"back").unwrap());
        assert_eq!((port, down.from(), down.to()), (Port::Client, target(), own));
    }
    let alone = Topology { ipv6: false, hairpin: Some(Hairpin::Private), ..Topology::default() };
    assert!(alone.contradiction().is_some());
}

#[test]
fn two_ports_outside_lead_to_one_inside_and_each_answers_for_itself() {
    let forwarding = Forwarding { second_port: Some(8887), ..Forwarding::default() };
    for symmetric in [false, true] {
        let kind = NatKind { symmetric, ..NatKind::default() };
        let mut net = Net::new(&Topology {
            client_nat: Some(kind),
            server_nat: Some(forwarding.clone()),
            ..Topology::default()
        });
        let mut seen = Vec::new();
        for outside in [8886, 8887] {
            let to = at(Topology::SERVER_PUBLIC, outside);
            let (_, up) = net.one(Port::Client, build::udp(inside(), to, b"hello").unwrap());
            assert_eq!(up.to(), listener());
            seen.push(up.from());
            if symmetric {
                let (_, down) = net.one(Port::Server, build::udp(listener(), up.from(), b"back").unwrap());
                assert_eq!((down.from(), down.to()), (to, inside()));
            }
        }
        assert_eq!(seen[0] != seen[1], symmetric, "a mapping of its own for each destination: {seen:?}");
    }
}
