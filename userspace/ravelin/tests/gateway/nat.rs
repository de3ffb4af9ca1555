//! Behind a NAT that forgets, and what a gateway sends without having received anything.

use std::collections::BTreeSet;

use crate::support::capture::{Capture, Ip};
use crate::support::daemon::Gateway;
use crate::support::echo::Echo;
use crate::support::lab::{G1, H1, Half, Lab, PORT, Policy, keygen};
use crate::support::wait_until;

/// The address of the second gateway behind its NAT, which has the one that the first gateway knows.
const BEHIND: &str = "10.99.0.2";

/// Makes a router with NAT of the bridge between the gateways.
fn put_behind_nat(lab: &Lab) {
    lab.wire
        .ip("link delete br0\naddress add 192.0.2.2/24 dev to-g1\naddress add 10.99.0.1/24 dev to-g2");
    lab.wire.sysctl("ipv4/ip_forward", "1");
    lab.g2.ip(&format!(
        "address delete 192.0.2.2/24 dev out0\naddress add {BEHIND}/24 dev out0\n\
         route add default via 10.99.0.1\nroute replace 10.1.0.0/16 via 10.99.0.1"
    ));
    map_to(lab, "masquerade");
    // So that it forgets soon.
    lab.wire.sysctl("netfilter/nf_conntrack_udp_timeout", "1");
    lab.wire.sysctl("netfilter/nf_conntrack_udp_timeout_stream", "1");
}

/// What the NAT makes of source port 4500 from now on, for flows that it does not remember.
fn map_to(lab: &Lab, statement: &str) {
    let file = lab.folder.path().join("nat.nft");
    let rules = format!(
        "table ip nat\ndelete table ip nat\ntable ip nat {{\n chain post {{\n type nat hook postrouting priority srcnat\n \
         oifname \"to-g1\" udp sport 4500 {statement}\n }}\n}}\n"
    );
    std::fs::write(&file, rules).unwrap();
    lab.wire.run("nft", &["-f", file.to_str().unwrap()]);
}

/// Waits until the NAT remembers no flow. Reading the list takes away what has timed out; the kernel itself is in no hurry to.
fn forget(lab: &Lab) {
    wait_until("the NAT to forget", || {
        lab.wire.run("cat", &["/proc/net/nf_conntrack"]).is_empty()
    });
}

/// RFC 7296 section 2.23: a peer whose NAT gives it another port is told of, and followed only if the policy says so.
#[test]
fn a_peer_behind_a_nat_that_forgets_is_told_of_and_followed_on_demand() {
    const QUIET: &str = "encapsulation = \"udp\"\nnat-keepalive = 0\n";
    let lab = Lab::new();
    put_behind_nat(&lab);
    let policy = Policy {
        connection: QUIET,
        ..Policy::default()
    };
    let g1 = lab.gateway(1, &policy);
    let behind = policy
        .text(2)
        .replace("local = \"192.0.2.2\"", &format!("local = \"{BEHIND}\""));
    let g2 = Gateway::new(&lab.g2, lab.folder.path(), &behind);
    let (d1, _d2) = (g1.start(), g2.start());
    let echo = Echo::start(&lab.h1, PORT);
    wait_until("an answer through the NAT", || {
        echo.udp(&lab.h2, H1[0], b"before")
    });
    assert_eq!(d1.status().connections[0].peer, None);

    map_to(&lab, "masquerade to :61000");
    forget(&lab);
    d1.expect_drops("peer_moved", 1, || echo.udp_one_way(&lab.h2, H1[0], b"moved"));
    wait_until("the peer in the status", || {
        d1.status().connections[0].peer.is_some()
    });
    let peer = d1.status().connections[0].peer.clone().unwrap();
    assert_eq!(
        (peer.address.as_str(), peer.port, peer.packets, peer.followed),
        ("192.0.2.2", 61_000, 1, false)
    );
    let said = "come from 192.0.2.2:61000, not from 192.0.2.2:4500; they are dropped";
    wait_until("a word in the log", || d1.log().contains(said));
    assert!(!echo.received().contains(&b"moved".to_vec()));

    // The same keys and SAs, another setting.
    let following = Policy {
        connection: "encapsulation = \"udp\"\nnat-keepalive = 0\naddress-update = \"port\"",
        ..Policy::default()
    };
    g1.applied(&following.text(1), &[]);
    wait_until("an answer to where the peer is", || {
        echo.udp(&lab.h2, H1[0], b"after")
    });
    let status = d1.status();
    let peer = status.connections[0].peer.clone().unwrap();
    assert_eq!((peer.port, peer.followed), (61_000, true));
    // From now on the driver knows the port: no packet needs to be looked at.
    let before = status.connections[0].peer.as_ref().unwrap().packets;
    wait_until("another answer", || echo.udp(&lab.h2, H1[0], b"later"));
    assert_eq!(d1.status().connections[0].peer.as_ref().unwrap().packets, before);

    // New SAs begin where the old ones have followed the peer to.
    for name in ["e.key", "f.key"] {
        keygen(&lab.folder.path().join(name), policy.algorithm());
    }
    let rekeyed = |text: &str| {
        let text = text.replace("a.key", "e.key").replace("b.key", "f.key");
        text.replace("0x100", "0x200")
            .replace("mode = ", "rekey-grace = 12\nmode = ")
    };
    g1.applied(&rekeyed(&following.text(1)), &[]);
    g2.applied(&rekeyed(&behind), &[]);
    wait_until("new SAs in use both ways", || {
        assert!(echo.udp_surely(&lab.h2, H1[0], b"all the while"));
        let one = &d1.status().connections[0];
        [&one.outbound, &one.inbound]
            .iter()
            .all(|sa| sa.spi >= 0x2000 && sa.packets > 0)
    });
    assert_eq!(d1.status().connections[0].peer.as_ref().unwrap().packets, before);
    // Not followed any more: the policy's port again, from where nothing comes.
    g1.applied(&rekeyed(&policy.text(1)), &[]);
    d1.expect_drops("peer_moved", 1, || echo.udp_one_way(&lab.h2, H1[0], b"unheard"));
    assert_eq!(d1.drops("spi_wrong_endpoint"), 0);
}

