//! Filters that never decide, because better ones take all of their packets.

use std::collections::HashSet;

use ravelin_xdp_common::Direction;

use super::Notes;
use crate::order::{Definition, Priority, RankField};
use crate::packet::Packet;
use crate::policy::Policy;
use crate::space::{Arrangement, Budget, Exhausted, Placed};

/// Steps for all filters and for each: a filter that is not shadowed usually takes a few dozen.
const STEPS: u64 = 60_000_000;
const STEPS_EACH: u64 = 200_000;

/// Most filters that are remembered for taking the packets of one.
const TAKERS: usize = 64;

/// Most rules that a message names.
const NAMED: usize = 3;

/// What becomes of one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It decides this packet.
    Decides(Packet, Direction),
    /// These better filters take all of its packets.
    Shadowed(Vec<Definition>),
    /// It could not be found out with the work that was allowed.
    Unknown,
}

/// What becomes of each filter of the policy's active rules, best first.
#[must_use]
pub fn roles(policy: &Policy) -> Vec<(Definition, Role)> {
    let arrangement = super::arrange(policy);
    let definition = |order: u32| arrangement.at(order).map(|placed| placed.rank.definition);
    examine(&arrangement)
        .map(|(placed, found)| {
            let role = match found {
                Err(Exhausted) => Role::Unknown,
                Ok(Left::Some(packet, direction) | Left::Doubt(packet, direction, _)) => {
                    Role::Decides(packet, direction)
                }
                Ok(Left::Nothing(takers)) => {
                    Role::Shadowed(takers.into_iter().filter_map(definition).collect())
                }
            };
            (placed.rank.definition, role)
        })
        .collect()
}

/// The orders of the filters that never decide.
pub(super) fn orders(arrangement: &Arrangement<'_>) -> HashSet<u32> {
    let never = |found| matches!(found, Ok(Left::Nothing(_)));
    let found = examine(arrangement).zip(0..);
    found
        .filter_map(|((_, found), order)| never(found).then_some(order))
        .collect()
}

/// Returns the orders of the filters that never decide, or nothing but fragments in doubt.
pub(super) fn check(arrangement: &Arrangement<'_>, notes: &mut Notes<'_>) -> HashSet<u32> {
    let mut told = HashSet::new();
    let mut shadowed = HashSet::new();
    for ((placed, found), order) in examine(arrangement).zip(0..) {
        match found {
            Ok(Left::Some(..)) => {}
            Err(Exhausted) => notes.unexamined += 1,
            // One written filter can stand for many.
            Ok(Left::Doubt(_, _, ref takers) | Left::Nothing(ref takers)) => {
                shadowed.insert(order);
                if told.insert((placed.rank.definition.rule, placed.filter.position)) {
                    let policy = notes.policy;
                    let doubt = matches!(found, Ok(Left::Doubt(..)));
                    notes.add(placed.filter.position, || {
                        message(arrangement, placed, takers, doubt, policy)
                    });
                }
            }
        }
    }
    shadowed
}

/// What better filters leave of a filter.
enum Left {
    Some(Packet, Direction),
    /// Such later fragments, of which it cannot be seen that the filter takes them; of all else nothing, as below. Who wrote
    /// the filter had something else in mind.
    Doubt(Packet, Direction, Vec<u32>),
    /// Nothing; some or all of the filters that take its packets.
    Nothing(Vec<u32>),
}

fn examine<'a, 'p>(
    arrangement: &'a Arrangement<'p>,
) -> impl Iterator<Item = (&'a Placed<'p>, Result<Left, Exhausted>)> {
    let mut left = STEPS;
    arrangement.placed().iter().zip(0..).map(move |(placed, order)| {
        let mut budget = Budget::new(STEPS_EACH.min(left));
        let before = budget.left();
        let found = what_is_left(arrangement, placed, order, &mut budget);
        left -= before - budget.left();
        (placed, found)
    })
}

fn what_is_left(
    arrangement: &Arrangement<'_>,
    placed: &Placed<'_>,
    order: u32,
    budget: &mut Budget,
) -> Result<Left, Exhausted> {
    let mut takers = Vec::new();
    let mut in_doubt = None;
    for (plane, region) in placed.regions() {
        let left = arrangement.uncovered(region, plane, order, budget, |taker| {
            if !takers.contains(&taker) && takers.len() < TAKERS {
                takers.push(taker);
            }
        })?;
        let Some(point) = left else { continue };
        let packet = point.packet(plane);
        if !placed.is_in_doubt(plane) {
            return Ok(Left::Some(packet, plane.direction));
        }
        in_doubt = in_doubt.or(Some((packet, plane.direction)));
    }
    Ok(match in_doubt {
        Some((packet, direction)) => Left::Doubt(packet, direction, takers),
        None => Left::Nothing(takers),
    })
}

fn message(
    arrangement: &Arrangement<'_>,
    placed: &Placed<'_>,
    takers: &[u32],
    doubt: bool,
    policy: &Policy,
) -> String {
    let place = |position| format!("{}:{position}", policy.file(position));
    let shadowed = format!(
        "filter {} of rule `{}` {}",
        placed.filter,
        placed.rule.name,
        if doubt {
            "decides nothing but later fragments whose first one was not seen"
        } else {
            "never decides"
        }
    );
    let takers: Vec<&Placed<'_>> = takers.iter().filter_map(|order| arrangement.at(*order)).collect();
    match takers.as_slice() {
        [] => format!("{shadowed}: no packet like that exists"),
        [taker] => format!(
            "{shadowed}: filter {} of rule `{}` ({}, {}) takes all of its packets{}, because it {}; {}",
            taker.filter,
            taker.rule.name,
            taker.rule.action,
            place(taker.filter.position),
            example(placed),
            why(taker, placed),
            remedy(taker, placed)
        ),
        takers => {
            let mut named = HashSet::new();
            let rules: Vec<String> = takers
                .iter()
                .filter(|taker| named.insert(&taker.rule.name))
                .map(|taker| format!("`{}` ({})", taker.rule.name, taker.rule.action))
                .collect();
            let more = match rules.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "{shadowed}: {} better filters together take all of its packets, of rules {}{more}",
                takers.len(),
                rules.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ")
            )
        }
    }
}

