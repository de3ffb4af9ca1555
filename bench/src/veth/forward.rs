//! Plain forwarding by AF_XDP: our sockets, and nothing between them.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use aya::maps::XskMap;
use aya::programs::{Xdp, XdpMode};
use ravelin_bench::machine;
use ravelin_xsk::{Batch, Mode, Port as _, PortOptions, Socket, Umem, UmemOptions};

use crate::wire::{LAN, WAN, Wires};

/// The driver's part, attached.
pub(crate) fn attach(wires: &mut Wires) -> Result<Forward> {
    let (namespace, bpf) = wires.forwarding();
    namespace.enter(|| {
        let program: &mut Xdp = bpf
            .program_mut("bench_forward")
            .context("bench_forward")?
            .try_into()?;
        program.load()?;
        program.attach(LAN, XdpMode::Driver).context(LAN)?;
        Ok(())
    })?;
    let map = bpf.take_map("OUTER_SOCKETS").context("OUTER_SOCKETS")?;
    Ok(Forward {
        sockets: map.try_into()?,
    })
}

/// Where the driver looks for the forwarder's socket.
pub(crate) struct Forward {
    sockets: XskMap<aya::maps::MapData>,
}

impl Forward {
    /// Forwards on this thread, which has to be in the gateway's namespace, until told to end.
    pub(crate) fn serve(&mut self, cpu: usize, ready: &AtomicBool, done: &AtomicBool) -> Result<()> {
        machine::pin_to(cpu)?;
        let options = PortOptions {
            mode: Mode::Copy,
            ..PortOptions::default()
        };
        let umem = Umem::new(&UmemOptions {
            frame_count: 2 * options.frames(),
            ..UmemOptions::default()
        })?;
        let mut inner = Socket::open(&umem, LAN, 0, &options)?;
        let mut outer = Socket::open(&umem, WAN, 0, &options)?;
        inner.refill();
        self.sockets.set(0, inner.fd(), 0)?;
        ready.store(true, Ordering::Release);
        let mut batch = Batch::new();
        while !done.load(Ordering::Relaxed) {
            outer.reclaim();
            inner.rx(&mut batch);
            outer.tx(&mut batch);
            // What does not go now goes with the next ones.
            let _ = outer.kick()?;
        }
        Ok(())
    }
}
