//! As many SAs as a large hub has, all of them installed in running daemons, and each of them used.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use ravelin_engine::{SaDirection, SaEntry, SaState};
use tempfile::TempDir;

use crate::lifetime::processor_time;
use crate::support::PATIENCE;
use crate::support::capture::{assert_sequence_numbers_fresh, clear};
use crate::support::daemon::{Daemon, Gateway, succeeded};
use crate::support::lab::{G1, G2, Lab};
use crate::support::namespace::Namespace;

/// Two SAs each, at either gateway.
const CONNECTIONS: u32 = 50_000;

/// Those that get other SAs while the rest goes on.
const REKEYED: u32 = 1_000;

/// Datagrams under way at a time: fewer than wait for next hops that are not known yet.
const WINDOW: usize = 64;

/// The address behind the second gateway that a connection leads to.
fn host(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + number)
}

/// The address of the peer of a connection, which the second gateway has.
fn spoke(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + number)
}

/// What the SAs of a connection have in their SPIs and the names of their key files.
fn mark(number: u32, generation: u32) -> u32 {
    if number < REKEYED {
        generation << 24 | number
    } else {
        1 << 24 | number
    }
}

/// The policy of a site: each connection is for one address.
fn policy(keys: &Path, site: usize, generation: u32) -> String {
    let (mut text, keys) = ("default = \"block\"\n".to_owned(), keys.display());
    for number in 0..CONNECTIONS {
        let (host, spoke) = (host(number).to_string(), spoke(number).to_string());
        let mark = mark(number, generation);
        let (local, remote) = if site == 1 {
            (G1[0], &*spoke)
        } else {
            (&*spoke, G1[0])
        };
        let (source, destination) = if site == 1 {
            ("10.1.0.0/16", &*host)
        } else {
            (&*host, "10.1.0.0/16")
        };
        let (out, inward) = if site == 1 { (1, 2) } else { (2, 1) };
        write!(
            text,
            "[filter-lists.c{number}]\nfilters = [{{ source = \"{source}\", destination = \"{destination}\" }}]\n\
             [[rules]]\nname = \"c{number}\"\nfilter-list = \"c{number}\"\naction = \"protect\"\nconnection = \"c{number}\"\n\
             [connections.c{number}]\nmode = \"tunnel\"\nlocal = \"{local}\"\nremote = \"{remote}\"\nrekey-grace = 600\n\
             [connections.c{number}.static]\nalgorithm = \"aes-256-gcm\"\n\
             outbound = {{ spi = {:#x}, key-file = \"{keys}/{mark:x}.{out}\" }}\n\
             inbound = {{ spi = {:#x}, key-file = \"{keys}/{mark:x}.{inward}\" }}\n",
            out << 28 | mark,
            inward << 28 | mark,
        )
        .unwrap();
    }
    text
}

/// Files with keys for the SAs of a mark, a key for each direction.
fn write_keys(folder: &Path, mark: u32) {
    for direction in 1..=2 {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.join(format!("{mark:x}.{direction}")));
        let key = format!("{direction:08x}{mark:08x}").repeat(5);
        file.unwrap().write_all(&key.as_bytes()[..72]).unwrap();
    }
}

/// A host that pings many others.
struct Pinger(UdpSocket);

