//! Frames of pcap and pcapng files, one after the other, in the form that the packet parser reads.
//!
//! [`Capture::read`] takes a file, [`Capture::next_frame`] gives its [`Frame`]s. Whatever the link type was, a frame starts
//! at an Ethernet header. Captures often hold only the start of each frame: [`Frame::reader`] knows how long the frame was
//! on the wire, and whether somebody asked for bytes that were not captured.
//!
//! Files are hostile: memory is bounded whatever a file says, and a damaged one ends with an error.
#![forbid(unsafe_code)]

mod error;
mod frame;
mod link;

use std::collections::BTreeSet;

use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{Block, PcapBlockOwned, PcapError, create_reader};

pub use error::CaptureError;
pub use frame::{CutReader, Frame};
use link::Link;

/// Bytes read at once, and the largest block of a file that is read: far more than any frame takes.
const BUFFER: usize = 4 << 20;

/// Most interfaces of a pcapng section.
const MOST_INTERFACES: usize = 65_536;

/// A capture file that is being read.
pub struct Capture {
    blocks: Box<dyn PcapReaderIterator + Send>,
    section: Section,
    /// The frame handed out last.
    bytes: Vec<u8>,
    /// When it was captured, in nanoseconds; frames without a time have that of the one before.
    time: u64,
    frames: u64,
    skipped: u64,
    skipped_links: BTreeSet<u16>,
}

/// What a section of the file has said of itself; a classic file is one section.
#[derive(Default)]
struct Section {
    interfaces: Vec<Interface>,
    big_endian: bool,
}

/// What a section says about its interfaces.
#[derive(Clone, Copy)]
struct Interface {
    link_type: u16,
    /// Most bytes of a frame that were kept; 0 for all.
    snap_length: usize,
    /// Ticks of its clock in a second.
    ticks: u64,
}

impl Capture {
    /// Reads a pcap or pcapng file.
    ///
    /// # Errors
    /// It is neither.
    pub fn read(file: impl std::io::Read + Send + 'static) -> Result<Self, CaptureError> {
        let blocks = create_reader(BUFFER, file).map_err(|error| match error {
            PcapError::ReadError => CaptureError::Read,
            _ => CaptureError::NotACapture,
        })?;
        Ok(Self {
            blocks,
            section: Section::default(),
            bytes: Vec::new(),
            time: 0,
            frames: 0,
            skipped: 0,
            skipped_links: BTreeSet::new(),
        })
    }

    /// The next frame, or `None` at the end.
    ///
    /// # Errors
    /// The file ends in the middle of a frame, or holds something that is none.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        loop {
            let mut found = None;
            let exhausted = self.blocks.reader_exhausted();
            match self.blocks.next() {
                Ok((size, block)) => {
                    let raw = self.section.take(&block)?;
                    if let Some(Raw {
                        link_type,
                        data,
                        wire_length,
                        time,
                    }) = raw
                    {
                        self.time = time.unwrap_or(self.time);
                        self.frames += 1;
                        match Link::of(link_type) {
                            Some(link) => found = Some(link.convert(data, wire_length, &mut self.bytes)),
                            None => {
                                self.skipped += 1;
                                self.skipped_links.insert(link_type);
                            }
                        }
                    }
                    self.blocks.consume(size);
                }
                Err(PcapError::Eof) => return Ok(None),
                Err(PcapError::Incomplete(_)) if !exhausted => {
                    self.blocks.refill().map_err(|_| CaptureError::Read)?;
                }
                Err(PcapError::Incomplete(_) | PcapError::UnexpectedEof) => {
                    return Err(CaptureError::CutShort { frames: self.frames });
                }
                Err(PcapError::ReadError) => return Err(CaptureError::Read),
                Err(_) => return Err(CaptureError::Damaged { frames: self.frames }),
            }
            if let Some((wire_length, outgoing)) = found {
                return Ok(Some(Frame {
                    number: self.frames,
                    bytes: &self.bytes,
                    wire_length,
                    time: self.time,
                    outgoing,
                }));
            }
        }
    }

    /// Frames that were passed over because of their link type, and these link types.
    #[must_use]
    pub fn skipped(&self) -> (u64, Vec<u16>) {
        (self.skipped, self.skipped_links.iter().copied().collect())
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture")
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

/// A frame as it stands in the file.
struct Raw<'b> {
    link_type: u16,
    data: &'b [u8],
    wire_length: usize,
    /// In nanoseconds.
    time: Option<u64>,
}

/// The type of the packet block, which the enhanced one has replaced (pcapng, "Packet Block (obsolete!)").
const PACKET_BLOCK: u32 = 2;

