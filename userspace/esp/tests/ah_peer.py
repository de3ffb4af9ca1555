"""The other end of tests/ah.rs: AH by scapy, one JSON request and one JSON answer per line.

scapy has no GMAC in AH. For it only the packet and what the ICV covers are scapy's; the tag is `cryptography`'s.
"""

import json
import logging
import struct
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy import __version__
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AH, IPSecIntegrityError, SecurityAssociation, split_for_transport, zero_mutable_fields
from scapy.packet import raw


def ip(packet):
    return IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)


def tunnel_header(request):
    if not request["tunnel"]:
        return None
    family = IPv6 if ":" in request["source"] else IP
    return family(src=request["source"], dst=request["destination"])


def association(request):
    return SecurityAssociation(
        AH,
        spi=request["spi"],
        seq_num=request["sequence"] & 0xFFFFFFFF,
        auth_algo=request["algorithm"],
        auth_key=bytes.fromhex(request["key"]),
        tunnel_header=tunnel_header(request),
        esn_en=request["extended"],
        esn=request["sequence"] >> 32,
    )


def gmac(request, packet, iv, sending):
    """Key, nonce, and what is authenticated: the packet with tag and mutable fields cleared."""
    keymat = bytes.fromhex(request["key"])
    covered = raw(zero_mutable_fields(packet.copy(), sending=sending))
    if request["extended"]:
        covered += struct.pack("!L", request["sequence"] >> 32)
    return AESGCM(keymat[:-4]), keymat[-4:] + iv, covered


def seal(request):
    clear = ip(bytes.fromhex(request["packet"]))
    if request["algorithm"] != "GMAC":
        return {"packet": raw(association(request).encrypt(clear)).hex()}
    iv = struct.pack("!Q", request["sequence"])
    header = AH(spi=request["spi"], seq=request["sequence"] & 0xFFFFFFFF, icv=iv + bytes(16))
    outer = tunnel_header(request)
    if outer is not None:
        # As in scapy's own tunnels: of a copy, so that lengths are computed anew.
        clear = outer.copy() / clear
    front, header.nh, payload = split_for_transport(clear, 51)
    if front.version == 6:
        header.padding = bytes(-len(header) % 8)
    header.payloadlen = len(header) // 4 - 2
    if front.version == 4:
        front.len = len(front) + len(header) + len(payload)
        del front.chksum
    else:
        front.plen = len(front.payload) + len(header) + len(payload)
    # Parsed again, the field holds the padding too.
    sealed = ip(raw(front / header / payload))
    key, nonce, covered = gmac(request, sealed, iv, True)
    sealed[AH].icv = iv + key.encrypt(nonce, b"", covered) + sealed[AH].icv[24:]
    return {"packet": raw(sealed).hex()}


def open_(request):
    sealed = ip(bytes.fromhex(request["packet"]))
    if request["algorithm"] != "GMAC":
        try:
            return {"packet": raw(association(request).decrypt(sealed)).hex()}
        except IPSecIntegrityError:
            return {"rejected": True}
    field = sealed[AH].icv
    iv, tag = field[:8], field[8:24]
    key, nonce, covered = gmac(request, sealed, iv, False)
    try:
        key.decrypt(nonce, tag, covered)
    except InvalidTag:
        return {"rejected": True}
    # What is left of the packet, scapy can take out itself, if nothing but the ICV is wrong.
    none = SecurityAssociation(AH, spi=request["spi"], tunnel_header=tunnel_header(request))
    return {"packet": raw(none.decrypt(sealed, verify=False)).hex()}


OPERATIONS = {"seal": seal, "open": open_}

print(json.dumps({"scapy": __version__}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(OPERATIONS[request["operation"]](request)), flush=True)
