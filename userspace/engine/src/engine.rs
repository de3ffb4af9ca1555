//! The engine as a whole: started from a policy, stopped by a signal.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use ravelin_classifier::{RuleSet, compile};
use ravelin_esp::Provider;
use ravelin_keying::{KeyingError, StateFolder, StaticConnection, StaticKeys};
use ravelin_policy::{Action, Policy};
use ravelin_xsk::{BusyPoll, PortOptions};

use crate::address::to_address;
use crate::attach::{Attachments, Mode};
use crate::connection::{Connection, inbound_endpoint};
use crate::control::Control;
use crate::device::Device;
use crate::error::EngineError;
use crate::filter::{Filter, Side};
use crate::forwarder::Shared;
use crate::preflight::{allowed_cpus, check_connections, check_mtu, devices, packet_memory, queues};
use crate::resolver::{News, Resolver};
use crate::status::InterfaceStatus;
use crate::worker::{Worker, WorkerError, WorkerOptions};

/// How often the engine looks after sequence numbers, workers and addresses.
const TICK: Duration = Duration::from_millis(100);

/// How often the highest sequence numbers received go to disk. After a crash packets of this long can be replayed once.
const RECORD: Duration = Duration::from_secs(1);

/// How long workers look for packets before they sleep.
const SPIN: Duration = Duration::from_micros(50);

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

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    // Dropped in this order: first the programs (where they are not kept), then what serves them.
    attachments: Option<Attachments>,
    pub(crate) workers: Vec<Worker>,
    resolver: Resolver,
    news: Receiver<News>,
    pub(crate) filter: RefCell<Filter>,
    pub(crate) keys: RefCell<Vec<StaticConnection>>,
    pub(crate) shared: Option<Arc<Shared>>,
    pub(crate) rule_names: Vec<String>,
    pub(crate) interfaces: BTreeMap<String, InterfaceStatus>,
    pub(crate) generation: u32,
    pub(crate) started: Instant,
    pub(crate) instance: String,
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
        let (outer, inner) = devices(&options.outer, options.inner.as_deref())?;
        check_connections(policy, inner.is_some())?;

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
                &inbound_endpoint(connection, one.connection()),
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
}
