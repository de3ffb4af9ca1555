//! What is explained is what happens: the explanation's verdict, the reference's and the compiled rule set's agree.

use ravelin_classifier::arbitrary::{Rng, packet, rule_set};
use ravelin_classifier::reference::{self, Packet};
use ravelin_policy::Policy;
use ravelin_policy::explain::{Verdict, explain};
use ravelin_xdp_common::line::NO_RULE;
use ravelin_xdp_common::{Decision, Direction};

const POLICIES: u64 = 300;
const PACKETS: usize = 200;

#[test]
fn explanation_reference_and_rule_set_agree() {
    let mut seen = [0_usize; 5];
    for seed in 0..POLICIES {
        let mut rng = Rng::new(seed);
        let (policy, rules) = rule_set(&mut rng);
        for _ in 0..PACKETS {
            let (packet, direction) = packet(&mut rng, &policy);
            let explained = in_reference_terms(&policy, &packet, direction);
            let expected = reference::classify(&policy, &packet, direction);
            let compiled = rules.classify(&packet.flow(), direction);
            for verdict in [expected, compiled] {
                assert_eq!(
                    (verdict.decision, verdict.rule_id),
                    (explained.0, explained.1),
                    "seed {seed}: {packet} {direction:?}\n{policy:#?}"
                );
            }
            seen[expected.decision as usize] += 1;
            seen[4] += usize::from(expected.rule_id == NO_RULE);
        }
    }
    assert!(seen.iter().all(|count| *count > 300), "{seen:?}");
}

/// The verdict as a decision and a rule.
fn in_reference_terms(policy: &Policy, packet: &Packet, direction: Direction) -> (Decision, u32) {
    let explanation = explain(policy, packet, direction, usize::MAX);
    let candidates = explanation.losers.len() + usize::from(explanation.winner.is_some());
    let filters: usize = policy
        .rules()
        .iter()
        .filter(|rule| rule.active)
        .map(|rule| policy.filters(rule).len())
        .sum();
    assert_eq!(
        candidates + explanation.misses.len(),
        filters,
        "every filter is spoken of"
    );
    assert_eq!((explanation.more_losers, explanation.more_misses), (0, 0));
    if let Some(winner) = &explanation.winner {
        assert!(explanation.losers.iter().all(|loser| winner.rank < loser.rank));
    }
    assert!(
        explanation
            .misses
            .iter()
            .all(|miss| miss.mismatches.iter().count() > 0)
    );
    // A shorter explanation is the beginning of the whole one.
    let short = explain(policy, packet, direction, 2);
    assert_eq!(short.winner, explanation.winner);
    assert!(explanation.losers.starts_with(&short.losers) && explanation.misses.starts_with(&short.misses));
    assert_eq!(short.losers.len() + short.more_losers, explanation.losers.len());
    assert_eq!(short.misses.len() + short.more_misses, explanation.misses.len());

    let decision = match explanation.verdict {
        Verdict::Permit => Decision::Permit,
        Verdict::Block => Decision::Block,
        Verdict::Protect { .. } => Decision::Protect,
        Verdict::FragmentUnknown => Decision::FragmentUnknown,
    };
    let rule = explanation.winner.map_or(NO_RULE, |winner| {
        u32::try_from(winner.rank.definition.rule).expect("a small policy")
    });
    (decision, rule)
}
