//! The host edge: a device through which this host's own packets come to be sealed, and opened ones go back.
//!
//! It has neither addresses nor routes. tcx egress on the outer device redirects to it what must be protected; what workers
//! send there, tcx ingress moves to the outer device, where it seems to have arrived. Nothing else of the machine is changed,
//! so there is nothing to restore. There are two kinds: see [`Edge`].

use std::io;
use std::sync::Arc;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use nix::errno::Errno;
use nix::net::if_::{if_indextoname, if_nametoindex};
use ravelin_xdp_common::HostEdge;
use ravelin_xsk::{Tun, TunError};
use thiserror::Error;

use crate::device::{Device, Mac};
use crate::filter::{Filter, FilterError};
use crate::netlink::Questions;
use crate::pair::Pair;
use crate::role::Edge;
use crate::worker::ClearSide;

/// The kernel numbers TUN devices.
const NAME: &str = "rav%d";

/// Why there is no host edge.
#[derive(Debug, Error)]
pub enum HostError {
    /// No TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The device could not be set up.
    #[error("host edge {device}: {what}: {error}")]
    SetUp {
        /// The device.
        device: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl HostError {
    pub(crate) fn new(device: &str, what: &'static str, error: io::Error) -> Self {
        Self::SetUp {
            device: device.to_owned(),
            what,
            error,
        }
    }
}

/// The edge of this host.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    edge: HostEdge,
    /// The index of the workers' end, if that is a device.
    workers: Option<u32>,
    /// Removed with this; a TUN device is the workers'.
    pair: Option<Pair>,
    /// What a TUN device had dropped when it was asked last.
    dropped: u64,
}

impl Host {
    /// Makes the device with a queue for each worker, and brings it up. With it comes what each worker needs of it.
    pub(crate) fn open(
        kind: Edge,
        outer: &Device,
        queues: u32,
        instance: &str,
    ) -> Result<(Self, Vec<ClearSide>), HostError> {
        let (name, pair, sides) = match kind {
            Edge::Tun => {
                let queues = Tun::create(NAME, queues)?;
                let name = queues.first().map_or("", |tun| tun.name()).to_owned();
                bring_up(&name)?;
                let sides = queues.into_iter().map(|tun| ClearSide::Stack(Arc::new(tun)));
                (name, None, sides.collect())
            }
            Edge::Veth => {
                let pair = Pair::create(instance, queues)?;
                for end in [&pair.stack, &pair.workers] {
                    bring_up(end)?;
                }
                let side = ClearSide::StackBehind(pair.workers.clone());
                (pair.stack.clone(), Some(pair), vec![side; queues as usize])
            }
        };
        let workers = pair.as_ref().map(|pair| index_of(&pair.workers)).transpose()?;
        let edge = HostEdge {
            edge: index_of(&name)?,
            outer: outer.index,
            mac: outer.mac,
            ethernet: pair.is_some().into(),
            reserved: 0,
        };
        Ok((
            Self {
                name,
                edge,
                workers,
                pair,
                dropped: 0,
            },
            sides,
        ))
    }

    /// The device's name, on the stack's side.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The device's name on the workers' side, if that is a device.
    pub(crate) fn workers_end(&self) -> Option<&str> {
        self.pair.as_ref().map(|pair| pair.workers.as_str())
    }

    /// The device's index.
    pub(crate) const fn index(&self) -> u32 {
        self.edge.edge
    }

    /// Tells the programs.
    pub(crate) fn announce(&self, filter: &mut Filter) -> Result<(), FilterError> {
        filter.set_host_edge(&self.edge)
    }

    /// What keeps packets from passing: an end that somebody has taken down. An edge that is gone ends the workers.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn trouble(&self) -> io::Result<Option<String>> {
        let mut questions = Questions::open()?;
        let mut down = Vec::new();
        for index in std::iter::once(self.edge.edge).chain(self.workers) {
            let mut message = LinkMessage::default();
            message.header.index = index;
            let answers = match questions.ask(RouteNetlinkMessage::GetLink(message), 0) {
                Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => continue,
                answers => answers?,
            };
            let is_down = |answer: &RouteNetlinkMessage| matches!(answer, RouteNetlinkMessage::NewLink(link) if !link.header.flags.contains(LinkFlags::Up));
            if answers.iter().any(is_down) {
                // As it is called now.
                down.extend(name_of(index));
            }
        }
        Ok(described(&down))
    }

