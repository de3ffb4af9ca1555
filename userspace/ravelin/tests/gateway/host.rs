//! Two hosts that protect their own packets: docs/examples/host-a.toml and host-b.toml, and the same as tunnels.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;

use nix::errno::Errno;
use ravelin_engine::ConnectionStatus;

use crate::support::capture::{Capture, Ip, Seen, assert_sequence_numbers_fresh, clear};
use crate::support::daemon::{RAVELIN, refusal, succeeded};
use crate::support::echo::Echo;
use crate::support::hosts::{A, B, CLEAR_PORT, Hosts};
use crate::support::lab::PORT;
use crate::support::tshark::{self, Key};
use crate::support::{namespace::Namespace, wait_until};

/// Bytes of a stream, there and back.
const STREAM: usize = 4 << 20;

pub(crate) fn tunnel(policy: &str) -> String {
    policy.replace("mode = \"transport\"", "mode = \"tunnel\"")
}

/// Packets that went through a device: from the stack, to the stack.
fn through(namespace: &Namespace, device: &str) -> (u64, u64) {
    let text = namespace.run("ip", &["-s", "-j", "link", "show", "dev", device]);
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    let packets = |way: &str| links[0]["stats64"][way]["packets"].as_u64().unwrap();
    (packets("tx"), packets("rx"))
}

/// What must not be seen on the wire: anything in the clear but the flow that the example permits.
pub(crate) fn leaks(packets: &[Ip]) -> Vec<Ip> {
    let mut leaks: Vec<Ip> = clear(packets).into_iter().cloned().collect();
    leaks.retain(|packet| {
        !packet
            .ports()
            .is_some_and(|ports| [ports.0, ports.1].contains(&CLEAR_PORT))
    });
    leaks
}

pub(crate) fn keys(hosts: &Hosts) -> Vec<Key> {
    [0, 1]
        .into_iter()
        .flat_map(|family| {
            let (suffix, spi) = [("v4", 4), ("v6", 6)][family];
            [
                (
                    A[family],
                    B[family],
                    0x00a0_0000 + spi,
                    format!("a-to-b-{suffix}"),
                ),
                (
                    B[family],
                    A[family],
                    0x00b0_0000 + spi,
                    format!("b-to-a-{suffix}"),
                ),
            ]
        })
        .map(|(source, destination, spi, key)| Key {
            source,
            destination,
            spi,
            key: hosts.key(&key),
        })
        .collect()
}

