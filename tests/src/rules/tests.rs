//! Each rule against its own statement, in virtual time.

use std::net::SocketAddr;
use std::time::Duration;

use probe_protocol::time::{Timestamp, WallTime};

use super::truth::Deed;
use super::*;
use crate::packet::{Packet, build, flag, fragment};

/// A network of one place.
struct Net {
    pipeline: Pipeline,
    sink: Sink,
    now: Timestamp,
    wall: WallTime,
    /// What came out, and when.
    out: Vec<(Timestamp, Direction, Packet)>,
}

fn parse(text: &str) -> Vec<Rule> {
    #[derive(serde::Deserialize)]
    struct File {
        rule: Vec<Rule>,
    }
    toml::from_str::<File>(text).unwrap().rule
}

impl Net {
    fn new(text: &str) -> Self {
        Self::seeded(text, 1)
    }

    fn seeded(text: &str, seed: u64) -> Self {
        let start = Timestamp(1_000_000_000_000);
        let router = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let pipeline = Pipeline::new(&parse(text), Place::Path, seed, start, router).unwrap();
        Self { pipeline, sink: Sink::new(start), now: start, wall: WallTime(0), out: Vec::new() }
    }

    fn collect(&mut self) {
        for output in self.sink.out.drain(..) {
            if let Output::Forward(direction, packet) = output {
                self.out.push((self.now, direction, packet));
            }
        }
    }

    /// Lets time go by, stopping at each deadline on the way.
    fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let next = self.pipeline.next();
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            self.pipeline.poll(Moment { now: self.now, wall: self.wall }, &mut self.sink);
            self.collect();
        }
        self.now = end;
    }

    /// Offers a packet, and says whether it came out at once.
    fn offer(&mut self, direction: Direction, packet: Packet) -> bool {
        let before = self.out.len();
        self.pipeline.offer(Moment { now: self.now, wall: self.wall }, direction, packet, &mut self.sink);
        self.collect();
        self.out.len() > before
    }

    fn up(&mut self, port: u16, size: usize) -> bool {
        self.offer(Direction::Up, udp(port, &vec![0; size - 28]))
    }

    fn down(&mut self, port: u16, size: usize) -> bool {
        let packet = build::udp(server(), client(port), &vec![0; size - 28]).unwrap();
        self.offer(Direction::Down, packet)
    }

    fn dropped(&self) -> usize {
        self.sink.truth.lines().filter(|line| line.deed == Deed::Dropped).count()
    }
}

fn client(port: u16) -> SocketAddr {
    SocketAddr::new("198.51.100.4".parse().unwrap(), port)
}

fn server() -> SocketAddr {
    "203.0.113.7:8886".parse().unwrap()
}

fn udp(port: u16, payload: &[u8]) -> Packet {
    build::udp(client(port), server(), payload).unwrap()
}

