//! Per-CPU counters. A plain add is enough: each CPU has its own slot and programs of one CPU do not interleave
//! in the same hook.

use ravelin_xdp_common::{DropReason, Pass};

use crate::maps::{AUDITED, DROPS, PASSES, RULES};

/// Counts a dropped packet.
#[inline(always)]
pub fn dropped(reason: DropReason) {
    if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is to this CPU's slot, which no other CPU writes.
        unsafe { *count += 1 };
    }
}

/// Counts a packet that only an audit kept from being dropped.
#[inline(always)]
pub fn audited(reason: DropReason) {
    if let Some(count) = AUDITED.get_ptr_mut(reason as u32) {
        // SAFETY: as in `dropped`.
        unsafe { *count += 1 };
    }
}

/// Counts a packet left to the kernel.
#[inline(always)]
pub fn passed(kind: Pass) {
    if let Some(count) = PASSES.get_ptr_mut(kind as u32) {
        // SAFETY: as in `dropped`.
        unsafe { *count += 1 };
    }
}

/// Counts a packet for the rule that decided; ids out of range, `NO_RULE` among them, count nowhere.
#[inline(always)]
pub fn matched(rule_id: u32, length: u16) {
    matched_many(rule_id, 1, length.into());
}

/// Counts `packets` of together `length` bytes for the rule that decided.
#[inline(always)]
pub fn matched_many(rule_id: u32, packets: u64, length: u64) {
    if let Some(counter) = RULES.get_ptr_mut(rule_id) {
        // SAFETY: as in `dropped`.
        unsafe {
            (*counter).packets += packets;
            (*counter).bytes += length;
        }
    }
}
