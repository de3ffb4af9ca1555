//! ABI numbers of TUN devices (`linux/if_tun.h`, `linux/if.h`).

pub(crate) const TUN_PATH: &str = "/dev/net/tun";

pub(crate) const IFF_TUN: i16 = 0x0001;
pub(crate) const IFF_NO_PI: i16 = 0x1000;
pub(crate) const IFF_VNET_HDR: i16 = 0x4000;
pub(crate) const IFF_MULTI_QUEUE: i16 = 0x0100;

pub(crate) const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
pub(crate) const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;

/// Checksums may be unfinished.
pub(crate) const TUN_F_CSUM: libc::c_ulong = 0x01;
/// TCP over IPv4 may be cut by the reader.
pub(crate) const TUN_F_TSO4: libc::c_ulong = 0x02;
/// TCP over IPv6 may be.
pub(crate) const TUN_F_TSO6: libc::c_ulong = 0x04;
/// So may be segments with CWR.
pub(crate) const TUN_F_TSO_ECN: libc::c_ulong = 0x08;
/// UDP datagrams of one size over IPv4 (Linux 6.2).
pub(crate) const TUN_F_USO4: libc::c_ulong = 0x20;
/// The same over IPv6.
pub(crate) const TUN_F_USO6: libc::c_ulong = 0x40;
