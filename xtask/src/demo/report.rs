//! What the demo prints: the table of flows and the counters that prove it.

use super::{gateway::Gateway, status::Status};

/// One line of the table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) flow: String,
    pub(super) expected: String,
    pub(super) seen: String,
    pub(super) packets: Option<u64>,
    pub(super) gbit: Option<f64>,
    pub(super) good: bool,
}

/// All lines, printed as they come, and what to make of them.
#[derive(Debug, Default)]
pub(super) struct Report {
    good: usize,
    bad: Vec<String>,
}

impl Report {
    /// Prints a heading above the lines that follow.
    pub(super) fn heading(title: &str) {
        println!("\n{title}");
        println!(
            "  {:<22} {:<26} {:<30} {:>9} {:>7}",
            "flow", "expected", "seen", "packets", "Gbit/s"
        );
    }

    /// Prints a line and remembers whether it was as expected.
    pub(super) fn add(&mut self, row: &Row) {
        let packets = row.packets.map(|count| count.to_string()).unwrap_or_default();
        let gbit = row.gbit.map(|gbit| format!("{gbit:.2}")).unwrap_or_default();
        let mark = if row.good { '✓' } else { '✗' };
        println!(
            "{mark} {:<22} {:<26} {:<30} {packets:>9} {gbit:>7}",
            row.flow, row.expected, row.seen
        );
        if row.good {
            self.good += 1;
        } else {
            self.bad.push(format!(
                "{}: expected {}, seen: {}",
                row.flow, row.expected, row.seen
            ));
        }
    }

    /// Adds a line without packets and speed.
    pub(super) fn check(&mut self, flow: &str, expected: &str, seen: impl Into<String>, good: bool) {
        self.add(&Row {
            flow: flow.to_owned(),
            expected: expected.to_owned(),
            seen: seen.into(),
            packets: None,
            gbit: None,
            good,
        });
    }

    /// Prints the verdict; whether every expectation was met.
    pub(super) fn conclude(&self) -> bool {
        println!();
        for line in &self.bad {
            println!("✗ {line}");
        }
        println!("demo: {} expectations met, {} not met", self.good, self.bad.len());
        self.bad.is_empty()
    }
}

/// Prints what each gateway counted since it started.
pub(super) fn counters(gateways: [(&Gateway, &Status); 2]) {
    println!("\nCounters of the gateways (ravelin status --json)");
    let [(one, first), (two, second)] = gateways;
    println!("  {:<44} {:>12} {:>12}", "", one.name(), two.name());
    let mut names = Vec::new();
    for status in [first, second] {
        for prefix in ["outcomes.", "drops.", "rules.", "connections."] {
            names.extend(status.below(prefix).map(|(rest, _)| format!("{prefix}{rest}")));
        }
    }
    names.sort();
    names.dedup();
    for name in names
        .iter()
        .filter(|name| !name.ends_with(".spi") && !name.ends_with(".id"))
    {
        let (left, right) = (first.count(name), second.count(name));
        if left + right > 0 {
            println!("  {name:<44} {left:>12} {right:>12}");
        }
    }
}
