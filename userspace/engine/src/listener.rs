//! Who listens on a Unix socket that takes nobody in: there is no peer to be asked for its credentials.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// `__SO_ACCEPTCON` of `linux/net.h`: the flag of a socket that listens, as unix_seq_show (net/unix/af_unix.c) prints it.
const LISTENS: &str = "00010000";

/// The process that listens on a socket file; `None` if none is to be seen from here. Looks at every process, so it is for when something
/// is wrong.
pub(crate) fn listener(path: &Path) -> Option<u32> {
    let path = path.canonicalize().ok()?;
    // The kernel tells of the sockets of a network namespace, and the engine may be in any.
    let mut seen: HashMap<PathBuf, Vec<String>> = HashMap::new();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let processes =
        processes.filter_map(|entry| Some((entry.path(), entry.file_name().to_str()?.parse().ok()?)));
    processes
        .into_iter()
        .find_map(|(folder, process): (PathBuf, u32)| {
            let namespace = fs::read_link(folder.join("ns/net")).ok()?;
            let sockets = seen.entry(namespace).or_insert_with(|| {
                let table = fs::read_to_string(folder.join("net/unix")).unwrap_or_default();
                listening(&table, &path)
                    .map(|inode| format!("socket:[{inode}]"))
                    .collect()
            });
            if sockets.is_empty() {
                return None;
            }
            let mut descriptors = fs::read_dir(folder.join("fd")).ok()?.flatten();
            let has = |target: PathBuf| sockets.iter().any(|socket| target.as_os_str() == socket.as_str());
            descriptors
                .any(|entry| fs::read_link(entry.path()).is_ok_and(has))
                .then_some(process)
        })
}

/// The inodes of the sockets that listen at a path, by `/proc/PID/net/unix`. It may have been given to them as a relative one.
fn listening<'a>(table: &'a str, path: &'a Path) -> impl Iterator<Item = &'a str> {
    table.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, _, _, flags, _, _, inode, .., _] = fields[..] else {
            return None;
        };
        // A path may hold blanks.
        let (_, at) = line.split_once(&format!(" {inode} "))?;
        let at = Path::new(at);
        let same = match at.is_absolute() {
            true => at == path || at.canonicalize().is_ok_and(|at| at == path),
            false => path.ends_with(at),
        };
        (flags == LISTENS && same).then_some(inode)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;

    use super::{listener, listening};

    #[test]
    fn who_listens_is_told_from_who_is_connected() {
        let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 41 /run/ravelin/a b.sock
0000000000000000: 00000003 00000000 00000000 0001 03 42 /run/ravelin/a b.sock
0000000000000000: 00000002 00000000 00010000 0001 01 43 ravelin/a b.sock
0000000000000000: 00000002 00000000 00010000 0001 01 44 /run/ravelin/b.sock
0000000000000000: 00000002 00000000 00010000 0001 01 45
";
        let at = |path| listening(table, Path::new(path)).collect::<Vec<_>>();
        assert_eq!(at("/run/ravelin/a b.sock"), ["41", "43"]);
        assert_eq!(at("/run/ravelin/b.sock"), ["44"]);
        assert_eq!(at("/run/ravelin/c.sock"), Vec::<&str>::new());
    }

    #[test]
    fn this_process_is_found_by_its_socket() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("one.sock");
        let socket = UnixListener::bind(&path).expect("a socket");
        let _client = UnixStream::connect(&path).expect("connected");
        assert_eq!(listener(&path), Some(std::process::id()));
        drop(socket);
        assert_eq!(listener(&path), None);
    }
}
