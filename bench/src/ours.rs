//! A worker's packet path over ports in memory, and how many packets it passes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use ravelin_classifier::Host;
use ravelin_xdp_common::Direction;
use ravelin_xsk::{HugePages, Umem, UmemOptions};

use crate::interrupt;
use crate::memory_port::{Driver, MemoryPort, Wire};
use crate::rig::Network;
use crate::work::Work;

/// Chunks of packet memory: batches on their way and some to spare. `net_pcap` takes them from its pool as warm as this.
const CHUNKS: u32 = 512;

/// Packets that go through before time is taken: two and more of each SA, up to 2,048 SAs. Of 100,000, few caches keep many anyway.
const WARM_UP: usize = 4096;

/// Packets between looks at the clock, where they need not be made anew.
const STRETCH: usize = 8192;

/// Whether the driver's decision is part of what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The decision that the XDP programs make for each packet, and the worker.
    Whole,
    /// The worker alone.
    Worker,
}

impl Part {
    /// In the order of the columns.
    pub const ALL: [Self; 2] = [Self::Whole, Self::Worker];
}

/// Packet memory, in huge pages if there are any.
///
/// # Errors
/// Not enough memory.
pub fn memory(huge_pages: bool) -> Result<Umem> {
    Ok(Umem::new(&UmemOptions {
        frame_count: CHUNKS,
        huge_pages: if huge_pages {
            HugePages::Prefer
        } else {
            HugePages::Never
        },
        ..UmemOptions::default()
    })?)
}

/// Packets per second of this thread's work, over `time` of it. `watched` is told when what is measured begins and ends, each time.
///
/// # Errors
/// A packet that did not come out, Ctrl-C, or what `watched` has to say.
pub fn measure(
    network: &Network,
    drivers: &Host,
    memory: &Umem,
    work: Work,
    part: Part,
    time: Duration,
    mut watched: impl FnMut(bool) -> Result<()>,
) -> Result<f64> {
    let (inner, outer) = (Wire::default(), Wire::default());
    let driver = |direction| match part {
        Part::Whole => Driver::Decides(drivers, direction),
        Part::Worker => Driver::Done,
    };
    let mut path = network.path(
        MemoryPort::new(memory, &inner, driver(Direction::Outbound))?,
        MemoryPort::new(memory, &outer, driver(Direction::Inbound))?,
    );
    let (from, to) = match work.direction {
        Direction::Outbound => (&inner, &outer),
        Direction::Inbound => (&outer, &inner),
    };
    let mut pass = |count: usize| -> Result<Duration> {
        let before = to.sent();
        let start = worked()?;
        from.release(count);
        while from.left() > 0 {
            path.turn()?;
        }
        let time = worked()? - start;
        let sent = to.sent() - before;
        ensure!(
            sent == count,
            "of {count} packets {sent} came out: {:?}",
            network.drops()
        );
        Ok(time)
    };
    let (mut packets, mut taken) = (0, Duration::ZERO);
    match work.direction {
        Direction::Outbound => {
            from.load(work.packets(network)?);
            pass(work.count().max(WARM_UP))?;
            while taken < time {
                watched(true)?;
                taken += pass(STRETCH)?;
                watched(false)?;
                packets += STRETCH;
                interrupt::check()?;
            }
        }
        // Each is taken once only. Making them is not part of it, and neither is what that costs the caches: the other ends' SAs
        // and keys are as large as the gateway's.
        Direction::Inbound => {
            from.load(work.packets(network)?);
            pass(work.count())?;
            while taken < time {
                from.load(network.sealed_frames(work.size, WARM_UP + work.count())?);
                pass(WARM_UP)?;
                watched(true)?;
                taken += pass(work.count())?;
                watched(false)?;
                packets += work.count();
                interrupt::check()?;
            }
        }
    }
    Ok(packets as f64 / taken.as_secs_f64())
}

/// How long this thread has had its CPU.
fn worked() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("this thread's clock")?;
    Ok(time.into())
}
