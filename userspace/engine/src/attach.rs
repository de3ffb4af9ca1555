//! Attached programs, pinned so that they outlive the process.
//!
//! A link's pin lies at `/sys/fs/bpf/ravelin/INSTANCE/SIDE-NETNS-IFINDEX`. When the process dies, the kernel empties
//! the XSK maps, and the programs stay: protected packets drop, permitted ones pass. The next start finds the pins
//! and swaps its own programs in, so that there is no moment without a filter.
//!
//! Pins can be deleted, and the whole filesystem unmounted, under a running engine. Then the programs would go with the
//! process, so it looks after its pins and makes them anew.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, XdpMode};
use nix::errno::Errno;
use ravelin_xsk::{BpfLink, first_at_egress, queue_count};
use thiserror::Error;

use crate::bpffs::{self, BpffsError, PinFolder};
use crate::device::Device;
use crate::filter::{Filter, FilterError, Side, program_error};
use crate::host::name_of;
use crate::ledger;
use crate::link::device_of;
use crate::pair::Pair;
use crate::preflight::SINGLE_BUFFER_MTU;
use crate::role::Role;
use crate::standing::own_namespace;

/// Ethernet's own, which every driver with XDP takes.
const ORDINARY_MTU: u32 = 1500;

/// How XDP programs run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In the driver if it can, else in the kernel's receive path.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's receive path: works on every device, slower.
    Generic,
}

/// Why a program could not be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The BPF filesystem.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// Someone else's program is there.
    #[error(
        "device {device}: another XDP program is attached; remove it (`ip link set dev {device} xdp off`; one that a BPF link holds: \
         `bpftool link` shows its number, `bpftool link detach id NUMBER`) and start again"
    )]
    Occupied {
        /// The device.
        device: String,
    },
    /// The driver has no XDP.
    #[error("device {device}: its driver cannot run XDP programs natively; start with `--xdp-mode generic`")]
    NoNativeXdp {
        /// The device.
        device: String,
    },
    /// The driver takes programs only while a packet fits into one of its buffers.
    #[error(
        "device {device}: its driver refuses the {what} program at an MTU of {mtu}: {error}; it cannot give XDP packets of \
         several buffers. Lower the MTU to {SINGLE_BUFFER_MTU} (`ip link set dev {device} mtu {SINGLE_BUFFER_MTU}`; some drivers \
         take no more than 3000 or 1500). A gateway can also start with `--xdp-mode generic`"
    )]
    Mtu {
        /// The device.
        device: String,
        /// `outer` or `inner`.
        what: &'static str,
        /// Its MTU in bytes.
        mtu: u32,
        /// What the driver said.
        error: Errno,
    },
    /// Anything else the kernel said.
    #[error("device {device}: attaching the {what} program: {}", reason(.error))]
    Attach {
        /// The device.
        device: String,
        /// `outer`, `inner` or `egress`.
        what: &'static str,
        /// The kernel's answer.
        error: Box<ProgramError>,
    },
    /// A device that has other receive queues than before could not be given its program anew.
    #[error(
        "device {device}: giving its receive queues the {what} program anew: {error}; `ravelin run --replace` or restart Ravelin"
    )]
    Renew {
        /// The device.
        device: String,
        /// `outer` or `inner`.
        what: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The kernel knows no BPF links for this program type.
    #[error(
        "device {device}: this kernel cannot pin the {what} program's link; Ravelin needs Linux 6.6 or newer"
    )]
    NoLink {
        /// The device.
        device: String,
        /// `outer`, `inner` or `egress`.
        what: &'static str,
    },
    /// The filter would be gone where it stands now.
    #[error(
        "instance `{instance}` has its filter on device {devices}, which this start would not serve: what is protected there would pass in \
         the clear, and what is blocked would pass. Give that device (`--outer`, `--inner`, or `[interfaces]` of the policy), or choose \
         another name with `--instance`; if it is to be open, take its filter away first: `ravelin stop --instance {instance}`, or \
         `ravelin detach --instance {instance}` where no engine runs"
    )]
    Stranded {
        /// The instance.
        instance: String,
        /// As they are called now.
        devices: String,
    },
    /// The object is not ours.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// The egress program's part of the name of its pin.
