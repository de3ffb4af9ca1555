//! The resolver: a thread that answers workers' questions about destinations from the kernel's own routing and
//! neighbour tables, and follows every change.
//!
//! It never reimplements routing. Each destination is looked up with `RTM_GETROUTE`, for ESP from the address that it leaves with, so that
//! policy routing and metrics mean what they mean to the kernel; the link-layer address comes from the kernel's neighbour table;
//! an entry that is not there is asked for with `NTF_USE`, which makes the kernel send the ARP request or neighbour
//! solicitation. Routes are looked up again after every announced change of routes, of the rules that choose between
//! tables, and of devices: those of IPv4 go with their device, and nobody announces that.
//!
//! Permanent entries are the administrator's word and need no confirmation. They must not be asked for either: since
//! Linux 5.16 `NTF_USE` takes the mark off an entry that has it, and the neighbour's own answer then replaces the
//! address that was written down.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ravelin_xdp_common::DropReason;

use crate::adjacency::{Adjacencies, Hop, Port, Question, Snapshot};
use crate::confinement::{RESOLVER, keep_only};
use crate::device::{Device, Mac};
use crate::filter::Side;
use crate::netlink::{Announcements, Questions};
use crate::route::Route;

/// Destinations kept; beyond it the table starts anew, so that a scan cannot fill the memory.
const MOST_DESTINATIONS: usize = 65_536;

/// How often entries in use are confirmed and unresolved ones asked for again. Packets that workers send do not
/// tell the kernel that a neighbour is alive, as its own do.
const CONFIRM: Duration = Duration::from_secs(1);

/// How long changes of routes may gather before everything is looked up again: a routing daemon announces thousands.
const SETTLE: Duration = Duration::from_millis(50);

/// What the resolver tells the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// This machine's own addresses, all of them.
    Addresses(Vec<IpAddr>),
    /// A default route has come, changed or gone.
    DefaultRoute,
}

/// A running resolver; stops when dropped.
#[derive(Debug)]
pub struct Resolver {
    adjacencies: Arc<Adjacencies>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// Reads the kernel's tables once, then starts the thread. `inner` is `None` when there is no clear side. Workers hear of no MTU
    /// above `longest_mtu` bytes.
    ///
    /// # Errors
    ///
    /// When netlink cannot be opened or read.
    pub fn start(
        outer: &Device,
        inner: Option<&Device>,
        longest_mtu: u32,
        news: Sender<News>,
    ) -> io::Result<Self> {
        let mut table = Table::read(outer.clone(), inner.cloned(), longest_mtu)?;
        (table.readdressed, table.rerouted) = (false, false);
        table.told = table.own_addresses();
        let first = table.snapshot();
        let (adjacencies, questions) = Adjacencies::new(first)?;
        let stop = Arc::new(AtomicBool::new(false));
        // The receiver exists as long as the engine.
        drop(news.send(News::Addresses(table.told.clone())));
        let thread = {
            let (adjacencies, stop) = (Arc::clone(&adjacencies), Arc::clone(&stop));
            std::thread::Builder::new()
                .name("ravelin-resolver".to_owned())
                .spawn(move || {
                    keep_only(&RESOLVER);
                    while !stop.load(Ordering::Relaxed) {
                        table.turn(&adjacencies, &questions, &news);
                    }
                })?
        };
        Ok(Self {
            adjacencies,
            stop,
            thread: Some(thread),
        })
    }

    /// Whether the thread has ended by itself, which it never should.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// What workers read and ask.
    #[must_use]
    pub const fn adjacencies(&self) -> &Arc<Adjacencies> {
        &self.adjacencies
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.adjacencies.wake().write(1);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Where packets go that leave by the device of their side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Via(IpAddr),
    Closed(DropReason),
}

/// A usable entry of the kernel's neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Neighbour {
    mac: Mac,
    /// Somebody wrote it down (`NUD_PERMANENT`): the kernel never asks for it.
    permanent: bool,
}

