//! The loaded object with the programs of `xdp-ebpf/src/bench.rs`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData, loaded_maps};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use ravelin_classifier::RuleSet;
use ravelin_classifier::reference::{Packet, Transport};
use ravelin_engine::{Filter, Side};
use ravelin_policy::Family;

/// Packets that fit into the trace.
pub(crate) const ROOM: usize = 1 << 20;

/// Packets per call: few enough that a call stays below a tenth of a second at 5 µs per packet.
const CHUNK: u32 = 1 << 14;

/// A packet as the programs read it.
type Words = [u64; 5];

/// A part of the trace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// The object, and its maps for benches.
pub(crate) struct Kernel {
    filter: Filter,
    trace: Array<MapData, Words>,
    verdicts: Array<MapData, [u32; 2]>,
    cursor: Array<MapData, [u32; 4]>,
    generation: u32,
    filled: u32,
}

/// What loops over the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loop {
    Read,
    Classify,
    Walk,
    Verdicts,
}

/// What takes one packet per run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Single {
    Rewrite,
    Frames,
}

impl Kernel {
    /// Loads everything, with counters for so many rules. Nothing is attached.
    pub(crate) fn load(rules: usize) -> Result<Self> {
        let mut filter = Filter::load(u32::try_from(rules)?, u32::MAX)?;
        let bpf = filter.ebpf_mut();
        for name in [
            "bench_read",
            "bench_classify",
            "bench_walk",
            "bench_verdicts",
            "bench_rewrite",
            "bench_frames",
            "bench_send",
            "bench_drop",
        ] {
            let program: &mut Xdp = bpf
                .program_mut(name)
                .with_context(|| {
                    format!("the BPF object has no program `{name}`; start with `cargo xtask bench filter`")
                })?
                .try_into()?;
            program
                .load()
                .with_context(|| format!("the kernel refused `{name}`"))?;
        }
        let mut map = |name| {
            bpf.take_map(name)
                .with_context(|| format!("the BPF object has no map `{name}`"))
        };
        Ok(Self {
            trace: map("BENCH_TRACE")?.try_into()?,
            verdicts: map("BENCH_VERDICTS")?.try_into()?,
            cursor: map("BENCH_CURSOR")?.try_into()?,
            filter,
            generation: 0,
            filled: 0,
        })
    }

    /// Lets a device drop everything it receives.
    pub(crate) fn attach_drop(&mut self, device: &str) -> Result<()> {
        self.program("bench_drop")?.attach(device, XdpMode::Driver)?;
        Ok(())
    }

    pub(crate) fn filter(&mut self) -> &mut Filter {
        &mut self.filter
    }

    /// Puts a rule set in force.
    pub(crate) fn apply(&mut self, rules: &RuleSet) -> Result<()> {
        self.generation += 1;
        Ok(self.filter.apply(rules, self.generation)?)
    }

    /// Puts a rule set in force; the bytes of maps that came with it.
    pub(crate) fn apply_and_weigh(&mut self, rules: &RuleSet) -> Result<u64> {
        let last = loaded_maps().filter_map(Result::ok).map(|map| map.id()).max();
        self.apply(rules)?;
        // Arrays of cache lines: others on this machine may make maps as well, but hardly such.
        let fresh = loaded_maps()
            .filter_map(Result::ok)
            .filter(|map| Some(map.id()) > last && map.value_size() == 64)
            .map(|map| u64::from(map.max_entries()) * 64);
        Ok(fresh.sum())
    }

    /// Forgets the trace.
    pub(crate) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Adds packets to the trace.
    pub(crate) fn add(&mut self, packets: &[Packet]) -> Result<Segment> {
        let first = self.filled;
        ensure!(first as usize + packets.len() <= ROOM, "the trace is full");
        for (index, packet) in (first..).zip(packets) {
            self.trace.set(index, words(packet), 0)?;
        }
        let count = packets.len() as u32;
        self.filled += count;
        Ok(Segment { first, count })
    }

    /// Nanoseconds per packet of a loop over a part of the trace.
    pub(crate) fn time(&mut self, what: Loop, segment: Segment) -> Result<f64> {
        let mut total = 0;
        let mut done = 0;
        while done < segment.count {
            let count = CHUNK.min(segment.count - done);
            total += self.chunk(what, segment.first + done, count)?;
            done += count;
        }
        Ok(total as f64 / f64::from(segment.count))
    }

    /// The verdicts: rule id and decision.
    pub(crate) fn verdicts(&mut self, segment: Segment) -> Result<Vec<[u32; 2]>> {
        self.time(Loop::Verdicts, segment)?;
        let verdicts =
            (segment.first..segment.first + segment.count).map(|index| self.verdicts.get(&index, 0));
        Ok(verdicts.collect::<Result<_, _>>()?)
    }

