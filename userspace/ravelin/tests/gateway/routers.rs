//! What routers between the gateways say about path MTUs: learned when it is about ESP that was sent, else the kernel's.

use crate::support::capture::{Capture, Ip};
use crate::support::daemon::Gateway;
use crate::support::echo::Echo;
use crate::support::lab::{G1, G2, H2, Half, PORT, Policy};
use crate::support::peer::Peer;
use crate::support::routed::Routed;
use crate::support::scapy::to_hex;
use crate::support::wait_until;

/// The kernel of a router in between refuses what is too long for its next link, and says so.
#[test]
fn a_narrow_link_between_the_gateways_is_found_out() {
    for (outer, udp) in [(0, false), (1, false), (0, true)] {
        let lab = Routed::new(1380);
        let gateways = [1, 2].map(|site| {
            lab.gateway(
                site,
                &Policy {
                    outer,
                    connection: if udp {
                        "encapsulation = \"udp\"\ndf = \"set\""
                    } else if outer == 0 {
                        "df = \"set\""
                    } else {
                        ""
                    },
                    ..Policy::default()
                },
            )
        });
        let daemons = gateways.each_ref().map(Gateway::start);
        let echo = Echo::start(&lab.h2, PORT);
        let host = Capture::start(&lab.h1, "eth0");
        // The first ones are lost: the gateway has to learn, then the host.
        wait_until("a datagram there and back", || {
            echo.udp(&lab.h1, H2[0], &[7; 1340])
        });
        let learned = |daemon: usize| daemons[daemon].status().connections[0].learned_path_mtu;
        assert_eq!((learned(0), learned(1)), (Some(1380), Some(1380)));
        let told = host.find("an ICMP error of the gateway", 0, |seen| {
            let packet = Ip::parse(&seen.frame)?;
            (packet.protocol == 1 && packet.payload[..2] == [3, 4] && packet.source.to_string() == "10.1.0.1")
                .then(|| u16::from_be_bytes(packet.payload[6..8].try_into().unwrap()))
        });
        let headers = [20, 40][outer] + if udp { 8 } else { 0 } + 8 + 8 + 16;
        assert_eq!(told, (1380 - headers) / 4 * 4 - 2);
        echo.tcp(&lab.h1, H2[0], 1 << 18);
        echo.tcp(&lab.h1, H2[1], 1 << 18);
        for daemon in &daemons {
            let worker = &daemon.status().workers[0];
            assert!(worker.path_mtus >= 1, "{worker:?}");
            assert_eq!(daemon.drops("icmp_unproven"), 0);
        }
    }
}

/// Sends what a router says to the gateway, by scapy, about the start of a packet.
fn error(peer: &mut Peer, outer: usize, quoted: &[u8], mtu: u32) {
    let (router, gateway) = (G2[outer], G1[outer]);
    let icmp = [
        format!("IP(src='{router}', dst='{gateway}')/ICMP(type=3, code=4, nexthopmtu={mtu})"),
        format!("IPv6(src='{router}', dst='{gateway}')/ICMPv6PacketTooBig(mtu={mtu})"),
    ];
    let quoted = to_hex(quoted);
    let packet = peer
        .scapy
        .build(&format!("{}/Raw(bytes.fromhex('{quoted}'))", icmp[outer]));
    peer.send(&packet);
}

/// Errors that scapy makes of packets on the wire, true ones and forged ones.
#[test]
fn only_what_quotes_a_live_sa_is_believed() {
    for outer in [0, 1] {
        let half = Half::new();
        let gateway = half.gateway(&Policy {
            outer,
            keys: "esn = false",
            ..Policy::default()
        });
        let daemon = gateway.start();
        let mut peer = Peer::new(&half, outer, false, false);
        wait_until("ESP on the wire", || {
            half.h1.ping(H2[0]);
            daemon.status().connections[0].outbound.packets > 0
        });
        let esp = peer.wire.find("ESP", 0, |seen| {
            Ip::parse(&seen.frame).filter(|packet| packet.esp().is_some() && !seen.outgoing)
        });
        let learned = || daemon.status().connections[0].learned_path_mtu;
        // As if the packet had been long: nobody checks what is not quoted.
        let mut long = esp.bytes[..[28, 48][outer]].to_vec();
        let at = [2, 4][outer];
        long[at..at + 2].copy_from_slice(&1500_u16.to_be_bytes());
        let spi = [20, 40][outer];

        // Of an SA that nobody has: the kernel may have it.
        let mut foreign = long.clone();
        foreign[spi + 3] ^= 0x40;
        let passed = || daemon.status().outcomes.values().sum::<u64>();
        let before = passed();
        error(&mut peer, outer, &foreign, 1290);
        wait_until("an error for the kernel", || passed() > before);
        // A number that was not sent yet, and one that is too long ago to be under way.
        let mut guessed = long.clone();
        guessed[spi + 5] ^= 0x40;
        daemon.expect_drops("icmp_unproven", 1, || error(&mut peer, outer, &guessed, 1290));
        assert_eq!(learned(), None);

        error(&mut peer, outer, &long, 1290);
        wait_until("an error that is believed", || learned() == Some(1290));
        daemon.expect_drops("icmp_no_news", 1, || error(&mut peer, outer, &long, 1400));
        if outer == 0 {
            error(&mut peer, outer, &long, 68);
            wait_until("the least", || learned() == Some(576));
        } else {
            daemon.expect_drops("icmp_unproven", 1, || error(&mut peer, outer, &long, 1279));
            assert_eq!(learned(), Some(1290));
            error(&mut peer, outer, &long, 1280);
            wait_until("the least", || learned() == Some(1280));
        }
    }
}
