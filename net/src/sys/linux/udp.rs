//! UDP with `recvmmsg` and `sendmmsg`, control messages and the error queue.
#![allow(unsafe_code)]
#![allow(clippy::unnecessary_cast, reason = "C libraries differ in the integer types of these structures")]

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, c_uint, c_void, iovec, mmsghdr, msghdr, socklen_t};
use probe_protocol::time::WallTime;
use socket2::SockRef;

use super::addr::{self, Name, array};
use super::cmsg::{Reader, Writer};
use super::sockopt;
use crate::udp::{Fault, Features, Fragmentation, MAX_BATCH, NetError, Outgoing, Report, RxMeta, UdpOptions};

/// Received: timestamp 32, pktinfo 32 + 40 (a dual-stack socket gets both), TTL 24, TOS 24, drops 24, and 64 where a
/// kernel adds the other form of timestamp.
const RECV_CONTROL: usize = 256;
/// Sent: pktinfo 40, TOS 24, TTL 24, where to cut 24.
const SEND_CONTROL: usize = 112;
/// The error with its offender's address (16 + 16 + 28), beside all the rest.
const ERROR_CONTROL: usize = 512;

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control<const N: usize>([u8; N]);

pub(crate) fn before_bind(_: &socket2::Socket) -> io::Result<()> {
    Ok(())
}

pub(crate) fn configure(socket: &UdpSocket, v6: bool, options: &UdpOptions) -> Features {
    let on = |level: c_int, name: c_int| sockopt::set(socket, level, name, 1).is_ok();
    if let Some(bytes) = options.recv_buffer {
        set_buffer(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes);
    }
    if let Some(bytes) = options.send_buffer {
        set_buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes);
    }
    // A dual-stack socket takes the IPv4 options too, and needs them for what arrives over IPv4.
    let dual = v6 && !SockRef::from(socket).only_v6().unwrap_or(true);
    let both = |name4: c_int, name6: c_int| {
        let four = (v6 && !dual) || on(libc::IPPROTO_IP, name4);
        let six = !v6 || on(libc::IPPROTO_IPV6, name6);
        four && six
    };
    Features {
        timestamps: options.timestamps && on(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
        sent_timestamps: options.sent_timestamps && stamp_sent(socket, true),
        ttl: both(libc::IP_RECVTTL, libc::IPV6_RECVHOPLIMIT),
        tos: both(libc::IP_RECVTOS, libc::IPV6_RECVTCLASS),
        local: both(libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO),
        // Asking for no segmentation succeeds where the kernel knows the option at all (4.18).
        coalesce: options.coalesce
            && !options.sent_timestamps
            && sockopt::set(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok(),
        merge: options.merge && on(libc::SOL_UDP, libc::UDP_GRO),
        drops: on(libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
        errors: options.errors && both(libc::IP_RECVERR, libc::IPV6_RECVERR),
        fragmentation: set_fragmentation(socket, v6, options.fragmentation).is_ok(),
        // The kernel doubles what it is asked for, to cover its own bookkeeping, and reports the double (socket(7)).
        recv_buffer: SockRef::from(socket).recv_buffer_size().ok().map(|bytes| bytes / 2),
        send_buffer: SockRef::from(socket).send_buffer_size().ok().map(|bytes| bytes / 2),
    }
}

/// Software stamps alone, numbered, without a copy of the datagram. Turning it on restarts the numbers.
fn stamp_sent(socket: &UdpSocket, on: bool) -> bool {
    const FLAGS: c_uint = libc::SOF_TIMESTAMPING_TX_SOFTWARE
        | libc::SOF_TIMESTAMPING_SOFTWARE
        | libc::SOF_TIMESTAMPING_OPT_ID
        | libc::SOF_TIMESTAMPING_OPT_TSONLY;
    let flags = if on { FLAGS as c_int } else { 0 };
    sockopt::set(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags).is_ok()
}

pub(crate) fn restart_numbers(socket: &UdpSocket) {
    stamp_sent(socket, false);
    stamp_sent(socket, true);
}

fn set_buffer(socket: &UdpSocket, force: c_int, name: c_int, bytes: usize) {
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX / 2);
    // Beyond the system's limit with CAP_NET_ADMIN; else up to it. What was granted is read back by the caller.
    if sockopt::set(socket, libc::SOL_SOCKET, force, bytes).is_err() {
        let _ = sockopt::set(socket, libc::SOL_SOCKET, name, bytes);
    }
}

pub(crate) fn set_fragmentation(
    socket: &UdpSocket,
    v6: bool,
    fragmentation: Fragmentation,
) -> io::Result<()> {
    let (four, six) = match fragmentation {
        Fragmentation::Never => (libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE),
        Fragmentation::Allowed => (libc::IP_PMTUDISC_DONT, libc::IPV6_PMTUDISC_DONT),
    };
    if !v6 {
        return sockopt::set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, four);
    }
    // Matters for IPv4 over a dual-stack socket; harmless on the others.
    let _ = sockopt::set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, four);
    sockopt::set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, six)
}