pub(crate) const EGRESS: &str = "egress";

/// How often somebody may delete a pin while a start makes it.
const PIN_ATTEMPTS: u32 = 3;

/// How the notes begin that a pin is that of boot.
const MARKED: &str = "boot";

/// The attached programs of one instance.
///
/// Dropped without [`Attachments::detach`] it takes back what this process attached first and leaves what it adopted
/// from a dead one: a start that fails half-way changes nothing, and opens nothing.
#[derive(Debug)]
pub struct Attachments {
    folder: PinFolder,
    links: Vec<Attached>,
    /// At egress: the device's index, and the program's id.
    egress: Option<(u32, u32)>,
    keep: bool,
}

#[derive(Debug)]
struct Attached {
    path: PathBuf,
    link: BpfLink,
    adopted: bool,
    /// XDP: of which side it is the program, the device's index, and how many receive queues that had.
    queues: Option<(Side, u32, u32)>,
}

/// A device whose receive queues have changed in number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requeued {
    /// Its name.
    pub device: String,
    /// How many it had.
    pub before: u32,
    /// How many it has.
    pub now: u32,
}

impl Attachments {
    /// Makes the instance's folder in the BPF filesystem, mounting that if it is not there.
    ///
    /// # Errors
    ///
    /// [`AttachError::Bpffs`].
    pub fn open(instance: &str) -> Result<Self, AttachError> {
        Ok(Self {
            folder: PinFolder::open(instance)?,
            links: Vec::new(),
            egress: None,
            keep: false,
        })
    }

