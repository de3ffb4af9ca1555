//! docs/examples/secure-server.toml and secure-client.toml: a server that demands ESP of everyone but named hosts.

use std::net::TcpStream;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::capture::{Capture, Ip, assert_sequence_numbers_fresh};
use crate::support::daemon::{Gateway, succeeded};
use crate::support::echo::Echo;
use crate::support::lab::{PORT, keygen};
use crate::support::namespace::Namespace;
use crate::support::wait_until;

const SERVER: &str = "192.0.2.10";
const CLIENT: &str = "192.0.2.21";
const UNAWARE: &str = "192.0.2.22";
const NAME_SERVER: &str = "192.0.2.53";
const BACKUP: &str = "192.0.2.62";
const STRANGER: &str = "192.0.2.99";

/// A network with a switch. Every host has `eth0`; the server's port of the switch is `to-10`.
struct Network {
    server: Namespace,
    client: Namespace,
    unaware: Namespace,
    name_server: Namespace,
    backup: Namespace,
    stranger: Namespace,
    switch: Namespace,
    folder: TempDir,
}

impl Network {
    fn new() -> Self {
        let network = Self {
            server: Namespace::new(),
            client: Namespace::new(),
            unaware: Namespace::new(),
            name_server: Namespace::new(),
            backup: Namespace::new(),
            stranger: Namespace::new(),
            switch: Namespace::new(),
            folder: TempDir::with_prefix("ravelin-test-").unwrap(),
        };
        for key in ["server-to-21", "21-to-server", "server-to-22", "22-to-server"] {
            keygen(&network.folder.path().join(format!("{key}.key")), "aes-256-gcm");
        }
        network.switch.sysctl("ipv6/conf/default/disable_ipv6", "1");
        network
            .switch
            .ip("link add name br0 type bridge mcast_snooping 0\nlink set br0 up");
        for (host, address) in [
            (&network.server, SERVER),
            (&network.client, CLIENT),
            (&network.unaware, UNAWARE),
            (&network.name_server, NAME_SERVER),
            (&network.backup, BACKUP),
            (&network.stranger, STRANGER),
        ] {
            let port = format!("to-{}", address.rsplit('.').next().unwrap());
            host.sysctl("ipv6/conf/default/disable_ipv6", "1");
            host.ip(&format!(
                "link add name eth0 numrxqueues 1 numtxqueues 1 type veth peer name {port} netns {} numrxqueues 1 numtxqueues 1\n\
                 link set eth0 up\naddress add {address}/24 dev eth0",
                network.switch.path()
            ));
            network
                .switch
                .ip(&format!("link set {port} master br0\nlink set {port} up"));
        }
        network
    }

    fn host<'n>(&'n self, namespace: &'n Namespace, example: &str) -> Gateway<'n> {
        let policy = example.replace("/etc/ravelin", self.folder.path().to_str().unwrap());
        Gateway::host(namespace, self.folder.path(), &policy)
    }
}

/// Packets between the server and another host, of those that passed after `mark` frames.
fn between(capture: &Capture, mark: usize, other: &str) -> Vec<Ip> {
    let ends = [SERVER, other].map(|address| address.parse().unwrap());
    let frames = capture.frames();
    let packets = frames[mark..].iter().filter_map(|seen| Ip::parse(&seen.frame));
    packets
        .filter(|packet| ends.contains(&packet.source) && ends.contains(&packet.destination))
        .collect()
}

fn connects(from: &Namespace, address: &str, port: u16) -> bool {
    let destination = format!("{address}:{port}").parse().unwrap();
    from.enter(|| TcpStream::connect_timeout(&destination, Duration::from_millis(500)).is_ok())
}

#[test]
fn a_secure_server_demands_esp_of_all_but_named_hosts() {
    let network = Network::new();
    let server = network.host(
        &network.server,
        include_str!("../../../../docs/examples/secure-server.toml"),
    );
    let client = network.host(
        &network.client,
        include_str!("../../../../docs/examples/secure-client.toml"),
    );
    let service = Echo::start(&network.server, PORT);
    let capture = Capture::start(&network.switch, "to-10");
    // Before any of it runs everybody is served: what follows is the policy's doing.
    for host in [
        &network.client,
        &network.unaware,
        &network.stranger,
        &network.backup,
    ] {
        wait_until("an answer without a policy", || {
            service.udp(host, SERVER, b"before")
        });
    }
    let daemon = server.start();
    let client_daemon = client.start();
    let mark = capture.mark();

    // The client is served, and all that passes is ESP.
    wait_until("ping", || network.client.ping(SERVER));
    wait_until("UDP", || service.udp(&network.client, SERVER, &[7; 1200]));
    service.tcp(&network.client, SERVER, 1 << 20);
    let since = |other: &str| between(&capture, mark, other);
    let packets = since(CLIENT);
    assert!(
        packets.iter().all(|packet| packet.esp().is_some()),
        "clear on the wire"
    );
    assert!(assert_sequence_numbers_fresh(&packets) > 1400);

    // Infrastructure works in the clear, in its own direction and on its own ports.
    let names = Echo::start(&network.name_server, 53);
    let other = Echo::start(&network.name_server, PORT);
    wait_until("a name server", || {
        names.udp(&network.server, NAME_SERVER, b"who is it")
    });
    assert!(connects(&network.server, NAME_SERVER, 53));
    let agent = Echo::start(&network.server, 9102);
    agent.tcp(&network.backup, SERVER, 100_000);
    assert!(!other.udp(&network.server, NAME_SERVER, b"something else"));
    assert!(!connects(&network.backup, SERVER, PORT));
    assert!(!service.udp(&network.backup, SERVER, b"something else"));

    // Everyone else might as well speak to a wall.
    let blocked = daemon.rule("neighbours without ESP");
    assert!(!network.stranger.ping(SERVER));
    assert!(!service.udp(&network.stranger, SERVER, b"from a stranger"));
    assert!(!connects(&network.stranger, SERVER, PORT));
    assert!(!network.server.ping(STRANGER));
    let from_server = SERVER.parse::<std::net::IpAddr>().unwrap();
    let answers = since(STRANGER);
    assert!(
        answers.iter().all(|packet| packet.source != from_server),
        "{answers:?}"
    );
    wait_until("the rule's counter", || {
        daemon.rule("neighbours without ESP") >= blocked + 3
    });

    // One that is to learn: its clear packet is heard, the answer is ESP.
    service.udp_one_way(&network.unaware, SERVER, b"I know of no ESP");
    wait_until("the clear packet to be heard", || {
        service.received().contains(&b"I know of no ESP".to_vec())
    });
    wait_until("an answer in ESP", || {
        since(UNAWARE)
            .iter()
            .any(|packet| packet.esp().is_some_and(|(spi, _)| spi == 0x0010_0022))
    });
    assert!(
        since(UNAWARE)
            .iter()
            .all(|packet| packet.source != from_server || packet.esp().is_some()),
        "answered in the clear"
    );

    // The client that is known is not heard without ESP.
    drop(client_daemon);
    succeeded(&client.detach());
    let heard = service.received().len();
    wait_until("clear packets of the client to be dropped", || {
        // The kernel lets go of the client's programs a moment after their pins have gone.
        service.udp_one_way(&network.client, SERVER, b"in the clear");
        daemon.drops("clear_not_allowed") > 0
    });
    assert!(!network.client.ping(SERVER));
    assert_eq!(service.received().len(), heard);
    assert!(between(&capture, 0, BACKUP).len() > 50);
}