/// Ping, UDP and TCP over both families; every byte that comes back is compared, every packet of the wire opened by tshark.
fn exercise(hosts: &Hosts, change: impl Fn(&str) -> String, inside: [&str; 2]) {
    let running = hosts.start(change);
    let capture = hosts.capture();
    let echo = Echo::start(&hosts.b, PORT);
    let monitor = Echo::start(&hosts.b, CLEAR_PORT);
    for family in [0, 1] {
        wait_until("ping from a", || hosts.a.ping(B[family]));
        wait_until("ping from b", || hosts.b.ping(A[family]));
        wait_until("UDP", || echo.udp(&hosts.a, B[family], &[7; 1200]));
        wait_until("UDP in the clear", || monitor.udp(&hosts.a, B[family], &[8; 300]));
        echo.tcp(&hosts.a, B[family], STREAM);
    }
    let sealed = [&running.da, &running.db].map(|daemon| daemon.status().workers[0].sealed as usize);
    wait_until("the capture to hold every packet", || {
        capture.mark() >= sealed[0] + sealed[1]
    });
    let frames = capture.frames();
    let packets: Vec<Ip> = frames.iter().filter_map(|seen| Ip::parse(&seen.frame)).collect();
    assert!(
        leaks(&packets).is_empty(),
        "clear on the wire: {:?}",
        leaks(&packets)
    );
    assert!(
        packets
            .iter()
            .any(|packet| packet.ports().is_some_and(|(_, to)| to == CLEAR_PORT)),
        "what is permitted goes in the clear"
    );
    let esp = assert_sequence_numbers_fresh(&packets);
    assert!(esp > 4 * STREAM / 1500, "{esp}");

    let opened = tshark::open(&frames, &keys(hosts), hosts.folder.path());
    assert_eq!(
        (opened.esp, opened.authentic),
        (esp as u64, esp as u64),
        "{opened:?}"
    );
    for (family, icmp) in [(0, "icmp"), (1, "icmpv6")] {
        let front = inside[family];
        for (protocol, least) in [("tcp", 2 * STREAM as u64 / 1500), ("udp", 2), (icmp, 4)] {
            let seen = opened
                .inside
                .get(&format!("{front}{protocol}"))
                .copied()
                .unwrap_or(0);
            assert!(seen >= least, "{front}{protocol}: {opened:?}");
        }
    }
    for (namespace, daemon) in [(&hosts.a, &running.da), (&hosts.b, &running.db)] {
        let status = daemon.status();
        let sum = |of: fn(&ConnectionStatus) -> u64| status.connections.iter().map(of).sum::<u64>();
        let (sealed, received) = (sum(|one| one.outbound.packets), sum(|one| one.inbound.packets));
        // Workers' ESP passes the egress program by: were it taken again, more would come from the stack.
        wait_until("the worker to count what its SAs do", || {
            let status = daemon.status();
            let sealed: u64 = status.connections.iter().map(|one| one.outbound.packets).sum();
            status.workers[0].sealed == sealed
        });
        let (from_stack, to_stack) = through(namespace, &status.interfaces["edge"].name);
        if hosts.edge == "veth" {
            // A packet of the wire each; those that did not fit were answered.
            let answered = daemon.drops("packet_too_big");
            assert_eq!(from_stack, sealed + answered, "{:?}", daemon.all_drops());
            assert!(to_stack >= received, "{received} came as {to_stack}");
            continue;
        }
        assert!(
            4 * to_stack < received,
            "{received} segments arrived as {to_stack} packets"
        );
        // TCP hands out large packets whatever the device can do: it would be cut behind the egress program.
        assert!(4 * from_stack < sealed, "{from_stack} packets became {sealed}");
    }
}

#[test]
fn transport_mode_with_the_devices_offloads() {
    exercise(&Hosts::new(true), str::to_owned, ["", ""]);
}

#[test]
fn transport_mode_without_offloads() {
    exercise(&Hosts::new(false), str::to_owned, ["", ""]);
}

#[test]
fn tunnel_mode_with_the_devices_offloads() {
    exercise(&Hosts::new(true), tunnel, ["ip:", "ipv6:"]);
}

#[test]
fn tunnel_mode_without_offloads() {
    exercise(&Hosts::new(false), tunnel, ["ip:", "ipv6:"]);
}

#[test]
fn transport_mode_by_veth_with_the_devices_offloads() {
    exercise(&Hosts::new(true).with_edge("veth"), str::to_owned, ["", ""]);
}

#[test]
fn tunnel_mode_by_veth_without_offloads() {
    exercise(&Hosts::new(false).with_edge("veth"), tunnel, ["ip:", "ipv6:"]);
}

/// Datagrams of any size: the stack learns what fits from the answers to those that do not.
#[test]
fn datagrams_that_do_not_fit_are_made_to_fit() {
    made_to_fit(&Hosts::new(true));
}

#[test]
fn datagrams_that_do_not_fit_are_made_to_fit_by_veth() {
    made_to_fit(&Hosts::new(true).with_edge("veth"));
}

fn made_to_fit(hosts: &Hosts) {
    let _running = hosts.start(tunnel);
    let capture = hosts.capture();
    let echo = Echo::start(&hosts.b, PORT);
    for family in [0, 1] {
        for length in [1400, 1440, 1472, 4000, 20_000] {
            let what = format!("{length} bytes, family {family}");
            wait_until(&what, || echo.udp(&hosts.a, B[family], &vec![9; length]));
        }
    }
    assert_eq!(leaks(&capture.packets()).len(), 0);
}

