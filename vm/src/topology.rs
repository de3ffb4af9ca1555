//! Three namespaces in a row, joined by two links.
//!
//! ```text
//! ours  clear0 ── clear1  wire  outer0 ── outer1  theirs
//!       apps              gateway                 apps, and the kernel's ESP
//! ```
//!
//! The namespace in the middle has no addresses, so that nothing but our gateway answers there. Nobody resolves
//! neighbours: all of them are written down.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::setsockopt;

use crate::{namespace::Namespace, port::Port, xfrm};

/// Our outer address of tunnels, and theirs.
pub(crate) const OUTER_V4: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
];
/// The same for IPv6.
pub(crate) const OUTER_V6: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
];

/// UDP encapsulation: our port, as if a NAT stood in front of us, and theirs.
pub(crate) const UDP_PORTS: [u16; 2] = [4511, 4500];

/// The longest packet on the outer link, in bytes.
pub(crate) const OUTER_MTU: usize = 1500;
/// The same on the clear link: large, so that what the sender need not fragment reaches ESP whole.
pub(crate) const CLEAR_MTU: usize = 4000;
/// IPv6 routes of tunnels, whose packets our gateway may not fragment: fits the outer link with every overhead.
const TUNNEL_MTU_V6: usize = 1280;

/// The prefixes of inner addresses: the host's part is the case's number.
pub(crate) const PREFIXES: Prefixes = Prefixes {
    tunnel_v4: [[10, 1], [10, 2]],
    transport_v4: [[10, 3], [10, 4]],
    tunnel_v6: [1, 2],
    transport_v6: [3, 4],
};

/// Ours and theirs of each kind: two octets of IPv4, the last group in front of the host's part of IPv6.
#[derive(Debug)]
pub(crate) struct Prefixes {
    pub(crate) tunnel_v4: [[u8; 2]; 2],
    pub(crate) transport_v4: [[u8; 2]; 2],
    pub(crate) tunnel_v6: [u16; 2],
    pub(crate) transport_v6: [u16; 2],
}

const CLEAR_MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
const OUTER_MACS: [&str; 2] = ["02:00:00:00:00:03", "02:00:00:00:00:04"];

/// The two ends. The middle is known only by its ports.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) ours: Namespace,
    pub(crate) theirs: Namespace,
    /// Sockets that make the kernel take ESP in UDP; open as long as the machine runs.
    _encapsulation: [UdpSocket; 2],
}

impl Topology {
    /// Makes all of it; the topology, the clear port and the outer one.
    pub(crate) fn create() -> Result<(Self, Port, Port)> {
        let ours = Namespace::create("ours")?;
        let wire = Namespace::create("wire")?;
        let theirs = Namespace::create("theirs")?;
        wire.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])?;
        for namespace in [&ours, &theirs] {
            namespace.sysctl(&[
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/ip_nonlocal_bind", "1"),
                ("ipv4/ping_group_range", "0 0"),
                // Packets without DF, so that ESP may be fragmented.
                ("ipv4/ip_no_pmtu_disc", "1"),
            ])?;
        }
        let [clear0, clear1] = CLEAR_MACS;
        let [outer0, outer1] = OUTER_MACS;
        crate::ip::batch(
            None,
            &format!(
                "link add clear0 netns ours mtu {CLEAR_MTU} address {clear0} type veth \
                 peer name clear1 netns wire mtu {CLEAR_MTU} address {clear1}\n\
                 link add outer0 netns wire mtu {OUTER_MTU} address {outer0} type veth \
                 peer name outer1 netns theirs mtu {OUTER_MTU} address {outer1}\n"
            ),
        )?;
        wire.ip("link set clear1 up\nlink set outer0 up\n")?;
        ours.ip(&side(0, "clear0", clear1))?;
        theirs.ip(&side(1, "outer1", outer0))?;
        theirs.ip(&format!(
            "address add {}/32 dev outer1\naddress add {}/128 dev outer1 nodad\n",
            OUTER_V4[1], OUTER_V6[1]
        ))?;
        theirs.ip(&format!(
            "route add {}/32 via 10.0.0.9 dev outer1 onlink\nroute add {}/128 via fe80::9 dev outer1 onlink\n",
            OUTER_V4[0], OUTER_V6[0]
        ))?;
        theirs.ip(&xfrm::encapsulation_bypass())?;
        // A veth passes packets on without their checksums; what is sealed must be complete.
        offload_off(&ours, "clear0")?;
        let clear = wire.enter(|| Port::open("clear1", clear0))?;
        let outer = wire.enter(|| Port::open("outer0", outer1))?;
        let encapsulation =
            theirs.enter(|| Ok([encapsulation_socket("0.0.0.0")?, encapsulation_socket("::")?]))?;
        let topology = Self {
            ours,
            theirs,
            _encapsulation: encapsulation,
        };
        Ok((topology, clear, outer))
    }
}

