//! The network changes under the daemon, which follows the kernel's tables.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::support::capture::{Capture, Ip, clear};
use crate::support::echo::Echo;
use crate::support::lab::{H1, H2, Half, Lab, PORT, Policy};
use crate::support::wait_until;

#[test]
fn new_link_layer_addresses_are_picked_up() {
    let lab = Lab::new();
    let _pair = lab.start(&Policy::default());
    let echo = Echo::start(&lab.h2, PORT);
    for family in [0, 1] {
        wait_until("UDP before", || echo.udp(&lab.h1, H2[family], b"before"));
    }
    // Another network card in the host, as it were: it says so with its next packet.
    lab.h1.ip("link set eth0 address 02:00:00:00:01:99");
    for family in [0, 1] {
        wait_until("UDP after the host's change", || {
            echo.udp(&lab.h1, H2[family], b"host")
        });
    }
    // The peer gateway's: what it seals goes out under the new address, and what it is sent must arrive there.
    lab.g2.ip("link set out0 address 02:00:00:00:02:99");
    for family in [0, 1] {
        wait_until("UDP after the gateway's change", || {
            echo.udp(&lab.h1, H2[family], b"peer")
        });
        wait_until("ping back", || lab.h2.ping(H1[family]));
    }
}

#[test]
fn esp_follows_the_route_to_the_peer() {
    let half = Half::new();
    // Two next hops on the same wire; the peer lies behind them.
    half.peer
        .ip("address add 192.0.2.3/24 dev peer0\naddress add 192.0.2.4/24 dev peer0");
    half.peer.ip("link add name other type veth peer name unused");
    let policy = Policy::default()
        .text(1)
        .replace("\"192.0.2.2\"", "\"198.51.100.1\"");
    let gateway = crate::support::daemon::Gateway::new(&half.g1, half.folder.path(), &policy);
    half.g1.ip(
        "neighbour add 192.0.2.3 lladdr 02:00:00:00:00:03 dev out0 nud permanent\n\
         neighbour add 192.0.2.4 lladdr 02:00:00:00:00:04 dev out0 nud permanent\n\
         route add default via 192.0.2.3",
    );
    let _daemon = gateway.start();
    let wire = Capture::start(&half.peer, "peer0");
    let echo = Echo::start(&half.peer, PORT);
    let arrives_at = |last: u8| {
        let what = format!("ESP at next hop {last}");
        let mark = wire.mark();
        wait_until(&what, || {
            echo.udp_one_way(&half.h1, H2[0], b"which way?");
            wire.frames()[mark..].iter().any(|seen| {
                seen.frame[..6] == [2, 0, 0, 0, 0, last]
                    && Ip::parse(&seen.frame).is_some_and(|packet| packet.esp().is_some())
            })
        });
    };
    arrives_at(3);
    half.g1.ip("route replace default via 192.0.2.4");
    arrives_at(4);
    // A better route than the default one.
    half.g1.ip("route add 198.51.100.0/24 via 192.0.2.3");
    arrives_at(3);
    half.g1.ip("route del 198.51.100.0/24");
    arrives_at(4);
    assert!(
        clear(&wire.packets()).iter().all(|packet| packet.protocol == 1),
        "clear on the wire"
    );
}

/// Longer than the daemon lets pass between two confirmations of the neighbours that it uses, which is a second.
const CONFIRMATION: Duration = Duration::from_millis(2500);

#[test]
fn neighbours_that_were_written_down_are_left_alone() {
    let half = Half::new();
    // Another link-layer address than the peer would answer with, as for a VRRP router or a middle box.
    let mac = "02:00:00:00:00:77";
    half.g1.ip(&format!(
        "neighbour add 192.0.2.2 lladdr {mac} dev out0 nud permanent"
    ));
    let gateway = half.gateway(&Policy::default());
    let _daemon = gateway.start();
    let wire = Capture::start(&half.peer, "peer0");
    let echo = Echo::start(&half.peer, PORT);
    let started = Instant::now();
    while started.elapsed() < CONFIRMATION {
        echo.udp_one_way(&half.h1, H2[0], b"which address?");
        std::thread::sleep(Duration::from_millis(20));
    }
    let entry = half
        .g1
        .run("ip", &["neighbour", "show", "to", "192.0.2.2", "dev", "out0"]);
    assert!(entry.contains(mac) && entry.contains("PERMANENT"), "{entry}");
    let mut sealed = wire.frames();
    sealed
        .retain(|seen| !seen.outgoing && Ip::parse(&seen.frame).is_some_and(|packet| packet.esp().is_some()));
    assert!(sealed.len() > 10, "{}", sealed.len());
    assert!(sealed.iter().all(|seen| seen.frame[..6] == [2, 0, 0, 0, 0, 0x77]));
}

