//! ESP that was fragmented on its way: put together, opened, or dropped whole for the right reason.

use crate::support::capture::{Capture, Ip};
use crate::support::daemon::Gateway;
use crate::support::echo::Echo;
use crate::support::lab::{H1, H2, Half, Lab, PORT, Policy};
use crate::support::peer::Peer;
use crate::support::routed::Routed;
use crate::support::scapy::to_hex;
use crate::support::wait_until;

fn policy(outer: usize, udp: bool) -> Policy {
    Policy {
        outer,
        connection: if udp { "encapsulation = \"udp\"" } else { "" },
        keys: "esn = false",
        ..Policy::default()
    }
}

fn received(echo: &Echo, text: &str) -> bool {
    echo.received().iter().any(|datagram| datagram == text.as_bytes())
}

/// A packet in fragments of about `size` bytes each, by scapy.
fn cut(peer: &mut Peer, packet: &[u8], id: u32, size: usize) -> Vec<Vec<u8>> {
    peer.scapy.fragments(packet, id, size)
}

#[test]
fn fragments_are_put_together_in_any_order() {
    for (outer, udp) in [(0, false), (1, false), (0, true)] {
        let half = Half::new();
        let gateway = half.gateway(&policy(outer, udp));
        let daemon = gateway.start();
        let echo = Echo::start(&half.h1, PORT);
        let mut peer = Peer::new(&half, outer, false, udp);
        let mut id = 0x7001;
        for size in [600, 1000] {
            for reversed in [false, true] {
                // Of UDP only the first fragment tells what the others are.
                if reversed && udp {
                    continue;
                }
                let text = format!("{size} {reversed} ").repeat(100);
                id += 1;
                let sealed = peer.sealed_datagram(id.into(), &text);
                let mut fragments = cut(&mut peer, &sealed, id, size);
                assert!(fragments.len() >= 2);
                if reversed {
                    fragments.reverse();
                }
                fragments.iter().for_each(|fragment| peer.send(fragment));
                wait_until("the packet that was in fragments", || received(&echo, &text));
            }
        }
        let reassembled = daemon.status().workers[0].reassembled;
        assert_eq!(reassembled, if udp { 2 } else { 4 });
        assert_eq!(daemon.all_drops(), []);
    }
}

#[test]
fn what_makes_no_packet_is_dropped_whole() {
    let half = Half::new();
    let gateway = half.gateway(&policy(0, false));
    let daemon = gateway.start();
    let echo = Echo::start(&half.h1, PORT);
    let mut peer = Peer::new(&half, 0, false, false);
    let text = "reassembled ".repeat(100);

    // All but the last.
    let sealed = peer.sealed_datagram(1, &text);
    let fragments = cut(&mut peer, &sealed, 1, 400);
    let (last, others) = fragments.split_last().unwrap();
    let count = others.len() as u64;
    daemon.expect_drops("reassembly_timeout", count, || {
        others.iter().for_each(|fragment| peer.send(fragment));
    });
    daemon.expect_drops("reassembly_timeout", 1, || peer.send(last));

    // The second one twice, and reaching into the first one: from the start on, and too late.
    let sealed = peer.sealed_datagram(2, &text);
    let fragments = cut(&mut peer, &sealed, 2, 400);
    peer.send(&fragments[0]);
    peer.send(&fragments[1]);
    daemon.expect_drops("reassembly_duplicate", 1, || peer.send(&fragments[1]));
    let reaching = {
        let mut reaching = fragments[1].clone();
        // The offset stands in units of eight bytes.
        reaching[7] -= 1;
        peer.scapy.build(&format!(
            "(lambda p: (delattr(p, 'chksum'), p)[1])(IP(bytes.fromhex('{}')))",
            to_hex(&reaching)
        ))
    };
    daemon.expect_drops("reassembly_overlap", 3, || peer.send(&reaching));
    daemon.expect_drops("reassembly_overlap", fragments.len() as u64 - 2, || {
        fragments[2..].iter().for_each(|fragment| peer.send(fragment));
    });

    // Whole again, but one bit is not the sender's.
    let sealed = peer.sealed_datagram(3, &text);
    let mut fragments = cut(&mut peer, &sealed, 3, 400);
    *fragments[1].last_mut().unwrap() ^= 1;
    daemon.expect_drops("icv_mismatch", 1, || {
        fragments.iter().for_each(|fragment| peer.send(fragment));
    });

    // Of no SA of ours: the filters judge them, first and later ones.
    let unknown = peer
        .scapy
        .build("IP(src='192.0.2.2', dst='192.0.2.1', proto=50)/ESP(spi=0x9999, seq=1, data=b'x' * 1000)");
    let passed = || daemon.status().outcomes["permit_default"];
    let before = passed();
    let fragments = cut(&mut peer, &unknown, 4, 400);
    fragments.iter().for_each(|fragment| peer.send(fragment));
    wait_until("fragments for the kernel", || {
        passed() >= before + fragments.len() as u64
    });

    let sealed = peer.sealed_datagram(5, &text);
    for fragment in cut(&mut peer, &sealed, 5, 400) {
        peer.send(&fragment);
    }
    wait_until("a last good packet", || received(&echo, &text));
    assert_eq!(echo.received().len(), 1);
}

