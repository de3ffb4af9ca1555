//! Frames of pcap and pcapng files, one after the other, in the form that the packet parser reads.
//!
//! [`Capture::open`] takes a file, [`Capture::next_frame`] gives its [`Frame`]s. Whatever the link type was, a frame starts
//! at an Ethernet header. Captures often hold only the start of each frame: [`Frame::reader`] knows how long the frame was
//! on the wire, and whether somebody asked for bytes that were not captured.
//!
//! Files are hostile: memory is bounded whatever a file says, and a damaged one ends with an error.
#![forbid(unsafe_code)]

mod error;
mod frame;
mod link;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

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
    interfaces: Vec<Interface>,
    /// The frame handed out last.
    bytes: Vec<u8>,
    frames: u64,
    skipped: u64,
    skipped_links: BTreeSet<i32>,
}

/// What a section says about its interfaces.
#[derive(Clone, Copy)]
struct Interface {
    link_type: i32,
    /// Most bytes of a frame that were kept; 0 for all.
    snap_length: usize,
}

impl Capture {
    /// Opens a pcap or pcapng file.
    ///
    /// # Errors
    /// The file cannot be read, or is neither.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let file = File::open(path).map_err(CaptureError::Open)?;
        Self::read(file)
    }

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
            interfaces: Vec::new(),
            bytes: Vec::new(),
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
                    let raw = take(&block, &mut self.interfaces)?;
                    if let Some((link_type, data, wire_length)) = raw {
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
                    outgoing,
                }));
            }
        }
    }

    /// Frames that were passed over because of their link type, and these link types.
    #[must_use]
    pub fn skipped(&self) -> (u64, Vec<i32>) {
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

/// A frame as it stands in the file: link type, captured bytes and length on the wire.
type Raw<'b> = (i32, &'b [u8], usize);

/// The frame in a block, if it holds one.
fn take<'b>(
    block: &'b PcapBlockOwned<'_>,
    interfaces: &mut Vec<Interface>,
) -> Result<Option<Raw<'b>>, CaptureError> {
    let length = |length: u32| usize::try_from(length).unwrap_or(usize::MAX);
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            interfaces.push(Interface {
                link_type: header.network.0,
                snap_length: 0,
            });
        }
        PcapBlockOwned::Legacy(frame) => {
            let link_type = interfaces.first().map_or(0, |interface| interface.link_type);
            return Ok(Some((link_type, frame.data, length(frame.origlen))));
        }
        // A section starts its numbering of interfaces anew.
        PcapBlockOwned::NG(Block::SectionHeader(_)) => interfaces.clear(),
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            if interfaces.len() >= MOST_INTERFACES {
                return Err(CaptureError::TooManyInterfaces);
            }
            interfaces.push(Interface {
                link_type: interface.linktype.0,
                snap_length: length(interface.snaplen),
            });
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(frame)) => {
            let interface = interfaces
                .get(length(frame.if_id))
                .ok_or(CaptureError::UnknownInterface)?;
            let captured = length(frame.caplen).min(frame.data.len());
            return Ok(Some((
                interface.link_type,
                &frame.data[..captured],
                length(frame.origlen),
            )));
        }
        PcapBlockOwned::NG(Block::SimplePacket(frame)) => {
            let interface = interfaces.first().ok_or(CaptureError::UnknownInterface)?;
            let mut captured = length(frame.origlen).min(frame.data.len());
            if interface.snap_length > 0 {
                captured = captured.min(interface.snap_length);
            }
            return Ok(Some((
                interface.link_type,
                &frame.data[..captured],
                length(frame.origlen),
            )));
        }
        PcapBlockOwned::NG(_) => {}
    }
    Ok(None)
}
