//! Soft and hard limits, against a model that counts one packet after the other.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use ravelin_esp::{
    DropReason, InboundSa, Lifetime, LifetimeEvent, Limits, Measure, Opened, OutboundSa, Provider, Sealed,
};
use support::{Case, Frames, ipv4, seal};

fn tunnel() -> Case {
    Case {
        tunnel: true,
        outer_v6: false,
        udp: false,
        extended: true,
        ..Case::all()[0]
    }
}

fn outbound(lifetime: Lifetime, last_used: u64, now: Instant) -> OutboundSa {
    let mut parameters = tunnel().parameters(true);
    parameters.lifetime = lifetime;
    let sa = OutboundSa::new(parameters, Provider::preferred(), last_used, now).expect("valid");
    sa.sequence().raise_ceiling(u64::MAX);
    sa
}

fn inbound(lifetime: Lifetime, highest_seen: u64, now: Instant) -> InboundSa {
    let mut parameters = tunnel().parameters(false);
    parameters.lifetime = lifetime;
    parameters.replay_window = 65_536;
    InboundSa::new(parameters, Provider::preferred(), highest_seen, now).expect("valid")
}

fn hard(limit: u64) -> Limits {
    Limits {
        soft: None,
        hard: Some(limit),
    }
}

/// Bytes that are encrypted for a packet: with pad length, next header, and the padding to a multiple of four.
fn encrypted(clear: &[u8]) -> u64 {
    (clear.len() as u64 + 2).next_multiple_of(4)
}

fn seal_at(sa: &OutboundSa, clear: &[Vec<u8>], now: Instant) -> Vec<Result<Vec<u8>, DropReason>> {
    let mut frames = Frames::new(clear);
    let mut packets = frames.packets();
    let mut outcomes: Vec<Result<Sealed, _>> = vec![Err(DropReason::SaMissing); packets.len()];
    sa.seal_batch(&mut packets, &mut outcomes, now);
    let bytes = packets.iter().map(|packet| packet.bytes().to_vec());
    bytes
        .zip(outcomes)
        .map(|(bytes, outcome)| outcome.map(|_| bytes))
        .collect()
}

fn open_at(sa: &InboundSa, wire: &[Vec<u8>], now: Instant) -> Vec<Result<Vec<u8>, DropReason>> {
    let mut frames = Frames::new(wire);
    let mut packets = frames.packets();
    let mut outcomes: Vec<Result<Opened, _>> = vec![Err(DropReason::SaMissing); packets.len()];
    sa.open_batch(&mut packets, &mut outcomes, now);
    let bytes = packets.iter().map(|packet| packet.bytes().to_vec());
    bytes
        .zip(outcomes)
        .map(|(bytes, outcome)| outcome.map(|_| bytes))
        .collect()
}

/// One limit after the other, one packet after the other.
#[derive(Debug, Default)]
struct Model {
    lifetime: Lifetime,
    bytes: u64,
    packets: u64,
    soft: Option<Measure>,
    hard: Option<Measure>,
}

impl Model {
    fn soft_of(limits: Limits) -> Option<u64> {
        limits.soft.or(limits.hard.map(|hard| hard - hard / 10))
    }

    fn pass_time(&mut self, milliseconds: u64) {
        let in_milliseconds = |limit: Option<u64>| limit.map(|seconds| seconds * 1000);
        let Limits { soft, hard } = self.lifetime.seconds;
        let (soft, hard) = (in_milliseconds(soft), in_milliseconds(hard));
        if hard.is_some_and(|hard| milliseconds >= hard) {
            self.hard.get_or_insert(Measure::Seconds);
        }
        if Self::soft_of(Limits { soft, hard }).is_some_and(|soft| milliseconds >= soft) {
            self.soft.get_or_insert(Measure::Seconds);
        }
    }

    fn carry(&mut self, bytes: u64) -> bool {
        if self.hard.is_some() {
            return false;
        }
        let limits = self.lifetime;
        if limits.packets.hard.is_some_and(|hard| self.packets + 1 > hard) {
            self.hard = Some(Measure::Packets);
        } else if limits.bytes.hard.is_some_and(|hard| self.bytes + bytes > hard) {
            self.hard = Some(Measure::Bytes);
        }
        if self.hard.is_some() {
            return false;
        }
        self.packets += 1;
        self.bytes += bytes;
        true
    }