#[derive(Debug)]
struct Table {
    questions: Questions,
    announcements: Announcements,
    outer: Device,
    inner: Option<Device>,
    /// Of what packet memory holds, whatever the devices' MTUs become.
    longest_mtu: u32,
    addresses: HashMap<(u32, IpAddr), AddressScope>,
    /// Whether each device is up, and has a carrier.
    links: HashMap<u32, [bool; 2]>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    routes: HashMap<Question, Way>,
    generation: u64,
    confirmed: Instant,
    resynchronise: bool,
    /// When routes are to be looked up again.
    reroute: Option<Instant>,
    /// Once more after that: the kernel announces the end of a route, and of a device, before it takes the route away
    /// (`fib_table_delete`, `dev_close_many`), and may be held up in between.
    repeat: bool,
    /// An address has come or gone since the engine was told.
    readdressed: bool,
    /// A default route has changed since the engine was told.
    rerouted: bool,
    /// The own addresses that the engine was told last.
    told: Vec<IpAddr>,
}

impl Table {
    fn read(outer: Device, inner: Option<Device>, longest_mtu: u32) -> io::Result<Self> {
        let announcements = Announcements::open()?;
        let mut table = Self {
            questions: Questions::open()?,
            announcements,
            outer,
            inner,
            longest_mtu,
            addresses: HashMap::new(),
            links: HashMap::new(),
            neighbours: HashMap::new(),
            routes: HashMap::new(),
            generation: 0,
            confirmed: Instant::now(),
            resynchronise: false,
            reroute: None,
            repeat: false,
            readdressed: false,
            rerouted: false,
            told: Vec::new(),
        };
        table.dump()?;
        Ok(table)
    }

    /// Reads everything anew: at the start, and when announcements were lost.
    fn dump(&mut self) -> io::Result<()> {
        self.addresses.clear();
        self.links.clear();
        self.readdressed = true;
        self.rerouted = true;
        self.neighbours.clear();
        let mut all = self
            .questions
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        all.extend(
            self.questions
                .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?,
        );
        all.extend(
            self.questions
                .dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?,
        );
        for message in all {
            self.take(message);
        }
        self.look_up_again();
        Ok(())
    }

