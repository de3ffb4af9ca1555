//! The engine as a whole: started from a policy, stopped by a signal.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;
use ravelin_classifier::{CompileError, RuleSet, compile};
use ravelin_esp::Provider;
use ravelin_keying::{
    KeyingError, KeyingErrors, StateFolder, StateFolderError, StaticConnection, StaticKeys,
};
use ravelin_policy::{Action, Connection as PolicyConnection, Encapsulation, Mode as EspMode, Policy};
use ravelin_xdp_common::{DropReason, InboundEndpoint, MAX_QUEUES, Pass};
use ravelin_xsk::{BusyPoll, OpenError, PortOptions, UmemOptions, queue_count};
use thiserror::Error;

use crate::address::to_address;
use crate::attach::{AttachError, Attachments, Mode};
use crate::connection::Connection;
use crate::control::{Control, ControlError};
use crate::device::Device;
use crate::filter::{Filter, FilterError, Side};
use crate::forwarder::Shared;
use crate::netlink::Questions;
use crate::resolver::{News, Resolver};
use crate::status::{ConnectionStatus, InterfaceStatus, RuleStatus, SaStatus, Status, WorkerStatus};
use crate::worker::{Worker, WorkerError, WorkerOptions};

/// How often the engine looks after sequence numbers, workers and addresses.
const TICK: Duration = Duration::from_millis(100);

/// How often the highest sequence numbers received go to disk. After a crash packets of this long can be replayed once.
const RECORD: Duration = Duration::from_secs(1);

/// How long workers look for packets before they sleep.
const SPIN: Duration = Duration::from_micros(50);

/// Bytes that sealing needs behind a packet: at most three of padding to a multiple of four, two of trailer, the ICV.
const TAILROOM: usize = ravelin_esp::MAX_TAILROOM;

/// How an engine is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The device of the wire.
    pub outer: String,
    /// The device of the clear side; without it the engine only filters.
    pub inner: Option<String>,
    /// Names pins and state, so that several engines can run on one machine.
    pub instance: String,
    /// The control socket.
    pub control: PathBuf,
    /// The folder of sequence marks.
    pub state: PathBuf,
    /// How XDP programs run.
    pub mode: Mode,
    /// Workers never sleep.
    pub busy_poll: bool,
    /// AEAD implementation; `None` takes the fastest.
    pub provider: Option<Provider>,
}

