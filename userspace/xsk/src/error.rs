//! What can go wrong, and what to do about it.

use std::io;

/// Packet memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UmemError {
    /// AF_XDP allows chunks of 2048 bytes up to one page, powers of two.
    #[error("frame size {frame_size}: use 2048 or 4096")]
    FrameSize {
        /// Bytes asked for.
        frame_size: u32,
    },
    /// No chunk at all, or more than 2^22.
    #[error("frame count {frame_count}: use 1 to 4194304")]
    FrameCount {
        /// Chunks asked for.
        frame_count: u32,
    },
    /// More large frames than 2^16.
    #[error("{large_frames} large frames: use at most 65536")]
    LargeFrames {
        /// Large frames asked for.
        large_frames: u32,
    },
    /// So much headroom that hardly a packet fits.
    #[error("headroom of {headroom} bytes: use at most {limit}, half a frame")]
    Headroom {
        /// Bytes asked for.
        headroom: u32,
        /// Bytes allowed.
        limit: u32,
    },
    /// Huge pages were required and are not to be had.
    #[error(
        "no huge pages for {bytes} bytes of packet memory: {source}; reserve more with sysctl vm.nr_hugepages"
    )]
    HugePages {
        /// Bytes asked for.
        bytes: usize,
        /// What mmap or madvise said.
        source: io::Error,
    },
    /// The crate xsk-rs could not map and register it.
    #[cfg(feature = "xsk-rs")]
    #[error(
        "xsk-rs: no packet memory of {bytes} bytes: {source}; run as root or with CAP_NET_RAW and CAP_IPC_LOCK"
    )]
    XskRs {
        /// Bytes asked for.
        bytes: usize,
        /// What it said.
        source: io::Error,
    },
    /// No memory.
    #[error("cannot map {bytes} bytes of packet memory: {source}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// What mmap said.
        source: io::Error,
    },
}

/// A socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel wants powers of two.
    #[error("{ring} ring of {size} entries: use a power of two from 16 to 32768")]
    RingSize {
        /// Which of the four rings.
        ring: &'static str,
        /// Entries asked for.
        size: u32,
    },
    /// No interface of that name in this network namespace.
    #[error("device {device}: no such network device in this network namespace; see `ip link`")]
    NoSuchDevice {
        /// Name asked for.
        device: String,
    },
    /// The queue's number is too high.
    #[error(
        "device {device} has {queues} queues, numbered from 0: no queue {queue}; see `ethtool -l {device}`"
    )]
    NoSuchQueue {
        /// The device.
        device: String,
        /// Queue asked for.
        queue: u32,
        /// Queues there are.
        queues: u32,
    },
    /// Only one UMEM can be bound to a queue.
    #[error(
        "device {device} queue {queue}: another AF_XDP socket is bound to this queue; stop the program that owns it"
    )]
    QueueInUse {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// A capability is missing.
    #[error(
        "device {device} queue {queue}: {call}: {source}; run as root or with CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF"
    )]
    NotPermitted {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// The system call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Zero-copy was asked for, or is in use by the other ports of the UMEM, and the driver cannot do it.
    #[error(
        "device {device} queue {queue}: {call}: {source}; the driver does not support zero-copy here: open all ports of \
         this packet memory in copy mode"
    )]
    ModeNotSupported {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// The system call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The kernel refuses to pin the packet memory.
    #[error(
        "device {device} queue {queue}: {call}: {source}; packet memory cannot be locked: raise `ulimit -l` or grant \
         CAP_IPC_LOCK"
    )]
    LockedMemory {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// The system call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A UMEM serves at most eight ports.
    #[error("device {device} queue {queue}: the packet memory serves 8 ports already")]
    TooManyPorts {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// Packet memory belongs to the [`Backend`](crate::Backend) that made it.
    #[cfg(feature = "xsk-rs")]
    #[error(
        "device {device} queue {queue}: the packet memory was made by the other AF_XDP backend, or for smaller rings"
    )]
    OtherMemory {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// The kernel was built without AF_XDP.
    #[error("the kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS): {source}")]
    NoAfXdp {
        /// What socket(2) said.
        source: io::Error,
    },
    /// Any other failure.
    #[error("device {device} queue {queue}: {call}: {source}")]
    Call {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// The system call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// A port failed in use.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The device is down. The port stays bound and works again once the device is up; frames in its rings wait.
    #[error("device {device} queue {queue}: the device is down; `ip link set {device} up`")]
    DeviceDown {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// The device was removed. The port is dead: drop it and open another when the device is back.
    #[error("device {device} queue {queue}: the device was removed")]
    DeviceGone {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// Any other failure.
    #[error("device {device} queue {queue}: {call}: {source}")]
    Call {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// The system call.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl PortError {
    /// Sorts what a wakeup said (`xsk_sendmsg`, `xsk_recvmsg`: ENETDOWN while the device is down, ENXIO once the
    /// socket is no longer bound to it).
    pub(crate) fn classify(device: &str, queue: u32, call: &'static str, source: io::Error) -> Self {
        let device = device.to_owned();
        match source.raw_os_error() {
            Some(libc::ENETDOWN) => Self::DeviceDown { device, queue },
            Some(libc::ENXIO) => Self::DeviceGone { device, queue },
            _ => Self::Call {
                device,
                queue,
                call,
                source,
            },
        }
    }
}
