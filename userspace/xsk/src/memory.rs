//! The memory behind a UMEM, whoever mapped it.

use std::ptr::NonNull;

use crate::error::UmemError;
use crate::syscall::{self, Mapping};
use crate::{HugePages, Pages};
#[cfg(feature = "xsk-rs")]
use crate::{PortOptions, UmemOptions, xsk_rs_memory::XskRsMemory};

/// Memory that stays mapped as long as this lives.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Of all of it; kept here so that a packet's place costs no look at the owner.
    start: NonNull<u8>,
    #[cfg_attr(not(feature = "xsk-rs"), expect(dead_code, reason = "held for its Drop"))]
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    Ours(#[expect(dead_code, reason = "held for its Drop")] Mapping),
    #[cfg(feature = "xsk-rs")]
    XskRs(XskRsMemory),
}

// SAFETY: memory belongs to the process, not to a thread; the pointer is that of the owner, which may be sent.
unsafe impl Send for Memory {}

impl Memory {
    /// Maps anonymous memory.
    pub(crate) fn map(bytes: usize, huge_pages: HugePages) -> Result<(Self, Pages), UmemError> {
        let (memory, pages) = map(bytes, huge_pages)?;
        let start = memory.start();
        let owner = Owner::Ours(memory);
        Ok((Self { start, owner }, pages))
    }

    /// Has xsk-rs map it, and register it with the kernel.
    #[cfg(feature = "xsk-rs")]
    pub(crate) fn of_xsk_rs(options: &UmemOptions, port: &PortOptions) -> Result<(Self, Pages), UmemError> {
        let (memory, start, pages) = XskRsMemory::new(options, port)?;
        let owner = Owner::XskRs(memory);
        Ok((Self { start, owner }, pages))
    }

    #[inline]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    #[cfg(feature = "xsk-rs")]
    pub(crate) fn xsk_rs(&self) -> Option<&XskRsMemory> {
        match &self.owner {
            Owner::Ours(_) => None,
            Owner::XskRs(memory) => Some(memory),
        }
    }
}

fn map(bytes: usize, huge_pages: HugePages) -> Result<(Mapping, Pages), UmemError> {
    if huge_pages != HugePages::Never {
        // Touched now: a shortage shall show here and not as SIGBUS later.
        match syscall::map_huge(bytes).and_then(|memory| syscall::populate(&memory).map(|()| memory)) {
            Ok(memory) => {
                syscall::keep_private(memory.start(), memory.len());
                return Ok((memory, Pages::Huge));
            }
            Err(source) if huge_pages == HugePages::Require => {
                return Err(UmemError::HugePages { bytes, source });
            }
            Err(_) => {}
        }
    }
    let memory = syscall::map_anonymous(bytes).map_err(|source| UmemError::Memory { bytes, source })?;
    let merged = huge_pages == HugePages::Prefer && syscall::advise_huge(&memory);
    // Older kernels cannot populate on request; registration will touch the pages then.
    let _ = syscall::populate(&memory);
    syscall::keep_private(memory.start(), memory.len());
    Ok((memory, if merged { Pages::Transparent } else { Pages::Normal }))
}
