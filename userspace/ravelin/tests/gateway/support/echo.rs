//! Real programs at the two ends: they send back what they get.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::PATIENCE;
use super::namespace::Namespace;

/// Sends UDP datagrams and TCP streams at one port back, and keeps a note of the datagrams.
pub(crate) struct Echo {
    port: u16,
    stop: Arc<AtomicBool>,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    pub(crate) fn start(namespace: &Namespace, port: u16) -> Self {
        let (udp, tcp) = namespace.enter(|| {
            (
                UdpSocket::bind(("::", port)).unwrap(),
                TcpListener::bind(("::", port)).unwrap(),
            )
        });
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(Mutex::new(Vec::new()));
        let datagrams = {
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65536];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((length, sender)) = udp.recv_from(&mut buffer) {
                        received.lock().unwrap().push(buffer[..length].to_vec());
                        let _ = udp.send_to(&buffer[..length], sender);
                    }
                }
            })
        };
        let streams = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match tcp.accept() {
                        Ok((stream, _)) => drop(std::thread::spawn(move || send_back(stream))),
                        Err(_) => std::thread::sleep(Duration::from_millis(20)),
                    }
                }
            })
        };
        Self {
            port,
            stop,
            received,
            threads: vec![datagrams, streams],
        }
    }

    /// The datagrams so far.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        self.received.lock().unwrap().clone()
    }

    /// Whether a datagram from a host comes back whole, within half a second.
    pub(crate) fn udp(&self, from: &Namespace, address: &str, bytes: &[u8]) -> bool {
        self.udp_within(Duration::from_millis(500), from, address, bytes)
    }

    /// Whether one datagram, which must not be lost, comes back whole: a busy machine may take its time.
    pub(crate) fn udp_surely(&self, from: &Namespace, address: &str, bytes: &[u8]) -> bool {
        self.udp_within(PATIENCE, from, address, bytes)
    }

    fn udp_within(&self, patience: Duration, from: &Namespace, address: &str, bytes: &[u8]) -> bool {
        let destination = SocketAddr::new(address.parse().unwrap(), self.port);
        from.enter(|| {
            let socket = client(destination.ip());
            socket.set_read_timeout(Some(patience)).unwrap();
            if socket
                .connect(destination)
                .and_then(|()| socket.send(bytes))
                .is_err()
            {
                return false;
            }
            let mut buffer = vec![0; 65536];
            socket
                .recv(&mut buffer)
                .is_ok_and(|length| buffer[..length] == *bytes)
        })
    }

    /// Sends a datagram and waits for nothing.
    pub(crate) fn udp_one_way(&self, from: &Namespace, address: &str, bytes: &[u8]) {
        let destination = SocketAddr::new(address.parse().unwrap(), self.port);
        from.enter(|| client(destination.ip()).send_to(bytes, destination))
            .unwrap();
    }

    /// A TCP stream there and back, every byte compared.
    pub(crate) fn tcp(&self, from: &Namespace, address: &str, length: usize) {
        let destination = SocketAddr::new(address.parse().unwrap(), self.port);
        let bytes = pattern(length);
        let back = from.enter(|| {
            let mut stream = TcpStream::connect_timeout(&destination, PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            let mut writer = stream.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    writer.write_all(&bytes).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut back = Vec::new();
                stream.read_to_end(&mut back).unwrap();
                back
            })
        });
        assert_eq!(back.len(), length);
        assert!(back == bytes, "the stream came back changed");
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn client(destination: IpAddr) -> UdpSocket {
    UdpSocket::bind(if destination.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    })
    .unwrap()
}

fn send_back(mut stream: TcpStream) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Bytes in which every place differs from its neighbours and from the same place a segment later.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|place| (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}