    /// After a batch: a limit that is used up is reached, even if nobody wants more.
    fn settle(&mut self) {
        let limits = self.lifetime;
        if limits.packets.hard == Some(self.packets) {
            self.hard.get_or_insert(Measure::Packets);
        }
        if limits.bytes.hard == Some(self.bytes) {
            self.hard.get_or_insert(Measure::Bytes);
        }
        let reached = |limits, used| Self::soft_of(limits).is_some_and(|soft| used >= soft);
        if reached(limits.packets, self.packets) {
            self.soft.get_or_insert(Measure::Packets);
        } else if reached(limits.bytes, self.bytes) {
            self.soft.get_or_insert(Measure::Bytes);
        }
    }
}

fn limits(most: u64) -> impl Strategy<Value = Limits> {
    (prop::option::of(1..=most), prop::option::of(1..=most)).prop_map(|(a, b)| match (a, b) {
        (Some(a), Some(b)) => Limits {
            soft: Some(a.min(b)),
            hard: Some(a.max(b)),
        },
        (soft, hard) => Limits { soft, hard },
    })
}

fn lifetime() -> impl Strategy<Value = Lifetime> {
    (limits(100), limits(20_000), limits(300)).prop_map(|(seconds, bytes, packets)| Lifetime {
        seconds,
        bytes,
        packets,
        ..Lifetime::default()
    })
}

/// Milliseconds that pass, then the payloads of a batch.
fn batches() -> impl Strategy<Value = Vec<(u64, Vec<usize>)>> {
    let payloads = prop::collection::vec(0_usize..200, 0..90);
    prop::collection::vec((0_u64..8000, payloads), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_sa_lives_as_the_model_does(lifetime in lifetime(), batches in batches()) {
        let start = Instant::now();
        let (sender, receiver) = (outbound(lifetime, 0, start), inbound(lifetime, 0, start));
        let unlimited = outbound(Lifetime::default(), 0, start);
        let mut model = Model { lifetime, ..Model::default() };
        let mut told = Vec::new();
        let mut passed = 0;
        for (milliseconds, payloads) in batches {
            passed += milliseconds;
            let now = start + Duration::from_millis(passed);
            let clear: Vec<Vec<u8>> = payloads.iter().map(|len| ipv4(0, &[], &vec![7; *len])).collect();
            model.pass_time(passed);
            let expected: Vec<bool> = clear.iter().map(|clear| model.carry(encrypted(clear))).collect();
            if !clear.is_empty() {
                model.settle();
            }

            let sent = seal_at(&sender, &clear, now);
            let wire: Vec<Vec<u8>> = seal_at(&unlimited, &clear, now).into_iter().map(Result::unwrap).collect();
            let received = open_at(&receiver, &wire, now);
            for (n, expected) in expected.into_iter().enumerate() {
                let expired = Some(DropReason::LifetimeExpired);
                let reason = (!expected).then_some(expired).flatten();
                prop_assert_eq!(sent[n].as_ref().err().copied(), reason);
                prop_assert_eq!(received[n].as_ref().err().copied(), reason);
            }
            for status in [sender.lifetime(now), receiver.lifetime(now)] {
                prop_assert_eq!(status.bytes, model.bytes);
                let reached = model.hard.map(LifetimeEvent::Hard).or(model.soft.map(LifetimeEvent::Soft));
                prop_assert_eq!(status.reached.map(kind), reached.map(kind));
                // Of limits that are reached within one batch any may be named.
                let one = [lifetime.seconds, lifetime.bytes, lifetime.packets].iter().filter(|limits| limits.hard.is_some()).count() == 1;
                if one && let (Some(LifetimeEvent::Hard(a)), Some(LifetimeEvent::Hard(b))) = (status.reached, reached) {
                    prop_assert_eq!(a, b);
                }
            }
            // Numbers without bytes are lost, but never more than the limit of packets.
            prop_assert!(sender.lifetime(now).packets >= model.packets);
            prop_assert!(lifetime.packets.hard.is_none_or(|hard| sender.lifetime(now).packets <= hard));
            if model.hard.is_none() {
                prop_assert_eq!(receiver.lifetime(now).packets, model.packets);
            }
            let event = receiver.lifetime_event(now);
            prop_assert_eq!(event.map(kind), sender.lifetime_event(now).map(kind));
            told.extend(event.map(kind));
        }
        // At most "soft" and then "hard".
        let once = [&[][..], &["soft"], &["hard"], &["soft", "hard"]];
        prop_assert!(once.contains(&&told[..]), "{:?}", told);
        prop_assert_eq!(told.contains(&"hard"), model.hard.is_some());
        prop_assert_eq!(!told.is_empty(), model.hard.is_some() || model.soft.is_some());
    }
}

fn kind(event: LifetimeEvent) -> &'static str {
    match event {
        LifetimeEvent::Soft(_) => "soft",
        LifetimeEvent::Hard(_) => "hard",
    }
}

