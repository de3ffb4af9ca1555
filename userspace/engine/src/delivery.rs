//! What was opened for this host, on its way into the stack: TCP segments that follow each other go as one packet.

use std::io::{self, IoSlice};

use arrayvec::ArrayVec;
use ravelin_offload::{Run, Segment, VnetHeader};
use ravelin_xsk::{BATCH, Frame, Tun};

/// Connections whose segments are gathered at a time.
const FLOWS: usize = 8;

const TCP: u8 = 6;

/// The runs that have begun.
#[derive(Debug, Default)]
pub(crate) struct Delivery<'u> {
    open: ArrayVec<Gathered<'u>, FLOWS>,
}

/// A run with its packets.
#[derive(Debug)]
struct Gathered<'u> {
    run: Run,
    /// Bytes of headers of each packet, which are the same in all.
    headers: usize,
    frames: ArrayVec<Frame<'u>, BATCH>,
}

/// What became of packets that were handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) taken: u64,
    pub(crate) refused: u64,
}

impl Written {
    fn count(&mut self, packets: usize, result: &io::Result<()>) {
        match result {
            Ok(()) => self.taken += packets as u64,
            Err(_) => self.refused += packets as u64,
        }
    }
}

impl<'u> Delivery<'u> {
    /// Takes an IP packet; it may be written at once, or with those that follow.
    pub(crate) fn add(&mut self, frame: Frame<'u>, tun: &Tun, written: &mut Written) {
        let Some(segment) = Segment::parse(frame.data()) else {
            // It must not overtake what came before it on its connection.
            if is_tcp(frame.data()) {
                self.flush(tun, written);
            }
            let result = write(tun, &VnetHeader::default(), &[frame.data()]);
            written.count(1, &result);
            return;
        };
        if let Some(index) = self.open.iter().position(|open| open.run.is_of(&segment)) {
            let open = &mut self.open[index];
            if !open.frames.is_full() && open.run.take(&segment) {
                open.frames.push(frame);
                if open.run.is_complete() {
                    self.open.swap_remove(index).write(tun, written);
                }
                return;
            }
            self.open.swap_remove(index).write(tun, written);
        } else if self.open.is_full() {
            self.open.remove(0).write(tun, written);
        }
        let run = Run::new(segment);
        let mut gathered = Gathered {
            run,
            headers: segment.headers(),
            frames: ArrayVec::new(),
        };
        gathered.frames.push(frame);
        if run.is_complete() {
            gathered.write(tun, written);
        } else {
            self.open.push(gathered);
        }
    }

    /// Writes everything that has been gathered.
    pub(crate) fn flush(&mut self, tun: &Tun, written: &mut Written) {
        for open in self.open.drain(..) {
            open.write(tun, written);
        }
    }
}

impl Gathered<'_> {
    fn write(mut self, tun: &Tun, written: &mut Written) {
        let count = self.frames.len();
        let Some(first) = self.frames.first_mut() else {
            return;
        };
        let header = self.run.finish(first.data_mut());
        let mut parts: ArrayVec<&[u8], BATCH> = ArrayVec::new();
        for (index, frame) in self.frames.iter().enumerate() {
            let left_out = if index == 0 { 0 } else { self.headers };
            parts.push(frame.data().get(left_out..).unwrap_or_default());
        }
        let result = write(tun, &header, &parts);
        written.count(count, &result);
    }
}

fn write(tun: &Tun, header: &VnetHeader, parts: &[&[u8]]) -> io::Result<()> {
    let header = header.to_bytes();
    let mut slices: ArrayVec<IoSlice<'_>, { BATCH + 1 }> = ArrayVec::new();
    slices.push(IoSlice::new(&header));
    slices.extend(parts.iter().map(|part| IoSlice::new(part)));
    tun.write(&slices)
}

fn is_tcp(packet: &[u8]) -> bool {
    let at = match packet.first().map(|first| first >> 4) {
        Some(4) => 9,
        _ => 6,
    };
    packet.get(at) == Some(&TCP)
}
