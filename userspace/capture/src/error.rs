//! What can be wrong with a capture file.

use thiserror::Error;

/// Why a capture, or the rest of one, cannot be read.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The file cannot be read.
    #[error("cannot read the capture")]
    Read,
    /// Neither format.
    #[error("neither pcap nor pcapng; captures are written by tcpdump -w, dumpcap and Wireshark")]
    NotACapture,
    /// A format of old Linux tools, whose frames have longer headers.
    #[error(
        "this is the modified pcap format of old Linux tools (0xa1b2cd34), which is not read; `editcap -F pcap` makes a pcap file of it"
    )]
    Modified,
    /// A packet block, of a kind that nobody writes any more, that does not hold what it says.
    #[error("the capture is damaged: a packet block does not hold its frame")]
    PacketBlock,
    /// The file ends early.
    #[error("the capture ends in the middle of a frame, after {frames} whole ones")]
    CutShort {
        /// Frames before.
        frames: u64,
    },
    /// What should be a frame is none, or is absurdly large.
    #[error("the capture is damaged after {frames} frames")]
    Damaged {
        /// Frames before.
        frames: u64,
    },
    /// A frame of an interface that was not described.
    #[error("the capture is damaged: a frame belongs to no interface")]
    UnknownInterface,
    /// Hostile, or damaged.
    #[error("the capture describes more interfaces than any machine has")]
    TooManyInterfaces,
}
