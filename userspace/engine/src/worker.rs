//! A worker: one thread, one queue of both devices, one packet memory.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::Pid;
use ravelin_xsk::{Backend, OpenError, Port, PortError, PortOptions, Rings, Tun, UmemError, UmemOptions};
use thiserror::Error;

use crate::confinement::{WORKER, keep_only};
use crate::counters::WorkerCounters;
use crate::crypto_pool::{CryptoPool, CryptoState};
use crate::edge_port::{EdgePort, HostPort};
use crate::forwarder::Forwarder;
use crate::regime::Shared;

/// How long a worker sleeps at most; then it looks after its devices, of which `poll` tells nothing.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// How long it looks for packets when they come so often that it would not have slept for longer. As KVM's `halt_poll_ns`.
const LONGEST_SPIN: Duration = Duration::from_micros(200);

/// How long it sleeps while packets wait for a neighbour or a device for room.
const SHORT_SLEEP: Duration = Duration::from_millis(1);

/// How often it asks the kernel what the sockets have lost.
const PUBLISH: Duration = Duration::from_millis(500);

/// How long it waits for a device that is down before it looks again.
const DOWN_SLEEP: Duration = Duration::from_millis(100);

/// What a worker needs to know.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The receive queue of both devices.
    pub queue: u32,
    /// The CPU to run on.
    pub cpu: Option<usize>,
    /// The clear side.
    pub inner: ClearSide,
    /// Name of the device of the wire.
    pub outer: String,
    /// Packet memory.
    pub umem: UmemOptions,
    /// Rings and mode of both sockets.
    pub port: PortOptions,
    /// Who opens them.
    pub af_xdp: AfXdp,
    /// How long to look for packets before sleeping; longer while they come at short intervals. `Duration::MAX` never sleeps.
    pub spin: Duration,
    /// For each thread that shares the worker's encryption and decryption, the CPU to run on.
    pub crypto_cpus: Vec<Option<usize>>,
}

/// Who speaks AF_XDP to the kernel for a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfXdp {
    /// Ravelin itself.
    #[default]
    Rings,
    /// The crate xsk-rs.
    #[cfg(feature = "xsk-rs")]
    XskRs,
}

/// Where a worker's clear packets come from and go to.
#[derive(Clone, Debug)]
pub enum ClearSide {
    /// The device of this name: hosts behind a gateway.
    Device(String),
    /// This host's own stack, through a queue of a TUN device.
    Stack(Arc<Tun>),
    /// This host's own stack, at the other end of the veth device of this name.
    StackBehind(String),
}

/// Why a worker ended or could not start.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// No packet memory.
    #[error("worker {queue}: {error}")]
    Umem {
        /// Its queue.
        queue: u32,
        /// What went wrong.
        error: UmemError,
    },
    /// No socket.
    #[error("worker {queue}: {error}")]
    Open {
        /// Its queue.
        queue: u32,
        /// What went wrong.
        error: OpenError,
    },
    /// A device is gone.
    #[error("worker {queue}: {error}; {}", consequence(.error))]
    Port {
        /// Its queue.
        queue: u32,
        /// What went wrong.
        error: PortError,
    },
    /// No thread or no descriptor.
    #[error("worker {queue}: {error}")]
    System {
        /// Its queue.
        queue: u32,
        /// What went wrong.
        error: std::io::Error,
    },
    /// A bug in a thread that encrypts for it.
    #[error(
        "a crypto thread of worker {queue} panicked; protected traffic is dropped until Ravelin is started again. Please report this"
    )]
    CryptoPanicked {
        /// The worker's queue.
        queue: u32,
    },
    /// A bug.
    #[error(
        "worker {queue} panicked; protected traffic is dropped until Ravelin is started again. Please report this"
    )]
    Panicked {
        /// Its queue.
        queue: u32,
    },
}

/// What becomes of traffic when a worker ends for this.
const fn consequence(error: &PortError) -> &'static str {
    match error {
        PortError::DeviceGone { .. } => {
            "its filter went with it (to another network namespace, if that is where it is now): should it come again, nothing there is filtered or protected until Ravelin is started again"
        }
        _ => "protected traffic is dropped until Ravelin is started again",
    }
}

/// A started worker: its sockets are open and wait for their slots in the XSK maps.
#[derive(Debug)]
pub struct Worker {
    queue: u32,
    counters: Arc<WorkerCounters>,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<Result<(), WorkerError>>>,
    sockets: Option<Sockets>,
    zero_copy: bool,
    crypto: Arc<CryptoState>,
}

/// Duplicates of a worker's sockets, for the XSK maps.
#[derive(Debug)]
pub struct Sockets {
    /// On the inner device, if there is one.
    pub inner: Option<OwnedFd>,
    /// On the outer device.
    pub outer: OwnedFd,
}

#[derive(Debug)]
struct Stop {
    flag: AtomicBool,
    wake: EventFd,
}

struct Ready {
    sockets: Sockets,
    zero_copy: bool,
}

