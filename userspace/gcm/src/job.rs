//! One packet's share of a batch.

use crate::Nonce;

/// Longest associated data of a job, in bytes. ESP needs 8, or 12 with extended sequence numbers (RFC 4106
/// section 5); the rest is room to stay on a whole number of words.
pub const MAX_AAD_LEN: usize = 20;

/// The associated data does not fit a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("associated data of {0} bytes; a job holds at most {MAX_AAD_LEN}")]
pub struct AadTooLong(pub usize);

/// Associated data, held in the job itself because in ESP it is not contiguous in the packet: the high half of an
/// extended sequence number is authenticated but not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AssociatedData {
    bytes: [u8; MAX_AAD_LEN],
    len: u8,
}

impl AssociatedData {
    /// Copies `bytes`.
    ///
    /// # Errors
    /// [`AadTooLong`] beyond [`MAX_AAD_LEN`].
    pub fn new(bytes: &[u8]) -> Result<Self, AadTooLong> {
        let len = u8::try_from(bytes.len()).map_err(|_| AadTooLong(bytes.len()))?;
        let mut aad = Self {
            bytes: [0; MAX_AAD_LEN],
            len,
        };
        aad.bytes
            .get_mut(..bytes.len())
            .ok_or(AadTooLong(bytes.len()))?
            .copy_from_slice(bytes);
        Ok(aad)
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// How many bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len.into()
    }

    /// The first 16 bytes, zeros where there are fewer.
    #[inline]
    pub(crate) fn first_block(&self) -> &[u8; 16] {
        let [block @ .., _, _, _, _] = &self.bytes;
        block
    }
}

impl From<[u8; 8]> for AssociatedData {
    #[inline]
    fn from(value: [u8; 8]) -> Self {
        let mut bytes = [0; MAX_AAD_LEN];
        bytes[..8].copy_from_slice(&value);
        Self { bytes, len: 8 }
    }
}

impl From<[u8; 12]> for AssociatedData {
    #[inline]
    fn from(value: [u8; 12]) -> Self {
        let mut bytes = [0; MAX_AAD_LEN];
        bytes[..12].copy_from_slice(&value);
        Self { bytes, len: 12 }
    }
}

/// A message to encrypt in place.
#[derive(Debug)]
pub struct SealJob<'a> {
    /// Never used before with this key.
    pub nonce: Nonce,
    /// Authenticated, not encrypted.
    pub aad: AssociatedData,
    /// Plaintext before, ciphertext after.
    pub data: &'a mut [u8],
    /// Where the tag goes.
    pub tag: &'a mut [u8],
    sealed: bool,
}

impl<'a> SealJob<'a> {
    /// A job not done yet.
    #[inline]
    pub fn new(nonce: Nonce, aad: impl Into<AssociatedData>, data: &'a mut [u8], tag: &'a mut [u8]) -> Self {
        Self {
            nonce,
            aad: aad.into(),
            data,
            tag,
            sealed: false,
        }
    }

    /// Whether the data is now ciphertext with a valid tag; false until a provider has done the job.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// For providers: records the result.
    pub fn finish(&mut self, sealed: bool) {
        self.sealed = sealed;
    }
}

/// A message to verify and decrypt in place.
#[derive(Debug)]
pub struct OpenJob<'a> {
    /// The nonce it was sealed with.
    pub nonce: Nonce,
    /// Authenticated, not encrypted.
    pub aad: AssociatedData,
    /// Ciphertext before; plaintext after if, and only if, the tag verified.
    pub data: &'a mut [u8],
    /// The tag that came with it.
    pub tag: &'a [u8],
    verified: bool,
}

impl<'a> OpenJob<'a> {
    /// A job not done yet.
    #[inline]
    pub fn new(nonce: Nonce, aad: impl Into<AssociatedData>, data: &'a mut [u8], tag: &'a [u8]) -> Self {
        Self {
            nonce,
            aad: aad.into(),
            data,
            tag,
            verified: false,
        }
    }

    /// Whether the tag verified and the data is now plaintext; false until a provider has done the job.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.verified
    }

    /// For providers: records the result.
    pub fn finish(&mut self, verified: bool) {
        self.verified = verified;
    }
}

#[cfg(test)]
mod tests {
    use super::{AadTooLong, AssociatedData, MAX_AAD_LEN};

    #[test]
    fn associated_data_keeps_its_length() {
        assert_eq!(AssociatedData::from([7; 8]).as_slice(), [7; 8]);
        assert_eq!(AssociatedData::from([7; 12]).as_slice(), [7; 12]);
        for len in [0, 1, MAX_AAD_LEN] {
            assert_eq!(
                AssociatedData::new(&vec![9; len]).map(|aad| aad.as_slice().len()),
                Ok(len)
            );
        }
        for len in [MAX_AAD_LEN + 1, 256, 1000] {
            assert_eq!(AssociatedData::new(&vec![9; len]), Err(AadTooLong(len)));
        }
    }
}
