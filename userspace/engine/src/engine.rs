//! The engine as a whole: started from a policy, stopped by a signal.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use ravelin_esp::Provider;
use ravelin_keying::KeyingErrors;
use ravelin_policy::{Action, Policy, Surroundings};
use ravelin_xsk::{BusyPoll, PortOptions, UmemOptions};
use tokio::sync::mpsc;

use crate::arrivals::Arrivals;
use crate::attach::{AttachError, Attachments, Mode, filters_egress};
use crate::change::{Job, Work};
use crate::client::fetch_comes;
use crate::control::Control;
use crate::crypto_pool::CryptoPool;
use crate::delete::Deletion;
use crate::detour::detours;
use crate::device::Device;
use crate::enforcement::{Enforcement, Means};
use crate::error::EngineError;
use crate::filter::{Filter, FilterError, Side};
use crate::follow::Renewal;
use crate::held::{Comes, Held};
use crate::host::Host;
use crate::installed::names;
use crate::ledger::Ledger;
use crate::order::Order;
use crate::pair::Pair;
use crate::peers::Peers;
use crate::policy_file::PolicyFile;
use crate::preflight::{
    allowed_cpus, devices, host_queues, longest_frame, longest_mtu, packet_memory, queues,
};
use crate::prepare::{ApplyError, Prepared};
use crate::pulse::Pulse;
use crate::reading::Reading;
use crate::resolver::{News, Resolver};
use crate::role::{Edge, Role};
use crate::schedule::Schedule;
use crate::session::Session;
use crate::session_record::SessionRecord;
use crate::standing::strands_none;
use crate::status::InterfaceStatus;
use crate::supervisor::Supervisor;
use crate::watch::Watch;
use crate::worker::{AfXdp, ClearSide, Worker, WorkerOptions};

/// How long workers look for packets before they sleep.
const SPIN: Duration = Duration::from_micros(50);

/// Fewest rule counters that are made, unless told otherwise.
const LEAST_RULES: u32 = 65_536;

/// How an engine is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The device of the wire.
    pub outer: String,
    /// The device of the clear side, of a gateway.
    pub inner: Option<String>,
    /// What the engine is for.
    pub role: Role,
    /// How a host's own packets get to the workers.
    pub edge: Edge,
    /// Names pins and state, so that several engines can run on one machine.
    pub instance: String,
    /// The control socket.
    pub control: PathBuf,
    /// The folder of sequence marks.
    pub state: PathBuf,
    /// How XDP programs run.
    pub mode: Mode,
    /// Who speaks AF_XDP to the kernel.
    pub af_xdp: AfXdp,
    /// Workers never sleep.
    pub busy_poll: bool,
    /// Threads for each worker that share its encryption and decryption.
    pub crypto_threads: usize,
    /// AEAD implementation; `None` takes the fastest.
    pub provider: Option<Provider>,
    /// How often names are looked up again.
    pub resolve_interval: Duration,
    /// Counters for so many rules; `None` takes twice as many as the first policy has, and at least 65,536.
    pub max_rules: Option<u32>,
    /// The SSH connection that the engine was started from.
    pub session: Option<Session>,
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    // Dropped in this order: first the programs (where they are not kept), then what serves them.
    pub(crate) attachments: Option<Attachments>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) host: Option<Host>,
    pub(crate) resolver: Resolver,
    pub(crate) news: Receiver<News>,
    pub(crate) enforcement: Enforcement,
    pub(crate) watch: Watch,
    pub(crate) interfaces: BTreeMap<String, InterfaceStatus>,
    pub(crate) started: Instant,
    pub(crate) instance: String,
    pub(crate) warnings: Vec<String>,
    pub(crate) orders: mpsc::Receiver<Order>,
    /// What clients and signals want, in turn.
    pub(crate) queue: VecDeque<Work>,
    pub(crate) job: Option<Job>,
    /// SAs that workers may still have, and who waits until they have not.
    pub(crate) deletions: Vec<Deletion>,
    /// Policies that nobody waits for any more, while threads still do: their files do not answer.
    pub(crate) stalled: Vec<(PathBuf, Reading)>,
    pub(crate) renewal: Option<Renewal>,
    pub(crate) schedule: Schedule,
    pub(crate) peers: Peers,
    /// For the session that has a lifeline.
    pub(crate) arrivals: Option<Arrivals>,
    pub(crate) session_record: SessionRecord,
    /// The surroundings have changed since the policy in force was resolved.
    pub(crate) moved: bool,
    pub(crate) last_error: Option<String>,
    /// Somebody has said that the filter stays when this ends.
    pub(crate) keeps_filter: bool,
    /// Why programs are not pinned that should be, once that was said.
    pub(crate) unpinned: Option<String>,
    /// Why a device could not be given its program anew, once that was said.
    pub(crate) unfiltered: Option<String>,
    pub(crate) pulse: Pulse,
    pub(crate) supervisor: Supervisor,
    /// With the control socket, which is served in it.
    pub(crate) runtime: Option<tokio::runtime::Runtime>,
}

