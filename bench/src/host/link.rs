//! What carries packets between the hosts' applications.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use ravelin_bench::program::{output, run};

use crate::Programs;
use crate::lab::{DEVICE, End, Lab};
use crate::pass;
use ravelin_bench::daemon::Daemon;

/// Something to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// The veth pair as it comes.
    Plain,
    /// Ravelin in host mode.
    Ravelin(Edge, Polling),
    /// WireGuard in user space.
    WireguardGo,
    /// WireGuard of the kernel.
    KernelWireguard,
    /// ESP of the kernel.
    KernelEsp,
    /// The veth pair without segmentation, and with NAPI, which it does not do otherwise: so do veth pairs with any XDP program.
    PlainSegmented,
    /// The veth pair with an XDP program at both ends that lets everything pass.
    Pass,
    /// Ravelin in host mode with a policy that permits all that passes here.
    Permitted,
}

/// How the host's packets get to the workers: `--host-edge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    Tun,
    Veth,
}

/// How the workers wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Polling {
    /// They sleep when there is nothing to do.
    Adaptive,
    /// They never do: `--busy-poll`.
    Busy,
}

impl Edge {
    pub(crate) const ALL: [Self; 2] = [Self::Tun, Self::Veth];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tun => "tun",
            Self::Veth => "veth",
        }
    }
}

impl Link {
    /// In the order of the tables; all others are compared with the first.
    pub(crate) fn all(busy: bool, peers: bool) -> Vec<Self> {
        let busy = busy.then_some(Polling::Busy);
        let ravelin = Edge::ALL.into_iter().flat_map(|edge| {
            let pollings = [Polling::Adaptive].into_iter().chain(busy);
            pollings.map(move |polling| Self::Ravelin(edge, polling))
        });
        let others = [Self::WireguardGo, Self::KernelWireguard, Self::KernelEsp];
        [Self::Plain]
            .into_iter()
            .chain(ravelin)
            .chain(others.into_iter().filter(|_| peers))
            .chain([Self::PlainSegmented])
            .chain(peers.then_some(Self::Pass))
            .chain([Self::Permitted])
            .collect()
    }

