//! A gateway's two wires: who sends to it, and who counts what comes out of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{Array, PerCpuArray};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use ravelin_bench::namespace::Namespace;
use ravelin_bench::program::run;
use ravelin_bench::tunnel::{HOST, LOCAL, REMOTES, Tunnel};
use ravelin_bench::{interrupt, machine};

use crate::traffic::Traffic;

/// The gateway's devices.
pub(crate) const LAN: &str = "lan";
pub(crate) const WAN: &str = "wan";

/// MAC addresses of the gateway's neighbours.
pub(crate) const NEIGHBOURS: [&str; 2] = [GENERATOR_MAC, SINK_MAC];

const GENERATOR: &str = "generator";
const SINK: &str = "sink";
const LAN_MAC: &str = "02:00:00:00:00:02";
const WAN_MAC: &str = "02:00:00:00:00:01";
const GENERATOR_MAC: &str = "02:00:00:00:00:07";
const SINK_MAC: &str = "02:00:00:00:00:09";

/// The router beyond the wire.
const ROUTER: &str = "192.0.2.2";

/// Packets between looks at whether to go on.
const BURST: u32 = 1 << 14;

/// Both wires, made anew for each turn.
#[derive(Debug)]
pub(crate) struct Wires {
    /// Where generator and sink are.
    outside: Namespace,
    /// Where the gateway is.
    pub(crate) gateway: Arc<Namespace>,
    bpf: Ebpf,
    generator_cpu: usize,
}

/// What came out in a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) packets: u64,
    pub(crate) esp: u64,
    pub(crate) time: Duration,
}

impl Wires {
    pub(crate) fn new(object: &Path, generator_cpu: usize) -> Result<Self> {
        let (outside, gateway) = (Namespace::new()?, Arc::new(Namespace::new()?));
        let queues = ["numrxqueues", "1", "numtxqueues", "1"];
        let inside = gateway.path();
        for (ours, ours_mac, theirs, theirs_mac) in [
            (GENERATOR, GENERATOR_MAC, LAN, LAN_MAC),
            (SINK, SINK_MAC, WAN, WAN_MAC),
        ] {
            run(outside
                .command("ip")
                .args(["link", "add", "name", ours, "address", ours_mac])
                .args(queues)
                .args(["type", "veth", "peer", "name", theirs, "address", theirs_mac])
                .args(["netns", &inside])
                .args(queues))?;
            outside.ip(&["link", "set", ours, "up"])?;
            gateway.ip(&["link", "set", theirs, "up"])?;
        }
        let (remotes, length) = REMOTES;
        let permanent = ["nud", "permanent"];
        gateway.ip(&["address", "add", "172.16.0.1/16", "dev", LAN])?;
        gateway.ip(&["address", "add", &format!("{LOCAL}/24"), "dev", WAN])?;
        gateway.ip(&["route", "add", &format!("{remotes}/{length}"), "via", ROUTER])?;
        for (address, mac, device) in [(ROUTER, SINK_MAC, WAN), (&HOST.to_string(), GENERATOR_MAC, LAN)] {
            let entry = ["neigh", "add", address, "lladdr", mac, "dev", device];
            gateway.ip(&[&entry[..], &permanent].concat())?;
        }
        let bpf = EbpfLoader::new()
            .btf(None)
            .load_file(object)
            .with_context(|| object.display().to_string())?;
        Ok(Self {
            outside,
            gateway,
            bpf,
            generator_cpu,
        })
    }

    /// Counts at the end of the gateway's outer wire, or where the generator's ends, without a gateway.
    pub(crate) fn attach_sink(&mut self, with_gateway: bool) -> Result<()> {
        let (namespace, device) = match with_gateway {
            true => (&self.outside, SINK),
            false => (&*self.gateway, LAN),
        };
        let bpf = &mut self.bpf;
        namespace.enter(|| {
            let sink = program(bpf, "bench_sink")?;
            sink.load()?;
            sink.attach(device, XdpMode::Driver).map(drop).context(device)
        })
    }

