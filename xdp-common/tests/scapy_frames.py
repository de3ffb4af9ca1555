"""Frames made by scapy, and what each is: one JSON object per line, for tests/scapy.rs."""

import json
import logging
import random

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy.config import conf
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR, IPOption_Router_Alert, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_Redirect, ICMPv6ND_RS,
    IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PadN, RouterAlert, fragment6,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Raw, raw

random.seed(3948)
conf.debug_dissector = False

# Both given: scapy would otherwise ask the network for the addresses, and these tests send nothing.
MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
V4 = ("10.1.2.3", "192.0.2.77")
V6 = ("2001:db8::5", "fd00:1:2:3:4:5:6:7")


def tags():
    yield lambda: Ether(**MACS)
    yield lambda: Ether(**MACS) / Dot1Q(vlan=5)
    yield lambda: Ether(**MACS) / Dot1Q(vlan=0, prio=7)
    yield lambda: Ether(type=0x88A8, **MACS) / Dot1AD(vlan=9) / Dot1Q(vlan=4095)
    yield lambda: Ether(**MACS) / Dot1Q(vlan=1) / Dot1Q(vlan=2)


def options():
    """IPv4 headers of 20, 24, 40 and 60 bytes."""
    yield []
    yield [IPOption_Router_Alert()]
    yield [IPOption_NOP()] * 20
    yield [IPOption_RR(routers=["0.0.0.0"] * 9), IPOption_NOP()]


def extensions():
    """Chains of IPv6 extension headers, up to eight."""
    none = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
    yield []
    yield [IPv6ExtHdrHopByHop(options=[RouterAlert()])]
    yield [IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 60)])]
    yield [IPv6ExtHdrRouting(addresses=["fd00::1", "fd00::2"])]
    yield [IPv6ExtHdrHopByHop(), none.copy(), IPv6ExtHdrRouting(addresses=["fd00::1"]), none.copy()]
    yield [IPv6ExtHdrFragment(offset=0, m=0, id=7), none.copy()]
    yield [none.copy() for _ in range(8)]


def body():
    return Raw(bytes(random.randrange(1, 256) for _ in range(random.randrange(4, 90))))


def udp(sport, dport, payload):
    return UDP(sport=sport, dport=dport) / Raw(payload)


def uppers(v6):
    """Protocol, the two port fields or None, what Ravelin treats it as, its SPI, and the layers."""
    a, b = random.randrange(1024, 4000), random.randrange(1, 400)
    yield 6, (a, b), "Other", 0, TCP(sport=a, dport=b, options=[("MSS", 1400), ("SAckOK", b"")]) / body()
    yield 6, (b, a), "Other", 0, TCP(sport=b, dport=a, flags="A")
    yield 17, (a, b), "Other", 0, udp(a, b, bytes(body()))
    yield 17, (0, 65535), "Other", 0, UDP(sport=0, dport=65535)
    yield 17, (500, a), "Ike", 0, udp(500, a, b"")
    yield 17, (a, 500), "Ike", 0, udp(a, 500, bytes(body()))
    yield 17, (4500, a), "Ike", 0, udp(4500, a, b"\0\0\0\0" + bytes(body()))
    yield 17, (a, 4500), "NatKeepalive", 0, udp(a, 4500, b"\xff")
    yield 17, (a, 4500), "Other", 0, udp(a, 4500, b"\xfe")
    yield 17, (a, 4500), "Other", 0, udp(a, 4500, b"\xff\xff\xff")
    yield 17, (4500, 4500), "UdpEsp", 0x2003, UDP(sport=4500, dport=4500) / ESP(spi=0x2003, seq=1, data=bytes(40))
    yield 50, None, "Esp", 0xFFFFFFFF, ESP(spi=0xFFFFFFFF, seq=2, data=bytes(40))
    yield 50, None, "Esp", 1, ESP(spi=1, seq=2, data=b"")
    yield 132, (a, b), "Other", 0, SCTP(sport=a, dport=b) / SCTPChunkData(data=b"abcd")
    yield 33, (1, 2), "Other", 0, Raw(bytes([0, 1, 0, 2]) + bytes(20))
    yield 136, (3, 4), "Other", 0, Raw(bytes([0, 3, 0, 4]) + bytes(6))
    yield 47, None, "Other", 0, Raw(b"\0\0\x08\0" + bytes(20))
    yield 51, None, "Ah", 0x2004, AH(nh=59, payloadlen=4, spi=0x2004, seq=3, icv=bytes(12)) / Raw(bytes(8))
    if v6:
        yield 58, (128, 0), "Other", 0, ICMPv6EchoRequest(data=b"x" * 20)
        yield 59, None, "Other", 0, Raw(b"")
        yield 1, None, "Other", 0, Raw(bytes(20))
        # Hop limit 64, so no neighbour discovery.
        yield 58, (135, 0), "Other", 0, ICMPv6ND_NS(tgt="fd00::1")
    else:
        yield 1, (8, 0), "Other", 0, ICMP(type=8) / body()
        yield 1, (3, 4), "Other", 0, ICMP(type=3, code=4) / body()
        yield 58, None, "Other", 0, Raw(bytes(20))