    /// Whether Ravelin encrypts on it.
    pub(crate) const fn is_edge(self) -> bool {
        matches!(self, Self::Ravelin(..))
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Plain => "plain veth".to_owned(),
            Self::Ravelin(edge, Polling::Adaptive) => format!("Ravelin, edge {}", edge.name()),
            Self::Ravelin(edge, Polling::Busy) => format!("Ravelin, edge {}, busy", edge.name()),
            Self::WireguardGo => "wireguard-go".to_owned(),
            Self::KernelWireguard => "kernel WireGuard".to_owned(),
            Self::KernelEsp => "kernel ESP (XFRM)".to_owned(),
            Self::PlainSegmented => "veth as it is with any XDP program, without one".to_owned(),
            Self::Pass => "an XDP program that lets everything pass".to_owned(),
            Self::Permitted => "Ravelin, permitted".to_owned(),
        }
    }

    /// Where the application on a host is reached.
    pub(crate) fn address(self, end: End) -> String {
        match self {
            Self::WireguardGo | Self::KernelWireguard => format!("10.0.0.{}", end.number()),
            _ => end.address(),
        }
    }

    /// What shows whether it can be measured here, if that is not certain: the error says why it cannot.
    pub(crate) fn check(self, lab: &Lab) -> Result<()> {
        match self {
            Self::WireguardGo => {
                for program in ["wireguard-go", "wg"] {
                    output(Command::new(program).arg("--version"))
                        .with_context(|| format!("`{program}` is not installed"))?;
                }
                Ok(())
            }
            Self::KernelWireguard => {
                let add = ["link", "add", "probe", "type", "wireguard"];
                lab.ip(End::A, &add).context("this kernel has no WireGuard")?;
                lab.ip(End::A, &["link", "delete", "probe"])
            }
            Self::KernelEsp => {
                add_kernel_state(lab, End::A, End::A).context("this kernel has no ESP with AES-GCM")?;
                lab.ip(End::A, &["xfrm", "state", "flush"])
            }
            _ => Ok(()),
        }
    }

    /// Sets it up between the hosts; it lasts as long as what is returned.
    pub(crate) fn establish(self, lab: &Lab, programs: &Programs) -> Result<Vec<Daemon>> {
        let ravelin = &programs.ravelin;
        match self {
            Self::Plain => Ok(Vec::new()),
            Self::Pass => {
                let object = programs.object.as_deref().context("no BPF object for benches")?;
                let program = std::env::current_exe().context("this program")?;
                let daemons = End::BOTH.map(|end| {
                    let mut command = lab.command_on(end, lab.cpus.daemon(end), &program);
                    command.arg(pass::COMMAND).arg(object).arg(DEVICE);
                    let log = lab.folder.join(format!("pass-{}.log", end.letter()));
                    let mut daemon = Daemon::start(&mut command, &log)?;
                    daemon.wait_for_text(pass::READY)?;
                    Ok(daemon)
                });
                daemons.into_iter().collect()
            }
            Self::PlainSegmented => {
                for end in End::BOTH {
                    let settings = ["-K", DEVICE, "tso", "off", "gso", "off", "gro", "on"];
                    run(lab.command(end, "ethtool").args(settings))?;
                }
                Ok(Vec::new())
            }
            Self::Ravelin(edge, polling) => {
                let busy = (polling == Polling::Busy).then_some("--busy-poll");
                let options: Vec<_> = ["--host-edge", edge.name()].into_iter().chain(busy).collect();
                start_ravelin(lab, ravelin, "", &options)
            }
            // Its filters match another port than those that are measured.
            Self::Permitted => start_ravelin(
                lab,
                ravelin,
                ", protocol = \"udp\", destination-port = \"1\"",
                &[],
            ),
            Self::WireguardGo => {
                let daemons = End::BOTH.map(|end| {
                    let device = wireguard_device(end);
                    let log = lab.folder.join(format!("{device}.log"));
                    let mut command = lab.command_on(end, lab.cpus.daemon(end), "wireguard-go");
                    command.args(["-f", &device]);
                    let mut daemon = Daemon::start(&mut command, &log)?;
                    let link = || lab.ip(end, &["link", "show", "dev", &device]);
                    let socket = Path::new("/run/wireguard").join(format!("{device}.sock"));
                    daemon.wait_until("its device", |_| Ok(socket.exists() && link().is_ok()))?;
                    Ok(daemon)
                });
                let daemons = daemons.into_iter().collect::<Result<_>>()?;
                set_wireguard_up(lab)?;
                Ok(daemons)
            }
            Self::KernelWireguard => {
                for end in End::BOTH {
                    let device = wireguard_device(end);
                    lab.ip(end, &["link", "add", &device, "type", "wireguard"])?;
                }
                set_wireguard_up(lab)?;
                Ok(Vec::new())
            }
            Self::KernelEsp => {
                for end in End::BOTH {
                    for from in End::BOTH {
                        add_kernel_state(lab, end, from)?;
                        add_kernel_policy(lab, end, from)?;
                    }
                }
                Ok(Vec::new())
            }
        }
    }
}

