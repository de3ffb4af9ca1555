//! docs/examples/nat-client.toml and nat-server.toml: two hosts and a NAT between them, in transport and in tunnel mode.

use tempfile::TempDir;

use crate::support::capture::{Capture, Ip, assert_sequence_numbers_fresh, clear};
use crate::support::daemon::Gateway;
use crate::support::echo::Echo;
use crate::support::lab::{PORT, key, keygen};
use crate::support::namespace::{Namespace, veth};
use crate::support::tshark::{self, Key};
use crate::support::wait_until;

const CLIENT: &str = "10.0.0.5";
const NAT: &str = "203.0.113.9";
const SERVER: &str = "198.51.100.77";

/// Bytes of a stream, there and back.
const STREAM: usize = 2 << 20;

/// client – nat – server. Devices: `eth0` on the hosts, `inside` and `outside` on the NAT.
struct Network {
    client: Namespace,
    nat: Namespace,
    server: Namespace,
    folder: TempDir,
}

impl Network {
    fn new() -> Self {
        let network = Self {
            client: Namespace::new(),
            nat: Namespace::new(),
            server: Namespace::new(),
            folder: TempDir::with_prefix("ravelin-test-").unwrap(),
        };
        for key in ["client-to-server", "server-to-client"] {
            keygen(&network.folder.path().join(format!("{key}.key")), "aes-256-gcm");
        }
        veth((&network.client, "eth0"), (&network.nat, "inside"));
        veth((&network.server, "eth0"), (&network.nat, "outside"));
        network
            .client
            .ip("address add 10.0.0.5/24 dev eth0\nroute add default via 10.0.0.1");
        network.nat.ip(
            "address add 10.0.0.1/24 dev inside\naddress add 203.0.113.9/32 dev outside\n\
             address add 198.51.100.1/24 dev outside",
        );
        network
            .server
            .ip("address add 198.51.100.77/24 dev eth0\nroute add default via 198.51.100.1");
        network.nat.sysctl("ipv4/ip_forward", "1");
        let rules = network.folder.path().join("nat.nft");
        let text = format!(
            "table ip nat {{\n chain post {{\n type nat hook postrouting priority srcnat\n oifname \"outside\" ip saddr {CLIENT} \
             snat to {NAT}\n }}\n}}\n"
        );
        std::fs::write(&rules, text).unwrap();
        network.nat.run("nft", &["-f", rules.to_str().unwrap()]);
        network
    }

    fn host<'n>(&'n self, namespace: &'n Namespace, policy: &str) -> Gateway<'n> {
        let policy = policy.replace("/etc/ravelin", self.folder.path().to_str().unwrap());
        Gateway::host(namespace, self.folder.path(), &tshark::readable(&policy))
    }
}

/// The example as a tunnel: the client's own address inside, and nothing to correct.
fn tunnel(policy: &str) -> String {
    policy
        .replace("mode = \"transport\"", "mode = \"tunnel\"")
        .replace("original-local = \"203.0.113.9\"\n", "")
        .replace("original-remote = \"10.0.0.5\"\n", "")
        .replace("destination = \"203.0.113.9\"", "destination = \"10.0.0.5\"")
}

/// TCP, UDP and ICMP from the client; every byte that comes back is compared, every packet beyond the NAT opened by tshark.
/// `peer` is what the server calls the client.
fn exercise(change: impl Fn(&str) -> String, peer: &str, inside: &str) {
    let network = Network::new();
    let client = network.host(
        &network.client,
        &change(include_str!("../../../../docs/examples/nat-client.toml")),
    );
    let server = network.host(
        &network.server,
        &change(include_str!("../../../../docs/examples/nat-server.toml")),
    );
    let service = Echo::start(&network.server, PORT);
    wait_until("the NAT", || service.udp(&network.client, SERVER, b"before"));
    let (client_daemon, server_daemon) = (client.start(), server.start());
    let capture = Capture::start(&network.nat, "outside");
    wait_until("ping", || network.client.ping(SERVER));
    wait_until("UDP", || service.udp(&network.client, SERVER, &[7; 1200]));
    service.tcp(&network.client, SERVER, STREAM);
    // The server speaks first, too, once the NAT remembers the client.
    let other = Echo::start(&network.client, PORT + 1);
    wait_until("ping from the server", || network.server.ping(peer));
    other.tcp(&network.server, peer, STREAM / 4);

    let sealed = [&client_daemon, &server_daemon].map(|daemon| daemon.status().workers[0].sealed as usize);
    wait_until("the capture to hold every packet", || {
        capture.mark() >= sealed[0] + sealed[1]
    });
    let frames = capture.frames();
    let packets: Vec<Ip> = frames.iter().filter_map(|seen| Ip::parse(&seen.frame)).collect();
    let leaks: Vec<&Ip> = clear(&packets);
    assert!(leaks.is_empty(), "clear on the wire: {leaks:?}");
    let addresses = [NAT, SERVER].map(|address| address.parse().unwrap());
    assert!(
        packets.iter().all(|packet| addresses.contains(&packet.source)),
        "behind the NAT"
    );
    let esp = assert_sequence_numbers_fresh(&packets);
    assert!(esp > 2 * STREAM / 1500, "{esp}");
    let keys = [
        (NAT, SERVER, 0x00c0_0001, "client-to-server"),
        (SERVER, NAT, 0x0050_0001, "server-to-client"),
    ];
    let keys = keys.map(|(source, destination, spi, name)| Key {
        source,
        destination,
        spi,
        key: key(network.folder.path(), name),
    });
    let opened = tshark::open(&frames, &keys, network.folder.path());
    assert_eq!(
        (opened.esp, opened.authentic),
        (esp as u64, esp as u64),
        "{opened:?}"
    );
    for (protocol, least) in [("tcp", 2 * STREAM as u64 / 1500), ("udp", 2), ("icmp", 4)] {
        let seen = opened.inside.get(&format!("{inside}{protocol}")).copied();
        assert!(seen.is_some_and(|seen| seen >= least), "{protocol}: {opened:?}");
    }
}

#[test]
fn transport_mode_through_a_nat() {
    exercise(str::to_owned, NAT, "");
}

#[test]
fn tunnel_mode_through_a_nat() {
    exercise(tunnel, CLIENT, "ip:");
}
