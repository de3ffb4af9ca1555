//! What the kernel calls the algorithms of userspace/esp.
//!
//! All lengths are written down here once more: taken from our own crate, a wrong one would be wrong on both sides.

use ravelin_esp::{AesKey, Algorithm, Hmac, IcvLen};

/// An algorithm in the words of `ip xfrm state`.
#[derive(Clone, Copy, Debug)]
enum Transform {
    /// Encryption and integrity in one: name, bytes of key with salt, bits of ICV.
    Aead(&'static str, usize, u32),
    /// Encryption, with bytes of key and salt, and a MAC.
    Pair(&'static str, usize, Mac),
}

/// Name, bytes of key, bits of ICV.
#[derive(Clone, Copy, Debug)]
struct Mac(&'static str, usize, u32);

/// A line for each algorithm.
fn transform(algorithm: Algorithm) -> Transform {
    match algorithm {
        Algorithm::AesGcm(key, icv) => Transform::Aead("rfc4106(gcm(aes))", aes(key) + 4, bits(icv)),
        Algorithm::AesCcm(key, icv) => Transform::Aead("rfc4309(ccm(aes))", aes(key) + 3, bits(icv)),
        Algorithm::AesGmac(key) => Transform::Aead("rfc4543(gcm(aes))", aes(key) + 4, 128),
        Algorithm::ChaCha20Poly1305 => Transform::Aead("rfc7539esp(chacha20,poly1305)", 32 + 4, 128),
        Algorithm::AesCbcHmac(key, hmac) => Transform::Pair("cbc(aes)", aes(key), mac(hmac)),
        Algorithm::AesCtrHmac(key, hmac) => Transform::Pair("rfc3686(ctr(aes))", aes(key) + 4, mac(hmac)),
        Algorithm::NullHmac(hmac) => Transform::Pair("ecb(cipher_null)", 0, mac(hmac)),
    }
}

fn mac(hmac: Hmac) -> Mac {
    match hmac {
        Hmac::Sha1_96 => Mac("hmac(sha1)", 20, 96),
        Hmac::Sha2_256_128 => Mac("hmac(sha256)", 32, 128),
        Hmac::Sha2_384_192 => Mac("hmac(sha384)", 48, 192),
        Hmac::Sha2_512_256 => Mac("hmac(sha512)", 64, 256),
    }
}

fn aes(key: AesKey) -> usize {
    match key {
        AesKey::Aes128 => 16,
        AesKey::Aes192 => 24,
        AesKey::Aes256 => 32,
    }
}

fn bits(icv: IcvLen) -> u32 {
    match icv {
        IcvLen::Icv8 => 64,
        IcvLen::Icv12 => 96,
        IcvLen::Icv16 => 128,
    }
}

/// The bytes of KEYMAT that `algorithm` takes.
pub(crate) fn keymat_len(algorithm: Algorithm) -> usize {
    match transform(algorithm) {
        Transform::Aead(_, key, _) => key,
        Transform::Pair(_, key, Mac(_, mac_key, _)) => key + mac_key,
    }
}

/// The arguments of `ip xfrm state add proto esp` for `algorithm` and its KEYMAT: encryption key, salt, integrity key.
pub(crate) fn esp_arguments(algorithm: Algorithm, keymat: &[u8]) -> String {
    match transform(algorithm) {
        Transform::Aead(name, _, icv) => format!("aead {name} {} {icv}", key(keymat)),
        Transform::Pair(name, len, Mac(mac, _, icv)) => {
            let (encryption, integrity) = keymat.split_at(len);
            format!(
                "enc {name} {} auth-trunc {mac} {} {icv}",
                key(encryption),
                key(integrity)
            )
        }
    }
}

/// The same for `proto ah`, of an algorithm that [`in_ah`] is true of.
pub(crate) fn ah_arguments(algorithm: Algorithm, keymat: &[u8]) -> String {
    match transform(algorithm) {
        Transform::Pair(_, len, Mac(mac, _, icv)) => {
            format!("auth-trunc {mac} {} {icv}", key(&keymat[len..]))
        }
        Transform::Aead(..) => unreachable!("AH takes a MAC"),
    }
}

/// Whether the kernel has `algorithm` in AH; GMAC it has only in ESP.
pub(crate) fn in_ah(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::NullHmac(_))
}

/// As iproute2 reads keys; none at all is two quotes.
fn key(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        "\"\"".to_owned()
    } else {
        format!("0x{}", hex(bytes))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
