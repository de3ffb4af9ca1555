//! The host edge: a TUN device through which this host's own packets come to be sealed, and opened ones go back.
//!
//! It has neither addresses nor routes. tcx egress on the outer device redirects to it what must be protected; what workers
//! write to it, tcx ingress moves to the outer device, where it seems to have arrived. The device belongs to this process and
//! goes with it; nothing else of the machine is changed, so there is nothing to restore.

use std::io;
use std::sync::Arc;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use nix::net::if_::if_nametoindex;
use ravelin_xdp_common::HostEdge;
use ravelin_xsk::{Tun, TunError};
use thiserror::Error;

use crate::device::{Device, Mac};
use crate::filter::{Filter, FilterError};
use crate::netlink::Questions;

/// The kernel numbers them.
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
        /// The TUN device.
        device: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// The edge of this host.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    edge: HostEdge,
}

impl Host {
    /// Makes the device with a queue for each worker, and brings it up.
    pub(crate) fn open(outer: &Device, queues: u32) -> Result<(Self, Vec<Arc<Tun>>), HostError> {
        let queues: Vec<_> = Tun::create(NAME, queues)?.into_iter().map(Arc::new).collect();
        let name = queues.first().map_or("", |tun| tun.name()).to_owned();
        let failed = |what| {
            let device = name.clone();
            move |error| HostError::SetUp { device, what, error }
        };
        // Else the kernel announces the device to nobody, through the workers. A kernel without IPv6 has no such file.
        let setting = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        match std::fs::write(setting, "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("switching IPv6 off")(error));
            }
            _ => {}
        }
        let index = if_nametoindex(name.as_str())
            .map_err(io::Error::from)
            .map_err(failed("finding it"))?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        Questions::open()
            .and_then(|mut questions| questions.ask(RouteNetlinkMessage::SetLink(message), 0))
            .map_err(failed("bringing it up"))?;
        let edge = HostEdge {
            edge: index,
            outer: outer.index,
            mac: outer.mac,
            reserved: [0; 2],
        };
        Ok((Self { name, edge }, queues))
    }

    /// The device's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The device's index.
    pub(crate) const fn index(&self) -> u32 {
        self.edge.edge
    }

    /// Tells the programs.
    pub(crate) fn announce(&self, filter: &mut Filter) -> Result<(), FilterError> {
        filter.set_host_edge(&self.edge)
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