    /// Attaches the XDP program of a side; returns the mode it runs in.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn xdp(
        &mut self,
        filter: &mut Filter,
        side: Side,
        device: &Device,
        mode: Mode,
    ) -> Result<Mode, AttachError> {
        // Before it is attached: what changes meanwhile is seen later. Of a number that cannot be read now any other differs.
        let count = queue_count(&device.name).unwrap_or(0);
        let queues = (side, device.index, count);
        let program = filter.xdp(side)?;
        let path = self.path(side.name(), device)?;
        if let Some((link, held)) = adopt(&path)?
            && let Ok(link) = XdpLink::try_from(link)
        {
            match program.attach_to_link(link).and_then(|id| program.take_link(id)) {
                Ok(_) => {
                    self.push(path, held, true, Some(queues));
                    return Ok(mode);
                }
                Err(error) => give_up(&path, error, device, side.name())?,
            }
        }
        let attempts: &[(XdpMode, Mode)] = match mode {
            Mode::Auto => &[(XdpMode::Driver, Mode::Native), (XdpMode::Skb, Mode::Generic)],
            Mode::Native => &[(XdpMode::Driver, Mode::Native)],
            Mode::Generic => &[(XdpMode::Skb, Mode::Generic)],
        };
        let mut failure = AttachError::NoNativeXdp {
            device: device.name.clone(),
        };
        for (flags, attempt) in attempts {
            match program
                .attach_to_if_index(device.index, *flags)
                .and_then(|id| program.take_link(id))
            {
                Ok(link) => {
                    let link = FdLink::try_from(link).map_err(|_| no_link(device, side.name()))?;
                    let link = pin(link, &path)?;
                    self.push(path, link, false, Some(queues));
                    return Ok(*attempt);
                }
                Err(error) if *attempt == Mode::Native => {
                    failure = driver_error(error, device, side.name(), mode == Mode::Native);
                }
                Err(error) => failure = attach_error(error, device, side.name()),
            }
            if !matches!(failure, AttachError::NoNativeXdp { .. }) {
                break;
            }
        }
        Err(failure)
    }

    /// Attaches the egress program of the outer device.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn egress(&mut self, filter: &mut Filter, role: Role, device: &Device) -> Result<(), AttachError> {
        let program = filter.egress(role)?;
        let id = program.info().map_err(program_error(EGRESS))?.id();
        self.egress = Some((device.index, id));
        let path = self.path(EGRESS, device)?;
        if let Some((link, held)) = adopt(&path)?
            && let Ok(link) = SchedClassifierLink::try_from(link)
        {
            match program.attach_to_link(link).and_then(|id| program.take_link(id)) {
                Ok(_) => {
                    self.push(path, held, true, None);
                    return Ok(());
                }
                Err(error) => give_up(&path, error, device, EGRESS)?,
            }
        }
        // What another passes for good, none behind it is asked about.
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let link = program
            .attach_with_options(&device.name, TcAttachType::Egress, first)
            .and_then(|id| program.take_link(id))
            .map_err(|error| attach_error(error, device, EGRESS))?;
        let link = FdLink::try_from(link).map_err(|_| no_link(device, EGRESS))?;
        let link = pin(link, &path)?;
        self.push(path, link, false, None);
        Ok(())
    }

    /// Whether a filter of a policy stands there, and not only that of boot. It may be that of an engine that has ended. A pin whose device
    /// has gone filters nothing, though another device may have its number by now.
    ///
    /// # Errors
    ///
    /// [`AttachError::Bpffs`].
    pub(crate) fn is_filtered(&self, what: &str, device: &Device) -> Result<bool, AttachError> {
        stands(&self.path(what, device)?, device)
    }

    /// Notes, before it is attached, that what will be pinned there is the filter of boot. [`Attachments::sweep`] takes the note
    /// away. BPF filesystems hold nothing but pins, folders and links, so it is a link.
    ///
    /// # Errors
    ///
    /// [`AttachError::Bpffs`].
    pub(crate) fn mark_boot(&self, what: &str, device: &Device) -> Result<(), AttachError> {
        let path = marker(&self.path(what, device)?);
        match std::os::unix::fs::symlink(MARKED, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(BpffsError::Pin { path, error }.into())
            }
            _ => Ok(()),
        }
    }

    /// Attaches the programs of the host edge: to the stack's end, and to that of the workers if it is a veth. They are not pinned:
    /// the edge goes with the process, or is made anew by the next.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn edge(
        &mut self,
        filter: &mut Filter,
        stack: &str,
        workers: Option<&str>,
    ) -> Result<(), AttachError> {
        let failed = |device: &str| {
            let device = device.to_owned();
            |error| AttachError::Attach {
                device,
                what: "edge",
                error: Box::new(error),
            }
        };
        if let Some(name) = workers {
            let program = filter.edge_egress()?;
            program.attach(name, TcAttachType::Egress).map_err(failed(name))?;
            let program = filter.edge_seal()?;
            program.attach(name, XdpMode::Driver).map_err(failed(name))?;
        }
        let attached = filter.edge()?.attach(stack, TcAttachType::Ingress);
        attached.map(drop).map_err(failed(stack))
    }

    /// Removes pins of an earlier run that nothing adopted. Their devices have gone, or are served in another way; the start was refused
    /// where they would have been open (`strands_none`).
    ///
    /// # Errors
    ///
    /// [`AttachError::Bpffs`].
    pub fn sweep(&self) -> Result<(), AttachError> {
        for path in self.folder.pins()? {
            if self.links.iter().all(|attached| attached.path != path) {
                bpffs::remove(&path)?;
            }
        }
        Ok(())
    }

    /// Makes pins anew that are gone; whether there were any.
    ///
    /// # Errors
    ///
    /// [`AttachError::Bpffs`], with [`BpffsError::Unmounted`] until there is a BPF filesystem again.
    pub fn pin_again(&mut self) -> Result<bool, AttachError> {
        let gone = |attached: &&Attached| !attached.path.exists();
        if self.folder.is_there() && !self.links.iter().any(|attached| gone(&attached)) {
            return Ok(false);
        }
        let before = match self.folder.is_there() {
            true => None,
            false => Some(self.folder.renew()?),
        };
        for Attached { path, link, .. } in self.links.iter().filter(gone) {
            link.pin(path).map_err(|error| BpffsError::pin(path, error))?;
        }
        if let Some(folder) = before {
            folder.clear(self.links.iter().map(|attached| attached.path.as_path()));
        }
        Ok(true)
    }

    /// What is wrong if Ravelin's program is not the first that is asked about what leaves the outer device. What cannot be asked now is
    /// not known.
    #[must_use]
    pub fn overtaken(&self) -> Option<String> {
        let (index, own) = self.egress?;
        let first = first_at_egress(index).ok()?;
        let device = name_of(index)?;
        match first {
            Some(first) if first == own => None,
            Some(first) => Some(format!(
                "device {device}: BPF program {first} is asked before Ravelin's about what leaves it (tcx), and what that passes leaves in \
                 clear, to be protected or not: see `bpftool prog show id {first}`, and take it away, or attach it behind Ravelin's"
            )),
            None => Some(format!(
                "device {device}: somebody has taken away Ravelin's program at its egress (tcx), and what is to be protected leaves in clear: \
                 `ravelin detach` and start Ravelin again"
            )),
        }
    }

    /// Gives devices their XDP program anew that have more or fewer receive queues than before; which do.
    ///
    /// veth begins to receive on a new queue without the program that it has (`veth_enable_range_safe` in `drivers/net/veth.c`), and hands
    /// everything on to the stack, until it is told of a program. It is not told of the one that it has, so what drops everything comes
    /// in between.
    ///
    /// # Errors
    ///
    /// [`AttachError::Renew`]: then the device drops everything, or it is gone.
    pub fn renew(&mut self, filter: &mut Filter) -> Result<Vec<Requeued>, AttachError> {
        let mut changed = Vec::new();
        for Attached { link, queues, .. } in &mut self.links {
            let Some((side, index, before)) = queues else {
                continue;
            };
            // Whatever it is called by now.
            let Some(device) = name_of(*index) else { continue };
            let Ok(now) = queue_count(&device) else { continue };
            if now == *before {
                continue;
            }
            let failed = |error| AttachError::Renew {
                device: device.clone(),
                what: side.name(),
                error,
            };
            let closed = filter.closed()?.fd().map_err(program_error(side.name()))?;
            link.update(closed.as_fd()).map_err(failed)?;
            let open = filter.xdp(*side)?.fd().map_err(program_error(side.name()))?;
            link.update(open.as_fd()).map_err(failed)?;
            changed.push(Requeued {
                before: std::mem::replace(before, now),
                now,
                device,
            });
        }
        Ok(changed)
    }

    /// Lets the programs stay when this process ends, however it ends.
    pub const fn keep(&mut self) {
        self.keep = true;
    }

    /// Detaches everything and removes the pins: the filter is gone, and with it the protection.
    ///
    /// # Errors
    ///
    /// [`AttachError::Bpffs`].
    pub fn detach(mut self) -> Result<(), AttachError> {
        self.keep = true;
        for Attached { path, link, .. } in self.links.drain(..) {
            // Another pin, in a filesystem out of reach, would keep the program where it is. Without a device there is nothing to
            // detach from, and the removal of the pin does the rest.
            let _ = link.detach();
            bpffs::remove(&path)?;
        }
        ledger::remove(self.folder.instance());
        Ok(self.folder.remove()?)
    }

    fn path(&self, what: &str, device: &Device) -> Result<PathBuf, AttachError> {
        place(self.folder.path(), what, device)
    }

    fn push(&mut self, path: PathBuf, link: BpfLink, adopted: bool, queues: Option<(Side, u32, u32)>) {
        self.links.push(Attached {
            path,
            link,
            adopted,
            queues,
        });
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for attached in self.links.drain(..).filter(|attached| !attached.adopted) {
            // Nothing more can be done about it here; `ravelin detach` can.
            let _ = std::fs::remove_file(&attached.path);
            drop(attached.link);
        }
        // Fails while adopted pins lie in it, as it should.
        let _ = self.folder.remove();
    }
}