/// Brings up one end: its prefixes are local, the other end's are behind the gateway at `gateway_mac`.
fn side(side: usize, device: &str, gateway_mac: &str) -> String {
    let other = 1 - side;
    let mut lines = format!(
        "link set lo up\nlink set {device} up\n\
         address add 10.0.0.{}/32 dev {device}\n\
         neighbour add 10.0.0.9 lladdr {gateway_mac} nud permanent dev {device}\n\
         neighbour add fe80::9 lladdr {gateway_mac} nud permanent dev {device}\n",
        side + 1
    );
    for prefixes in [PREFIXES.tunnel_v4, PREFIXES.transport_v4] {
        let [prefix, other] = [prefixes[side], prefixes[other]].map(|[a, b]| format!("{a}.{b}.0.0/16"));
        lines.push_str(&format!(
            "route add local {prefix} dev lo\n\
             route add {other} via 10.0.0.9 dev {device} onlink advmss 1200\n"
        ));
    }
    for (prefixes, mtu) in [
        (PREFIXES.tunnel_v6, TUNNEL_MTU_V6),
        (PREFIXES.transport_v6, CLEAR_MTU),
    ] {
        // Their end's MTU is that of its link, and its ESP's business.
        let mtu = if side == 0 {
            format!("mtu {mtu}")
        } else {
            String::new()
        };
        lines.push_str(&format!(
            "route add local fd00::{}:0:0:0/80 dev lo\n\
             route add fd00::{}:0:0:0/80 via fe80::9 dev {device} onlink advmss 1200 {mtu}\n",
            prefixes[side], prefixes[other]
        ));
    }
    lines
}

fn offload_off(namespace: &Namespace, device: &str) -> Result<()> {
    let status = namespace.enter(|| {
        Command::new("/sbin/ethtool")
            .args(["-K", device, "tx", "off", "gro", "off"])
            .status()
            .context("ethtool")
    })?;
    ensure!(status.success(), "ethtool -K {device}: {status}");
    Ok(())
}

/// A socket at port 4500 of every local address, whose ESP the kernel takes for itself (RFC 3948).
fn encapsulation_socket(address: &str) -> Result<UdpSocket> {
    let domain = if address.contains(':') {
        socket2::Domain::IPV6
    } else {
        socket2::Domain::IPV4
    };
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
    if domain == socket2::Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    let address: IpAddr = address.parse()?;
    socket.bind(&std::net::SocketAddr::new(address, UDP_PORTS[1]).into())?;
    setsockopt(&socket, UdpEncapsulation, &UDP_ENCAP_ESPINUDP).context("UDP_ENCAP")?;
    Ok(socket.into())
}

/// include/uapi/linux/udp.h
const UDP_ENCAP: i32 = 100;
const UDP_ENCAP_ESPINUDP: i32 = 2;

nix::setsockopt_impl!(
    UdpEncapsulation,
    libc::IPPROTO_UDP,
    UDP_ENCAP,
    i32,
    nix::sys::socket::sockopt::SetStruct<'_, i32>
);
#[derive(Clone, Copy, Debug)]
struct UdpEncapsulation;
