//! What `diff` reports is so by the reference, and what it does not report does not change.

use ravelin_classifier::arbitrary::{Rng, packet, policy_text};
use ravelin_classifier::frame_of;
use ravelin_classifier::reference::{self, Packet};
use ravelin_policy::Policy;
use ravelin_policy::diff::{Difference, diff};
use ravelin_xdp_common::{Decision, Direction, Verdict};

const POLICIES: u64 = 200;

fn parse(text: &str) -> Policy {
    Policy::parse(text, "generated.toml")
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
        .0
}

/// What a packet's sender would notice.
fn consequence(verdict: &Verdict) -> (Decision, u32, bool, bool) {
    match verdict.decision {
        Decision::Protect => (
            verdict.decision,
            verdict.connection,
            verdict.accept_unsecured,
            verdict.audit,
        ),
        // What passes anyway is not audited.
        Decision::Permit => (verdict.decision, 0, false, false),
        other => (other, 0, false, verdict.audit),
    }
}

/// Some lines of the filters gone, and now and then another default.
fn altered(rng: &mut Rng, text: &str) -> String {
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with("  {") || !rng.chance(15))
        .map(str::to_owned)
        .collect();
    for line in &mut lines {
        if line.starts_with("action = \"permit\"") && rng.chance(20) {
            *line = "action = \"block\"".to_owned();
        }
        if line.starts_with("default") && rng.chance(20) {
            *line = "default = \"block\"".to_owned();
        }
    }
    lines.join("\n")
}

/// Every region's example is confirmed.
fn confirm(difference: &Difference, old: &Policy, new: &Policy, context: &impl Fn() -> String) -> usize {
    let mut confirmed = 0;
    for changed in difference.changes.iter().flat_map(|change| &change.regions) {
        assert!(!changed.directions.is_empty(), "{}", context());
        for direction in &changed.directions {
            let verdicts = [old, new].map(|policy| reference::classify(policy, &changed.example, *direction));
            assert_ne!(
                consequence(&verdicts[0]),
                consequence(&verdicts[1]),
                "{changed:?} {direction:?}\n{}",
                context()
            );
            confirmed += 1;
        }
    }
    confirmed
}

fn differs(old: &Policy, new: &Policy, packet: &Packet, direction: Direction) -> bool {
    let verdict = |policy| consequence(&reference::classify(policy, packet, direction));
    verdict(old) != verdict(new)
}

#[test]
fn what_is_reported_changes_and_what_is_not_does_not() {
    let (mut confirmed, mut unchanged, mut differing) = (0, 0, 0);
    for seed in 0..POLICIES {
        let mut rng = Rng::new(seed);
        let text = policy_text(&mut rng);
        let other = altered(&mut rng, &text);
        let (old, new) = (parse(&text), parse(&other));
        let context = || format!("seed {seed}\n{text}\n---\n{other}");
        let difference = diff(&old, &new, usize::MAX);
        assert!(difference.complete, "{}", context());
        confirmed += confirm(&difference, &old, &new, &context);
        for _ in 0..300 {
            let (packet, direction) = packet(&mut rng, &old);
            if frame_of(&packet).is_none() || !differs(&old, &new, &packet, direction) {
                continue;
            }
            differing += 1;
            assert!(
                !difference.changes.is_empty(),
                "{packet} {direction:?}\n{}",
                context()
            );
        }
        if difference.changes.is_empty() {
            unchanged += 1;
        }
    }
    assert!(
        confirmed > 2_000 && differing > 2_000 && unchanged > 5,
        "{confirmed} {differing} {unchanged}"
    );
}

/// A packet that the reference judges differently is told of, with the rules that decide it.
#[test]
fn a_packet_that_changes_is_told_with_its_two_rules() {
    for seed in 1_000..1_000 + POLICIES {
        let mut rng = Rng::new(seed);
        let text = policy_text(&mut rng);
        let other = altered(&mut rng, &text);
        let (old, new) = (parse(&text), parse(&other));
        let difference = diff(&old, &new, usize::MAX);
        for _ in 0..200 {
            let (packet, direction) = packet(&mut rng, &old);
            if frame_of(&packet).is_none() || !differs(&old, &new, &packet, direction) {
                continue;
            }
            let name = |policy: &Policy| {
                let verdict = reference::classify(policy, &packet, direction);
                policy
                    .rules()
                    .get(verdict.rule_id as usize)
                    .map(|rule| rule.name.clone())
            };
            let rules = (name(&old), name(&new));
            let told = difference.changes.iter().any(|change| {
                (&change.old.rule, &change.new.rule) == (&rules.0, &rules.1)
                    && change
                        .regions
                        .iter()
                        .any(|region| region.directions.contains(&direction))
            });
            assert!(
                told,
                "seed {seed}: {packet} {direction:?} {rules:?}\n{difference:#?}\n{text}\n---\n{other}"
            );
        }
    }
}

#[test]
fn a_policy_does_not_differ_from_itself() {
    for seed in 0..POLICIES {
        let mut rng = Rng::new(seed);
        let text = policy_text(&mut rng);
        let policy = parse(&text);
        let same = diff(&policy, &parse(&text), usize::MAX);
        assert_eq!(
            same,
            Difference {
                complete: true,
                ..Difference::default()
            }
        );
    }
}
