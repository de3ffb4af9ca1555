//! The addresses behind the names of a policy: DNS names by the system's resolver, and what the machine itself knows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Read as _};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use ravelin_policy::RegularFile;

use crate::netlink::Questions;

/// How long looking up all names of a policy may take together.
const LONGEST: Duration = Duration::from_secs(10);

/// Names that are looked up at a time.
const THREADS: usize = 8;

/// Addresses of one name that are kept.
const MOST_ADDRESSES: usize = 1024;

/// Bytes of a configuration file that are read.
const LARGEST_FILE: u64 = 1 << 20;

/// The first hops of default routes.
const GATEWAY: &str = "gateway";
/// The machine's DNS servers.
const DNS_SERVERS: &str = "dns-servers";
/// The machine's DHCP servers.
const DHCP_SERVERS: &str = "dhcp-servers";

/// What came of looking up names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lookup {
    /// Addresses in order, at least one for each name.
    pub(crate) found: BTreeMap<String, Vec<IpAddr>>,
    /// Why others have none.
    pub(crate) failed: BTreeMap<String, String>,
}

/// Whether the machine itself knows what the name stands for; having none of them is no mistake.
pub(crate) fn is_well_known(name: &str) -> bool {
    [GATEWAY, DNS_SERVERS, DHCP_SERVERS].contains(&name)
}

/// Looks names up; takes ten seconds at most, whatever DNS servers and file systems do.
pub(crate) fn look_up<'n>(names: impl IntoIterator<Item = &'n str>) -> Lookup {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let mut lookup = Lookup::default();
    let (answers, receiver) = unbounded();
    // What the machine itself knows comes first: it is not to wait for DNS servers.
    let (own, foreign): (Vec<&str>, Vec<&str>) = names.iter().copied().partition(|name| is_well_known(name));
    let queue = Arc::new(Queue {
        names: Mutex::new(own.into_iter().chain(foreign).map(str::to_owned).collect()),
        over: AtomicBool::new(false),
    });
    for _ in 0..THREADS.min(names.len()) {
        let (queue, answers) = (Arc::clone(&queue), answers.clone());
        // Not waited for: a look-up cannot be called off, and ends by itself some time.
        let started = std::thread::Builder::new()
            .name("ravelin-names".to_owned())
            .spawn(move || queue.work(&answers));
        if started.is_err() {
            break;
        }
    }
    drop(answers);
    let deadline = Instant::now() + LONGEST;
    while let Ok((name, answer)) = receiver.recv_deadline(deadline) {
        lookup.note(name, answer);
    }
    queue.over.store(true, Ordering::Relaxed);
    for name in names {
        if !lookup.found.contains_key(name) && !lookup.failed.contains_key(name) {
            let why = format!("no answer within {} s", LONGEST.as_secs());
            lookup.failed.insert(name.to_owned(), why);
        }
    }
    lookup
}

impl Lookup {
    fn note(&mut self, name: String, answer: io::Result<Vec<IpAddr>>) {
        match answer {
            Ok(addresses) if addresses.is_empty() => {
                self.failed.insert(name, "it has no address".to_owned());
            }
            Ok(mut addresses) => {
                addresses.sort_unstable();
                addresses.dedup();
                addresses.truncate(MOST_ADDRESSES);
                self.found.insert(name, addresses);
            }
            Err(error) => {
                self.failed.insert(name, error.to_string());
            }
        }
    }
}

/// Names that wait for a thread.
struct Queue {
    names: Mutex<VecDeque<String>>,
    over: AtomicBool,
}

impl Queue {
    fn work(&self, answers: &Sender<(String, io::Result<Vec<IpAddr>>)>) {
        while !self.over.load(Ordering::Relaxed) {
            let next = self
                .names
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(name) = next else { return };
            let answer = addresses(&name);
            if answers.send((name, answer)).is_err() {
                return;
            }
        }
    }
}

fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    match name {
        GATEWAY => gateways(),
        DNS_SERVERS => dns_servers(),
        DHCP_SERVERS => Ok(dhcp_servers()),
        _ => Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect()),
    }
}

/// The next hops of default routes, from whatever table.
fn gateways() -> io::Result<Vec<IpAddr>> {
    let mut questions = Questions::open()?;
    let mut gateways = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        for answer in questions.dump(RouteNetlinkMessage::GetRoute(message))? {
            match answer {
                RouteNetlinkMessage::NewRoute(route) if route.header.destination_prefix_length == 0 => {
                    hops(&route.attributes, &mut gateways);
                }
                _ => {}
            }
        }
    }
    Ok(gateways)
}

