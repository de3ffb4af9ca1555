//! h1 – g1 – router – g2 – h2: two sites, and between their gateways a router over whose links no long packet goes.

use tempfile::TempDir;

use super::daemon::Gateway;
use super::lab::{G1, G2, Policy, host, keys};
use super::namespace::{Namespace, veth};

/// The network. Devices: `eth0` on hosts, `in0` and `out0` on gateways, `to-g1` and `to-g2` on the router.
pub(crate) struct Routed {
    pub(crate) h1: Namespace,
    pub(crate) g1: Namespace,
    pub(crate) router: Namespace,
    pub(crate) g2: Namespace,
    pub(crate) h2: Namespace,
    pub(crate) folder: TempDir,
}

impl Routed {
    /// With a router that forwards packets of up to `mtu` bytes.
    pub(crate) fn new(mtu: u32) -> Self {
        let lab = Self {
            h1: Namespace::new(),
            g1: Namespace::new(),
            router: Namespace::new(),
            g2: Namespace::new(),
            h2: Namespace::new(),
            folder: keys(),
        };
        veth((&lab.h1, "eth0"), (&lab.g1, "in0"));
        veth((&lab.g1, "out0"), (&lab.router, "to-g1"));
        veth((&lab.g2, "out0"), (&lab.router, "to-g2"));
        veth((&lab.h2, "eth0"), (&lab.g2, "in0"));
        host(&lab.h1, 1);
        host(&lab.h2, 2);
        for (site, gateway) in [(1, &lab.g1), (2, &lab.g2)] {
            let (other, index) = (3 - site, site - 1);
            gateway.sysctl("ipv4/ip_forward", "1");
            gateway.sysctl("ipv6/conf/all/forwarding", "1");
            gateway.ip(&format!(
                "address add 10.{site}.0.1/24 dev in0\naddress add fd0{site}::1/64 dev in0 nodad\n\
                 address add 198.51.{site}.2/24 dev out0\naddress add 2001:db8:{site}::2/64 dev out0 nodad\n\
                 address add {}/32 dev out0\naddress add {}/128 dev out0 nodad\n\
                 route add default via 198.51.{site}.1\nroute add ::/0 via 2001:db8:{site}::1\n\
                 route add 10.{other}.0.0/16 via 198.51.{site}.1\nroute add fd0{other}::/64 via 2001:db8:{site}::1",
                [G1, G2][index][0], [G1, G2][index][1]
            ));
            lab.router.ip(&format!(
                "address add 198.51.{site}.1/24 dev to-g{site}\naddress add 2001:db8:{site}::1/64 dev to-g{site} nodad"
            ));
        }
        lab.router.sysctl("ipv4/ip_forward", "1");
        lab.router.sysctl("ipv6/conf/all/forwarding", "1");
        lab.set_mtu(mtu);
        lab
    }

    /// Has the router forward packets of up to `mtu` bytes from now on.
    pub(crate) fn set_mtu(&self, mtu: u32) {
        for (site, ends) in [(1, G1), (2, G2)] {
            self.router.ip(&format!(
                "route replace {}/32 via 198.51.{site}.2 mtu lock {mtu}\n\
                 route replace {}/128 via 2001:db8:{site}::2 mtu lock {mtu}",
                ends[0], ends[1]
            ));
        }
    }

    /// The gateway of site 1 or 2, not started.
    pub(crate) fn gateway(&self, site: usize, policy: &Policy) -> Gateway<'_> {
        let namespace = if site == 1 { &self.g1 } else { &self.g2 };
        Gateway::new(namespace, self.folder.path(), &policy.text(site))
    }
}