impl Engine {
    /// Starts everything: after this the policy is in force. On an error nothing is attached that was not before.
    ///
    /// `take_over` is called when all is done that can be while another engine of the instance runs, which has to have ended when
    /// it returns. What fails before that, a wrong policy or a refused program, leaves the other one alone.
    ///
    /// # Errors
    ///
    /// [`EngineError`], which says what to do.
    pub fn start(
        file: PolicyFile,
        options: &Options,
        take_over: impl FnOnce() -> io::Result<()>,
    ) -> Result<Self, EngineError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(EngineError::System)?;
        let role = options.role;
        match (role, &options.inner) {
            (Role::Host, Some(inner)) => return Err(EngineError::InnerInHost(inner.clone())),
            (Role::Gateway, None) => return Err(EngineError::NoInner),
            (Role::Host, None) if options.mode == Mode::Generic => {
                return Err(EngineError::GenericInHost(options.outer.clone()));
            }
            _ => {}
        }
        let inner = options.inner.as_deref().filter(|_| role == Role::Gateway);
        let (outer, inner) = devices(&options.outer, inner)?;
        let served: Vec<u32> = [Some(&outer), inner.as_ref()]
            .into_iter()
            .flatten()
            .map(|device| device.index)
            .collect();
        strands_none(&options.instance, &served)?;
        // Without workers packets of any length pass.
        let umem = (role.seals())
            .then(|| packet_memory(&outer, inner.as_ref().unwrap_or(&outer)))
            .transpose()?;
        let longest = umem.as_ref().map(|umem| (longest_mtu(umem), longest_frame(umem)));
        let (longest_mtu, longest_frame) = longest.unwrap_or((u32::MAX, u32::MAX));
        let (sender, news) = unbounded();
        let resolver =
            Resolver::start(&outer, inner.as_ref(), longest_mtu, sender).map_err(EngineError::Netlink)?;
        // The resolver has said them before it started.
        let own = match news.try_recv() {
            Ok(News::Addresses(own)) => own,
            _ => Vec::new(),
        };
        let session_record = SessionRecord::new(options.state.clone());
        let (session, strange) = first_session(options, &own, &outer, session_record.read())?;
        let surroundings = Surroundings {
            own,
            outer: Some(outer.name.clone()),
            ..Surroundings::default()
        };
        let mut prepared = Prepared::new(file, surroundings, session, role, &Reading::default())?;
        let session_note = prepared.hold.as_ref().map(|hold| hold.note.clone());
        let mut warnings = std::mem::take(&mut prepared.warnings);
        warnings.extend(strange);
        if !role.seals() && protects(&prepared.policy) {
            warnings.push(
                "no inner device, and not host mode: nothing is encrypted; clear packets that must be protected are dropped in both \
                 directions"
                    .to_owned(),
            );
        }

