//! Packets of several chunks: gathered into one frame on receiving, scattered over chunks on sending.
//!
//! The kernel marks every descriptor of a packet but the last with `XDP_PKT_CONTD`
//! (`Documentation/networking/af_xdp.rst`, "Multi-Buffer Support"). Packets that fit into a chunk never get here.

use crate::if_xdp::{Descriptor, LONGEST_CHAIN, XDP_PKT_CONTD};
use crate::ledger::Owner;
use crate::umem::LARGE_FRAME;
use crate::{Batch, Frame, PortCounters, Umem};

const _: () = assert!(LARGE_FRAME / 2048 < LONGEST_CHAIN);

/// A packet whose last descriptor has not come yet. Each chunk returns to the free list as soon as it was read, so that
/// nothing is lost with the chain, however it ends.
#[derive(Debug, Default)]
pub(crate) struct Chain<'u> {
    /// 1 while more descriptors of a packet are to come, else 0: a word to be combined with a descriptor's options.
    open: u32,
    descriptors: u32,
    state: State<'u>,
}

/// What becomes of the packet.
#[derive(Debug, Default)]
enum State<'u> {
    /// Nothing of it has come.
    #[default]
    Empty,
    Gathering(Frame<'u>),
    TooLong,
    NoFrame,
    Invalid,
}

impl<'u> Chain<'u> {
    /// The packet of a received descriptor, if it is one, or the last part of one.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        umem: &'u Umem,
        descriptor: Descriptor,
        from: Owner,
        counters: &mut PortCounters,
    ) -> Option<Frame<'u>> {
        let whole = if self.is_whole(descriptor.options) {
            umem.receive(descriptor, from)
        } else {
            None
        };
        // A part of a packet, or no packet at all.
        whole.or_else(|| self.take(umem, descriptor, from, counters))
    }

    /// Whether a descriptor with these options is a whole packet.
    #[inline]
    pub(crate) fn is_whole(&self, options: u32) -> bool {
        options | self.open == 0
    }

    /// Takes a descriptor of a packet; the packet, if this was its last one and nothing is wrong with it. Else it is counted.
    #[cold]
    pub(crate) fn take(
        &mut self,
        umem: &'u Umem,
        descriptor: Descriptor,
        from: Owner,
        counters: &mut PortCounters,
    ) -> Option<Frame<'u>> {
        self.descriptors += 1;
        let state = std::mem::take(&mut self.state);
        self.state = match umem.receive(descriptor, from) {
            Some(piece) if descriptor.options & !XDP_PKT_CONTD == 0 => self.add(state, &piece, umem),
            Some(_) => State::Invalid,
            None => {
                // A chunk that was not the kernel's stays where it is.
                let _ = umem.reclaim(descriptor.addr, from);
                State::Invalid
            }
        };
        self.open = descriptor.options & XDP_PKT_CONTD;
        if self.open != 0 {
            return None;
        }
        match std::mem::take(self).state {
            State::Gathering(frame) => return Some(frame),
            State::TooLong => counters.too_long += 1,
            State::NoFrame => counters.no_frame += 1,
            State::Invalid | State::Empty => counters.invalid += 1,
        }
        None
    }

    fn add(&self, state: State<'u>, piece: &Frame<'u>, umem: &'u Umem) -> State<'u> {
        match state {
            State::Empty => first(piece, umem).map_or(State::NoFrame, State::Gathering),
            State::Gathering(_) if self.descriptors > LONGEST_CHAIN => State::TooLong,
            State::Gathering(mut frame) => match frame.append(piece.len()) {
                Ok(room) => {
                    room.copy_from_slice(piece.data());
                    State::Gathering(frame)
                }
                Err(_) => State::TooLong,
            },
            State::TooLong | State::NoFrame | State::Invalid => state,
        }
    }
}

/// A large frame with the first piece of a packet where it stands in its chunk, and with the metadata in front of it.
fn first<'u>(piece: &Frame<'u>, umem: &'u Umem) -> Option<Frame<'u>> {
    let (start, end) = (piece.headroom(), piece.headroom() + piece.len());
    let mut frame = umem.frame_for(LARGE_FRAME as usize - umem.data_offset() as usize)?;
    let (place, ..) = frame.chunk_mut();
    place.get_mut(..start)?.copy_from_slice(piece.metadata(start)?);
    frame.set_range(start, end).ok()?;
    frame.data_mut().copy_from_slice(piece.data());
    Some(frame)
}

