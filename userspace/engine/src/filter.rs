//! The BPF side as user space sees it: loading the object, filling its maps, attaching its programs and reading
//! its counters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd};
use std::path::{Path, PathBuf};

use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, XskMap};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfError, EbpfLoader};
use ravelin_classifier::RuleSet;
use ravelin_xdp_common::line::LINE_SLOTS;
use ravelin_xdp_common::{
    Address, DropReason, Header, HostEdge, InboundEndpoint, Line, OutboundKey, Pass, RULE_SET_FLAGS,
    RuleCounter, TunnelEnds, local_bits, map_names,
};
use ravelin_xsk::MapMemory;
use thiserror::Error;

use crate::address::to_address;
use crate::role::{Edge, Role};
use crate::tunnels::Tunnels;

/// `enum bpf_map_type`, include/uapi/linux/bpf.h.
const BPF_MAP_TYPE_ARRAY: u32 = 2;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("RAVELIN_BPF_OBJECT"));

/// One side of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The wire: ESP.
    Outer,
    /// The clear side.
    Inner,
}

impl Side {
    /// `outer` or `inner`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outer => "outer",
            Self::Inner => "inner",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Outer => map_names::OUTER_PROGRAM,
            Self::Inner => map_names::INNER_PROGRAM,
        }
    }

    const fn sockets(self) -> &'static str {
        match self {
            Self::Outer => map_names::OUTER_SOCKETS,
            Self::Inner => map_names::INNER_SOCKETS,
        }
    }
}

/// What went wrong between user space and the BPF programs.
#[derive(Debug, Error)]
pub enum FilterError {
    /// The object could not be loaded.
    #[error(
        "cannot load the BPF object: {0}. Ravelin needs root (or CAP_BPF and CAP_NET_ADMIN) and a kernel with BTF and XDP"
    )]
    Load(EbpfError),
    /// A program was refused.
    #[error(
        "the kernel refused BPF program `{program}`: {error}. Ravelin needs root (or CAP_BPF and CAP_NET_ADMIN) and Linux 6.6 or newer"
    )]
    Program {
        /// Name in the object.
        program: &'static str,
        /// The kernel's answer, with the verifier's log.
        error: Box<ProgramError>,
    },
    /// A map could not be read or written.
    #[error("BPF map `{map}`: {error}")]
    Map {
        /// Name in the object.
        map: &'static str,
        /// The kernel's answer.
        error: Box<MapError>,
    },
    /// The memory of a rule set could not be mapped.
    #[error("cannot map the memory of a rule set: {0}")]
    Memory(io::Error),
    /// The object lacks a program or map: it is not the one this build wants.
    #[error("the BPF object holds no `{0}`; rebuild with `cargo xtask build-ebpf`")]
    Missing(&'static str),
}

/// The loaded BPF object.
#[derive(Debug)]
pub struct Filter {
    bpf: Ebpf,
    #[cfg(feature = "log")]
    logger: Option<Logger>,
    rule_set: ArrayOfMaps<MapData, Array<MapData, Line>>,
    /// What is in it.
    in_force: Option<InForce>,
    /// An array for the first rule set. The kernel takes ten milliseconds to clear one, in which an engine that takes over would seal nothing.
    spare: Option<MapData>,
    tunnels: Tunnels,
    /// Of this machine.
    own: BTreeSet<Address>,
    /// What `me` stands for in the rules in force.
    spoken_of: BTreeSet<Address>,
}

/// The array of a rule set.
struct InForce(Array<MapData, Line>);

impl fmt::Debug for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InForce")
    }
}

impl Filter {
    /// Loads the object and its programs into the kernel, with counters for `rules` rules. Frames longer than `longest` bytes are no
    /// worker's. Nothing is attached yet, and without a rule set every IP packet would be dropped.
    ///
    /// # Errors
    ///
    /// [`FilterError`] when the kernel refuses the object or a program.
    pub fn load(rules: u32, longest: u32) -> Result<Self, FilterError> {
        Self::load_with(rules, longest, &[])
    }

