//! What the suites share.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod gcm_vectors;
pub(crate) mod ours;
pub(crate) mod vector_file;

use ravelin_gcm::{Aead, AeadError, Algorithm, KeyMaterial, MAX_NONCE_LEN, Nonce, Provider, Secret};

pub(crate) fn key(provider: Provider, algorithm: Algorithm, bytes: &[u8]) -> Box<dyn Aead> {
    let material = KeyMaterial::new(algorithm, Secret::copy_from(bytes)).unwrap();
    provider.key(&material).unwrap()
}

pub(crate) fn nonce_of(bytes: &[u8]) -> Nonce {
    let mut nonce = [0; MAX_NONCE_LEN];
    nonce[..bytes.len()].copy_from_slice(bytes);
    nonce
}

/// Every provider with every algorithm that it has.
pub(crate) fn all() -> impl Iterator<Item = (Provider, Algorithm)> {
    let providers = Provider::ALL.iter().copied();
    let pairs =
        providers.flat_map(|provider| Algorithm::ALL.iter().map(move |algorithm| (provider, *algorithm)));
    pairs.filter(|(provider, algorithm)| provider.has(*algorithm))
}

/// Every key of `algorithm` over `bytes`, one for each provider.
pub(crate) fn keys(algorithm: Algorithm, bytes: &[u8]) -> Vec<Box<dyn Aead>> {
    let providers = all().filter(|(_, one)| *one == algorithm);
    providers
        .map(|(provider, algorithm)| key(provider, algorithm, bytes))
        .collect()
}

/// How many providers have `algorithm`; not all can run on every CPU.
pub(crate) fn providers(algorithm: Algorithm) -> usize {
    all().filter(|(_, one)| *one == algorithm).count()
}

/// The ICV that a cipher with a MAC adds to a message without associated data: over IV and ciphertext (RFC 4303
/// section 3.3.2.1). By HMAC alone, which others' vectors prove by itself.
pub(crate) fn icv_of_cipher(
    algorithm: Algorithm,
    integrity: &[u8],
    nonce: &[u8],
    ciphertext: &[u8],
) -> Vec<u8> {
    let (Algorithm::AesCbcHmac(_, hmac) | Algorithm::AesCtrHmac(_, hmac)) = algorithm else {
        panic!("{algorithm} is no cipher with a MAC");
    };
    let mut covered = [&nonce[algorithm.salt_len()..], ciphertext].concat();
    let mut icv = vec![0; hmac.tag_len()];
    let mac = key(Provider::RustCrypto, Algorithm::NullHmac(hmac), integrity);
    mac.seal(&nonce_of(&[]), &[], &mut covered, &mut icv).unwrap();
    icv
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// A message and what becomes of it, as somebody else says.
pub(crate) struct Vector<'a> {
    pub(crate) nonce: &'a [u8],
    pub(crate) aad: &'a [u8],
    pub(crate) plaintext: &'a [u8],
    pub(crate) ciphertext: &'a [u8],
    pub(crate) tag: &'a [u8],
}

impl Vector<'_> {
    /// Sealing gives the ciphertext and the tag, opening the plaintext.
    pub(crate) fn holds(&self, key: &dyn Aead, context: &str) {
        let nonce = nonce_of(self.nonce);
        let (mut data, mut tag) = (self.plaintext.to_vec(), vec![0; key.algorithm().tag_len()]);
        assert_eq!(
            key.seal(&nonce, self.aad, &mut data, &mut tag),
            Ok(()),
            "{key:?} {context}"
        );
        assert_eq!(data, self.ciphertext, "{key:?} {context}");
        assert_eq!(tag, self.tag, "{key:?} {context}");
        assert_eq!(
            key.open(&nonce, self.aad, &mut data, &tag),
            Ok(()),
            "{key:?} {context}"
        );
        assert_eq!(data, self.plaintext, "{key:?} {context}");
    }

    /// Opening is refused.
    pub(crate) fn is_refused(&self, key: &dyn Aead, context: &str) {
        let mut data = self.ciphertext.to_vec();
        let opened = key.open(&nonce_of(self.nonce), self.aad, &mut data, self.tag);
        assert_eq!(opened, Err(AeadError::NotAuthentic), "{key:?} {context}");
    }
}
