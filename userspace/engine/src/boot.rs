//! From boot until the policy is in force: the filter, with nothing in it but the lifeline.

use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use ravelin_classifier::compile;
use ravelin_policy::{Policy, Surroundings};

use crate::attach::{AttachError, Attachments, EGRESS, Mode};
use crate::bpffs::BpffsError;
use crate::device::Device;
use crate::engine::Options;
use crate::error::EngineError;
use crate::filter::{Filter, Side};
use crate::netlink::Questions;
use crate::prepare::ApplyError;
use crate::role::{Edge, Role};

/// Rule counters: there is one rule.
const RULES: u32 = 16;

/// No frame is too long, since none goes to a worker.
const LONGEST: u32 = u32::MAX;

/// What became of the devices.
#[derive(Debug, Default)]
pub struct Booted {
    /// Only the lifeline passes there.
    pub closed: Vec<String>,
    /// There a filter stands already, of a policy.
    pub filtered: Vec<String>,
    /// They do not exist.
    pub missing: Vec<String>,
}

/// Shuts the devices of an engine that does not run yet, but for the lifeline of `policy`, which is what
/// [`Policy::load_at_boot`] makes of it. What an earlier call has attached is brought up to date with this machine's addresses;
/// the filter of an engine that has ended stays as it is. `None` if the engine runs.
///
/// [`Engine::start`](crate::Engine::start) takes over what this has attached, without a gap.
///
/// # Errors
///
/// [`EngineError`], the first of them: what else could be shut is shut.
pub fn boot(policy: &Policy, options: &Options) -> Result<Option<Booted>, EngineError> {
    let mut attachments = match Attachments::open(&options.instance) {
        Err(AttachError::Bpffs(BpffsError::InUse { .. })) => return Ok(None),
        opened => opened?,
    };
    // Half a wall is better than none.
    attachments.keep();
    let own = own_addresses().map_err(EngineError::Netlink)?;
    let surroundings = Surroundings {
        own,
        outer: Some(options.outer.clone()),
        ..Surroundings::default()
    };
    let (policy, _) = policy.resolve(&surroundings).map_err(ApplyError::from)?;
    let rules = compile(&policy).map_err(ApplyError::from)?;
    let mut filter = Filter::load(RULES, LONGEST)?;
    filter.load_host(Edge::Tun)?;
    filter.set_local(&surroundings.own)?;
    filter.apply(&rules, 1)?;
    filter.set_spoken_of(&surroundings.own)?;

    let mut questions = Questions::open().map_err(EngineError::Netlink)?;
    let mode = match options.role {
        Role::Host => Mode::Native,
        Role::Filter | Role::Gateway => options.mode,
    };
    let mut booted = Booted::default();
    let mut failure = None;
    let inner = options.inner.as_ref().filter(|_| options.role == Role::Gateway);
    for (side, name) in [(Side::Outer, Some(&options.outer)), (Side::Inner, inner)] {
        let Some(name) = name else { continue };
        let found = Device::find(&mut questions, name).map_err(EngineError::Netlink)?;
        let Some(device) = found else {
            booted.missing.push(name.clone());
            continue;
        };
        match close(&mut attachments, &mut filter, (side, mode), &device) {
            Ok(true) => booted.closed.push(device.name),
            Ok(false) => booted.filtered.push(device.name),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(Some(booted)),
    }
}

/// Shuts both ways of a device. Whether there was anything to do.
fn close(
    attachments: &mut Attachments,
    filter: &mut Filter,
    (side, mode): (Side, Mode),
    device: &Device,
) -> Result<bool, AttachError> {
    if attachments.is_filtered(side.name(), device)? {
        return Ok(false);
    }
    attachments.mark_boot(side.name(), device)?;
    attachments.xdp(filter, side, device, mode)?;
    // What this machine sends is filtered by rules in host mode only; at boot, everywhere.
    if !attachments.is_filtered(EGRESS, device)? {
        attachments.mark_boot(EGRESS, device)?;
        attachments.egress(filter, Role::Host, device)?;
    }
    Ok(true)
}

/// The addresses of this machine, of all devices.
fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| address(&interface.address?));
    let mut own: Vec<IpAddr> = addresses.collect();
    own.sort_unstable();
    own.dedup();
    Ok(own)
}

fn address(socket: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = socket.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| socket.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}
