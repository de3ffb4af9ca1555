"""The other end of tests/headers.rs and others: scapy builds packets, seals them, and says what headers hold."""

import json
import logging
import sys
from unittest.mock import patch

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy import __version__
from scapy.layers.inet import *
from scapy.layers.inet6 import *
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Raw, raw


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


def checksummed(packet, at):
    """The packet with a checksum over the pseudo-header at this place of its payload, for protocols scapy has no layer of."""
    payload = bytearray(raw(packet.lastlayer()))
    over_pseudo_header = in4_chksum if isinstance(packet, IP) else in6_chksum
    protocol = packet.proto if isinstance(packet, IP) else packet.nh
    header = ip(raw(packet))
    payload[at : at + 2] = over_pseudo_header(protocol, header, bytes(payload)).to_bytes(2, "big")
    packet.lastlayer().load = bytes(payload)
    return packet


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


def layers(request):
    """The names of the headers in front of ESP and UDP."""
    packet = ip(bytes.fromhex(request["packet"]))
    names = []
    while not isinstance(packet, (ESP, UDP)):
        names.append(type(packet).__name__)
        packet = packet.payload
    return {"layers": names}


def translate(request):
    """What a NAT makes of a packet: other addresses, and the checksums that it can reach."""
    packet = ip(bytes.fromhex(request["packet"]))
    packet.src, packet.dst = request["source"], request["destination"]
    if packet.version == 4:
        del packet.chksum
    if isinstance(packet.payload, UDP) and packet.payload.chksum:
        del packet.payload.chksum
    return {"packet": raw(packet).hex()}


def seal(request):
    sealed = association(request).encrypt(ip(bytes.fromhex(request["packet"])))
    if request.get("nat_t_header"):
        # scapy 2.5 fixes the UDP length over IPv4 before it appends ESP.
        del sealed[UDP].len
        sealed[UDP].chksum = 0 if sealed.version == 4 else None
    return {"packet": raw(sealed).hex()}


def open_(request):
    sealed = ip(bytes.fromhex(request["packet"]))
    # In transport mode scapy 2.5 takes the payload for what the first header names, not the last.
    with patch.object(IPv6, "guess_payload_class", lambda packet, payload: Raw):
        return {"packet": raw(association(request).decrypt(sealed)).hex()}


def next_header(request):
    """What the trailer of ESP names."""
    sealed = ip(bytes.fromhex(request["packet"]))
    sa = association(request)
    return {"next_header": sa.crypt_algo.decrypt(sa, sealed[ESP], sa.crypt_key, 16).nh}


OPERATIONS = {
    "build": build,
    "fields": fields,
    "layers": layers,
    "translate": translate,
    "seal": seal,
    "open": open_,
    "next_header": next_header,
}

print(json.dumps({"scapy": __version__}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(OPERATIONS[request["operation"]](request)), flush=True)
