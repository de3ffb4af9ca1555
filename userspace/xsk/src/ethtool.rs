//! What ethtool(8) sets.

use std::io;

use crate::syscall;

/// Has the stack finish checksums before it hands packets to a device, TCP, UDP and SCTP. Where the device is one end of a veth
/// pair, programs at the other end would see them unfinished.
///
/// # Errors
/// There is no such device, its driver cannot do without, or `CAP_NET_ADMIN` is missing.
pub fn switch_tx_checksums_off(device: &str) -> io::Result<()> {
    syscall::set_tx_checksums(device, false)
}
