//! What the namespace tests stand on: a network namespace of their own, a raw packet socket as the outside witness,
//! and a hand-written XDP program.

pub(crate) mod backends;
pub(crate) mod bpf;
pub(crate) mod net;
pub(crate) mod packet;