/// The kernel of a router in between fragments: in IPv4, and ESP whose sender allows it.
#[test]
fn what_a_router_fragmented_arrives() {
    for udp in [false, true] {
        let lab = Routed::new(1000);
        // Sockets made from now on leave DF clear.
        for host in [&lab.h1, &lab.h2] {
            host.sysctl("ipv4/ip_no_pmtu_disc", "1");
        }
        let gateways = [1, 2].map(|site| lab.gateway(site, &policy(0, udp)));
        let daemons = gateways.each_ref().map(Gateway::start);
        let echo = Echo::start(&lab.h2, PORT);
        let wire = Capture::start(&lab.router, "to-g2");
        for length in [600, 1200, 1400] {
            wait_until("a datagram there and back", || {
                echo.udp(&lab.h1, H2[0], &vec![7; length])
            });
        }
        let fragments = wire
            .frames()
            .iter()
            .filter(|seen| seen.outgoing && seen.frame[12..14] == [8, 0] && seen.frame[20] & 0x20 != 0)
            .count();
        assert!(fragments >= 2, "the router fragmented {fragments} packets");
        for daemon in &daemons {
            assert!(
                daemon.status().workers[0].reassembled >= 2,
                "{:?}",
                daemon.all_drops()
            );
        }
    }
}

/// RFC 4301 section 8.1: clear packets without DF are cut before they are sealed; the kernel of the other host puts them together.
#[test]
fn packets_that_may_be_cut_arrive_whatever_their_length() {
    for outer in [0, 1] {
        let lab = Lab::new();
        lab.h1.sysctl("ipv4/ip_no_pmtu_disc", "1");
        lab.h2.sysctl("ipv4/ip_no_pmtu_disc", "1");
        let pair = lab.start(&policy(outer, false));
        let wire = lab.capture();
        let echo = Echo::start(&lab.h2, PORT);
        for length in [1372, 1418, 1419, 1450, 1472, 1473, 4000, 30_000] {
            wait_until("a datagram there and back", || {
                echo.udp(&lab.h1, H2[0], &vec![7; length])
            });
        }
        let esp: Vec<Ip> = wire
            .packets()
            .into_iter()
            .filter(|packet| packet.esp().is_some())
            .collect();
        assert!(esp.iter().all(|packet| packet.bytes.len() <= 1500));
        for daemon in [&pair.d1, &pair.d2] {
            let worker = &daemon.status().workers[0];
            // Two of 1,500 bytes, one of each in 4,000 and many in 30,000.
            assert!(worker.fragmented >= 20, "{worker:?}");
            assert_eq!((worker.icmp_errors, daemon.drops("packet_too_big")), (0, 0));
        }
    }
}

/// What was opened and is too long for the clear side is cut there, or its sender hears of it through the tunnel.
#[test]
fn a_narrow_clear_side_behind_the_tunnel_is_found_out() {
    let lab = Lab::new();
    for (namespace, device) in [(&lab.g2, "in0"), (&lab.h2, "eth0")] {
        namespace.ip(&format!("link set {device} mtu 1300"));
    }
    let pair = lab.start(&policy(0, false));
    let echo = Echo::start(&lab.h2, PORT);
    let host = Capture::start(&lab.h1, "eth0");
    for family in [0, 1] {
        // The first ones are lost; then the kernel knows and makes fragments that fit.
        wait_until("a datagram there and back", || {
            echo.udp(&lab.h1, H2[family], &[7; 1350])
        });
        let gateway = ["10.2.0.1", "fd02::1"][family];
        let mtu = host.find("an ICMP error of the other gateway", 0, |seen| {
            let packet = Ip::parse(&seen.frame)?;
            let error = matches!(packet.payload[..2], [3, 4] | [2, 0]) && [1, 58].contains(&packet.protocol);
            (error && packet.source.to_string() == gateway && packet.destination.to_string() == H1[family])
                .then(|| u32::from_be_bytes(packet.payload[4..8].try_into().unwrap()))
        });
        assert_eq!(mtu, 1300);
    }
    assert!(pair.d2.drops("packet_too_big") >= 2);
    assert_eq!(pair.d2.status().workers[0].fragmented, 0);
    // Now without DF.
    lab.h1.sysctl("ipv4/ip_no_pmtu_disc", "1");
    lab.h1.ip("route flush cache");
    let dropped = pair.d2.drops("packet_too_big");
    wait_until("a datagram there and back", || {
        echo.udp(&lab.h1, H2[0], &[7; 1360])
    });
    assert!(pair.d2.status().workers[0].fragmented >= 1);
    assert_eq!(pair.d2.drops("packet_too_big"), dropped);
}