/// Lets another socket of this process bind where this one is, or forbids it again.
pub(crate) fn share_address(socket: &UdpSocket, share: bool) -> io::Result<()> {
    sockopt::set(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, c_int::from(share))
}

pub(crate) fn drops(socket: &UdpSocket) -> Option<u32> {
    const WORDS: usize = libc::SK_MEMINFO_DROPS as usize + 1;
    let (words, count) = sockopt::get::<WORDS>(socket, libc::SOL_SOCKET, libc::SO_MEMINFO).ok()?;
    (count == WORDS).then(|| words[WORDS - 1])
}

/// How many datagrams found no room at any socket of this network namespace, over both families, since it is there: for
/// want of buffer, or of memory (RFC 4113 counts them among `udpInErrors`; the names are Linux's own).
pub(crate) fn without_room() -> Option<u64> {
    let four = counter::four(&std::fs::read_to_string("/proc/thread-self/net/snmp").ok()?)?;
    // Not there where IPv6 is switched off.
    let six = std::fs::read_to_string("/proc/thread-self/net/snmp6").map_or(0, |text| counter::six(&text));
    Some(four.saturating_add(six))
}

/// The kernel's counters as text.
mod counter {
    const WITHOUT_ROOM: [&str; 2] = ["RcvbufErrors", "MemErrors"];

    /// A line of names, and one of values in their order.
    pub(super) fn four(text: &str) -> Option<u64> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, values) = (lines.next()?, lines.next()?);
        let wanted = names.split(' ').zip(values.split(' ')).filter(|(name, _)| WITHOUT_ROOM.contains(name));
        let found: Vec<u64> = wanted.filter_map(|(_, value)| value.parse().ok()).collect();
        (!found.is_empty()).then(|| found.into_iter().fold(0, u64::saturating_add))
    }

    /// A name and a value on each line.
    pub(super) fn six(text: &str) -> u64 {
        let value = |line: &str| {
            let (name, value) = line.strip_prefix("Udp6")?.split_once(char::is_whitespace)?;
            WITHOUT_ROOM.contains(&name).then(|| value.trim().parse::<u64>().ok())?
        };
        text.lines().filter_map(value).fold(0, u64::saturating_add)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn both_families_count_what_found_no_room() {
            let text = "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams RcvbufErrors SndbufErrors InCsumErrors MemErrors\n\
                        Udp: 1168110 2586 5 9 3\nUdpLite: RcvbufErrors\nUdpLite: 7\n";
            assert_eq!(four(text), Some(2589));
            assert_eq!(four("Udp: InDatagrams\nUdp: 4\n"), None);
            assert_eq!(four(""), None);
            assert_eq!(six("Udp6InErrors   \t4\nUdp6RcvbufErrors   \t41\nUdp6MemErrors \t1\n"), 42);
            assert!(super::super::without_room().is_some());
        }
    }
}

