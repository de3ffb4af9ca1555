//! The kernel's side: its SAs and policies by `ip xfrm`, and what it counts.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use anyhow::{Context as _, Result};
use ravelin_esp::Protocol;

use crate::{
    algorithm,
    case::{Case, Direction, Family, Generation, Shape, TFC_LEN},
    ip,
    namespace::Namespace,
    topology::UDP_PORTS,
};

/// Numbers that the kernel's replay window spans.
const REPLAY_WINDOW: u32 = 128;

/// Of the policies that demand ESP. A smaller number goes first.
const PRIORITY: u32 = 1000;

/// Lines that let UDP-encapsulated ESP reach its socket, though a policy demands ESP of all that the peer sends. IKE
/// daemons do the same with a policy of the socket.
pub(crate) fn encapsulation_bypass(port: u16) -> String {
    ["0.0.0.0/0", "::/0"]
        .map(|any| format!("xfrm policy add src {any} dst {any} proto 17 dport {port} dir in priority 1\n"))
        .concat()
}

/// Lines for `ip -batch` that add both SAs of a generation.
pub(crate) fn add_states(case: &Case, generation: Generation) -> String {
    [Direction::ToTheirs, Direction::ToOurs]
        .map(|direction| add_state(case, direction, generation))
        .concat()
}

/// A line that has the kernel send ESP in UDP from another port.
pub(crate) fn change_port(case: &Case, generation: Generation, port: u16) -> String {
    let [ours, theirs] = UDP_PORTS;
    // Of an SA that is there only the ports change: not its numbers.
    add_state(case, Direction::ToOurs, generation)
        .replace("state add", "state update")
        .replace(
            &format!("espinudp {theirs} {ours}"),
            &format!("espinudp {port} {ours}"),
        )
}

fn add_state(case: &Case, direction: Direction, generation: Generation) -> String {
    let mut line = format!("xfrm state add {}", id(case, direction, generation));
    // iproute2's `reqid` ties an SA to the policy whose packets it carries.
    let _ = write!(line, " reqid {} mode {}", case.number, mode(case));
    let _ = write!(line, " replay-window {REPLAY_WINDOW}");
    let flags = flags(case);
    if !flags.is_empty() {
        let _ = write!(line, " flag {}", flags.join(" "));
    }
    if case.tfc {
        let _ = write!(line, " tfcpad {TFC_LEN}");
    }
    let start = case.start(generation);
    if start != 0 {
        let (high, low) = (start >> 32, start as u32);
        let o = match direction {
            Direction::ToTheirs => "",
            Direction::ToOurs => "o",
        };
        let _ = write!(line, " replay-{o}seq-hi {high:#x} replay-{o}seq {low:#x}");
    }
    if case.udp {
        let (source_port, destination_port) = direction.udp_ports();
        let any = match case.outer() {
            Family::V4 => "0.0.0.0",
            Family::V6 => "::",
        };
        let _ = write!(line, " encap espinudp {source_port} {destination_port} {any}");
    }
    let key_material = case.key_material(direction, generation);
    let arguments = match case.protocol {
        Protocol::Esp => algorithm::esp_arguments(case.algorithm, &key_material),
        Protocol::Ah => algorithm::ah_arguments(case.algorithm, &key_material),
    };
    let _ = writeln!(line, " {arguments}");
    line
}

fn flags(case: &Case) -> Vec<&'static str> {
    let mut flags = Vec::new();
    if case.extended {
        flags.push("esn");
    }
    // Either family inside.
    if matches!(case.shape, Shape::Tunnel { .. }) {
        flags.push("af-unspec");
    }
    // Linux fills AH up to multiples of 8 bytes, which over IPv4 RFC 4302 section 2.6 does not, unless told otherwise.
    if case.protocol == Protocol::Ah && case.outer() == Family::V4 {
        flags.push("align4");
    }
    flags
}

/// A line that deletes one SA.
pub(crate) fn delete_state(case: &Case, direction: Direction, generation: Generation) -> String {
    format!("xfrm state delete {}\n", id(case, direction, generation))
}

/// Lines that add or delete (`verb`) the policies of both directions.
pub(crate) fn policies(case: &Case, verb: &str) -> String {
    let bits = match case.inner() {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let policy = |direction| {
        let [source, destination] = ordered(case.addresses(), direction);
        let dir = match direction {
            Direction::ToTheirs => "in",
            Direction::ToOurs => "out",
        };
        let mut line = format!("xfrm policy {verb} src {source}/{bits} dst {destination}/{bits} dir {dir}");
        if verb == "add" {
            let [source, destination] = ordered(case.outer_addresses(), direction);
            let _ = write!(
                line,
                " priority {PRIORITY} tmpl src {source} dst {destination} proto {} reqid {} mode {}",
                protocol(case),
                case.number,
                mode(case)
            );
        }
        line.push('\n');
        line
    };
    [Direction::ToTheirs, Direction::ToOurs].map(policy).concat()
}

fn id(case: &Case, direction: Direction, generation: Generation) -> String {
    let [source, destination] = ordered(case.outer_addresses(), direction);
    let spi = case.spi(direction, generation);
    format!(
        "src {source} dst {destination} proto {} spi {spi:#x}",
        protocol(case)
    )
}

fn protocol(case: &Case) -> &'static str {
    match case.protocol {
        Protocol::Esp => "esp",
        Protocol::Ah => "ah",
    }
}