/// Why an engine could not start, or ended.
#[derive(Debug, Error)]
pub enum EngineError {
    /// Netlink.
    #[error("cannot read the network configuration: {0}")]
    Netlink(io::Error),
    /// No such device.
    #[error("device {0}: no such Ethernet device in this network namespace; see `ip link`")]
    NoDevice(String),
    /// One device for both sides.
    #[error("device {0} is both outer and inner; a gateway needs two devices")]
    SameDevice(String),
    /// Different numbers of queues.
    #[error(
        "device {inner} has {inner_queues} queues and device {outer} has {outer_queues}; a worker serves one queue of \
         each, so set them equal, for instance `ethtool -L {inner} combined {least}`"
    )]
    Queues {
        /// The inner device.
        inner: String,
        /// Its queues.
        inner_queues: u32,
        /// The outer device.
        outer: String,
        /// Its queues.
        outer_queues: u32,
        /// The smaller of the two.
        least: u32,
    },
    /// More queues than there is room for.
    #[error(
        "device {device} has {queues} queues and Ravelin serves {MAX_QUEUES}; reduce them with `ethtool -L`"
    )]
    TooManyQueues {
        /// The device.
        device: String,
        /// Its queues.
        queues: u32,
    },
    /// Packets do not fit into packet memory.
    #[error(
        "device {device}: MTU {mtu} is larger than the {limit} bytes that Ravelin handles; `ip link set dev {device} mtu {limit}`"
    )]
    MtuTooLarge {
        /// The device.
        device: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The largest that works.
        limit: u32,
    },
    /// Too little is left inside the tunnel.
    #[error(
        "connection `{connection}`: an MTU of {mtu} bytes on device {device} leaves {inner} for packets inside, and \
         {least} are needed; raise it with `ip link set dev {device} mtu N`, or `path-mtu` in the policy"
    )]
    MtuTooSmall {
        /// The connection.
        connection: String,
        /// The outer device.
        device: String,
        /// The path MTU that results, in bytes.
        mtu: u32,
        /// What fits inside.
        inner: u32,
        /// What is needed inside.
        least: u32,
    },
    /// Transport mode in a gateway.
    #[error(
        "connection `{0}`: transport mode protects this host's own packets, and a gateway forwards those of others; use `mode = \"tunnel\"`"
    )]
    TransportInGateway(String),
    /// UDP encapsulation on other ports than the driver looks at.
    #[error("connection `{0}`: UDP-encapsulated ESP needs local-port 4500 (RFC 3948)")]
    EncapsulationPort(String),
    /// The rule set does not fit.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateFolderError),
    /// Keys.
    #[error(transparent)]
    Keying(#[from] KeyingErrors),
    /// The BPF side.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Attaching.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// AF_XDP.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A worker.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A bug.
    #[error(
        "the resolver panicked; protected traffic is dropped until Ravelin is started again. Please report this"
    )]
    ResolverPanicked,
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Threads or descriptors.
    #[error("cannot start: {0}")]
    System(io::Error),
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    // Dropped in this order: first the programs (where they are not kept), then what serves them.
    attachments: Option<Attachments>,
    workers: Vec<Worker>,
    resolver: Resolver,
    news: Receiver<News>,
    filter: RefCell<Filter>,
    keys: RefCell<Vec<StaticConnection>>,
    shared: Option<Arc<Shared>>,
    rule_names: Vec<String>,
    interfaces: BTreeMap<String, InterfaceStatus>,
    generation: u32,
    started: Instant,
    instance: String,
    control: Control,
    warnings: Vec<String>,
    runtime: tokio::runtime::Runtime,
}

impl Engine {
    /// Starts everything: after this the policy is in force. On an error nothing is attached that was not before.
    ///
    /// # Errors
    ///
    /// [`EngineError`], which says what to do.
    pub fn start(policy: &Policy, options: &Options) -> Result<Self, EngineError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(EngineError::System)?;
        let mut warnings = Vec::new();
        let rules = compile(policy)?;
        let (outer, inner) = devices(options)?;
        check_connections(policy, inner.is_some())?;

