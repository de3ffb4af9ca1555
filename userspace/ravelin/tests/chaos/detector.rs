//! The leak detector: it stands on the wire, knows what must not be seen there, and forgets no sequence number.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::poll::PollTimeout;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::capture::{Ip, Seen, drain, open, waits};
use crate::support::namespace::Namespace;
use crate::support::wait_until;

/// What must be protected: everything between two ends but UDP at one port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secret {
    /// IPv4 and IPv6 of either end.
    pub(crate) ends: [[&'static str; 2]; 2],
    /// Of a flow that goes in the clear.
    pub(crate) clear_port: u16,
}

impl Secret {
    /// Whether an observer sees in the clear what must be protected. Fragments show no ports: those of a permitted flow, which
    /// has none, would count as well.
    fn is_leaked_by(&self, packet: &Ip) -> bool {
        let between = (0..2).any(|family| {
            let [a, b] = [0, 1].map(|end| self.ends[end][family].parse::<IpAddr>().unwrap());
            [(a, b), (b, a)].contains(&(packet.source, packet.destination))
        });
        let permitted = packet.protocol == 17
            && packet
                .ports()
                .is_some_and(|(from, to)| [from, to].contains(&self.clear_port));
        between && !permitted && carried(packet).0 != ESP && !is_discovery(packet)
    }

    /// The same in the filter language of libpcap.
    fn filter(&self) -> String {
        let family = |family: usize, word: &str, exempt: &str| {
            let [a, b] = [self.ends[0][family], self.ends[1][family]];
            format!("({word} host {a} and {word} host {b}{exempt})")
        };
        format!(
            "({} or {}) and not ip proto 50 and not ip6 proto 50 and not udp port {}",
            family(0, "ip", ""),
            family(
                1,
                "ip6",
                " and not (ip6[6] == 58 and ip6[40] >= 135 and ip6[40] <= 136) and not (ip6[6] == 44 and ip6[40] == 50)"
            ),
            self.clear_port
        )
    }
}

/// Neighbour solicitation and advertisement, which Ethernet cannot do without.
fn is_discovery(packet: &Ip) -> bool {
    let kind = packet.payload.first().copied().unwrap_or_default();
    packet.destination.is_ipv6() && packet.protocol == 58 && [135, 136].contains(&kind)
}

/// A family, 4 or 6, and a protocol, or that of the fragment header for fragments of either family.
pub(crate) type Kind = (u8, u8);

/// `IPPROTO_ESP`.
const ESP: u8 = 50;

/// The protocol of a packet, and its first bytes unless they are in another fragment.
fn carried(packet: &Ip) -> (u8, Option<&[u8]>) {
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (protocol, offset, payload) = match (packet.source.is_ipv6(), packet.protocol) {
        (true, FRAGMENT) => (
            packet.payload[0],
            word(&packet.payload, 2) >> 3,
            &packet.payload[8..],
        ),
        (true, protocol) => (protocol, 0, &packet.payload[..]),
        (false, protocol) => (protocol, word(&packet.bytes, 6) & 0x1fff, &packet.payload[..]),
    };
    (protocol, (offset == 0).then_some(payload))
}

/// `IPPROTO_FRAGMENT`.
pub(crate) const FRAGMENT: u8 = 44;

fn kind(packet: &Ip) -> Kind {
    if packet.source.is_ipv6() {
        return (6, packet.protocol);
    }
    // The flag for more fragments and the offset.
    match u16::from_be_bytes([packet.bytes[6], packet.bytes[7]]) & 0x3fff {
        0 => (4, packet.protocol),
        _ => (4, FRAGMENT),
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Sighted {
    pub(crate) frames: u64,
    /// Packets of ESP.
    pub(crate) esp: u64,
    /// Sequence numbers by SPI. Every key has an SPI of its own, so this is by key.
    numbers: HashMap<u32, HashSet<u32>>,
    pub(crate) repeated: Vec<(u32, u32)>,
    pub(crate) leaks: u64,
    /// Of which kinds they were.
    pub(crate) kinds: BTreeSet<Kind>,
    /// A few of them.
    pub(crate) examples: Vec<String>,
}

impl Sighted {
    fn take(&mut self, secret: &Secret, seen: &Seen) {
        // Each frame comes in by one device of the wire and goes out by others.
        if seen.outgoing {
            return;
        }
        self.frames += 1;
        let Some(packet) = Ip::parse(&seen.frame) else {
            return;
        };
        if let (ESP, Some(esp)) = carried(&packet) {
            let [spi, number] = [0, 4].map(|at| u32::from_be_bytes(*esp[at..].first_chunk().unwrap()));
            self.esp += 1;
            if !self.numbers.entry(spi).or_default().insert(number) {
                self.repeated.push((spi, number));
            }
        }
        if secret.is_leaked_by(&packet) {
            self.leaks += 1;
            self.kinds.insert(kind(&packet));
            if self.examples.len() < 8 {
                let Ip {
                    source,
                    destination,
                    protocol,
                    payload,
                    ..
                } = &packet;
                let start = &payload[..payload.len().min(20)];
                self.examples.push(format!(
                    "{source} > {destination}, protocol {protocol}: {start:x?}"
                ));
            }
        }
    }

    /// How many keys were used.
    pub(crate) fn keys(&self) -> usize {
        self.numbers.len()
    }
}

/// A packet socket at one device; every frame is looked at and forgotten.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(namespace: &Namespace, device: &str, mut take: impl FnMut(&Seen) + Send + 'static) -> Self {
        let socket = namespace.enter(|| open(device));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut frames = Vec::new();
            loop {
                // Asked before the last frames are taken: what passed until then is among them.
                let last = stopped.load(Ordering::Relaxed);
                waits(&socket, PollTimeout::from(20u8));
                drain(&socket, &mut frames);
                frames.drain(..).for_each(|seen| take(&seen));
                if last {
                    return;
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Listens at devices of the wire.
pub(crate) struct Detector {
    sighted: Arc<Mutex<Sighted>>,
    watches: Vec<Watch>,
    second: Second,
}

impl Detector {
    pub(crate) fn start(wire: &Namespace, devices: [&str; 2], secret: Secret, folder: &Path) -> Self {
        let sighted = Arc::new(Mutex::new(Sighted::default()));
        let watches = devices.map(|device| {
            let sighted = Arc::clone(&sighted);
            Watch::start(wire, device, move |seen| {
                sighted.lock().unwrap().take(&secret, seen);
            })
        });
        Self {
            sighted,
            watches: watches.into(),
            second: Second::start(wire, devices, &secret, folder),
        }
    }

    /// Leaks so far.
    pub(crate) fn leaks(&self) -> u64 {
        self.sighted.lock().unwrap().leaks
    }

    /// Kinds of leaks so far.
    pub(crate) fn kinds(&self) -> BTreeSet<Kind> {
        self.sighted.lock().unwrap().kinds.clone()
    }

    /// Bytes that the second opinion has written.
    pub(crate) fn second_opinion(&self) -> u64 {
        std::fs::metadata(&self.second.file).map_or(0, |file| file.len())
    }

    /// Ends it; everything it saw, and how many leaks the second opinion found.
    pub(crate) fn finish(self) -> (Sighted, usize) {
        let second = self.second.finish();
        drop(self.watches);
        let sighted = Arc::into_inner(self.sighted).unwrap().into_inner().unwrap();
        (sighted, second)
    }
}

/// libpcap's opinion: what passes its filter is written to a file.
struct Second {
    process: Child,
    file: PathBuf,
}

impl Second {
    fn start(wire: &Namespace, devices: [&str; 2], secret: &Secret, folder: &Path) -> Self {
        // dumpcap gives up root, and must still write there.
        let file = folder.join(format!("leaks-{}.pcapng", devices[0]));
        let said = folder.join("dumpcap.log");
        let mut command = wire.command("dumpcap");
        // Options before the first device are for all of them.
        command.args(["-q", "-s", "128", "-f", &secret.filter()]);
        for device in devices {
            command.args(["-i", device]);
        }
        command.arg("-w").arg(&file);
        command
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&said).unwrap());
        let process = command.spawn().unwrap();
        // It makes the file when it listens.
        wait_until("dumpcap to listen", || {
            let text = std::fs::read_to_string(&said).unwrap();
            assert!(!text.contains("rror"), "{text}");
            text.contains("File: ")
        });
        Self { process, file }
    }

    /// How many packets there are.
    fn finish(mut self) -> usize {
        kill(Pid::from_raw(self.process.id() as i32), Signal::SIGINT).unwrap();
        self.process.wait().unwrap();
        let output = Command::new("tshark")
            .args(["-n", "-T", "fields", "-e", "frame.number", "-r"])
            .arg(&self.file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8_lossy(&output.stdout).lines().count()
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