/// Reads what has arrived into `data`, cut into pieces of `capacity`, and fills `metas`; answers how many.
pub(crate) fn recv(
    socket: &UdpSocket,
    data: &mut [u8],
    capacity: usize,
    metas: &mut [RxMeta],
    drops: bool,
) -> io::Result<usize> {
    let want = metas.len().min(MAX_BATCH).min(data.len().checked_div(capacity).unwrap_or(0));
    let mut names = [const { MaybeUninit::<Name>::uninit() }; MAX_BATCH];
    let mut controls = [const { MaybeUninit::<Control<RECV_CONTROL>>::uninit() }; MAX_BATCH];
    let mut pieces = [const { MaybeUninit::<iovec>::uninit() }; MAX_BATCH];
    let mut headers = [const { MaybeUninit::<mmsghdr>::uninit() }; MAX_BATCH];
    for (i, bytes) in data.chunks_exact_mut(capacity.max(1)).take(want).enumerate() {
        let piece = pieces[i].write(iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
        headers[i].write(header(
            names[i].as_mut_ptr().cast(),
            size_of::<Name>(),
            piece,
            1,
            controls[i].as_mut_ptr().cast(),
            RECV_CONTROL,
        ));
    }
    // MSG_TRUNC: the true length is reported where it exceeds the buffer.
    const FLAGS: c_int = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: the first `want` headers are initialised. Each points to a name, a control buffer and a piece of its
    // own, and the piece to a disjoint slice of `data`; all of them live, writable and otherwise unused until the
    // call returns. No time-out is passed.
    let got = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr().cast(),
            want as c_uint,
            FLAGS as _,
            ptr::null_mut(),
        )
    };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?.min(want);
    for i in 0..got {
        // SAFETY: header `i` was initialised above, and the kernel filled it in.
        let header = unsafe { headers[i].assume_init_ref() };
        let name_len = (header.msg_hdr.msg_namelen as usize).min(size_of::<Name>());
        let control_len = (header.msg_hdr.msg_controllen as usize).min(RECV_CONTROL);
        // SAFETY: the kernel wrote `msg_namelen` bytes of the name and `msg_controllen` bytes of control messages;
        // both are cut to the size of the buffers they are in.
        let (name, control) = unsafe {
            (
                std::slice::from_raw_parts(names[i].as_ptr().cast::<u8>(), name_len),
                std::slice::from_raw_parts(controls[i].as_ptr().cast::<u8>(), control_len),
            )
        };
        let meta = &mut metas[i];
        *meta = RxMeta::EMPTY;
        if let Some(from) = addr::decode(name) {
            meta.from = from;
        }
        meta.len = header.msg_len as usize;
        meta.truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        // The kernel attaches the count only once it is above zero.
        meta.drops = drops.then_some(0);
        for (level, kind, value) in Reader::new(control) {
            note(meta, level, kind, value);
        }
    }
    Ok(got)
}

/// Takes one control message of a received datagram over into what is known of it.
fn note(meta: &mut RxMeta, level: c_int, kind: c_int, value: &[u8]) {
    match (level, kind) {
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => meta.kernel = timestamp(value),
        // Comes as an int.
        (libc::SOL_UDP, libc::UDP_GRO) => {
            meta.segment = array(value, 0).and_then(|v| u16::try_from(i32::from_ne_bytes(v)).ok());
        }
        (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => meta.drops = array(value, 0).map(u32::from_ne_bytes),
        // IP_TOS comes as one byte, the others as an int.
        (libc::IPPROTO_IP, libc::IP_TOS) => meta.tos = value.first().copied(),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => meta.tos = int(value),
        (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => meta.ttl = int(value),
        // in_pktinfo: interface, the local address, the header's destination address.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            meta.interface = array(value, 0).map(u32::from_ne_bytes);
            meta.local = array::<4>(value, 4).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
        }
        // in6_pktinfo: address, interface.
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            meta.local = array::<16>(value, 0).map(|octets| addr::plain(Ipv6Addr::from(octets)));
            meta.interface = array(value, 16).map(u32::from_ne_bytes);
        }
        _ => {}
    }
}

fn int(value: &[u8]) -> Option<u8> {
    u8::try_from(i32::from_ne_bytes(array(value, 0)?)).ok()
}

/// A `timespec` of the platform's own word size.
fn timestamp(value: &[u8]) -> Option<WallTime> {
    const WORD: usize = size_of::<libc::c_long>();
    let word = |at| match WORD {
        8 => array(value, at).map(i64::from_ne_bytes),
        _ => array(value, at).map(i32::from_ne_bytes).map(i64::from),
    };
    let (seconds, nanos) = (word(0)?, word(WORD)?);
    Some(WallTime(seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?))
}

/// Sends as many of `items` as the kernel takes with one call; answers how many. Where `coalesce` is on, runs of
/// like items go through the network stack as one (generic segmentation offload, udp(7)).
///
/// An error is that of the first item; those behind it were not tried.
pub(crate) fn send_many<'a>(
    socket: &UdpSocket,
    v6: bool,
    _: Option<SocketAddr>,
    coalesce: &AtomicBool,
    items: impl Iterator<Item = Outgoing<'a>> + Clone,
) -> io::Result<usize> {
    if coalesce.load(Ordering::Relaxed) {
        match send_runs(socket, v6, items.clone(), true) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {
                // EIO: no checksum offload on the way out, so that it never works there. Anything else, such as a
                // segment larger than the MTU, is this run's own matter.
                if error.raw_os_error() == Some(libc::EIO) {
                    coalesce.store(false, Ordering::Relaxed);
                }
            }
            result => return result,
        }
    }
    send_runs(socket, v6, items, false)
}