fn hops(attributes: &[RouteAttribute], gateways: &mut Vec<IpAddr>) {
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) | RouteAttribute::Via(RouteVia::Inet(v4)) => {
                gateways.push((*v4).into());
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) | RouteAttribute::Via(RouteVia::Inet6(v6)) => {
                gateways.push((*v6).into());
            }
            RouteAttribute::MultiPath(paths) => {
                for path in paths {
                    // Paths hold no further paths.
                    let single = path
                        .attributes
                        .iter()
                        .filter(|attribute| !matches!(attribute, RouteAttribute::MultiPath(_)));
                    for attribute in single {
                        hops(std::slice::from_ref(attribute), gateways);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Name servers as the system's resolver has them; behind systemd-resolved's own, those that it asks.
fn dns_servers() -> io::Result<Vec<IpAddr>> {
    let servers = name_servers(&read(Path::new("/etc/resolv.conf"))?);
    if servers.iter().all(IpAddr::is_loopback)
        && let Ok(behind) = read(Path::new("/run/systemd/resolve/resolv.conf"))
    {
        return Ok([servers, name_servers(&behind)].concat());
    }
    Ok(servers)
}

/// `nameserver ADDRESS` lines of resolv.conf(5). A zone, as in `fe80::1%eth0`, is cut off.
fn name_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver"))
                .then(|| words.next()?.split('%').next()?.parse().ok())
                .flatten()
        })
        .collect()
}

/// The servers of the leases that systemd-networkd and dhclient hold.
fn dhcp_servers() -> Vec<IpAddr> {
    let networkd = files("/run/systemd/netif/leases", "");
    let dhclient = ["/var/lib/dhcp", "/var/lib/dhclient"]
        .into_iter()
        .flat_map(|folder| files(folder, ".leases"));
    networkd
        .iter()
        .filter_map(|path| read(path).ok())
        .flat_map(|text| networkd_servers(&text))
        .chain(
            dhclient
                .filter_map(|path| read(&path).ok())
                .flat_map(|text| dhclient_servers(&text)),
        )
        .collect()
}

/// `SERVER_ADDRESS=ADDRESS`, as sd-dhcp-lease writes it.
fn networkd_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.strip_prefix("SERVER_ADDRESS=")?.trim().parse().ok())
        .collect()
}

/// `option dhcp-server-identifier ADDRESS;` of dhclient.leases(5), of the last lease, which is the newest.
fn dhclient_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("option dhcp-server-identifier ")?
                .strip_suffix(';')?
                .parse()
                .ok()
        })
        .next_back()
        .into_iter()
        .collect()
}

fn files(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_str().is_some_and(|path| path.ends_with(suffix)))
        .take(256)
        .collect();
    files.sort_unstable();
    files
}

fn read(path: &Path) -> io::Result<String> {
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut text = String::new();
    RegularFile::open(path)
        .map_err(failed)?
        .take(LARGEST_FILE)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{dhclient_servers, look_up, name_servers, networkd_servers};

    #[test]
    fn servers_are_read_from_the_files_that_name_them() {
        let resolv = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 192.0.2.53\nnameserver\tfe80::1%eth0\n\
                      nameserver\nnameserver nonsense\n";
        assert_eq!(
            name_servers(resolv),
            [
                "192.0.2.53".parse::<std::net::IpAddr>().unwrap(),
                "fe80::1".parse().unwrap()
            ]
        );
        let lease = "ADDRESS=192.0.2.7\nSERVER_ADDRESS=192.0.2.1\nROUTER=192.0.2.2\n";
        assert_eq!(
            networkd_servers(lease),
            ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]
        );
        let leases = "lease {\n  option dhcp-server-identifier 192.0.2.1;\n}\nlease {\n  option dhcp-server-identifier 192.0.2.3;\n}\n";
        assert_eq!(
            dhclient_servers(leases),
            ["192.0.2.3".parse::<std::net::IpAddr>().unwrap()]
        );
    }

    #[test]
    fn every_name_gets_an_answer_of_some_kind() {
        // RFC 6761 section 6.4: names under `.invalid` do not exist.
        let lookup = look_up(["localhost", "nosuch.invalid", "gateway", "dhcp-servers"]);
        assert!(
            lookup.found["localhost"]
                .iter()
                .all(std::net::IpAddr::is_loopback)
        );
        assert!(lookup.failed.contains_key("nosuch.invalid"));
        assert_eq!(lookup.found.len() + lookup.failed.len(), 4);
    }
}