    /// The same, with maps that are pinned already in place of new ones.
    ///
    /// # Errors
    ///
    /// As [`Filter::load`].
    pub(crate) fn load_with(
        rules: u32,
        longest: u32,
        pins: &[(&'static str, PathBuf)],
    ) -> Result<Self, FilterError> {
        let mut loader = EbpfLoader::new();
        for (name, pin) in pins {
            loader.map_pin_path(name, pin.as_path());
        }
        let mut bpf = loader
            // Nothing in the object depends on the layout of the kernel's own structures, and to read about them takes longer
            // than everything else here but the verifier.
            .btf(None)
            .map_max_entries(map_names::RULES, rules)
            .override_global(map_names::LONGEST_FRAME, &longest, true)
            .load(OBJECT)
            .map_err(FilterError::Load)?;
        for side in [Side::Outer, Side::Inner] {
            let name = side.program();
            xdp(&mut bpf, name)?.load().map_err(program_error(name))?;
        }
        let name = map_names::CLOSED_PROGRAM;
        xdp(&mut bpf, name)?.load().map_err(program_error(name))?;
        let name = map_names::EGRESS_PROGRAM;
        classifier(&mut bpf, name)?.load().map_err(program_error(name))?;
        #[cfg(feature = "log")]
        let logger = Logger::start(&mut bpf);
        let map = bpf
            .take_map(map_names::RULE_SET)
            .ok_or(FilterError::Missing(map_names::RULE_SET))?;
        let rule_set = map.try_into().map_err(map_error(map_names::RULE_SET))?;
        Ok(Self {
            bpf,
            #[cfg(feature = "log")]
            logger,
            rule_set,
            in_force: None,
            spare: Some(rule_array()?),
            tunnels: Tunnels::default(),
            own: BTreeSet::new(),
            spoken_of: BTreeSet::new(),
        })
    }

    /// Loads the programs of host mode as well.
    ///
    /// # Errors
    ///
    /// [`FilterError`] when the kernel refuses one.
    pub fn load_host(&mut self, edge: Edge) -> Result<(), FilterError> {
        let mut classifiers = vec![map_names::HOST_EGRESS_PROGRAM, map_names::EDGE_PROGRAM];
        if edge == Edge::Veth {
            let name = map_names::EDGE_SEAL_PROGRAM;
            self.edge_seal()?.load().map_err(program_error(name))?;
            classifiers.push(map_names::EDGE_EGRESS_PROGRAM);
        }
        classifiers.into_iter().try_for_each(|name| {
            classifier(&mut self.bpf, name)?
                .load()
                .map_err(program_error(name))
        })
    }

    /// Tells the programs of host mode which devices they work between.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub fn set_host_edge(&mut self, edge: &HostEdge) -> Result<(), FilterError> {
        let name = map_names::HOST_EDGE;
        let map = self.bpf.map_mut(name).ok_or(FilterError::Missing(name))?;
        let mut array: Array<_, HostEdge> = Array::try_from(map).map_err(map_error(name))?;
        array.set(0, *edge, 0).map_err(map_error(name))
    }

    /// Puts a rule set in force: every packet sees the old one whole or the new one whole.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`]; the old set stays in force.
    pub fn apply(&mut self, rules: &RuleSet, generation: u32) -> Result<(), FilterError> {
        let name = map_names::RULE_SET;
        let array = match self.spare.take() {
            Some(spare) => spare,
            None => rule_array()?,
        };
        let header = Header {
            generation,
            ..rules.header()
        };
        let first = header.to_line();
        let lines = std::iter::once(&first).chain(&rules.lines()[1..]);
        fill(&array, rules.lines().len(), lines)?;
        let array: Array<MapData, Line> = Map::from_map_data(array)
            .and_then(TryInto::try_into)
            .map_err(map_error(name))?;
        self.rule_set.set(0, &array, 0).map_err(map_error(name))?;
        self.in_force = Some(InForce(array));
        Ok(())
    }

    /// Waits until no program runs any more that began before. The kernel does so whenever an array of maps changes
    /// (`kernel/bpf/syscall.c`, `maybe_wait_bpf_programs`), if only from one map to the same.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub(crate) fn settle(&mut self) -> Result<(), FilterError> {
        let Some(InForce(array)) = &self.in_force else {
            return Ok(());
        };
        let set = self.rule_set.set(0, array, 0);
        set.map_err(map_error(map_names::RULE_SET))
    }

