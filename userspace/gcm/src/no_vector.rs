//! What stands in for `vector` on processors for which there is none.

use crate::{Aead, KeyMaterial, OpenJob, SealJob};

pub(crate) const MAX_BATCH: usize = 32;

pub(crate) fn has_aes_ni() -> bool {
    false
}

pub(crate) fn has_vaes_avx2() -> bool {
    false
}

pub(crate) fn has_vaes_avx512() -> bool {
    false
}

pub(crate) fn expand_aes_ni(_: &KeyMaterial) -> Option<Box<dyn Aead>> {
    None
}

pub(crate) fn expand_vaes_avx2(_: &KeyMaterial) -> Option<Box<dyn Aead>> {
    None
}

pub(crate) fn expand_vaes_avx512(_: &KeyMaterial) -> Option<Box<dyn Aead>> {
    None
}

pub(crate) fn seal_mixed(_: &mut [(&dyn Aead, SealJob<'_>)]) -> bool {
    false
}

pub(crate) fn open_mixed(_: &mut [(&dyn Aead, OpenJob<'_>)]) -> bool {
    false
}
