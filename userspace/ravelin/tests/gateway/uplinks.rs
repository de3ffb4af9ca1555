//! Machines on which the way to a peer depends on the address that packets leave with (`ip rule add from ...`).

use crate::support::daemon::Daemon;
use crate::support::echo::Echo;
use crate::support::hosts::{A, Hosts};
use crate::support::lab::{H2, Lab, PORT, Policy};
use crate::support::namespace::Namespace;
use crate::support::wait_until;

/// Adds or deletes the rules for the addresses of the first host or gateway, whose routes are in a table of their own.
fn rules(namespace: &Namespace, verb: &str) {
    for (family, own) in [("-4", A[0]), ("-6", A[1])] {
        namespace.run("ip", &[family, "rule", verb, "from", own, "lookup", "77"]);
    }
}

#[test]
fn a_gateway_takes_the_uplink_of_its_own_address_and_follows_rules() {
    for outer in [0, 1] {
        let lab = Lab::new();
        // By the main table the peer is beyond another uplink.
        lab.g1.ip(
            "link add name up1 type veth peer name up1p\nlink set up1 up\nlink set up1p up\naddress add 203.0.113.1/24 dev up1\n\
             route add 192.0.2.2/32 dev up1\nroute add 2001:db8::2/128 dev up1\n\
             route add 192.0.2.0/24 dev out0 table 77\nroute add 2001:db8::/64 dev out0 table 77",
        );
        let pair = lab.start(&Policy {
            outer,
            ..Policy::default()
        });
        let echo = Echo::start(&lab.h2, PORT);
        let passes = |bytes: &[u8]| echo.udp(&lab.h1, H2[0], bytes);
        let no_route = |daemon: &Daemon| daemon.drops("no_route");
        wait_until("packets without a route", || {
            assert!(!passes(b"nowhere"), "by the other uplink");
            no_route(&pair.d1) > 0
        });
        for round in 0..2 {
            rules(&lab.g1, "add");
            wait_until("a new rule to be followed", || passes(&[round]));
            let before = no_route(&pair.d1);
            rules(&lab.g1, "del");
            wait_until("a rule that has gone to be followed", || {
                !passes(&[round]) && no_route(&pair.d1) > before
            });
        }
    }
}

#[test]
fn a_host_takes_the_uplink_of_its_own_address() {
    const PEER: [&str; 2] = ["198.51.100.2", "2001:db8:b::2"];
    for edge in ["tun", "veth"] {
        let hosts = Hosts::new(true).with_edge(edge);
        hosts.b.ip(&format!(
            "address add {}/32 dev lo\naddress add {}/128 dev lo nodad",
            PEER[0], PEER[1]
        ));
        hosts.a.ip(
            "link add name eth1 type veth peer name eth1p\nlink set eth1 up\nlink set eth1p up\n\
             address add 203.0.113.1/24 dev eth1\naddress add 2001:db8:c::1/64 dev eth1 nodad\n\
             route add default via 203.0.113.254 dev eth1\nroute add ::/0 via 2001:db8:c::fe dev eth1\n\
             route add default via 192.0.2.2 dev eth0 table 77\nroute add ::/0 via 2001:db8::2 dev eth0 table 77",
        );
        rules(&hosts.a, "add");
        let running = hosts.start(|policy| {
            policy
                .replace("192.0.2.2", PEER[0])
                .replace("2001:db8::2", PEER[1])
        });
        let capture = hosts.capture();
        for (own, peer) in A.into_iter().zip(PEER) {
            let arguments = ["-n", "-q", "-c1", "-W1", "-I", own, peer];
            wait_until("an answer through ESP", || {
                hosts.a.output("ping", &arguments).status.success()
            });
        }
        let opened: u64 = running
            .db
            .status()
            .connections
            .iter()
            .map(|one| one.inbound.packets)
            .sum();
        assert!(opened >= 2, "{opened}");
        let clear = crate::host::leaks(&capture.packets());
        assert!(clear.is_empty(), "{clear:?}");
    }
}

/// A bridge, a bond or a VLAN has the address, and its port is taken for the outer device.
#[test]
fn a_start_warns_of_peers_that_are_beyond_another_device() {
    let hosts = Hosts::new(true);
    let host = hosts.host(0, str::to_owned);
    let warning = "warning: the way to the peers of connections";
    let daemon = host.start();
    assert!(!daemon.log().contains(warning), "{}", daemon.log());
    daemon.kill();
    hosts.a.ip(
        "link add name br7 type bridge\nlink set br7 up\naddress flush dev eth0\nlink set eth0 master br7\n\
         address add 192.0.2.1/24 dev br7",
    );
    let daemon = host.start();
    let said = format!("{warning} `host-b-v4` (192.0.2.2) is by device br7, not by the outer device eth0");
    wait_until("the warning", || daemon.log().contains(&said));
    // Nothing holds what leaves by another port of the bridge, or by another device altogether.
    assert!(
        daemon.log().contains("leaves by any other device in the clear"),
        "{}",
        daemon.log()
    );
}
