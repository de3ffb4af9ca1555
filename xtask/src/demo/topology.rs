//! host1 – gw1 – wire – gw2 – host2: five namespaces and the links between them.

use std::process::Command;

use anyhow::Result;

use super::namespace::{Namespace, ip_batch};
use crate::program;

pub(super) const HOST1_V4: &str = "10.1.0.2";
pub(super) const HOST1_V6: &str = "fd00:1::2";
pub(super) const HOST2_V4: &str = "10.2.0.2";
pub(super) const HOST2_V6: &str = "fd00:2::2";
pub(super) const GW1_V4: &str = "192.0.2.1";
pub(super) const GW1_V6: &str = "2001:db8::1";
pub(super) const GW2_V4: &str = "192.0.2.2";
pub(super) const GW2_V6: &str = "2001:db8::2";

/// The gateways' interfaces.
pub(super) const INNER: &str = "lan";
pub(super) const OUTER: &str = "wan";

/// The ports of the wire's bridge. The capture listens at the first, the attacker stands behind it at the second:
/// the capture shows what the gateways sent, not what the attacker did.
pub(super) const TAP: &str = "to-gw1";
pub(super) const ATTACKER: &str = "to-gw2";

/// The demo's network. Fields are dropped in order: all namespaces go.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) host1: Namespace,
    pub(super) gw1: Namespace,
    pub(super) wire: Namespace,
    pub(super) gw2: Namespace,
    pub(super) host2: Namespace,
}

impl Topology {
    /// Builds it with names that start with `prefix`.
    pub(super) fn build(prefix: &str) -> Result<Self> {
        let create = |name: &str| Namespace::create(format!("{prefix}-{name}"));
        let topology = Self {
            host1: create("host1")?,
            gw1: create("gw1")?,
            wire: create("wire")?,
            gw2: create("gw2")?,
            host2: create("host2")?,
        };
        topology.quieten()?;
        topology.connect()?;
        topology.address()?;
        Ok(topology)
    }

