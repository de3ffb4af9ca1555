//! What must hold before anything is touched: the devices are there and fit each other, connections and packets fit
//! the devices.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use ravelin_esp::MAX_TAILROOM;
use ravelin_policy::{Action, Encapsulation, Mode, Policy};
use ravelin_xdp_common::MAX_QUEUES;
use ravelin_xsk::{PortOptions, UmemOptions, queue_count};

use crate::connection::Connection;
use crate::device::Device;
use crate::error::EngineError;
use crate::netlink::Questions;

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

/// Whether this kind of engine can serve the connections.
pub(crate) fn check_connections(policy: &Policy, gateway: bool) -> Result<(), EngineError> {
    for connection in policy.connections().iter().filter(|_| gateway) {
        if connection.mode == Mode::Transport {
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

/// Gives the connection its path MTU and checks that enough is left inside: RFC 8200 section 5 for IPv6; 576 is what every IPv4 host must be able to receive (RFC 1122 section 3.3.2).
pub(crate) fn check_mtu(
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
pub(crate) fn packet_memory(outer: &Device, inner: &Device) -> Result<UmemOptions, EngineError> {
    let ports = PortOptions::default().frames() * 2;
    let sizes = [2048, 4096].map(|frame_size| UmemOptions {
        frame_size,
        frame_count: ports + 1024,
        ..UmemOptions::default()
    });
    let largest = if outer.mtu > inner.mtu { outer } else { inner };
    sizes
        .iter()
        .find(|options| options.fits_mtu(largest.mtu as usize, MAX_TAILROOM))
        .cloned()
        .ok_or_else(|| {
            let limit = (68..4096)
                .rev()
                .find(|mtu| sizes[1].fits_mtu(*mtu, MAX_TAILROOM))
                .unwrap_or(0);
            EngineError::MtuTooLarge {
                device: largest.name.clone(),
                mtu: largest.mtu,
                limit: limit as u32,
            }
        })
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
    if outer_queues > MAX_QUEUES {
        return Err(EngineError::TooManyQueues {
            device: outer.name.clone(),
            queues: outer_queues,
        });
    }
    Ok(outer_queues)
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
