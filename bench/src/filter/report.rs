//! The figures as a table and as JSON.

use std::fmt::Write as _;

use anyhow::Result;
use ravelin_bench::plot::{Bar, Bars};
use ravelin_bench::publish::Destination;
use ravelin_bench::samples::{PLUS_MINUS, Samples, figure, noisy_ones};
use ravelin_bench::{Kind, Profile, machine};
use ravelin_policy::Family;
use serde_json::{Value, json};

use crate::aims;
use crate::wire::{MOST_LINEAR, Receiver};

/// How many times nftables' set is aimed at, and with how many rules.
const AIM_OF_SET: f64 = 3.0;
const AIMED_AT: usize = 10_000;

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Value,
    quick: bool,
    destination: Destination,
    pub(crate) sets: Vec<SetRow>,
    pub(crate) wire: Vec<WireRow>,
}

/// One rule set by itself.
#[derive(Debug)]
pub(crate) struct SetRow {
    pub(crate) profile: Profile,
    pub(crate) family: Family,
    pub(crate) rules: usize,
    /// Why it could not be compiled; then there is nothing more.
    pub(crate) refused: Option<String>,
    pub(crate) lines: usize,
    /// Steps of the longest walk.
    pub(crate) steps: u32,
    /// Bytes of its maps.
    pub(crate) memory: u64,
    /// Milliseconds to read the policy's text.
    pub(crate) read: f64,
    /// Milliseconds.
    pub(crate) compile: Samples,
    /// Milliseconds.
    pub(crate) swap: Samples,
    /// Packets about which kernel and host agreed before anything was measured.
    pub(crate) checked: usize,
    pub(crate) traces: Vec<TraceRow>,
    /// Nanoseconds of the outer program for one frame, repeated.
    pub(crate) one_frame: Samples,
}

/// One trace over a rule set: nanoseconds per packet.
#[derive(Debug)]
pub(crate) struct TraceRow {
    pub(crate) kind: Kind,
    pub(crate) flows: usize,
    /// The classifier alone, always through the trees.
    pub(crate) walk: Samples,
    /// The classifier alone, with the flow cache where the rule set has it.
    pub(crate) classify: Samples,
    /// From the frame to the XDP action, counters included.
    pub(crate) frames: Samples,
}

/// One trace over the wire.
#[derive(Debug)]
pub(crate) struct WireRow {
    pub(crate) profile: Profile,
    pub(crate) family: Family,
    pub(crate) rules: usize,
    /// Rules that the set of nftables holds.
    pub(crate) in_set: usize,
    pub(crate) kind: Kind,
    pub(crate) flows: usize,
    /// The trace holds only packets that the rules drop.
    pub(crate) only_dropped: bool,
    /// Seconds; `None` if nftables took too long.
    pub(crate) set_load: Option<f64>,
    pub(crate) linear_load: Option<f64>,
    pub(crate) figures: Vec<WireFigure>,
}

/// What one receiver reached.
#[derive(Debug)]
pub(crate) struct WireFigure {
    pub(crate) receiver: Receiver,
    /// Thousands of packets per second.
    pub(crate) rate: Samples,
    /// Whether it dropped what the rules say.
    pub(crate) agrees: bool,
}

impl Report {
    pub(crate) fn new(machine: Value, quick: bool, destination: Destination) -> Self {
        Self {
            machine,
            quick,
            destination,
            sets: Vec::new(),
            wire: Vec::new(),
        }
    }

    /// Writes what there is so far: a long run that is interrupted leaves its first part.
    pub(crate) fn save(&self) -> Result<()> {
        let part = self.destination.for_now();
        part.save("filter", &self.to_markdown(), &self.to_json()?)
    }

    /// Writes it all.
    pub(crate) fn finish(&self) -> Result<()> {
        if !self.sets.is_empty() {
            self.destination.plot("filter", &self.to_svg()?)?;
        }
        self.destination
            .save("filter", &self.to_markdown(), &self.to_json()?)
    }

