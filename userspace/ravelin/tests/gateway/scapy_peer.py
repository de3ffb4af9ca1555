"""Scapy for the gateway's tests: one JSON request and one JSON answer per line."""

import json
import logging
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPerror6,
    IPv6,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw, raw


def ip(packet):
    return IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)


def association(request):
    family = IPv6 if ":" in request["source"] else IP
    return SecurityAssociation(
        ESP,
        spi=request["spi"],
        seq_num=request["sequence"] & 0xFFFFFFFF,
        crypt_algo="AES-GCM",
        crypt_key=bytes.fromhex(request["key"]),
        tunnel_header=family(src=request["source"], dst=request["destination"]),
        nat_t_header=UDP(sport=4500, dport=4500) if request["udp"] else None,
        esn_en=request["extended"],
        esn=request["sequence"] >> 32,
    )


def build(request):
    return {"packet": raw(eval(request["expression"])).hex()}


def seal(request):
    sealed = association(request).encrypt(ip(bytes.fromhex(request["packet"])))
    if request["udp"]:
        # scapy 2.5 fixes the UDP length over IPv4 before it appends ESP.
        del sealed[UDP].len
        sealed[UDP].chksum = 0
    return {"packet": raw(sealed).hex()}


def open_(request):
    return {"packet": raw(association(request).decrypt(ip(bytes.fromhex(request["packet"])))).hex()}


def fragments(request):
    packet = ip(bytes.fromhex(request["packet"]))
    if packet.version == 4:
        packet.id = request["id"]
        packet.flags = 0
        del packet.chksum
        pieces = fragment(packet, fragsize=request["size"])
    else:
        header = IPv6ExtHdrFragment(id=request["id"], nh=packet.nh)
        payload = packet.payload
        packet.remove_payload()
        del packet.plen
        packet.nh = 44
        # fragment6 counts the headers in.
        pieces = fragment6(packet / header / Raw(raw(payload)), request["size"] + 48)
    return {"packets": [raw(piece).hex() for piece in pieces]}


def icmp_error(request):
    packet = ip(bytes.fromhex(request["packet"]))
    # What scapy computes by itself must be what was on the wire.
    fresh = packet.copy()
    if packet.version == 4:
        del fresh.chksum
        del fresh.len
        del fresh[ICMP].chksum
        layer, quote, mtu = packet[ICMP], packet[IPerror], packet[ICMP].nexthopmtu
        kind = (layer.type, layer.code)
    else:
        del fresh.plen
        name = ICMPv6PacketTooBig if ICMPv6PacketTooBig in packet else ICMPv6TimeExceeded
        del fresh[name].cksum
        layer, quote = packet[name], packet[IPerror6]
        mtu = getattr(layer, "mtu", 0)
        kind = (layer.type, layer.code)
    return {
        "source": packet.src,
        "destination": packet.dst,
        "type": kind[0],
        "code": kind[1],
        "mtu": mtu,
        "checksums": raw(fresh) == raw(packet),
        "quote": raw(layer)[8:].hex(),
        "quoted_source": quote.src,
        "quoted_destination": quote.dst,
        "length": len(raw(packet)),
    }


OPERATIONS = {"build": build, "seal": seal, "open": open_, "fragments": fragments, "icmp_error": icmp_error}

for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(OPERATIONS[request["operation"]](request)), flush=True)