        let max_rules = options.max_rules.unwrap_or_else(|| room_for(&prepared.policy));
        let rules = prepared.policy.rules().len();
        if rules > max_rules as usize {
            return Err(EngineError::MaxRules { rules, max_rules });
        }
        let load = |left: &[_]| {
            let mut filter = Filter::load_with(max_rules, longest_frame, left)?;
            if role == Role::Host {
                filter.load_host(options.edge)?;
            }
            Ok::<_, FilterError>(filter)
        };
        let left = || Ledger::left(&options.instance, max_rules, names(&prepared.policy));
        let maps = left();
        let mut filter = load(&maps)?;
        // Its trial takes some milliseconds, in which nothing need wait.
        let provider = options.provider.unwrap_or_else(Provider::preferred);
        if role.seals() {
            // As many questions as there are connections: asked while the engine before still serves.
            let detours = detours(&prepared.policy, &outer, role);
            warnings.extend(detours.map_err(EngineError::Netlink)?);
        }
        take_over().map_err(EngineError::TakeOver)?;
        // Before anything is touched that an engine of the same name may use: this keeps it to one.
        let attachments = Attachments::open(&options.instance)?;
        // Another one may have come and gone meanwhile. From now on none does.
        strands_none(&options.instance, &served)?;
        // What a killed engine has left, whatever this one has for an edge. Nothing goes through it any more.
        if let Err(error) = Pair::remove_leftovers(&options.instance) {
            warnings.push(format!(
                "the host edge that was left behind could not be removed: {error}"
            ));
        }
        // The engine before may have been given so many rules meanwhile that those of this one find no room beside them.
        if !maps.is_empty() && left().is_empty() {
            filter = load(&[])?;
        }
        let ledger = Ledger::open(&options.instance, max_rules, &filter)
            .map_err(|error| counters(&options.instance, error))?;
        let control = {
            let _guard = runtime.enter();
            Control::listen(&options.control)?
        };
        let means = Means {
            filter,
            ledger,
            state: options.state.clone(),
            instance: options.instance.clone(),
            provider,
            adjacencies: Arc::clone(resolver.adjacencies()),
            outer: outer.name.clone(),
            role,
        };
        let watch = Watch::new(
            prepared.surroundings.clone(),
            prepared.session.clone(),
            options.resolve_interval,
        );
        let mut enforcement = Enforcement::start(means, prepared)?;
        enforcement.filter.set_local(&watch.surroundings.own)?;
        warnings.extend(enforcement.strangers(&watch.surroundings.own));
        let (sender, orders) = mpsc::channel(1);
        runtime.spawn(control.serve(sender));
        let mut engine = Self {
            attachments: None,
            host: None,
            workers: Vec::new(),
            resolver,
            news,
            enforcement,
            watch,
            interfaces: BTreeMap::new(),
            started: Instant::now(),
            instance: options.instance.clone(),
            warnings,
            orders,
            queue: VecDeque::new(),
            job: None,
            deletions: Vec::new(),
            stalled: Vec::new(),
            renewal: None,
            schedule: Schedule::new(Instant::now()),
            peers: Peers::default(),
            arrivals: None,
            session_record,
            moved: false,
            last_error: None,
            keeps_filter: false,
            unpinned: None,
            unfiltered: None,
            pulse: Pulse::default(),
            supervisor: Supervisor::new(),
            runtime: Some(runtime),
        };
        match (umem, &inner) {
            (Some(umem), Some(inner)) => engine.start_workers(options, (&outer, inner), &umem)?,
            (Some(umem), None) => engine.start_host(options, &outer, &umem)?,
            (None, _) => {}
        }
        // Some time has passed since keys were looked for, and none was used.
        engine
            .give_up_shared_keys()
            .map_err(|error| ApplyError::from(KeyingErrors::from(error)))?;
        engine.attach(options, attachments, &outer, inner.as_ref())?;
        engine.record_session();
        if let Some(note) = session_note {
            eprintln!("ravelin: {note}");
        }
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
            .map(|(side, interface)| match side.as_str() {
                "edge" => format!("edge {}", interface.name),
                _ => format!("{side} {} ({} XDP)", interface.name, interface.xdp),
            })
            .collect();
        format!(
            "{}; {} rules, {} connections, {} workers",
            devices.join(", "),
            self.enforcement.current().policy.rules().len(),
            self.enforcement.current().connections.len(),
            self.workers.len()
        )
    }

    /// Whether a client has said that the filter stays, whatever the engine was told when it started: another engine goes on with it, or
    /// its operator wants it closed.
    #[must_use]
    pub fn keeps_filter(&self) -> bool {
        self.keeps_filter
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

    fn start_workers(
        &mut self,
        options: &Options,
        (outer, inner): (&Device, &Device),
        umem: &UmemOptions,
    ) -> Result<(), EngineError> {
        let queues = queues(outer, inner)?;
        let cpus = allowed_cpus();
        for queue in 0..queues {
            let inner = ClearSide::Device(inner.name.clone());
            self.start_worker(options, (queue, &cpus), (outer, inner), umem)?;
        }
        if inner.veth {
            self.warnings.push(format!(
                "device {} is a veth: checksums of TCP and UDP that its other end leaves to it are completed; if local \
                 senders use SCTP, VXLAN, GRE or IP in IP, run `ethtool -K DEVICE tx off` on the other end",
                inner.name
            ));
        }
        Ok(())
    }

    /// The edge, with a worker for each queue of the outer device.
    fn start_host(
        &mut self,
        options: &Options,
        outer: &Device,
        umem: &UmemOptions,
    ) -> Result<(), EngineError> {
        let (host, queues) = Host::open(options.edge, outer, host_queues(outer)?, &options.instance)?;
        host.announce(&mut self.enforcement.filter)?;
        self.host = Some(host);
        let cpus = allowed_cpus();
        for (queue, inner) in (0..).zip(queues) {
            self.start_worker(options, (queue, &cpus), (outer, inner), umem)?;
        }
        Ok(())
    }

    fn start_worker(
        &mut self,
        options: &Options,
        (queue, cpus): (u32, &[usize]),
        (outer, inner): (&Device, ClearSide),
        umem: &UmemOptions,
    ) -> Result<(), EngineError> {
        let cpu = cpus.get(queue as usize % cpus.len().max(1)).copied();
        let crypto_cpus = crypto_cpus(options.crypto_threads, queue as usize, cpu, cpus);
        if crypto_cpus.len() < options.crypto_threads && queue == 0 {
            self.warnings
                .push("there is one CPU only, and no use in crypto threads: none are started".to_owned());
        }
        if options.af_xdp != AfXdp::Rings && queue == 0 {
            self.warnings
                .push("AF_XDP by xsk-rs, for comparison: packets are moved before they are sent".to_owned());
        }
        let options = WorkerOptions {
            queue,
            cpu,
            inner,
            outer: outer.name.clone(),
            umem: UmemOptions {
                frame_count: umem.frame_count + CryptoPool::frames(crypto_cpus.len()) as u32,
                ..umem.clone()
            },
            port: PortOptions {
                busy_poll: options.busy_poll.then_some(BusyPoll {
                    microseconds: 20,
                    budget: 64,
                }),
                ..PortOptions::default()
            },
            af_xdp: options.af_xdp,
            spin: if options.busy_poll { Duration::MAX } else { SPIN },
            crypto_cpus,
        };
        let counters = self.enforcement.ledger.worker(queue);
        let counters = counters.map_err(|error| self::counters(&self.instance, error))?;
        let mut worker = Worker::start(options, Arc::clone(self.enforcement.shared()), counters)?;
        if let Some(sockets) = worker.take_sockets() {
            let filter = &mut self.enforcement.filter;
            if let Some(inner) = &sockets.inner {
                filter.set_socket(Side::Inner, queue, inner)?;
            }
            filter.set_socket(Side::Outer, queue, &sockets.outer)?;
        }
        self.workers.push(worker);
        Ok(())
    }

    fn attach(
        &mut self,
        options: &Options,
        mut attachments: Attachments,
        outer: &Device,
        inner: Option<&Device>,
    ) -> Result<(), EngineError> {
        self.enforcement.ledger.keep();
        let filter = &mut self.enforcement.filter;
        if let Some(host) = &self.host {
            attachments.edge(filter, host.name(), host.workers_end())?;
            let status = InterfaceStatus {
                name: host.name().to_owned(),
                index: host.index(),
                xdp: "none".to_owned(),
                trouble: None,
            };
            self.interfaces.insert("edge".to_owned(), status);
        }
        attachments.egress(filter, options.role, outer)?;
        for (side, device) in [(Side::Outer, Some(outer)), (Side::Inner, inner)] {
            let Some(device) = device else { continue };
            let mode = match (options.role, options.mode) {
                (Role::Host, _) => attachments.xdp(filter, side, device, Mode::Native),
                (_, mode) => attachments.xdp(filter, side, device, mode),
            };
            let mode = mode.map_err(|error| match error {
                AttachError::NoNativeXdp { device } if options.role == Role::Host => {
                    EngineError::GenericInHost(device)
                }
                error => error.into(),
            })?;
            let status = InterfaceStatus {
                name: device.name.clone(),
                index: device.index,
                xdp: match mode {
                    Mode::Native => "native".to_owned(),
                    Mode::Generic => "generic".to_owned(),
                    Mode::Auto => "adopted".to_owned(),
                },
                trouble: None,
            };
            self.interfaces.insert(side.name().to_owned(), status);
        }
        attachments.keep();
        // The programs are in force, and somebody may have taken their pins away meanwhile: whatever goes wrong from here on, an engine
        // that ended would open the filter.
        if let Err(error) = attachments.sweep() {
            self.warnings.push(error.to_string());
        }
        self.attachments = Some(attachments);
        let unserved = self.enforcement.ledger.resume(filter).unwrap_or_else(|error| {
            self.warnings.push(counters(&self.instance, error).to_string());
            Vec::new()
        });
        if !unserved.is_empty() {
            let counts = unserved.iter();
            let counts: Vec<String> = counts
                .map(|(reason, count)| format!("{} {count}", reason.name()))
                .collect();
            self.warnings.push(format!(
                "packets were dropped while no engine served: {}",
                counts.join(", ")
            ));
        }
        Ok(())
    }
}

