"""The other end of tests/scapy.rs: ESP by scapy, one JSON request and one JSON answer per line.

The packets are scapy's, the ciphers those of OpenSSL. What scapy 2.5 does not know of ESP it is taught here:
- ICVs of 8 and 12 bytes of AES-GCM: it leaves them at 16 bytes whatever `crypt_icv_size` says;
- AES-GMAC (RFC 4543), and IVs that are not sent (RFC 8750): it has neither;
- extended sequence numbers with a MAC of its own: it passes them to AEADs and to AH, but not to ESP's MAC.

It needs no help with SHA2-256-128, whose ICV it makes 16 bytes long as RFC 4868 does (Linux long made it 12).
"""

import json
import logging
import struct
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy import __version__
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AUTH_ALGOS, CRYPT_ALGOS, ESP, AuthAlgo, CryptAlgo, IPSecIntegrityError, SecurityAssociation
from scapy.packet import raw

MACS = {"sha1": "HMAC-SHA1-96", "sha2-256": "SHA2-256-128", "sha2-384": "SHA2-384-192", "sha2-512": "SHA2-512-256"}


def short_gcm(icv_len):
    """AES-GCM with an ICV of `icv_len` bytes, behind the interface of `cryptography`'s AEADs."""

    class ShortGcm:
        def __init__(self, key):
            self.aes = algorithms.AES(key)

        def encrypt(self, nonce, data, aad):
            encryptor = Cipher(self.aes, modes.GCM(nonce)).encryptor()
            encryptor.authenticate_additional_data(aad)
            return encryptor.update(data) + encryptor.finalize() + encryptor.tag[:icv_len]

        def decrypt(self, nonce, data, aad):
            if len(data) < icv_len:
                raise InvalidTag
            mode = modes.GCM(nonce, data[-icv_len:], min_tag_length=icv_len)
            decryptor = Cipher(self.aes, mode).decryptor()
            decryptor.authenticate_additional_data(aad)
            return decryptor.update(data[:-icv_len]) + decryptor.finalize()

    return ShortGcm


class Gmac:
    """AES-GMAC as RFC 4543 section 3.3 has it: AES-GCM of nothing over SPI, sequence number, IV and payload."""

    def __init__(self, key):
        self.gcm = AESGCM(key)

    def encrypt(self, nonce, data, aad):
        return data + self.gcm.encrypt(nonce, b"", aad + nonce[4:] + data)

    def decrypt(self, nonce, data, aad):
        payload, icv = data[:-16], data[-16:]
        self.gcm.decrypt(nonce, icv, aad + nonce[4:] + payload)
        return payload


class Algorithm:
    """What the name of an algorithm, as Ravelin's policies spell it, is to scapy."""

    def __init__(self, request):
        cipher, _, mac = request["algorithm"].partition("-hmac-")
        self.mac = AUTH_ALGOS[MACS[mac]] if mac else None
        self.icv_len = self.mac.icv_size if mac else 16
        if cipher == "null":
            self.cipher = CRYPT_ALGOS["NULL"]
        elif cipher == "chacha20-poly1305":
            self.cipher = CRYPT_ALGOS["CHACHA20-POLY1305"]
        else:
            _, _, mode, *icv_len = cipher.split("-")
            self.icv_len = int(icv_len[0]) if icv_len else self.icv_len
            if mode == "gmac":
                self.cipher = aead("AES-GMAC", Gmac, self.icv_len)
            elif mode == "gcm" and self.icv_len < 16:
                self.cipher = aead("AES-GCM", short_gcm(self.icv_len), self.icv_len)
            else:
                self.cipher = CRYPT_ALGOS["AES-" + mode.upper()]
        if request["implicit"]:
            self.cipher = implicit(self.cipher, request["sequence"])
        if self.mac and request["extended"]:
            self.mac = with_high_half(self.mac, request["sequence"] >> 32)


def aead(name, cipher, icv_len):
    algorithm = CryptAlgo(
        name,
        cipher=cipher,
        mode=None,
        key_size=(16, 24, 32),
        salt_size=4,
        block_size=1,
        iv_size=8,
        icv_size=icv_len,
        format_mode_iv=lambda sa, iv, **_: sa.crypt_salt + iv,
    )
    algorithm.is_aead = algorithm.ciphers_aead_api = True
    return algorithm