impl Ready {
    fn new<B: Backend>(
        queue: u32,
        inner: Option<&B::Socket<'_>>,
        outer: &B::Socket<'_>,
    ) -> Result<Self, WorkerError> {
        let duplicate = |socket: &B::Socket<'_>| {
            let copy = socket.fd().try_clone_to_owned();
            copy.map_err(|error| WorkerError::System { queue, error })
        };
        Ok(Self {
            sockets: Sockets {
                inner: inner.map(duplicate).transpose()?,
                outer: duplicate(outer)?,
            },
            zero_copy: B::zero_copy(outer) && inner.is_none_or(|inner| B::zero_copy(inner)),
        })
    }
}

impl Worker {
    /// Starts the thread, which counts in `counters`, and waits until its sockets are open.
    ///
    /// # Errors
    ///
    /// [`WorkerError`]; then nothing of it is left.
    pub fn start(
        options: WorkerOptions,
        shared: Arc<Shared>,
        counters: WorkerCounters,
    ) -> Result<Self, WorkerError> {
        let queue = options.queue;
        let failed = |error| WorkerError::System { queue, error };
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let wake = EventFd::from_flags(flags).map_err(|error| failed(error.into()))?;
        let stop = Arc::new(Stop {
            flag: AtomicBool::new(false),
            wake,
        });
        let counters = Arc::new(counters);
        let crypto = Arc::new(CryptoState::new(options.crypto_cpus.len()));
        let (sender, receiver) = bounded(1);
        let thread = {
            let (stop, counters) = (Arc::clone(&stop), Arc::clone(&counters));
            let crypto = Arc::clone(&crypto);
            std::thread::Builder::new()
                .name(format!("ravelin-{queue}"))
                .spawn(move || {
                    let run = match options.af_xdp {
                        AfXdp::Rings => run::<Rings>,
                        #[cfg(feature = "xsk-rs")]
                        AfXdp::XskRs => run::<ravelin_xsk::XskRs>,
                    };
                    run(&options, &shared, (&counters, &crypto), &stop, &sender)
                })
                .map_err(failed)?
        };
        let mut worker = Self {
            queue,
            counters,
            stop,
            thread: Some(thread),
            sockets: None,
            zero_copy: false,
            crypto,
        };
        match receiver.recv() {
            Ok(Ready { sockets, zero_copy }) => {
                worker.sockets = Some(sockets);
                worker.zero_copy = zero_copy;
                Ok(worker)
            }
            // The thread ended without a word: its result says why.
            Err(_) => Err(worker.join().err().unwrap_or(WorkerError::Panicked { queue })),
        }
    }

    /// The sockets, once. To be dropped after they were put into the maps: the kernel empties the slots when the last
    /// descriptor closes.
    pub const fn take_sockets(&mut self) -> Option<Sockets> {
        self.sockets.take()
    }

    /// Its counters.
    #[must_use]
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// The turns of each of its crypto threads.
    pub(crate) fn crypto_turns(&self) -> impl Iterator<Item = u64> {
        self.crypto.turns()
    }

    /// Has it take up what was published, should it sleep.
    pub fn nudge(&self) {
        let _ = self.stop.wake.write(1);
    }

    /// Its queue.
    #[must_use]
    pub const fn queue(&self) -> u32 {
        self.queue
    }

    /// Whether the driver writes into the packet memory itself.
    #[must_use]
    pub const fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Whether the thread has ended by itself, which it never should.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Tells the thread to end, and does not wait for it. The kernel takes tens of milliseconds to close a worker's sockets: that is to be
    /// waited for once, not for each.
    pub fn dismiss(&self) {
        self.stop.flag.store(true, Ordering::Relaxed);
        self.nudge();
    }

    /// Ends the thread, or learns why it ended.
    ///
    /// # Errors
    ///
    /// Why it had ended before it was told to.
    pub fn join(&mut self) -> Result<(), WorkerError> {
        self.dismiss();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(WorkerError::Panicked { queue: self.queue }),
            None => Ok(()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The result was asked for with `join` by whoever wanted it.
        let _ = self.join();
    }
}

fn run<B: Backend>(
    options: &WorkerOptions,
    shared: &Shared,
    (counters, crypto): (&WorkerCounters, &Arc<CryptoState>),
    stop: &Stop,
    ready: &Sender<Ready>,
) -> Result<(), WorkerError> {
    let queue = options.queue;
    pin_to(options.cpu);
    let umem = B::memory(&options.umem, &options.port);
    let umem = umem.map_err(|error| WorkerError::Umem { queue, error })?;
    let open = |device: &str| {
        B::open(&umem, device, queue, &options.port).map_err(|error| WorkerError::Open { queue, error })
    };
    match &options.inner {
        ClearSide::Device(name) | ClearSide::StackBehind(name) => {
            let inner = open(name)?;
            let outer = open(&options.outer)?;
            let opened = Ready::new::<B>(queue, Some(&inner), &outer)?;
            let forwarder = Forwarder::new(inner, outer, shared, counters);
            let forwarder = match options.inner {
                ClearSide::StackBehind(_) => forwarder.for_host(),
                _ => forwarder,
            };
            begin(forwarder, options, crypto, stop, ready, opened)
        }
        ClearSide::Stack(tun) => {
            let outer = open(&options.outer)?;
            let opened = Ready::new::<B>(queue, None, &outer)?;
            let edge = EdgePort::new(tun, queue, &umem, shared, counters);
            let (edge, outer) = (HostPort::Edge(Box::new(edge)), HostPort::Outer(Box::new(outer)));
            let forwarder = Forwarder::new(edge, outer, shared, counters).for_host();
            begin(forwarder, options, crypto, stop, ready, opened)
        }
    }
}

/// Has the thread run on a CPU of its own. Without one it is slower, not wrong.
fn pin_to(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        let _ = set
            .set(cpu)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    }
}

