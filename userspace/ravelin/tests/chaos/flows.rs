//! Traffic that never stops: datagrams there and back every few milliseconds, streams, and datagrams that need fragments.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::support::lab::PORT;
use crate::support::namespace::Namespace;

/// Between two datagrams of a flow.
const PACE: Duration = Duration::from_millis(5);

/// Between two datagrams that need fragments.
const FRAGMENTS: Duration = Duration::from_millis(100);

/// How long a stream may be without progress before it is begun anew.
const STALLED: Duration = Duration::from_millis(500);

/// One end of the traffic.
#[derive(Clone, Copy)]
pub(crate) struct End<'n> {
    pub(crate) namespace: &'n Namespace,
    /// IPv4 and IPv6.
    pub(crate) addresses: [&'static str; 2],
}

/// A datagram that came back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Back {
    pub(crate) sent: Duration,
    pub(crate) arrived: Duration,
}

/// Those of one flow that came back, in order.
pub(crate) type Log = Arc<Mutex<Vec<Back>>>;

/// All traffic between two ends.
pub(crate) struct Flows {
    started: Instant,
    /// Must be protected: both families from either end.
    protected: Vec<(String, Log)>,
    /// Permitted: both families.
    permitted: Vec<(String, Log)>,
    /// Bytes of streams that came back.
    streamed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flows {
    pub(crate) fn start(ends: [End<'_>; 2], clear_port: u16) -> Self {
        let mut flows = Self {
            started: Instant::now(),
            protected: Vec::new(),
            permitted: Vec::new(),
            streamed: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for end in ends {
            flows.answer(end, &[PORT, clear_port]);
        }
        for (from, to) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            let mut asked = Vec::new();
            for (family, address) in ["IPv4", "IPv6"].iter().zip(to.addresses) {
                let protected = Log::default();
                let name = format!("{family} to {address}");
                flows.protected.push((name.clone(), Arc::clone(&protected)));
                asked.push((SocketAddr::new(address.parse().unwrap(), PORT), protected));
                if from.addresses == ends[0].addresses {
                    let permitted = Log::default();
                    flows.permitted.push((name, Arc::clone(&permitted)));
                    asked.push((SocketAddr::new(address.parse().unwrap(), clear_port), permitted));
                }
            }
            flows.ask(from, asked);
        }
        for (from, to, family) in [(ends[0], ends[1], 0), (ends[1], ends[0], 1)] {
            flows.stream(from, SocketAddr::new(to.addresses[family].parse().unwrap(), PORT));
        }
        flows
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// How long after `moment` the first datagram of each protected flow was sent that came back, at the latest of them:
    /// `None` while there is one without.
    pub(crate) fn recovered(&self, moment: Duration) -> Option<Duration> {
        let first = |log: &Log| {
            let log = log.lock().unwrap();
            let later = log.iter().rev().take_while(|back| back.sent >= moment);
            later.map(|back| back.arrived).min()
        };
        let firsts: Option<Vec<Duration>> = self.protected.iter().map(|(_, log)| first(log)).collect();
        Some(firsts?.into_iter().max()?.saturating_sub(moment))
    }

    /// The protected flows of which nothing came back that was sent after `moment`.
    pub(crate) fn missing(&self, moment: Duration) -> Vec<&str> {
        let silent = |log: &Log| log.lock().unwrap().iter().all(|back| back.sent < moment);
        let flows = self.protected.iter().filter(|(_, log)| silent(log));
        flows.map(|(name, _)| name.as_str()).collect()
    }

    /// The longest time without anything coming back of a protected flow and of a permitted one, from `moment` on.
    pub(crate) fn silence(&self, moment: Duration) -> [Duration; 2] {
        let longest = |log: &Log| {
            let gaps = gaps(log).rev().take_while(|(_, to)| *to >= moment);
            gaps.map(|(from, to)| to - from).max()
        };
        [&self.protected, &self.permitted].map(|flows| {
            let longest = flows.iter().filter_map(|(_, log)| longest(log)).max();
            longest.unwrap_or_default()
        })
    }

    /// The longest time without anything coming back of a permitted flow, and when it began; the times when the wire was cut
    /// are left out.
    pub(crate) fn longest_silence(&self, cuts: &[(Duration, Duration)]) -> (Duration, Duration, String) {
        let cut_of = |from: Duration, to: Duration| -> Duration {
            cuts.iter()
                .map(|(start, end)| (*end).min(to).saturating_sub((*start).max(from)))
                .sum()
        };
        let all = self.permitted.iter().flat_map(|(name, log)| {
            let silences: Vec<_> = gaps(log)
                .map(|(from, to)| ((to - from).saturating_sub(cut_of(from, to)), from, name.clone()))
                .collect();
            silences
        });
        all.max().unwrap_or_default()
    }

    /// How many datagrams came back: protected, permitted.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let sum = |flows: &[(String, Log)]| flows.iter().map(|(_, log)| log.lock().unwrap().len()).sum();
        (sum(&self.protected), sum(&self.permitted))
    }

    /// Bytes of streams that came back.
    pub(crate) fn streamed(&self) -> u64 {
        self.streamed.load(Ordering::Relaxed)
    }

    fn spawn(&mut self, work: impl FnMut() + Send + 'static) {
        let (stop, mut work) = (Arc::clone(&self.stop), work);
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                work();
            }
        }));
    }

    /// Sends datagrams back that arrive at the ports.
    fn answer(&mut self, end: End<'_>, ports: &[u16]) {
        let bind = |port: &u16| UdpSocket::bind(("::", *port)).unwrap();
        let sockets: Vec<UdpSocket> = end.namespace.enter(|| ports.iter().map(bind).collect());
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
        }
        let mut buffer = vec![0; 65536];
        self.spawn(move || {
            let mut fds: Vec<_> = sockets
                .iter()
                .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
                .collect();
            let _ = poll(&mut fds, PollTimeout::from(50u8));
            for socket in &sockets {
                while let Ok((length, sender)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], sender);
                }
            }
        });
        let listener = end.namespace.enter(|| TcpListener::bind(("::", PORT)).unwrap());
        listener.set_nonblocking(true).unwrap();
        self.spawn(move || match listener.accept() {
            Ok((stream, _)) => drop(std::thread::spawn(move || send_back(stream))),
            Err(_) => std::thread::sleep(PACE),
        });
    }

    /// Sends a datagram of each flow again and again, and notes what comes back.
    fn ask(&mut self, from: End<'_>, flows: Vec<(SocketAddr, Log)>) {
        let sockets: Vec<UdpSocket> = from
            .namespace
            .enter(|| flows.iter().map(|(to, _)| client(to.ip())).collect());
        let started = self.started;
        let mut fragmented = Instant::now();
        let mut buffer = vec![0; 65536];
        self.spawn(move || {
            for (socket, (to, log)) in sockets.iter().zip(&flows) {
                let now = started.elapsed().as_nanos() as u64;
                let mut datagram = [0x5a; 64];
                datagram[..8].copy_from_slice(&now.to_be_bytes());
                // Without an address or a device there is nothing to be done about it.
                let _ = socket.send_to(&datagram, to);
                if fragmented.elapsed() >= FRAGMENTS {
                    let _ = socket.send_to(&[0xa5; 3000], (to.ip(), PORT));
                }
                let mut log = log.lock().unwrap();
                while let Ok(length) = socket.recv(&mut buffer) {
                    if length == datagram.len() {
                        let sent = u64::from_be_bytes(*buffer.first_chunk().unwrap());
                        let (sent, arrived) = (Duration::from_nanos(sent), started.elapsed());
                        log.push(Back { sent, arrived });
                    }
                }
            }
            if fragmented.elapsed() >= FRAGMENTS {
                fragmented = Instant::now();
            }
            std::thread::sleep(PACE);
        });
    }

    /// Sends a stream there and back; one that stalls is begun anew.
    fn stream(&mut self, from: End<'_>, to: SocketAddr) {
        let (streamed, stop) = (Arc::clone(&self.streamed), Arc::clone(&self.stop));
        let thread = from.namespace.enter(|| {
            // Sockets belong to the namespace of the thread that makes them.
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect_timeout(&to, STALLED) else {
                        std::thread::sleep(PACE);
                        continue;
                    };
                    stream.set_read_timeout(Some(STALLED)).unwrap();
                    stream.set_write_timeout(Some(STALLED)).unwrap();
                    let (chunk, mut back) = ([0x33; 8192], [0; 8192]);
                    while !stop.load(Ordering::Relaxed)
                        && stream.write_all(&chunk).is_ok()
                        && stream.read_exact(&mut back).is_ok()
                    {
                        assert_eq!(chunk, back, "the stream came back changed");
                        streamed.fetch_add(back.len() as u64, Ordering::Relaxed);
                        std::thread::sleep(2 * PACE);
                    }
                }
            })
        });
        self.threads.push(thread);
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let joined = thread.join();
            assert!(
                joined.is_ok() || std::thread::panicking(),
                "a flow's thread panicked"
            );
        }
    }
}

/// A burst of datagrams that must be protected, faster than anybody takes them.
pub(crate) fn burst(from: &End<'_>, to: &End<'_>, count: usize) {
    for address in to.addresses {
        let to = SocketAddr::new(address.parse().unwrap(), PORT);
        from.namespace.enter(|| {
            let socket = client(to.ip());
            for _ in 0..count {
                let _ = socket.send_to(&[0x77; 1200], to);
            }
        });
    }
}

/// The times between one arrival and the next.
fn gaps(log: &Log) -> impl DoubleEndedIterator<Item = (Duration, Duration)> + use<> {
    let log = log.lock().unwrap();
    let gaps: Vec<_> = log
        .windows(2)
        .map(|pair| (pair[0].arrived, pair[1].arrived))
        .collect();
    gaps.into_iter()
}

fn client(destination: IpAddr) -> UdpSocket {
    let any = if destination.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn send_back(mut stream: TcpStream) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(2 * STALLED)).unwrap();
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
