//! h1 – g1 – wire – g2 – h2: two sites, and a bridge between their gateways at which the test listens.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::capture::Capture;
use super::daemon::{Daemon, Gateway, RAVELIN};
use super::namespace::{Namespace, veth};

pub(crate) const H1: [&str; 2] = ["10.1.0.2", "fd01::2"];
pub(crate) const H2: [&str; 2] = ["10.2.0.2", "fd02::2"];
pub(crate) const G1: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub(crate) const G2: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// The port of a flow that the policy lets pass in the clear.
pub(crate) const CLEAR_PORT: u16 = 7777;

/// The port of everything else.
pub(crate) const PORT: u16 = 5555;

/// The network. Devices: `eth0` on hosts, `in0` and `out0` on gateways, `to-g1` and `to-g2` on the wire.
pub(crate) struct Lab {
    pub(crate) h1: Namespace,
    pub(crate) g1: Namespace,
    pub(crate) wire: Namespace,
    pub(crate) g2: Namespace,
    pub(crate) h2: Namespace,
    pub(crate) folder: TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let lab = Self {
            h1: Namespace::new(),
            g1: Namespace::new(),
            wire: Namespace::new(),
            g2: Namespace::new(),
            h2: Namespace::new(),
            folder: keys(),
        };
        lab.wire.sysctl("ipv6/conf/default/disable_ipv6", "1");
        veth((&lab.h1, "eth0"), (&lab.g1, "in0"));
        veth((&lab.g1, "out0"), (&lab.wire, "to-g1"));
        veth((&lab.g2, "out0"), (&lab.wire, "to-g2"));
        veth((&lab.h2, "eth0"), (&lab.g2, "in0"));
        lab.wire.ip(
            "link add name br0 type bridge mcast_snooping 0\nlink set to-g1 master br0\nlink set to-g2 master br0\nlink set br0 up",
        );
        host(&lab.h1, 1);
        host(&lab.h2, 2);
        gateway(&lab.g1, 1);
        gateway(&lab.g2, 2);
        lab
    }

    /// The same with MTUs: behind each gateway, and between them.
    pub(crate) fn with_mtus(inside: [u32; 2], between: u32) -> Self {
        let lab = Self::new();
        for (host, gateway, mtu) in [(&lab.h1, &lab.g1, inside[0]), (&lab.h2, &lab.g2, inside[1])] {
            host.ip(&format!("link set eth0 mtu {mtu}"));
            gateway.ip(&format!("link set in0 mtu {mtu}\nlink set out0 mtu {between}"));
        }
        lab.wire.ip(&format!(
            "link set to-g1 mtu {between}\nlink set to-g2 mtu {between}\nlink set br0 mtu {between}"
        ));
        lab
    }

    /// The gateway of site 1 or 2, not started.
    pub(crate) fn gateway(&self, site: usize, policy: &Policy) -> Gateway<'_> {
        let namespace = if site == 1 { &self.g1 } else { &self.g2 };
        Gateway::new(namespace, self.folder.path(), &policy.text(site))
    }

    /// Other keys, for another algorithm.
    pub(crate) fn for_algorithm(&mut self, algorithm: &str) {
        self.folder = keys_for(algorithm);
    }

    /// Both gateways, started.
    pub(crate) fn start(&self, policy: &Policy) -> Pair<'_> {
        self.start_with(policy, &[])
    }

    /// The same with further options, each with its value.
    pub(crate) fn start_with(&self, policy: &Policy, options: &[[&str; 2]]) -> Pair<'_> {
        let [g1, g2] = [1, 2].map(|site| {
            let gateway = self.gateway(site, policy);
            options
                .iter()
                .fold(gateway, |gateway, [option, value]| gateway.with(option, value))
        });
        Pair {
            d1: g1.start(),
            d2: g2.start(),
            g1,
            g2,
        }
    }

    /// The bytes of a key file: `a` seals at site 1, `b` at site 2.
    pub(crate) fn key(&self, name: &str) -> String {
        key(self.folder.path(), name)
    }

    /// What passes between the gateways.
    pub(crate) fn capture(&self) -> Capture {
        Capture::start(&self.wire, "to-g1")
    }
}

/// Two running gateways. Fields are dropped in order: first the daemons.
pub(crate) struct Pair<'l> {
    pub(crate) d1: Daemon,
    pub(crate) d2: Daemon,
    #[expect(dead_code, reason = "detaches when dropped")]
    pub(crate) g1: Gateway<'l>,
    #[expect(dead_code, reason = "detaches when dropped")]
    pub(crate) g2: Gateway<'l>,
}

/// h1 – g1 – peer: the peer's device `peer0` has the other gateway's addresses, and the test speaks for it.
pub(crate) struct Half {
    pub(crate) h1: Namespace,
    pub(crate) g1: Namespace,
    pub(crate) peer: Namespace,
    pub(crate) folder: TempDir,
}