/// Detaches whatever an instance that no longer runs has left attached; returns how many programs. Its host edge in this network
/// namespace goes, too.
///
/// # Errors
///
/// [`AttachError::Bpffs`].
pub fn detach_leftovers(instance: &str) -> Result<usize, AttachError> {
    let Some(folder) = PinFolder::find(instance)? else {
        ledger::remove(instance);
        return Ok(0);
    };
    // Without programs it does nothing, so that it stays is no reason to keep the programs.
    let _ = Pair::remove_leftovers(instance);
    let pins = folder.pins()?;
    for path in &pins {
        if let Ok(Some(link)) = BpfLink::at(path) {
            // As in `Attachments::detach`.
            let _ = link.detach();
        }
        bpffs::remove(path)?;
    }
    ledger::remove(instance);
    folder.remove()?;
    Ok(pins.iter().filter(|path| !is_marker(path)).count())
}

/// Whether an engine of this name, be it one that runs or one that has ended, filters what leaves a device.
///
/// # Errors
///
/// [`AttachError::Bpffs`].
pub(crate) fn filters_egress(instance: &str, device: &Device) -> Result<bool, AttachError> {
    stands(&place(&PinFolder::path_of(instance), EGRESS, device)?, device)
}

/// Whether a pin holds the filter of a policy to a device.
fn stands(pin: &Path, device: &Device) -> Result<bool, AttachError> {
    if marker(pin).symlink_metadata().is_ok() {
        return Ok(false);
    }
    let failed = |error| BpffsError::pin(pin, error);
    let Some(link) = BpfLink::at(pin).map_err(failed)? else {
        return Ok(false);
    };
    let at = device_of(&link).map_err(failed)?;
    Ok(at == Some(device.index))
}

