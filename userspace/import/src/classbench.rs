//! ClassBench filter sets, in which the research on packet classification is published.
//!
//! One rule a line, the first that matches wins (David E. Taylor and Jonathan S. Turner, "ClassBench: A Packet
//! Classification Benchmark", 2005):
//! `@source/length destination/length low : high low : high protocol/mask flags/mask`.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ipnet::IpNet;
use ravelin_policy::{MAX_FILE_BYTES, MAX_FILTERS, MAX_RULES};

use crate::findings::{Findings, ImportErrors, quote};
use crate::imported::{Imported, read_back};
use crate::source::Source;

/// Most protocols that a protocol with a partial mask is written out to.
const MAX_PROTOCOLS: usize = 16;

/// Bytes of rules from which on a new part of the policy begins: some 4,000 rules.
const PART_BYTES: usize = 256 << 10;

/// TCP and UDP, which stand for "any protocol with ports".
const WITH_PORTS: [u8; 2] = [6, 17];

/// What the rules do; ClassBench does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actions {
    /// Every rule permits, and what matches none is blocked.
    Permit,
    /// Every rule blocks, and what matches none is permitted.
    Block,
    /// Rules of odd lines permit, those of even lines block, and what matches none is permitted.
    Alternate,
}

impl Actions {
    fn default(self) -> &'static str {
        match self {
            Self::Permit => "block",
            Self::Block | Self::Alternate => "permit",
        }
    }

    fn of_line(self, line: u32) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Block => "block",
            Self::Alternate if line % 2 == 1 => "permit",
            Self::Alternate => "block",
        }
    }
}

/// Imports a ClassBench filter set.
///
/// The rule of line N is named `rule-N` and has priority N; its filters are not mirrored.
///
/// # Errors
/// Lines that are not ClassBench, or a set that is too large for a policy.
pub fn classbench(source: &Source, actions: Actions) -> Result<Imported, ImportErrors> {
    let mut findings = Findings::new(source.name());
    let mut aside = Aside::default();
    let mut parts: Vec<Part> = Vec::new();
    for (line, text) in source.lines(&mut findings) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let rule = match Line::parse(text) {
            Ok(rule) => rule,
            Err(message) => {
                findings.error(line, message);
                continue;
            }
        };
        let Some(protocols) = rule.protocols(line, &mut findings, &mut aside) else {
            continue;
        };
        if parts.last().is_none_or(|part| part.rules.len() >= PART_BYTES) {
            parts.push(Part::default());
        }
        let Some(part) = parts.last_mut() else { continue };
        let action = actions.of_line(line);
        let _ = writeln!(
            part.rules,
            "{{name=\"rule-{line}\",filter-list=\"{line}\",action=\"{action}\",priority={line}}},"
        );
        rule.write(line, &protocols, &mut part.lists);
        part.count += 1;
        part.filters += protocols.len();
    }
    aside.tell(&mut findings);
    let body = body(actions.default(), &parts);
    let imported = Imported::unread(source, "ClassBench", findings, &body)?;
    check(&imported.policy, &parts).map_err(|message| ImportErrors::one(source.name(), 0, message))?;
    Ok(imported)
}

/// Some of the rules.
#[derive(Debug, Default)]
struct Part {
    rules: String,
    lists: String,
    count: usize,
    filters: usize,
}

/// Rules stand before the tables of filter lists, because an array of a document's top level has to. One line each,
/// without spaces: tables of their own would make 250,000 rules longer than a policy may be.
fn body(default: &str, parts: &[Part]) -> String {
    let mut text = format!("default = \"{default}\"\n\nrules = [\n");
    text.extend(parts.iter().map(|part| part.rules.as_str()));
    text.push_str("]\n\n[filter-lists]\n");
    text.extend(parts.iter().map(|part| part.lists.as_str()));
    text
}

/// Has the policy crate read the parts back, on all processors. Names and priorities are numbers of lines, so what holds for
/// the parts holds for the whole, but for its size.
fn check(policy: &str, parts: &[Part]) -> Result<(), String> {
    for (what, found, most) in [
        ("rules", parts.iter().map(|part| part.count).sum(), MAX_RULES),
        (
            "filters",
            parts.iter().map(|part| part.filters).sum(),
            MAX_FILTERS,
        ),
        (
            "bytes",
            policy.len(),
            usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX),
        ),
    ] {
        if found > most {
            return Err(format!(
                "the set comes to {found} {what}, and a policy has at most {most}; split it"
            ));
        }
    }
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            read_back(&body("permit", std::slice::from_ref(part)))?;
        }
        Ok(())
    };
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(parts.len());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err("reading the result back failed".to_owned()))
        })
    })
}

