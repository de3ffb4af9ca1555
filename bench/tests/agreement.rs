//! Generated rule sets, compiled, against two plain readings of the same rules.

use ravelin_bench::{Kind, Order, Profile, RuleList, Trace};
use ravelin_classifier::{RuleSet, compile, reference};
use ravelin_policy::{Family, Policy};
use ravelin_xdp_common::line::NO_RULE;
use ravelin_xdp_common::{Decision, Direction};

const RULES: usize = 180;
const PACKETS: usize = 400;

#[test]
fn compiled_sets_say_what_the_generated_rules_say() {
    for (profile, family) in cases() {
        for order in [Order::Position, Order::Specificity] {
            let list = RuleList::generate(profile, family, RULES, 11);
            let (policy, rules) = compiled(&list, order);
            for (kind, seed) in Kind::ALL.into_iter().zip(20..) {
                let mut matched = 0;
                for packet in Trace::generate(kind, &list, PACKETS, PACKETS, seed).packets() {
                    for direction in [Direction::Inbound, Direction::Outbound] {
                        let found = rules.classify(&packet.flow(), direction);
                        let expected = reference::classify(&policy, packet, direction);
                        assert_eq!(
                            found, expected,
                            "{profile:?} {family:?} {order:?} {kind:?} {packet:?}"
                        );
                        if order == Order::Position {
                            let first = list.first_match(packet);
                            assert_eq!(found.rule_id, first.map_or(NO_RULE, |position| position as u32));
                            let permit = first.is_some_and(|position| list.rules()[position].permit);
                            assert_eq!(found.decision == Decision::Permit, permit);
                        }
                        matched += usize::from(found.rule_id != NO_RULE);
                    }
                }
                let all = matches!(kind, Kind::InRule | Kind::HeavyHitter);
                assert!(
                    !all || matched == 2 * PACKETS,
                    "{profile:?} {family:?} {kind:?}: {matched}"
                );
            }
        }
    }
}

fn cases() -> impl Iterator<Item = (Profile, Family)> {
    Profile::ALL
        .into_iter()
        .flat_map(|profile| [(profile, Family::V4), (profile, Family::V6)])
}

fn compiled(list: &RuleList, order: Order) -> (Policy, RuleSet) {
    let text = list.to_policy(order);
    let (policy, _) = Policy::parse(&text, "generated.toml").unwrap_or_else(|error| panic!("{error}"));
    let rules = compile(&policy).unwrap_or_else(|error| panic!("{error}"));
    (policy, rules)
}