/// How many frames from the front of a batch fit into so many descriptors, of chunks that are filled from `start` on.
pub(crate) fn fitting(batch: &Batch<'_>, start: usize, descriptors: usize) -> usize {
    let mut taken = 0;
    batch
        .iter()
        .take_while(|frame| {
            taken += frame.pieces(start);
            taken <= descriptors
        })
        .count()
}

/// Copies the packet of a large frame into chunks, from `start` on in each, and gives these to `to`, with a descriptor for each;
/// false, and nothing is given, if too few are free.
pub(crate) fn scatter(
    frame: &Frame<'_>,
    umem: &Umem,
    start: usize,
    to: Owner,
    mut give: impl FnMut(Descriptor),
) -> bool {
    if umem.free_frames() < frame.pieces(start) {
        return false;
    }
    let mut pieces = frame.data().chunks(umem.frame_size() - start).peekable();
    while let Some(piece) = pieces.next() {
        // There are enough, as just seen, and a piece fits behind `start`.
        let Some(mut chunk) = umem.frame() else {
            return false;
        };
        if chunk.set_range(start, start + piece.len()).is_err() {
            return false;
        }
        chunk.data_mut().copy_from_slice(piece);
        let (chunk, ..) = chunk.into_parts();
        umem.ledger().give(chunk, to);
        give(Descriptor {
            addr: umem.address(chunk) + start as u64,
            // At most 4096.
            len: piece.len() as u32,
            options: if pieces.peek().is_some() { XDP_PKT_CONTD } else { 0 },
        });
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::UmemOptions;

    const FILL: Owner = Owner::fill(0);

    fn umem(frame_count: u32, large_frames: u32) -> Umem {
        Umem::new(&UmemOptions {
            frame_count,
            large_frames,
            ..UmemOptions::default()
        })
        .unwrap()
    }

    /// A descriptor of a chunk that the kernel has filled with `bytes`.
    fn filled(umem: &Umem, start: usize, bytes: &[u8], options: u32) -> Descriptor {
        let mut frame = umem.frame().unwrap();
        frame.chunk_mut().0[..start].fill(0xaa);
        frame.set_range(start, start + bytes.len()).unwrap();
        frame.data_mut().copy_from_slice(bytes);
        let (chunk, ..) = frame.into_parts();
        umem.ledger().give(chunk, FILL);
        Descriptor {
            addr: umem.address(chunk) + start as u64,
            len: bytes.len() as u32,
            options,
        }
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn pieces_become_one_frame_with_metadata_in_front() {
        let umem = umem(32, 1);
        let (mut chain, mut counters) = (Chain::default(), PortCounters::default());
        let sent = bytes(9014);
        let count = sent.chunks(1792).len();
        for (number, piece) in sent.chunks(1792).enumerate() {
            let more = u32::from(number + 1 < count);
            assert!(!chain.is_whole(more));
            let descriptor = filled(&umem, 256, piece, more);
            let frame = chain.take(&umem, descriptor, FILL, &mut counters);
            assert_eq!(frame.is_some(), more == 0);
            if let Some(frame) = frame {
                assert!(frame.is_large());
                assert_eq!(frame.data(), sent);
                assert_eq!(frame.metadata(256), Some(&[0xaa; 256][..]));
                assert!(frame.tailroom() > 4096);
                assert_eq!((umem.counts().free, umem.large_counts().held), (32, 1));
            }
        }
        assert!(chain.is_whole(0));
        assert_eq!((umem.counts().free, umem.large_counts().free), (32, 1));
        assert_eq!(counters, PortCounters::default());
    }

    #[test]
    fn a_chain_that_is_too_long_or_finds_no_frame_is_one_counted_drop() {
        let umem = umem(32, 1);
        let (mut chain, mut counters) = (Chain::default(), PortCounters::default());
        let mut run = |lengths: &[usize]| {
            for (number, length) in lengths.iter().enumerate() {
                let more = u32::from(number + 1 < lengths.len());
                let descriptor = filled(&umem, 256, &bytes(*length), more);
                let frame = chain.take(&umem, descriptor, FILL, &mut counters);
                if more == 0 {
                    return (frame, counters);
                }
                assert!(frame.is_none());
            }
            (None, counters)
        };
        // 16,384 bytes less the headroom, and one more.
        let lengths = [1792; 9];
        let (held, counted) = run(&lengths);
        assert_eq!(held.as_ref().unwrap().tailroom(), 0);
        assert_eq!(counted, PortCounters::default());
        let (none, counted) = run(&lengths);
        assert!(none.is_none());
        assert_eq!((counted.no_frame, counted.too_long), (1, 0));
        drop(held);
        assert!(run(&[&lengths[..], &[1]].concat()).0.is_none());
        // However short they are.
        let (longest, _) = run(&[1; LONGEST_CHAIN as usize]);
        assert_eq!(longest.unwrap().len(), 18);
        let (none, counted) = run(&[1; LONGEST_CHAIN as usize + 1]);
        assert!(none.is_none());
        assert_eq!((counted.no_frame, counted.too_long, counted.invalid), (1, 2, 0));
        assert_eq!((umem.counts().free, umem.large_counts().free), (32, 1));
    }

    #[test]
    fn a_chain_without_an_end_is_dropped_with_its_port() {
        let umem = umem(8, 1);
        let mut chain = Chain::default();
        let descriptor = filled(&umem, 256, &bytes(100), 1);
        let mut counters = PortCounters::default();
        assert!(chain.take(&umem, descriptor, FILL, &mut counters).is_none());
        assert_eq!((umem.counts().free, umem.large_counts().held), (8, 1));
        drop(chain);
        assert_eq!(umem.large_counts().free, 1);
    }

    #[test]
    fn scattered_pieces_add_up_to_the_packet() {
        for (start, chunks, enough) in [(0, 8, true), (0, 7, false), (256, 9, true), (256, 8, false)] {
            let umem = umem(chunks, 1);
            let mut frame = umem.frame_for(16_000).unwrap();
            for length in [14, 2047, 2048, 2049, 4096, 9014, 14_337, 16_000] {
                let sent = bytes(length);
                frame.set_range(256, 256 + length).unwrap();
                frame.data_mut().copy_from_slice(&sent);
                let mut descriptors = Vec::new();
                let given = scatter(&frame, &umem, start, Owner::tx(0), |descriptor| {
                    descriptors.push(descriptor);
                });
                assert_eq!(given, enough || length <= 14_336);
                let last = descriptors.len().wrapping_sub(1);
                let mut seen = Vec::new();
                for (number, descriptor) in descriptors.into_iter().enumerate() {
                    assert_eq!(descriptor.options, u32::from(number != last));
                    let piece = umem.receive(descriptor, Owner::tx(0)).unwrap();
                    assert_eq!(piece.headroom(), start);
                    seen.extend_from_slice(piece.data());
                }
                assert_eq!(seen, if given { sent } else { Vec::new() });
                assert_eq!(umem.counts().free, chunks, "each chunk once");
            }
        }
    }

    proptest! {
        /// Whatever descriptors come, every chunk is free or the kernel's afterwards, and only whole chains become frames.
        #[test]
        fn no_chunk_is_lost_with_a_chain(
            moves in prop::collection::vec((0..8u8, any::<bool>(), 0..1792usize), 0..120),
        ) {
            let umem = umem(8, 2);
            let (mut chain, mut counters) = (Chain::default(), PortCounters::default());
            let mut frames = Vec::new();
            // What the chain holds, and whether it can still become a frame.
            let (mut gathered, mut sound, mut pieces) = (Vec::new(), true, 0);
            let mut drops = 0;
            for (what, more, length) in moves {
                let good = filled(&umem, 256, &bytes(length), u32::from(more));
                let descriptor = match what {
                    0 => Descriptor { len: 1793, ..good },
                    1 => Descriptor { options: good.options | 2, ..good },
                    // Not the kernel's.
                    2 => Descriptor { addr: 1 << 40, ..good },
                    _ => good,
                };
                sound &= what > 2;
                pieces += 1;
                gathered.extend(bytes(length));
                if what == 3 {
                    frames.clear();
                }
                if pieces == 1 {
                    sound &= frames.len() < 2;
                }
                let frame = chain.take(&umem, descriptor, FILL, &mut counters);
                if what == 2 {
                    prop_assert!(umem.reclaim(good.addr, FILL), "still the kernel's");
                }
                prop_assert_eq!(umem.counts().free, 8);
                if !more {
                    let fits = pieces <= LONGEST_CHAIN && gathered.len() <= 16_384 - 256;
                    prop_assert_eq!(frame.is_some(), sound && fits);
                    if let Some(frame) = frame {
                        prop_assert_eq!(frame.data(), &gathered[..]);
                        frames.push(frame);
                    } else {
                        drops += 1;
                    }
                    (gathered, sound, pieces) = (Vec::new(), true, 0);
                    prop_assert_eq!(umem.large_counts().held as usize, frames.len());
                }
                prop_assert_eq!(counters.too_long + counters.no_frame + counters.invalid, drops);
            }
        }
    }
}