impl Half {
    pub(crate) fn new() -> Self {
        let half = Self {
            h1: Namespace::new(),
            g1: Namespace::new(),
            peer: Namespace::new(),
            folder: keys(),
        };
        veth((&half.h1, "eth0"), (&half.g1, "in0"));
        veth((&half.g1, "out0"), (&half.peer, "peer0"));
        host(&half.h1, 1);
        gateway(&half.g1, 1);
        half.peer
            .ip("address add 192.0.2.2/24 dev peer0\naddress add 2001:db8::2/64 dev peer0 nodad");
        half
    }

    pub(crate) fn gateway(&self, policy: &Policy) -> Gateway<'_> {
        Gateway::new(&self.g1, self.folder.path(), &policy.text(1))
    }

    /// The bytes of a key file: `a` seals at site 1, `b` at site 2.
    pub(crate) fn key(&self, name: &str) -> String {
        key(self.folder.path(), name)
    }
}

/// Everything between the sites is protected by one tunnel, except UDP to [`CLEAR_PORT`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    /// 0: IPv4 outside; 1: IPv6.
    pub(crate) outer: usize,
    /// More lines for the connection.
    pub(crate) connection: &'static str,
    /// Of its static keys; empty for AES-256-GCM.
    pub(crate) algorithm: &'static str,
    /// More lines for its static keys.
    pub(crate) keys: &'static str,
    /// More lines at the top.
    pub(crate) top: &'static str,
}

impl Policy {
    pub(crate) fn algorithm(&self) -> &'static str {
        if self.algorithm.is_empty() {
            "aes-256-gcm"
        } else {
            self.algorithm
        }
    }

    pub(crate) fn text(&self, site: usize) -> String {
        let (here, there) = (site, 3 - site);
        let (local, remote) = if site == 1 {
            (G1[self.outer], G2[self.outer])
        } else {
            (G2[self.outer], G1[self.outer])
        };
        let (key_out, key_in) = if site == 1 { ("a", "b") } else { ("b", "a") };
        let algorithm = self.algorithm();
        let Self {
            connection,
            keys,
            top,
            ..
        } = self;
        format!(
            r#"
{top}
[filter-lists.sites]
filters = [
    {{ source = "10.{here}.0.0/16", destination = "10.{there}.0.0/16" }},
    {{ source = "fd0{here}::/64", destination = "fd0{there}::/64" }},
]
[filter-lists.clear]
filters = [
    {{ source = "10.1.0.0/16", destination = "10.2.0.0/16", protocol = "udp", destination-port = {CLEAR_PORT} }},
    {{ source = "fd01::/64", destination = "fd02::/64", protocol = "udp", destination-port = {CLEAR_PORT} }},
]
[[rules]]
name = "sites"
filter-list = "sites"
action = "protect"
connection = "c"
[[rules]]
name = "clear"
filter-list = "clear"
action = "permit"
[connections.c]
mode = "tunnel"
local = "{local}"
remote = "{remote}"
{connection}
[connections.c.static]
algorithm = "{algorithm}"
outbound = {{ spi = 0x100{here}, key-file = "{key_out}.key" }}
inbound = {{ spi = 0x100{there}, key-file = "{key_in}.key" }}
{keys}
"#
        )
    }
}

pub(crate) fn key(folder: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(folder.join(format!("{name}.key"))).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

/// A folder with two fresh keys.
pub(crate) fn keys() -> TempDir {
    keys_for("aes-256-gcm")
}

/// The same for any algorithm.
pub(crate) fn keys_for(algorithm: &str) -> TempDir {
    let folder = TempDir::with_prefix("ravelin-test-").unwrap();
    for name in ["a.key", "b.key"] {
        keygen(&folder.path().join(name), algorithm);
    }
    folder
}

pub(crate) fn keygen(file: &Path, algorithm: &str) {
    let mut command = Command::new(RAVELIN);
    command.arg("keygen").arg(file).args(["--algorithm", algorithm]);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) fn host(namespace: &Namespace, site: usize) {
    namespace.ip(&format!(
        "address add 10.{site}.0.2/24 dev eth0\naddress add fd0{site}::2/64 dev eth0 nodad\n\
         route add default via 10.{site}.0.1\nroute add ::/0 via fd0{site}::1"
    ));
}

fn gateway(namespace: &Namespace, site: usize) {
    namespace.sysctl("ipv4/ip_forward", "1");
    namespace.sysctl("ipv6/conf/all/forwarding", "1");
    let other = 3 - site;
    namespace.ip(&format!(
        "address add 10.{site}.0.1/24 dev in0\naddress add fd0{site}::1/64 dev in0 nodad\n\
         address add 192.0.2.{site}/24 dev out0\naddress add 2001:db8::{site}/64 dev out0 nodad\n\
         route add 10.{other}.0.0/16 via 192.0.2.{other}\nroute add fd0{other}::/64 via 2001:db8::{other}"
    ));
}
