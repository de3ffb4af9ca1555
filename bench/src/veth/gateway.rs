//! What stands between the two wires.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use ravelin_bench::daemon::Daemon;
use ravelin_bench::interrupt;
use ravelin_bench::program::run;
use ravelin_bench::secgw::{Memory, Secgw, Setup};
use ravelin_bench::tunnel::{INSIDE, LOCAL, Tunnel};
use ravelin_xdp_common::Direction;

use crate::forward;
use crate::wire::{LAN, NEIGHBOURS, WAN, Wires};

/// MiB of the peer's memory.
pub(crate) const MEMORY: u64 = 512;

/// Buffers of the peer for packets.
const BUFFERS: u32 = 16_384;

/// The rows of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing: the sink stands where the gateway would.
    None,
    /// Packets go on as they are.
    Forward(AfXdp),
    Ravelin(AfXdp),
    /// With workers that never sleep, as those of the peer and of plain forwarding.
    RavelinBusy,
    Secgw,
}

/// Who speaks AF_XDP to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfXdp {
    Ours,
    XskRs,
}

impl Kind {
    /// All of them, and whether those of xsk-rs are wanted.
    pub(crate) fn all(xsk_rs: bool) -> Vec<Self> {
        use AfXdp::{Ours, XskRs};
        let mut all = vec![
            Self::None,
            Self::Forward(Ours),
            Self::Forward(XskRs),
            Self::Ravelin(Ours),
            Self::Ravelin(XskRs),
            Self::RavelinBusy,
            Self::Secgw,
        ];
        all.retain(|kind| xsk_rs || !matches!(kind, Self::Forward(XskRs) | Self::Ravelin(XskRs)));
        all
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "no gateway: the sink itself",
            Self::Forward(AfXdp::Ours) => "plain forwarding, AF_XDP",
            Self::Forward(AfXdp::XskRs) => "plain forwarding, xsk-rs",
            Self::Ravelin(AfXdp::Ours) => "Ravelin",
            Self::Ravelin(AfXdp::XskRs) => "Ravelin, xsk-rs",
            Self::RavelinBusy => "Ravelin, busy",
            Self::Secgw => "ipsec-secgw",
        }
    }

    pub(crate) const fn seals(self) -> bool {
        matches!(self, Self::Ravelin(_) | Self::RavelinBusy | Self::Secgw)
    }
}

/// What was built for this, and where things are put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means<'m> {
    pub(crate) ravelin: &'m Path,
    pub(crate) secgw: Option<&'m Path>,
    pub(crate) huge_pages: bool,
    pub(crate) folder: &'m Path,
    pub(crate) cpus: &'m [usize],
}

/// A gateway that works until it is dropped.
#[derive(Debug)]
pub(crate) enum Gateway {
    None,
    Thread {
        done: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    },
    Ravelin(Daemon),
    Secgw(Secgw),
}

impl Gateway {
    /// Starts it on a CPU. By the first thread: processes end with it.
    pub(crate) fn start(kind: Kind, wires: &mut Wires, cpu: usize, means: Means<'_>) -> Result<Self> {
        match kind {
            Kind::None => Ok(Self::None),
            Kind::Forward(af_xdp) => start_forwarding(wires, cpu, af_xdp),
            Kind::Ravelin(AfXdp::Ours) => start_ravelin(wires, cpu, means, &[]).map(Self::Ravelin),
            Kind::Ravelin(AfXdp::XskRs) => {
                start_ravelin(wires, cpu, means, &["--af-xdp", "xsk-rs"]).map(Self::Ravelin)
            }
            Kind::RavelinBusy => start_ravelin(wires, cpu, means, &["--busy-poll"]).map(Self::Ravelin),
            Kind::Secgw => start_secgw(wires, cpu, means).map(Self::Secgw),
        }
    }