    /// Pins a map.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn pin(&self, name: &'static str, path: &Path) -> io::Result<()> {
        let map = self
            .bpf
            .map(name)
            .ok_or_else(|| io::Error::other(FilterError::Missing(name)))?;
        map.pin(path).map_err(io::Error::other)
    }

    /// Whether the map that is pinned there is this one.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn is_pinned(&self, name: &'static str, path: &Path) -> io::Result<bool> {
        let Some(Map::PerCpuArray(own)) = self.bpf.map(name) else {
            return Ok(false);
        };
        let pinned = MapData::from_pin(path).and_then(|pinned| pinned.info());
        let (own, pinned) = (own.info(), pinned.map_err(io::Error::other)?);
        Ok(own.map_err(io::Error::other)?.id() == pinned.id())
    }

    /// Announces an inbound SA to the driver.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`], for instance when the map is full.
    pub fn add_inbound(&mut self, spi: u32, endpoint: &InboundEndpoint) -> Result<(), FilterError> {
        let name = map_names::INBOUND;
        let map = self.bpf.map_mut(name).ok_or(FilterError::Missing(name))?;
        let mut inbound: HashMap<_, u32, InboundEndpoint> =
            HashMap::try_from(map).map_err(map_error(name))?;
        inbound.insert(spi, endpoint, 0).map_err(map_error(name))?;
        if let Some(ends) = endpoint.tunnel().and_then(|ends| self.tunnels.add(spi, ends)) {
            let name = map_names::TUNNELS;
            self.tunnel_map()?.insert(ends, 1, 0).map_err(map_error(name))?;
        }
        Ok(())
    }

    /// Takes an inbound SA back. That it is not there is no error.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub fn remove_inbound(&mut self, spi: u32) -> Result<(), FilterError> {
        let name = map_names::INBOUND;
        let map = self.bpf.map_mut(name).ok_or(FilterError::Missing(name))?;
        let mut inbound: HashMap<_, u32, InboundEndpoint> =
            HashMap::try_from(map).map_err(map_error(name))?;
        match inbound.remove(&spi) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(map_error(name)(error)),
        }
        if let Some(ends) = self.tunnels.remove(spi) {
            let name = map_names::TUNNELS;
            match self.tunnel_map()?.remove(&ends) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(map_error(name)(error)),
            }
        }
        Ok(())
    }

    /// Tells the driver by what it knows the outbound packets of a pair of SAs when routers quote them.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub fn add_quoted(&mut self, key: &OutboundKey, pair: u32) -> Result<(), FilterError> {
        let name = map_names::OUTBOUND;
        self.outbound_map()?.insert(key, pair, 0).map_err(map_error(name))
    }

    /// Takes that back, unless another pair has the key now.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub fn remove_quoted(&mut self, key: &OutboundKey, pair: u32) -> Result<(), FilterError> {
        let name = map_names::OUTBOUND;
        let mut map = self.outbound_map()?;
        match map.get(key, 0) {
            Ok(present) if present == pair => map.remove(key).map_err(map_error(name)),
            Ok(_) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(map_error(name)(error)),
        }
    }

    fn outbound_map(&mut self) -> Result<HashMap<&mut MapData, OutboundKey, u32>, FilterError> {
        let name = map_names::OUTBOUND;
        let map = self.bpf.map_mut(name).ok_or(FilterError::Missing(name))?;
        HashMap::try_from(map).map_err(map_error(name))
    }

    fn tunnel_map(&mut self) -> Result<HashMap<&mut MapData, TunnelEnds, u32>, FilterError> {
        let name = map_names::TUNNELS;
        let map = self.bpf.map_mut(name).ok_or(FilterError::Missing(name))?;
        HashMap::try_from(map).map_err(map_error(name))
    }

    /// Makes the set of this machine's own addresses exactly `addresses`. The rules in force speak of those of them that
    /// [`set_spoken_of`](Self::set_spoken_of) named last.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), FilterError> {
        self.own = addresses.iter().copied().map(to_address).collect();
        self.write_local()
    }

    /// Names the addresses that `me` stands for in the rules in force. What the machine sends from others of its own, and no rule
    /// blocks or protects, is dropped as [`DropReason::AddressUnknown`] where rules with `me` block or protect.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub fn set_spoken_of(&mut self, addresses: &[IpAddr]) -> Result<(), FilterError> {
        let spoken_of: BTreeSet<Address> = addresses.iter().copied().map(to_address).collect();
        if spoken_of == self.spoken_of {
            return Ok(());
        }
        self.spoken_of = spoken_of;
        // Before `set_local` the map is as an engine before this one left it, and packets go by that.
        if self.own.is_empty() {
            return Ok(());
        }
        self.write_local()
    }

    fn write_local(&mut self) -> Result<(), FilterError> {
        let name = map_names::LOCAL;
        let map = self.bpf.map_mut(name).ok_or(FilterError::Missing(name))?;
        let mut local: HashMap<_, Address, u32> = HashMap::try_from(map).map_err(map_error(name))?;
        let present: BTreeMap<Address, u32> =
            local.iter().collect::<Result<_, _>>().map_err(map_error(name))?;
        for gone in present.keys().filter(|address| !self.own.contains(*address)) {
            local.remove(gone).map_err(map_error(name))?;
        }
        for address in &self.own {
            let bits = match self.spoken_of.contains(address) {
                true => local_bits::OWN | local_bits::SPOKEN_OF,
                false => local_bits::OWN,
            };
            if present.get(address) != Some(&bits) {
                local.insert(address, bits, 0).map_err(map_error(name))?;
            }
        }
        Ok(())
    }

    /// Lets packets of a queue go to a worker's socket. The kernel empties the slot when the socket closes.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub fn set_socket(&mut self, side: Side, queue: u32, socket: &impl AsRawFd) -> Result<(), FilterError> {
        let name = side.sockets();
        let map = self.bpf.map_mut(name).ok_or(FilterError::Missing(name))?;
        let mut sockets: XskMap<_> = XskMap::try_from(map).map_err(map_error(name))?;
        sockets.set(queue, socket.as_raw_fd(), 0).map_err(map_error(name))
    }

    /// The XDP program of a side, to attach it or to run it on a test packet.
    ///
    /// # Errors
    ///
    /// [`FilterError::Missing`].
    pub fn xdp(&mut self, side: Side) -> Result<&mut Xdp, FilterError> {
        xdp(&mut self.bpf, side.program())
    }

    /// The XDP program that drops everything.
    ///
    /// # Errors
    ///
    /// [`FilterError::Missing`].
    pub fn closed(&mut self) -> Result<&mut Xdp, FilterError> {
        xdp(&mut self.bpf, map_names::CLOSED_PROGRAM)
    }

    /// The tcx egress program of the outer device.
    ///
    /// # Errors
    ///
    /// [`FilterError::Missing`].
    pub fn egress(&mut self, role: Role) -> Result<&mut SchedClassifier, FilterError> {
        let name = match role {
            Role::Filter | Role::Gateway => map_names::EGRESS_PROGRAM,
            Role::Host => map_names::HOST_EGRESS_PROGRAM,
        };
        classifier(&mut self.bpf, name)
    }

    /// The tcx ingress program of the host edge.
    ///
    /// # Errors
    ///
    /// [`FilterError::Missing`].
    pub fn edge(&mut self) -> Result<&mut SchedClassifier, FilterError> {
        classifier(&mut self.bpf, map_names::EDGE_PROGRAM)
    }

    /// The XDP program of the workers' end of a veth edge.
    ///
    /// # Errors
    ///
    /// [`FilterError::Missing`].
    pub fn edge_seal(&mut self) -> Result<&mut Xdp, FilterError> {
        xdp(&mut self.bpf, map_names::EDGE_SEAL_PROGRAM)
    }

    /// The tcx egress program of that end.
    ///
    /// # Errors
    ///
    /// [`FilterError::Missing`].
    pub fn edge_egress(&mut self) -> Result<&mut SchedClassifier, FilterError> {
        classifier(&mut self.bpf, map_names::EDGE_EGRESS_PROGRAM)
    }

    /// The whole object: for benches, which bring programs of their own.
    #[doc(hidden)]
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.bpf
    }

    /// Packets dropped at the driver, by [`DropReason`].
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub fn drops(&self) -> Result<Vec<u64>, FilterError> {
        self.sums(map_names::DROPS, DropReason::COUNT)
    }

    /// Packets that an audit spared, by the [`DropReason`] that they would have had.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub fn audited(&self) -> Result<Vec<u64>, FilterError> {
        self.sums(map_names::AUDITED, DropReason::COUNT)
    }

    /// Packets left to the kernel, by [`Pass`].
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub fn passes(&self) -> Result<Vec<u64>, FilterError> {
        self.sums(map_names::PASSES, Pass::ALL.len())
    }

    /// What the rules in these slots have seen.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub fn rules(&self, slots: impl IntoIterator<Item = u32>) -> Result<Vec<RuleCounter>, FilterError> {
        let name = map_names::RULES;
        let map = self.bpf.map(name).ok_or(FilterError::Missing(name))?;
        let counters: PerCpuArray<_, RuleCounter> = PerCpuArray::try_from(map).map_err(map_error(name))?;
        slots
            .into_iter()
            .map(|slot| {
                let values = counters.get(&slot, 0).map_err(map_error(name))?;
                Ok(values
                    .iter()
                    .fold(RuleCounter::default(), |sum, one| RuleCounter {
                        packets: sum.packets + one.packets,
                        bytes: sum.bytes + one.bytes,
                    }))
            })
            .collect()
    }

    /// Lets the next rule in a slot count from zero. Not while packets may still be counted for the old one.
    ///
    /// # Errors
    ///
    /// [`FilterError::Map`].
    pub fn reset_rule(&mut self, slot: u32) -> Result<(), FilterError> {
        let name = map_names::RULES;
        let map = self.bpf.map_mut(name).ok_or(FilterError::Missing(name))?;
        let mut counters: PerCpuArray<_, RuleCounter> =
            PerCpuArray::try_from(map).map_err(map_error(name))?;
        let failed = |error: io::Error| map_error(name)(MapError::IoError(error));
        let cpus = nr_cpus().map_err(|(_, error)| failed(error))?;
        let zeros = PerCpuValues::try_from(vec![RuleCounter::default(); cpus]).map_err(failed)?;
        counters.set(slot, zeros, 0).map_err(map_error(name))
    }

    /// Hands on what the programs have logged since the last call.
    #[cfg(feature = "log")]
    pub fn flush_log(&mut self) {
        if let Some(Logger(logger)) = &mut self.logger {
            logger.flush();
        }
    }

    fn sums(&self, name: &'static str, count: usize) -> Result<Vec<u64>, FilterError> {
        let map = self.bpf.map(name).ok_or(FilterError::Missing(name))?;
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map).map_err(map_error(name))?;
        (0u32..)
            .take(count)
            .map(|index| Ok(counters.get(&index, 0).map_err(map_error(name))?.iter().sum()))
            .collect()
    }
}