    /// Everything that must not be on the wire by itself: the capture holds only what the demo sent.
    fn quieten(&self) -> Result<()> {
        for namespace in [&self.host1, &self.gw1, &self.gw2, &self.host2] {
            namespace.sysctl(&[
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv6/conf/default/router_solicitations", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                // A multicast listener report is sent at once and repeated within this time (ms), at random.
                (
                    "ipv6/conf/default/mldv2_unsolicited_report_interval",
                    "2147483647",
                ),
            ])?;
        }
        for gateway in [&self.gw1, &self.gw2] {
            gateway.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        }
        self.wire.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])
    }

    fn connect(&self) -> Result<()> {
        let veth = |a: &Namespace, a_name: &str, b: &Namespace, b_name: &str| {
            // AF_XDP on veth uses one real queue unless both ends have the same number.
            format!(
                "link add name {a_name} netns {} numrxqueues 1 numtxqueues 1 type veth \
                 peer name {b_name} netns {} numrxqueues 1 numtxqueues 1\n",
                a.name(),
                b.name()
            )
        };
        ip_batch(&format!(
            "{}{}{}{}",
            veth(&self.host1, "eth0", &self.gw1, INNER),
            veth(&self.gw1, OUTER, &self.wire, TAP),
            veth(&self.wire, ATTACKER, &self.gw2, OUTER),
            veth(&self.gw2, INNER, &self.host2, "eth0"),
        ))?;
        // Between veths with XDP there is a ring of 256 slots, which drops silently unless a queue stands before it.
        for (namespace, device) in [
            (&self.host1, "eth0"),
            (&self.host2, "eth0"),
            (&self.gw1, INNER),
            (&self.gw1, OUTER),
            (&self.gw2, INNER),
            (&self.gw2, OUTER),
            (&self.wire, TAP),
            (&self.wire, ATTACKER),
        ] {
            let qdisc = format!("qdisc add dev {device} root pfifo limit 10000");
            program::output(
                Command::new("tc")
                    .args(["-n", namespace.name()])
                    .args(qdisc.split_whitespace()),
            )?;
        }
        Ok(())
    }

    fn address(&self) -> Result<()> {
        self.wire.ip(&format!(
            "link add name bridge type bridge stp_state 0 mcast_snooping 0\n\
             link set {TAP} master bridge\nlink set {ATTACKER} master bridge\n\
             link set {TAP} up\nlink set {ATTACKER} up\nlink set bridge up\n"
        ))?;
        let host = |site: u8| {
            format!(
                "address add 10.{site}.0.2/16 dev eth0\naddress add fd00:{site}::2/64 dev eth0 nodad\n\
                 link set eth0 up\n\
                 route add default via 10.{site}.0.1\nroute add default via fd00:{site}::1\n"
            )
        };
        let gateway = |site: u8, far: u8| {
            format!(
                "address add 10.{site}.0.1/16 dev {INNER}\naddress add fd00:{site}::1/64 dev {INNER} nodad\n\
                 address add 192.0.2.{site}/24 dev {OUTER}\naddress add 2001:db8::{site}/64 dev {OUTER} nodad\n\
                 link set {INNER} up\nlink set {OUTER} up\n\
                 route add 10.{far}.0.0/16 via 192.0.2.{far}\nroute add fd00:{far}::/64 via 2001:db8::{far}\n"
            )
        };
        self.host1.ip(&host(1))?;
        self.host2.ip(&host(2))?;
        self.gw1.ip(&gateway(1, 2))?;
        self.gw2.ip(&gateway(2, 1))
    }

    /// Turns the hosts' checksum offload off. Across a veth with XDP a locally sent packet still has an unfinished
    /// checksum, which would be sealed as it is.
    pub(super) fn checksum_in_software(&self) -> Result<()> {
        for host in [&self.host1, &self.host2] {
            program::output(host.command("ethtool").args(["-K", "eth0", "tx", "off"]))?;
        }
        Ok(())
    }

    /// Takes the attacker's port off the wire: nothing reaches gw2 but what the attacker sends.
    pub(super) fn cut_wire(&self) -> Result<()> {
        self.wire.ip(&format!("link set {ATTACKER} nomaster\n"))
    }

    /// Undoes [`Topology::cut_wire`].
    pub(super) fn mend_wire(&self) -> Result<()> {
        self.wire.ip(&format!("link set {ATTACKER} master bridge\n"))
    }

    /// Leaves everything in place on drop.
    pub(super) fn keep(&mut self) {
        for namespace in [
            &mut self.host1,
            &mut self.gw1,
            &mut self.wire,
            &mut self.gw2,
            &mut self.host2,
        ] {
            namespace.keep();
        }
    }

    /// The network as a drawing, 108 columns wide.
    pub(super) fn drawing(&self) -> String {
        format!(
            "
 ┌───────────┐       ┌─────────────────────────┐     ┌────────┐     ┌─────────────────────────┐       ┌───────────┐
 │   host1   │       │  {INNER}      gw1     {OUTER}   │     │  wire  │     │   {OUTER}     gw2      {INNER}  │       │   host2   │
 │ {HOST1_V4:<9} ├───────┤ 10.1.0.1    {GW1_V4:>11} ╞═════╡ bridge ╞═════╡ {GW2_V4:<11}    10.2.0.1 ├───────┤ {HOST2_V4:<9} │
 │ {HOST1_V6:<9} │ clear │ fd00:1::1   {GW1_V6:>11} │ ESP │        │ ESP │ {GW2_V6:<11}   fd00:2::1 │ clear │ {HOST2_V6:<9} │
 └───────────┘       └─────────────────────────┘     └─●────●─┘     └─────────────────────────┘       └───────────┘
                                               capture ┘    └ attacker
  namespaces: {} … {}
",
            self.host1.name(),
            self.host2.name()
        )
    }
}
