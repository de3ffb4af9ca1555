//! Two machines that protect what passes between them, and a wire at which the test listens.

use crate::detector::Secret;
use crate::event::ROUTER;
use crate::flows::End;
use crate::side::Side;
use crate::support::hosts::{self, Hosts};
use crate::support::lab::{self, G1, G2, H1, H2, Lab, Policy};
use crate::support::namespace::Namespace;

/// A pair, not started.
pub(crate) struct Pair<'n> {
    pub(crate) name: &'static str,
    pub(crate) sides: [Side<'n>; 2],
    pub(crate) ends: [End<'n>; 2],
    pub(crate) wire: &'n Namespace,
    /// The devices of the wire, one for each side.
    pub(crate) devices: [&'static str; 2],
    pub(crate) clear_port: u16,
}

impl Pair<'_> {
    pub(crate) fn secret(&self) -> Secret {
        Secret {
            ends: self.ends.map(|end| end.addresses),
            clear_port: self.clear_port,
        }
    }
}

/// Two hosts in transport mode.
pub(crate) fn of_hosts(hosts: &Hosts) -> Pair<'_> {
    router(&hosts.wire);
    let side = |number: usize, peer| {
        let addresses = [
            ["192.0.2.1/24", "2001:db8::1/64"],
            ["192.0.2.2/24", "2001:db8::2/64"],
        ][number];
        let network = addresses_of("eth0", addresses);
        // Of the device: in and out.
        Side::new(hosts.host(number, str::to_owned), 2, addresses, peer, network)
    };
    Pair {
        name: "hosts",
        sides: [side(0, hosts::B), side(1, hosts::A)],
        ends: [
            End {
                namespace: &hosts.a,
                addresses: hosts::A,
            },
            End {
                namespace: &hosts.b,
                addresses: hosts::B,
            },
        ],
        wire: &hosts.wire,
        devices: ["to-a", "to-b"],
        clear_port: hosts::CLEAR_PORT,
    }
}

/// Two gateways with a tunnel, and a host behind each.
pub(crate) fn of_gateways(lab: &Lab) -> Pair<'_> {
    router(&lab.wire);
    let side = |site: usize, peer| {
        let other = 3 - site;
        let addresses = [
            ["192.0.2.1/24", "2001:db8::1/64"],
            ["192.0.2.2/24", "2001:db8::2/64"],
        ][site - 1];
        let network = addresses_of("out0", addresses)
            + &format!(
                "route replace 10.{other}.0.0/16 via 192.0.2.{other}\nroute replace fd0{other}::/64 via 2001:db8::{other}\n"
            );
        // Of the outer device, in and out, and of the inner one.
        Side::new(lab.gateway(site, &Policy::default()), 3, addresses, peer, network)
    };
    Pair {
        name: "gateways",
        sides: [side(1, G2), side(2, G1)],
        ends: [
            End {
                namespace: &lab.h1,
                addresses: H1,
            },
            End {
                namespace: &lab.h2,
                addresses: H2,
            },
        ],
        wire: &lab.wire,
        devices: ["to-g1", "to-g2"],
        clear_port: lab::CLEAR_PORT,
    }
}

fn addresses_of(device: &str, addresses: [&str; 2]) -> String {
    let [v4, v6] = addresses;
    format!("address replace {v4} dev {device}\naddress replace {v6} dev {device} nodad\n")
}

/// Has the wire forward what it is asked to, and say nothing about shorter ways.
fn router(wire: &Namespace) {
    wire.ip(&format!("address add {ROUTER}/24 dev br0"));
    wire.sysctl("ipv4/ip_forward", "1");
    for device in ["all", "br0"] {
        wire.sysctl(&format!("ipv4/conf/{device}/send_redirects"), "0");
    }
}