/// What to do about a filter of which one other takes all packets.
fn remedy(taker: &Placed<'_>, placed: &Placed<'_>) -> String {
    let rule = &placed.rule.name;
    if taker.rank.definition.rule == placed.rank.definition.rule {
        return "both do the same; remove this one".to_owned();
    }
    if taker.rule.priority == Priority::Lifeline {
        return "remove this one, or let the lifeline be about less".to_owned();
    }
    // No priority is smaller.
    if taker.rule.priority == Priority::Given(0) {
        return format!(
            "remove one of the two, or give both rules other priorities, rule `{rule}` the smaller"
        );
    }
    format!("remove one of the two, or give rule `{rule}` a smaller priority")
}

/// A packet of the filter, for those who would not expect it to be another's.
fn example(placed: &Placed<'_>) -> String {
    let point = placed
        .regions()
        .into_iter()
        .find_map(|(plane, region)| Some(region.example(plane, 0)?.packet(plane)));
    point.map_or_else(String::new, |packet| format!(", such as {packet}"))
}

/// What the taker is better in.
fn why(taker: &Placed<'_>, placed: &Placed<'_>) -> &'static str {
    match taker.rank.deciding_field(&placed.rank) {
        Some(RankField::Priority) if taker.rule.priority == Priority::Lifeline => "is the lifeline",
        Some(RankField::Priority) => "has the better priority",
        Some(RankField::Action) => "is equally specific and has the stricter action",
        Some(RankField::Definition) | None => "is equally specific and stands first",
        Some(_) => "counts as more specific",
    }
}

#[cfg(test)]
mod tests {
    use crate::Policy;
    use crate::lint::lint;

    /// What is said about the filter that never decides in a policy of two filters.
    fn said(rules: &[(&str, &str)]) -> String {
        let filter = "source = \"10.0.0.0/8\", destination = \"10.1.0.0/16\"";
        let mut text = String::new();
        for (name, key) in rules {
            text += &format!(
                "[filter-lists.{name}]\nfilters = [{{ {filter} }}]\n[[rules]]\nname = \"{name}\"\n\
                 filter-list = \"{name}\"\naction = \"permit\"\n{key}\n"
            );
        }
        if let [_] = rules {
            text = text.replace("}]", &format!("}}, {{ {filter} }}]"));
        }
        let (policy, _) = Policy::parse(&text, "p").unwrap();
        let warnings = lint(&policy, &[]).warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        warnings[0].message.clone()
    }

    /// What a permit takes from a block it does not take of fragments that show neither ports nor protocol.
    #[test]
    fn fragments_in_doubt_are_no_reason_to_keep_silent() {
        for (family, ports) in [("10", ", destination-port = 80"), ("fd00::/8", "")] {
            let (wide, narrow) = match family {
                "10" => ("10.0.0.0/8", "10.1.0.0/16"),
                _ => ("fd00::/8", "fd00:1::/32"),
            };
            let rule = |name: &str, source: &str, action: &str, key: &str| {
                format!(
                    "[filter-lists.{name}]\nfilters = [{{ source = \"{source}\", destination = \"any\", protocol = \"tcp\"{ports} }}]\n\
                     [[rules]]\nname = \"{name}\"\nfilter-list = \"{name}\"\naction = \"{action}\"\n{key}\n"
                )
            };
            let text = rule("open", wide, "permit", "priority = 1") + &rule("shut", narrow, "block", "");
            let (policy, _) = Policy::parse(&text, "p").unwrap();
            let warnings = lint(&policy, &[]).warnings;
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            let said = &warnings[0].message;
            let nothing =
                "of rule `shut` decides nothing but later fragments whose first one was not seen: filter ";
            assert!(
                said.contains(nothing) && said.contains("rule `open` (permit"),
                "{said}"
            );
            // The other way round the block takes all, fragments too.
            let text = rule("shut", wide, "block", "priority = 1") + &rule("open", narrow, "permit", "");
            let (policy, _) = Policy::parse(&text, "p").unwrap();
            let said = lint(&policy, &[]).warnings[0].message.clone();
            assert!(said.contains("of rule `open` never decides"), "{said}");
        }
    }

    #[test]
    fn the_remedy_is_one() {
        for (rules, remedy) in [
            (
                &[("a", ""), ("b", "")][..],
                "remove one of the two, or give rule `b` a smaller priority",
            ),
            (
                &[("a", "priority = 5"), ("b", "priority = 7")],
                "remove one of the two, or give rule `b` a smaller priority",
            ),
            // A rule cannot come before itself.
            (&[("a", "")], "both do the same; remove this one"),
            // Nothing comes before 0.
            (
                &[("a", "priority = 0"), ("b", "")],
                "remove one of the two, or give both rules other priorities, rule `b` the smaller",
            ),
            (
                &[("a", "priority = 0"), ("b", "priority = 0")],
                "remove one of the two, or give both rules other priorities, rule `b` the smaller",
            ),
        ] {
            let said = said(rules);
            assert!(said.ends_with(remedy), "{said}");
        }
    }
}