fn counters(instance: &str, error: io::Error) -> EngineError {
    EngineError::Counters {
        instance: instance.to_owned(),
        error,
    }
}

/// The session that is to have a lifeline: that of whoever starts the engine, or the one that an engine before has left (`recorded`). And a
/// warning about one that gets none.
fn first_session(
    options: &Options,
    own: &[IpAddr],
    outer: &Device,
    recorded: Option<Held>,
) -> Result<(Option<Held>, Option<String>), AttachError> {
    let stands = filters_egress(&options.instance, outer)?;
    // Who has taken the filter away wants no lifeline for the rest of a session either.
    let recorded = recorded.filter(|held| stands && matches!(held.session.admit(own), Ok(Some(_))));
    let (asking, strange) = match options.session.map(|session| session.admit(own)) {
        Some(Ok(asking)) => (asking, None),
        Some(Err(error)) => (None, Some(error.to_string())),
        None => (None, None),
    };
    let Some(asking) = asking else {
        return Ok((recorded, strange));
    };
    // Without a filter it cannot be protected.
    let comes = match options.role {
        Role::Host if stands => {
            let recorded = recorded.filter(|held| held.management() == asking);
            // An engine that is to be replaced knows by its rules, even of a session that it does not hold.
            fetch_comes(&options.control, asking.into())
                .ok()
                .or(recorded.map(|held| held.comes))
                .unwrap_or(Comes::Unknown)
        }
        _ => Comes::Clear,
    };
    Ok((Some(Held::new(asking, comes)), strange))
}

/// Twice the rules of the policy, so that it can be replaced by another of its size under other names.
fn room_for(policy: &Policy) -> u32 {
    let wanted = policy.rules().len().saturating_mul(2).next_power_of_two();
    u32::try_from(wanted).unwrap_or(u32::MAX).max(LEAST_RULES)
}

/// The CPU for each of a worker's crypto threads, if they can be pinned: from the last one on, since workers have the first ones.
/// Never the worker's own, where a thread would only be in its way; so with one CPU there are none.
fn crypto_cpus(threads: usize, queue: usize, worker: Option<usize>, cpus: &[usize]) -> Vec<Option<usize>> {
    let others: Vec<usize> = cpus.iter().copied().filter(|cpu| Some(*cpu) != worker).collect();
    if others.is_empty() {
        return vec![None; if worker.is_none() { threads } else { 0 }];
    }
    let from_last = others.iter().rev().cycle().skip(queue * threads % others.len());
    from_last.take(threads).copied().map(Some).collect()
}

fn protects(policy: &Policy) -> bool {
    policy
        .rules()
        .iter()
        .any(|rule| rule.active && matches!(rule.action, Action::Protect { .. }))
}