fn tcp(port: u16, sequence: u32, flags: u8, payload: &[u8]) -> Packet {
    let header = build::Tcp { sequence, acknowledgement: 1, flags, window: 1000 };
    build::tcp(client(port), server(), &header, payload).unwrap()
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_policer_passes_its_rate_and_its_burst() {
    let mut net = Net::new("[[rule]]\nname='p'\ndo={act='police',rate='10M',burst='50k'}");
    // 20 Mbit/s for ten seconds.
    let mut passed = 0;
    for _ in 0..20_000 {
        passed += 1250 * usize::from(net.up(1, 1250));
        net.wait(MS / 2);
    }
    let allowed = 12_500_000 + 50_000;
    assert!((allowed - 2500..=allowed + 1250).contains(&passed), "{passed}");
    assert!(net.out.iter().all(|(_, _, packet)| packet.checksums_right()));
}

#[test]
fn a_packet_policer_is_keyed_to_packets_and_holds() {
    for size in [100, 1300] {
        let mut net = Net::new(
            "[[rule]]\nname='p'\ndo={act='police',packets_per_second=1000,packets_burst=10,hold='500ms'}",
        );
        let passed = (0..12).filter(|_| net.up(1, size)).count();
        assert_eq!(passed, 10, "whatever the size");
        net.wait(499 * MS);
        assert!(!net.up(1, size), "held");
        net.wait(2 * MS);
        assert!(net.up(1, size), "set free");
    }
}

#[test]
fn a_shaper_delays_before_it_drops() {
    let mut net = Net::new("[[rule]]\nname='q'\ndo={act='queue',rate='8M',limit='10k'}");
    // A millisecond each: the first at once, ten wait, the rest finds no room.
    for _ in 0..20 {
        net.up(1, 1000);
    }
    assert_eq!(net.dropped(), 9);
    let start = net.now;
    net.wait(SECOND);
    let times: Vec<u128> = net.out.iter().map(|(at, _, _)| at.since(start).as_millis()).collect();
    assert_eq!(times, (0..=10).collect::<Vec<u128>>());
}

#[test]
fn strict_priority_serves_the_low_class_last_and_sheds_it_first() {
    let mut net = Net::new(
        "[[rule]]\nname='q'\ndo={act='queue',rate='8M',limit='10k',order='priority',low={protocol=['udp']}}",
    );
    for _ in 0..6 {
        net.up(1, 1000);
    }
    for sequence in 0..6 {
        net.offer(Direction::Up, tcp(2, sequence, flag::ACK, &[0; 960]));
    }
    net.wait(SECOND);
    let order: Vec<Protocol> = net.out.iter().map(|(_, _, packet)| packet.protocol()).collect();
    let mut wanted = vec![Protocol::Udp];
    wanted.extend([Protocol::Tcp; 6]);
    wanted.extend([Protocol::Udp; 4]);
    assert_eq!(order, wanted, "one was on the wire already, and one was shed");
    assert_eq!(net.dropped(), 1);
}

use crate::packet::Protocol;

#[test]
fn fair_queueing_gives_each_flow_its_share() {
    let mut net = Net::new("[[rule]]\nname='q'\ndo={act='queue',rate='8M',limit='40k',order='fair'}");
    // Flow 1 sends four times what flow 2 sends, and both more than half the link.
    for _ in 0..2000 {
        for _ in 0..4 {
            net.up(1, 1000);
        }
        net.up(2, 1000);
        net.wait(MS);
    }
    let of = |port| net.out.iter().filter(|(_, _, packet)| packet.source_port() == port).count() as f64;
    let ratio = of(1) / of(2);
    assert!((0.95..1.1).contains(&ratio), "{ratio}");
}

#[test]
fn delay_keeps_order_and_jitter_stays_within_its_bound() {
    let mut net = Net::new("[[rule]]\nname='d'\ndo={act='delay',by='20ms',jitter='10ms'}");
    for port in 0..100 {
        net.up(1000 + port, 100);
        net.wait(MS);
    }
    net.wait(SECOND);
    let ports: Vec<u16> = net.out.iter().map(|(_, _, packet)| packet.source_port()).collect();
    assert_eq!(ports, (1000..1100).collect::<Vec<_>>());
    for (index, (at, _, _)) in net.out.iter().enumerate() {
        let delay = at.since(Timestamp(1_000_000_000_000) + MS * index as u32);
        assert!((20 * MS..=30 * MS).contains(&delay), "{delay:?}");
    }
}

#[test]
fn packets_that_are_held_back_are_overtaken() {
    let mut net = Net::new("[[rule]]\nname='r'\ndo={act='reorder',share=0.5,by='5ms'}");
    for port in 0..100 {
        net.up(1000 + port, 100);
        net.wait(MS);
    }
    net.wait(SECOND);
    assert_eq!(net.out.len(), 100);
    let ports: Vec<u16> = net.out.iter().map(|(_, _, packet)| packet.source_port()).collect();
    assert!(!ports.is_sorted());
}

#[test]
fn duplicates_are_the_same_packet_again() {
    let mut net = Net::new("[[rule]]\nname='d'\ndo={act='duplicate',share=1.0,after='2ms'}");
    net.up(1, 100);
    assert_eq!(net.out.len(), 1);
    net.wait(2 * MS);
    assert_eq!(net.out.len(), 2);
    assert_eq!(net.out[0].2.bytes(), net.out[1].2.bytes());
}

#[test]
fn rewritten_bytes_are_those_and_the_checksum_is_right_unless_kept() {
    for (keep, right) in [("false", true), ("true", false)] {
        let mut net = Net::new(&format!(
            "[[rule]]\nname='r'\ndo={{act='rewrite',at=3,hex='dead',keep_checksum={keep}}}"
        ));
        net.up(1, 40);
        let packet = &net.out[0].2;
        assert_eq!(packet.payload(), [0, 0, 0, 0xde, 0xad, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(packet.checksums_right(), right);
    }
}

#[test]
fn marks_are_set_and_cleared() {
    let mut net = Net::new(
        "[[rule]]\nname='d'\nmatch={dscp=[46]}\ndo={act='mark',dscp=8}\n[[rule]]\nname='e'\nmatch={ecn=[3]}\ndo={act='mark',ecn=0}",
    );
    for (before, after) in [(46 << 2 | 1, 8 << 2 | 1), (10 << 2 | 3, 10 << 2), (2, 2)] {
        let mut packet = udp(1, b"x");
        packet.set_tos(before);
        net.offer(Direction::Up, packet);
        let packet = &net.out.last().unwrap().2;
        assert_eq!(packet.tos(), after);
        assert!(packet.checksums_right());
    }
    assert_eq!(net.sink.truth.lines().count(), 2, "what was not changed is not written down");
}

#[test]
fn counts_and_ages_turn_at_their_very_value() {
    let mut net = Net::new("[[rule]]\nname='k'\nmatch={packets_over=5,count='up'}\ndo={act='drop'}");
    let passed: Vec<bool> = (0..7).map(|_| net.up(1, 100)).collect();
    assert_eq!(passed, [true, true, true, true, true, false, false]);
    assert!(!net.down(1, 100), "both ways");
    assert!(net.up(2, 100), "another flow");

    let mut net = Net::new("[[rule]]\nname='k'\nmatch={bytes_over=500}\ndo={act='drop'}");
    let passed: Vec<bool> = (0..6).map(|_| net.up(1, 100)).collect();
    assert_eq!(passed, [true, true, true, true, true, false]);

    let mut net = Net::new("[[rule]]\nname='k'\nmatch={age_over='8h'}\ndo={act='drop'}");
    assert!(net.up(1, 100));
    net.wait(Duration::from_secs(8 * 3600));
    assert!(net.up(1, 100), "not older yet");
    net.wait(Duration::from_nanos(1));
    assert!(!net.up(1, 100));
    assert!(net.up(2, 100));
}

#[test]
fn the_first_packets_are_lost_and_no_others() {
    let mut net =
        Net::new("[[rule]]\nname='f'\nmatch={packets_upto=3,count='up',direction='up'}\ndo={act='drop'}");
    for port in [1, 2] {
        let passed: Vec<bool> = (0..5).map(|_| net.up(port, 100)).collect();
        assert_eq!(passed, [false, false, false, true, true]);
    }
}

#[test]
fn idleness_kills_for_good_and_only_what_its_side_lets_idle() {
    let mut net = Net::new("[[rule]]\nname='i'\nmatch={idle_over='20s',sticky=true}\ndo={act='drop'}");
    assert!(net.up(1, 100));
    net.wait(20 * SECOND);
    assert!(net.up(1, 100));
    net.wait(20 * SECOND + MS);
    assert!(!net.down(1, 100));
    assert!(!net.up(1, 100), "forgotten is forgotten");
    assert!(net.up(2, 100));

    let mut net =
        Net::new("[[rule]]\nname='i'\nmatch={idle_over='20s',idle_side='up',sticky=true}\ndo={act='drop'}");
    net.up(1, 100);
    for _ in 0..2 {
        net.wait(10 * SECOND);
        assert!(net.down(1, 100));
    }
    net.wait(MS);
    assert!(!net.down(1, 100), "what comes down does not refresh");
}

#[test]
fn loss_up_only_is_up_only_and_repeats_from_the_seed() {
    let text = "[[rule]]\nname='l'\nmatch={direction='up',probability=0.03}\ndo={act='drop'}";
    let run = |seed| {
        let mut net = Net::seeded(text, seed);
        let passed: Vec<bool> = (0..10_000).map(|_| net.up(1, 100)).collect();
        assert!((0..1000).all(|_| net.down(1, 100)));
        passed
    };
    let first = run(1);
    let lost = first.iter().filter(|passed| !**passed).count();
    assert!((240..=360).contains(&lost), "{lost}");
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
}

#[test]
fn bursts_have_the_length_that_the_model_says() {
    let mut net = Net::new("[[rule]]\nname='g'\ndo={act='loss',good_to_bad=0.01,bad_to_good=0.2}");
    let passed: Vec<bool> = (0..100_000).map(|_| net.up(1, 100)).collect();
    let lost = passed.iter().filter(|passed| !**passed).count() as f64;
    let bursts = passed.windows(2).filter(|pair| pair[0] && !pair[1]).count() as f64;
    assert!((4.5..5.5).contains(&(lost / bursts)), "mean burst 1/0.2: {}", lost / bursts);
    assert!((0.043..0.053).contains(&(lost / 100_000.0)), "share 0.01/0.21: {lost}");
}

#[test]
fn a_share_of_ports_is_bad_from_the_first_packet_on() {
    let mut net = Net::new("[[rule]]\nname='b'\nmatch={flow_share=0.25}\ndo={act='drop'}");
    let mut bad = 0;
    for port in 1..=400 {
        let first = net.up(port, 100);
        assert!((0..5).all(|_| net.up(port, 100) == first), "constant per port");
        bad += usize::from(!first);
    }
    assert!((70..=130).contains(&bad), "{bad}");
}

#[test]
fn concurrent_flows_past_a_number_die_and_places_come_free() {
    let mut net =
        Net::new("[[rule]]\nname='c'\nmatch={concurrent_over=10,concurrent_idle='30s'}\ndo={act='drop'}");
    let passed: Vec<bool> = (1..=12).map(|port| net.up(port, 100)).collect();
    assert_eq!(passed.iter().filter(|passed| **passed).count(), 10);
    assert!(!passed[10] && !passed[11]);
    net.wait(31 * SECOND);
    assert!(net.up(20, 100));
}

#[test]
fn a_penalty_hits_fresh_flows_for_its_time() {
    let mut net = Net::new(
        "[[rule]]\nname='t'\nmatch={content={text='BAD'}}\ndo={act='switch',name='box',hold='10s'}\n\
         [[rule]]\nname='p'\nmatch={switch='box'}\ndo={act='drop'}",
    );
    assert!(net.up(1, 100));
    assert!(!net.offer(Direction::Up, udp(2, b"so BAD")));
    net.wait(10 * SECOND - MS);
    assert!(!net.up(3, 100));
    net.wait(MS);
    assert!(net.up(3, 100));
}

#[test]
fn windows_of_time_recur() {
    let mut net =
        Net::new("[[rule]]\nname='w'\nmatch={every={period='10s',length='1s',first='5s'}}\ndo={act='drop'}");
    let lost: Vec<u32> = (0..30)
        .filter(|second| {
            let passed = net.up(1, 100);
            net.wait(SECOND);
            let _ = second;
            !passed
        })
        .collect();
    assert_eq!(lost, [5, 15, 25]);
}

#[test]
fn old_flows_die_at_a_moment_and_new_ones_live() {
    let mut net = Net::new("[[rule]]\nname='push'\nmatch={after='30s',began_before='30s'}\ndo={act='drop'}");
    assert!(net.up(1, 100));
    net.wait(30 * SECOND);
    assert!(!net.up(1, 100));
    assert!(net.up(2, 100));
}

#[test]
fn the_time_of_day_counts_across_midnight() {
    let mut net = Net::new("[[rule]]\nname='night'\nmatch={time_of_day=['22h','6h']}\ndo={act='drop'}");
    for (hour, passes) in [(21, true), (22, false), (5, false), (6, true)] {
        net.wall = WallTime((86_400 * 20_000 + hour * 3600) * 1_000_000_000);
        assert_eq!(net.up(1, 100), passes, "{hour} h");
    }
}

#[test]
fn a_gate_holds_everything_and_lets_it_go_in_order() {
    let mut net = Net::new("[[rule]]\nname='scan'\ndo={act='gate',shut={period='10s',length='100ms'}}");
    assert!(!net.up(1, 100));
    net.wait(50 * MS);
    assert!(!net.up(2, 100));
    net.wait(50 * MS);
    assert_eq!(net.out.len(), 2);
    assert!(net.up(3, 100));
    assert!(net.out.iter().map(|(_, _, packet)| packet.source_port()).eq([1, 2, 3]));
}

#[test]
fn a_reset_goes_either_way_with_its_ttl() {
    let mut net = Net::new(
        "[[rule]]\nname='rst'\nmatch={protocol=['tcp'],bytes_over=200,sticky=true}\ndo={act='reset',server=true,ttl=37}",
    );
    assert!(net.offer(Direction::Up, tcp(1, 100, flag::ACK, &[1; 100])));
    net.out.clear();
    net.offer(Direction::Up, tcp(1, 200, flag::ACK, &[1; 100]));
    let resets: Vec<_> = net
        .out
        .iter()
        .map(|(_, d, p)| (*d, p.tcp_flags() & flag::RST != 0, p.ttl(), p.checksums_right()))
        .collect();
    assert_eq!(resets, [(Direction::Down, true, 37, true), (Direction::Up, true, 37, true)]);
    assert_eq!(net.sink.truth.count("rst", Deed::Forged, Direction::Down), 1);
    assert_eq!(net.sink.truth.count("rst", Deed::Dropped, Direction::Up), 1);
}

#[test]
fn an_icmp_answer_quotes_what_it_is_about() {
    let mut net =
        Net::new("[[rule]]\nname='icmp'\nmatch={size_over=1300}\ndo={act='icmp',code='too-big',mtu=1300}");
    assert!(net.up(1, 1300));
    net.out.clear();
    net.up(1, 1301);
    let (_, direction, packet) = &net.out[0];
    assert_eq!((*direction, packet.icmp()), (Direction::Down, Some((3, 4))));
    assert_eq!(packet.to(), client(0), "from the router to the sender");
    assert_eq!(build::quoted(packet).unwrap().from(), client(1));
    assert_eq!(packet.bytes()[26..28], 1300u16.to_be_bytes());
}

#[test]
fn a_client_hello_is_recognised_by_its_name_even_in_two_segments() {
    let hello = |name: &str| {
        let config =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut tls = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut stream = Vec::new();
        tls.write_tls(&mut stream).unwrap();
        stream
    };
    let mut net =
        Net::new("[[rule]]\nname='tls'\nmatch={tls={names=['example.org']},sticky=true}\ndo={act='drop'}");
    for (port, name, passes) in
        [(1, "www.example.org", false), (2, "example.com", true), (3, "notexample.org", true)]
    {
        let stream = hello(name);
        let (front, back) = stream.split_at(60);
        assert!(net.offer(Direction::Up, tcp(port, 1, flag::ACK, front)));
        assert_eq!(net.offer(Direction::Up, tcp(port, 61, flag::ACK, back)), passes, "{name}");
        assert_eq!(
            net.offer(
                Direction::Down,
                build::tcp(server(), client(port), &build::Tcp::default(), b"x").unwrap()
            ),
            passes
        );
    }
    assert!(net.offer(Direction::Up, tcp(4, 1, flag::ACK, b"not TLS at all, whatever follows")));
}

#[test]
fn rebinding_moves_up_and_brings_back_down() {
    let mut net = Net::new("[[rule]]\nname='nat'\nmatch={after='10s'}\ndo={act='rebind'}");
    net.up(5000, 100);
    assert_eq!(net.out[0].2.source_port(), 5000);
    net.wait(10 * SECOND);
    net.up(5000, 100);
    let moved = net.out[1].2.from();
    assert_ne!(moved.port(), 5000);
    assert!(net.out[1].2.checksums_right());
    assert!(!net.down(5000, 100), "the old mapping is gone");
    assert!(net.offer(Direction::Down, build::udp(server(), moved, b"back").unwrap()));
    assert_eq!(net.out[2].2.to(), client(5000));
}

#[test]
fn fragments_of_a_rebound_flow_go_where_their_first_one_goes() {
    let mut net = Net::new("[[rule]]\nname='nat'\ndo={act='rebind',address='198.51.100.77'}");
    let pieces = |mut packet: Packet, id| {
        packet.allow_fragments(id);
        let pieces = fragment::cut(&packet, 1500).unwrap();
        assert_eq!(pieces.len(), 3);
        pieces
    };
    for piece in pieces(udp(5000, &[7; 4000]), 1) {
        assert!(net.offer(Direction::Up, piece));
    }
    let moved = net.out[0].2.from();
    assert!(net.out.iter().all(|(_, _, packet)| packet.source() == moved.ip()));
    for piece in pieces(build::udp(server(), moved, &[8; 4000]).unwrap(), 2) {
        assert!(net.offer(Direction::Down, piece));
    }
    let mut reassembly = fragment::Reassembly::default();
    let whole = net.out.drain(..).filter_map(|(_, _, piece)| reassembly.take(piece)).collect::<Vec<_>>();
    assert_eq!(whole.len(), 2);
    assert!(whole.iter().all(Packet::checksums_right));
    assert_eq!((whole[0].from(), whole[1].to()), (moved, client(5000)));
}

#[test]
fn both_ways_of_a_rebound_flow_stay_one_flow() {
    let text = "[[rule]]\nname='nat'\nmatch={after='10s'}\ndo={act='rebind'}\n\
                [[rule]]\nname='count'\nmatch={packets_over=4}\ndo={act='drop'}";
    let mut net = Net::new(text);
    net.up(5000, 100);
    net.wait(10 * SECOND);
    net.up(5000, 100);
    let moved = net.out[1].2.from();
    for _ in 0..2 {
        assert!(net.offer(Direction::Down, build::udp(server(), moved, b"back").unwrap()));
    }
    assert!(!net.up(5000, 100), "the fifth packet of the flow, whichever way");
    let flows = net.sink.truth.summaries();
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!((flows[0].up.packets, flows[0].down.packets, flows[0].flow.client), (3, 2, client(5000)));
    assert!(net.sink.truth.lines().all(|line| line.flow == flows[0].flow));
}

#[test]
fn rules_are_met_as_boxes_in_a_row() {
    let mut net = Net::new(
        "[[rule]]\nname='near'\ndo={act='mark',dscp=1}\n[[rule]]\nname='far'\ndo={act='mark',dscp=2}",
    );
    net.up(1, 100);
    net.down(1, 100);
    let marks: Vec<u8> = net.out.iter().map(|(_, _, packet)| packet.tos() >> 2).collect();
    assert_eq!(marks, [2, 1], "the last one met has the last word");
}

#[test]
fn what_makes_no_sense_is_refused_with_the_rules_name() {
    for text in [
        "match={probability=1.5}\ndo={act='drop'}",
        "match={tcp_flags='X'}\ndo={act='drop'}",
        "do={act='rewrite',at=0}",
        "do={act='rewrite',at=0,hex='abc'}",
        "do={act='police'}",
        "do={act='police',packets_per_second=0}",
        "do={act='mark',dscp=64}",
        "do={act='queue',rate='1M',limit='1k',order='priority'}",
        "do={act='rebind',port_step=0}",
        "match={every={period='0s',length='1s'}}\ndo={act='drop'}",
    ] {
        let rules = parse(&format!("[[rule]]\nname='odd'\n{text}"));
        let router = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let result = Pipeline::new(&rules, Place::Path, 0, Timestamp::ZERO, router);
        let error = result.err().unwrap_or_else(|| panic!("{text} was taken"));
        assert!(error.to_string().contains("odd"), "{error}");
    }
}
