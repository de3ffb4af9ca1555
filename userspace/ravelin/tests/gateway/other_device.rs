//! A start with another device than that of the engine before: it must not take the filter away from the first.

use std::net::{IpAddr, UdpSocket};

use crate::support::capture::clear;
use crate::support::daemon::{Gateway, refusal, succeeded};
use crate::support::hosts::{A, B, Hosts};
use crate::support::lab::PORT;

/// The same engine with another outer device.
fn on<'n>(hosts: &'n Hosts, first: &Gateway<'_>, device: &str) -> Gateway<'n> {
    let mut other = hosts.host(0, str::to_owned);
    other.instance.clone_from(&first.instance);
    other.outer = device.to_owned();
    other
}

/// What a start says that must be refused, and changes nothing.
fn refused(gateway: &Gateway<'_>, device: &str, options: &[&str]) {
    let pins = gateway.pins();
    let mut command = gateway.command();
    let said = refusal(&command.args(options).output().unwrap());
    for word in [
        &format!("has its filter on device {device}"),
        "in the clear",
        &format!("`ravelin stop --instance {}`", gateway.instance),
        &format!("`ravelin detach --instance {}`", gateway.instance),
    ] {
        assert!(said.contains(word), "`{word}` is missing in:\n{said}");
    }
    assert_eq!(gateway.pins(), pins, "{said}");
}

#[test]
fn a_start_with_another_device_opens_none() {
    let hosts = Hosts::new(true);
    hosts
        .a
        .ip("link add name eth1 type veth peer name eth1p\nlink set eth1 up\nlink set eth1p up");
    let first = hosts.host(0, str::to_owned);
    let other = on(&hosts, &first, "eth1");
    let capture = hosts.capture();
    let closed = || {
        let socket = hosts.a.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        for _ in 0..4 {
            // To a host's own sender the filter's refusal is an error.
            let _ = socket.send_to(b"protected", (B[0], PORT));
        }
    };

    let daemon = first.start();
    refused(&other, "eth0", &["--replace"]);
    assert_eq!(daemon.status().pid, daemon.pid());
    succeeded(&first.client("stop").arg("--keep-closed").output().unwrap());
    drop(daemon);
    refused(&other, "eth0", &[]);
    refused(&other, "eth0", &["--replace"]);
    closed();

    // It is the same device under any name.
    hosts
        .a
        .ip("link set eth0 down\nlink set eth0 name wan0\nlink set wan0 up");
    refused(&other, "wan0", &[]);
    let pins = first.pins();
    let daemon = on(&hosts, &first, "wan0").start();
    assert_eq!(first.pins(), pins);
    closed();
    daemon.kill();
    let packets = capture.packets();
    // B has no engine: it answers ESP with "protocol unreachable".
    let mut clear = clear(&packets);
    clear.retain(|packet| packet.source == A[0].parse::<IpAddr>().unwrap());
    assert!(clear.is_empty(), "in the clear on the wire: {clear:?}");

    // What has gone is in nobody's way.
    hosts.a.ip("link del wan0");
    let _daemon = other.start();
}