pub(crate) fn send_one(
    socket: &UdpSocket,
    v6: bool,
    _: Option<SocketAddr>,
    item: &Outgoing<'_>,
) -> io::Result<()> {
    match send_runs(socket, v6, std::iter::once(*item), false)? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

fn send_runs<'a>(
    socket: &UdpSocket,
    v6: bool,
    items: impl Iterator<Item = Outgoing<'a>>,
    coalesce: bool,
) -> io::Result<usize> {
    let mut names = [const { MaybeUninit::<Name>::uninit() }; MAX_BATCH];
    let mut controls = [const { MaybeUninit::<Control<SEND_CONTROL>>::uninit() }; MAX_BATCH];
    let mut pieces = [const { MaybeUninit::<iovec>::uninit() }; MAX_BATCH];
    let mut headers = [const { MaybeUninit::<mmsghdr>::uninit() }; MAX_BATCH];
    let mut ends = [0_u8; MAX_BATCH];
    let mut items = items.take(MAX_BATCH).peekable();
    let (mut messages, mut taken) = (0, 0);
    while let Some(first) = items.next() {
        let begin = taken;
        let mut run = Run::new(&first);
        pieces[taken].write(piece(first.bytes));
        taken += 1;
        while let Some(item) = items.next_if(|item| coalesce && run.takes(item)) {
            pieces[taken].write(piece(item.bytes));
            taken += 1;
        }
        let name = names[messages].write(Name::default());
        let name_len = addr::encode(&first.to, v6, name);
        let control = controls[messages].write(Control([0; SEND_CONTROL]));
        let control_len = describe(&first, run.segment(), &mut control.0);
        headers[messages].write(header(
            ptr::from_mut(name).cast(),
            name_len,
            pieces[begin..taken].as_mut_ptr().cast(),
            taken - begin,
            ptr::from_mut(control).cast(),
            control_len,
        ));
        ends[messages] = taken as u8;
        messages += 1;
    }
    // SAFETY: the first `messages` headers are initialised. Each points to a name, a control buffer and pieces of its
    // own, as many as it says, and the pieces to bytes borrowed for 'a, which outlives this call; the kernel only
    // reads them all.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr().cast(),
            messages as c_uint,
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    };
    match usize::try_from(sent) {
        Ok(0) => Ok(0),
        Ok(sent) => Ok(usize::from(ends[sent.min(messages) - 1])),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// The longest run, in bytes: together they must fit one IP packet before they are cut again.
const RUN_BYTES: usize = 65_000;

/// Like datagrams in a row: the same way, the same length, though the last may be shorter.
struct Run<'a> {
    first: Outgoing<'a>,
    count: usize,
    bytes: usize,
    ended: bool,
}

impl<'a> Run<'a> {
    fn new(first: &Outgoing<'a>) -> Self {
        Self { first: *first, count: 1, bytes: first.bytes.len(), ended: first.bytes.is_empty() }
    }

    fn takes(&mut self, item: &Outgoing<'_>) -> bool {
        let (len, segment) = (item.bytes.len(), self.first.bytes.len());
        let way = |item: &Outgoing<'_>| (item.to, item.local, item.interface, item.tos, item.ttl);
        let fits = !self.ended && len > 0 && len <= segment && self.bytes + len <= RUN_BYTES;
        if !fits || way(item) != way(&self.first) {
            return false;
        }
        self.count += 1;
        self.bytes += len;
        self.ended = len < segment;
        true
    }

    /// Where to cut, if there is more than one.
    fn segment(&self) -> Option<u16> {
        u16::try_from(self.first.bytes.len()).ok().filter(|_| self.count > 1)
    }
}

