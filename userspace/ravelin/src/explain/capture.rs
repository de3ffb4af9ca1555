//! The verdicts on the frames of a capture.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use ravelin_capture::{Capture, CaptureError, Frame};
use ravelin_classifier::Host;
use ravelin_policy::{Packet, Policy};
use ravelin_xdp_common::line::NO_RULE;
use ravelin_xdp_common::{Direction, Frame as Kind, IpPacket, Judgement, Outcome, parse};
use serde::Serialize;

use super::direction::Viewpoint;
use super::{Arguments, unless_closed};
use crate::input;

/// How many frames are shown without `--all`.
const SHOWN: u64 = 50;

/// What became of one frame.
#[derive(Debug, Serialize)]
struct Row<'p> {
    frame: u64,
    direction: Option<&'static str>,
    /// `pass`, `drop`, `seal`, `open`; none where it cannot be told.
    what: Option<&'static str>,
    /// The counter or the connection; or why it cannot be told.
    why: &'p str,
    rule: Option<&'p str>,
    packet: String,
}

/// What became of all.
#[derive(Debug, Default, Serialize)]
struct Totals<'p> {
    frames: u64,
    /// By `pass`, `drop`, `seal` and `open`, and then by counter or connection.
    outcomes: BTreeMap<&'static str, BTreeMap<&'p str, u64>>,
    rules: BTreeMap<&'p str, Count>,
    /// Frames without a verdict, by the reason.
    not_judged: BTreeMap<Cow<'static, str>, u64>,
    /// Why the end of the capture is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Count {
    packets: u64,
    /// From the IP header on.
    bytes: u64,
}

const CUT: &str = "the capture holds too little of the frame";
const UNKNOWN_DIRECTION: &str = "direction unknown: give --in or --out, --me or --mac";

pub(crate) fn explain(arguments: &Arguments, path: &Path, policy: &Policy, host: &mut Host) -> Result<()> {
    let mut capture = open(path).with_context(|| path.display().to_string())?;
    let viewpoint = Viewpoint {
        all: match (arguments.inbound, arguments.outbound) {
            (true, _) => Some(Direction::Inbound),
            (_, true) => Some(Direction::Outbound),
            _ => None,
        },
        own: arguments.own.iter().copied().collect(),
        link: arguments.link,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let (totals, written) = judge_all(arguments, &mut capture, policy, host, &viewpoint, &mut out);
    let written = written.and_then(|()| {
        if arguments.json {
            serde_json::to_writer(&mut out, &totals)?;
            writeln!(out)
        } else {
            write_totals(&mut out, &totals)
        }
    });
    unless_closed(written.and_then(|()| out.flush()))?;
    match totals.error {
        None => Ok(()),
        Some(error) => bail!("{}: {error}", path.display()),
    }
}

fn open(path: &Path) -> Result<Capture> {
    if input::is_standard(path) {
        return Ok(Capture::read(io::stdin())?);
    }
    let file = input::open(path).context("cannot open the capture")?;
    Ok(Capture::read(file)?)
}

/// Judges frame after frame; memory does not grow with their number.
fn judge_all<'p>(
    arguments: &Arguments,
    capture: &mut Capture,
    policy: &'p Policy,
    host: &mut Host,
    viewpoint: &Viewpoint,
    out: &mut impl Write,
) -> (Totals<'p>, io::Result<()>) {
    let mut totals = Totals::default();
    loop {
        let frame = match capture.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                totals.error = Some(message(&error));
                break;
            }
        };
        host.set_time(frame.time);
        let (row, judgement) = row(&frame, policy, host, viewpoint);
        totals.count(&row, judgement.as_ref());
        let written = if totals.frames > SHOWN && !arguments.all {
            Ok(())
        } else if arguments.json {
            serde_json::to_string(&row)
                .map_err(io::Error::other)
                .and_then(|text| writeln!(out, "{text}"))
        } else {
            write_row(out, &row, totals.frames == 1)
        };
        if written.is_err() {
            return (totals, written);
        }
    }
    let hidden = totals.frames.saturating_sub(SHOWN);
    let (skipped, link_types) = capture.skipped();
    if skipped > 0 {
        let reason = other_links(&link_types);
        if totals.frames == 0 && totals.error.is_none() {
            totals.error = Some(format!("{reason}; none of the {skipped} frames was judged"));
        }
        totals.not_judged.insert(reason.into(), skipped);
        totals.frames += skipped;
    }
    let written = if hidden > 0 && !arguments.all && !arguments.json {
        writeln!(out, "... and {hidden} more frames (--all shows them)")
    } else {
        Ok(())
    };
    (totals, written)
}

fn message(error: &CaptureError) -> String {
    match error {
        CaptureError::Modified => error.to_string(),
        _ => format!("{error}; what stands above is about what came before"),
    }
}