/// Several workers hammer one SA in batches of all sizes; what they got together is exactly the limit of packets, and
/// within the last packet of the limit of bytes.
#[test]
fn workers_together_never_pass_a_hard_limit() {
    const WORKERS: u64 = 4;
    for round in 0..40 {
        let start = Instant::now();
        let payload = 40 + round as usize;
        let clear = ipv4(0, &[], &vec![1; payload]);
        let each = encrypted(&clear);
        let by_packets = Lifetime {
            packets: hard(1000 + round),
            ..Lifetime::default()
        };
        let by_bytes = Lifetime {
            bytes: hard(each * 1000 + round),
            ..Lifetime::default()
        };
        for lifetime in [by_packets, by_bytes] {
            let allowed = lifetime.packets.hard.unwrap_or(1000 + round / each);
            let sa = outbound(lifetime, 0, start);
            let sealed = AtomicU64::new(0);
            run(WORKERS, |worker| {
                let batch = vec![clear.clone(); 1 + (worker as usize * 7 + round as usize) % 60];
                loop {
                    let outcomes = seal_at(&sa, &batch, start);
                    let good = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
                    sealed.fetch_add(good as u64, Ordering::Relaxed);
                    if good < batch.len() {
                        break;
                    }
                }
            });
            assert_eq!(sealed.into_inner(), allowed, "sealed, {lifetime:?}");
            assert_eq!(sa.counters().packets, allowed);

            let free = outbound(Lifetime::default(), 0, start);
            let wire: Vec<Vec<u8>> = seal(&free, &vec![clear.clone(); 1400])
                .into_iter()
                .map(|sealed| sealed.expect("no limit").0)
                .collect();
            let sa = inbound(lifetime, 0, start);
            let opened = AtomicU64::new(0);
            run(WORKERS, |worker| {
                let size = 1 + (worker as usize * 11 + round as usize) % 60;
                // Each worker has its share, and the first packet of the next share as well.
                let share = wire.len() / WORKERS as usize;
                let from = worker as usize * share;
                for batch in wire[from..(from + share + 1).min(wire.len())].chunks(size) {
                    let good = open_at(&sa, batch, start)
                        .iter()
                        .filter(|outcome| outcome.is_ok())
                        .count();
                    opened.fetch_add(good as u64, Ordering::Relaxed);
                }
            });
            assert_eq!(opened.into_inner(), allowed, "opened, {lifetime:?}");
            assert_eq!(sa.lifetime(start).packets.min(allowed), allowed);
            assert!(sa.lifetime(start).bytes <= lifetime.bytes.hard.unwrap_or(u64::MAX));
            assert!(sa.counters().dropped(DropReason::LifetimeExpired) > 0);
        }
    }
}

fn run(workers: u64, work: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let work = &work;
            scope.spawn(move || work(worker));
        }
    });
}

/// The same for bytes.
#[test]
fn bytes_before_the_start_count() {
    let now = Instant::now();
    let clear = vec![ipv4(0, &[], &[]); 10];
    let each = encrypted(&clear[0]);
    let wire: Vec<Vec<u8>> = seal_at(&outbound(Lifetime::default(), 0, now), &clear, now)
        .into_iter()
        .map(|sealed| sealed.expect("no limit"))
        .collect();
    for (before, fit) in [(0, 10), (each * 7, 3), (each * 10, 0), (u64::MAX, 0)] {
        let lifetime = Lifetime {
            bytes: hard(each * 10),
            bytes_before: before,
            ..Lifetime::default()
        };
        let (sender, receiver) = (outbound(lifetime, 0, now), inbound(lifetime, 0, now));
        if fit == 0 {
            for event in [sender.lifetime_event(now), receiver.lifetime_event(now)] {
                assert_eq!(event, Some(LifetimeEvent::Hard(Measure::Bytes)));
            }
        }
        for outcomes in [seal_at(&sender, &clear, now), open_at(&receiver, &wire, now)] {
            assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), fit);
        }
        for status in [sender.lifetime(now), receiver.lifetime(now)] {
            assert_eq!(status.bytes, before.max(each * 10));
            assert_eq!(status.reached, Some(LifetimeEvent::Hard(Measure::Bytes)));
        }
    }
}

