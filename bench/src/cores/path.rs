//! A worker's packet path with one SA, by itself or with a crypto thread.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ravelin_bench::memory_port::{Driver, MemoryPort, Wire};
use ravelin_bench::rig::{Network, TURN};
use ravelin_bench::work::Work;
use ravelin_bench::{interrupt, machine};
use ravelin_engine::CryptoPool;
use ravelin_xdp_common::Direction;
use ravelin_xsk::{Umem, UmemOptions};

/// Chunks of packet memory: batches on their way, those that are away, and some to spare.
const CHUNKS: u32 = 1024;

/// Packets of each pass that go through before time is taken: until then a crypto thread has woken.
const WARM_UP: usize = 512;

const ETHERNET: usize = 14;

/// Offset of the sequence number in a sealed packet: IPv4, and the SPI.
const SEQUENCE: usize = 20 + 4;

/// Packet memory.
pub(crate) fn memory() -> Result<Umem> {
    Ok(Umem::new(&UmemOptions {
        frame_count: CHUNKS,
        ..UmemOptions::default()
    })?)
}

/// Packets per second over about `time`, and how many were overtaken by a later one. The crypto thread, if there is to be one, has
/// this CPU.
pub(crate) fn measure(
    network: &Network,
    memory: &Umem,
    work: Work,
    crypto: Option<usize>,
    time: Duration,
) -> Result<(f64, usize)> {
    let (inner, outer) = (Wire::default(), Wire::default());
    let (from, to) = match work.direction {
        Direction::Outbound => (&inner, &outer),
        Direction::Inbound => (&outer, &inner),
    };
    thread::scope(|scope| {
        let mut path = network.path(
            MemoryPort::new(memory, &inner, Driver::Done)?,
            MemoryPort::new(memory, &outer, Driver::Done)?,
        );
        if let Some(cpu) = crypto {
            let (pool, threads) = CryptoPool::new(1);
            let pinned = Arc::new(Barrier::new(threads.len() + 1));
            for thread in threads {
                let pinned = Arc::clone(&pinned);
                scope.spawn(move || {
                    machine::pin_to(cpu).expect("one of the CPUs of this program");
                    pinned.wait();
                    thread.run();
                });
            }
            // With a real-time priority it would not come to leave this CPU, once there is work.
            pinned.wait();
            path = path.with_pool(pool);
        }
        let mut pass = |count: usize| -> Result<Duration> {
            let before = to.sent();
            let start = Instant::now();
            from.release(count);
            loop {
                let turn = path.turn()?;
                if from.left() == 0 && !turn.away {
                    break;
                }
            }
            let taken = start.elapsed();
            let sent = to.sent() - before;
            ensure!(
                sent == count,
                "of {count} packets {sent} came out: {:?}",
                network.drops()
            );
            Ok(taken)
        };
        let at = match work.direction {
            Direction::Outbound => SEQUENCE,
            Direction::Inbound => TURN,
        };
        let (mut packets, mut taken) = (0, Duration::ZERO);
        let load = work.count();
        from.load(work.packets(network)?);
        while taken < time {
            to.expect_numbers(ETHERNET + at);
            if work.direction == Direction::Inbound {
                from.load(work.packets(network)?);
            }
            pass(WARM_UP)?;
            taken += pass(load - WARM_UP)?;
            packets += load - WARM_UP;
            interrupt::check()?;
        }
        Ok((packets as f64 / taken.as_secs_f64(), to.overtaken()))
    })
}