fn mode(case: &Case) -> &'static str {
    match case.shape {
        Shape::Tunnel { .. } => "tunnel",
        Shape::Transport(_) => "transport",
    }
}

/// Source and destination, of what is ours and what is theirs.
fn ordered<T>([ours, theirs]: [T; 2], direction: Direction) -> [T; 2] {
    match direction {
        Direction::ToTheirs => [ours, theirs],
        Direction::ToOurs => [theirs, ours],
    }
}

/// What the kernel says of one SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The highest number received.
    pub(crate) received: u64,
    /// The last number sent.
    pub(crate) sent: u64,
    /// Packets through it.
    pub(crate) packets: u64,
    /// Packets below the window.
    pub(crate) old: u64,
    /// Packets whose number was received before.
    pub(crate) replayed: u64,
    /// Packets whose ICV was wrong.
    pub(crate) failed: u64,
}

/// All SAs of the kernel, by SPI.
pub(crate) fn states(namespace: &Namespace) -> Result<HashMap<u32, State>> {
    parse_states(&ip::output(namespace.name(), &["-s", "xfrm", "state"])?)
}

/// Reads what `ip -s xfrm state` prints, which knows no JSON.
fn parse_states(text: &str) -> Result<HashMap<u32, State>> {
    let mut states = HashMap::new();
    let mut current = (0, State::default());
    for line in text.lines() {
        let words: Vec<&str> = line
            .split_whitespace()
            .map(|word| word.trim_end_matches(','))
            .collect();
        let context = || format!("`ip -s xfrm state` printed '{line}'");
        match *words.as_slice() {
            ["proto", "esp" | "ah", "spi", spi, ..] => {
                let (spi, _) = spi.split_once('(').with_context(context)?;
                current = (
                    u32::try_from(number(spi).with_context(context)?)?,
                    State::default(),
                );
            }
            ["seq-hi", seq_hi, "seq", seq, "oseq-hi", oseq_hi, "oseq", oseq] => {
                let [seq_hi, seq, oseq_hi, oseq] = [seq_hi, seq, oseq_hi, oseq].map(number);
                current.1.received = seq_hi.with_context(context)? << 32 | seq.with_context(context)?;
                current.1.sent = oseq_hi.with_context(context)? << 32 | oseq.with_context(context)?;
            }
            [_, packets] if packets.ends_with("(packets)") => {
                let packets = packets.trim_end_matches("(packets)");
                current.1.packets = number(packets).with_context(context)?;
            }
            ["replay-window", old, "replay", replayed, "failed", failed] => {
                let [old, replayed, failed] = [old, replayed, failed].map(number);
                current.1.old = old.with_context(context)?;
                current.1.replayed = replayed.with_context(context)?;
                current.1.failed = failed.with_context(context)?;
                // The last line of a state.
                states.insert(current.0, current.1);
            }
            _ => {}
        }
    }
    Ok(states)
}

fn number(text: &str) -> Result<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .with_context(|| format!("'{text}' is no number"))
}

/// The namespace's counters of errors that are not 0 (/proc/net/xfrm_stat).
pub(crate) fn errors(namespace: &Namespace) -> Result<BTreeMap<String, u64>> {
    let text = namespace.proc_net("xfrm_stat")?;
    let counter = |line: &str| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    Ok(text
        .lines()
        .filter_map(counter)
        .filter(|(_, value)| *value != 0)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::{State, parse_states};

    /// Printed by iproute2 6.1.
    const STATES: &str = "\
src 192.0.2.2 dst 192.0.2.1
\tproto esp spi 0x00001002(4098) reqid 1(0x00000001) mode tunnel
\treplay-window 0 seq 0x00000000 flag esn (0x10000000)
\taead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f00112233 (160 bits) 64
\tanti-replay esn context:
\t seq-hi 0x1, seq 0x5, oseq-hi 0x0, oseq 0xfffffff0
\t replay_window 64, bitmap-length 2
\t 00000000 00000000 
\tsel src 0.0.0.0/0 dst 0.0.0.0/0 uid 0
\tlifetime config:
\t  limit: soft (INF)(bytes), hard (INF)(bytes)
\t  limit: soft (INF)(packets), hard (INF)(packets)
\t  expire add: soft 0(sec), hard 0(sec)
\t  expire use: soft 0(sec), hard 0(sec)
\tlifetime current:
\t  700(bytes), 7(packets)
\t  add 2026-11-26 06:32:24 use -
\tstats:
\t  replay-window 1 replay 2 failed 3
";

    #[test]
    fn what_iproute2_prints_is_read() {
        let states = parse_states(STATES).unwrap();
        let expected = State {
            received: 0x1_0000_0005,
            sent: 0xffff_fff0,
            packets: 7,
            old: 1,
            replayed: 2,
            failed: 3,
        };
        assert_eq!(states.into_iter().collect::<Vec<_>>(), [(0x1002, expected)]);
    }
}
