//! What the two ends say to each other: pings, datagrams and connections, all content checked.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    case::{Case, Direction, Family, Shape, splitmix},
    hosts::{Hosts, PATIENCE},
};

const DIRECTIONS: [Direction; 2] = [Direction::ToTheirs, Direction::ToOurs];
const ICMP_HEADER: usize = 8;

/// Bytes in each direction of a TCP connection; more than one segment, less than a socket's buffer.
const STREAM: usize = 6_000;

/// How long messages are, in bytes of payload.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pings: Vec<usize>,
    datagrams: Vec<usize>,
}

impl Sizes {
    /// From nothing to nearly what an outer link takes; some differ between cases.
    pub(crate) fn whole(case: &Case) -> Self {
        let number = usize::from(case.number);
        let least = least(case);
        Self {
            pings: vec![least, 56, 1000 + number * 7 % 200],
            datagrams: vec![least, least + 1, 1000 + number % 16],
        }
    }

    /// Also those around the outer link's MTU, and beyond it.
    pub(crate) fn all(case: &Case) -> Self {
        let mut sizes = Self::whole(case);
        sizes
            .pings
            .extend([1300 + usize::from(case.number) * 7 % 200, 3000]);
        sizes.datagrams.push(2900);
        // Longer than the clear link's MTU. Fragments cannot travel in transport mode (RFC 4303 section 3.3.4).
        if let Shape::Tunnel {
            inner: Family::V4, ..
        } = case.shape
        {
            sizes.pings.push(5000);
        }
        sizes
    }
}

/// The shortest payload that arrives.
///
/// Linux drops ESP in UDP over IPv6 that has less than 40 bytes: it holds the length behind the IPv6 header against one
/// that includes it (`ip6hlen + len` in __xfrm6_udp_encap_rcv, net/ipv6/xfrm6_input.c).
fn least(case: &Case) -> usize {
    match case.shape {
        Shape::Transport(Family::V6) if case.udp => 12,
        _ => 0,
    }
}

/// Everything once, in both directions.
pub(crate) fn exchange(hosts: &Hosts<'_>, case: &Case, sizes: &Sizes) -> Result<()> {
    for direction in DIRECTIONS {
        for (len, sequence) in sizes.pings.iter().zip(1..) {
            ping(hosts, case, direction, sequence, *len)
                .with_context(|| format!("ping of {len} bytes {direction}"))?;
        }
        for len in &sizes.datagrams {
            hosts.deliver(direction, &payload(case, *len))?;
        }
        connection(hosts, case, direction).with_context(|| format!("TCP {direction}"))?;
    }
    Ok(())
}

/// An echo request and its reply; the other end's kernel answers.
fn ping(hosts: &Hosts<'_>, case: &Case, direction: Direction, sequence: u16, len: usize) -> Result<()> {
    let (sender, receiver) = hosts.ends(direction);
    let (request, reply) = match sender.address {
        address if address.is_ipv4() => (8, 0),
        _ => (128, 129),
    };
    let [high, low] = sequence.to_be_bytes();
    // The kernel fills in checksum and identifier.
    let mut message = vec![request, 0, 0, 0, 0, 0, high, low];
    message.extend(payload(case, len));
    sender
        .ping
        .send_to(&message, SocketAddr::new(receiver.address, 0))
        .context("cannot send")?;
    let mut buffer = vec![0; message.len() + 1];
    let (received, source) = sender.ping.recv_from(&mut buffer).context("no reply")?;
    ensure!(source.ip() == receiver.address, "a reply came from {source}");
    let answer = &buffer[..received];
    if answer.len() < ICMP_HEADER || answer[0] != reply || answer[6..8] != [high, low] {
        bail!("not the reply: {:02x?}", &answer[..answer.len().min(ICMP_HEADER)]);
    }
    ensure!(
        answer[ICMP_HEADER..] == message[ICMP_HEADER..],
        "the reply's content differs"
    );
    Ok(())
}

/// Opens a connection in `direction`, sends both ways at once, and closes it in order.
fn connection(hosts: &Hosts<'_>, case: &Case, direction: Direction) -> Result<()> {
    let (client, server) = hosts.ends(direction);
    let listener = server.listen()?;
    let mut client: TcpStream = client.connect(server)?;
    let (mut server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE))?;
    }
    let question = payload(case, STREAM);
    let answer: Vec<u8> = question.iter().rev().copied().collect();
    // Both fit the sockets' buffers, so neither waits for a reader.
    client.write_all(&question)?;
    client.shutdown(Shutdown::Write)?;
    server.write_all(&answer)?;
    let mut received = Vec::new();
    server.read_to_end(&mut received).context("question")?;
    ensure!(received == question, "the question arrived changed");
    server.shutdown(Shutdown::Write)?;
    received.clear();
    client.read_to_end(&mut received).context("answer")?;
    ensure!(received == answer, "the answer arrived changed");
    Ok(())
}

/// `len` bytes that differ from case to case.
pub(crate) fn payload(case: &Case, len: usize) -> Vec<u8> {
    let mut state = u64::from(case.number) << 32 | len as u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(splitmix(&mut state).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
