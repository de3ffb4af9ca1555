//! What the two ends say to each other: pings, datagrams and connections, all content checked.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    case::{Case, Direction, Family, Shape, splitmix},
    session::{PATIENCE, Session},
};

const DIRECTIONS: [Direction; 2] = [Direction::ToTheirs, Direction::ToOurs];
const ICMP_HEADER: usize = 8;

/// Bytes in each direction of a TCP connection; more than one segment, less than a socket's buffer.
const STREAM: usize = 12_000;

/// Everything once, in both directions.
pub(crate) fn exchange(session: &Session<'_>) -> Result<()> {
    let case = &session.case;
    for direction in DIRECTIONS {
        for (sequence, len) in ping_sizes(case).into_iter().enumerate() {
            ping(session, direction, sequence as u16 + 1, len)
                .with_context(|| format!("ping of {len} bytes {direction}"))?;
        }
        for len in [0, 1, 1000 + usize::from(case.number) % 16, 2900] {
            session.deliver(direction, &payload(case, len))?;
        }
        connection(session, direction).with_context(|| format!("TCP {direction}"))?;
    }
    Ok(())
}

/// Sizes of payloads, from nothing to what needs fragments, and near the MTU one that differs between cases.
fn ping_sizes(case: &Case) -> Vec<usize> {
    let near_mtu = 1300 + usize::from(case.number) * 7 % 200;
    let mut sizes = vec![0, 56, near_mtu, 3000];
    // Longer than the clear link's MTU. Fragments cannot travel in transport mode (RFC 4303 section 3.3.4).
    if let Shape::Tunnel {
        inner: Family::V4, ..
    } = case.shape
    {
        sizes.push(5000);
    }
    sizes
}

/// An echo request and its reply; the other end's kernel answers.
fn ping(session: &Session<'_>, direction: Direction, sequence: u16, len: usize) -> Result<()> {
    let (sender, receiver) = session.ends(direction);
    let (request, reply) = match sender.address {
        address if address.is_ipv4() => (8, 0),
        _ => (128, 129),
    };
    let [high, low] = sequence.to_be_bytes();
    // The kernel fills in checksum and identifier.
    let mut message = vec![request, 0, 0, 0, 0, 0, high, low];
    message.extend(payload(&session.case, len));
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
fn connection(session: &Session<'_>, direction: Direction) -> Result<()> {
    let (client, server) = session.ends(direction);
    let listener = server.listen()?;
    let mut client: TcpStream = client.connect(server)?;
    let (mut server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE))?;
    }
    let question = payload(&session.case, STREAM);
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