impl Pinger {
    fn new(namespace: &Namespace) -> Self {
        namespace.sysctl("ipv4/ping_group_range", "0 0");
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket =
            namespace.enter(|| socket(AddressFamily::Inet, SockType::Datagram, flags, SockProtocol::Icmp));
        let socket = UdpSocket::from(socket.unwrap());
        setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn send(&self, number: u32) {
        // The kernel fills in checksum and identifier.
        let message = [8, 0, 0, 0, 0, 0, 0, 1];
        self.0
            .send_to(&message, SocketAddr::new(host(number).into(), 0))
            .unwrap();
    }

    /// Pings these hosts, each once, in this order; each answers once. Lost is nothing.
    fn ping(&self, numbers: impl IntoIterator<Item = u32>) {
        let numbers: Vec<u32> = numbers.into_iter().collect();
        for window in numbers.chunks(WINDOW) {
            let mut waiting = HashSet::new();
            for number in window {
                self.send(*number);
                waiting.insert(IpAddr::from(host(*number)));
            }
            let mut buffer = [0; 64];
            while !waiting.is_empty() {
                let (length, sender) = match self.0.recv_from(&mut buffer) {
                    Ok(received) => received,
                    // Whoever has a process stopped and go on interrupts it, too: signal(7).
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => panic!("{error}; no answer from {waiting:?}"),
                };
                assert_eq!((length, buffer[0]), (8, 0));
                assert!(waiting.remove(&sender.ip()), "{sender} answers twice");
            }
        }
    }
}

fn sas(gateway: &Gateway<'_>) -> Vec<SaEntry> {
    serde_json::from_str(&succeeded(&gateway.sa(&["list", "--json"]))).unwrap()
}

/// Most memory that a process has had, in bytes.
fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// All SAs of a gateway have sealed or opened so many packets, and nothing failed.
fn assert_each_used(entries: &[SaEntry], packets: u64) {
    assert_eq!(entries.len(), 2 * CONNECTIONS as usize);
    for SaEntry { sa, .. } in entries {
        assert_eq!((sa.state, sa.packets), (SaState::InUse, packets), "{sa:?}");
        assert!(sa.drops.is_empty() && sa.idle_seconds.is_some(), "{sa:?}");
    }
}

/// A hub with 100,000 SAs, and the other ends of all of them. What is bounded is what the daemon itself needs, since the
/// machine may have other things to do.
#[test]
fn a_hundred_thousand_sas_are_installed_and_used() {
    let lab = Lab::new();
    // In memory: not the disk is under test.
    let keys = TempDir::with_prefix_in("ravelin-test-", "/dev/shm").unwrap();
    (0..CONNECTIONS).for_each(|number| write_keys(keys.path(), mark(number, 1)));
    (0..REKEYED).for_each(|number| write_keys(keys.path(), mark(number, 2)));
    for (namespace, next) in [(&lab.g1, G2[0]), (&lab.g2, "10.2.0.2")] {
        namespace.ip(&format!("route add 172.16.0.0/12 via {next}"));
    }
    lab.h2.ip("route add local 172.16.0.0/12 dev lo");
    lab.g1.ip(&format!("route add 100.64.0.0/10 via {}", G2[0]));
    let policy = |site, generation| policy(keys.path(), site, generation);
    let gateway = |namespace, site| {
        let mut gateway = Gateway::new(namespace, lab.folder.path(), &policy(site, 1));
        gateway.patience = 10 * PATIENCE;
        gateway
    };
    let (g1, g2) = (gateway(&lab.g1, 1), gateway(&lab.g2, 2));
    let started = Instant::now();
    let d1 = g1.start();
    let (start_up, processor, peak) = (started.elapsed(), processor_time(d1.pid()), memory(&d1));
    let d2 = g2.start();
    eprintln!(
        "{CONNECTIONS} connections: ready after {start_up:?}, {processor:?} of it at work, {} MB of memory at most",
        peak >> 20
    );
    assert!(processor < Duration::from_secs(30), "{processor:?}");
    assert!(peak < 1 << 30, "{peak}");

    let capture = lab.capture();
    let pinger = Pinger::new(&lab.h1);
    // From anywhere: neighbours share no batch.
    pinger.ping((0..CONNECTIONS).map(|at| (u64::from(at) * 7919 % u64::from(CONNECTIONS)) as u32));
    for gateway in [&g1, &g2] {
        assert_each_used(&sas(gateway), 1);
    }
    let packets = capture.packets();
    assert!(clear(&packets).is_empty(), "clear on the wire");
    // Nobody else has seen more than one packet of each.
    assert_eq!(assert_sequence_numbers_fresh(&packets), 2 * CONNECTIONS as usize);
    let spis: HashSet<u32> = packets
        .iter()
        .filter_map(|packet| Some(packet.esp()?.0))
        .collect();
    assert_eq!(spis.len(), 2 * CONNECTIONS as usize);

    // One of them goes; the others do not notice.
    let deleted = CONNECTIONS / 2;
    let spi = format!("{:#x}", 1 << 28 | mark(deleted, 1));
    assert!(succeeded(&g1.sa(&["delete", &spi])).contains("deleted"));
    d1.expect_drops("sa_missing", 1, || pinger.send(deleted));
    pinger.ping([deleted - 1, deleted + 1]);

    // Some get other SAs while the whole is in use.
    let listed = |gateway| {
        sas(gateway)
            .iter()
            .filter(|entry| entry.sa.state == SaState::Old)
            .count()
    };
    for (gateway, site) in [(&g2, 2), (&g1, 1)] {
        let mut apply = gateway.client("apply");
        std::fs::write(gateway.other_policy(), policy(site, 2)).unwrap();
        apply.arg(gateway.other_policy());
        succeeded(&apply.output().unwrap());
        assert_eq!(listed(gateway), REKEYED as usize);
    }
    pinger.ping(0..2 * REKEYED);
    let inbound = |entry: &&SaEntry| entry.direction == SaDirection::Inbound;
    let new = sas(&g2);
    let new = new
        .iter()
        .filter(inbound)
        .filter(|entry| entry.sa.spi & 0xf00_0000 == 2 << 24);
    assert_eq!(new.count(), REKEYED as usize);
    assert!(peak.max(memory(&d1)) < 2 << 30);
    for daemon in [&d1, &d2] {
        assert!(
            daemon
                .all_drops()
                .iter()
                .all(|(reason, _)| reason == "sa_missing")
        );
    }
}