    fn to_json(&self) -> Result<String> {
        let value = json!({
            "machine": self.machine,
            "quick": self.quick,
            "sets": self.sets.iter().map(SetRow::to_json).collect::<Vec<_>>(),
            "wire": self.wire.iter().map(WireRow::to_json).collect::<Vec<_>>(),
        });
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }

    /// The first table as a picture.
    fn to_svg(&self) -> Result<String> {
        let sets = || self.sets.iter().filter(|set| set.refused.is_none());
        let traces = sets().next().map_or(&[][..], |set| &set.traces);
        let groups = sets().map(|set| {
            let figures = set.traces.iter().map(|trace| Bar::from(&trace.classify));
            (set.name(), figures.collect())
        });
        let bars = Bars {
            title: "The classifier, flow cache included: nanoseconds per packet, fewer are better".to_owned(),
            series: traces.iter().map(TraceRow::name).collect(),
            groups: groups.collect(),
        };
        bars.to_svg()
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = machine::heading(&self.machine, self.quick);
        if !self.sets.is_empty() {
            self.write_traces(&mut text, "The classifier alone, flow cache included", |row| {
                &row.classify
            });
            self.write_traces(&mut text, "The classifier alone, without the flow cache", |row| {
                &row.walk
            });
            self.write_traces(&mut text, "From frame to action", |row| &row.frames);
            self.write_sizes(&mut text);
            aims::write(&self.sets, &mut text);
        }
        if !self.wire.is_empty() {
            self.write_wire(&mut text);
        }
        let traces = self.sets.iter().flat_map(|set| &set.traces);
        let classified = traces.flat_map(|row| [&row.walk, &row.classify, &row.frames]);
        let wire = self.wire.iter().flat_map(|row| &row.figures);
        text += &noisy_ones(classified.chain(wire.map(|figure| &figure.rate)));
        text
    }

    fn write_traces(&self, text: &mut String, title: &str, samples: impl Fn(&TraceRow) -> &Samples) {
        let Some(first) = self.sets.iter().find(|set| set.refused.is_none()) else {
            return;
        };
        let _ = write!(
            text,
            "\n{title}: nanoseconds per packet, median ({PLUS_MINUS}).\n\n| rules |"
        );
        for trace in &first.traces {
            let _ = write!(text, " {} |", trace.name());
        }
        let _ = writeln!(text, "\n|---|{}", "---:|".repeat(first.traces.len()));
        for set in self.sets.iter().filter(|set| set.refused.is_none()) {
            let _ = write!(text, "| {} |", set.name());
            for trace in &set.traces {
                let _ = write!(text, " {} |", samples(trace).cell());
            }
            text.push('\n');
        }
    }