/// Both daemons, with a policy that protects what passes between the hosts, as far as `narrower` does not take away from that.
fn start_ravelin(lab: &Lab, ravelin: &Path, narrower: &str, options: &[&str]) -> Result<Vec<Daemon>> {
    let key = |from: End| lab.folder.join(format!("from-{}.key", from.letter()));
    for end in End::BOTH {
        let _ = fs::remove_file(key(end));
        run(Command::new(ravelin).arg("keygen").arg(key(end)))?;
    }
    let daemons = End::BOTH.map(|end| {
        let (local, remote) = (end.address(), end.other().address());
        let (outbound, inbound) = (u32::from(end.number()), u32::from(end.other().number()));
        let policy = format!(
            "default = \"permit\"\n\
             [interfaces]\nouter = \"{DEVICE}\"\n\
             [filter-lists.peer]\nfilters = [{{ source = \"{local}\", destination = \"{remote}\"{narrower} }}]\n\
             [[rules]]\nname = \"peer\"\nfilter-list = \"peer\"\naction = \"protect\"\nconnection = \"peer\"\n\
             [connections.peer]\nmode = \"transport\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n\
             [connections.peer.static]\nalgorithm = \"aes-256-gcm\"\n\
             outbound = {{ spi = {}, key-file = \"{}\" }}\ninbound = {{ spi = {}, key-file = \"{}\" }}\n",
            0x1000 + outbound,
            key(end).display(),
            0x1000 + inbound,
            key(end.other()).display(),
        );
        let instance = format!("bench-{}", end.letter());
        let file = |kind: &str| lab.folder.join(format!("{instance}.{kind}"));
        fs::write(file("toml"), policy).context("the policy")?;
        let mut command = lab.command_on(end, lab.cpus.daemon(end), ravelin);
        command
            .args(["run", "--mode", "host", "--instance", &instance, "--policy"])
            .arg(file("toml"))
            .arg("--control")
            .arg(file("sock"))
            .arg("--state-dir")
            .arg(file("state"))
            .args(options);
        let mut daemon = Daemon::start(&mut command, &file("log"))?;
        daemon.wait_for_text("ravelin: ready")?;
        Ok(daemon)
    });
    daemons.into_iter().collect()
}

/// Its socket has the same name, and all are in one folder.
fn wireguard_device(end: End) -> String {
    format!("wg-{}", end.letter())
}

/// Keys, addresses and peers, the same in the kernel and in user space.
fn set_wireguard_up(lab: &Lab) -> Result<()> {
    let key = |end: End| lab.folder.join(format!("wireguard-{}.key", end.letter()));
    for end in End::BOTH {
        fs::write(key(end), output(Command::new("wg").arg("genkey"))?).context("the key of WireGuard")?;
    }
    for end in End::BOTH {
        let (device, other) = (wireguard_device(end), end.other());
        let private = fs::File::open(key(other)).context("the key of WireGuard")?;
        let public = output(Command::new("wg").arg("pubkey").stdin(private))?;
        let allowed = format!("10.0.0.{}/32", other.number());
        let endpoint = format!("{}:51820", other.address());
        run(lab
            .command(end, "wg")
            .args(["set", &device, "listen-port", "51820", "private-key"])
            .arg(key(end))
            .args([
                "peer",
                public.trim(),
                "allowed-ips",
                &allowed,
                "endpoint",
                &endpoint,
            ]))?;
        let address = format!("10.0.0.{}/24", end.number());
        lab.ip(end, &["address", "add", &address, "dev", &device])?;
        lab.ip(end, &["link", "set", &device, "up"])?;
    }
    Ok(())
}

/// One SA of AES-256-GCM, in transport mode, on a host. Its key is no secret: it protects nothing but this bench's zeros.
fn add_kernel_state(lab: &Lab, end: End, from: End) -> Result<()> {
    let (source, destination) = (from.address(), from.other().address());
    let spi = format!("0x{:x}", 0x1000 + u32::from(from.number()));
    let key = format!("0x{}{:02x}", "5c".repeat(35), from.number());
    lab.ip(
        end,
        &[
            "xfrm",
            "state",
            "add",
            "src",
            &source,
            "dst",
            &destination,
            "proto",
            "esp",
            "spi",
            &spi,
            "mode",
            "transport",
            "replay-window",
            "32",
            "aead",
            "rfc4106(gcm(aes))",
            &key,
            "128",
        ],
    )
}

fn add_kernel_policy(lab: &Lab, end: End, from: End) -> Result<()> {
    let (source, destination) = (from.address(), from.other().address());
    let direction = if from == end { "out" } else { "in" };
    lab.ip(
        end,
        &[
            "xfrm",
            "policy",
            "add",
            "src",
            &source,
            "dst",
            &destination,
            "dir",
            direction,
            "tmpl",
            "src",
            &source,
            "dst",
            &destination,
            "proto",
            "esp",
            "mode",
            "transport",
        ],
    )
}
