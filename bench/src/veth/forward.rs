//! Plain forwarding by AF_XDP: two sockets, and nothing between them.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use aya::maps::XskMap;
use aya::programs::{Xdp, XdpMode};
use ravelin_bench::machine;
use ravelin_xsk::{Backend, Batch, Mode, Port as _, PortOptions, Rings, UmemOptions};

use crate::gateway::AfXdp;
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
    pub(crate) fn serve(
        &mut self,
        af_xdp: AfXdp,
        cpu: usize,
        ready: &AtomicBool,
        done: &AtomicBool,
    ) -> Result<()> {
        match af_xdp {
            AfXdp::Ours => self.serve_by::<Rings>(cpu, ready, done),
            #[cfg(feature = "xsk-rs")]
            AfXdp::XskRs => self.serve_by::<ravelin_xsk::XskRs>(cpu, ready, done),
            #[cfg(not(feature = "xsk-rs"))]
            AfXdp::XskRs => anyhow::bail!("not built with the feature xsk-rs"),
        }
    }

    fn serve_by<B: Backend>(&mut self, cpu: usize, ready: &AtomicBool, done: &AtomicBool) -> Result<()> {
        machine::pin_to(cpu)?;
        let options = PortOptions {
            mode: Mode::Copy,
            ..PortOptions::default()
        };
        let memory = UmemOptions {
            frame_count: 2 * options.frames(),
            ..UmemOptions::default()
        };
        let umem = B::memory(&memory, &options)?;
        let mut inner = B::open(&umem, LAN, 0, &options)?;
        let mut outer = B::open(&umem, WAN, 0, &options)?;
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
