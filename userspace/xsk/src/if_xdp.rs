//! ABI numbers of AF_XDP that the `libc` crate lacks, and the few it has under the names used here.
//!
//! Source: `include/uapi/linux/if_xdp.h`, `include/uapi/asm-generic/socket.h`, `include/uapi/linux/ethtool.h`.

pub(crate) use libc::{
    AF_XDP, SOL_XDP, XDP_COPY, XDP_MMAP_OFFSETS, XDP_OPTIONS, XDP_OPTIONS_ZEROCOPY, XDP_PGOFF_RX_RING,
    XDP_PGOFF_TX_RING, XDP_PKT_CONTD, XDP_RING_NEED_WAKEUP, XDP_RX_RING, XDP_SHARED_UMEM, XDP_STATISTICS,
    XDP_TX_RING, XDP_UMEM_COMPLETION_RING, XDP_UMEM_FILL_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING, XDP_UMEM_REG, XDP_USE_NEED_WAKEUP, XDP_USE_SG, XDP_ZEROCOPY,
};

/// Bytes the kernel leaves in front of a received packet (`include/uapi/linux/bpf.h`).
pub(crate) const XDP_PACKET_HEADROOM: u32 = 256;

/// Descriptors that one packet may have when the kernel copies: `MAX_SKB_FRAGS` and the linear part (`xsk_build_skb` in
/// `net/xdp/xsk.c`).
pub(crate) const LONGEST_CHAIN: u32 = 18;

/// Socket option: descriptors sent per system call in copy mode (Linux 6.17; 32 without it).
pub(crate) const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// `asm-generic/socket.h`: microseconds to busy-poll.
pub(crate) const SO_BUSY_POLL: libc::c_int = 46;
/// `asm-generic/socket.h`: prefer busy polling over interrupts.
pub(crate) const SO_PREFER_BUSY_POLL: libc::c_int = 69;
/// `asm-generic/socket.h`: packets per busy-poll round.
pub(crate) const SO_BUSY_POLL_BUDGET: libc::c_int = 70;

/// `linux/sockios.h`: the ethtool ioctl.
pub(crate) const SIOCETHTOOL: u32 = 0x8946;
/// `linux/ethtool.h`: read the numbers of channels.
pub(crate) const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// `linux/ethtool.h`: switch checksums by the device on or off.
pub(crate) const ETHTOOL_STXCSUM: u32 = 0x17;

/// `struct ethtool_value` of `linux/ethtool.h`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct EthtoolValue {
    pub(crate) cmd: u32,
    pub(crate) data: u32,
}

/// `struct ethtool_channels` of `linux/ethtool.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct EthtoolChannels {
    pub(crate) cmd: u32,
    pub(crate) max_rx: u32,
    pub(crate) max_tx: u32,
    pub(crate) max_other: u32,
    pub(crate) max_combined: u32,
    pub(crate) rx_count: u32,
    pub(crate) tx_count: u32,
    pub(crate) other_count: u32,
    pub(crate) combined_count: u32,
}

/// One entry of the RX and TX rings: `struct xdp_desc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Descriptor {
    /// Byte offset of the packet in the UMEM.
    pub(crate) addr: u64,
    /// Bytes of packet.
    pub(crate) len: u32,
    /// `XDP_PKT_CONTD`: the packet goes on in the next descriptor, asked for with `XDP_USE_SG`. No other is asked for, and a
    /// received one is refused.
    pub(crate) options: u32,
}

const _: () = assert!(size_of::<Descriptor>() == size_of::<libc::xdp_desc>());
const _: () = assert!(align_of::<Descriptor>() == align_of::<libc::xdp_desc>());
const _: () = assert!(size_of::<EthtoolChannels>() == 36);
const _: () = assert!(size_of::<EthtoolValue>() == 8);