/// Tells that all is open, and serves, with crypto threads if there are to be any.
fn begin<'u, P: Port<'u>>(
    mut forwarder: Forwarder<'_, 'u, P>,
    options: &WorkerOptions,
    crypto: &Arc<CryptoState>,
    stop: &Stop,
    sender: &Sender<Ready>,
    ready: Ready,
) -> Result<(), WorkerError> {
    let queue = options.queue;
    forwarder.refill();
    std::thread::scope(|scope| {
        let mut crypto_threads = Vec::new();
        if !options.crypto_cpus.is_empty() {
            let (pool, threads) = CryptoPool::with_state(Arc::clone(crypto));
            let (sender, begun) = bounded(threads.len());
            for (thread, cpu) in threads.into_iter().zip(&options.crypto_cpus) {
                let sender = sender.clone();
                let started = std::thread::Builder::new()
                    .name(format!("ravelin-{queue}/{}", thread.index()))
                    .spawn_scoped(scope, move || {
                        pin_to(*cpu);
                        keep_only(&WORKER);
                        drop(sender);
                        thread.run();
                    });
                crypto_threads.push(started.map_err(|error| WorkerError::System { queue, error })?);
            }
            // On this CPU they might not come to leave it, once the worker looks for packets.
            drop(sender);
            let _: Result<Infallible, _> = begun.recv();
            forwarder = forwarder.with_pool(pool);
        }
        // All is open. What follows are system calls on sockets, for which nobody asks.
        keep_only(&WORKER);
        let served = match sender.send(ready) {
            Ok(()) => serve(&mut forwarder, options, stop),
            // Nobody waits for this worker any more.
            Err(_) => Ok(()),
        };
        // Its threads end with the pool.
        drop(forwarder);
        if crypto_threads.into_iter().any(|thread| thread.join().is_err()) {
            return Err(WorkerError::CryptoPanicked { queue });
        }
        served.map_err(|error| WorkerError::Port { queue, error })
    })
}

/// The loop: take batches while there are any, look a little longer, sleep. Whose answer comes soon does not wait for a thread to wake.
fn serve<'u, P: Port<'u>>(
    forwarder: &mut Forwarder<'_, 'u, P>,
    options: &WorkerOptions,
    stop: &Stop,
) -> Result<(), PortError> {
    let mut last_work = Instant::now();
    let mut published = last_work;
    let mut spin = options.spin;
    while !stop.flag.load(Ordering::Relaxed) && !forwarder.is_broken() {
        forwarder.counters.turns.add(1);
        let turn = match forwarder.turn() {
            Ok(turn) => turn,
            Err(PortError::DeviceDown { .. }) => {
                sleep(forwarder, stop, DOWN_SLEEP, false);
                continue;
            }
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        if now.duration_since(published) >= PUBLISH {
            published = now;
            forwarder.publish_losses();
        }
        if turn.received != 0 || turn.away {
            last_work = now;
            continue;
        }
        if now.duration_since(last_work) < spin {
            std::hint::spin_loop();
            continue;
        }
        forwarder.counters.sleeps.add(1);
        let short = turn.unsent || turn.holding;
        let longest = if short { SHORT_SLEEP } else { LONGEST_SLEEP };
        let woken = sleep(forwarder, stop, longest, true);
        spin = if woken && last_work.elapsed() < LONGEST_SPIN {
            options.spin.max(LONGEST_SPIN)
        } else {
            options.spin
        };
        if !woken {
            match forwarder.check() {
                Ok(()) | Err(PortError::DeviceDown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        last_work = Instant::now();
    }
    Ok(())
}

/// Sleeps until a packet or the order to stop arrives, or the time is over; false if it is over.
fn sleep<'u, P: Port<'u>>(
    forwarder: &mut Forwarder<'_, 'u, P>,
    stop: &Stop,
    longest: Duration,
    for_packets: bool,
) -> bool {
    forwarder.refill();
    let mut fds = [
        PollFd::new(stop.wake.as_fd(), PollFlags::POLLIN),
        PollFd::new(forwarder.inner.fd(), PollFlags::POLLIN),
        PollFd::new(forwarder.outer.fd(), PollFlags::POLLIN),
    ];
    let watched = if for_packets { 3 } else { 1 };
    let timeout = PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX);
    let woken = !matches!(poll(&mut fds[..watched], timeout), Ok(0));
    // Whoever rang is heard by the next turn; the flag says whether there is to be one.
    let _ = stop.wake.read();
    woken
}