/// Where a program of a device is pinned.
fn place(folder: &Path, what: &str, device: &Device) -> Result<PathBuf, AttachError> {
    let namespace = own_namespace()?;
    Ok(folder.join(format!("{what}-{namespace}-{}", device.index)))
}

/// Where it is noted that a pin is that of boot.
fn marker(pin: &Path) -> PathBuf {
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    pin.with_file_name(format!("{MARKED}-{name}"))
}

pub(crate) fn is_marker(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(MARKED.as_bytes())
}

/// The link that is pinned there, as aya has it and as something that can be pinned more than once.
fn adopt(path: &Path) -> Result<Option<(FdLink, BpfLink)>, BpffsError> {
    let failed = |error| BpffsError::pin(path, error);
    let Some(link) = BpfLink::at(path).map_err(failed)? else {
        return Ok(None);
    };
    match PinnedLink::from_pin(path) {
        Ok(pinned) => Ok(Some((pinned.into(), link))),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            // It was deleted just now, and `link` is all there is of it.
            link.pin(path).map_err(failed)?;
            let pinned = PinnedLink::from_pin(path).map_err(|error| failed(io::Error::other(error)))?;
            Ok(Some((pinned.into(), link)))
        }
        Err(error) => Err(failed(io::Error::other(error))),
    }
}

/// Pins a link that aya has made.
fn pin(mut link: FdLink, path: &Path) -> Result<BpfLink, BpffsError> {
    let failed = |error| BpffsError::pin(path, error);
    for _ in 0..PIN_ATTEMPTS {
        let pinned = link.pin(path).map_err(|error| failed(io::Error::other(error)))?;
        if let Some(link) = BpfLink::at(path).map_err(failed)? {
            return Ok(link);
        }
        link = pinned.into();
    }
    Err(failed(io::ErrorKind::NotFound.into()))
}

