//! The devices that have programs of an instance, whichever engine has attached them.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ravelin_xsk::BpfLink;

use crate::attach::{AttachError, is_marker};
use crate::bpffs::{self, BpffsError, PinFolder};
use crate::host::name_of;
use crate::link::device_of;

/// The devices on which an instance that no longer runs has left programs, as they are called now. Those that have gone are not among them.
///
/// # Errors
///
/// [`AttachError::Bpffs`], with [`BpffsError::InUse`] when it runs.
pub fn filtered_devices(instance: &str) -> Result<Vec<String>, AttachError> {
    match PinFolder::find(instance)? {
        Some(folder) => names(&folder.pins()?, &[]),
        None => Ok(Vec::new()),
    }
}

/// Refuses a start that would take the filter of its instance away from devices that it does not serve, by their numbers. They are those of
/// this network namespace; one of another cannot be served from here.
///
/// # Errors
///
/// [`AttachError::Stranded`], [`AttachError::Bpffs`].
pub(crate) fn strands_none(instance: &str, served: &[u32]) -> Result<(), AttachError> {
    let folder = PinFolder::path_of(instance);
    let pins = match bpffs::entries(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        pins => pins.map_err(|error| BpffsError::pin(&folder, error))?,
    };
    let devices = names(&pins, served)?;
    if devices.is_empty() {
        return Ok(());
    }
    Err(AttachError::Stranded {
        instance: instance.to_owned(),
        devices: devices.join(", "),
    })
}

/// The names of devices to which pins hold programs, but for those `served`.
fn names(pins: &[PathBuf], served: &[u32]) -> Result<Vec<String>, AttachError> {
    let own = own_namespace()?;
    let mut devices = BTreeSet::new();
    for pin in pins.iter().filter(|pin| !is_marker(pin)) {
        let failed = |error| BpffsError::pin(pin, error);
        let Some(link) = BpfLink::at(pin).map_err(failed)? else {
            continue;
        };
        let Some(index) = device_of(&link).map_err(failed)? else {
            continue;
        };
        let is_here = namespace(pin) == Some(own);
        if !(is_here && served.contains(&index)) {
            let name = name_of(index).filter(|_| is_here);
            devices.insert(name.unwrap_or_else(|| format!("number {index} of another network namespace")));
        }
    }
    Ok(devices.into_iter().collect())
}

/// The inode of this thread's network namespace.
///
/// # Errors
///
/// [`AttachError::Bpffs`].
pub(crate) fn own_namespace() -> Result<u64, AttachError> {
    let namespace = Path::new("/proc/thread-self/ns/net");
    let inode = std::fs::metadata(namespace).map(|namespace| namespace.ino());
    Ok(inode.map_err(|error| BpffsError::pin(namespace, error))?)
}

/// That of a pin, by its name.
fn namespace(pin: &Path) -> Option<u64> {
    pin.file_name()?.to_str()?.rsplit('-').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::namespace;

    #[test]
    fn a_pin_tells_its_namespace() {
        let pin = |name: &str| namespace(&Path::new("/sys/fs/bpf/ravelin/a-1").join(name));
        assert_eq!(pin("outer-4026531840-2"), Some(4_026_531_840));
        assert_eq!(pin("outer"), None);
    }
}
