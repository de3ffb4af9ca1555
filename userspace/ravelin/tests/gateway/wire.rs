//! Scapy is the peer: it opens what the daemon sealed, the daemon opens what scapy sealed, and what nobody should
//! open is dropped for the right reason.

use crate::support::capture::Ip;
use crate::support::echo::Echo;
use crate::support::lab::{G1, G2, H1, H2, Half, PORT, Policy};
use crate::support::peer::Peer;
use crate::support::scapy::Sa;
use crate::support::wait_until;

fn received(echo: &Echo, text: &str) -> bool {
    echo.received().iter().any(|datagram| datagram == text.as_bytes())
}

fn policy(outer: usize, extended: bool, udp: bool) -> Policy {
    Policy {
        outer,
        connection: if udp { "encapsulation = \"udp\"" } else { "" },
        keys: if extended { "esn = true" } else { "esn = false" },
        ..Policy::default()
    }
}

#[test]
fn scapy_and_the_daemon_open_what_the_other_sealed() {
    for (outer, extended, udp) in [
        (0, true, false),
        (1, true, false),
        (0, false, false),
        (1, false, false),
        (0, true, true),
    ] {
        let half = Half::new();
        let gateway = half.gateway(&policy(outer, extended, udp));
        let daemon = gateway.start();
        let echo = Echo::start(&half.h1, PORT);
        let mut peer = Peer::new(&half, outer, extended, udp);
        for family in [0, 1] {
            let text = format!("outwards {outer} {family} {extended} {udp}");
            let mark = peer.wire.mark();
            echo.udp_one_way(&half.h1, H2[family], text.as_bytes());
            // The host's answer to the datagram before is ESP too: only this text will do.
            let (scapy, sealed) = (&mut peer.scapy, &peer.sealed);
            let opened = peer.wire.find("the text, sealed by the daemon", mark, |seen| {
                let packet = Ip::parse(&seen.frame)?;
                let (spi, sequence) = packet.esp()?;
                assert_eq!(spi, 0x1001);
                let opened = scapy.open(sealed, sequence.into(), &packet.bytes);
                opened.ends_with(text.as_bytes()).then_some(opened)
            });
            // RFC 4301 section 5.1.2.1: one hop, counted before it was sealed.
            assert_eq!(opened[[8, 7][family]], 63);

            let text = format!("inwards {outer} {family} {extended} {udp}");
            let clear = peer.datagram(family, &text);
            let packet = peer.scapy.seal(&peer.own.clone(), family as u64 + 1, &clear);
            peer.send(&packet);
            wait_until("scapy's packet at the host", || received(&echo, &text));
        }
        drop(daemon);
    }
}