/// Transport mode protects whole datagrams: those that do not fit are fragmented when they are sealed, and put together before they
/// are opened.
fn sealed_whole(hosts: &Hosts) {
    let running = hosts.start(str::to_owned);
    let capture = hosts.capture();
    let echo = Echo::start(&hosts.b, PORT);
    // One packet of the stack, which lets it be fragmented, and does not fit.
    wait_until("a ping that may be fragmented", || {
        let arguments = ["-n", "-q", "-c1", "-W1", "-M", "dont", "-s", "1470", B[0]];
        hosts.a.output("ping", &arguments).status.success()
    });
    for family in [0, 1] {
        for length in [1400, 1440, 1472, 4000, 20_000, 60_000] {
            let what = format!("{length} bytes, family {family}");
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7 % 253) as u8).collect();
            wait_until(&what, || echo.udp(&hosts.a, B[family], &bytes));
        }
    }
    let frames = capture.frames();
    let packets: Vec<Ip> = frames.iter().filter_map(|seen| Ip::parse(&seen.frame)).collect();
    let first_byte = |packet: &&Ip| packet.payload.first().copied();
    // RFC 8200 section 4.5: a fragment header begins with what follows it.
    let pieces_of_v6 = |packet: &&Ip| packet.protocol == 44 && first_byte(packet) == Some(50);
    let in_the_clear: Vec<_> = clear(&packets)
        .into_iter()
        .filter(|packet| packet.protocol != 50 && !pieces_of_v6(packet))
        .collect();
    assert!(in_the_clear.is_empty(), "clear on the wire: {in_the_clear:?}");
    assert!(packets.iter().all(|packet| packet.bytes.len() <= 1500));
    let pieces_of_v4 =
        |packet: &&Ip| packet.protocol == 50 && packet.bytes[0] >> 4 == 4 && packet.bytes[6] & 0x3f != 0;
    for (what, pieces) in [
        ("IPv4", packets.iter().filter(pieces_of_v4).count()),
        ("IPv6", packets.iter().filter(pieces_of_v6).count()),
    ] {
        // 60,000, 20,000 and 4,000 bytes, both ways.
        assert!(pieces >= 2 * (41 + 14 + 3), "{what}: {pieces} fragments");
    }
    let opened = tshark::open(&frames, &keys(hosts), hosts.folder.path());
    assert_eq!(opened.esp, opened.authentic, "{opened:?}");
    for (protocol, least) in [("udp", 12), ("icmp", 2)] {
        let seen = opened.inside.get(protocol).copied().unwrap_or(0);
        assert!(seen >= least, "{protocol}: {opened:?}");
    }
    for daemon in [&running.da, &running.db] {
        for reason in [
            "icv_mismatch",
            "reassembly_malformed",
            "reassembly_overlap",
            "no_frame",
        ] {
            assert_eq!(daemon.drops(reason), 0, "{reason}: {:?}", daemon.all_drops());
        }
        assert!(daemon.status().workers[0].fragmented >= 3);
    }
}

#[test]
fn datagrams_of_any_size_are_sealed_whole_in_transport_mode() {
    sealed_whole(&Hosts::new(true));
}

#[test]
fn datagrams_of_any_size_are_sealed_whole_in_transport_mode_by_veth() {
    sealed_whole(&Hosts::new(false).with_edge("veth"));
}

/// The longest datagrams leave no room in an IP packet for what sealing adds: whoever sends one hears of it.
#[test]
fn datagrams_that_are_too_long_once_sealed_are_refused() {
    let hosts = Hosts::new(true);
    let running = hosts.start(str::to_owned);
    for family in [0, 1] {
        wait_until("ping", || hosts.a.ping(B[family]));
        let before = running.da.drops("packet_too_big");
        let socket = hosts.a.enter(|| {
            let socket = UdpSocket::bind((A[family], 0)).unwrap();
            socket.connect((B[family], PORT)).unwrap();
            socket
        });
        wait_until("the sender to be told", || {
            let sent = socket.send(&[9; 65_503]);
            sent.is_err_and(|error| error.raw_os_error() == Some(Errno::EMSGSIZE as i32))
        });
        assert!(running.da.drops("packet_too_big") > before);
        // Its path is none the worse for it.
        wait_until("a shorter one", || socket.send(&[9; 65_400]).is_ok());
    }
    let drops = running.da.all_drops();
    for reason in [
        "ip_bad_total_length",
        "transport_bad_length",
        "reassembly_malformed",
    ] {
        assert_eq!(running.da.drops(reason), 0, "{drops:?}");
    }
}