    /// Waits for something to do and does it.
    fn turn(&mut self, adjacencies: &Adjacencies, questions: &Receiver<Question>, news: &Sender<News>) {
        let now = Instant::now();
        let mut timeout = CONFIRM.saturating_sub(now.duration_since(self.confirmed));
        if let Some(due) = self.reroute {
            timeout = timeout.min(due.saturating_duration_since(now));
        }
        let mut fds = [
            PollFd::new(self.announcements.as_fd(), PollFlags::POLLIN),
            PollFd::new(adjacencies.wake().as_fd(), PollFlags::POLLIN),
        ];
        // Interrupted or not: whatever is there is taken below.
        let _ = poll(
            &mut fds,
            PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX),
        );
        // Empty if the other descriptor woke us.
        let _ = adjacencies.wake().read();
        let mut changed = self.follow();
        for question in questions.try_iter() {
            changed |= self.answer(question);
        }
        if self.confirmed.elapsed() >= CONFIRM {
            self.confirmed = Instant::now();
            self.confirm();
        }
        if changed {
            adjacencies.publish(self.snapshot());
        }
        if std::mem::take(&mut self.rerouted) {
            drop(news.send(News::DefaultRoute));
        }
        if std::mem::take(&mut self.readdressed) {
            let addresses = self.own_addresses();
            if addresses != self.told {
                self.told.clone_from(&addresses);
                drop(news.send(News::Addresses(addresses)));
            }
        }
    }

    /// Takes the kernel's announcements; true if workers must know.
    fn follow(&mut self) -> bool {
        let news = match self.announcements.drain() {
            Ok(news) => news,
            Err(_) => {
                // Some were lost: the tables are read anew.
                self.resynchronise = true;
                Vec::new()
            }
        };
        let mut changed = false;
        let mut reroute = false;
        for message in news {
            let effect = self.take(message);
            changed |= effect == Effect::Neighbours;
            reroute |= effect == Effect::Routes;
        }
        if self.resynchronise {
            self.resynchronise = self.dump().is_err();
            return true;
        }
        let now = Instant::now();
        if reroute {
            let soon = now + SETTLE;
            self.reroute = Some(self.reroute.map_or(soon, |due| due.min(soon)));
            self.repeat = true;
        }
        if self.reroute.is_some_and(|due| due <= now) {
            self.reroute = std::mem::take(&mut self.repeat).then_some(now + CONFIRM);
            self.look_up_again();
            changed = true;
        }
        changed
    }

    fn take(&mut self, message: RouteNetlinkMessage) -> Effect {
        match message {
            RouteNetlinkMessage::NewNeighbour(message) => self.take_neighbour(&message, true),
            RouteNetlinkMessage::DelNeighbour(message) => self.take_neighbour(&message, false),
            RouteNetlinkMessage::NewAddress(message) => self.take_address(&message, true),
            RouteNetlinkMessage::DelAddress(message) => self.take_address(&message, false),
            RouteNetlinkMessage::NewLink(message) => self.take_link(&message),
            RouteNetlinkMessage::DelLink(message) => {
                self.links.remove(&message.header.index);
                self.rerouted = true;
                Effect::Routes
            }
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => {
                self.rerouted = true;
                Effect::Routes
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                self.rerouted |= route.header.destination_prefix_length == 0;
                Effect::Routes
            }
            _ => Effect::None,
        }
    }

    fn take_neighbour(&mut self, message: &NeighbourMessage, present: bool) -> Effect {
        let index = message.header.ifindex;
        if index != self.outer.index && self.inner.as_ref().is_none_or(|inner| inner.index != index) {
            return Effect::None;
        }
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
                _ => {}
            }
        }
        let Some(address) = address else {
            return Effect::None;
        };
        let usable = present
            && matches!(
                message.header.state,
                NeighbourState::Reachable
                    | NeighbourState::Stale
                    | NeighbourState::Delay
                    | NeighbourState::Probe
                    | NeighbourState::Permanent
                    | NeighbourState::Noarp
            );
        let permanent = message.header.state == NeighbourState::Permanent;
        let now = mac.filter(|_| usable).map(|mac| Neighbour { mac, permanent });
        let before = match now {
            Some(neighbour) => self.neighbours.insert((index, address), neighbour),
            None => self.neighbours.remove(&(index, address)),
        };
        let mac = |neighbour: Option<Neighbour>| neighbour.map(|neighbour| neighbour.mac);
        if mac(before) == mac(now) {
            Effect::None
        } else {
            Effect::Neighbours
        }
    }

    fn take_address(&mut self, message: &AddressMessage, present: bool) -> Effect {
        // IFA_LOCAL is this end; on point-to-point devices IFA_ADDRESS is the other.
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let address = local.or_else(|| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        });
        if let Some(address) = address {
            self.readdressed = true;
            let key = (message.header.index, address);
            if present {
                self.addresses.insert(key, message.header.scope);
            } else {
                self.addresses.remove(&key);
            }
        }
        Effect::Routes
    }

    fn take_link(&mut self, message: &LinkMessage) -> Effect {
        let flags = message.header.flags;
        let state = [LinkFlags::Up, LinkFlags::LowerUp].map(|flag| flags.contains(flag));
        let mut effect = Effect::None;
        if self.links.insert(message.header.index, state) != Some(state) {
            self.rerouted = true;
            effect = Effect::Routes;
        }
        let Some(found) = Device::from_link(message) else {
            return effect;
        };
        for device in [Some(&mut self.outer), self.inner.as_mut()].into_iter().flatten() {
            if device.index == found.index && *device != found {
                *device = found;
                return Effect::Routes;
            }
        }
        effect
    }

    /// Answers a worker; true if there is something new to know.
    fn answer(&mut self, question: Question) -> bool {
        if self.routes.contains_key(&question) {
            // Asked twice before the first answer was seen.
            return false;
        }
        if self.routes.len() >= MOST_DESTINATIONS {
            self.routes.clear();
        }
        let Ok(route) = self.look_up(&question) else {
            // Nothing is learned; the packet waits in the worker, which asks again.
            return false;
        };
        self.routes.insert(question, route);
        if let Way::Via(neighbour) = route {
            self.solicit(question.side, neighbour, false);
        }
        true
    }

    /// Asks the kernel where it would send a packet; an error when it could not be asked.
    fn look_up(&mut self, question: &Question) -> io::Result<Way> {
        // Packets with an address that is not, or not yet, this machine's go by their destination.
        let source = question.source.filter(|source| self.is_own(source));
        Ok(
            match Route::look_up(&mut self.questions, source, question.destination)? {
                Route::Via(device, next) if self.index(question.side) == Some(device) => Way::Via(next),
                Route::Via(..) => Way::Closed(DropReason::NoRoute),
                Route::Closed(reason) => Way::Closed(reason),
            },
        )
    }

    /// Has the kernel resolve a neighbour, or confirm one it knows.
    fn solicit(&mut self, side: Side, neighbour: IpAddr, known_too: bool) {
        let Some(index) = self.index(side) else { return };
        let known = self.neighbours.get(&(index, neighbour));
        if known.is_some_and(|known| known.permanent || !known_too) {
            return;
        }
        let mut message = NeighbourMessage::default();
        let (family, address) = match neighbour {
            IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
        };
        message.header.family = family;
        message.header.ifindex = index;
        message.header.state = NeighbourState::None;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(address));
        // A failure shows as an entry that stays unresolved; the next round asks again.
        let _ = self
            .questions
            .ask(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE);
    }

    fn look_up_again(&mut self) {
        let questions: Vec<_> = self.routes.keys().copied().collect();
        for question in questions {
            let Ok(route) = self.look_up(&question) else {
                // What was known stays until the kernel answers.
                self.reroute = Some(Instant::now() + SETTLE);
                continue;
            };
            self.routes.insert(question, route);
            if let Way::Via(neighbour) = route {
                self.solicit(question.side, neighbour, false);
            }
        }
    }

    /// Confirms every next hop in use and asks again for those without an answer.
    fn confirm(&mut self) {
        let mut hops: Vec<(Side, IpAddr)> = self
            .routes
            .iter()
            .filter_map(|(question, route)| match route {
                Way::Via(neighbour) => Some((question.side, *neighbour)),
                Way::Closed(_) => None,
            })
            .collect();
        hops.sort_unstable_by_key(|(side, neighbour)| (side.name(), *neighbour));
        hops.dedup();
        // Bounded work a second; a gateway with more neighbours than this has them confirmed by other traffic.
        hops.truncate(1024);
        for (side, neighbour) in hops {
            self.solicit(side, neighbour, true);
        }
    }

    fn index(&self, side: Side) -> Option<u32> {
        match side {
            Side::Outer => Some(self.outer.index),
            Side::Inner => self.inner.as_ref().map(|device| device.index),
        }
    }

    fn is_own(&self, address: &IpAddr) -> bool {
        self.addresses.keys().any(|(_, own)| own == address)
    }

    fn own_addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.addresses.keys().map(|(_, address)| *address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    fn snapshot(&mut self) -> Snapshot {
        self.generation += 1;
        let mut snapshot = Snapshot {
            generation: self.generation,
            outer: self.port(Some(&self.outer)),
            inner: self.port(self.inner.as_ref()),
            ..Snapshot::default()
        };
        // There may be a hundred thousand, and each answer makes a new snapshot.
        snapshot.hops.reserve(self.routes.len());
        for (question, route) in &self.routes {
            let hop = match route {
                Way::Closed(reason) => Hop::Closed(*reason),
                Way::Via(neighbour) => self
                    .index(question.side)
                    .and_then(|index| self.neighbours.get(&(index, *neighbour)))
                    .map_or(Hop::Resolving, |neighbour| Hop::Ready(neighbour.mac)),
            };
            snapshot.add_hop(question.side, question.ends(), hop);
        }
        snapshot
    }

    fn port(&self, device: Option<&Device>) -> Port {
        let Some(device) = device else {
            return Port::default();
        };
        let mut port = Port {
            mac: device.mac,
            mtu: device.mtu.min(self.longest_mtu),
            v4: None,
            v6: None,
        };
        let mut candidates: Vec<_> = self
            .addresses
            .iter()
            .filter(|((index, _), _)| *index == device.index)
            .collect();
        // Widest scope first, then the lowest address: the same choice every time.
        candidates.sort_unstable_by_key(|((_, address), scope)| (u8::from(**scope), *address));
        for ((_, address), _) in candidates {
            match address {
                IpAddr::V4(v4) => port.v4 = port.v4.or(Some(v4.octets())),
                IpAddr::V6(v6) => port.v6 = port.v6.or(Some(v6.octets())),
            }
        }
        port
    }
}

/// What an announcement changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    None,
    Neighbours,
    Routes,
}
