//! A host gets another address, and rules with `me` do not speak of it yet: nobody rewrites them while no engine runs.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use crate::host::tunnel;
use crate::support::capture::{Capture, Ip, clear};
use crate::support::daemon::Daemon;
use crate::support::hosts::{B, Hosts};
use crate::support::namespace::{Namespace, veth};
use crate::support::wait_until;

/// Addresses of a that it has from the beginning, and some that it gets.
const OLD: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const NEW: [&str; 2] = ["192.0.2.77", "2001:db8::77"];

/// A host on the link that no rule speaks of.
const ELSEWHERE: [&str; 2] = ["192.0.2.3", "2001:db8::3"];

/// Whose packets a forwards.
const BEHIND: [&str; 2] = ["10.7.0.2", "2001:db8:7::2"];

/// Sends a datagram from an address, if it can.
fn send(from: &Namespace, source: &str, destination: &str) {
    from.enter(|| {
        let socket = UdpSocket::bind((source, 0)).unwrap();
        let _ = socket.send_to(b"from me", (destination, 9));
    });
}

/// Clear datagrams on the wire, by source and destination.
fn seen(capture: &Capture, mark: usize) -> Vec<(IpAddr, IpAddr)> {
    let frames = capture.frames();
    let packets: Vec<Ip> = frames[mark..]
        .iter()
        .filter_map(|seen| Ip::parse(&seen.frame))
        .collect();
    let datagrams = clear(&packets).into_iter().filter(|packet| packet.protocol == 17);
    datagrams
        .map(|packet| (packet.source, packet.destination))
        .collect()
}

/// All that can be sent, and which of it appears on the wire in the clear. What is forwarded comes last, and always appears.
fn appear(hosts: &Hosts, behind: &Namespace, capture: &Capture) -> Vec<(IpAddr, IpAddr)> {
    let mark = capture.mark();
    for family in [0, 1] {
        for source in [NEW[family], OLD[family]] {
            for destination in [B[family], ELSEWHERE[family]] {
                send(&hosts.a, source, destination);
            }
        }
        send(behind, BEHIND[family], B[family]);
        send(behind, BEHIND[family], ELSEWHERE[family]);
        let last = pair(BEHIND[family], ELSEWHERE[family]);
        wait_until("what is forwarded", || seen(capture, mark).contains(&last));
    }
    seen(capture, mark)
}

/// What is forwarded to b leaves from these addresses, as behind a host that translates addresses.
fn translate(hosts: &Hosts, folder: &Path, to: [&str; 2]) {
    let rules = format!(
        "table inet translation\ndelete table inet translation\ntable inet translation {{ chain postrouting {{\n\
         type nat hook postrouting priority srcnat\nip daddr {} snat ip to {}\nip6 daddr {} snat ip6 to {}\n}}\n}}\n",
        B[0], to[0], B[1], to[1]
    );
    let file = folder.join("translation.nft");
    fs::write(&file, rules).unwrap();
    hosts.a.run("nft", &["-f", file.to_str().unwrap()]);
}

fn pair(source: &str, destination: &str) -> (IpAddr, IpAddr) {
    (source.parse().unwrap(), destination.parse().unwrap())
}

fn sealed(daemon: &Daemon) -> u64 {
    let status = daemon.status();
    status.connections.iter().map(|one| one.outbound.packets).sum()
}

#[test]
fn nothing_leaves_from_an_address_that_rules_for_me_do_not_know() {
    nothing_leaves(|_| {});
}

/// Whose packets a device brings may be routed by rules that come before those of the machine's own addresses, and IPv6 is forwarded from
/// devices that do not forward if all do.
#[test]
fn own_addresses_are_known_behind_routing_rules_and_where_a_device_does_not_forward() {
    nothing_leaves(|a| {
        a.ip("route add 192.0.2.0/24 dev eth0 table 100\nroute add 2001:db8::/64 dev eth0 table 100");
        for family in ["-4", "-6"] {
            for rule in [
                "add pref 50 iif in0 lookup 100",
                "add pref 100 lookup local",
                "del pref 0",
            ] {
                let arguments = [family, "rule"].into_iter().chain(rule.split(' '));
                a.run("ip", &arguments.collect::<Vec<_>>());
            }
        }
        for device in ["eth0", "in0"] {
            a.sysctl(&format!("ipv6/conf/{device}/forwarding"), "0");
        }
    });
}