/// Why frames of links that are neither Ethernet, raw IP nor Linux's "any" have no verdict.
fn other_links(link_types: &[u16]) -> String {
    let numbers: Vec<String> = link_types.iter().map(u16::to_string).collect();
    format!(
        "link type {}: Ethernet, raw IP and Linux \"any\" are read",
        numbers.join(", ")
    )
}

fn row<'p>(
    frame: &Frame<'_>,
    policy: &'p Policy,
    host: &Host,
    viewpoint: &Viewpoint,
) -> (Row<'p>, Option<Judgement>) {
    let reader = frame.reader();
    let mut ip = IpPacket::EMPTY;
    let (packet, text) = match parse(&reader, &mut ip) {
        _ if reader.missed() => (None, "cut".to_owned()),
        Ok(Kind::Ip) => {
            let packet = Packet::of(&ip.flow);
            (Some(packet), packet.to_string())
        }
        Ok(Kind::Arp) => (None, "ARP".to_owned()),
        Ok(Kind::NonIp) => (None, "not IP".to_owned()),
        Err(_) => (None, "malformed".to_owned()),
    };
    let mut row = Row {
        frame: frame.number,
        direction: None,
        what: None,
        why: UNKNOWN_DIRECTION,
        rule: None,
        packet: text,
    };
    let Some(direction) = viewpoint.direction(frame, packet.as_ref()) else {
        if reader.missed() {
            row.why = CUT;
        }
        return (row, None);
    };
    row.direction = Some(match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    });
    // What would be remembered of a fragment of which too little is known would be wrong.
    if reader.missed() {
        row.why = CUT;
        return (row, None);
    }
    let judgement = host.judge_read(&frame.reader(), direction);
    let connection = |slot: u32| {
        policy
            .connections()
            .get(slot as usize)
            .map_or("", |connection| connection.name.as_str())
    };
    let (what, why) = match judgement.outcome() {
        Outcome::Pass(kind) => ("pass", kind.name()),
        Outcome::Drop(reason) => ("drop", reason.name()),
        Outcome::Redirect(metadata) if direction == Direction::Inbound => ("open", connection(metadata.slot)),
        Outcome::Redirect(metadata) => ("seal", connection(metadata.slot)),
    };
    row.what = Some(what);
    row.why = why;
    row.rule = (judgement.rule_id != NO_RULE)
        .then(|| policy.rules().get(judgement.rule_id as usize))
        .flatten()
        .map(|rule| rule.name.as_str());
    (row, Some(judgement))
}

impl<'p> Totals<'p> {
    fn count(&mut self, row: &Row<'p>, judgement: Option<&Judgement>) {
        self.frames += 1;
        let (Some(what), Some(judgement)) = (row.what, judgement) else {
            let reason = if row.why == CUT { CUT } else { UNKNOWN_DIRECTION };
            *self.not_judged.entry(reason.into()).or_default() += 1;
            return;
        };
        *self.outcomes.entry(what).or_default().entry(row.why).or_default() += 1;
        if let Some(rule) = row.rule {
            let count = self.rules.entry(rule).or_default();
            count.packets += 1;
            count.bytes += u64::from(judgement.length);
        }
    }
}

fn write_row(out: &mut impl Write, row: &Row<'_>, first: bool) -> io::Result<()> {
    if first {
        writeln!(
            out,
            "{:>8}  {:<3}  {:<4}  {:<20}  {:<20}  packet",
            "frame", "way", "what", "why", "rule"
        )?;
    }
    writeln!(
        out,
        "{:>8}  {:<3}  {:<4}  {:<20}  {:<20}  {}",
        row.frame,
        row.direction.unwrap_or("?"),
        row.what.unwrap_or("?"),
        if row.what.is_none() { "not judged" } else { row.why },
        row.rule.unwrap_or("-"),
        row.packet
    )
}

fn write_totals(out: &mut impl Write, totals: &Totals<'_>) -> io::Result<()> {
    writeln!(out, "\n{:<44} {:>14} {:>18}", "rule", "packets", "bytes")?;
    for (rule, count) in &totals.rules {
        writeln!(out, "{rule:<44} {:>14} {:>18}", count.packets, count.bytes)?;
    }
    for (what, heading) in [
        ("pass", "passed to the kernel"),
        ("drop", "dropped"),
        ("seal", "sealed with connection"),
        ("open", "opened with connection"),
    ] {
        let Some(counts) = totals.outcomes.get(what) else {
            continue;
        };
        writeln!(out, "\n{heading:<44} {:>14}", "packets")?;
        for (why, packets) in counts {
            writeln!(out, "{why:<44} {packets:>14}")?;
        }
    }
    if !totals.not_judged.is_empty() {
        writeln!(out, "\n{:<52} {:>6}", "not judged", "frames")?;
        for (reason, frames) in &totals.not_judged {
            writeln!(out, "{reason:<52} {frames:>6}")?;
        }
    }
    writeln!(out, "\n{} frames", totals.frames)
}