/// What holds while nobody serves the edge: protected packets end, permitted ones go on.
fn closed(hosts: &Hosts, capture: &Capture, echo: &Echo, monitor: &Echo) {
    for family in [0, 1] {
        assert!(!hosts.a.ping(B[family]), "a ping passed");
        assert!(
            !echo.udp(&hosts.a, B[family], b"in the clear"),
            "a datagram passed"
        );
        wait_until("what is permitted", || {
            monitor.udp(&hosts.a, B[family], b"how are you")
        });
    }
    let packets = capture.packets();
    assert!(
        leaks(&packets).is_empty(),
        "clear on the wire: {:?}",
        leaks(&packets)
    );
}

#[test]
fn nothing_leaves_in_the_clear_while_the_daemon_is_dead_or_frozen() {
    dead_or_frozen(&Hosts::new(true));
}

#[test]
fn nothing_leaves_in_the_clear_by_veth_while_the_daemon_is_dead_or_frozen() {
    dead_or_frozen(&Hosts::new(true).with_edge("veth"));
}

/// The devices of host a's edge.
fn edges(hosts: &Hosts) -> Vec<String> {
    let links: serde_json::Value = serde_json::from_str(&hosts.a.run("ip", &["-j", "link"])).unwrap();
    let names = links.as_array().unwrap().iter();
    names
        .map(|link| link["ifname"].as_str().unwrap().to_owned())
        .filter(|name| name.starts_with("rav"))
        .collect()
}

fn dead_or_frozen(hosts: &Hosts) {
    let running = hosts.start(str::to_owned);
    let capture = hosts.capture();
    let echo = Echo::start(&hosts.b, PORT);
    let monitor = Echo::start(&hosts.b, CLEAR_PORT);
    for family in [0, 1] {
        wait_until("ping", || hosts.a.ping(B[family]));
    }
    let ends = edges(hosts);
    assert_eq!(ends.len(), if hosts.edge == "veth" { 2 } else { 1 }, "{ends:?}");

    running
        .da
        .frozen_while(|| closed(hosts, &capture, &echo, &monitor));
    for family in [0, 1] {
        wait_until("ping after SIGCONT", || hosts.a.ping(B[family]));
    }

    running.da.kill();
    if hosts.edge == "tun" {
        assert_eq!(
            edges(hosts),
            Vec::<String>::new(),
            "the edge goes with the daemon"
        );
    }
    closed(hosts, &capture, &echo, &monitor);
    let daemon = running.a.start();
    for family in [0, 1] {
        wait_until("ping after a restart", || hosts.a.ping(B[family]));
    }
    assert_eq!(
        edges(hosts).len(),
        ends.len(),
        "what was left behind was replaced"
    );

    let (ended, log) = daemon.stop();
    assert!(ended.success(), "{log}");
    assert_eq!(edges(hosts), Vec::<String>::new(), "the edge is removed");
    closed(hosts, &capture, &echo, &monitor);
    succeeded(&running.a.detach());
    assert!(running.a.pins().is_empty());
    // The other side still demands ESP; but from here the packet leaves as any other.
    let mark = capture.mark();
    let passed = |seen: &Seen| {
        Ip::parse(&seen.frame).is_some_and(|packet| packet.ports().is_some_and(|(_, to)| to == PORT))
    };
    wait_until("a clear packet", || {
        // The kernel lets go of the programs a moment after their pins have gone.
        echo.udp_one_way(&hosts.a, B[0], b"in the clear, as told");
        capture.frames()[mark..].iter().any(passed)
    });
}