#[test]
fn what_must_not_pass_is_dropped_for_its_reason() {
    let half = Half::new();
    let gateway = half.gateway(&policy(0, true, false));
    let daemon = gateway.start();
    let echo = Echo::start(&half.h1, PORT);
    let mut peer = Peer::new(&half, 0, true, false);

    let first = peer.sealed_datagram(1, "first");
    peer.send(&first);
    wait_until("the first packet", || received(&echo, "first"));
    daemon.expect_drops("replay_duplicate", 1, || peer.send(&first));

    // Every byte from the sequence number's low half to the ICV; the last one here is of the ICV.
    let good = peer.sealed_datagram(2, "flipped");
    for place in [20 + 8, 20 + 16, good.len() - 17, good.len() - 1] {
        let mut flipped = good.clone();
        flipped[place] ^= 0x10;
        daemon.expect_drops("icv_mismatch", 1, || peer.send(&flipped));
    }

    for family in [0, 1] {
        let spoofed = peer.datagram(family, "spoofed");
        daemon.expect_drops("clear_not_allowed", 1, || peer.send(&spoofed));
    }

    let wrong = Sa {
        source: "192.0.2.77",
        ..peer.own.clone()
    };
    let clear = peer.datagram(0, "wrong endpoint");
    let packet = peer.scapy.seal(&wrong, 3, &clear);
    daemon.expect_drops("spi_wrong_endpoint", 1, || peer.send(&packet));

    let addresses = format!("IP(src='{}', dst='{}', proto=50)", G2[0], G1[0]);
    for spi in [0, 1, 255] {
        let packet = peer
            .scapy
            .build(&format!("{addresses}/ESP(spi={spi}, seq=1, data=b'x' * 64)"));
        daemon.expect_drops("spi_reserved", 1, || peer.send(&packet));
    }
    for length in [0, 8, 27] {
        let packet = peer.scapy.build(&format!(
            "{addresses}/ESP(spi=0x1002, seq=9, data=b'x' * {length})"
        ));
        daemon.expect_drops("esp_truncated", 1, || peer.send(&packet));
    }

    // Authentic, but not what the connection is for: RFC 4301 section 5.2.
    for (sequence, (source, destination)) in [(5, ("10.9.0.2", H1[0])), (6, (H2[0], "10.1.0.2"))] {
        let payload = if sequence == 5 {
            format!("UDP(sport=1234, dport={PORT})/Raw(b'inner policy')")
        } else {
            // From the port of the flow that passes in the clear: an answer of it must not come through the tunnel.
            "UDP(sport=7777, dport=1234)/Raw(b'inner policy')".to_owned()
        };
        let clear = peer
            .scapy
            .build(&format!("IP(src='{source}', dst='{destination}')/{payload}"));
        let packet = peer.scapy.seal(&peer.own.clone(), sequence, &clear);
        daemon.expect_drops("inner_policy", 1, || peer.send(&packet));
    }

    // Whatever is still under way has arrived when a last good packet has.
    let last = peer.sealed_datagram(7, "last");
    peer.send(&last);
    wait_until("the last packet", || received(&echo, "last"));
    assert_eq!(echo.received(), [b"first".to_vec(), b"last".to_vec()]);

    // The SA has a counter for each kind of failure that got as far as to it; what the driver drops counts as a whole.
    let status = daemon.status();
    let sa = &status.connections[0].inbound;
    let drops: Vec<_> = sa
        .drops
        .iter()
        .map(|(reason, count)| (&**reason, *count))
        .collect();
    assert_eq!(
        drops,
        [("icv_mismatch", 4), ("inner_policy", 2), ("replay_duplicate", 1)]
    );
    // Opened, whatever became of them: 1, 5, 6 and 7.
    assert_eq!((sa.packets, sa.sequence), (4, 7));
    assert!(sa.idle_seconds.is_some_and(|idle| idle < 20), "{sa:?}");
    let shown = gateway.client("status").output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let line = shown.lines().find(|line| line.contains("0x00001002"));
    assert!(
        line.is_some_and(|line| line.ends_with("icv_mismatch 4, inner_policy 2, replay_duplicate 1")),
        "{shown}"
    );
}

/// RFC 4303 section 3.4.3: a packet is old when it is left of the window; those inside may come in any order.
#[test]
fn packets_out_of_order_are_taken_once_within_the_window() {
    let half = Half::new();
    let gateway = half.gateway(&Policy {
        keys: "esn = false\nreplay-window = 64",
        ..policy(0, false, false)
    });
    let daemon = gateway.start();
    let echo = Echo::start(&half.h1, PORT);
    let mut peer = Peer::new(&half, 0, false, false);
    for sequence in [100, 40, 99, 37] {
        let packet = peer.sealed_datagram(sequence, &format!("number {sequence}"));
        peer.send(&packet);
        wait_until("a packet in the window", || {
            received(&echo, &format!("number {sequence}"))
        });
    }
    let packet = peer.sealed_datagram(36, "too old");
    daemon.expect_drops("replay_old", 1, || peer.send(&packet));
    assert!(!received(&echo, "too old"));
}