impl Section {
    /// The frame in a block, if it holds one.
    fn take<'b>(&mut self, block: &'b PcapBlockOwned<'_>) -> Result<Option<Raw<'b>>, CaptureError> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                if matches!(header.magic_number, 0xa1b2_cd34 | 0x34cd_b2a1) {
                    return Err(CaptureError::Modified);
                }
                self.interfaces.push(Interface {
                    // What stands in front of the 16 bits says how long checksums behind the frames are.
                    link_type: header.network.0 as u16,
                    snap_length: 0,
                    ticks: if header.is_nanosecond_precision() {
                        1_000_000_000
                    } else {
                        1_000_000
                    },
                });
            }
            PcapBlockOwned::Legacy(frame) => {
                let interface = self.interface(0)?;
                let seconds = u64::from(frame.ts_sec) * 1_000_000_000;
                let fraction = nanoseconds(frame.ts_usec.into(), interface.ticks);
                return Ok(Some(Raw {
                    link_type: interface.link_type,
                    data: frame.data,
                    wire_length: length(frame.origlen),
                    time: Some(seconds.saturating_add(fraction)),
                }));
            }
            // A section starts its numbering of interfaces anew.
            PcapBlockOwned::NG(Block::SectionHeader(header)) => {
                *self = Self {
                    interfaces: Vec::new(),
                    big_endian: header.big_endian(),
                };
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                if self.interfaces.len() >= MOST_INTERFACES {
                    return Err(CaptureError::TooManyInterfaces);
                }
                self.interfaces.push(Interface {
                    link_type: interface.linktype.0 as u16,
                    snap_length: length(interface.snaplen),
                    ticks: interface.ts_resolution().unwrap_or(1_000_000),
                });
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(frame)) => {
                let interface = self.interface(frame.if_id)?;
                let captured = length(frame.caplen).min(frame.data.len());
                let ticks = u64::from(frame.ts_high) << 32 | u64::from(frame.ts_low);
                return Ok(Some(Raw {
                    link_type: interface.link_type,
                    data: &frame.data[..captured],
                    wire_length: length(frame.origlen),
                    time: Some(nanoseconds(ticks, interface.ticks)),
                }));
            }
            PcapBlockOwned::NG(Block::SimplePacket(frame)) => {
                let interface = self.interface(0)?;
                let mut captured = length(frame.origlen).min(frame.data.len());
                if interface.snap_length > 0 {
                    captured = captured.min(interface.snap_length);
                }
                return Ok(Some(Raw {
                    link_type: interface.link_type,
                    data: &frame.data[..captured],
                    wire_length: length(frame.origlen),
                    time: None,
                }));
            }
            PcapBlockOwned::NG(Block::Unknown(block)) if block.block_type == PACKET_BLOCK => {
                return self.packet_block(block.data).map(Some);
            }
            PcapBlockOwned::NG(_) => {}
        }
        Ok(None)
    }

    /// The frame of a packet block: number of the interface and of drops in 16 bits each, time, length captured and on the
    /// wire, and the frame.
    fn packet_block<'b>(&self, body: &'b [u8]) -> Result<Raw<'b>, CaptureError> {
        let word = |at: usize| -> Option<u32> {
            let bytes = *body.get(at..)?.first_chunk()?;
            Some(if self.big_endian {
                u32::from_be_bytes(bytes)
            } else {
                u32::from_le_bytes(bytes)
            })
        };
        let whole = || -> Option<(u32, u64, &'b [u8], usize)> {
            let first = word(0)?;
            let interface = if self.big_endian {
                first >> 16
            } else {
                first & 0xffff
            };
            let ticks = u64::from(word(4)?) << 32 | u64::from(word(8)?);
            let captured = length(word(12)?);
            let frame = body.get(20..)?.get(..captured)?;
            Some((interface, ticks, frame, length(word(16)?)))
        };
        let (interface, ticks, data, wire_length) = whole().ok_or(CaptureError::PacketBlock)?;
        let interface = self.interface(interface)?;
        Ok(Raw {
            link_type: interface.link_type,
            data,
            wire_length,
            time: Some(nanoseconds(ticks, interface.ticks)),
        })
    }

    fn interface(&self, number: u32) -> Result<&Interface, CaptureError> {
        self.interfaces
            .get(length(number))
            .ok_or(CaptureError::UnknownInterface)
    }
}

fn length(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// Ticks of a clock as nanoseconds.
fn nanoseconds(ticks: u64, in_a_second: u64) -> u64 {
    let scaled = u128::from(ticks) * 1_000_000_000 / u128::from(in_a_second.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}
