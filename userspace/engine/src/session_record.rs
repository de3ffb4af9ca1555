//! The SSH connection that has a lifeline, on disk: an engine that is started again goes on with it as long as the connection is there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ravelin_keying::make_folder;
use ravelin_policy::Management;

use crate::held::Held;

/// Its name in the state folder.
const FILE: &str = "session.json";

/// `TCP_ESTABLISHED` of `include/net/tcp_states.h`, as `/proc/net/tcp` writes it.
const ESTABLISHED: &str = "01";

/// The record of an instance.
#[derive(Debug)]
pub(crate) struct SessionRecord {
    folder: PathBuf,
    /// What it says; `None` inside where it was not read or written yet.
    written: Option<Option<Held>>,
}

impl SessionRecord {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            written: None,
        }
    }

    /// The session of an engine before, if it is still connected. What cannot be read is none.
    pub(crate) fn read(&self) -> Option<Held> {
        let text = fs::read(self.folder.join(FILE)).ok()?;
        let held: Held = serde_json::from_slice(&text).ok()?;
        is_connected(held.management()).then_some(held)
    }

    /// Has it say this.
    ///
    /// # Errors
    ///
    /// The system's; then the session ends with the process.
    pub(crate) fn keep(&mut self, held: Option<&Held>) -> io::Result<()> {
        if self
            .written
            .as_ref()
            .is_some_and(|written| written.as_ref() == held)
        {
            return Ok(());
        }
        // It is tried again with the next change.
        self.written = Some(held.cloned());
        let path = self.folder.join(FILE);
        let Some(held) = held else {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        };
        make_folder(&self.folder, 0o700)?;
        let fresh = self.folder.join(format!("{FILE}.new"));
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(held)?)?;
        file.sync_all()?;
        fs::rename(fresh, path)
    }
}

/// Whether the kernel, in this network namespace, has a connection of this client to this service.
fn is_connected(management: Management) -> bool {
    ["tcp", "tcp6"].iter().any(|family| {
        let table = fs::read_to_string(Path::new("/proc/thread-self/net").join(family));
        table.is_ok_and(|table| table.lines().any(|line| is_connection(line, management)))
    })
}

/// Whether a line of `/proc/net/tcp` is about this.
fn is_connection(line: &str, Management { client, own, port }: Management) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let ends = (words.next().and_then(end), words.next().and_then(end));
    let (Some((local, local_port)), Some((remote, _))) = ends else {
        return false;
    };
    words.next() == Some(ESTABLISHED) && (local, local_port, remote) == (own, port, client)
}

/// An address and port there: words of memory in hexadecimal, and the port as a number (proc_net_tcp(5)).
fn end(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(8 * at..8 * at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::held::Comes;

    /// The kernel writes the table, so whatever it writes there must be understood.
    #[test]
    fn a_session_is_forgotten_when_its_connection_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let own = listener.local_addr().unwrap();
            let management = Management {
                client: own.ip().to_canonical(),
                own: own.ip().to_canonical(),
                port: own.port(),
            };
            let held = Held::new(management, Comes::Inside("c".to_owned()));
            let state = folder.path().join("made");
            let mut record = SessionRecord::new(state.clone());
            record.keep(Some(&held)).unwrap();
            assert_eq!(
                SessionRecord::new(state.clone()).read(),
                None,
                "nobody is connected to {own}"
            );
            let stream = TcpStream::connect(own).unwrap();
            assert_eq!(SessionRecord::new(state.clone()).read(), Some(held), "{own}");
            drop(stream);
            assert_eq!(SessionRecord::new(state.clone()).read(), None, "{own}");
            record.keep(None).unwrap();
            assert!(!state.join(FILE).exists());
        }
        assert_eq!(SessionRecord::new(folder.path().join("none")).read(), None);
    }
}
