#!/usr/bin/env python3
"""Makes packet traces by real programs through real boxes, as `probe-client analyze` reads them.

    sudo tests/traces/make.py OUT_DIR [NAME...]      # all of them, or those whose names contain NAME

Four network namespaces of its own: a sender, a box that only delays (below, in user space), a router with the kernel's
nftables and tc, a receiver. iperf3 and nuttcp send, tcpdump writes down what leaves the sender and what reaches the
receiver, and both captures of one clock become one CSV. Lengths are those of IP packets.

What each trace must be judged to be stands in `probe-client/analysis/tests/real.rs`, which reads the small ones beside this file.

Needs root, ip, nft, tc, ethtool, tcpdump, iperf3, nuttcp. No packet leaves the namespaces.
"""

import heapq
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time

CLIENT, ROUTER_A, ROUTER_B, SERVER = "10.98.1.2", "10.98.1.1", "10.98.2.1", "10.98.2.2"
ME = os.getpid()


def run(command, check=True):
    return subprocess.run(command, shell=True, check=check, capture_output=True, text=True)


# --- the box that delays -------------------------------------------------------------------------------------------


def delay_box(left, right, seconds, until):
    """Carries frames between two interfaces, each `seconds` later, in order."""
    sides = []
    for name in (left, right):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        s.bind((name, 0))
        s.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        s.setblocking(False)
        sides.append(s)
    held, number = [], 0
    while (now := time.monotonic()) < until:
        while held and held[0][0] <= now:
            _, _, side, frame = heapq.heappop(held)
            try:
                sides[side].send(frame)
            except OSError:
                pass
        wait = min(held[0][0] - now, 0.1) if held else 0.1
        for s in select.select(sides, [], [], max(wait, 0))[0]:
            for _ in range(64):
                try:
                    frame, address = s.recvfrom(65536)
                except BlockingIOError:
                    break
                if address[2] == socket.PACKET_OUTGOING:
                    continue
                number += 1
                heapq.heappush(held, (time.monotonic() + seconds, number, 1 - sides.index(s), frame))


# --- captures ------------------------------------------------------------------------------------------------------


def packets(path):
    """(time in us, transport, from, to, key, IP length) of each IPv4 packet of TCP or UDP in a nanosecond capture."""
    with open(path, "rb") as f:
        data = f.read()
    order = "<" if data[:4] == b"\x4d\x3c\xb2\xa1" else ">"
    at = 24
    while at + 16 <= len(data):
        s, ns, held, _ = struct.unpack_from(order + "IIII", data, at)
        frame = data[at + 16 : at + 16 + held]
        at += 16 + held
        if frame[12:14] != b"\x08\x00":
            continue
        ip = frame[14:]
        head = (ip[0] & 15) * 4
        length, ident = struct.unpack_from(">HH", ip, 2)
        protocol = ip[9]
        if protocol not in (6, 17):
            continue
        rest = ip[head:]
        ports = struct.unpack_from(">HH", rest)
        if protocol == 6:
            key = (ident, rest[4:12])
        else:
            # iperf3 and nuttcp number their datagrams in the first bytes.
            key = (ident, rest[8:24])
        yield (s * 1_000_000 + ns / 1000, protocol, (ip[12:16], ports[0]), (ip[16:20], ports[1]), key, length)


def join(sent, received, out, only, hide, says, least=0):
    """One CSV of both captures; a packet of the same addresses, ports and numbers is the same packet."""
    client = socket.inet_aton(CLIENT)
    rows = []
    for direction, leaves, arrives in (("up", sent, received), ("down", received, sent)):
        if direction not in only:
            continue
        is_this = lambda p: (p[2][0] == client) == (direction == "up")
        there = {}
        for p in filter(is_this, packets(arrives)):
            there.setdefault(p[1:5], []).append(p[0])
        for p in filter(is_this, packets(leaves)):
            port = {p[2][1], p[3][1]}
            if port & hide or p[5] < least:
                continue
            times = there.get(p[1:5])
            arrived = times.pop(0) if times else None
            rows.append((p[0], p[5], arrived, f"{p[2][1]}-{p[3][1]}", direction, "tcp" if p[1] == 6 else "udp"))
    rows.sort()
    zero = rows[0][0] if rows else 0
    with open(out, "w") as f:
        f.write(",".join(["t_send_us", "bytes", "t_recv_us"] + says) + "\n")
        for at, length, arrived, flow, direction, transport in rows:
            more = {"flow": flow, "direction": direction, "transport": transport}
            there = "" if arrived is None else f"{arrived - zero:.0f}"
            f.write(",".join([f"{at - zero:.0f}", str(length), there] + [more[s] for s in says]) + "\n")
    lost = sum(r[2] is None for r in rows)
    return len(rows), lost


