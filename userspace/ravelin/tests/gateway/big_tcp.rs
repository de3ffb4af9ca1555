//! Devices whose senders may hand over more than 64 KiB at a time (BIG TCP): the length field of the IP header says nothing then.

use crate::host::tunnel;
use crate::support::echo::Echo;
use crate::support::hosts::{B, Hosts};
use crate::support::lab::PORT;
use crate::support::namespace::Namespace;

/// Bytes of a stream, there and back.
const STREAM: usize = 8 << 20;

/// TCP at this port is permitted in the clear.
const PERMITTED: u16 = 5001;

/// Sets `IFLA_GSO_MAX_SIZE`, `IFLA_GRO_MAX_SIZE` and those of IPv4, which the `ip` of Debian 12 does not know.
const RAISE: &str = "
import socket, struct, sys
index, size = socket.if_nametoindex(sys.argv[1]), int(sys.argv[2])
attributes = b''.join(struct.pack('HHI', 8, kind, size) for kind in (41, 58, 63, 64))
message = struct.pack('BBHiII', 0, 0, 0, index, 0, 0) + attributes
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
kernel.send(struct.pack('IHHII', 16 + len(message), 16, 5, 1, 0) + message)
sys.exit(-struct.unpack_from('i', kernel.recv(4096), 16)[0])
";

fn raise(namespace: &Namespace, device: &str) {
    namespace.run("python3", &["-c", RAISE, device, "190000"]);
}

/// Permits one service by a rule whose packets and bytes are counted.
fn with_permitted(policy: &str) -> String {
    let mut filters = String::new();
    for (source, destination) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let ends = if policy.contains(&format!("source = \"{source}\"")) {
            [source, destination]
        } else {
            [destination, source]
        };
        for port in ["source-port", "destination-port"] {
            filters += &format!(
                "{{ source = \"{}\", destination = \"{}\", protocol = \"tcp\", {port} = {PERMITTED} }}, ",
                ends[0], ends[1]
            );
        }
    }
    policy.replacen(
        "[[rules]]",
        &format!(
            "[filter-lists.big]\nfilters = [{filters}]\n\
             [[rules]]\nname = \"big\"\nfilter-list = \"big\"\naction = \"permit\"\n[[rules]]"
        ),
        1,
    )
}

/// Clear segments of TCP on their way through the wire, perhaps many at a time.
struct Segments {
    v6: bool,
    /// By their IP header.
    length: u16,
    ports: [u16; 2],
}

impl Segments {
    fn of(frame: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
        let ether_type = word(12)?;
        // A jumbo payload option may stand in front of TCP (RFC 2675).
        let (length, tcp) = match (ether_type, frame.get(20)?, frame.get(23)?) {
            (0x0800, _, 6) => (word(16)?, 14 + 20),
            (0x86dd, 6, _) => (word(18)?, 14 + 40),
            (0x86dd, 0, _) if frame.get(54) == Some(&6) => (word(18)?, 14 + 48),
            _ => return None,
        };
        Some(Self {
            v6: ether_type == 0x86dd,
            length,
            ports: [word(tcp)?, word(tcp + 2)?],
        })
    }
}

fn transfers(edge: &'static str, change: impl Fn(&str) -> String) {
    let hosts = Hosts::new(true).with_edge(edge);
    for host in [&hosts.a, &hosts.b] {
        raise(host, "eth0");
    }
    for port in ["to-a", "to-b", "br0"] {
        raise(&hosts.wire, port);
    }
    let running = hosts.start(|policy| change(&with_permitted(policy)));
    let capture = hosts.capture();
    let permitted = Echo::start(&hosts.b, PERMITTED);
    let protected = Echo::start(&hosts.b, PORT);
    for address in B {
        permitted.tcp(&hosts.a, address, STREAM);
        protected.tcp(&hosts.a, address, STREAM);
    }
    let frames = capture.frames();
    let clear: Vec<Segments> = frames
        .iter()
        .filter_map(|seen| Segments::of(&seen.frame))
        .collect();
    assert!(clear.iter().all(|one| one.ports.contains(&PERMITTED)));
    for v6 in [false, true] {
        let big = clear.iter().filter(|one| one.v6 == v6 && one.length == 0);
        assert!(big.count() > 0, "no packet of more than 64 KiB; IPv6: {v6}");
    }
    for daemon in [&running.da, &running.db] {
        for reason in [
            "ip_bad_header_length",
            "ip_bad_total_length",
            "ipv6_extension_truncated",
            "packet_too_big",
        ] {
            assert_eq!(daemon.drops(reason), 0, "{reason}: {:?}", daemon.all_drops());
        }
    }
    let status = running.da.status();
    let rule = status.rules.iter().find(|rule| rule.name == "big").unwrap();
    assert!(rule.bytes > 2 * STREAM as u64, "{rule:?}");
}

#[test]
fn more_than_64_kib_at_a_time_pass_and_are_protected() {
    transfers("tun", str::to_owned);
}

#[test]
fn more_than_64_kib_at_a_time_pass_and_are_protected_by_veth() {
    transfers("veth", tunnel);
}
