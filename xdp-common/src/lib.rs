//! What the BPF programs and user space share.
#![no_std]

mod drop_reason;

pub use drop_reason::DropReason;