# --- one trace -----------------------------------------------------------------------------------------------------

NFT = "table ip box {{\n chain forward {{\n type filter hook forward priority 0;\n {}\n }}\n}}\n"
UP, DOWN = f"ip daddr {SERVER} ", f"ip saddr {SERVER} "


def udp(rate, length=1200, port=5201, more=""):
    return port, f"iperf3 -c {SERVER} -p {port} -u -b {rate} -l {length} -t SECONDS {more}"


def tcp(port=5202, more=""):
    return port, f"iperf3 -c {SERVER} -p {port} -t SECONDS {more}"


def htb(name, rate, limit):
    return [
        f"qdisc add dev {name} root handle 1: htb default 10",
        f"class add dev {name} parent 1: classid 1:10 htb rate 200mbit",
        f"class add dev {name} parent 1: classid 1:20 htb rate {rate} ceil {rate}",
        f"qdisc add dev {name} parent 1:20 bfifo limit {limit}",
        f"filter add dev {name} parent 1: protocol ip u32 match ip protocol 17 0xff flowid 1:20",
    ]


# name: what the router does, what is sent, for how long, what of it is shown.
TRACES = {
    "policer-udp": dict(nft=UP + "limit rate over 300 kbytes/second burst 20 kbytes drop", send=[udp("3.6M")], seconds=10),
    "policer-udp-half-as-much-again": dict(nft=UP + "limit rate over 900 kbytes/second burst 200 kbytes drop", send=[udp("12M", 1372)]),
    "policer-cubic": dict(nft=UP + "limit rate over 400 kbytes/second burst 20 kbytes drop", send=[tcp(more="-C cubic")]),
    "policer-reno": dict(nft=UP + "limit rate over 700 kbytes/second burst 20 kbytes drop", send=[tcp(more="-C reno")]),
    "policer-bbr": dict(nft=UP + "limit rate over 400 kbytes/second burst 20 kbytes drop", send=[tcp(more="-C bbr")]),
    "policer-four-tcp": dict(nft=UP + "limit rate over 600 kbytes/second burst 20 kbytes drop", send=[tcp(more="-P 4")]),
    "policer-down-tcp": dict(nft=DOWN + "limit rate over 500 kbytes/second burst 20 kbytes drop", send=[tcp(more="-R")], only=["down"]),
    "policer-nuttcp": dict(nft=UP + "limit rate over 500 kbytes/second burst 20 kbytes drop", send=[(5500, f"nuttcp -u -Ri6M -l1200 -T SECONDS -P5500 -p5501 {SERVER}")]),
    "udp-policer": dict(
        nft="meta l4proto udp " + UP + "limit rate over 300 kbytes/second burst 20 kbytes drop",
        tc=["qdisc add dev DEV root tbf rate 40mbit burst 20k latency 60ms"],
        send=[udp("4M"), tcp(more="-b 6M")],
    ),
    "udp-shaper": dict(tc=htb("DEV", "3mbit", 40000), send=[udp("4M"), tcp(more="-b 6M")]),
    "packets": dict(nft=UP + "limit rate over 800/second burst 40 packets drop", send=[udp("1.2M", 200), udp("4M", 1200, 5203)]),
    "tbf-cubic": dict(tc=["qdisc add dev DEV root tbf rate 4mbit burst 10k latency 80ms"], send=[tcp(more="-C cubic")]),
    "tbf-bbr": dict(tc=["qdisc add dev DEV root tbf rate 4mbit burst 10k latency 80ms"], send=[tcp(more="-C bbr")]),
    "tbf-udp": dict(tc=["qdisc add dev DEV root tbf rate 3mbit burst 30k latency 100ms"], send=[udp("3.6M")]),
    "tbf-deep-burst-udp": dict(tc=["qdisc add dev DEV root tbf rate 5mbit burst 200k latency 50ms"], send=[udp("7M")]),
    "congestion": dict(tc=["qdisc add dev DEV root tbf rate 6mbit burst 10k latency 60ms"], send=[udp("1.5M", 1000), tcp(5204, "-P 3")], hide={5204}),
    "congestion-tcp": dict(tc=["qdisc add dev DEV root tbf rate 6mbit burst 10k latency 60ms"], send=[tcp(), tcp(5204, "-P 2"), udp("3M", 1000, 5205)], hide={5204, 5205}),
    "loss-udp": dict(nft="numgen random mod 1000 < 25 drop", send=[udp("3M")]),
    "loss-cubic": dict(nft=UP + "numgen random mod 1000 < 15 drop", send=[tcp(more="-C cubic -b 6M")]),
    "loss-bbr": dict(nft=UP + "numgen random mod 1000 < 20 drop", send=[tcp(more="-C bbr -b 6M")]),
    "clean-udp": dict(send=[udp("4M")]),
    "clean-cubic": dict(send=[tcp(more="-C cubic -b 8M")]),
    "clean-bbr": dict(send=[tcp(more="-C bbr -b 3M")]),
    "clean-both": dict(send=[tcp(more="--bidir -b 3M")], only=["up", "down"]),
}