    /// The object with the benches' programs, for what else is attached.
    pub(crate) fn forwarding(&mut self) -> (&Namespace, &mut Ebpf) {
        (&self.gateway, &mut self.bpf)
    }

    /// Sends for `settle` and then for `time`; what arrived in the latter. `meanwhile` runs at its beginning and at its end.
    pub(crate) fn send(
        &mut self,
        traffic: Traffic,
        settle: Duration,
        time: Duration,
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<Arrived> {
        let device = self.outside.enter(|| Ok(if_nametoindex(GENERATOR)?))?;
        let orders = self.bpf.map_mut("BENCH_GENERATOR").context("BENCH_GENERATOR")?;
        let mut orders: Array<_, [u32; 16]> = orders.try_into()?;
        let mut order = [0; 16];
        order[0] = device;
        order[3] = frame(traffic.longest()).len() as u32;
        order[4..].copy_from_slice(&traffic.sizes());
        orders.set(0, order, 0)?;
        let generate = program(&mut self.bpf, "bench_generate")?;
        if generate.fd().is_err() {
            generate.load()?;
        }
        let generate: &Xdp = self
            .bpf
            .program("bench_generate")
            .context("bench_generate")?
            .try_into()?;
        let arrived: PerCpuArray<_, [u64; 3]> = self
            .bpf
            .map("BENCH_ARRIVED")
            .context("BENCH_ARRIVED")?
            .try_into()?;
        let count = || -> Result<[u64; 2]> {
            let each = arrived.get(&0, 0)?;
            let sum = |index: usize| each.iter().map(|one| one[index]).sum();
            Ok([sum(0), sum(1)])
        };
        let done = AtomicBool::new(false);
        let (outside, cpu) = (&self.outside, self.generator_cpu);
        thread::scope(|scope| {
            let sender = scope.spawn(|| -> Result<()> {
                outside.join()?;
                machine::pin_to(cpu)?;
                let frame = frame(traffic.longest());
                while !done.load(Ordering::Relaxed) {
                    generate.test_run(TestRunOptions {
                        data_in: Some(&frame),
                        repeat: BURST,
                        attrs: TestRunAttrs::new().xdp_live_frames(64),
                        ..TestRunOptions::new()
                    })?;
                }
                Ok(())
            });
            let mut watch = || -> Result<Arrived> {
                interrupt::sleep(settle)?;
                meanwhile()?;
                let (before, start) = (count()?, Instant::now());
                interrupt::sleep(time)?;
                let (after, time) = (count()?, start.elapsed());
                meanwhile()?;
                let [packets, esp] = [0, 1].map(|index| after[index] - before[index]);
                Ok(Arrived { packets, esp, time })
            };
            let watched = watch();
            done.store(true, Ordering::Relaxed);
            sender.join().map_err(|_| anyhow!("the generator panicked"))??;
            watched
        })
    }
}

fn program<'b>(bpf: &'b mut Ebpf, name: &str) -> Result<&'b mut Xdp> {
    let program = bpf
        .program_mut(name)
        .with_context(|| format!("no program `{name}`"))?;
    Ok(program.try_into()?)
}

/// What the generator makes packets of: as long as the longest of them.
fn frame(size: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; 14 + size];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
    frame[12..26].copy_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame[26..30].copy_from_slice(&HOST.octets());
    frame[30..34].copy_from_slice(&Tunnel(0).site().0.octets());
    frame[34..42].copy_from_slice(&[4, 0, 0, 53, 0, 0, 0, 0]);
    frame
}

/// Fails unless what arrived is what it should be.
pub(crate) fn check(arrived: Arrived, esp: bool) -> Result<()> {
    ensure!(arrived.packets > 0, "nothing arrived");
    let expected = if esp { arrived.packets } else { 0 };
    ensure!(
        // Stray packets of the stack are no reason to give up.
        arrived.esp.abs_diff(expected) * 1000 <= arrived.packets,
        "of {} packets that arrived {} are ESP",
        arrived.packets,
        arrived.esp
    );
    Ok(())
}
