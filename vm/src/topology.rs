//! Three namespaces in a row, joined by two links.
//!
//! ```text
//! ours  clear0 ── clear1  wire  outer0 ── outer1  theirs
//!       apps              our ESP                 apps, and the kernel's ESP
//! ```
//!
//! Nobody resolves neighbours or has addresses in plenty: neighbours are written down, and whole prefixes are local, so
//! that each case has addresses of its own.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::setsockopt;
use socket2::{Domain, Socket, Type};

use crate::{ip, namespace::Namespace, xfrm};

/// UDP encapsulation: our port, and theirs, as if a NAT stood in front of them.
pub(crate) const UDP_PORTS: [u16; 2] = [4500, 4511];

/// The longest packet on the outer link, in bytes.
pub(crate) const OUTER_MTU: usize = 1500;
/// IPv6 routes into tunnels, whose packets gateways may not fragment: fits the outer link with every overhead.
const TUNNEL_MTU_V6: usize = 1280;
/// TCP segments likewise, so that none is sent that must not be fragmented.
const ADVERTISED_MSS: usize = 1200;

/// The devices of the middle: towards ours, and towards theirs.
pub(crate) const CLEAR: &str = "clear1";
pub(crate) const OUTER: &str = "outer0";

const CLEAR_MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
const OUTER_MACS: [&str; 2] = ["02:00:00:00:00:03", "02:00:00:00:00:04"];

/// What addresses are for. Each has a prefix at either end, in which a case's number is the host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Prefix {
    /// Inside tunnels.
    Tunnel = 1,
    /// Of transport mode.
    Transport = 3,
    /// Outside tunnels.
    Outer = 5,
}

impl Prefix {
    /// The address of `number` at our end (0) or theirs (1).
    pub(crate) fn v4(self, end: u8, number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(10, self as u8 + end, high, low).into()
    }

    /// The same for IPv6.
    pub(crate) fn v6(self, end: u8, number: u16) -> IpAddr {
        let prefix = u16::from(self as u8 + end);
        Ipv6Addr::new(0xfd00, 0, 0, 0, prefix, 0, 0, number).into()
    }

    /// Both prefixes of an end, as text.
    fn text(self, end: u8) -> [String; 2] {
        [
            format!("{}/16", self.v4(end, 0)),
            format!("{}/112", self.v6(end, 0)),
        ]
    }
}

/// The three namespaces.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) ours: Namespace,
    pub(crate) wire: Namespace,
    pub(crate) theirs: Namespace,
    /// Sockets that make the kernel take ESP in UDP; open as long as this.
    encapsulation: [UdpSocket; 2],
}

impl Topology {
    /// Makes namespaces whose names begin with `name`, with `clear_mtu` bytes between ours and the middle. The middle
    /// does nothing yet.
    pub(crate) fn create(name: &str, clear_mtu: usize) -> Result<Self> {
        let ours = Namespace::create(&format!("{name}-ours"))?;
        let wire = Namespace::create(&format!("{name}-wire"))?;
        let theirs = Namespace::create(&format!("{name}-theirs"))?;
        for namespace in [&ours, &wire, &theirs] {
            namespace.sysctl(&[("ipv6/conf/default/accept_dad", "0")])?;
        }
        for namespace in [&ours, &theirs] {
            namespace.sysctl(&[
                ("ipv6/ip_nonlocal_bind", "1"),
                ("ipv4/ping_group_range", "0 0"),
                // Packets without DF, so that ESP may be fragmented.
                ("ipv4/ip_no_pmtu_disc", "1"),
            ])?;
        }
        let [clear0, clear1] = CLEAR_MACS;
        let [outer0, outer1] = OUTER_MACS;
        let queues = "numrxqueues 1 numtxqueues 1";
        ip::batch(
            None,
            &format!(
                "link add clear0 netns {name}-ours mtu {clear_mtu} address {clear0} {queues} type veth \
                 peer name {CLEAR} netns {name}-wire mtu {clear_mtu} address {clear1} {queues}\n\
                 link add {OUTER} netns {name}-wire mtu {OUTER_MTU} address {outer0} {queues} type veth \
                 peer name outer1 netns {name}-theirs mtu {OUTER_MTU} address {outer1} {queues}\n"
            ),
        )?;
        wire.ip(&format!("link set {CLEAR} up\nlink set {OUTER} up\n"))?;
        ours.ip(&end(0, "clear0", clear1))?;
        theirs.ip(&end(1, "outer1", outer0))?;
        theirs.ip(&xfrm::encapsulation_bypass(UDP_PORTS[1]))?;
        // A veth passes packets on without their checksums; what is sealed must be complete.
        offload_off(&ours, "clear0")?;
        let encapsulation = encapsulation_sockets(&theirs, UDP_PORTS[1])?;
        Ok(Self {
            ours,
            wire,
            theirs,
            encapsulation,
        })
    }

