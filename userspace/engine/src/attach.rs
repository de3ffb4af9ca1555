//! Attached programs, pinned so that they outlive the process.
//!
//! A link's pin lies at `/sys/fs/bpf/ravelin/INSTANCE/SIDE-NETNS-IFINDEX`. When the process dies, the kernel empties
//! the XSK maps, and the programs stay: protected packets drop, permitted ones pass. The next start finds the pins
//! and swaps its own programs in, so that there is no moment without a filter.
//!
//! Pins can be deleted, and the whole filesystem unmounted, under a running engine. Then the programs would go with the
//! process, so it looks after its pins and makes them anew.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachType};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, XdpMode};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;
use nix::unistd::getppid;
use thiserror::Error;

use crate::boot_pages;
use crate::device::Device;
use crate::filter::{Filter, FilterError, Side};
use crate::ledger;
use crate::link::device_of;
use crate::pair::Pair;
use crate::preflight::SINGLE_BUFFER_MTU;
use crate::role::Role;

pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// Ethernet's own, which every driver with XDP takes.
const ORDINARY_MTU: u32 = 1500;

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

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
    /// The BPF filesystem is not there and could not be mounted.
    #[error(
        "cannot mount the BPF filesystem on {BPFFS}: {0}; Ravelin needs root (or CAP_SYS_ADMIN) and a kernel with BPF, and mounts none in a mount \
         namespace of its own: start with `nsenter --net=/run/netns/NAME` in place of `ip netns exec NAME`"
    )]
    Mount(Errno),
    /// What would be mounted here would go with this process, and the pins with it.
    #[error(
        "there is no BPF filesystem on {BPFFS}, and one that is mounted in this process's own mount namespace would end with it, and \
         with it the filter; mount one before (`mount -t bpf bpf {BPFFS}`), or start with `nsenter --net=/run/netns/NAME` in place of \
         `ip netns exec NAME`"
    )]
    PrivateMounts,
    /// A file of the BPF filesystem.
    #[error("{path}: {error}")]
    Pin {
        /// The pin or its folder.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// The BPF filesystem has gone since the start, and with it the pins.
    #[error(
        "{BPFFS} is no BPF filesystem any more, so the programs are not pinned: should this process end, the filter would end \
         with it; run `mount -t bpf bpf {BPFFS}`"
    )]
    Unmounted,
    /// A program cannot be pinned again, because an attempt before has failed.
    #[error(
        "{path}: the pin is gone and cannot be made again: should this process end, the filter would end with it; start Ravelin \
         again while nothing leaves that must be protected"
    )]
    Unpinned {
        /// The pin.
        path: PathBuf,
    },
    /// Another engine runs under this name.
    #[error(
        "instance `{instance}` is in use by another process; stop it first, or choose another name with `--instance`"
    )]
    InUse {
        /// The name.
        instance: String,
    },
    /// Someone else's program is there.
    #[error(
        "device {device}: another XDP program is attached; remove it (`ip link set dev {device} xdp off`) and start again"
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
    #[error("device {device}: attaching the {what} program: {error}")]
    Attach {
        /// The device.
        device: String,
        /// `outer`, `inner` or `egress`.
        what: &'static str,
        /// The kernel's answer.
        error: Box<ProgramError>,
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
    /// The object is not ours.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// The egress program's part of the name of its pin.
pub(crate) const EGRESS: &str = "egress";

/// How the notes begin that a pin is that of boot.
const MARKED: &str = "boot";

/// The attached programs of one instance.
///
/// Dropped without [`Attachments::detach`] it takes back what this process attached first and leaves what it adopted
/// from a dead one: a start that fails half-way changes nothing, and opens nothing.
#[derive(Debug)]
pub struct Attachments {
    instance: String,
    folder: PathBuf,
    links: Vec<Attached>,
    keep: bool,
    /// Held as long as the process lives: one engine for each instance.
    _lock: Flock<File>,
}

#[derive(Debug)]
struct Attached {
    path: PathBuf,
    link: FdLink,
    /// The same link once more: to pin one is to give it away, and back it comes only if that went well.
    spare: Option<FdLink>,
    adopted: bool,
}

impl Attachments {
    /// Makes the instance's folder in the BPF filesystem, mounting that if it is not there.
    ///
    /// # Errors
    ///
    /// [`AttachError::Mount`], [`AttachError::PrivateMounts`], [`AttachError::Pin`].
    pub fn open(instance: &str) -> Result<Self, AttachError> {
        mount_bpffs()?;
        let folder = folder(instance);
        make_folder(&folder)?;
        let lock = lock(&folder, instance)?;
        Ok(Self {
            instance: instance.to_owned(),
            folder,
            links: Vec::new(),
            keep: false,
            _lock: lock,
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
        let program = filter.xdp(side)?;
        let path = self.path(side.name(), device)?;
        if let Some(link) = adopt(&path)?.and_then(|link| XdpLink::try_from(link).ok()) {
            match program.attach_to_link(link).and_then(|id| program.take_link(id)) {
                Ok(link) => {
                    self.push(path, link, true, device, side.name())?;
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
                    self.push(path, link, false, device, side.name())?;
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
        let path = self.path(EGRESS, device)?;
        if let Some(link) = adopt(&path)?.and_then(|link| SchedClassifierLink::try_from(link).ok()) {
            match program.attach_to_link(link).and_then(|id| program.take_link(id)) {
                Ok(link) => return self.push(path, link, true, device, EGRESS),
                Err(error) => give_up(&path, error, device, EGRESS)?,
            }
        }
        let link = program
            .attach(&device.name, TcAttachType::Egress)
            .and_then(|id| program.take_link(id))
            .map_err(|error| attach_error(error, device, EGRESS))?;
        self.push(path, link, false, device, EGRESS)
    }

    /// Whether a filter of a policy stands there, and not only that of boot. It may be that of an engine that has ended. A pin whose device
    /// has gone filters nothing, though another device may have its number by now.
    ///
    /// # Errors
    ///
    /// [`AttachError::Pin`].
    pub(crate) fn is_filtered(&self, what: &str, device: &Device) -> Result<bool, AttachError> {
        let path = self.path(what, device)?;
        if marker(&path).symlink_metadata().is_ok() {
            return Ok(false);
        }
        let Some(link) = adopt(&path)? else {
            return Ok(false);
        };
        let at = device_of(&link).map_err(|error| AttachError::Pin { path, error })?;
        Ok(at == Some(device.index))
    }

    /// Notes, before it is attached, that what will be pinned there is the filter of boot. [`Attachments::sweep`] takes the note
    /// away. BPF filesystems hold nothing but pins, folders and links, so it is a link.
    ///
    /// # Errors
    ///
    /// [`AttachError::Pin`].
    pub(crate) fn mark_boot(&self, what: &str, device: &Device) -> Result<(), AttachError> {
        let path = marker(&self.path(what, device)?);
        match std::os::unix::fs::symlink(MARKED, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(AttachError::Pin { path, error })
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

    /// Removes pins of an earlier run that nothing adopted: its devices are no longer ours.
    ///
    /// # Errors
    ///
    /// [`AttachError::Pin`].
    pub fn sweep(&self) -> Result<(), AttachError> {
        for path in pins(&self.folder)? {
            if self.links.iter().all(|attached| attached.path != path) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Makes pins anew that are gone; whether there were any.
    ///
    /// # Errors
    ///
    /// [`AttachError::Unmounted`] until there is a BPF filesystem again, [`AttachError::Pin`], [`AttachError::InUse`];
    /// [`AttachError::Unpinned`] for a program that could not be pinned before.
    pub fn pin_again(&mut self) -> Result<bool, AttachError> {
        let gone = |attached: &Attached| !attached.path.exists();
        if !self.links.iter().any(gone) {
            return Ok(false);
        }
        if !is_bpffs_mounted()? {
            return Err(AttachError::Unmounted);
        }
        if !self.folder.exists() {
            make_folder(&self.folder)?;
            self._lock = lock(&self.folder, &self.instance)?;
        }
        for attached in self.links.iter_mut().filter(|attached| gone(attached)) {
            let path = &attached.path;
            let unpinned = || AttachError::Unpinned { path: path.clone() };
            let spare = attached.spare.take().ok_or_else(unpinned)?;
            let pinned = spare.pin(path).map_err(|error| AttachError::Pin {
                path: path.clone(),
                error: io::Error::other(error),
            })?;
            attached.spare = Some(pinned.into());
        }
        Ok(true)
    }

    /// Lets the programs stay when this process ends, however it ends.
    pub const fn keep(&mut self) {
        self.keep = true;
    }

    /// Detaches everything and removes the pins: the filter is gone, and with it the protection.
    ///
    /// # Errors
    ///
    /// [`AttachError::Pin`].
    pub fn detach(mut self) -> Result<(), AttachError> {
        self.keep = true;
        for attached in self.links.drain(..) {
            remove(&attached.path)?;
        }
        boot_pages::remove(&self.instance);
        ledger::remove(&self.instance);
        remove_folder(&self.folder)
    }

    fn path(&self, what: &str, device: &Device) -> Result<PathBuf, AttachError> {
        let namespace = Path::new("/proc/thread-self/ns/net");
        let inode = std::fs::metadata(namespace)
            .map_err(|error| AttachError::Pin {
                path: namespace.to_owned(),
                error,
            })?
            .ino();
        Ok(self.folder.join(format!("{what}-{inode}-{}", device.index)))
    }

    fn push<L>(
        &mut self,
        path: PathBuf,
        link: L,
        adopted: bool,
        device: &Device,
        what: &'static str,
    ) -> Result<(), AttachError>
    where
        FdLink: TryFrom<L, Error = LinkError>,
    {
        let link = FdLink::try_from(link).map_err(|_| AttachError::NoLink {
            device: device.name.clone(),
            what,
        })?;
        let link = if adopted {
            link
        } else {
            let pinned = link.pin(&path).map_err(|error| AttachError::Pin {
                path: path.clone(),
                error: io::Error::other(error),
            })?;
            pinned.into()
        };
        let spare = adopt(&path)?;
        self.links.push(Attached {
            path,
            link,
            spare,
            adopted,
        });
        Ok(())
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
            drop((attached.link, attached.spare));
        }
        // Fails while adopted pins lie in it, as it should.
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// Detaches whatever an instance that no longer runs has left attached; returns how many programs. Its host edge in this network
/// namespace goes, too.
///
/// # Errors
///
/// [`AttachError::Pin`].
pub fn detach_leftovers(instance: &str) -> Result<usize, AttachError> {
    let folder = folder(instance);
    if !folder.exists() {
        boot_pages::remove(instance);
        ledger::remove(instance);
        return Ok(0);
    }
    let _lock = lock(&folder, instance)?;
    // Without programs it does nothing, so that it stays is no reason to keep the programs.
    let _ = Pair::remove_leftovers(instance);
    let pins = pins(&folder)?;
    for path in &pins {
        remove(path)?;
    }
    boot_pages::remove(instance);
    ledger::remove(instance);
    remove_folder(&folder)?;
    Ok(pins.iter().filter(|path| !is_marker(path)).count())
}

/// Where it is noted that a pin is that of boot.
fn marker(pin: &Path) -> PathBuf {
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    pin.with_file_name(format!("{MARKED}-{name}"))
}

fn is_marker(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(MARKED.as_bytes())
}

fn folder(instance: &str) -> PathBuf {
    Path::new(BPFFS).join("ravelin").join(instance)
}

fn make_folder(folder: &Path) -> Result<(), AttachError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(folder).map_err(|error| AttachError::Pin {
        path: folder.to_owned(),
        error,
    })
}

/// Two engines under one name would take each other's programs away.
fn lock(folder: &Path, instance: &str) -> Result<Flock<File>, AttachError> {
    let file = File::open(folder).map_err(|error| AttachError::Pin {
        path: folder.to_owned(),
        error,
    })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| AttachError::InUse {
        instance: instance.to_owned(),
    })
}

pub(crate) fn mount_bpffs() -> Result<(), AttachError> {
    if is_bpffs_mounted()? {
        return Ok(());
    }
    if has_private_mounts() {
        return Err(AttachError::PrivateMounts);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=0700")).map_err(AttachError::Mount)
}

fn is_bpffs_mounted() -> Result<bool, AttachError> {
    let kind = statfs(BPFFS).map_err(AttachError::Mount)?.filesystem_type();
    Ok(kind.0 as u32 == BPF_FS_MAGIC)
}

/// Whether mounts of this process are not those of the machine or the container, or of who has started it: `ip netns exec` makes
/// such a namespace, which goes with its last process.
fn has_private_mounts() -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let own = namespace("self");
    // What may not be seen says nothing.
    ["1", &getppid().to_string()]
        .iter()
        .filter_map(|process| namespace(process))
        .any(|other| own.as_ref().is_some_and(|own| *own != other))
}

fn pins(folder: &Path) -> Result<Vec<PathBuf>, AttachError> {
    let failed = |error| AttachError::Pin {
        path: folder.to_owned(),
        error,
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect()
}

fn adopt(path: &Path) -> Result<Option<FdLink>, AttachError> {
    if !path.exists() {
        return Ok(None);
    }
    match PinnedLink::from_pin(path) {
        Ok(pinned) => Ok(Some(pinned.into())),
        Err(error) => Err(AttachError::Pin {
            path: path.to_owned(),
            error: io::Error::other(error),
        }),
    }
}

/// Removes the pin of a link that takes no other program because its device is gone, and so is its use. Whatever else is the matter, to
/// take the old program away first would open the filter.
fn give_up(path: &Path, error: ProgramError, device: &Device, what: &'static str) -> Result<(), AttachError> {
    match errno(&error) {
        Some(Errno::ENOLINK) => remove(path),
        _ => Err(attach_error(error, device, what)),
    }
}

fn remove(path: &Path) -> Result<(), AttachError> {
    std::fs::remove_file(path).map_err(|error| AttachError::Pin {
        path: path.to_owned(),
        error,
    })
}

fn remove_folder(path: &Path) -> Result<(), AttachError> {
    std::fs::remove_dir(path).map_err(|error| AttachError::Pin {
        path: path.to_owned(),
        error,
    })
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