/// What may hold for every line of a file, told once.
#[derive(Debug, Default)]
struct Aside {
    flags: Seen,
    more: Seen,
    expanded: Seen,
}

#[derive(Debug, Default)]
struct Seen {
    first: u32,
    count: usize,
}

impl Seen {
    fn at(&mut self, line: u32) {
        if self.count == 0 {
            self.first = line;
        }
        self.count += 1;
    }
}

impl Aside {
    fn tell(&self, findings: &mut Findings) {
        let rules = |count| if count == 1 { "rule" } else { "rules" };
        if let Seen {
            first,
            count: count @ 1..,
        } = self.flags
        {
            let message = format!(
                "{count} {} from here on compare TCP flags, which a filter cannot; they were imported without that and match more packets",
                rules(count)
            );
            findings.loss(first, message);
        }
        if let Seen {
            first,
            count: count @ 1..,
        } = self.more
        {
            let message = format!(
                "{count} {} from here on have more columns than addresses, ports, protocol and flags; those were not read",
                rules(count)
            );
            findings.loss(first, message);
        }
        if let Seen {
            first,
            count: count @ 1..,
        } = self.expanded
        {
            let message = format!(
                "{count} {} from here on limit ports but no protocol; they were written out for TCP and UDP",
                rules(count)
            );
            findings.note(first, message);
        }
    }
}

/// One rule as it is written.
#[derive(Debug)]
struct Line {
    source: IpNet,
    destination: IpNet,
    source_ports: RangeInclusive<u16>,
    destination_ports: RangeInclusive<u16>,
    protocol: u8,
    protocol_mask: u8,
    flags_mask: u16,
    more: bool,
}

impl Line {
    fn parse(text: &str) -> Result<Self, String> {
        let Some(text) = text.strip_prefix('@') else {
            return Err(format!(
                "a ClassBench rule starts with `@`, found {}",
                quote(text)
            ));
        };
        let mut rest = Rest(text);
        let source = rest.prefix("source")?;
        let destination = rest.prefix("destination")?;
        let source_ports = rest.ports("source")?;
        let destination_ports = rest.ports("destination")?;
        let (protocol, protocol_mask) = rest.masked("protocol", u32::from(u8::MAX))?;
        let flags_mask = if rest.is_empty() {
            0
        } else {
            rest.masked("flags", u32::from(u16::MAX))?.1
        };
        if source.addr().is_ipv4() != destination.addr().is_ipv4() {
            return Err("the source and the destination are of different families".to_owned());
        }
        Ok(Self {
            source: source.trunc(),
            destination: destination.trunc(),
            source_ports,
            destination_ports,
            protocol: (protocol & protocol_mask) as u8,
            protocol_mask: protocol_mask as u8,
            flags_mask: flags_mask as u16,
            more: !rest.is_empty(),
        })
    }

    /// The protocols to write filters for, `None` in it for any; no list at all when the rule cannot be expressed.
    fn protocols(&self, line: u32, findings: &mut Findings, aside: &mut Aside) -> Option<Vec<Option<u8>>> {
        let any_port = 0..=u16::MAX;
        let ports = self.source_ports != any_port || self.destination_ports != any_port;
        let free = self.protocol_mask.count_zeros();
        let protocols = match free {
            8 if ports => {
                aside.expanded.at(line);
                WITH_PORTS.map(Some).to_vec()
            }
            8 => vec![None],
            _ if 1 << free > MAX_PROTOCOLS => {
                let message = format!(
                    "the protocol's mask {:#04x} stands for {} protocols; the rule was left out",
                    self.protocol_mask,
                    1 << free
                );
                findings.loss(line, message);
                return None;
            }
            _ => (0..=u8::MAX)
                .filter(|protocol| protocol & self.protocol_mask == self.protocol)
                .map(Some)
                .collect(),
        };
        for protocol in protocols.iter().flatten() {
            if let Some(reason) = self.impossible(*protocol, ports) {
                findings.loss(line, format!("{reason}; the rule was left out"));
                return None;
            }
        }
        if self.flags_mask != 0 {
            aside.flags.at(line);
        }
        if self.more {
            aside.more.at(line);
        }
        Some(protocols)
    }

    /// Why a filter cannot have this protocol.
    fn impossible(&self, number: u8, ports: bool) -> Option<String> {
        let protocol = ravelin_policy::Protocol(number);
        if ports && !protocol.has_ports() {
            return Some(format!(
                "protocol {number} has no ports, but the rule limits them"
            ));
        }
        let family = ravelin_policy::Family::of(self.source.addr());
        let only = protocol.family().filter(|only| *only != family)?;
        Some(format!(
            "protocol {number} belongs to {only}, but the addresses are {family}"
        ))
    }

