"""The other end of tests/scapy.rs: ESP by scapy, one JSON request and one JSON answer per line."""

import json
import logging
import struct
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy import __version__
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, IPSecIntegrityError, SecurityAssociation
from scapy.packet import raw


def ip(packet):
    return IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)


def association(request):
    tunnel = None
    if request["tunnel"]:
        family = IPv6 if ":" in request["source"] else IP
        tunnel = family(src=request["source"], dst=request["destination"])
    nat_t = UDP(sport=4501, dport=4500) if request["udp"] else None
    return SecurityAssociation(
        ESP,
        spi=request["spi"],
        seq_num=request["sequence"] & 0xFFFFFFFF,
        crypt_algo="AES-GCM",
        crypt_key=bytes.fromhex(request["key"]),
        tunnel_header=tunnel,
        nat_t_header=nat_t,
        esn_en=request["extended"],
        esn=request["sequence"] >> 32,
    )


def seal(request):
    clear = ip(bytes.fromhex(request["packet"]))
    sealed = association(request).encrypt(clear)
    if request["udp"]:
        # scapy 2.5 fixes the UDP length over IPv4 before it appends ESP.
        del sealed[UDP].len
        sealed[UDP].chksum = 0
        if sealed.version == 6:
            # Behind extension headers it announces ESP where UDP follows.
            sealed[UDP].underlayer.nh = 17
    return {"packet": raw(sealed).hex()}


def open_(request):
    sealed = ip(bytes.fromhex(request["packet"]))
    esp = sealed[ESP]
    data = bytes(esp.data)
    answer = {"spi": esp.spi, "sequence": esp.seq, "iv": data[:8].hex(), "icv": data[-16:].hex()}
    # What scapy does not report: the plaintext with its trailer.
    key = bytes.fromhex(request["key"])
    number = struct.pack("!Q" if request["extended"] else "!L", request["sequence"])
    aad = struct.pack("!L", request["spi"]) + number
    answer["plaintext"] = AESGCM(key[:-4]).decrypt(key[-4:] + data[:8], data[8:], aad).hex()
    # scapy 2.5 cannot take UDP out of an IPv6 transport-mode packet.
    if request["tunnel"] or not request["udp"] or sealed.version == 4:
        answer["packet"] = raw(association(request).decrypt(sealed)).hex()
    return answer


def rejects(request):
    """Whether scapy finds the packet not authentic, or not to be ESP of this SA at all."""
    sealed = ip(bytes.fromhex(request["packet"]))
    try:
        association(request).decrypt(sealed)
    except IPSecIntegrityError:
        return {"rejected": True}
    except TypeError as error:
        return {"rejected": "does not match the SA spi" in str(error)}
    return {"rejected": False}


OPERATIONS = {"seal": seal, "open": open_, "rejects": rejects}

print(json.dumps({"scapy": __version__}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(OPERATIONS[request["operation"]](request)), flush=True)
