//! a – wire – b: two hosts, and a bridge between them at which the test listens. What they run is docs/examples/host-a.toml
//! and host-b.toml.

use tempfile::TempDir;

use super::capture::Capture;
use super::daemon::{Daemon, Gateway};
use super::lab::{key, keygen};
use super::namespace::Namespace;
use super::tshark;

pub(crate) const A: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub(crate) const B: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// The port of UDP that the examples let pass in the clear.
pub(crate) const CLEAR_PORT: u16 = 161;

const EXAMPLES: [&str; 2] = [
    include_str!("../../../../../docs/examples/host-a.toml"),
    include_str!("../../../../../docs/examples/host-b.toml"),
];

/// The network. Devices: `eth0` on the hosts, `to-a` and `to-b` on the wire.
pub(crate) struct Hosts {
    pub(crate) a: Namespace,
    pub(crate) wire: Namespace,
    pub(crate) b: Namespace,
    pub(crate) folder: TempDir,
    /// `tun` or `veth`, on both.
    pub(crate) edge: &'static str,
}

impl Hosts {
    /// With the hosts' devices as they come, or with all they would do for the stack switched off.
    pub(crate) fn new(offloads: bool) -> Self {
        Self::make(offloads, 1)
    }

    /// With devices of so many queues.
    pub(crate) fn with_queues(queues: u32) -> Self {
        Self::make(true, queues)
    }

    fn make(offloads: bool, queues: u32) -> Self {
        let hosts = Self {
            a: Namespace::new(),
            wire: Namespace::new(),
            b: Namespace::new(),
            folder: TempDir::with_prefix("ravelin-test-").unwrap(),
            edge: "tun",
        };
        for key in ["a-to-b-v4", "b-to-a-v4", "a-to-b-v6", "b-to-a-v6"] {
            keygen(&hosts.folder.path().join(format!("{key}.key")), "aes-256-gcm");
        }
        hosts.wire.sysctl("ipv6/conf/default/disable_ipv6", "1");
        hosts
            .wire
            .ip("link add name br0 type bridge mcast_snooping 0\nlink set br0 up");
        for (number, host, port) in [(1, &hosts.a, "to-a"), (2, &hosts.b, "to-b")] {
            host.ip(&format!(
                "link add name eth0 numrxqueues {queues} numtxqueues {queues} \
                 type veth peer name {port} netns {} numrxqueues {queues} numtxqueues {queues}\n\
                 link set eth0 up\n\
                 address add 192.0.2.{number}/24 dev eth0\naddress add 2001:db8::{number}/64 dev eth0 nodad",
                hosts.wire.path()
            ));
            hosts
                .wire
                .ip(&format!("link set {port} master br0\nlink set {port} up"));
            // The strictest there is: what was opened must not look as if it came from elsewhere.
            host.sysctl("ipv4/conf/all/rp_filter", "1");
            if !offloads {
                host.run(
                    "ethtool",
                    &[
                        "-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "off",
                    ],
                );
            }
        }
        hosts
    }

    /// The same with another host edge.
    pub(crate) fn with_edge(self, edge: &'static str) -> Self {
        Self { edge, ..self }
    }

    /// The same on links of another MTU.
    pub(crate) fn with_mtu(mtu: u32) -> Self {
        let hosts = Self::new(true);
        hosts.wire.ip(&format!(
            "link set to-a mtu {mtu}\nlink set to-b mtu {mtu}\nlink set br0 mtu {mtu}"
        ));
        for host in [&hosts.a, &hosts.b] {
            host.ip(&format!("link set eth0 mtu {mtu}"));
        }
        hosts
    }

    /// A host's daemon, not started; `change` may make another policy of the example.
    pub(crate) fn host(&self, number: usize, change: impl Fn(&str) -> String) -> Gateway<'_> {
        let folder = self.folder.path().to_str().unwrap();
        let example = tshark::readable(&EXAMPLES[number].replace("/etc/ravelin", folder));
        let namespace = [&self.a, &self.b][number];
        Gateway::host(namespace, self.folder.path(), &change(&example)).with("--host-edge", self.edge)
    }

    /// Both daemons, started.
    pub(crate) fn start(&self, change: impl Fn(&str) -> String) -> Running<'_> {
        let [a, b] = [0, 1].map(|number| self.host(number, &change));
        Running {
            da: a.start(),
            db: b.start(),
            a,
            b,
        }
    }

    /// What passes between the hosts.
    pub(crate) fn capture(&self) -> Capture {
        Capture::start(&self.wire, "to-a")
    }

    /// The bytes of a key file, in hex.
    pub(crate) fn key(&self, name: &str) -> String {
        key(self.folder.path(), name)
    }
}

/// Two running hosts. Fields are dropped in order: first the daemons.
pub(crate) struct Running<'h> {
    pub(crate) da: Daemon,
    pub(crate) db: Daemon,
    pub(crate) a: Gateway<'h>,
    #[expect(dead_code, reason = "detaches when dropped")]
    pub(crate) b: Gateway<'h>,
}
