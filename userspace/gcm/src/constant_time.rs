//! Comparison of secrets.
//!
//! What an attacker can make us compare, and where it happens in constant time:
//! - the ICVs of HMAC and GMAC, and [`Secret`](crate::Secret)s: here;
//! - those of AES-GCM and AES-CCM of RustCrypto: `ctutils::CtEq` in their `decrypt_inout_detached`;
//! - that of ChaCha20-Poly1305 of RustCrypto: `UniversalHash::verify`, which is the same;
//! - those of AWS-LC's AEADs: `CRYPTO_memcmp`, in C.
//!
//! A comparison that ends at the first difference would tell a forger, byte for byte, how much of an ICV was right.

/// Whether both have the same length and bytes, in a time that depends on the length only.
pub(crate) fn are_equal(one: &[u8], other: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one, other).is_ok()
}