    fn write(&self, line: u32, protocols: &[Option<u8>], text: &mut String) {
        let _ = write!(text, "{line}={{filters=[");
        for (index, protocol) in protocols.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let _ = write!(text, "{comma}{{source=\"");
            write_prefix(self.source, text);
            text.push_str("\",destination=\"");
            write_prefix(self.destination, text);
            text.push('"');
            if let Some(number) = protocol {
                write_protocol(*number, text);
            }
            write_ports("source-port", &self.source_ports, text);
            write_ports("destination-port", &self.destination_ports, text);
            text.push_str(",mirrored=false}");
        }
        text.push_str("]}\n");
    }
}

fn write_prefix(prefix: IpNet, text: &mut String) {
    let _ = if prefix.prefix_len() == prefix.max_prefix_len() {
        write!(text, "{}", prefix.addr())
    } else {
        write!(text, "{prefix}")
    };
}

fn write_protocol(number: u8, text: &mut String) {
    let _ = match number {
        6 => write!(text, ",protocol=\"tcp\""),
        17 => write!(text, ",protocol=\"udp\""),
        number => write!(text, ",protocol={number}"),
    };
}

fn write_ports(key: &str, ports: &RangeInclusive<u16>, text: &mut String) {
    let (low, high) = (ports.start(), ports.end());
    if (*low, *high) == (0, u16::MAX) {
        return;
    }
    let _ = if low == high {
        write!(text, ",{key}={low}")
    } else {
        write!(text, ",{key}=\"{low}-{high}\"")
    };
}

/// What of a line has not been read yet.
struct Rest<'t>(&'t str);

impl<'t> Rest<'t> {
    fn is_empty(&mut self) -> bool {
        self.0 = self.0.trim_start();
        self.0.is_empty()
    }

    /// The longest start of what is left, after white space, that has no white space and no `:`.
    fn word(&mut self, ends_at_colon: bool) -> &'t str {
        let text = self.0.trim_start();
        let end = text
            .find(|c: char| c.is_whitespace() || (ends_at_colon && c == ':'))
            .unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.0 = rest;
        word
    }

    fn prefix(&mut self, what: &str) -> Result<IpNet, String> {
        let word = self.word(false);
        if let Ok(prefix) = word.parse::<IpNet>() {
            return no_mapped(prefix);
        }
        word.parse::<IpAddr>()
            .map_err(|_| format!("the {what} is not address/length but {}", quote(word)))
            .and_then(|address| no_mapped(address.into()))
    }

    fn ports(&mut self, what: &str) -> Result<RangeInclusive<u16>, String> {
        let low = self.port(what)?;
        let Some(rest) = self.0.trim_start().strip_prefix(':') else {
            return Err(format!("the {what} ports are not `low : high`: `:` is missing"));
        };
        self.0 = rest;
        let high = self.port(what)?;
        if low > high {
            return Err(format!("the range of {what} ports {low} : {high} is empty"));
        }
        Ok(low..=high)
    }

    fn port(&mut self, what: &str) -> Result<u16, String> {
        let word = self.word(true);
        number(word, u32::from(u16::MAX))
            .map(|port| port as u16)
            .ok_or_else(|| {
                format!(
                    "the {what} port is not a number from 0 to 65535 but {}",
                    quote(word)
                )
            })
    }

    /// `value/mask`, hexadecimal or decimal.
    fn masked(&mut self, what: &str, max: u32) -> Result<(u32, u32), String> {
        let word = self.word(false);
        word.split_once('/')
            .and_then(|(value, mask)| Some((number(value, max)?, number(mask, max)?)))
            .ok_or_else(|| {
                format!(
                    "the {what} is not value/mask, such as 0x06/0xFF, but {}",
                    quote(word)
                )
            })
    }
}

fn number(text: &str, max: u32) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // `from_str_radix` alone would take "+6".
    let plain = digits.chars().all(|c| c.is_digit(radix));
    u32::from_str_radix(digits, radix)
        .ok()
        .filter(|value| plain && *value <= max)
}

/// IPv4-mapped IPv6 addresses never appear on the wire; the policy language refuses them.
fn no_mapped(prefix: IpNet) -> Result<IpNet, String> {
    match prefix {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => Err(format!(
            "{} is an IPv4-mapped address; write it as IPv4",
            v6.addr()
        )),
        prefix => Ok(prefix),
    }
}
