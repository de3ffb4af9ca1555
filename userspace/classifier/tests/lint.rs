//! What `check` warns about is so, by the reference.

use std::collections::BTreeSet;

use ravelin_classifier::arbitrary::{Rng, packet, policy_text};
use ravelin_classifier::frame_of;
use ravelin_classifier::reference::{self, Packet};
use ravelin_policy::Policy;
use ravelin_policy::explain::explain;
use ravelin_policy::lint::{Role, conflicts, roles};
use ravelin_policy::order::{Definition, Rank};

const POLICIES: u64 = 400;

fn parse(text: &str) -> Policy {
    Policy::parse(text, "generated.toml")
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
        .0
}

#[test]
fn every_filter_decides_something_or_is_shadowed() {
    let (mut deciding, mut shadowed) = (0, 0);
    for seed in 0..POLICIES {
        let mut rng = Rng::new(seed);
        let text = policy_text(&mut rng);
        let policy = parse(&text);
        let mut superfluous = BTreeSet::new();
        let mut needed = BTreeSet::new();
        for (definition, role) in roles(&policy) {
            let rule = &policy.rules()[definition.rule];
            let line = policy.filters(rule)[definition.filter].position.line;
            match role {
                Role::Unknown => panic!("seed {seed}: a small policy is examined in full"),
                Role::Decides(packet, direction) => {
                    let winner = explain(&policy, &packet, direction, 0).winner.expect("a winner");
                    assert_eq!(
                        winner.rank.definition, definition,
                        "seed {seed}: {packet} {direction:?}\n{text}"
                    );
                    needed.insert(line);
                    deciding += 1;
                }
                Role::Shadowed(by) => {
                    assert!(
                        by.iter()
                            .all(|taker| rank(&policy, *taker) < rank(&policy, definition))
                    );
                    superfluous.insert(line);
                    shadowed += 1;
                }
            }
        }
        // A list that two rules share is needed if either needs it.
        let gone: BTreeSet<u32> = superfluous.difference(&needed).copied().collect();
        let shorter = without_lines(&text, &gone);
        for _ in 0..400 {
            let (packet, direction) = packet(&mut rng, &policy);
            if frame_of(&packet).is_none() {
                continue;
            }
            let (before, after) = (
                reference::classify(&policy, &packet, direction),
                reference::classify(&shorter, &packet, direction),
            );
            assert_eq!(
                before, after,
                "seed {seed}: {packet} {direction:?} without {gone:?}\n{text}"
            );
        }
    }
    assert!(deciding > 2_000 && shadowed > 200, "{deciding} {shadowed}");
}

/// The policy without the filters on these lines; the generator writes each on its own.
fn without_lines(text: &str, lines: &BTreeSet<u32>) -> Policy {
    let kept: Vec<&str> = text
        .lines()
        .zip(1..)
        .filter(|(_, line)| !lines.contains(line))
        .map(|(text, _)| text)
        .collect();
    parse(&kept.join("\n"))
}

#[test]
fn conflicts_are_equally_specific_and_their_example_is_decided_by_the_winner() {
    let mut found = 0;
    for seed in 0..POLICIES {
        let text = policy_text(&mut Rng::new(seed));
        let policy = parse(&text);
        for conflict in conflicts(&policy) {
            let context = || format!("seed {seed}: {conflict:?}\n{text}");
            let (winner, loser) = (rank(&policy, conflict.winner), rank(&policy, conflict.loser));
            assert_eq!(winner.weight, loser.weight, "{}", context());
            assert!(winner < loser, "{}", context());
            let packet: Packet = conflict.packet;
            let explanation = explain(&policy, &packet, conflict.direction, usize::MAX);
            assert_eq!(
                explanation.winner.expect("a winner").rank,
                winner,
                "{}",
                context()
            );
            let loses = explanation.losers.iter().find(|it| it.rank == loser);
            assert!(loses.is_some(), "{}", context());
            assert_ne!(
                policy.rules()[conflict.winner.rule].action,
                policy.rules()[conflict.loser.rule].action,
                "{}",
                context()
            );
            found += 1;
        }
    }
    assert!(found > 50, "{found}");
}

fn rank(policy: &Policy, definition: Definition) -> Rank {
    let rule = &policy.rules()[definition.rule];
    Rank::of(rule, &policy.filters(rule)[definition.filter], definition)
}
