//! A BPF link: what holds a program on a device.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::syscall;

/// A link, which can be pinned as often as it takes. The program stays where it is as long as there is a descriptor or a pin.
#[derive(Debug)]
pub struct BpfLink(OwnedFd);

impl BpfLink {
    /// The link that is pinned there, if one is.
    ///
    /// # Errors
    ///
    /// The kernel's, `ENOENT` excepted.
    pub fn at(path: &Path) -> io::Result<Option<Self>> {
        match syscall::pinned(&c_path(path)?) {
            Ok(link) => Ok(Some(Self(link))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Pins it in a BPF filesystem.
    ///
    /// # Errors
    ///
    /// The kernel's: `EEXIST`, or `EPERM` when the folder lies in another filesystem.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        syscall::pin(self.0.as_fd(), &c_path(path)?)
    }

    /// Puts another program in the place of the present one; the driver hears of it unless it is the same.
    ///
    /// # Errors
    ///
    /// The kernel's: `ENOLINK` when the device is gone.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        syscall::update_link(self.0.as_fd(), program)
    }

    /// Takes the program off its device, whoever else has the link or a pin of it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn detach(&self) -> io::Result<()> {
        syscall::detach_link(self.0.as_fd())
    }
}

/// The id of the program that is asked first about what leaves a device, of those at the hook that the kernel calls tcx. What it passes for
/// good no other is asked about. `None` if there is none.
///
/// # Errors
///
/// The kernel's: `ENODEV` when the device is gone.
pub fn first_at_egress(device: u32) -> io::Result<Option<u32>> {
    syscall::first_tcx_egress(device)
}

impl AsFd for BpfLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
