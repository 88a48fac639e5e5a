//! `TCP_INFO`.

use std::os::fd::AsFd;
use std::time::Duration;

use super::sockopt;
use crate::tcp::TcpInfo;

/// Words of `struct tcp_info` read: up to and including `tcpi_snd_wnd`. Older kernels fill fewer.
const WORDS: usize = 58;

pub(crate) fn info(socket: &impl AsFd) -> Option<TcpInfo> {
    let (words, filled) = sockopt::get::<WORDS>(socket, libc::IPPROTO_TCP, libc::TCP_INFO).ok()?;
    Some(decode(&words[..filled.min(WORDS)]))
}

/// Reads the structure by the word at which each field stands in `linux/tcp.h`; what lies behind the end is absent.
fn decode(words: &[u32]) -> TcpInfo {
    let word = |at: usize| words.get(at).copied();
    let long = |at: usize| {
        let pair = words.get(at..at + 2)?;
        let (mut bytes, ends) = ([0; 8], [pair[0].to_ne_bytes(), pair[1].to_ne_bytes()]);
        bytes[..4].copy_from_slice(&ends[0]);
        bytes[4..].copy_from_slice(&ends[1]);
        Some(u64::from_ne_bytes(bytes))
    };
    let micros = |value: Option<u32>| value.map(|value| Duration::from_micros(u64::from(value)));
    TcpInfo {
        rtt: micros(word(17)),
        rtt_variation: micros(word(18)),
        // All ones until there is a sample.
        rtt_min: micros(word(37).filter(|&value| value != u32::MAX)),
        mss_send: word(4),
        mss_receive: word(5),
        mss_advertised: word(21),
        path_mtu: word(15),
        congestion_window: word(20),
        reordering: word(22),
        reordering_seen: word(55),
        retransmissions: word(25),
        lost_now: word(8),
        duplicates_reported: word(54),
        out_of_order: word(56),
        segments_out: word(34),
        segments_in: word(35),
        bytes_acked: long(30),
        bytes_received: long(32),
        bytes_sent: long(50),
        bytes_retransmitted: long(52),
        bytes_not_sent: word(36),
        delivery_rate: long(40),
        busy: long(42).map(Duration::from_micros),
        limited_by_receiver: long(44).map(Duration::from_micros),
        limited_by_send_buffer: long(46).map(Duration::from_micros),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_kernels_header_has_them() {
        let at = |bytes: usize| bytes / 4;
        assert_eq!(at(std::mem::offset_of!(libc::tcp_info, tcpi_rtt)), 17);
        assert_eq!(at(std::mem::offset_of!(libc::tcp_info, tcpi_advmss)), 21);
        assert_eq!(at(std::mem::offset_of!(libc::tcp_info, tcpi_total_retrans)), 25);
        assert_eq!(at(std::mem::offset_of!(libc::tcp_info, tcpi_snd_mss)), 4);
        assert_eq!(at(std::mem::offset_of!(libc::tcp_info, tcpi_reordering)), 22);
    }

    #[test]
    fn an_older_kernel_leaves_newer_fields_absent() {
        let words: Vec<u32> = (0..26).collect();
        let info = decode(&words);
        assert_eq!((info.mss_send, info.retransmissions), (Some(4), Some(25)));
        assert_eq!((info.bytes_acked, info.delivery_rate, info.rtt_min), (None, None, None));
        assert_eq!(decode(&[]), TcpInfo::default());
    }
}
