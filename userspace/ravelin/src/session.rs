//! The SSH connection that a command was started from.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use nix::unistd::getppid;
use ravelin_policy::Management;

/// What OpenSSH calls it.
const VARIABLE: &str = "SSH_CONNECTION";

/// Processes between the command and the session's shell that are looked at: sudo, su, their monitors, scripts.
const MOST_ANCESTORS: usize = 32;

/// Largest environment that is looked at, in bytes.
const LARGEST: u64 = 1 << 20;

/// The connection, if the command was started from one. It says so if it cannot be read.
pub(crate) fn ssh_session() -> Option<Management> {
    let text = std::env::var_os(VARIABLE).or_else(of_an_ancestor)?;
    // Who wants no session to be seen says so.
    if text.is_empty() {
        return None;
    }
    let session = text.to_str().and_then(Management::of_ssh_connection);
    if session.is_none() {
        eprintln!(
            "SSH_CONNECTION is {}, which names no two addresses; this session has no lifeline, and whether it would be \
             locked out is not checked",
            text.display()
        );
    }
    session
}

/// The same behind sudo, `su -` and whatever else takes the variable away: what the processes had that it was called from. Who may call
/// them can give any, as with the variable itself; the engine opens this machine's address only, and for one client. A process
/// that may not be looked at is passed over: it may be the one that has become root.
fn of_an_ancestor() -> Option<OsString> {
    let mut process = getppid().as_raw();
    for _ in 0..MOST_ANCESTORS {
        if process <= 1 {
            return None;
        }
        let folder = PathBuf::from(format!("/proc/{process}"));
        let mut environment = Vec::new();
        let read = File::open(folder.join("environ"))
            .and_then(|file| file.take(LARGEST).read_to_end(&mut environment));
        if let Some(value) = read.ok().and_then(|_| variable(&environment)) {
            return Some(value);
        }
        process = parent(&std::fs::read_to_string(folder.join("stat")).ok()?)?;
    }
    None
}

/// The variable in what `/proc/PID/environ` holds.
fn variable(environment: &[u8]) -> Option<OsString> {
    let mut entries = environment.split(|byte| *byte == 0);
    let name: &OsStr = VARIABLE.as_ref();
    entries.find_map(|entry| {
        let value = entry.strip_prefix(name.as_encoded_bytes())?.strip_prefix(b"=")?;
        Some(OsString::from_vec(value.to_vec()))
    })
}

/// The parent in what `/proc/PID/stat` holds. A name may hold anything, so the fields count from its end (proc_pid_stat(5)).
fn parent(stat: &str) -> Option<i32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{parent, variable};

    #[test]
    fn what_proc_says_of_a_process_is_read() {
        assert_eq!(parent("7 (a) b) S 42 7 7 0"), Some(42));
        assert_eq!(parent("7 (sudo) S"), None);
        let environment = b"A=1\0XSSH_CONNECTION=no\0SSH_CONNECTION=1 2 3 4\0B=2\0";
        assert_eq!(variable(environment), Some("1 2 3 4".into()));
        assert_eq!(variable(b"A=1\0"), None);
    }
}
