//! How long a datagram takes to host B and back.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use ravelin_bench::machine;

use crate::lab::{End, Lab};
use ravelin_bench::daemon::PATIENCE;

const PORT: u16 = 7000;

/// Bytes of a question and its answer, the number of the question in front.
const PAYLOAD: usize = 64;

/// How often whoever waits for a datagram looks whether there is still something to wait for.
const TIMEOUT: Duration = Duration::from_millis(100);

/// How long an answer is waited for before it counts as lost.
const LOST: Duration = Duration::from_secs(2);

/// Fewer answers are no measurement, however long they take.
const LEAST: usize = 20;

/// Times of a round, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) median: f64,
    pub(crate) p99: f64,
}

/// A UDP socket on a host, connected to the same port of the other. Reading gives up after a while.
pub(crate) fn socket(lab: &Lab, end: End, addresses: [&str; 2], port: u16) -> Result<UdpSocket> {
    lab.enter(end, || {
        let [own, other] = [end, end.other()].map(|end| (addresses[end as usize], port));
        let socket = UdpSocket::bind(own).with_context(|| format!("cannot bind to {own:?}"))?;
        socket
            .connect(other)
            .with_context(|| format!("no route to {other:?}"))?;
        socket.set_read_timeout(Some(TIMEOUT)).context("timeout")?;
        Ok(socket)
    })
}

/// Waits until a datagram comes back: neighbours are known then, and handshakes done.
pub(crate) fn wait_until_up(lab: &Lab, addresses: [&str; 2]) -> Result<()> {
    exchange(lab, addresses, |socket| {
        let start = Instant::now();
        for number in 0.. {
            if ask(socket, number, TIMEOUT)?.is_some() {
                break;
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "nothing comes back from the other host"
            );
        }
        Ok(())
    })
}

/// Asks one question after the other, `pause` after each answer.
pub(crate) fn measure(lab: &Lab, addresses: [&str; 2], seconds: f64, pause: Duration) -> Result<Times> {
    exchange(lab, addresses, |socket| {
        let start = Instant::now();
        let (mut times, mut number, mut lost) = (Vec::new(), 0, 0);
        while start.elapsed().as_secs_f64() < seconds || times.len() < LEAST {
            number += 1;
            match ask(socket, number, LOST)? {
                Some(time) => times.push(time.as_secs_f64() * 1e6),
                None => lost += 1,
            }
            ensure!(
                lost <= times.len().max(3) && start.elapsed() < PATIENCE,
                "{lost} of {number} datagrams had no answer"
            );
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)];
        Ok(Times {
            median: at(0.5),
            p99: at(0.99),
        })
    })
}

/// Runs `questions` on host A while host B answers.
fn exchange<T: Send>(
    lab: &Lab,
    addresses: [&str; 2],
    questions: impl FnOnce(&UdpSocket) -> Result<T> + Send,
) -> Result<T> {
    let asking = socket(lab, End::A, addresses, PORT)?;
    let answering = socket(lab, End::B, addresses, PORT)?;
    let stop = AtomicBool::new(false);
    let cpu = |end| lab.cpus.application(end);
    thread::scope(|scope| {
        let answers = scope.spawn(|| {
            machine::pin_to(cpu(End::B))?;
            answer(&answering, &stop)
        });
        let asked = scope.spawn(|| {
            machine::pin_to(cpu(End::A))?;
            questions(&asking)
        });
        let result = asked.join();
        stop.store(true, Ordering::Relaxed);
        answers
            .join()
            .map_err(|_| anyhow!("the answering thread panicked"))??;
        result.map_err(|_| anyhow!("the asking thread panicked"))?
    })
}

/// The time until the answer; `None` if none comes in time.
fn ask(socket: &UdpSocket, number: u64, patience: Duration) -> Result<Option<Duration>> {
    let mut question = [0; PAYLOAD];
    question[..8].copy_from_slice(&number.to_be_bytes());
    let start = Instant::now();
    if let Err(error) = socket.send(&question) {
        // An answer to the question before, from a host that is not ready.
        return waits(&error).then_some(None).ok_or(error).context("cannot send");
    }
    let mut answer = [0; PAYLOAD];
    loop {
        match socket.recv(&mut answer) {
            Ok(_) if answer == question => return Ok(Some(start.elapsed())),
            // An answer to an earlier question, given up by now.
            Ok(_) => {}
            Err(error) if waits(&error) && start.elapsed() < patience => {}
            Err(error) => {
                return waits(&error)
                    .then_some(None)
                    .ok_or(error)
                    .context("cannot receive");
            }
        }
    }
}

fn answer(socket: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    let mut question = [0; PAYLOAD];
    while !stop.load(Ordering::Relaxed) {
        let sent = socket.recv(&mut question).and_then(|_| socket.send(&question));
        if let Err(error) = sent
            && !waits(&error)
        {
            return Err(error).context("cannot answer");
        }
    }
    Ok(())
}

/// Whether the error may be over the next time.
fn waits(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
    )
}