/// RFC 3948 sections 2.3 and 4.
#[test]
fn keepalives_go_out_in_silence_and_are_consumed() {
    let half = Half::new();
    let gateway = half.gateway(&Policy {
        connection: "encapsulation = \"udp\"\nnat-keepalive = 1",
        ..Policy::default()
    });
    let wire = Capture::start(&half.peer, "peer0");
    let daemon = gateway.start();
    let keepalive = |seen: &[u8]| {
        let packet = Ip::parse(seen)?;
        let from_gateway = packet.bytes[12..16] == [192, 0, 2, 1] && packet.ports() == Some((4500, 4500));
        (from_gateway && packet.bytes[28..] == [0xff]).then_some(packet)
    };
    for _ in 0..2 {
        let mark = wire.mark();
        wire.find("a keepalive", mark, |seen| keepalive(&seen.frame));
    }
    assert!(
        daemon
            .status()
            .workers
            .iter()
            .map(|worker| worker.keepalives)
            .sum::<u64>()
            >= 2
    );
    // The other way: a socket's, since the peer's kernel makes headers as good as any.
    let socket = half
        .peer
        .enter(|| std::net::UdpSocket::bind("192.0.2.2:4500"))
        .unwrap();
    socket.connect((G1[0], 4500)).unwrap();
    daemon.expect_drops("nat_keepalive", 3, || {
        for _ in 0..3 {
            socket.send(&[0xff]).unwrap();
        }
    });
    // Nobody listens there: what the kernel had seen it would have refused, and the socket have heard of it.
    assert!(socket.take_error().unwrap().is_none());
}

/// RFC 4303 sections 2.6 and 2.7: with nothing to say, and with something, the wire looks the same.
#[test]
fn dummies_fill_the_silence() {
    let lab = Lab::new();
    let policy = Policy {
        connection: "tfc-padding = 400\ndummy-packets = 100",
        ..Policy::default()
    };
    let wire = lab.capture();
    let pair = lab.start(&policy);
    wait_until("dummies at both ends", || {
        pair.d1.drops("dummy") >= 20 && pair.d2.drops("dummy") >= 20
    });
    let echo = Echo::start(&lab.h2, PORT);
    wait_until("an answer between dummies", || {
        echo.udp(&lab.h1, crate::support::lab::H2[0], b"something to say")
    });
    let esp: Vec<Ip> = wire
        .packets()
        .into_iter()
        .filter(|packet| packet.esp().is_some())
        .collect();
    let lengths: BTreeSet<usize> = esp.iter().map(|packet| packet.bytes.len()).collect();
    assert!(esp.len() >= 40);
    // IP, ESP header, 400 bytes with a trailer of two and padding to four, ICV.
    assert_eq!(Vec::from_iter(lengths), [20 + 16 + 404 + 16]);
    crate::support::capture::assert_sequence_numbers_fresh(&esp);
}