        // Also the lock of the instance: two engines cannot listen on one socket.
        let control = {
            let _guard = runtime.enter();
            Control::listen(&options.control)?
        };
        let mut filter = Filter::load()?;
        let keys = match &inner {
            Some(_) if !policy.connections().is_empty() => {
                let keys = StaticKeys::read(policy)?;
                let folder = Arc::new(StateFolder::open(&options.state)?);
                keys.start(
                    policy,
                    &folder,
                    options.provider.unwrap_or_else(Provider::preferred),
                )?
            }
            Some(_) => Vec::new(),
            None => {
                if policy
                    .rules()
                    .iter()
                    .any(|rule| rule.active && matches!(rule.action, Action::Protect { .. }))
                {
                    warnings.push(
                        "no inner device: nothing is encrypted; clear packets that must be protected are dropped in both \
                         directions"
                            .to_owned(),
                    );
                }
                Vec::new()
            }
        };
        let (sender, news) = unbounded();
        let resolver = Resolver::start(&outer, inner.as_ref(), sender).map_err(EngineError::Netlink)?;
        let generation = 1;
        filter.apply(&rules, generation)?;
        for one in &keys {
            let connection = &policy.connections()[one.connection()];
            filter.add_inbound(
                connection.keys.inbound.spi.value(),
                &endpoint(connection, one.connection()),
            )?;
        }
        let mut engine = Self {
            attachments: None,
            workers: Vec::new(),
            resolver,
            news,
            filter: RefCell::new(filter),
            keys: RefCell::new(keys),
            shared: None,
            rule_names: policy.rules().iter().map(|rule| rule.name.clone()).collect(),
            interfaces: BTreeMap::new(),
            generation,
            started: Instant::now(),
            instance: options.instance.clone(),
            control,
            warnings,
            runtime,
        };
        engine.follow_addresses(policy)?;
        if let Some(inner) = &inner {
            engine.start_workers(policy, rules, options, &outer, inner)?;
        }
        engine.attach(options, &outer, inner.as_ref())?;
        Ok(engine)
    }

    /// What the operator should know, though it stops nothing.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// One line about what runs.
    #[must_use]
    pub fn summary(&self) -> String {
        let devices: Vec<String> = self
            .interfaces
            .iter()
            .rev()
            .map(|(side, interface)| format!("{side} {} ({} XDP)", interface.name, interface.xdp))
            .collect();
        format!(
            "{}; {} rules, {} connections, {} workers",
            devices.join(", "),
            self.rule_names.len(),
            self.keys.borrow().len(),
            self.workers.len()
        )
    }

    /// Serves until `stop` is ready. The programs stay attached: see [`Engine::detach`].
    ///
    /// # Errors
    ///
    /// [`EngineError::Worker`] when a worker ended by itself.
    pub fn run(&mut self, stop: impl Future<Output = ()>) -> Result<(), EngineError> {
        let this = &*self;
        let result = this.runtime.block_on(async {
            tokio::select! {
                () = stop => Ok(()),
                () = this.control.serve(|| this.status()) => Ok(()),
                worker = this.look_after() => Err(worker),
            }
        });
        match result {
            Ok(()) => Ok(()),
            Err(None) => Err(EngineError::ResolverPanicked),
            Err(Some(index)) => Err(self.workers[index].join().err().map_or_else(
                || {
                    EngineError::Worker(WorkerError::Panicked {
                        queue: self.workers[index].queue(),
                    })
                },
                EngineError::Worker,
            )),
        }
    }

    /// Takes the filter away: what the policy protects then passes in the clear.
    ///
    /// # Errors
    ///
    /// [`EngineError::Attach`].
    pub fn detach(mut self) -> Result<(), EngineError> {
        if let Some(attachments) = self.attachments.take() {
            attachments.detach()?;
        }
        Ok(())
    }

    /// Looks after everything that is not a packet; returns the index of a worker that ended, or `None` if the
    /// resolver did.
    async fn look_after(&self) -> Option<usize> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut recorded = Instant::now();
        let mut complaint = None;
        loop {
            tick.tick().await;
            if let Some(index) = self.workers.iter().position(Worker::is_finished) {
                return Some(index);
            }
            if self.resolver.is_finished() {
                return None;
            }
            #[cfg(feature = "log")]
            self.filter.borrow_mut().flush_log();
            for News::Addresses(addresses) in self.news.try_iter() {
                if let Err(error) = self.filter.borrow_mut().set_local(&addresses) {
                    eprintln!("ravelin: own addresses: {error}");
                }
            }
            let record = recorded.elapsed() >= RECORD;
            if record {
                recorded = Instant::now();
            }
            let failure = self.keep_marks(record).err().map(|error| error.to_string());
            if let Some(text) = failure.as_ref().filter(|_| failure != complaint) {
                eprintln!("ravelin: {text}");
            }
            complaint = failure;
        }
    }

    /// Keeps sequence numbers ready to be used, and on disk those that were used and seen.
    fn keep_marks(&self, record: bool) -> Result<(), KeyingError> {
        let mut result = Ok(());
        for keys in self.keys.borrow_mut().iter_mut() {
            result = result.and(keys.extend());
            if record {
                result = result.and(keys.record_received());
            }
        }
        result
    }

    fn follow_addresses(&mut self, policy: &Policy) -> Result<(), EngineError> {
        for News::Addresses(addresses) in self.news.try_iter() {
            self.filter.borrow_mut().set_local(&addresses)?;
            for connection in policy
                .connections()
                .iter()
                .filter(|one| !addresses.contains(&one.local))
            {
                self.warnings.push(format!(
                    "connection `{}`: {} is not an address of this machine, so the peer's answers will not find it",
                    connection.name, connection.local
                ));
            }
        }
        Ok(())
    }

    fn start_workers(
        &mut self,
        policy: &Policy,
        rules: RuleSet,
        options: &Options,
        outer: &Device,
        inner: &Device,
    ) -> Result<(), EngineError> {
        let umem = packet_memory(outer, inner)?;
        let queues = queues(outer, inner)?;
        let connections: Vec<Connection> = self
            .keys
            .borrow()
            .iter()
            .map(|keys| {
                let connection = &policy.connections()[keys.connection()];
                Connection {
                    name: connection.name.clone(),
                    remote: connection.remote,
                    remote_address: to_address(connection.remote),
                    path_mtu: connection.path_mtu.map(u32::from),
                    outbound: Arc::clone(keys.outbound()),
                    inbound: Arc::clone(keys.inbound()),
                }
            })
            .collect();
        for (index, connection) in connections.iter().enumerate() {
            check_mtu(index, connection, outer, policy)?;
        }
        let shared = Arc::new(Shared {
            connections,
            rules,
            adjacencies: Arc::clone(self.resolver.adjacencies()),
        });
        self.shared = Some(Arc::clone(&shared));
        let cpus = allowed_cpus();
        for queue in 0..queues {
            let options = WorkerOptions {
                queue,
                cpu: cpus.get(queue as usize % cpus.len().max(1)).copied(),
                inner: inner.name.clone(),
                outer: outer.name.clone(),
                umem: umem.clone(),
                port: PortOptions {
                    busy_poll: options.busy_poll.then_some(BusyPoll {
                        microseconds: 20,
                        budget: 64,
                    }),
                    ..PortOptions::default()
                },
                spin: if options.busy_poll { Duration::MAX } else { SPIN },
            };
            let mut worker = Worker::start(options, Arc::clone(&shared), self.rule_names.len())?;
            if let Some(sockets) = worker.take_sockets() {
                let filter = self.filter.get_mut();
                filter.set_socket(Side::Inner, queue, &sockets.inner)?;
                filter.set_socket(Side::Outer, queue, &sockets.outer)?;
            }
            self.workers.push(worker);
        }
        for device in [outer, inner].into_iter().filter(|device| device.veth) {
            self.warnings.push(format!(
                "device {} is a veth: on its other end run `ethtool -K DEVICE tx off`, or protected packets of local \
                 senders go out with unfinished checksums",
                device.name
            ));
        }
        Ok(())
    }

    fn attach(
        &mut self,
        options: &Options,
        outer: &Device,
        inner: Option<&Device>,
    ) -> Result<(), EngineError> {
        let filter = self.filter.get_mut();
        let mut attachments = Attachments::open(&options.instance)?;
        attachments.egress(filter, outer)?;
        for (side, device) in [(Side::Outer, Some(outer)), (Side::Inner, inner)] {
            let Some(device) = device else { continue };
            let mode = attachments.xdp(filter, side, device, options.mode)?;
            let status = InterfaceStatus {
                name: device.name.clone(),
                index: device.index,
                xdp: match mode {
                    Mode::Native => "native".to_owned(),
                    Mode::Generic => "generic".to_owned(),
                    Mode::Auto => "adopted".to_owned(),
                },
            };
            self.interfaces.insert(side.name().to_owned(), status);
        }
        attachments.sweep()?;
        attachments.keep();
        self.attachments = Some(attachments);
        Ok(())
    }

    fn status(&self) -> Result<Status, String> {
        let filter = self.filter.borrow();
        let described = |error: FilterError| error.to_string();
        let driver_drops = filter.drops().map_err(described)?;
        let passes = filter.passes().map_err(described)?;
        let rules = filter.rules(self.rule_names.len()).map_err(described)?;
        let workers = &self.workers;
        let connections = self.shared.iter().flat_map(|shared| &shared.connections);
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: self.generation,
            provider: self
                .keys
                .borrow()
                .first()
                .map(|keys| keys.outbound().provider().name().to_owned()),
            interfaces: self.interfaces.clone(),
            outcomes: Pass::ALL
                .iter()
                .zip(passes)
                .map(|(pass, count)| (pass.name().to_owned(), count))
                .collect(),
            drops: DropReason::ALL
                .iter()
                .zip(driver_drops)
                .map(|(reason, at_driver)| {
                    let in_workers: u64 = workers
                        .iter()
                        .map(|worker| worker.counters().drops(*reason))
                        .sum();
                    (reason.name().to_owned(), at_driver + in_workers)
                })
                .collect(),
            rules: self
                .rule_names
                .iter()
                .zip(rules)
                .enumerate()
                .map(|(index, (name, at_driver))| {
                    workers.iter().map(|worker| worker.counters().rule(index)).fold(
                        RuleStatus {
                            name: name.clone(),
                            packets: at_driver.packets,
                            bytes: at_driver.bytes,
                        },
                        |sum, one| RuleStatus {
                            packets: sum.packets + one.packets,
                            bytes: sum.bytes + one.bytes,
                            ..sum
                        },
                    )
                })
                .collect(),
            connections: connections.map(connection_status).collect(),
            workers: workers
                .iter()
                .map(|worker| {
                    let counters = worker.counters();
                    WorkerStatus {
                        queue: worker.queue(),
                        zero_copy: worker.zero_copy(),
                        sealed: counters.sealed.value(),
                        opened: counters.opened.value(),
                        icmp_errors: counters.icmp_errors.value(),
                        waited: counters.waited.value(),
                        sleeps: counters.sleeps.value(),
                    }
                })
                .collect(),
        })
    }
}