fn nothing_leaves(prepare: impl FnOnce(&Namespace)) {
    let hosts = Hosts::new(true);
    let behind = Namespace::new();
    veth((&hosts.a, "in0"), (&behind, "eth0"));
    hosts
        .a
        .ip("link set in0 up\naddress add 10.7.0.1/24 dev in0\naddress add 2001:db8:7::1/64 dev in0 nodad");
    behind.ip(
        "link set eth0 up\naddress add 10.7.0.2/24 dev eth0\naddress add 2001:db8:7::2/64 dev eth0 nodad\n\
         route add default via 10.7.0.1\nroute add 2001:db8::/64 via 2001:db8:7::1",
    );
    hosts.a.sysctl("ipv4/ip_forward", "1");
    hosts.a.sysctl("ipv6/conf/all/forwarding", "1");
    prepare(&hosts.a);
    for family in [0, 1] {
        for neighbour in [B[family], ELSEWHERE[family]] {
            hosts.a.ip(&format!(
                "neighbour replace {neighbour} lladdr 02:00:00:00:00:99 dev eth0 nud permanent"
            ));
        }
    }
    let add = |addresses: [&str; 2]| {
        hosts.a.ip(&format!(
            "address add {}/24 dev eth0\naddress add {}/64 dev eth0 nodad",
            addresses[0], addresses[1]
        ));
    };
    let policy = |text: &str| {
        let text = tunnel(text);
        OLD.iter().fold(text, |text, own| {
            text.replace(&format!("source = \"{own}\""), "source = \"me\"")
        })
    };
    let folder = tempfile::tempdir().unwrap();
    translate(&hosts, folder.path(), NEW);
    let gateway = hosts.host(0, policy);
    gateway.start().kill();
    add(NEW);

    let capture = hosts.capture();
    let clear = appear(&hosts, &behind, &capture);
    for family in [0, 1] {
        assert!(
            clear.contains(&pair(OLD[family], ELSEWHERE[family])),
            "what is permitted goes on: {clear:?}"
        );
        for (source, destination) in [
            (OLD[family], B[family]),
            (NEW[family], B[family]),
            (NEW[family], ELSEWHERE[family]),
        ] {
            assert!(!clear.contains(&pair(source, destination)), "{clear:?}");
        }
    }

    // The next engine knows it.
    let daemon = gateway.start();
    let before = sealed(&daemon);
    let clear = appear(&hosts, &behind, &capture);
    for family in [0, 1] {
        assert!(clear.contains(&pair(NEW[family], ELSEWHERE[family])), "{clear:?}");
        assert!(!clear.contains(&pair(NEW[family], B[family])), "{clear:?}");
    }
    wait_until("datagrams from old and new addresses to be sealed", || {
        sealed(&daemon) >= before + 6
    });

    // And so does a running one, whenever it has got there.
    let more = ["192.0.2.78", "2001:db8::78"];
    let generation = daemon.status().policy.generation;
    add(more);
    translate(&hosts, folder.path(), more);
    let mark = capture.mark();
    for _ in 0..200 {
        for family in [0, 1] {
            send(&hosts.a, more[family], B[family]);
            send(&behind, BEHIND[family], B[family]);
        }
    }
    wait_until("the swap", || daemon.status().policy.generation > generation);
    for family in [0, 1] {
        wait_until("the new address to be permitted elsewhere", || {
            send(&hosts.a, more[family], ELSEWHERE[family]);
            seen(&capture, mark).contains(&pair(more[family], ELSEWHERE[family]))
        });
        assert!(!seen(&capture, mark).contains(&pair(more[family], B[family])));
    }
    assert!(daemon.drops("address_unknown") > 0, "{:?}", daemon.all_drops());
}