/// Rules that choose between routing tables; and routes of IPv4 that went with their device, which nobody announces.
#[test]
fn what_changes_routes_without_being_one_is_followed() {
    let half = Half::new();
    let policy = Policy::default()
        .text(1)
        .replace("\"192.0.2.2\"", "\"198.51.100.1\"");
    let gateway = crate::support::daemon::Gateway::new(&half.g1, half.folder.path(), &policy);
    // IPv6 would announce the end of an address of its own.
    half.g1.sysctl("ipv6/conf/default/disable_ipv6", "1");
    half.g1.ip(
        "neighbour add 192.0.2.3 lladdr 02:00:00:00:00:03 dev out0 nud permanent\n\
         neighbour add 192.0.2.4 lladdr 02:00:00:00:00:04 dev out0 nud permanent\n\
         route add default via 192.0.2.3\n\
         route add default via 192.0.2.4 table 7\n\
         link add name other type veth peer name end\n\
         link set end up\n\
         link set other up\n\
         address add 203.0.113.1/24 dev other",
    );
    let daemon = gateway.start();
    let wire = Capture::start(&half.peer, "peer0");
    let echo = Echo::start(&half.peer, PORT);
    let send = || echo.udp_one_way(&half.h1, H2[0], b"which way?");
    let arrives_at = |last: u8| {
        let mark = wire.mark();
        wait_until(&format!("ESP at next hop {last}"), || {
            send();
            wire.frames()[mark..].iter().any(|seen| {
                seen.frame[..6] == [2, 0, 0, 0, 0, last]
                    && Ip::parse(&seen.frame).is_some_and(|packet| packet.esp().is_some())
            })
        });
    };
    arrives_at(3);
    half.g1.ip("rule add to 198.51.100.0/24 table 7");
    arrives_at(4);
    half.g1.ip("rule del to 198.51.100.0/24 table 7");
    arrives_at(3);
    half.g1.ip("route add 198.51.100.0/24 via 203.0.113.2 dev other");
    let before = daemon.drops("no_route");
    wait_until("no way out", || {
        send();
        daemon.drops("no_route") > before
    });
    half.g1.ip("link set other down");
    arrives_at(3);
}

#[test]
fn packets_wait_for_a_host_that_comes_up_later() {
    let lab = Lab::new();
    let pair = lab.start(&Policy::default());
    let echo = Echo::start(&lab.h2, PORT);
    // The tunnel's own next hops are known; only the host is not.
    wait_until("ping", || lab.h1.ping(H2[0]));
    lab.h2.ip("link set eth0 down");
    lab.g2.ip("neighbour flush dev in0");
    let waited = || pair.d2.status().workers[0].waited;
    // What resolves addresses hears of this a moment later; until then packets leave for where the host was.
    let before = waited();
    wait_until("a packet to wait", || {
        echo.udp_one_way(&lab.h1, H2[0], b"anyone?");
        waited() > before
    });
    let before = waited();
    lab.h1.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for number in 0..100u8 {
            socket.send_to(&[number], (H2[0], PORT)).unwrap();
        }
    });
    wait_until("100 packets wait", || waited() >= before + 100);
    assert!(echo.received().is_empty());
    lab.h2.ip("link set eth0 up\nroute add default via 10.2.0.1");
    let arrived = || -> Vec<u8> {
        let datagrams = echo.received().into_iter();
        datagrams.filter(|bytes| bytes.len() == 1).flatten().collect()
    };
    wait_until("all that waited arrive", || arrived().len() == 100);
    assert_eq!(arrived(), (0..100).collect::<Vec<u8>>());
}

#[test]
fn devices_that_were_down_work_again() {
    let lab = Lab::new();
    let _pair = lab.start(&Policy::default());
    let echo = Echo::start(&lab.h2, PORT);
    for device in ["in0", "out0"] {
        wait_until("UDP before", || echo.udp(&lab.h1, H2[0], b"before"));
        lab.g1.ip(&format!("link set {device} down"));
        assert!(!echo.udp(&lab.h1, H2[0], b"meanwhile"));
        lab.g1.ip(&format!("link set {device} up"));
        if device == "out0" {
            // The kernel forgets the routes over a device that goes down.
            lab.g1.ip("route replace 10.2.0.0/16 via 192.0.2.2");
        }
        wait_until("UDP after", || echo.udp(&lab.h1, H2[0], b"after"));
    }
}

#[test]
fn without_its_outer_device_the_daemon_ends_and_the_rest_stays_closed() {
    let lab = Lab::new();
    let gateway = lab.gateway(1, &Policy::default());
    let daemon = gateway.start();
    lab.g1.ip("link del out0");
    let (status, log) = daemon.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("out0"), "{log}");
    // The inner device's program still decides, and finds no worker.
    let links = lab.g1.run("ip", &["-d", "link", "show", "dev", "in0"]);
    assert!(links.contains("prog/xdp"), "{links}");
}
