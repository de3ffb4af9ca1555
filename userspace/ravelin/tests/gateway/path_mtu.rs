//! What a router owes its hosts: path MTU discovery, TTL, checksums.

use serde_json::Value;

use crate::support::capture::{Capture, Ip};
use crate::support::echo::Echo;
use crate::support::lab::{H1, H2, Half, Lab, PORT, Policy};
use crate::support::scapy::{Scapy, to_hex};
use crate::support::wait_until;

/// Puts an IP packet of h1's on its device, towards the gateway.
fn send(half: &Half, host: &Capture, packet: &[u8]) {
    host.send_ip([half.g1.mac("in0"), half.h1.mac("eth0")], packet);
}

/// The ICMP error that a packet brings back, as scapy reads it.
fn error_for(half: &Half, host: &Capture, scapy: &mut Scapy, packet: &[u8]) -> Value {
    let mark = host.mark();
    send(half, host, packet);
    let error = host.find("an ICMP error", mark, |seen| {
        let packet = Ip::parse(&seen.frame)?;
        let is_error = match packet.protocol {
            1 => matches!(packet.payload[0], 3 | 11),
            58 => packet.payload[0] < 128,
            _ => false,
        };
        (is_error && !seen.outgoing).then_some(packet)
    });
    let answer = scapy.icmp_error(&error.bytes);
    assert_eq!(answer["checksums"], true, "{answer}");
    let quote = answer["quote"].as_str().unwrap();
    // As it was sent, TTL included, and as much of it as there may be.
    assert!(to_hex(packet).starts_with(quote), "{answer}");
    let most = if packet[0] >> 4 == 4 { 576 } else { 1280 };
    let headers = if packet[0] >> 4 == 4 { 28 } else { 48 };
    assert_eq!(quote.len() / 2, packet.len().min(most - headers));
    answer
}

#[test]
fn packets_that_do_not_fit_are_answered_with_the_mtu_that_does() {
    for outer in [0, 1] {
        let half = Half::new();
        let gateway = half.gateway(&Policy {
            outer,
            ..Policy::default()
        });
        let daemon = gateway.start();
        let host = Capture::start(&half.h1, "eth0");
        let mut scapy = Scapy::start();
        // RFC 4303: outer header, 8 of ESP, 8 of IV, padding to four, 2 of trailer, 16 of ICV.
        let fits = [1500 - 20, 1500 - 40][outer] - 8 - 8 - 16;
        let fits = fits / 4 * 4 - 2;
        let v4 = scapy.build(&format!(
            "IP(src='{}', dst='{}', flags='DF')/UDP(sport=1, dport=2)/Raw(b'x' * 1472)",
            H1[0], H2[0]
        ));
        let answer = error_for(&half, &host, &mut scapy, &v4);
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&3.into(), &4.into()),
            "{answer}"
        );
        assert_eq!(answer["mtu"], fits, "{answer}");
        assert_eq!(
            (&answer["source"], &answer["destination"]),
            (&"10.1.0.1".into(), &H1[0].into())
        );
        let v6 = scapy.build(&format!(
            "IPv6(src='{}', dst='{}')/UDP(sport=1, dport=2)/Raw(b'x' * 1452)",
            H1[1], H2[1]
        ));
        let answer = error_for(&half, &host, &mut scapy, &v6);
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&2.into(), &0.into()),
            "{answer}"
        );
        assert_eq!(answer["mtu"], fits, "{answer}");
        assert_eq!(
            (&answer["source"], &answer["destination"]),
            (&"fd01::1".into(), &H1[1].into())
        );
        assert_eq!(daemon.drops("packet_too_big"), 2);

        // Exactly what was promised fits, and one byte more does not.
        let wire = Capture::start(&half.peer, "peer0");
        let packet = |scapy: &mut Scapy, length: usize| {
            scapy.build(&format!(
                "IP(src='{}', dst='{}', flags='DF')/UDP(sport=1, dport=2)/Raw(b'x' * {})",
                H1[0],
                H2[0],
                length - 28
            ))
        };
        let largest = packet(&mut scapy, fits);
        send(&half, &host, &largest);
        wire.find("the largest packet, sealed", 0, |seen| {
            Ip::parse(&seen.frame).filter(|packet| packet.esp().is_some() && packet.bytes.len() <= 1500)
        });
        let larger = packet(&mut scapy, fits + 1);
        daemon.expect_drops("packet_too_big", 1, || send(&half, &host, &larger));
        let outbound = &daemon.status().connections[0].outbound;
        assert_eq!(outbound.drops["packet_too_big"], 3);
    }
}

