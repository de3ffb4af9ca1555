//! Which key is which, without showing it.

use std::fmt;

use aws_lc_rs::hmac;
use ravelin_esp::Secret;

/// Tells keys apart and says nothing about them: HMAC-SHA-256 under the key of a fixed text, cut to 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// The fingerprint of a KEYMAT.
    #[must_use]
    pub fn of(keymat: &Secret) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, keymat.expose());
        let tag = hmac::sign(&key, b"ravelin sequence mark");
        let mut cut = [0; 16];
        cut.iter_mut()
            .zip(tag.as_ref())
            .for_each(|(to, from)| *to = *from);
        Self(cut)
    }

    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// What stands for this key where others are not to see it, and the other way round.
    pub(crate) fn withdrawn(self) -> Self {
        let [first, second] = self.words();
        Self::from_words([first, !second])
    }

    pub(crate) fn words(self) -> [u64; 2] {
        let (words, _) = self.0.as_chunks();
        [words[0], words[1]].map(u64::from_le_bytes)
    }

    pub(crate) fn from_words(words: [u64; 2]) -> Self {
        let mut bytes = [0; 16];
        for (to, word) in bytes.chunks_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::Fingerprint;
    use ravelin_esp::Secret;

    /// `python3 -c 'import hmac; print(hmac.new(bytes(range(20)), b"ravelin sequence mark", "sha256").hexdigest()[:32])'`
    #[test]
    fn it_is_the_hmac_that_any_tool_computes() {
        let keymat: Vec<u8> = (0..20).collect();
        assert_eq!(
            Fingerprint::of(&Secret::from(keymat)).to_string(),
            "ade9da4277de44ec94f91531095e9d36"
        );
    }
}
