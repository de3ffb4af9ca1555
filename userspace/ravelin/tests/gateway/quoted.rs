//! ICMP errors that a gateway makes about packets it has opened, where rules protect UDP only: they come back through ESP by what they
//! quote, and the gateway at the other end accepts them by it.

use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::capture::{Capture, Ip, clear};
use crate::support::daemon::Gateway;
use crate::support::echo::Echo;
use crate::support::lab::{H1, H2, Lab, PORT, Policy};
use crate::support::wait_until;

/// A datagram whose last hop is the other gateway: the host hears "time exceeded" from there.
fn expired_behind_the_tunnel(family: usize) {
    let lab = Lab::new();
    // The two under which ICMP has no rule of its own.
    for default in ["permit", "block"] {
        let gateways = [1, 2].map(|site| {
            let namespace = [&lab.g1, &lab.g2][site - 1];
            let text = format!("default = \"{default}\"\n{}", Policy::default().text(site));
            // Of the two lists that of the sites: the other one names its protocol.
            let text = text
                .replace("/16\" }", "/16\", protocol = \"udp\" }")
                .replace("/64\" }", "/64\", protocol = \"udp\" }");
            Gateway::new(namespace, lab.folder.path(), &text)
        });
        let daemons = gateways.each_ref().map(Gateway::start);
        let echo = Echo::start(&lab.h2, PORT);
        wait_until("UDP", || echo.udp(&lab.h1, H2[family], b"all the way"));
        let wire = lab.capture();
        let host = Capture::start(&lab.h1, "eth0");
        let socket = lab.h1.enter(|| {
            let socket = std::net::UdpSocket::bind((H1[family], 0)).unwrap();
            socket.connect((H2[family], PORT)).unwrap();
            socket
        });
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        match family {
            0 => socket.set_ttl(2).unwrap(),
            _ => setsockopt(&socket.as_fd(), sockopt::Ipv6Ttl, &2).unwrap(),
        }
        let (gateway, error) = [("10.2.0.1", (1, 11)), ("fd02::1", (58, 3))][family];
        let told = |packet: &Ip| {
            packet.source.to_string() == gateway && (packet.protocol, packet.payload[0]) == error
        };
        wait_until("time exceeded", || {
            let _ = socket.send(b"not far");
            let _ = socket.recv(&mut [0; 64]);
            host.packets().iter().any(told)
        });
        assert!(daemons[1].status().workers[0].icmp_errors >= 1);
        assert_eq!(daemons[0].drops("inner_policy"), 0);
        let packets = wire.packets();
        let clear = clear(&packets);
        assert!(clear.is_empty(), "clear on the wire: {clear:?}");
    }
}

#[test]
fn time_exceeded_behind_a_tunnel_for_udp_comes_back_ipv4() {
    expired_behind_the_tunnel(0);
}

#[test]
fn time_exceeded_behind_a_tunnel_for_udp_comes_back_ipv6() {
    expired_behind_the_tunnel(1);
}