/// Writes lines into an array that no program knows yet.
fn fill<'l>(array: &MapData, count: usize, lines: impl Iterator<Item = &'l Line>) -> Result<(), FilterError> {
    let size = count * size_of::<Line>();
    let mut memory = MapMemory::of(array.fd().as_fd(), size).map_err(FilterError::Memory)?;
    for (line, bytes) in lines.zip(memory.bytes_mut().chunks_exact_mut(size_of::<Line>())) {
        for (word, bytes) in line.0.iter().zip(bytes.chunks_exact_mut(size_of::<u32>())) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
    }
    Ok(())
}

fn xdp<'a>(bpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, FilterError> {
    let program = bpf.program_mut(name).ok_or(FilterError::Missing(name))?;
    program.try_into().map_err(program_error(name))
}

fn classifier<'a>(bpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, FilterError> {
    let program = bpf.program_mut(name).ok_or(FilterError::Missing(name))?;
    program.try_into().map_err(program_error(name))
}

pub(crate) fn program_error(program: &'static str) -> impl Fn(ProgramError) -> FilterError {
    move |error| FilterError::Program {
        program,
        error: Box::new(error),
    }
}

/// An array for the lines of a rule set.
fn rule_array() -> Result<MapData, FilterError> {
    let array = aya_obj::Map::new_from_params(
        BPF_MAP_TYPE_ARRAY,
        size_of::<u32>() as u32,
        size_of::<Line>() as u32,
        LINE_SLOTS as u32,
        RULE_SET_FLAGS,
    );
    MapData::create(array, "ravelin_rules", None).map_err(map_error(map_names::RULE_SET))
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> FilterError {
    move |error| FilterError::Map {
        map,
        error: Box::new(error),
    }
}

/// The programs' log.
#[cfg(feature = "log")]
struct Logger(aya_log::EbpfLogger<&'static dyn log::Log>);

#[cfg(feature = "log")]
impl Logger {
    /// `None`, and a word about it, if the programs were built without logging.
    fn start(bpf: &mut Ebpf) -> Option<Self> {
        match aya_log::EbpfLogger::init(bpf) {
            Ok(logger) => Some(Self(logger)),
            Err(error) => {
                log::warn!(
                    "the BPF programs do not log ({error}); build them with `cargo xtask build-ebpf --log`"
                );
                None
            }
        }
    }
}

#[cfg(feature = "log")]
impl std::fmt::Debug for Logger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logger")
    }
}
