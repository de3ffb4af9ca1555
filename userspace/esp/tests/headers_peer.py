"""The other end of tests/headers.rs: scapy builds packets, seals them, and says what headers hold."""

import json
import logging
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy import __version__
from scapy.all import (
    AH,
    ESP,
    ICMP,
    IP,
    SCTP,
    TCP,
    UDP,
    IPOption_NOP,
    IPOption_Router_Alert,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    PadN,
    Padding,
    Raw,
    RouterAlert,
)
from scapy.layers.ipsec import SecurityAssociation
from scapy.packet import raw


def ip(packet):
    return IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)


def association(request):
    """An SA whose headers are expressions of scapy's."""
    header = {name: eval(request[name]) if request.get(name) else None for name in ("tunnel_header", "nat_t_header")}
    return SecurityAssociation(
        ESP,
        spi=request["spi"],
        seq_num=1,
        crypt_algo="AES-GCM",
        crypt_key=bytes.fromhex(request["key"]),
        **header,
    )


def build(request):
    """A packet from an expression of scapy's."""
    return {"packet": raw(eval(request["expression"])).hex()}


def fields(request):
    """The IP header in front, and whether its checksum is what scapy computes."""
    packet = ip(bytes.fromhex(request["packet"]))
    if packet.version == 6:
        return {
            "class": packet.tc,
            "label": packet.fl,
            "hop_limit": packet.hlim,
            "length": packet.plen + 40,
        }
    again = packet.copy()
    del again.chksum
    return {
        "class": packet.tos,
        "df": packet.flags == "DF",
        "fragment": bool(packet.flags.MF or packet.frag),
        "id": packet.id,
        "hop_limit": packet.ttl,
        "length": packet.len,
        "valid": IP(raw(again)).chksum == packet.chksum,
    }


def seal(request):
    clear = ip(bytes.fromhex(request["packet"]))
    return {"packet": raw(association(request).encrypt(clear)).hex()}


def open_(request):
    sealed = ip(bytes.fromhex(request["packet"]))
    return {"packet": raw(association(request).decrypt(sealed)).hex()}


OPERATIONS = {"build": build, "fields": fields, "seal": seal, "open": open_}

print(json.dumps({"scapy": __version__}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(OPERATIONS[request["operation"]](request)), flush=True)