/// Neither opens the filter: an engine that gets no more memory dies, and one that gets no sockets does not start.
#[test]
fn nothing_leaves_in_the_clear_without_memory_or_sockets() {
    let hosts = Hosts::new(true);
    let running = hosts.start(str::to_owned);
    let capture = hosts.capture();
    let echo = Echo::start(&hosts.b, PORT);
    let monitor = Echo::start(&hosts.b, CLEAR_PORT);
    wait_until("ping", || hosts.a.ping(B[0]));

    let pid = running.da.pid().to_string();
    let limit = ["--pid", &pid, "--as=1"];
    assert!(Command::new("prlimit").args(limit).status().unwrap().success());
    let filters: Vec<String> = (0..2000)
        .map(|number| {
            format!(
                "{{ source = \"any\", destination = \"198.18.{}.{}\" }}",
                number / 256,
                number % 256
            )
        })
        .collect();
    let large = std::fs::read_to_string(&running.a.policy).unwrap()
        + &format!("[filter-lists.many]\nfilters = [{}]\n", filters.join(", "));
    wait_until("the engine to run out of memory", || {
        running.a.apply(&large, &["--dry-run"]);
        !running.a.client("status").output().unwrap().status.success()
    });
    let (ended, log) = running.da.ended();
    assert!(!ended.success(), "{log}");
    closed(&hosts, &capture, &echo, &monitor);

    // AF_XDP asks for this capability.
    let mut limited = hosts.a.command("setpriv");
    limited.args(["--bounding-set", "-net_raw", "--", RAVELIN]);
    let refused = running.a.command_of(limited).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("worker 0: ") && said.contains("CAP_NET_RAW"),
        "{said}"
    );
    closed(&hosts, &capture, &echo, &monitor);

    let _daemon = running.a.start();
    wait_until("ping after a start", || hosts.a.ping(B[0]));
}

/// Any program can send a datagram that looks like ESP in UDP.
#[test]
fn what_only_looks_like_esp_is_protected_as_well() {
    const SECRET: &[u8] = b"SECRET, and an SPI at first sight";
    let hosts = Hosts::new(true);
    let _running = hosts.start(str::to_owned);
    let capture = hosts.capture();
    let echo = Echo::start(&hosts.b, 4500);
    for family in [0, 1] {
        wait_until("a datagram there and back", || {
            echo.udp(&hosts.a, B[family], SECRET)
        });
    }
    let frames = capture.frames();
    assert!(frames.len() >= 4);
    let shown = frames
        .iter()
        .filter(|seen| seen.frame.windows(6).any(|window| *window == SECRET[..6]));
    assert_eq!(shown.count(), 0, "in the clear");
}

/// A link-layer address may change: what is opened must still be for this host.
#[test]
fn a_changed_link_layer_address_is_followed() {
    for edge in ["tun", "veth"] {
        let hosts = Hosts::new(true).with_edge(edge);
        let _running = hosts.start(str::to_owned);
        wait_until("ping", || hosts.a.ping(B[0]));
        hosts.a.ip("link set eth0 address 02:00:00:00:00:0a");
        wait_until("ping from the new address", || hosts.a.ping(B[0]));
        wait_until("ping to the new address", || hosts.b.ping(A[0]));
    }
}

/// Devices are there for everybody. What somebody else sends on those of a veth edge is judged like anything, and does not get
/// into the stack as if it had been opened.
#[test]
fn what_others_send_on_a_veth_edge_goes_nowhere_that_the_rules_do_not_say() {
    let hosts = Hosts::new(true).with_edge("veth");
    let running = hosts.start(str::to_owned);
    let capture = hosts.capture();
    let echo = Echo::start(&hosts.b, PORT);
    wait_until("ping", || hosts.a.ping(B[0]));
    let daemon = &running.da;
    let dropped = |reason: &str, what: &str, action: &dyn Fn()| {
        let before = daemon.drops(reason);
        wait_until(what, || {
            action();
            daemon.drops(reason) > before
        });
    };
    let names = edges(&hosts);
    let stack = daemon.status().interfaces["edge"].name.clone();
    let workers = names.iter().find(|name| **name != stack).unwrap();
    // ARP, on either end.
    hosts.a.ip(&format!(
        "address add 198.51.100.1/24 dev {stack}\naddress add 203.0.113.1/24 dev {workers}"
    ));
    dropped("non_ip", "ARP from the stack's end", &|| {
        assert!(!hosts.a.ping("198.51.100.9"));
    });
    dropped("clear_egress", "ARP from the workers' end", &|| {
        assert!(!hosts.a.ping("203.0.113.9"));
    });
    // Past the outer device: what is protected is sealed, what is permitted has no business here.
    let edge = Capture::start(&hosts.a, &stack);
    dropped("clear_egress", "what the policy permits", &|| {
        edge.send(&datagram(CLEAR_PORT, b"past the filter"));
    });
    edge.send(&datagram(PORT, b"to be sealed"));
    wait_until("what the policy protects", || {
        echo.received().iter().any(|one| one == b"to be sealed")
    });
    let packets = capture.packets();
    assert_eq!(clear(&packets).len(), 0, "{:?}", clear(&packets));
}

