//! Devices whose packets need several buffers: MTUs of up to 9,000 bytes.

use std::net::UdpSocket;
use std::os::fd::AsFd as _;

use nix::sys::socket::{setsockopt, sockopt};

use crate::host;
use crate::support::capture::{Ip, assert_sequence_numbers_fresh, clear};
use crate::support::daemon::Daemon;
use crate::support::echo::Echo;
use crate::support::hosts::{A, B, Hosts};
use crate::support::lab::{G1, G2, H1, H2, Lab, PORT, Policy};
use crate::support::namespace::Namespace;
use crate::support::tshark::{self, Key};
use crate::support::wait_until;

const MTU: u32 = 9000;

/// Lengths of what is inside a datagram: both sides of where packets, clear or sealed, go over from one buffer to the next. A
/// chunk of packet memory has 4,096 bytes, 3,840 of them for what is received.
fn awkward_lengths() -> Vec<usize> {
    let borders = [1500, 2048, 3506, 3840, 4096, 7680, 8192];
    let around = borders
        .into_iter()
        .flat_map(|border| (border - 130..=border + 10).step_by(5));
    around.chain((8800..=8972).step_by(4)).collect()
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 % 253) as u8).collect()
}

/// Whether a ping of so many bytes is answered, and what it said. `discovery` is `do` for one that may not be fragmented, and
/// `dont` for one that may.
fn ping(from: &Namespace, address: &str, discovery: &str, bytes: usize) -> (bool, String) {
    let size = bytes.to_string();
    let arguments = ["-n", "-c1", "-W1", "-M", discovery, "-s", &size, address];
    let output = from.output("ping", &arguments);
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

fn longest(packets: &[Ip]) -> usize {
    packets.iter().map(|packet| packet.bytes.len()).max().unwrap_or(0)
}

/// What an IP packet of the other site has room for, by the gateway's own word: RFC 4303 over IPv4 or IPv6, with AES-GCM.
fn inner_mtu(between: u32, outer: usize) -> usize {
    let room = between as usize - [20, 40][outer] - 8 - 8 - 16;
    room / 4 * 4 - 2
}

fn keys(lab: &Lab, outer: usize) -> [Key; 2] {
    let ends = [G1[outer], G2[outer]];
    [(0, "a", 0x1001), (1, "b", 0x1002)].map(|(from, name, spi)| Key {
        source: ends[from],
        destination: ends[1 - from],
        spi,
        key: lab.key(name),
    })
}

/// Nothing was lost for want of memory, and nothing was mistaken for something else.
fn assert_no_losses(daemon: &Daemon) {
    for reason in [
        "no_frame",
        "frame_short",
        "frame_too_long",
        "metadata_invalid",
        "icv_mismatch",
    ] {
        assert_eq!(daemon.drops(reason), 0, "{reason}: {:?}", daemon.all_drops());
    }
}

#[test]
fn every_awkward_length_goes_through_a_tunnel() {
    for outer in [0, 1] {
        let lab = Lab::with_mtus([MTU; 2], MTU);
        let pair = lab.start(&Policy {
            outer,
            keys: "esn = false",
            ..Policy::default()
        });
        let capture = lab.capture();
        let echo = Echo::start(&lab.h2, PORT);
        let fits = inner_mtu(MTU, outer);
        for family in [0, 1] {
            wait_until("ping from site 1", || lab.h1.ping(H2[family]));
            let headers = [28, 48][family];
            for length in [
                1472,
                3478,
                3840 - 28,
                4096,
                7680,
                fits - headers - 1,
                fits - headers,
            ] {
                for (from, to) in [(&lab.h1, H2[family]), (&lab.h2, H1[family])] {
                    wait_until(&format!("a ping of {length}"), || ping(from, to, "do", length).0);
                }
            }
            for length in awkward_lengths() {
                let sent = bytes(length);
                wait_until(&format!("UDP of {length}"), || {
                    echo.udp(&lab.h1, H2[family], &sent)
                });
            }
            echo.tcp(&lab.h1, H2[family], 8 << 20);
        }
        let sealed = [&pair.d1, &pair.d2].map(|daemon| daemon.status().workers[0].sealed as usize);
        wait_until("the capture to hold every packet", || {
            capture.mark() >= sealed[0] + sealed[1]
        });
        let frames = capture.frames();
        let packets = capture.packets();
        assert!(
            clear(&packets).is_empty(),
            "clear on the wire: {:?}",
            clear(&packets)
        );
        let esp = assert_sequence_numbers_fresh(&packets);
        assert!(
            (8990..=9000).contains(&longest(&packets)),
            "{}",
            longest(&packets)
        );
        let opened = tshark::open(&frames, &keys(&lab, outer), lab.folder.path());
        assert_eq!(
            (opened.esp, opened.authentic),
            (esp as u64, esp as u64),
            "{opened:?}"
        );
        for daemon in [&pair.d1, &pair.d2] {
            assert_no_losses(daemon);
        }
    }
}

/// Padding makes jumbo packets of short ones.
#[test]
fn padding_to_a_long_mtu_goes_through() {
    let lab = Lab::with_mtus([MTU; 2], MTU);
    let pair = lab.start(&Policy {
        connection: "tfc-padding = \"mtu\"",
        ..Policy::default()
    });
    let capture = lab.capture();
    for family in [0, 1] {
        wait_until("ping", || lab.h1.ping(H2[family]));
        let long = || ping(&lab.h1, H2[family], "do", 8000).0;
        wait_until("a long ping", long);
    }
    let packets = capture.packets();
    let sealed: Vec<_> = packets.iter().filter(|packet| packet.esp().is_some()).collect();
    assert!(sealed.len() >= 8);
    assert!(
        sealed
            .iter()
            .all(|packet| (8990..=9000).contains(&packet.bytes.len()))
    );
    for daemon in [&pair.d1, &pair.d2] {
        assert_no_losses(daemon);
    }
}

#[test]
fn between_short_links_long_packets_are_cut_or_answered() {
    let lab = Lab::with_mtus([MTU, 1500], 1500);
    let pair = lab.start(&Policy::default());
    let capture = lab.capture();
    let echo = Echo::start(&lab.h2, PORT);
    let fits = inner_mtu(1500, 0);
    for family in [0, 1] {
        let told = format!("mtu{}{fits}", [" = ", "="][family]);
        wait_until("an answer with the MTU that fits", || {
            let (answered, said) = ping(&lab.h1, H2[family], "do", 8000);
            assert!(!answered, "{said}");
            said.contains(&told)
        });
        for length in [1500, 4000, 8900] {
            let sent = bytes(length);
            wait_until("UDP, fragmented by its sender", || {
                echo.udp(&lab.h1, H2[family], &sent)
            });
        }
        echo.tcp(&lab.h1, H2[family], 1 << 20);
    }
    // What may be cut is cut here, into more pieces than two.
    lab.h1.ip("route flush cache");
    let before = pair.d1.status().workers[0].fragmented;
    wait_until("a ping that may be cut", || {
        ping(&lab.h1, H2[0], "dont", 8000).0 && pair.d1.status().workers[0].fragmented > before
    });
    assert!(longest(&capture.packets()) <= 1500);
    for daemon in [&pair.d1, &pair.d2] {
        assert_no_losses(daemon);
    }
}

#[test]
fn opened_packets_that_are_too_long_for_the_clear_side_are_cut_or_answered() {
    let lab = Lab::with_mtus([MTU, 1500], MTU);
    let pair = lab.start(&Policy::default());
    let capture = lab.capture();
    let echo = Echo::start(&lab.h2, PORT);
    wait_until("a ping that may be cut", || ping(&lab.h1, H2[0], "dont", 8000).0);
    assert!(pair.d2.status().workers[0].fragmented > 0);
    assert!(longest(&capture.packets()) > 8000);
    for family in [0, 1] {
        let told = format!("mtu{}1500", [" = ", "="][family]);
        wait_until("an answer through the tunnel", || {
            ping(&lab.h1, H2[family], "do", 8000).1.contains(&told)
        });
        let sent = bytes(8000);
        wait_until("UDP, fragmented by its sender", || {
            echo.udp(&lab.h1, H2[family], &sent)
        });
        echo.tcp(&lab.h1, H2[family], 1 << 20);
    }
    for daemon in [&pair.d1, &pair.d2] {
        assert_no_losses(daemon);
    }
}

/// Fragments of datagrams that are longer than any packet, inside and outside of ESP.
#[test]
fn fragments_of_a_long_mtu_are_carried() {
    let lab = Lab::with_mtus([MTU; 2], MTU);
    let pair = lab.start(&Policy::default());
    let echo = Echo::start(&lab.h2, PORT);
    for family in [0, 1] {
        for length in [9000, 20_000, 60_000] {
            let sent = bytes(length);
            wait_until(&format!("UDP of {length}"), || {
                echo.udp(&lab.h1, H2[family], &sent)
            });
        }
    }
    for daemon in [&pair.d1, &pair.d2] {
        assert_no_losses(daemon);
    }
}

/// Packet memory is what the MTU at the start asked for.
#[test]
fn an_mtu_that_is_raised_later_is_not_used_and_longer_frames_are_counted() {
    let lab = Lab::new();
    let pair = lab.start(&Policy::default());
    let capture = lab.capture();
    let echo = Echo::start(&lab.h2, PORT);
    wait_until("ping", || lab.h1.ping(H2[0]));
    lab.h1.ip("link set eth0 mtu 9000");
    lab.g1.ip("link set in0 mtu 9000\nlink set out0 mtu 9000");
    lab.wire.ip("link set to-g1 mtu 9000");
    pair.d1.expect_drops("frame_too_long", 1, || {
        assert!(!ping(&lab.h1, H2[0], "do", 8000).0);
    });
    for family in [0, 1] {
        wait_until("ping", || lab.h1.ping(H2[family]));
        echo.tcp(&lab.h1, H2[family], 1 << 20);
    }
    assert!(longest(&capture.packets()) < 2048);
}

/// Generic XDP comes after GRO, and sees what a sender left to be segmented by hardware there is not.
#[test]
fn frames_of_segmentation_offload_are_counted() {
    let lab = Lab::new();
    let gateway = lab.gateway(1, &Policy::default()).with("--xdp-mode", "generic");
    let daemon = gateway.start();
    let features = [
        "-K",
        "eth0",
        "tx",
        "on",
        "sg",
        "on",
        "gso",
        "on",
        "tx-udp-segmentation",
        "on",
    ];
    lab.h1.run("ethtool", &features);
    daemon.expect_drops("frame_too_long", 1, || {
        lab.h1.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            setsockopt(&socket.as_fd(), sockopt::UdpGsoSegment, &1000).unwrap();
            socket.send_to(&bytes(20_000), (H2[0], PORT)).unwrap();
        });
    });
}

