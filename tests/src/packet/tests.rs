use proptest::prelude::*;

use super::*;

fn endpoints(v6: bool) -> (SocketAddr, SocketAddr) {
    if v6 {
        ("[2001:db8::1]:4000".parse().unwrap(), "[2001:db8::2]:8886".parse().unwrap())
    } else {
        ("10.0.0.1:4000".parse().unwrap(), "10.0.0.2:8886".parse().unwrap())
    }
}

proptest! {
    #[test]
    fn parsing_never_panics_and_what_parses_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(packet) = Packet::parse(bytes) {
            let _ = (packet.from(), packet.to(), packet.tos(), packet.ttl(), packet.payload(), packet.icmp());
            let _ = (packet.tcp_flags(), packet.tcp_numbers(), packet.fragment_id(), packet.checksums_right());
            let _ = (build::quoted(&packet), build::reset_backward(&packet, 9), fragment::cut(&packet, 68));
        }
    }

    #[test]
    fn every_alteration_keeps_the_checksums_right(
        v6: bool, is_tcp: bool, port: u16, tos: u8, ttl: u8, a: u32, payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let (from, to) = endpoints(v6);
        let mut packet = if is_tcp {
            build::tcp(from, to, &build::Tcp { sequence: 7, ..Default::default() }, &payload).unwrap()
        } else {
            build::udp(from, to, &payload).unwrap()
        };
        prop_assert!(packet.checksums_right());
        packet.set_source_port(port);
        packet.set_destination_port(!port);
        packet.set_tos(tos);
        packet.set_ttl(ttl);
        if v6 {
            packet.set_source(IpAddr::V6(Ipv6Addr::from(u128::from(a) << 40)));
        } else {
            packet.set_destination(IpAddr::V4(Ipv4Addr::from(a)));
        }
        prop_assert!(packet.checksums_right());
        prop_assert_eq!(packet.source_port(), port);
        prop_assert_eq!(packet.tos(), tos);
        prop_assert_eq!(packet.ttl(), ttl);
        prop_assert_eq!(packet.payload(), &payload[..]);
    }

    #[test]
    fn the_sum_is_that_of_a_naive_recomputation(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut naive: u32 = 0;
        for pair in bytes.chunks(2) {
            naive += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            naive = (naive & 0xffff) + (naive >> 16);
        }
        prop_assert_eq!(u32::from(checksum::sum(&bytes)), naive);
    }

    #[test]
    fn fragments_put_together_are_the_packet(length in 100usize..3000, mtu in 68usize..1500) {
        let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let (from, to) = endpoints(false);
        let mut packet = build::udp(from, to, &payload).unwrap();
        packet.bytes[6] = 0; // may be cut
        if let Some(pieces) = fragment::cut(&packet, mtu) {
            let mut body = Vec::new();
            for piece in &pieces {
                prop_assert!(piece.size() <= mtu && piece.checksums_right());
                prop_assert_eq!(usize::from(u16_at(&piece.bytes, 6) & 0x1fff) * 8, body.len());
                body.extend_from_slice(&piece.bytes[20..]);
            }
            prop_assert_eq!(&body[..], &packet.bytes[20..]);
            prop_assert_eq!(pieces.last().unwrap().bytes[6] & 0x20, 0);
        } else {
            prop_assert!(packet.size() <= mtu);
        }
    }
}

#[test]
fn an_altered_quote_leaves_the_icmp_error_right() {
    let (from, to) = endpoints(false);
    let packet = build::udp(from, to, &[1; 900]).unwrap();
    let mut error =
        build::icmp_error(&packet, "10.0.0.9".parse().unwrap(), build::IcmpError::TooBig(1280)).unwrap();
    assert!(error.checksums_right());
    build::alter_quoted(&mut error, |quoted| {
        quoted.set_source("192.168.1.1".parse().unwrap());
        quoted.set_source_port(99);
    });
    assert!(error.checksums_right());
    let quoted = build::quoted(&error).unwrap();
    assert_eq!(quoted.from(), "192.168.1.1:99".parse().unwrap());
    assert_eq!(error.icmp(), Some((3, 4)));
    assert!(build::icmp_error(&error, "10.0.0.9".parse().unwrap(), build::IcmpError::TimeExceeded).is_none());
}

#[test]
fn resets_answer_as_the_ends_would() {
    let (from, to) = endpoints(true);
    let header = build::Tcp { sequence: 100, acknowledgement: 500, flags: flag::ACK, window: 9 };
    let packet = build::tcp(from, to, &header, &[0; 10]).unwrap();
    let back = build::reset_backward(&packet, 33).unwrap();
    assert_eq!((back.from(), back.to(), back.ttl()), (to, from, 33));
    assert_eq!(back.tcp_numbers(), Some((500, 110)));
    let on = build::reset_forward(&packet, 44).unwrap();
    assert_eq!((on.from(), on.tcp_numbers()), (from, Some((100, 500))));
    assert!(build::reset_backward(&back, 3).is_none(), "a reset is not answered with a reset");
}
