//! ESP that was fragmented on its way: put together, opened, or dropped whole for the right reason.

use crate::support::capture::Capture;
use crate::support::daemon::Gateway;
use crate::support::echo::Echo;
use crate::support::lab::{H2, Half, PORT, Policy};
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
fn cut(peer: &mut Peer<'_>, packet: &[u8], id: u32, size: usize) -> Vec<Vec<u8>> {
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