/// Its edge is known by the instance's name: a second engine under that name must not take it away.
#[test]
fn a_second_engine_of_the_instance_leaves_the_edge_alone() {
    let hosts = Hosts::new(true).with_edge("veth");
    let running = hosts.start(str::to_owned);
    wait_until("ping", || hosts.a.ping(B[0]));
    let indices = || hosts.a.run("ip", &["-o", "link", "show", "type", "veth"]);
    let before = indices();
    let other = hosts.folder.path().join("other");
    let mut second = hosts.a.command(RAVELIN);
    second.arg("run").arg("--policy").arg(&running.a.policy);
    second.args(["--outer", "eth0", "--mode", "host", "--host-edge", "veth"]);
    second.args(["--instance", &running.a.instance]);
    second.arg("--control").arg(other.with_extension("sock"));
    second.arg("--state-dir").arg(other.with_extension("state"));
    let said = refusal(&second.output().unwrap());
    let holder = format!("is in use by process {};", running.da.pid());
    assert!(said.contains(&holder), "{said}");
    assert_eq!(indices(), before);
    wait_until("ping as before", || hosts.a.ping(B[0]));
}

/// A killed engine leaves a veth edge behind. Whatever engine of the instance comes next removes it, and nothing that only looks like it.
#[test]
fn what_a_killed_engine_has_left_is_removed_by_the_next_of_any_kind() {
    let hosts = Hosts::new(true).with_edge("veth");
    hosts
        .a
        .ip("link add name other0 type veth peer name other1\nlink add name other2 type bridge");
    let mut running = hosts.start(str::to_owned);
    let named = format!("ravelin host edge of {}", running.a.instance);
    for (device, alias) in [("other0", "ravelin host edge of another"), ("other2", &named)] {
        hosts.a.run("ip", &["link", "set", device, "alias", alias]);
    }
    wait_until("ping", || hosts.a.ping(B[0]));
    for next in [
        &["--mode", "host", "--host-edge", "tun"][..],
        &["--mode", "filter"],
    ] {
        let veth = std::mem::replace(
            &mut running.a.extra,
            next.iter().map(|word| (*word).to_owned()).collect(),
        );
        running.da.kill();
        assert_eq!(edges(&hosts).len(), 2, "nobody removes it then");
        running.da = running.a.start();
        let tun = next.contains(&"tun");
        assert_eq!(edges(&hosts).len(), usize::from(tun), "{:?}", edges(&hosts));
        if tun {
            wait_until("ping", || hosts.a.ping(B[0]));
        }
        for other in ["other0", "other1", "other2"] {
            hosts.a.run("ip", &["link", "show", other]);
        }
        assert!(running.da.stop().0.success());
        running.a.extra = veth;
        running.da = running.a.start();
        wait_until("ping", || hosts.a.ping(B[0]));
    }
}