fn connection_status(connection: &Connection) -> ConnectionStatus {
    let (sent, received) = (connection.outbound.counters(), connection.inbound.counters());
    ConnectionStatus {
        name: connection.name.clone(),
        remote: connection.remote.to_string(),
        outbound: SaStatus {
            spi: connection.outbound.spi(),
            packets: sent.packets,
            bytes: sent.bytes,
            sequence: connection.outbound.sequence().last_used(),
        },
        inbound: SaStatus {
            spi: connection.inbound.spi(),
            packets: received.packets,
            bytes: received.bytes,
            sequence: connection.inbound.highest_sequence().unwrap_or(0),
        },
    }
}

fn devices(options: &Options) -> Result<(Device, Option<Device>), EngineError> {
    let mut questions = Questions::open().map_err(EngineError::Netlink)?;
    let mut find = |name: &str| {
        let found = Device::find(&mut questions, name).map_err(EngineError::Netlink)?;
        found.ok_or_else(|| EngineError::NoDevice(name.to_owned()))
    };
    let outer = find(&options.outer)?;
    let inner = options.inner.as_deref().map(&mut find).transpose()?;
    match inner {
        Some(inner) if inner.index == outer.index => Err(EngineError::SameDevice(outer.name)),
        inner => Ok((outer, inner)),
    }
}