    /// Its devices, if the edge is not in this network namespace any more.
    pub(crate) fn gone(&self) -> Option<String> {
        name_of(self.edge.edge).is_none().then(|| match &self.pair {
            Some(Pair { stack, workers }) => format!("{stack} and {workers}"),
            None => self.name.clone(),
        })
    }

    /// Packets that a TUN device has dropped since this was asked last, because workers did not take them. Of a veth the workers'
    /// sockets know.
    pub(crate) fn overruns(&mut self) -> io::Result<u64> {
        if self.pair.is_some() {
            return Ok(0);
        }
        let mut message = LinkMessage::default();
        message.header.index = self.edge.edge;
        let answers = Questions::open()?.ask(RouteNetlinkMessage::GetLink(message), 0)?;
        let attributes = answers.iter().flat_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => link.attributes.as_slice(),
            _ => &[],
        });
        let dropped = attributes.filter_map(|attribute| match attribute {
            LinkAttribute::Stats64(statistics) => Some(statistics.tx_dropped),
            _ => None,
        });
        let dropped = dropped.max().unwrap_or(self.dropped);
        let before = std::mem::replace(&mut self.dropped, dropped);
        Ok(dropped.saturating_sub(before))
    }

    /// Follows the link-layer address of the outer device: packets for another one are not this host's.
    pub(crate) fn follow(&mut self, mac: Mac, filter: &mut Filter) -> Result<(), FilterError> {
        if self.edge.mac == mac {
            return Ok(());
        }
        self.edge.mac = mac;
        self.announce(filter)
    }
}

/// What is said of devices that are down.
fn described(down: &[String]) -> Option<String> {
    let up: Vec<String> = down.iter().map(|name| format!("ip link set {name} up")).collect();
    (!down.is_empty()).then(|| {
        format!(
            "host edge: {} down, and what is to be protected is dropped until `{}`",
            match down {
                [one] => format!("device {one} is"),
                several => format!("devices {} are", several.join(" and ")),
            },
            up.join("; ")
        )
    })
}

/// What a device is called now; `None` once it is gone.
pub(crate) fn name_of(index: u32) -> Option<String> {
    let name = if_indextoname(index).ok()?.into_string().ok()?;
    // nix 0.31 takes the error of if_indextoname(3), a null pointer, for success.
    (!name.is_empty()).then_some(name)
}

fn index_of(name: &str) -> Result<u32, HostError> {
    if_nametoindex(name).map_err(|error| HostError::new(name, "finding it", error.into()))
}

/// Brings a device up of which the kernel says nothing to anybody.
fn bring_up(name: &str) -> Result<(), HostError> {
    // Else the kernel announces the device, through the workers. A kernel without IPv6 has no such file.
    let setting = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    match std::fs::write(setting, "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(HostError::new(name, "switching IPv6 off", error));
        }
        _ => {}
    }
    let mut message = LinkMessage::default();
    message.header.index = index_of(name)?;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Questions::open()
        .and_then(|mut questions| questions.ask(RouteNetlinkMessage::SetLink(message), 0))
        .map(drop)
        .map_err(|error| HostError::new(name, "bringing it up", error))
}

#[cfg(test)]
mod tests {
    use super::{described, name_of};

    #[test]
    fn a_device_that_is_not_there_has_no_name() {
        assert_eq!(name_of(u32::MAX >> 1), None);
    }

    #[test]
    fn what_is_down_is_told_with_what_brings_it_up() {
        let said =
            |names: &[&str]| described(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(said(&[]), None);
        let one = said(&["rav0"]).expect("down");
        assert!(
            one.contains("device rav0 is down") && one.ends_with("until `ip link set rav0 up`"),
            "{one}"
        );
        let both = said(&["rav0", "rav1"]).expect("down");
        assert!(both.contains("devices rav0 and rav1 are down"), "{both}");
        assert!(
            both.ends_with("`ip link set rav0 up; ip link set rav1 up`"),
            "{both}"
        );
    }
}
