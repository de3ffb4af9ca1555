//! Chains written out as one list, in which the first entry that matches decides.

use ravelin_policy::Family;

use crate::findings::{Findings, quote};
use crate::firewall::{Base, Firewall, Hook, Matches, Verdict};

/// Most chains on one way, by jump or goto; the kernel takes 16 jumps.
const MAX_DEPTH: usize = 32;

/// Limits against chains that multiply when they are written out.
const MAX_STEPS: usize = 1_000_000;
const MAX_FILTERS: usize = 400_000;

/// One line of the list.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) line: u32,
    /// The base or other chain that the rule stands in.
    pub(super) chain: usize,
    pub(super) matches: Matches,
    pub(super) accept: bool,
}

/// A place that a packet goes on from.
#[derive(Clone, Copy, Debug)]
struct Place {
    chain: usize,
    rule: usize,
    /// Index of the base chain of the hook that it belongs to.
    base: usize,
    /// Jumps and gotos on the way to its chain.
    depth: usize,
}

/// What is still to be written out: packets that match, at a place, and where they go on after its chain.
struct Task {
    matches: Matches,
    place: Place,
    back: Vec<Place>,
    /// At the end of a chain deeper than this, nothing is written: the task below this one is what comes after the
    /// jump, for these packets and others. Up to this depth, the task below is about other packets, and what comes
    /// next has to be written out for these alone.
    alone: usize,
}

/// The list for one hook, or none when writing it out takes too much, which has been reported.
pub(super) fn flatten(firewall: &Firewall, hook: Hook, findings: &mut Findings) -> Option<Vec<Entry>> {
    let mut bases: Vec<&Base> = firewall.bases.iter().filter(|base| base.hook == hook).collect();
    bases.sort_by_key(|base| base.priority);
    let mut entries = Vec::new();
    let (mut steps, mut filters) = (0, 0);
    // Depth first, each rule's continuation before the rule after it: the order of the list is that of the tasks.
    let mut tasks = Vec::new();
    start(&bases, 0, &Matches::default(), &mut tasks);
    while let Some(task) = tasks.pop() {
        steps += 1 + task.matches.ranges() / 16;
        if steps > MAX_STEPS || filters > MAX_FILTERS {
            let line = firewall.chains[task.place.chain].line;
            findings.error(
                line,
                "the chains come to too many rules when jumps and returns are written out",
            );
            return None;
        }
        let Task {
            matches,
            place,
            mut back,
            alone,
        } = task;
        if matches.is_never() {
            continue;
        }
        let base = bases[place.base];
        let chain = &firewall.chains[place.chain];
        let Some(rule) = chain.rules.get(place.rule) else {
            if back.len() > alone {
                continue;
            }
            match back.pop() {
                Some(place) => {
                    let alone = alone.min(back.len());
                    tasks.push(Task {
                        matches,
                        place,
                        back,
                        alone,
                    });
                }
                None if base.accepts && place.base + 1 < bases.len() => {
                    start(&bases, place.base + 1, &matches, &mut tasks);
                }
                None => {
                    filters += matches.size();
                    entries.push(Entry {
                        line: firewall.chains[base.chain].line,
                        chain: base.chain,
                        matches,
                        accept: base.accepts,
                    });
                }
            }
            continue;
        };
        let next = Place {
            rule: place.rule + 1,
            ..place
        };
        let all = rule.matches.iter().any(|rule| matches.and(rule) == matches);
        if !all || matches!(rule.verdict, Verdict::Jump(_)) {
            // Below what the rule itself comes to.
            tasks.push(Task {
                matches: matches.clone(),
                place: next,
                back: back.clone(),
                alone,
            });
        }
        for matched in rule.matches.iter().rev().map(|rule| matches.and(rule)) {
            if matched.is_never() {
                continue;
            }
            match &rule.verdict {
                Verdict::Accept if place.base + 1 < bases.len() => {
                    start(&bases, place.base + 1, &matched, &mut tasks);
                }
                Verdict::Accept | Verdict::Drop => {
                    filters += matched.size();
                    // Alternatives of one rule have one verdict: their order does not matter.
                    entries.push(Entry {
                        line: rule.line,
                        chain: place.chain,
                        matches: matched,
                        accept: rule.verdict == Verdict::Accept,
                    });
                }
                Verdict::Return => {
                    // As at the chain's end, but for these packets alone where others go on in the chain.
                    let alone = if all { alone } else { alone.max(back.len()) };
                    let end = Place {
                        rule: usize::MAX,
                        ..place
                    };
                    tasks.push(Task {
                        matches: matched,
                        place: end,
                        back: back.clone(),
                        alone,
                    });
                }
                Verdict::Jump(name) | Verdict::Goto(name) => {
                    let table = firewall.tables[place.chain];
                    let Some(chain) = firewall.by_name.get(&(table, name.clone())).copied() else {
                        findings.error(rule.line, format!("there is no chain {}", quote(name)));
                        return None;
                    };
                    let mut back = back.clone();
                    let mut alone = alone;
                    if matches!(rule.verdict, Verdict::Jump(_)) {
                        back.push(next);
                    } else if !all {
                        alone = alone.max(back.len());
                    }
                    if place.depth >= MAX_DEPTH {
                        let message = format!("chains jump to one another more than {MAX_DEPTH} deep");
                        findings.error(rule.line, message);
                        return None;
                    }
                    let place = Place {
                        chain,
                        rule: 0,
                        depth: place.depth + 1,
                        ..place
                    };
                    tasks.push(Task {
                        matches: matched,
                        place,
                        back,
                        alone,
                    });
                }
            }
        }
    }
    Some(entries)
}

/// Goes on at the start of a base chain; packets that its table is not about go on at the next one.
fn start(bases: &[&Base], at: usize, matches: &Matches, tasks: &mut Vec<Task>) {
    let mut others = matches.clone();
    let mut starts = Vec::new();
    for (index, base) in bases.iter().enumerate().skip(at) {
        starts.push(Task {
            matches: others.and(&base.matches),
            place: Place {
                chain: base.chain,
                rule: 0,
                base: index,
                depth: 0,
            },
            back: Vec::new(),
            alone: 0,
        });
        // Tables are about one version of IP, or both.
        let other = match base.matches.family {
            Some(Family::V4) => Family::V6,
            Some(Family::V6) => Family::V4,
            None => break,
        };
        others = others.and(&Matches::of_family(Some(other)));
        if others.is_never() {
            break;
        }
    }
    tasks.extend(starts.into_iter().rev());
}