/// Ping, UDP and TCP between two hosts; `fragmented` are lengths of datagrams that need several packets.
fn between_hosts(change: impl Fn(&str) -> String, fragmented: &[usize]) {
    let hosts = Hosts::with_mtu(MTU);
    let running = hosts.start(change);
    let capture = hosts.capture();
    let echo = Echo::start(&hosts.b, PORT);
    for family in [0, 1] {
        wait_until("ping from a", || hosts.a.ping(B[family]));
        wait_until("ping from b", || hosts.b.ping(A[family]));
        for length in [1472, 3478, 3800, 3812, 4096, 7680, 8800] {
            wait_until(&format!("a ping of {length}"), || {
                ping(&hosts.a, B[family], "do", length).0
            });
        }
        let whole = awkward_lengths().into_iter().filter(|length| *length <= 8900);
        for length in whole.step_by(3).chain(fragmented.iter().copied()) {
            let sent = bytes(length);
            wait_until(&format!("UDP of {length}"), || {
                echo.udp(&hosts.a, B[family], &sent)
            });
        }
        echo.tcp(&hosts.a, B[family], 8 << 20);
    }
    let sealed = [&running.da, &running.db].map(|daemon| daemon.status().workers[0].sealed as usize);
    wait_until("the capture to hold every packet", || {
        capture.mark() >= sealed[0] + sealed[1]
    });
    let frames = capture.frames();
    let packets = capture.packets();
    assert_eq!(host::leaks(&packets).len(), 0);
    assert!(
        (8980..=9000).contains(&longest(&packets)),
        "{}",
        longest(&packets)
    );
    let esp = assert_sequence_numbers_fresh(&packets) as u64;
    let opened = tshark::open(&frames, &host::keys(&hosts), hosts.folder.path());
    assert_eq!((opened.esp, opened.authentic), (esp, esp), "{opened:?}");
    for daemon in [&running.da, &running.db] {
        assert_no_losses(daemon);
    }
}

/// What has to be fragmented ends there: it is for whole datagrams (RFC 4303 section 3.3.4).
#[test]
fn hosts_protect_their_own_jumbo_packets_in_transport_mode() {
    between_hosts(str::to_owned, &[]);
}

#[test]
fn hosts_protect_their_own_jumbo_packets_in_tunnel_mode() {
    between_hosts(host::tunnel, &[8948, 20_000]);
}