fn check_connections(policy: &Policy, gateway: bool) -> Result<(), EngineError> {
    for connection in policy.connections().iter().filter(|_| gateway) {
        if connection.mode == EspMode::Transport {
            return Err(EngineError::TransportInGateway(connection.name.clone()));
        }
        if let Encapsulation::Udp { local_port, .. } = connection.encapsulation
            && local_port != ravelin_policy::UDP_ENCAPSULATION_PORT
        {
            return Err(EngineError::EncapsulationPort(connection.name.clone()));
        }
    }
    Ok(())
}

/// What the driver checks about a connection's inbound packets.
fn endpoint(connection: &PolicyConnection, slot: usize) -> InboundEndpoint {
    let (encapsulation, local_port, remote_port) = match connection.encapsulation {
        Encapsulation::None => (ravelin_xdp_common::Encapsulation::None, 0, 0),
        Encapsulation::Udp {
            local_port,
            remote_port,
        } => (ravelin_xdp_common::Encapsulation::Udp, local_port, remote_port),
    };
    InboundEndpoint {
        local: to_address(connection.local),
        remote: to_address(connection.remote),
        slot: slot as u32,
        local_port,
        remote_port,
        family: if connection.local.is_ipv4() { 4 } else { 6 },
        encapsulation: encapsulation as u8,
        reserved: [0; 6],
    }
}