/// What somebody does to the edge under a running engine is said, and the end of it, too.
#[test]
fn an_edge_that_is_taken_down_or_away_is_told() {
    for (edge, devices) in [("tun", "rav0"), ("veth", "rav0 and rav1")] {
        let hosts = Hosts::new(true).with_edge(edge);
        let running = hosts.start(str::to_owned);
        wait_until("ping", || hosts.a.ping(B[0]));
        for (times, device) in (1..).zip(edges(&hosts)) {
            hosts.a.ip(&format!("link set {device} down"));
            let warning = format!(
                "host edge: device {device} is down, and what is to be protected is dropped until `ip link set {device} up`"
            );
            wait_until("a warning", || running.da.log().contains(&warning));
            let status = || succeeded(&running.a.client("status").output().unwrap());
            assert!(status().contains(&warning), "{}", status());
            assert!(!hosts.a.ping(B[0]), "{device}");
            hosts.a.ip(&format!("link set {device} up"));
            let again = || running.da.log().matches("host edge: it is up again").count() == times;
            wait_until("it to be noticed", again);
            assert!(!status().contains("is down"), "{}", status());
            wait_until("ping", || hosts.a.ping(B[0]));
            assert_eq!(
                running.da.log().matches(&warning).count(),
                1,
                "{}",
                running.da.log()
            );
        }
        hosts.a.ip("link del rav0");
        let (ended, log) = running.da.ended();
        assert_eq!(ended.code(), Some(1), "{log}");
        let last = log.lines().last().unwrap();
        assert!(
            last.contains(&format!("the host edge (device {devices}) was removed")),
            "{log}"
        );
        assert!(!log.contains("its filter went with it"), "{log}");
        assert!(!hosts.a.ping(B[0]));
        let _daemon = running.a.start();
        wait_until("ping", || hosts.a.ping(B[0]));
    }
}

/// A frame with a datagram from a to b.
fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let [from, to] = [A[0], B[0]].map(|address| address.parse::<Ipv4Addr>().unwrap().octets());
    let length = 28 + payload.len() as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0];
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    ip.extend([from, to].concat());
    let sum: u32 = ip
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    // RFC 768: a checksum of zero is none.
    let udp = [4000, port, length - 20, 0].map(u16::to_be_bytes).concat();
    [&[2; 12], &[0x08, 0][..], &ip, &udp, payload].concat()
}

/// A worker for each queue, whichever edge the packets come by.
#[test]
fn several_queues_share_the_work() {
    for edge in ["tun", "veth"] {
        let hosts = Hosts::with_queues(2).with_edge(edge);
        let running = hosts.start(str::to_owned);
        let capture = hosts.capture();
        let echo = Echo::start(&hosts.b, PORT);
        for family in [0, 1] {
            wait_until("ping", || hosts.a.ping(B[family]));
            // Each from another port. What comes from the wire has the same addresses throughout, which is all that these devices
            // share it out by.
            wait_until("every worker to seal", || {
                let back = echo.udp(&hosts.a, B[family], &[5; 1000]);
                let busy = [&running.da, &running.db].iter().all(|daemon| {
                    let workers = daemon.status().workers;
                    workers.len() == 2 && workers.iter().all(|worker| worker.sealed > 0)
                });
                back && busy
            });
            echo.tcp(&hosts.a, B[family], STREAM);
        }
        let packets = capture.packets();
        assert_eq!(leaks(&packets).len(), 0, "{:?}", leaks(&packets));
        assert_sequence_numbers_fresh(&packets);
        // A worker alone can put together what the stack has cut.
        for family in [0, 1] {
            for _ in 0..8 {
                wait_until("a datagram in fragments", || {
                    echo.udp(&hosts.a, B[family], &[6; 20_000])
                });
            }
        }
    }
}

#[test]
fn what_host_mode_cannot_do_is_refused_with_advice() {
    let hosts = Hosts::new(true);
    let mut host = hosts.host(0, str::to_owned);
    host.inner = Some("lo".to_owned());
    let said = host.refused();
    assert!(said.contains("leave it out, or use `--mode gateway`"), "{said}");
    let said = hosts
        .host(0, str::to_owned)
        .with("--xdp-mode", "generic")
        .refused();
    assert!(said.contains("needs XDP in the driver"), "{said}");
    // Nor is it fallen back to where the driver has none.
    for edge in ["tun", "veth"] {
        let hosts = Hosts::new(true).with_edge(edge);
        hosts.a.ip("link add name br1 type bridge\nlink set br1 up");
        let mut host = hosts.host(0, str::to_owned);
        host.outer = "br1".to_owned();
        let said = host.refused();
        assert!(said.contains("needs XDP in the driver"), "{edge}: {said}");
        assert_eq!(edges(&hosts), Vec::<String>::new());
    }
    let mut gateway = hosts.host(0, str::to_owned);
    gateway.extra = vec!["--mode".to_owned(), "gateway".to_owned()];
    let said = gateway.refused();
    assert!(said.contains("give `--inner DEVICE`"), "{said}");
}