    fn chunk(&mut self, what: Loop, first: u32, count: u32) -> Result<u64> {
        // `Order` of xdp-ebpf/src/bench.rs.
        let mut order = [0; 64];
        order[..4].copy_from_slice(&first.to_ne_bytes());
        order[4..8].copy_from_slice(&count.to_ne_bytes());
        let mut answer = [0; 64];
        let name = match what {
            Loop::Read => "bench_read",
            Loop::Classify => "bench_classify",
            Loop::Walk => "bench_walk",
            Loop::Verdicts => "bench_verdicts",
        };
        let result = self.program(name)?.test_run(TestRunOptions {
            data_in: Some(&order),
            data_out: Some(&mut answer),
            ..TestRunOptions::new()
        })?;
        let number = |range: std::ops::Range<usize>| answer[range].try_into().map(u32::from_ne_bytes);
        ensure!(
            result.return_value == 2 && number(0..4)? == first + count,
            "`{name}` stopped at packet {} of {first}..{}",
            number(0..4)?,
            first + count
        );
        Ok(answer[8..16].try_into().map(u64::from_ne_bytes)?)
    }

    /// Nanoseconds per packet, over frames made from a part of the trace.
    pub(crate) fn time_frames(&mut self, what: Single, family: Family, segment: Segment) -> Result<f64> {
        self.rewind(segment, 0)?;
        let name = match what {
            Single::Rewrite => "bench_rewrite",
            Single::Frames => "bench_frames",
        };
        // In small runs, because the kernel hands back whole nanoseconds, and an average over all of one run.
        let repeat = segment.count.min(CHUNK);
        let (mut total, mut runs) = (Duration::ZERO, 0);
        while runs * repeat < segment.count {
            let mut out = [0; 128];
            let result = self.program(name)?.test_run(TestRunOptions {
                data_in: Some(&frame(family)),
                data_out: Some(&mut out),
                repeat,
                ..TestRunOptions::new()
            })?;
            ensure!(result.return_value != 0, "`{name}` gave up");
            total += result.duration;
            runs += 1;
        }
        Ok(total.as_nanos() as f64 / f64::from(runs))
    }

    /// Nanoseconds per run of the outer program, over one frame.
    pub(crate) fn time_one_frame(&mut self, packet: &Packet) -> Result<f64> {
        let bytes = self.frame_of(packet)?;
        let mut out = [0; 128];
        let result = self.filter.xdp(Side::Outer)?.test_run(TestRunOptions {
            data_in: Some(&bytes),
            data_out: Some(&mut out),
            repeat: 1 << 17,
            ..TestRunOptions::new()
        })?;
        Ok(result.duration.as_nanos() as f64)
    }

    /// The frame that the programs make of a packet. Overwrites the start of the trace.
    fn frame_of(&mut self, packet: &Packet) -> Result<Vec<u8>> {
        let kept = self.trace.get(&0, 0)?;
        self.trace.set(0, words(packet), 0)?;
        self.rewind(Segment { first: 0, count: 1 }, 0)?;
        let family = if packet.source.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let mut out = [0; 128];
        let result = self.program("bench_rewrite")?.test_run(TestRunOptions {
            data_in: Some(&frame(family)),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        })?;
        self.trace.set(0, kept, 0)?;
        Ok(out[..result.data_size_out as usize].to_vec())
    }

    /// Sends packets of the trace by a device, `count` of them, as frames that the other end takes for its own.
    pub(crate) fn send(&mut self, family: Family, count: u32) -> Result<()> {
        self.program("bench_send")?.test_run(TestRunOptions {
            data_in: Some(&frame(family)),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(64),
            ..TestRunOptions::new()
        })?;
        Ok(())
    }

    /// The next frame is the first of a part of the trace, and goes by `device`.
    pub(crate) fn rewind(&mut self, segment: Segment, device: u32) -> Result<()> {
        let last = segment.first + segment.count - 1;
        Ok(self
            .cursor
            .set(0, [segment.first, last, segment.first, device], 0)?)
    }

    fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self
            .filter
            .ebpf_mut()
            .program_mut(name)
            .context("a program of the object")?;
        Ok(program.try_into()?)
    }
}

/// The packet as `BENCH_TRACE` holds it.
fn words(packet: &Packet) -> Words {
    let flow = packet.flow();
    let known = u64::from(!matches!(packet.transport, Transport::Ports(..)));
    let rest = u64::from(flow.source_port)
        | u64::from(flow.destination_port) << 16
        | u64::from(flow.protocol) << 32
        | (flow.family as u64) << 40
        | known << 48;
    [
        flow.source[0],
        flow.source[1],
        flow.destination[0],
        flow.destination[1],
        rest,
    ]
}

/// A frame whose addresses, protocol and ports the programs write: any upper layer that the parser knows finds what
/// it wants in it, an UDP length, a TCP data offset.
fn frame(family: Family) -> Vec<u8> {
    const UPPER: u16 = 26;
    // To nobody: a stack that gets it drops it at once.
    let mut frame = vec![2, 0, 0, 0, 0, 0xfe, 2, 0, 0, 0, 0, 1];
    match family {
        Family::V4 => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + UPPER).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
            frame.extend([0; 8]);
        }
        Family::V6 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(UPPER.to_be_bytes());
            frame.extend([6, 64]);
            frame.extend([0; 32]);
        }
    }
    let mut upper = [0; UPPER as usize];
    upper[4..6].copy_from_slice(&UPPER.to_be_bytes());
    upper[12] = 0x50;
    frame.extend(upper);
    frame
}
