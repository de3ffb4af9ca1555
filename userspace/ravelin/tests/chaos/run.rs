//! The test itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::detector::{Detector, FRAGMENT, Secret, Sighted};
use crate::event::{Event, Scene};
use crate::flows::Flows;
use crate::pair::{Pair, of_gateways, of_hosts};
use crate::random::Random;
use crate::recovery::{Recovery, Report};
use crate::room::Epoch;
use crate::side::Side;
use crate::support::hosts::Hosts;
use crate::support::lab::Lab;
use crate::support::wait_until;
use crate::{alone, report, tell};

/// How long protected traffic may take to flow again.
const PATIENCE: Duration = Duration::from_secs(30);

/// The schedule unless another is asked for.
const SEED: u64 = 1_795_722_984;

/// What is permitted must not be silent for longer.
const SILENCE: Duration = Duration::from_secs(3);

/// How far ahead of this machine's the clocks are to which engines jump: a moment, a day, ten years.
const AHEAD: [u64; 3] = [3, 86_400, 315_360_000];

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: no number"))
    })
}

#[test]
fn nothing_leaks_whatever_happens() {
    let _alone = alone();
    let seed = setting("RAVELIN_CHAOS_SEED", SEED);
    let events = setting("RAVELIN_CHAOS_EVENTS", 200) as usize;
    tell(&format!("chaos: {events} events, RAVELIN_CHAOS_SEED={seed}"));
    let started = Instant::now();
    let (hosts, lab) = (Hosts::new(true), Lab::new());
    let reports = std::thread::scope(|scope| {
        let first = scope.spawn(|| live(of_hosts(&hosts), hosts.folder.path(), events.div_ceil(2), seed));
        let second = scope.spawn(|| live(of_gateways(&lab), lab.folder.path(), events / 2, !seed));
        [first, second].map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    let [mut recoveries, second] = reports;
    recoveries.merge(second);
    assert!(recoveries.events() >= events);
    let first = format!(
        "{} events in {} s, RAVELIN_CHAOS_SEED={seed}\n\n",
        recoveries.events(),
        started.elapsed().as_secs()
    );
    tell(&format!("chaos: {first}{}", recoveries.table()));
    report("chaos", &first, &recoveries.table());
}

/// Has a pair live through a share of the events.
fn live(mut pair: Pair<'_>, folder: &Path, events: usize, seed: u64) -> Report {
    let name = pair.name;
    let secret = pair.secret();
    see_a_leak(&pair, secret, folder);

    let epochs = AHEAD.map(Epoch::ahead);
    for side in &mut pair.sides {
        side.start(&epochs, &[]);
        wait_until("the engine to be ready", || side.is_ready());
    }
    let detector = Detector::start(pair.wire, pair.devices, secret, folder);
    let flows = Flows::start(pair.ends, pair.clear_port);
    wait_until("protected traffic", || flows.recovered(Duration::ZERO).is_some());
    let begin = flows.now();

    let mut random = Random::new(seed);
    let (mut report, mut cuts) = (Report::default(), Vec::new());
    let mut deck = Vec::new();
    for number in 0..events {
        // Every kind comes as often as any other, in an order that nobody foresees.
        let event = deck.pop().unwrap_or_else(|| {
            deck = Event::ALL.to_vec();
            random.shuffle(&mut deck);
            deck.pop().unwrap()
        });
        let [first, second] = &mut pair.sides;
        let (side, other) = if random.below(2) == 0 {
            (first, second)
        } else {
            (second, first)
        };
        let at = flows.now();
        let mut scene = Scene {
            side,
            other,
            ends: pair.ends,
            flows: &flows,
            epochs: &epochs,
            random: &mut random,
            cuts: &mut cuts,
        };
        let moment = scene.happen(event);
        let after = recover(
            &mut pair,
            &flows,
            &epochs,
            moment,
            &format!("{name}: event {number}, {event:?}"),
        );
        let silence = flows.silence(at);
        tell(&format!(
            "chaos: {name}: {:.1} s: {event:?} ({} ms): {} ms, silent for {} ms, permitted for {} ms",
            at.as_secs_f32(),
            (moment - at).as_millis(),
            after.as_millis(),
            silence[0].as_millis(),
            silence[1].as_millis()
        ));
        report.add(event, Recovery { after, silence });
        let leaks = detector.leaks();
        assert_eq!(
            leaks,
            0,
            "{name}: event {number}, {event:?}: in the clear: {:#?}\n{}",
            detector.finish().0.examples,
            said(&pair)
        );
    }

    let silence = flows.longest_silence(&cuts);
    let (counts, streamed, lived) = (flows.counts(), flows.streamed(), flows.now() - begin);
    drop(flows);
    let restarts: u32 = pair.sides.iter().map(|side| side.restarts).sum();
    let (sighted, second_opinion) = detector.finish();
    let Sighted {
        frames,
        esp,
        leaks,
        ref repeated,
        ..
    } = sighted;
    tell(&format!(
        "chaos: {name}: {events} events in {} s; {frames} frames, {esp} of ESP under {} keys; datagrams there and back: {} protected, {} \
         permitted; {} MB of streams; {restarts} engines ended by themselves; the permitted flow was silent for {} ms at most",
        lived.as_secs(),
        sighted.keys(),
        counts.0,
        counts.1,
        streamed >> 20,
        silence.0.as_millis()
    ));
    assert_eq!(
        (leaks, second_opinion),
        (0, 0),
        "{name}: in the clear: {:#?}",
        sighted.examples
    );
    assert!(
        repeated.is_empty(),
        "{name}: SPI and sequence number twice: {repeated:x?}"
    );
    assert!(esp > 0 && streamed > 0 && counts.1 > 0);
    assert!(
        silence.0 <= SILENCE,
        "{name}: a permitted flow was silent: {silence:?}"
    );
    report
}

/// Waits until protected traffic flows again; how long that took.
fn recover(pair: &mut Pair<'_>, flows: &Flows, epochs: &[Epoch], moment: Duration, what: &str) -> Duration {
    loop {
        if let Some(after) = flows.recovered(moment) {
            return after;
        }
        for side in &mut pair.sides {
            side.look_after(epochs);
        }
        if flows.now() > moment + PATIENCE {
            panic!(
                "{what}: not within {PATIENCE:?}: {:?}\n{}",
                flows.missing(moment),
                said(pair)
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the engines have said lately.
fn said(pair: &Pair<'_>) -> String {
    pair.sides.each_ref().map(Side::said).join("\n----\n")
}

/// Without a filter the detector must find leaks of every kind, and so must its second opinion.
fn see_a_leak(pair: &Pair<'_>, secret: Secret, folder: &Path) {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let detector = Detector::start(pair.wire, pair.devices, secret, folder);
    let flows = Flows::start(pair.ends, pair.clear_port);
    let every = [4, 6]
        .into_iter()
        .flat_map(|family| [TCP, UDP, FRAGMENT].map(|protocol| (family, protocol)));
    let every: BTreeSet<_> = every.collect();
    wait_until("leaks of every kind", || detector.kinds().is_superset(&every));
    wait_until("the second opinion", || detector.second_opinion() > 4096);
    drop(flows);
    let (sighted, second) = detector.finish();
    assert!(second > 8, "{second}");
    assert_eq!(sighted.esp, 0);
}