def implicit(algorithm, number):
    """RFC 8750 section 4: the nonce is the salt and the 64-bit sequence number, and nothing of it is sent."""
    other = CryptAlgo(
        algorithm.name,
        cipher=algorithm.cipher,
        mode=None,
        key_size=algorithm.key_size,
        salt_size=algorithm.salt_size,
        block_size=1,
        iv_size=0,
        icv_size=algorithm.icv_size,
        format_mode_iv=lambda sa, **_: sa.crypt_salt + struct.pack("!Q", number),
    )
    other.is_aead = other.ciphers_aead_api = True
    return other


def with_high_half(algorithm, high):
    """RFC 4303 section 2.2.1: behind all that is sent the MAC covers the high half of the number."""

    class Mac:
        def __init__(self, mac):
            self.mac = mac
            self.update = mac.update

        def finalize(self):
            self.mac.update(struct.pack("!L", high))
            return self.mac.finalize()

    other = AuthAlgo(algorithm.name, algorithm.mac, algorithm.digestmod, algorithm.icv_size)
    other.new_mac = lambda key: Mac(algorithm.new_mac(key))
    return other


def ip(packet):
    return IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)


def association(request):
    tunnel = None
    if request["tunnel"]:
        family = IPv6 if ":" in request["source"] else IP
        tunnel = family(src=request["source"], dst=request["destination"])
    nat_t = UDP(sport=4501, dport=4500) if request["udp"] else None
    algorithm = Algorithm(request)
    sa = SecurityAssociation(
        ESP,
        spi=request["spi"],
        seq_num=request["sequence"] & 0xFFFFFFFF,
        crypt_icv_size=algorithm.icv_len if algorithm.cipher.is_aead else None,
        tunnel_header=tunnel,
        nat_t_header=nat_t,
        esn_en=request["extended"],
        esn=request["sequence"] >> 32,
    )
    # The constructor takes names only.
    sa.crypt_algo = algorithm.cipher
    sa.crypt_key = bytes.fromhex(request["key"])
    sa.crypt_salt = bytes.fromhex(request["salt"])
    if algorithm.mac:
        sa.auth_algo = algorithm.mac
        sa.auth_key = bytes.fromhex(request["integrity_key"])
    return sa


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


def plaintext(request, data):
    """The decrypted payload with its trailer, which scapy does not report."""
    algorithm = Algorithm(request)
    cipher, sa = algorithm.cipher, association(request)
    iv, body = data[: cipher.iv_size], data[cipher.iv_size :]
    if cipher.cipher is None:
        return body[: -algorithm.icv_len]
    nonce = cipher._format_mode_iv(algo=cipher, sa=sa, iv=iv)
    if not cipher.is_aead:
        return cipher.new_cipher(sa.crypt_key, nonce).decryptor().update(body[: -algorithm.icv_len])
    number = struct.pack("!Q" if request["extended"] else "!L", request["sequence"])
    key = cipher.cipher(sa.crypt_key)
    if cipher.name == "AES-CCM":
        key = cipher.cipher(sa.crypt_key, tag_length=algorithm.icv_len)
    return key.decrypt(nonce, body, struct.pack("!L", request["spi"]) + number)


def expected_iv(request):
    """RFC 4106 section 3.1 and others: a counter. NIST SP 800-38A appendix C, for CBC: the counter, encrypted."""
    counter = struct.pack("!Q", request["sequence"])
    if request["implicit"] or request["algorithm"].startswith("null-"):
        return b""
    if "-cbc-" not in request["algorithm"]:
        return counter
    encryptor = Cipher(algorithms.AES(bytes.fromhex(request["key"])), modes.ECB()).encryptor()
    return encryptor.update(bytes(8) + counter)


def open_(request):
    sealed = ip(bytes.fromhex(request["packet"]))
    esp = sealed[ESP]
    data = bytes(esp.data)
    iv = expected_iv(request)
    answer = {
        "spi": esp.spi,
        "sequence": esp.seq,
        "iv_as_expected": data.startswith(iv),
        "plaintext": plaintext(request, data).hex(),
        "around": 8 + len(iv) + Algorithm(request).icv_len,
        "esp": len(raw(esp)),
    }
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