def emit(frame, ip, protocol, ports, upper, spi, upper_length, is_fragment=False, padding=0):
    """Writes a frame down. Lengths come from scapy's layers, not from the bytes that the parser will read."""
    built = raw(frame)
    l3_length = len(raw(ip))
    print(json.dumps({
        "frame": (built + random.randbytes(padding)).hex(),
        "version": ip.version,
        "source": ip.src,
        "destination": ip.dst,
        "protocol": protocol,
        "ports": ports,
        "upper": upper,
        "spi": spi,
        "fragment": is_fragment,
        "l3_offset": len(built) - l3_length,
        "l3_length": l3_length,
        "upper_offset": l3_length - upper_length,
    }))


def whole(link, ip, what, padding):
    protocol, ports, upper, spi, layers = what
    emit(link() / ip / layers, ip / layers, protocol, ports or "absent", upper, spi, len(raw(layers)), False, padding)


def chain(headers, protocol, hlim=64):
    # Given, because scapy would make it 255 for neighbour discovery.
    ip = IPv6(src=V6[0], dst=V6[1], hlim=hlim)
    for header in headers:
        ip = ip / header
    ip.lastlayer().nh = protocol
    return ip


def main():
    for link in tags():
        for opts in options():
            for what in uppers(False):
                ip = IP(src=V4[0], dst=V4[1], proto=what[0], options=opts, flags="DF")
                whole(link, ip, what, random.choice([0, 0, 7]))
    for link in tags():
        for headers in extensions():
            for what in uppers(True):
                whole(link, chain(headers, what[0]), what, random.choice([0, 0, 7]))
    for message in [ICMPv6ND_RS(), ICMPv6ND_RA(), ICMPv6ND_NS(tgt="fe80::1"), ICMPv6ND_NA(tgt="fe80::1"),
                    ICMPv6ND_Redirect(tgt="fe80::1", dst="fd00::1")]:
        for link in tags():
            what = (58, (message.type, 0), "NeighbourDiscovery", 0, message)
            whole(link, chain([], 58, hlim=255), what, 0)
    fragments()
    for link in tags():
        print(json.dumps({"frame": raw(link() / ARP(hwsrc=MACS["src"], psrc="192.0.2.1", pdst="192.0.2.2")).hex(), "kind": "Arp"}))
        print(json.dumps({"frame": (raw(link())[:-2] + b"\x88\xcc" + bytes(40)).hex(), "kind": "NonIp"}))


def fragments():
    """Datagrams cut by scapy. Of the first fragment the ports are known, of the others not; of IPv6 ones not even the protocol."""
    for protocol, layers, has_ports in [
        (17, UDP(sport=1000, dport=2000) / Raw(bytes(4000)), True),
        (6, TCP(sport=1000, dport=2000) / Raw(bytes(4000)), True),
        (47, Raw(bytes(4000)), False),
    ]:
        for link in tags():
            for piece in fragment(IP(src=V4[0], dst=V4[1], proto=protocol, id=99) / layers, fragsize=1000):
                piece = IP(raw(piece))
                ports = ((1000, 2000) if piece.frag == 0 else "unknown") if has_ports else "absent"
                emit(link() / piece, piece, protocol, ports, "Other", 0, len(raw(piece.payload)), True)
            packet = IPv6(src=V6[0], dst=V6[1]) / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(id=5, nh=protocol) / layers
            packet[IPv6ExtHdrDestOpt].nh = 44
            for piece in fragment6(packet, 1280):
                header = piece[IPv6ExtHdrFragment]
                first = (1000, 2000) if has_ports else "absent"
                ports = first if header.offset == 0 else "unknown"
                emit(link() / piece, piece, protocol, ports, "Other", 0, len(raw(header.payload)), True)


main()