    /// Has the kernel take ESP in UDP at another port, and there only.
    pub(crate) fn hear_at(&mut self, port: u16) -> Result<()> {
        self.theirs.ip(&xfrm::encapsulation_bypass(port))?;
        self.encapsulation = encapsulation_sockets(&self.theirs, port)?;
        Ok(())
    }

    /// Makes the middle a router between the two.
    pub(crate) fn route(&self) -> Result<()> {
        self.wire
            .sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let mut lines = "link set lo up\n".to_owned();
        for (device, address, mac) in [
            (CLEAR, "10.0.0.1", CLEAR_MACS[0]),
            (OUTER, "10.0.0.2", OUTER_MACS[1]),
        ] {
            lines.push_str(&format!(
                "address add 10.0.0.9/32 dev {device}\n\
                 neighbour add {address} lladdr {mac} nud permanent dev {device}\n\
                 neighbour add fe80::8 lladdr {mac} nud permanent dev {device}\n"
            ));
        }
        let mut route = |prefix: Prefix, end: u8, device: &str, via: &str| {
            let [v4, v6] = prefix.text(end);
            lines.push_str(&format!(
                "route add {v4} via {via} dev {device} onlink\nroute add {v6} via fe80::8 dev {device} onlink\n"
            ));
        };
        route(Prefix::Tunnel, 0, CLEAR, "10.0.0.1");
        route(Prefix::Tunnel, 1, OUTER, "10.0.0.2");
        route(Prefix::Outer, 1, OUTER, "10.0.0.2");
        for prefix in Prefix::Outer.text(0) {
            lines.push_str(&format!("route add local {prefix} dev lo\n"));
        }
        self.wire.ip(&lines)
    }

    /// The Ethernet addresses that the middle's two devices send to: ours, theirs.
    pub(crate) fn peers() -> [&'static str; 2] {
        [CLEAR_MACS[0], OUTER_MACS[1]]
    }
}

/// Brings up one end: its prefixes are local, the other end's are behind the middle at `mac`.
fn end(end: u8, device: &str, mac: &str) -> String {
    let mut lines = format!(
        "link set lo up\nlink set {device} up\n\
         address add 10.0.0.{}/32 dev {device}\n\
         neighbour add 10.0.0.9 lladdr {mac} nud permanent dev {device}\n\
         neighbour add fe80::9 lladdr {mac} nud permanent dev {device}\n",
        end + 1
    );
    let mut prefixes = vec![Prefix::Tunnel, Prefix::Transport];
    // Our outer addresses are the middle's.
    if end == 1 {
        prefixes.push(Prefix::Outer);
    }
    for prefix in prefixes {
        let [v4, v6] = prefix.text(end);
        let [other_v4, other_v6] = prefix.text(1 - end);
        // Their MTU is that of their link, less what their ESP takes.
        let mtu = match (end, prefix) {
            (0, Prefix::Tunnel) => format!("mtu {TUNNEL_MTU_V6}"),
            _ => String::new(),
        };
        lines.push_str(&format!(
            "route add local {v4} dev lo\n\
             route add local {v6} dev lo\n\
             route add {other_v4} via 10.0.0.9 dev {device} onlink advmss {ADVERTISED_MSS}\n\
             route add {other_v6} via fe80::9 dev {device} onlink advmss {ADVERTISED_MSS} {mtu}\n"
        ));
    }
    lines
}

fn offload_off(namespace: &Namespace, device: &str) -> Result<()> {
    let output = namespace.enter(|| {
        Command::new("/sbin/ethtool")
            .args(["-K", device, "tx", "off", "gro", "off"])
            .output()
            .context("ethtool")
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ethtool -K {device}: {}: {said}",
        output.status
    );
    Ok(())
}

/// Sockets at a port of every address, whose ESP the kernel takes for itself (RFC 3948).
fn encapsulation_sockets(namespace: &Namespace, port: u16) -> Result<[UdpSocket; 2]> {
    namespace.enter(|| {
        Ok([
            encapsulation_socket("0.0.0.0", port)?,
            encapsulation_socket("::", port)?,
        ])
    })
}

fn encapsulation_socket(any: &str, port: u16) -> Result<UdpSocket> {
    let address = SocketAddr::new(any.parse()?, port);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    setsockopt(&socket, UdpEncapsulation, &UDP_ENCAP_ESPINUDP).context("UDP_ENCAP")?;
    Ok(socket.into())
}

/// include/uapi/linux/udp.h
const UDP_ENCAP: i32 = 100;
const UDP_ENCAP_ESPINUDP: i32 = 2;

#[derive(Clone, Copy, Debug)]
struct UdpEncapsulation;

nix::setsockopt_impl!(
    UdpEncapsulation,
    libc::IPPROTO_UDP,
    UDP_ENCAP,
    i32,
    nix::sys::socket::sockopt::SetStruct<'_, i32>
);