def trace(name, out):
    what = TRACES[name]
    seconds, delay = what.get("seconds", 12), what.get("delay", 0.012)
    a, d, r, b = (f"tr{x}{ME}" for x in "adrb")
    children = []
    try:
        for n in (a, d, r, b):
            run(f"ip netns add {n} && ip -n {n} link set lo up")
        for one, left, other, right in ((a, "a0", d, "d0"), (d, "d1", r, "r0"), (r, "r1", b, "b0")):
            run(f"ip link add {left} netns {one} type veth peer name {right} netns {other}")
            for n, dev in ((one, left), (other, right)):
                run(f"ip -n {n} link set {dev} up; ip netns exec {n} ethtool -K {dev} tso off gso off gro off tx off", check=False)
        run(f"ip -n {a} addr add {CLIENT}/24 dev a0; ip -n {r} addr add {ROUTER_A}/24 dev r0")
        run(f"ip -n {r} addr add {ROUTER_B}/24 dev r1; ip -n {b} addr add {SERVER}/24 dev b0")
        run(f"ip -n {a} route add default via {ROUTER_A}; ip -n {b} route add default via {ROUTER_B}")
        run(f"ip netns exec {r} sysctl -qw net.ipv4.ip_forward=1")
        box = ["ip", "netns", "exec", d, sys.executable, __file__, "--delay-box", "d0", "d1", str(delay), str(seconds + 60)]
        children.append(subprocess.Popen(box))
        if "nft" in what:
            subprocess.run(["ip", "netns", "exec", r, "nft", "-f", "-"], input=NFT.format(what["nft"]), text=True, check=True)
        for line in what.get("tc", []):
            run(f"ip netns exec {r} tc " + line.replace("DEV", "r1"))
        run(f"ip netns exec {a} ping -c 3 -i 0.2 {SERVER}", check=False)
        with tempfile.TemporaryDirectory() as work:
            ends = []
            for n, dev, file in ((a, "a0", "sent"), (b, "b0", "received")):
                ends.append(subprocess.Popen(
                    ["ip", "netns", "exec", n, "tcpdump", "-i", dev, "-s", "96", "-B", "32768", "-w", f"{work}/{file}",
                     "--time-stamp-precision=nano", "-Z", "root", "tcp or udp"],
                    stderr=subprocess.DEVNULL))
            controls, hide = [], set(what.get("hide", set()))
            for port, command in what["send"]:
                server = f"nuttcp -S -1 -P{port}" if "nuttcp" in command else f"iperf3 -s -1 -p {port}"
                controls.append(subprocess.Popen(["ip", "netns", "exec", b] + server.split(), stdout=subprocess.DEVNULL))
            time.sleep(1)
            senders = [
                subprocess.Popen(["ip", "netns", "exec", a] + c.replace("SECONDS", str(seconds)).split(), stdout=subprocess.DEVNULL)
                for _, c in what["send"]
            ]
            for s in senders:
                try:
                    s.wait(seconds + 30)
                except subprocess.TimeoutExpired:
                    s.kill()
            time.sleep(0.5)
            for p in ends + controls:
                p.terminate()
            for p in ends + controls:
                try:
                    p.wait(5)
                except subprocess.TimeoutExpired:
                    p.kill()
            says = ["flow", "direction", "transport"] if name.startswith("udp-") or len(what.get("only", [])) > 1 else []
            n, lost = join(f"{work}/sent", f"{work}/received", f"{out}/{name}.csv", what.get("only", ["up"]), hide, says)
            print(f"{name}: {n} packets, {lost} lost, {os.path.getsize(f'{out}/{name}.csv')} bytes", flush=True)
    finally:
        for child in children:
            child.terminate()
            child.wait()
        for n in (a, d, r, b):
            run(f"ip netns del {n}", check=False)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--delay-box":
        left, right, seconds, life = sys.argv[2:]
        return delay_box(left, right, float(seconds), time.monotonic() + float(life))
    out, wanted = sys.argv[1], sys.argv[2:]
    os.makedirs(out, exist_ok=True)
    for name in TRACES:
        if not wanted or any(w in name for w in wanted):
            trace(name, out)


if __name__ == "__main__":
    main()
