//! Small datagrams from host A to host B, as many as get through.

use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use ravelin_bench::machine;

use crate::lab::{End, Lab};
use crate::round_trip::socket;

/// Bytes: with the headers of UDP, IPv4 and Ethernet, and the checksum behind, the shortest frame, 64 bytes.
const PAYLOAD: usize = 18;

/// Datagrams for each system call.
const BATCH: usize = 32;

const PORT: u16 = 7001;

/// Datagrams per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// That the application on A could send.
    pub(crate) sent: f64,
    /// That the application on B has received.
    pub(crate) received: f64,
}

/// Sends without a pause.
pub(crate) fn measure(lab: &Lab, addresses: [&str; 2], seconds: f64) -> Result<Rate> {
    let sender = socket(lab, End::A, addresses, PORT)?;
    let receiver = socket(lab, End::B, addresses, PORT)?;
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let cpu = |end| lab.cpus.application(end);
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            machine::pin_to(cpu(End::B))?;
            receive(&receiver, &stop, &received)
        });
        let sending = scope.spawn(|| {
            machine::pin_to(cpu(End::A))?;
            let start = Instant::now();
            let sent = send(&sender, Duration::from_secs_f64(seconds))?;
            // What is under way is not counted, as what was under way at the start was not sent yet.
            let (received, seconds) = (received.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
            Ok(Rate {
                sent: sent as f64 / seconds,
                received: received as f64 / seconds,
            })
        });
        let rate = sending.join();
        stop.store(true, Ordering::Relaxed);
        receiving.join().map_err(|_| anyhow!("the receiver panicked"))??;
        rate.map_err(|_| anyhow!("the sender panicked"))?
    })
}

fn send(socket: &UdpSocket, duration: Duration) -> Result<u64> {
    let payload = [0; PAYLOAD];
    let slices = [[IoSlice::new(&payload)]; BATCH];
    let addresses: [Option<SockaddrStorage>; BATCH] = [None; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < duration {
        let flags = MsgFlags::empty();
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, addresses, [], flags) {
            Ok(results) => sent += results.count() as u64,
            // The device's queue is full, or the other side has closed its socket already.
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot send"),
        }
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, received: &AtomicU64) -> Result<()> {
    let mut buffers = [[0; PAYLOAD]; BATCH];
    let mut headers: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(BATCH, None);
    while !stop.load(Ordering::Relaxed) {
        let mut slices: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| [IoSliceMut::new(buffer)])
            .collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None) {
            Ok(results) => {
                received.fetch_add(results.count() as u64, Ordering::Relaxed);
            }
            // The socket's time is over: see whether to stop.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
    Ok(())
}