#[test]
fn tcp_finds_its_segment_size() {
    let lab = Lab::new();
    let pair = lab.start(&Policy {
        connection: "tcp-mss-clamp = false",
        ..Policy::default()
    });
    let echo = Echo::start(&lab.h2, PORT);
    for family in [0, 1] {
        echo.tcp(&lab.h1, H2[family], 1 << 20);
    }
    // The hosts' MTU is 1500, so the first segments of full size met the answer.
    assert!(pair.d1.drops("packet_too_big") > 0);
    assert_eq!(pair.d1.status().workers[0].mss_clamped, 0);
}

/// With only one gateway that does it, both hosts hear of it: what is sealed and what is opened counts.
#[test]
fn tcp_is_told_its_segment_size() {
    for clamping in [1, 2] {
        let lab = Lab::new();
        let [g1, g2] = [1, 2].map(|site| {
            let connection = if site == clamping {
                ""
            } else {
                "tcp-mss-clamp = false"
            };
            lab.gateway(
                site,
                &Policy {
                    connection,
                    ..Policy::default()
                },
            )
        });
        let daemons = [g1.start(), g2.start()];
        let echo = Echo::start(&lab.h2, PORT);
        let hosts = [Capture::start(&lab.h1, "eth0"), Capture::start(&lab.h2, "eth0")];
        for family in [0, 1] {
            echo.tcp(&lab.h1, H2[family], 1 << 20);
        }
        for daemon in &daemons {
            assert_eq!(daemon.drops("packet_too_big"), 0);
        }
        // SYN and SYN with ACK, of both families.
        assert!(daemons[clamping - 1].status().workers[0].mss_clamped >= 4);
        assert_eq!(daemons[2 - clamping].status().workers[0].mss_clamped, 0);
        // 1,500 bytes less 20 of outer header, 8 of ESP, 8 of IV, 16 of ICV, and 2 of trailer.
        for host in &hosts {
            for (family, mss) in [(4, 1446 - 40), (6, 1446 - 60)] {
                let announced = host.find("a SYN from the other side", 0, |seen| {
                    let packet = Ip::parse(&seen.frame)?;
                    let syn = packet.protocol == 6 && packet.payload[13] & 2 != 0 && !seen.outgoing;
                    (syn && packet.bytes[0] >> 4 == family)
                        .then(|| u16::from_be_bytes([packet.payload[22], packet.payload[23]]))
                });
                assert_eq!(announced, mss);
            }
        }
    }
}

#[test]
fn every_gateway_takes_one_from_the_ttl() {
    let lab = Lab::new();
    let _pair = lab.start(&Policy::default());
    wait_until("ping", || lab.h1.ping(H2[0]) && lab.h1.ping(H2[1]));
    let host = Capture::start(&lab.h2, "eth0");
    for family in [0, 1] {
        let mark = host.mark();
        wait_until("ping", || lab.h1.ping(H2[family]));
        let request = host.find("the echo request", mark, |seen| {
            Ip::parse(&seen.frame).filter(|packet| {
                !seen.outgoing
                    && packet.source.to_string() == H1[family]
                    && matches!(packet.payload[0], 8 | 128)
            })
        });
        assert_eq!(request.ttl, 62);
    }
}

#[test]
fn the_last_hop_is_told_and_the_gateway_shows_in_a_traceroute() {
    let half = Half::new();
    let gateway = half.gateway(&Policy::default());
    let daemon = gateway.start();
    let host = Capture::start(&half.h1, "eth0");
    let mut scapy = Scapy::start();
    for (family, layer, kind, source) in [
        (0, "IP(ttl=1,", 11, "10.1.0.1"),
        (1, "IPv6(hlim=1,", 3, "fd01::1"),
    ] {
        let packet = scapy.build(&format!(
            "{layer} src='{}', dst='{}')/UDP(sport=1, dport=33434)/Raw(b'traceroute')",
            H1[family], H2[family]
        ));
        let answer = error_for(&half, &host, &mut scapy, &packet);
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&kind.into(), &0.into()),
            "{answer}"
        );
        assert_eq!(answer["source"], source);
    }
    assert_eq!(daemon.drops("ttl_exceeded"), 2);
}

#[test]
fn a_damaged_header_is_dropped_and_not_sealed() {
    let half = Half::new();
    let gateway = half.gateway(&Policy::default());
    let daemon = gateway.start();
    let host = Capture::start(&half.h1, "eth0");
    let mut scapy = Scapy::start();
    let damaged = scapy.build(&format!(
        "IP(src='{}', dst='{}', chksum=0x1234)/UDP(sport=1, dport=2)",
        H1[0], H2[0]
    ));
    daemon.expect_drops("ip_bad_checksum", 1, || send(&half, &host, &damaged));
    assert_eq!(daemon.status().connections[0].outbound.packets, 0);
}
