//! Files that are read without ever being waited for.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

/// An open regular file, or one behind symbolic links.
///
/// Whoever may name a file may name a pipe that nobody writes to, and whoever opened that would wait for ever. Only a
/// file system that does not answer can still stop a reader of this.
#[derive(Debug)]
pub struct RegularFile(File);

impl RegularFile {
    /// Opens a file to read it.
    ///
    /// # Errors
    /// It cannot be opened, or is something else than a regular file; what it is stands in the error.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Opening alone can do something to a device.
        check(std::fs::metadata(path)?.file_type())?;
        let file = OpenOptions::new()
            .read(true)
            // It may have become a pipe or a terminal since. std adds O_CLOEXEC.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        check(file.metadata()?.file_type())?;
        Ok(Self(file))
    }

    /// What is known about it. Files of /proc have no bytes until they are read.
    ///
    /// # Errors
    /// The file system does not know.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }
}

impl Read for RegularFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            // Such as /proc/kmsg, which calls itself regular.
            io::ErrorKind::WouldBlock => io::Error::other(
                "more of it will only come some time, as from a pipe; copy what there is to a file, and name that",
            ),
            _ => error,
        })
    }
}

fn check(kind: FileType) -> io::Result<()> {
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "this is a directory; name the file in it",
        ));
    } else if kind.is_fifo() {
        "pipe"
    } else if kind.is_socket() {
        "socket"
    } else {
        "device"
    };
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("this is a {what}, not a regular file"),
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::process::Command;

    use super::RegularFile;

    #[test]
    fn only_regular_files_are_opened_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        symlink("file", path("link")).unwrap();
        for name in ["file", "link"] {
            let mut text = String::new();
            let mut file = RegularFile::open(&path(name)).unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "text");
        }
        let made = Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        assert!(made.success());
        symlink("pipe", path("link to a pipe")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        for (name, what) in [
            ("pipe", "this is a pipe, not a regular file"),
            ("link to a pipe", "this is a pipe, not a regular file"),
            ("socket", "this is a socket, not a regular file"),
            ("/dev/zero", "this is a device, not a regular file"),
            (".", "this is a directory; name the file in it"),
        ] {
            let error = RegularFile::open(&path(name)).unwrap_err();
            assert_eq!(error.to_string(), what, "{name}");
        }
    }

    #[test]
    fn a_regular_file_that_would_wait_for_more_is_an_error() {
        let mut log = RegularFile::open(Path::new("/proc/kmsg")).expect("needs root");
        let error = log.read_to_end(&mut Vec::new()).unwrap_err().to_string();
        assert!(
            error.starts_with("more of it will only come some time"),
            "{error}"
        );
    }
}