    /// How long its process has had CPUs; a thread that never sleeps says nothing by that.
    pub(crate) fn work(&self) -> Result<Option<Duration>> {
        let process = match self {
            Self::None | Self::Thread { .. } => return Ok(None),
            Self::Ravelin(daemon) => daemon.id(),
            Self::Secgw(peer) => peer.id(),
        };
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(process as i32)).context("a process's clock")?;
        Ok(Some(clock_gettime(clock).context("a process's clock")?.into()))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Self::Thread { done, thread } = self {
            done.store(true, Ordering::Relaxed);
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn start_forwarding(wires: &mut Wires, cpu: usize, af_xdp: AfXdp) -> Result<Gateway> {
    let mut forward = forward::attach(wires)?;
    let namespace = Arc::clone(&wires.gateway);
    let [ready, done] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let (is_ready, is_done) = (Arc::clone(&ready), Arc::clone(&done));
    let thread = thread::spawn(move || {
        let served = namespace
            .join()
            .and_then(|()| forward.serve(af_xdp, cpu, &is_ready, &is_done));
        if let Err(error) = served {
            eprintln!("veth: plain forwarding: {error:#}");
        }
    });
    while !ready.load(Ordering::Acquire) {
        if thread.is_finished() {
            return Err(anyhow!("plain forwarding ended before it began"));
        }
        interrupt::sleep(Duration::from_millis(1))?;
    }
    let thread = Some(thread);
    Ok(Gateway::Thread { done, thread })
}

fn start_ravelin(wires: &Wires, cpu: usize, means: Means<'_>, options: &[&str]) -> Result<Daemon> {
    let file = |kind: &str| means.folder.join(format!("veth.{kind}"));
    for way in ["out", "in"] {
        let _ = fs::remove_file(file(way));
        run(Command::new(means.ravelin).arg("keygen").arg(file(way)))?;
    }
    let tunnel = Tunnel(0);
    let ((inside, length), (site, site_length)) = (INSIDE, tunnel.site());
    let policy = format!(
        "default = \"block\"\n\
         [interfaces]\nouter = \"{WAN}\"\ninner = \"{LAN}\"\n\
         [filter-lists.site]\nfilters = [{{ source = \"{inside}/{length}\", destination = \"{site}/{site_length}\" }}]\n\
         [[rules]]\nname = \"site\"\nfilter-list = \"site\"\naction = \"protect\"\nconnection = \"site\"\n\
         [connections.site]\nmode = \"tunnel\"\nlocal = \"{LOCAL}\"\nremote = \"{}\"\n\
         [connections.site.static]\nalgorithm = \"aes-256-gcm\"\n\
         outbound = {{ spi = {}, key-file = \"{}\" }}\ninbound = {{ spi = {}, key-file = \"{}\" }}\n",
        tunnel.remote(),
        tunnel.outbound_spi(),
        file("out").display(),
        tunnel.inbound_spi(),
        file("in").display(),
    );
    fs::write(file("toml"), policy).context("the policy")?;
    let mut command = wires.gateway.command_on(cpu, means.ravelin);
    command
        .args(["run", "--instance", "bench-veth", "--policy"])
        .arg(file("toml"))
        .arg("--control")
        .arg(file("sock"))
        .arg("--state-dir")
        .arg(file("state"))
        .args(options);
    let mut daemon = Daemon::start(&mut command, &file("log"))?;
    daemon.wait_for_text("ravelin: ready")?;
    Ok(daemon)
}

fn start_secgw(wires: &Wires, cpu: usize, means: Means<'_>) -> Result<Secgw> {
    Secgw::start(&Setup {
        program: means.secgw.context("it was not compiled")?,
        folder: means.folder,
        tunnels: 1,
        directions: &[Direction::Outbound, Direction::Inbound],
        devices: [
            format!("net_af_xdp0,iface={LAN}"),
            format!("net_af_xdp1,iface={WAN}"),
        ],
        neighbours: NEIGHBOURS,
        namespace: Some(&wires.gateway),
        cpu,
        cpus: means.cpus,
        memory: match means.huge_pages {
            true => Memory::Huge(MEMORY),
            false => Memory::Ordinary(MEMORY),
        },
        buffers: BUFFERS,
    })
}