/// RFC 8200 section 5 for IPv6; 576 is what every IPv4 host must be able to receive (RFC 1122 section 3.3.2).
fn check_mtu(
    index: usize,
    connection: &Connection,
    outer: &Device,
    policy: &Policy,
) -> Result<(), EngineError> {
    let mtu = connection
        .path_mtu
        .map_or(outer.mtu, |limit| limit.min(outer.mtu));
    let inner = match connection.outbound.set_path_mtu(Some(mtu)) {
        Ok(()) => connection.outbound.inner_mtu().unwrap_or(0),
        Err(_) => 0,
    };
    let carries_v6 = policy.rules().iter().any(|rule| {
        rule.active
            && matches!(rule.action, Action::Protect { connection, .. } if connection == index)
            && policy
                .filters(rule)
                .iter()
                .any(|filter| filter.family() != Some(ravelin_policy::Family::V4))
    });
    let least = if carries_v6 { 1280 } else { 576 };
    if inner >= least {
        return Ok(());
    }
    Err(EngineError::MtuTooSmall {
        connection: connection.name.clone(),
        device: outer.name.clone(),
        mtu,
        inner,
        least,
    })
}

/// Chunks that hold every packet of both devices with what sealing adds.
fn packet_memory(outer: &Device, inner: &Device) -> Result<UmemOptions, EngineError> {
    let ports = PortOptions::default().frames() * 2;
    let sizes = [2048, 4096].map(|frame_size| UmemOptions {
        frame_size,
        frame_count: ports + 1024,
        ..UmemOptions::default()
    });
    let largest = if outer.mtu > inner.mtu { outer } else { inner };
    sizes
        .iter()
        .find(|options| options.fits_mtu(largest.mtu as usize, TAILROOM))
        .cloned()
        .ok_or_else(|| {
            let limit = (68..4096)
                .rev()
                .find(|mtu| sizes[1].fits_mtu(*mtu, TAILROOM))
                .unwrap_or(0);
            EngineError::MtuTooLarge {
                device: largest.name.clone(),
                mtu: largest.mtu,
                limit: limit as u32,
            }
        })
}

fn queues(outer: &Device, inner: &Device) -> Result<u32, EngineError> {
    let (outer_queues, inner_queues) = (queue_count(&outer.name)?, queue_count(&inner.name)?);
    if outer_queues != inner_queues {
        return Err(EngineError::Queues {
            inner: inner.name.clone(),
            inner_queues,
            outer: outer.name.clone(),
            outer_queues,
            least: outer_queues.min(inner_queues),
        });
    }
    if outer_queues > MAX_QUEUES {
        return Err(EngineError::TooManyQueues {
            device: outer.name.clone(),
            queues: outer_queues,
        });
    }
    Ok(outer_queues)
}

fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..nix::sched::CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .collect()
}