fn piece(bytes: &[u8]) -> iovec {
    iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// Writes the control messages that `item` needs; answers their length.
fn describe(item: &Outgoing<'_>, segment: Option<u16>, control: &mut [u8]) -> usize {
    let mut writer = Writer::new(control);
    // What goes to an IPv4 address takes the IPv4 messages, on a dual-stack socket too.
    let v4 = item.to.ip().to_canonical().is_ipv4();
    match item.local.map(|local| local.to_canonical()) {
        Some(IpAddr::V4(local)) if v4 => {
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&local.octets());
            writer.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(local)) if !v4 => {
            let mut info = [0; 20];
            info[..16].copy_from_slice(&local.octets());
            // Only a link-local address means nothing without its interface; others follow the routes.
            if local.is_unicast_link_local() {
                info[16..].copy_from_slice(&item.interface.unwrap_or(0).to_ne_bytes());
            }
            writer.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        Some(_) | None => {}
    }
    let mut int = |four: c_int, six: c_int, value: Option<u8>| {
        if let Some(value) = value {
            let (level, kind) = if v4 { (libc::IPPROTO_IP, four) } else { (libc::IPPROTO_IPV6, six) };
            writer.push(level, kind, &c_int::from(value).to_ne_bytes());
        }
    };
    int(libc::IP_TOS, libc::IPV6_TCLASS, item.tos);
    int(libc::IP_TTL, libc::IPV6_HOPLIMIT, item.ttl);
    if let Some(segment) = segment {
        writer.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    writer.len()
}

/// The next entry of the socket's error queue.
pub(crate) fn take_report(socket: &UdpSocket) -> Option<Report> {
    let mut name = Name::default();
    let mut control = Control([0_u8; ERROR_CONTROL]);
    let mut quoted = [0_u8; 64];
    let mut piece = iovec { iov_base: quoted.as_mut_ptr().cast(), iov_len: quoted.len() };
    let mut message = header(
        (&raw mut name).cast(),
        size_of::<Name>(),
        &mut piece,
        1,
        (&raw mut control).cast(),
        ERROR_CONTROL,
    )
    .msg_hdr;
    // SAFETY: `message` points to a name, a control buffer and one piece, all of the lengths given, all writable
    // and living until the call returns.
    let got =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    if got < 0 {
        return None;
    }
    let to = name.0.get(..message.msg_namelen as usize).and_then(addr::decode);
    let control = control.0.get(..message.msg_controllen as usize).unwrap_or(&[]);
    let mut report = None;
    let mut stamp = None;
    for (level, kind, value) in Reader::new(control) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                report = Some(value);
            }
            // Three timespecs, of which the first is the software one.
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING) => stamp = timestamp(value),
            _ => {}
        }
    }
    Some(match (report, stamp) {
        (Some(value), Some(kernel)) if value.get(4) == Some(&libc::SO_EE_ORIGIN_TIMESTAMPING) => {
            // ee_data is the last word.
            Report::Sent { number: array(value, 12).map_or(0, u32::from_ne_bytes), kernel }
        }
        (Some(value), _) => Report::Error(read_error(value, to)),
        (None, _) => Report::Error(NetError::bare(Fault::Invalid)),
    })
}

/// Reads a `sock_extended_err`, followed by the offender's address.
fn read_error(value: &[u8], to: Option<SocketAddr>) -> NetError {
    let errno = array(value, 0).map_or(0, u32::from_ne_bytes);
    let origin = value.get(4).copied().unwrap_or(libc::SO_EE_ORIGIN_NONE);
    let icmp = origin == libc::SO_EE_ORIGIN_ICMP || origin == libc::SO_EE_ORIGIN_ICMP6;
    let local = origin == libc::SO_EE_ORIGIN_LOCAL;
    let fault = Fault::from_errno(errno as i32);
    let info = array(value, 8).map(u32::from_ne_bytes);
    NetError {
        fault,
        local: (icmp || local).then_some(local),
        icmp_type: value.get(5).copied().filter(|_| icmp),
        icmp_code: value.get(6).copied().filter(|_| icmp),
        offender: value.get(16..).and_then(addr::decode).map(|addr| addr.ip()).filter(|_| icmp),
        to,
        mtu: info.filter(|&mtu| fault == Fault::TooBig && mtu > 0),
    }
}

/// One message.
fn header(
    name: *mut c_void,
    name_len: usize,
    pieces: *mut iovec,
    pieces_len: usize,
    control: *mut c_void,
    control_len: usize,
) -> mmsghdr {
    // SAFETY: both are plain C structures of integers and pointers, for which all zeroes is a valid value. (They
    // are not written out because some C libraries pad them with private fields.)
    let mut header: mmsghdr = unsafe { std::mem::zeroed() };
    let message: &mut msghdr = &mut header.msg_hdr;
    message.msg_name = name;
    message.msg_namelen = name_len as socklen_t;
    message.msg_iov = pieces;
    message.msg_iovlen = pieces_len as _;
    message.msg_control = if control_len == 0 { ptr::null_mut() } else { control };
    message.msg_controllen = control_len as _;
    header
}
