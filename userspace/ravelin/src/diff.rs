//! `ravelin diff`: which traffic gets another verdict.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use ravelin_classifier::reference;
use ravelin_policy::diff::{Change, Changed, Decider, Difference};
use ravelin_policy::{Policy, Surroundings};
use ravelin_xdp_common::Direction;
use serde::Serialize;

use crate::policy_file::PolicyFile;

/// How many changes, and regions of each, are shown without `--all`.
const SHOWN_CHANGES: usize = 20;
const SHOWN_REGIONS: usize = 3;

/// Show which traffic gets another verdict from one policy than from another
///
/// Tells the regions of addresses, protocols and ports whose packets change, which rules decide them in either policy, and
/// for each an example packet that both verdicts were confirmed with. Exits with 0 if no verdict changes, 1 if one does,
/// and 2 on trouble, as diff(1) does. Touches nothing and needs no root.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The policy that is
    #[arg(value_name = "OLD")]
    old: PathBuf,

    /// The policy that is to be
    #[arg(value_name = "NEW")]
    new: PathBuf,

    /// An address of the machine that the policies are for; may be given several times
    #[arg(long = "me", value_name = "ADDRESS")]
    own: Vec<IpAddr>,

    /// The outer device, for rules with `interfaces` [default: the policies']
    #[arg(long, value_name = "DEVICE")]
    outer: Option<String>,

    /// Show every change and every region, however many there are
    #[arg(long)]
    all: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn diff(arguments: &Arguments) -> ExitCode {
    match compare(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("ravelin: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether the two are the same.
fn compare(arguments: &Arguments) -> Result<bool> {
    let surroundings = Surroundings {
        own: arguments.own.clone(),
        outer: arguments.outer.clone(),
        ..Surroundings::default()
    };
    let old = PolicyFile::load(&arguments.old, &surroundings)?.policy;
    let new = PolicyFile::load(&arguments.new, &surroundings)?.policy;
    let limit = if arguments.all { usize::MAX } else { SHOWN_REGIONS };
    let mut difference = ravelin_policy::diff::diff(&old, &new, limit);
    let more = if arguments.all {
        0
    } else {
        difference.changes.len().saturating_sub(SHOWN_CHANGES)
    };
    difference.changes.truncate(difference.changes.len() - more);
    for changed in difference.changes.iter().flat_map(|change| &change.regions) {
        confirm(&old, &new, changed)?;
    }
    let mut out = io::stdout().lock();
    let written = if arguments.json {
        serde_json::to_writer_pretty(&mut out, &Report::of(&difference, more))
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        write_text(&mut out, &difference, more)
    };
    match written {
        // `ravelin diff | head` is no error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    let same = difference.changes.is_empty() && difference.settings.is_empty();
    if !difference.complete && same {
        bail!("nothing was found to differ, but not all regions were examined: there are too many");
    }
    Ok(same)
}

/// Asks the reference, which shares nothing with the search, whether the example changes.
fn confirm(old: &Policy, new: &Policy, changed: &Changed) -> Result<()> {
    for direction in &changed.directions {
        let of = |policy: &Policy| {
            let verdict = reference::classify(policy, &changed.example, *direction);
            let connection = policy.connections().get(verdict.connection as usize).cloned();
            let rule = policy.rules().get(verdict.rule_id as usize);
            let fallback = rule.and_then(|rule| rule.fallback_clear);
            (
                verdict.decision,
                verdict.accept_unsecured,
                verdict.audit,
                connection,
                fallback,
            )
        };
        if of(old) == of(new) {
            bail!(
                "{} was said to change, and does not: this is an error in `ravelin diff`, please report it with both \
                 policies",
                changed.example
            );
        }
    }
    Ok(())
}

fn write_text(out: &mut impl Write, difference: &Difference, more: usize) -> io::Result<()> {
    for (name, old, new) in &difference.settings {
        writeln!(out, "setting {name}: {old} -> {new}")?;
    }
    for change in &difference.changes {
        writeln!(out, "\n{} -> {}", decider(&change.old), decider(&change.new))?;
        for changed in &change.regions {
            let fragments = if changed.fragments { " later fragments" } else { "" };
            writeln!(
                out,
                "  {}{fragments}, {}",
                changed.region,
                directions(&changed.directions)
            )?;
            writeln!(out, "    for example {}", changed.example)?;
            let [old, new] = changed
                .filters
                .each_ref()
                .map(|filter| filter.as_deref().unwrap_or("the default"));
            writeln!(out, "    decided by {old}, now by {new}")?;
        }
        if change.more > 0 {
            writeln!(
                out,
                "  ... and {} smaller regions (--all shows them)",
                change.more
            )?;
        }
    }
    if more > 0 {
        writeln!(out, "\n... and {more} more changes (--all shows them)")?;
    }
    if !difference.complete {
        writeln!(
            out,
            "\nNot all regions were examined: there are too many. There may be further changes."
        )?;
    }
    Ok(())
}

fn decider(decider: &Decider) -> String {
    match &decider.rule {
        Some(rule) => format!("{} (rule `{rule}`)", decider.consequence),
        None => format!("{} (default)", decider.consequence),
    }
}

fn directions(directions: &[Direction]) -> &'static str {
    match directions {
        [Direction::Inbound] => "inbound",
        [Direction::Outbound] => "outbound",
        _ => "both directions",
    }
}

/// The difference for machines.
#[derive(Serialize)]
struct Report {
    complete: bool,
    settings: Vec<Setting>,
    changes: Vec<ChangeReport>,
    more_changes: usize,
}

#[derive(Serialize)]
struct Setting {
    name: &'static str,
    old: String,
    new: String,
}

#[derive(Serialize)]
struct ChangeReport {
    old: DeciderReport,
    new: DeciderReport,
    regions: Vec<RegionReport>,
    more_regions: usize,
}

#[derive(Serialize)]
struct DeciderReport {
    rule: Option<String>,
    consequence: String,
}

#[derive(Serialize)]
struct RegionReport {
    region: String,
    later_fragments: bool,
    directions: Vec<&'static str>,
    example: String,
    old_filter: Option<String>,
    new_filter: Option<String>,
}

impl Report {
    fn of(difference: &Difference, more: usize) -> Self {
        let settings = difference.settings.iter().map(|(name, old, new)| Setting {
            name,
            old: old.clone(),
            new: new.clone(),
        });
        Self {
            complete: difference.complete,
            settings: settings.collect(),
            changes: difference.changes.iter().map(ChangeReport::of).collect(),
            more_changes: more,
        }
    }
}

impl ChangeReport {
    fn of(change: &Change) -> Self {
        let decider = |decider: &Decider| DeciderReport {
            rule: decider.rule.clone(),
            consequence: decider.consequence.to_string(),
        };
        let regions = change.regions.iter().map(|changed| RegionReport {
            region: changed.region.clone(),
            later_fragments: changed.fragments,
            directions: changed
                .directions
                .iter()
                .map(|direction| match direction {
                    Direction::Inbound => "in",
                    Direction::Outbound => "out",
                })
                .collect(),
            example: changed.example.to_string(),
            old_filter: changed.filters[0].clone(),
            new_filter: changed.filters[1].clone(),
        });
        Self {
            old: decider(&change.old),
            new: decider(&change.new),
            regions: regions.collect(),
            more_regions: change.more,
        }
    }
}
