//! What must hold before anything is touched: the devices are there and fit each other, connections and packets fit
//! the devices.

use std::sync::Arc;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use ravelin_esp::MAX_TAILROOM;
use ravelin_policy::{Action, Encapsulation, Family, Mode, Policy};
use ravelin_xdp_common::MAX_QUEUES;
use ravelin_xsk::{PortOptions, UmemOptions, queue_count};

use crate::connection::Connection;
use crate::device::Device;
use crate::error::EngineError;
use crate::netlink::Questions;
use crate::prepare::ApplyError;
use crate::role::Role;
use crate::touched::MOST_PAIRS;

/// The devices by name, the inner one only if there is one.
pub(crate) fn devices(outer: &str, inner: Option<&str>) -> Result<(Device, Option<Device>), EngineError> {
    let mut questions = Questions::open().map_err(EngineError::Netlink)?;
    let mut find = |name: &str| {
        let found = Device::find(&mut questions, name).map_err(EngineError::Netlink)?;
        found.ok_or_else(|| EngineError::NoDevice(name.to_owned()))
    };
    let outer = find(outer)?;
    let inner = inner.map(&mut find).transpose()?;
    match inner {
        Some(inner) if inner.index == outer.index => Err(EngineError::SameDevice(outer.name)),
        inner => Ok((outer, inner)),
    }
}

/// Whether this kind of engine can serve the connections, by what the policy says: in front of any machine.
pub(crate) fn check_connections(policy: &Policy, role: Role) -> Result<(), ApplyError> {
    if !role.seals() {
        return Ok(());
    }
    if policy.connections().len() > MOST_PAIRS as usize {
        return Err(ApplyError::TooManyConnections(MOST_PAIRS));
    }
    for (connection, least) in policy.connections().iter().zip(least_inside(policy)) {
        let called = || {
            let (place, name) = (connection.position, &connection.name);
            format!("{}:{place}: connection `{name}`", policy.file(place))
        };
        if connection.mode == Mode::Transport && role == Role::Gateway {
            return Err(ApplyError::TransportInGateway(called()));
        }
        if let Encapsulation::Udp { local_port, .. } = connection.encapsulation
            && local_port != ravelin_policy::UDP_ENCAPSULATION_PORT
        {
            return Err(ApplyError::EncapsulationPort(called()));
        }
        if let Some(path_mtu) = connection.path_mtu
            && u32::from(connection.inner_mtu(path_mtu)) < least
        {
            return Err(ApplyError::PathMtuTooSmall {
                connection: called(),
                path_mtu,
                inner: connection.inner_mtu(path_mtu),
                least,
            });
        }
    }
    Ok(())
}

/// What must be left inside each connection, in bytes: RFC 8200 section 5 for IPv6; 576 is what every IPv4 host must be able to
/// receive (RFC 1122 section 3.3.2).
fn least_inside(policy: &Policy) -> Vec<u32> {
    let mut least = vec![576; policy.connections().len()];
    for rule in policy.rules().iter().filter(|rule| rule.active) {
        if let Action::Protect { connection, .. } = rule.action
            && let Some(least) = least.get_mut(connection)
        {
            let mut filters = policy.filters(rule).iter();
            if filters.any(|filter| filter.family() != Some(Family::V4)) {
                *least = 1280;
            }
        }
    }
    least
}

/// Whether enough is left inside each connection on this device; they are those of the policy in its order.
pub(crate) fn check_mtu(
    policy: &Policy,
    connections: &[Arc<Connection>],
    device: &str,
    device_mtu: u32,
) -> Result<(), ApplyError> {
    for (connection, least) in connections.iter().zip(least_inside(policy)) {
        let mtu = connection
            .settings
            .path_mtu
            .map_or(device_mtu, |limit| limit.min(device_mtu));
        let Some(outbound) = &connection.outbound else {
            continue;
        };
        let inner = outbound.sa.inner_mtu_at(mtu).unwrap_or(0);
        if inner < least {
            return Err(ApplyError::MtuTooSmall {
                connection: connection.name.clone(),
                device: device.to_owned(),
                mtu,
                inner,
                least,
            });
        }
    }
    Ok(())
}

/// The longest MTU for which packets need not have several buffers. More fits into a chunk, but not into the page of a driver
/// whose bookkeeping stands behind the packet (`SKB_WITH_OVERHEAD` in the kernel); veth takes eight bytes more.
pub(crate) const SINGLE_BUFFER_MTU: u32 = 3498;

/// More than a worker holds: a batch received, two to be sent, and packets that wait for a neighbour.
const LARGE_FRAMES: u32 = 512;

/// Packet memory that holds every packet of both devices with what sealing adds.
pub(crate) fn packet_memory(outer: &Device, inner: &Device) -> Result<UmemOptions, EngineError> {
    let ports = PortOptions::default().frames() * 2;
    let sizes = [(2048, 0), (4096, 0), (4096, LARGE_FRAMES)].map(|(frame_size, large_frames)| UmemOptions {
        frame_size,
        frame_count: ports + 1024,
        large_frames,
        ..UmemOptions::default()
    });
    let largest = if outer.mtu > inner.mtu { outer } else { inner };
    sizes
        .iter()
        .find(|options| largest.mtu <= longest_mtu(options))
        .cloned()
        .ok_or_else(|| EngineError::MtuTooLarge {
            device: largest.name.clone(),
            mtu: largest.mtu,
            limit: longest_mtu(&sizes[2]),
        })
}

/// The longest MTU that packet memory serves.
pub(crate) fn longest_mtu(options: &UmemOptions) -> u32 {
    let bound = if options.large_frames == 0 {
        SINGLE_BUFFER_MTU
    } else {
        u32::from(u16::MAX)
    };
    (68..=bound)
        .rev()
        .find(|mtu| options.fits_mtu(*mtu as usize, MAX_TAILROOM))
        .unwrap_or(0)
}

/// The longest frame of that MTU, in bytes from its Ethernet header on, two VLAN tags included.
pub(crate) fn longest_frame(options: &UmemOptions) -> u32 {
    longest_mtu(options) + 14 + 2 * 4
}

/// How many queues the device of a host has.
pub(crate) fn host_queues(outer: &Device) -> Result<u32, EngineError> {
    let queues = queue_count(&outer.name)?;
    if queues > MAX_QUEUES {
        return Err(EngineError::TooManyQueues {
            device: outer.name.clone(),
            queues,
        });
    }
    Ok(queues)
}

/// How many queues both devices have.
pub(crate) fn queues(outer: &Device, inner: &Device) -> Result<u32, EngineError> {
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
    host_queues(outer)
}

/// The CPUs this process may run on.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .collect()
}