    fn write_sizes(&self, text: &mut String) {
        text.push_str(
            "\nAround it. Lines are 64 bytes each; the map has room for more of them than a set has. \"One frame\" is the \
             outer program on a single frame, repeated, in ns.\n\n\
             | rules | lines | longest walk, steps | map, MiB | read, ms | compile, ms | swap, ms | one frame | packets checked |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for set in &self.sets {
            if let Some(reason) = &set.refused {
                let _ = writeln!(
                    text,
                    "| {} | refused: {reason} | | | {} | | | | |",
                    set.name(),
                    figure(set.read)
                );
                continue;
            }
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                set.name(),
                set.lines,
                set.steps,
                figure(set.memory as f64 / f64::from(1 << 20)),
                figure(set.read),
                set.compile,
                set.swap,
                set.one_frame,
                set.checked,
            );
        }
    }

    fn write_wire(&self, text: &mut String) {
        let _ = write!(
            text,
            "\nOn veth, thousands of packets per second of the receiving CPU's time ({PLUS_MINUS}).\n\n\
             | rules | in the set | trace |",
        );
        for receiver in Receiver::ALL {
            let _ = write!(text, " {} |", receiver.name());
        }
        let _ = writeln!(
            text,
            " ravelin / set |\n|---|---:|---|{}",
            "---:|".repeat(Receiver::ALL.len() + 1)
        );
        for row in &self.wire {
            let _ = write!(
                text,
                "| {} {} {} | {} | {} {}{} |",
                row.profile.name(),
                row.family,
                row.rules,
                row.in_set,
                row.kind.name(),
                flows(row.flows),
                if row.only_dropped { ", dropped" } else { "" },
            );
            let of = |receiver| row.figures.iter().find(|figure| figure.receiver == receiver);
            for receiver in Receiver::ALL {
                let _ = match of(receiver) {
                    Some(found) => write!(
                        text,
                        " {}{} |",
                        found.rate.cell(),
                        if found.agrees { "" } else { "\\*" }
                    ),
                    None => write!(text, " – |"),
                };
            }
            let _ = match (of(Receiver::Ravelin), of(Receiver::NftSet)) {
                (Some(ravelin), Some(set)) => {
                    let ratio = ravelin.rate.ratio(&set.rate);
                    let is_aimed_at = row.rules == AIMED_AT && !row.only_dropped;
                    let verdict = if is_aimed_at {
                        ratio.verdict(AIM_OF_SET)
                    } else {
                        ""
                    };
                    writeln!(text, " {ratio}{verdict} |")
                }
                _ => writeln!(text, " – |"),
            };
        }
        let _ = write!(
            text,
            "\nAim at {AIMED_AT} rules: {AIM_OF_SET} times nftables' set. The linear chain is not measured with more than {MOST_LINEAR} rules: a packet \
             takes milliseconds there, and the time of the thread that receives it cannot be read in between.\n"
        );
        if self
            .wire
            .iter()
            .flat_map(|row| &row.figures)
            .any(|figure| !figure.agrees)
        {
            text.push_str("\n\\* of rules that overlap it takes others than the first.\n");
        }
    }
}

impl SetRow {
    pub(crate) fn new(profile: Profile, family: Family, rules: usize) -> Self {
        Self {
            profile,
            family,
            rules,
            refused: None,
            lines: 0,
            steps: 0,
            memory: 0,
            read: f64::NAN,
            compile: Samples::default(),
            swap: Samples::default(),
            checked: 0,
            traces: Vec::new(),
            one_frame: Samples::default(),
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("{} {} {}", self.profile.name(), self.family, self.rules)
    }

    fn to_json(&self) -> Value {
        let traces = self.traces.iter().map(|trace| {
            json!({
                "trace": trace.kind.name(),
                "flows": trace.flows,
                "walk_ns": trace.walk.to_json(),
                "classify_ns": trace.classify.to_json(),
                "frame_ns": trace.frames.to_json(),
            })
        });
        json!({
            "profile": self.profile.name(),
            "family": self.family.to_string(),
            "rules": self.rules,
            "refused": self.refused,
            "lines": self.lines,
            "steps": self.steps,
            "map_bytes": self.memory,
            "read_ms": self.read,
            "compile_ms": self.compile.to_json(),
            "swap_ms": self.swap.to_json(),
            "checked": self.checked,
            "one_frame_ns": self.one_frame.to_json(),
            "traces": traces.collect::<Vec<_>>(),
        })
    }
}

impl TraceRow {
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.kind.name(), flows(self.flows))
    }
}

impl WireRow {
    fn to_json(&self) -> Value {
        let figures = self.figures.iter().map(|figure| {
            json!({
                "receiver": figure.receiver.name(),
                "thousands_s": figure.rate.to_json(),
                "agrees": figure.agrees,
            })
        });
        json!({
            "profile": self.profile.name(),
            "family": self.family.to_string(),
            "rules": self.rules,
            "rules_in_set": self.in_set,
            "trace": self.kind.name(),
            "flows": self.flows,
            "only_dropped": self.only_dropped,
            "set_load_s": self.set_load,
            "linear_load_s": self.linear_load,
            "figures": figures.collect::<Vec<_>>(),
        })
    }
}

/// `2k` for 2,048 and `131k` for 131,072.
fn flows(count: usize) -> String {
    if count < 1000 {
        count.to_string()
    } else {
        format!("{}k", count / 1000)
    }
}