/// Removes the pin of a link that takes no other program because its device is gone, and so is its use. Whatever else is the matter, to
/// take the old program away first would open the filter.
fn give_up(path: &Path, error: ProgramError, device: &Device, what: &'static str) -> Result<(), AttachError> {
    match errno(&error) {
        Some(Errno::ENOLINK) => Ok(bpffs::remove(path)?),
        _ => Err(attach_error(error, device, what)),
    }
}

fn no_link(device: &Device, what: &'static str) -> AttachError {
    AttachError::NoLink {
        device: device.name.clone(),
        what,
    }
}

/// Why a driver refused a program. There is no one number for an MTU that is too long for it: veth says ERANGE, others EINVAL
/// or EOPNOTSUPP. The last is also what drivers without XDP say, and then generic XDP may be tried.
fn driver_error(error: ProgramError, device: &Device, what: &'static str, last: bool) -> AttachError {
    match errno(&error) {
        Some(errno @ (Errno::ERANGE | Errno::EINVAL | Errno::E2BIG | Errno::EMSGSIZE))
            if device.mtu > ORDINARY_MTU =>
        {
            mtu_error(errno, device, what)
        }
        Some(errno @ Errno::EOPNOTSUPP) if device.mtu > ORDINARY_MTU && last => {
            mtu_error(errno, device, what)
        }
        _ => attach_error(error, device, what),
    }
}

fn mtu_error(error: Errno, device: &Device, what: &'static str) -> AttachError {
    AttachError::Mtu {
        device: device.name.clone(),
        what,
        mtu: device.mtu,
        error,
    }
}

fn errno(error: &ProgramError) -> Option<Errno> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}

fn attach_error(error: ProgramError, device: &Device, what: &'static str) -> AttachError {
    let errno = errno(&error);
    let device = device.name.clone();
    match errno {
        Some(Errno::EBUSY | Errno::EEXIST) => AttachError::Occupied { device },
        Some(Errno::EOPNOTSUPP) => AttachError::NoNativeXdp { device },
        _ => AttachError::Attach {
            device,
            what,
            error: Box::new(error),
        },
    }
}

/// What the kernel said, which aya keeps behind the name of the call, and what to do about it.
fn reason(error: &ProgramError) -> String {
    let advice = match errno(error) {
        Some(Errno::ENOSPC) => {
            "; a veth device needs as many receive queues as its peer has transmit queues (`ethtool -L DEVICE rx N`)"
        }
        _ => "",
    };
    match error {
        ProgramError::SyscallError(error) => format!("{error}: {}{advice}", error.io_error),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    fn refused(errno: Errno, mtu: u32, last: bool) -> AttachError {
        let device = Device {
            name: "eth0".to_owned(),
            index: 2,
            mac: [2; 6],
            mtu,
            up: true,
            veth: false,
        };
        let error = SyscallError {
            call: "bpf_link_create",
            io_error: errno.into(),
        };
        driver_error(error.into(), &device, "outer", last)
    }

    #[test]
    fn a_driver_without_several_buffers_is_told_by_the_mtu_that_works() {
        for errno in [Errno::ERANGE, Errno::EINVAL] {
            let error = refused(errno, 9000, false);
            assert!(matches!(error, AttachError::Mtu { mtu: 9000, .. }), "{error}");
            assert!(
                error.to_string().contains("ip link set dev eth0 mtu 3498"),
                "{error}"
            );
            assert!(!matches!(refused(errno, 1500, false), AttachError::Mtu { .. }));
        }
        // Generic XDP comes next, if it may.
        let unsupported = refused(Errno::EOPNOTSUPP, 9000, false);
        assert!(
            matches!(unsupported, AttachError::NoNativeXdp { .. }),
            "{unsupported}"
        );
        let unsupported = refused(Errno::EOPNOTSUPP, 9000, true);
        assert!(matches!(unsupported, AttachError::Mtu { .. }), "{unsupported}");
        let occupied = refused(Errno::EBUSY, 9000, true);
        assert!(matches!(occupied, AttachError::Occupied { .. }), "{occupied}");
    }
}