/// A key that was used before has that much less to give; where the sequence numbers stand does not matter.
#[test]
fn packets_before_the_start_count() {
    let now = Instant::now();
    let after = |packets_before| Lifetime {
        packets: hard(1000),
        packets_before,
        ..Lifetime::default()
    };
    let clear = vec![ipv4(0, &[], &[]); 10];
    for mark in [0, 995, 5_000_000, u64::MAX - 100] {
        let wire: Vec<Vec<u8>> = seal_at(&outbound(Lifetime::default(), mark, now), &clear, now)
            .into_iter()
            .map(|sealed| sealed.expect("no limit"))
            .collect();
        let (sender, receiver) = (outbound(after(995), mark, now), inbound(after(995), mark, now));
        for good in [seal_at(&sender, &clear, now), open_at(&receiver, &wire, now)] {
            assert_eq!(good.iter().filter(|outcome| outcome.is_ok()).count(), 5);
        }
        for status in [sender.lifetime(now), receiver.lifetime(now)] {
            assert_eq!(status.packets, 1000);
            assert_eq!(status.reached, Some(LifetimeEvent::Hard(Measure::Packets)));
        }
    }
    let fresh = outbound(after(0), 5_000_000, now);
    assert_eq!(fresh.lifetime_event(now), None, "numbers are not packets");
    // More than all of it is no error, but an SA at its end: it says so, and carries nothing.
    let sa = outbound(after(1 << 20), 1 << 20, now);
    assert_eq!(
        sa.lifetime_event(now),
        Some(LifetimeEvent::Hard(Measure::Packets))
    );
    assert_eq!(seal_at(&sa, &clear[..1], now), [Err(DropReason::LifetimeExpired)]);
    assert_eq!(sa.sequence().last_used(), 1 << 20);
    let sa = inbound(after(1 << 20), 1 << 20, now);
    assert_eq!(open_at(&sa, &clear[..1], now), [Err(DropReason::LifetimeExpired)]);
}

#[test]
fn the_end_of_the_number_space_keeps_its_own_reason() {
    let now = Instant::now();
    let mut parameters = tunnel().parameters(true);
    parameters.extended_sequence_numbers = false;
    let last = u64::from(u32::MAX);
    let sa = OutboundSa::new(parameters, Provider::preferred(), last - 1, now).expect("valid");
    sa.sequence().raise_ceiling(u64::MAX);
    let clear = vec![ipv4(0, &[], &[]); 2];
    let outcomes = seal_at(&sa, &clear, now);
    assert!(outcomes[0].is_ok());
    assert_eq!(outcomes[1], Err(DropReason::SequenceExhausted));
    assert_eq!(
        seal_at(&sa, &clear[..1], now),
        [Err(DropReason::SequenceExhausted)]
    );
    assert_eq!(
        sa.lifetime_event(now),
        Some(LifetimeEvent::Hard(Measure::Packets))
    );
}

/// Whatever arrives at an SA that has ended, it costs nothing and changes nothing.
#[test]
fn an_sa_at_its_end_is_left_alone() {
    let start = Instant::now();
    let lifetime = Lifetime {
        seconds: hard(10),
        ..Lifetime::default()
    };
    let sa = inbound(lifetime, 0, start);
    let sender = outbound(Lifetime::default(), 0, start);
    let clear = vec![ipv4(0, &[], &[])];
    let wire: Vec<Vec<u8>> = [&clear, &clear]
        .iter()
        .map(|clear| seal_at(&sender, clear, start)[0].clone().expect("no limit"))
        .collect();
    let last_moment = start + Duration::from_millis(9999);
    assert!(open_at(&sa, &wire[..1], last_moment)[0].is_ok());
    let end = start + Duration::from_secs(10);
    assert_eq!(
        open_at(&sa, &[wire[1].clone(), vec![1, 2, 3]], end),
        vec![Err(DropReason::LifetimeExpired); 2]
    );
    assert_eq!(sa.highest_sequence(), Some(1));
    assert_eq!(sa.counters().dropped(DropReason::LifetimeExpired), 2);
    assert_eq!(
        open_at(&sa, &wire[1..], last_moment),
        [Err(DropReason::LifetimeExpired)]
    );
}
