//! Anti-replay, scenario by scenario, against a slow model that follows the words of RFC 4303 appendix A2 and shares
//! nothing with the window; then through SAs, with forged packets and with workers that race.

mod support;

use std::collections::HashSet;
use std::sync::Barrier;
use std::time::Instant;

use ravelin_esp::{DropReason, InboundSa, Opened, Provider, ReplayWindow};
use support::{Case, Frames, ipv4, open, open_one, seal, seal_one};

const SIZES: [u32; 4] = [64, 128, 1024, 65_536];
const LOW_SPACE: u64 = 1 << 32;

/// Every number received, and T. Names as in the RFC.
#[derive(Clone)]
struct Model {
    w: u64,
    extended: bool,
    t: u64,
    /// Nothing up to here is taken: where a window was resumed.
    floor: u64,
    received: HashSet<u64>,
}

impl Model {
    fn new(size: u32, extended: bool, start: u64) -> Self {
        Self {
            w: size.into(),
            extended,
            t: start,
            floor: start,
            received: HashSet::new(),
        }
    }

    /// Appendix A2.2: "the high-order bits (Seqh) of the sequence number … are deduced".
    fn deduce(&self, seql: u32) -> Option<u64> {
        if !self.extended {
            return Some(seql.into());
        }
        let (th, tl) = (self.t / LOW_SPACE, self.t % LOW_SPACE);
        let seql = u64::from(seql);
        let seqh = if tl >= self.w - 1 {
            // Case A: the window is within one subspace, from Bl = Tl - (W - 1).
            if seql >= tl - (self.w - 1) { th } else { th + 1 }
        } else {
            // Case B: the window spans two, and Bl is in the one before.
            let bl = tl + LOW_SPACE - (self.w - 1);
            match (seql >= bl, th) {
                // There is none before the first.
                (true, 0) => 0,
                (true, th) => th - 1,
                (false, th) => th,
            }
        };
        (seqh < LOW_SPACE).then(|| seqh * LOW_SPACE + seql)
    }

    fn check(&self, seql: u32) -> Result<u64, DropReason> {
        let number = self.deduce(seql).ok_or(DropReason::ReplayOld)?;
        self.judge(number).map(|()| number)
    }

    fn judge(&self, number: u64) -> Result<(), DropReason> {
        if number == 0 {
            Err(DropReason::SequenceZero)
        } else if self.t >= self.w && number <= self.t - self.w {
            Err(DropReason::ReplayOld)
        } else if number <= self.floor || self.received.contains(&number) {
            Err(DropReason::ReplayDuplicate)
        } else {
            Ok(())
        }
    }

    fn accept(&mut self, number: u64) -> Result<(), DropReason> {
        self.judge(number)?;
        self.received.insert(number);
        self.t = self.t.max(number);
        Ok(())
    }
}

/// A window and its model, which must agree on everything.
struct Pair {
    window: ReplayWindow,
    model: Model,
    size: u64,
}

impl Pair {
    fn new(size: u32, extended: bool, start: u64) -> Self {
        Self {
            window: ReplayWindow::new(size, extended, start),
            model: Model::new(size, extended, start),
            size: size.into(),
        }
    }

    fn receive(&mut self, low: u32) {
        let context = format!("low {low:#x}, W {}, T {:#x}", self.size, self.model.t);
        let expected = self.model.check(low);
        assert_eq!(self.window.check(low), expected, "check: {context}");
        if let Ok(number) = expected {
            let expected = self.model.accept(number);
            assert_eq!(self.window.accept(number), expected, "accept: {context}");
        }
        assert_eq!(self.window.highest(), self.model.t, "{context}");
    }

    /// What is still taken everywhere around the window's edges and the ends of the subspaces, without taking it.
    fn probe(&self) {
        let (t, w) = (self.model.t, self.size);
        let edges = [
            0,
            1,
            t,
            t.wrapping_sub(w),
            t.wrapping_add(w),
            LOW_SPACE - 1,
            1 << 31,
            t.wrapping_add(1 << 31),
        ];
        for edge in edges {
            for near in -2..=2 {
                let low = edge.wrapping_add_signed(near) as u32;
                assert_eq!(
                    self.window.check(low),
                    self.model.check(low),
                    "probe low {low:#x}, W {w}, T {t:#x}"
                );
            }
        }
    }
}

/// Where windows begin: at the start, around the point where they are full, around wraps of the low half, in both cases
/// of the appendix, and at the ends.
fn starts(size: u64, extended: bool) -> Vec<u64> {
    let mut starts = vec![
        0,
        1,
        2,
        63,
        64,
        size - 2,
        size - 1,
        size,
        size + 1,
        1 << 31,
        LOW_SPACE - size - 1,
    ];
    if extended {
        for wrap in [1_u64, 2, 3, 1 << 16, (1 << 32) - 1] {
            let at = wrap * LOW_SPACE;
            let case_b_ends = size - 1;
            starts.extend([at - size - 1, at - size, at - 2, at - 1, at, at + 1]);
            starts.extend([
                at + case_b_ends - 1,
                at + case_b_ends,
                at + case_b_ends + 1,
                at + (1 << 31),
            ]);
        }
        starts.extend([u64::MAX - (1 << 31), u64::MAX - size, u64::MAX - 1]);
    }
    starts
}

/// The matrix: every start, every jump forward, and behind each jump the window looked at from all sides, its holes
/// filled and its duplicates tried.
#[test]
fn every_jump_from_every_start_is_judged_as_the_appendix_says() {
    for size in SIZES {
        let w = u64::from(size);
        for extended in [false, true] {
            for start in starts(w, extended) {
                let jumps = [
                    1,
                    2,
                    w - 1,
                    w,
                    w + 1,
                    2 * w + 64,
                    1 << 31,
                    LOW_SPACE - 2 * w,
                    LOW_SPACE - w,
                    LOW_SPACE - w + 1,
                    LOW_SPACE - 1,
                ];
                for jump in jumps {
                    let mut pair = Pair::new(size, extended, start);
                    pair.probe();
                    // Something to find again later.
                    for number in [start, start.wrapping_add(1), start.wrapping_add(3)] {
                        pair.receive(number as u32);
                    }
                    let target = pair.model.t.wrapping_add(jump);
                    pair.receive(target as u32);
                    pair.probe();
                    let t = pair.model.t;
                    // Duplicates, the left edge, one beyond it, a hole filled, and twice.
                    for back in [0, 1, 1, 2, 63, 64, w / 2, w - 1, w - 1, w, w + 1] {
                        pair.receive(t.wrapping_sub(back) as u32);
                    }
                    // On over the next wrap, step by step of just less than a window.
                    for _ in 0..4 {
                        pair.receive(pair.model.t.wrapping_add(w - 1) as u32);
                        pair.receive(pair.model.t.wrapping_sub(w - 1) as u32);
                        pair.probe();
                    }
                }
            }
        }
    }
}

/// Each number once, in an order that has both halves of every wrap in flight at once: nothing is lost.
#[test]
fn reordering_within_the_window_loses_nothing_across_wraps() {
    for size in SIZES {
        let w = u64::from(size);
        for wrap in [1_u64, 2, 7] {
            let first = wrap * LOW_SPACE - 2 * w;
            let mut pair = Pair::new(size, true, first - 1);
            // Pairs of blocks swapped: each is at most a window late.
            let block = w / 2;
            for blocks in 0..4 {
                for half in [1, 0] {
                    let from = first + (2 * blocks + half) * block;
                    for number in from..from + block {
                        assert_eq!(pair.window.check(number as u32), Ok(number));
                        pair.receive(number as u32);
                    }
                }
            }
            assert_eq!(pair.model.received.len() as u64, 8 * block);
        }
    }
}

/// All ways in which the steps of workers can fall between each other, over the real window. A worker checks a batch
/// under the lock, decrypts without it, and records the batch under the lock: two steps.
#[test]
fn no_interleaving_of_workers_accepts_a_number_twice_or_loses_one() {
    let base = 3 * LOW_SPACE - 10;
    // Batches as offsets from the number where the window stands; negative ones are late.
    let scenarios: [&[&[i64]]; 7] = [
        &[&[1], &[1], &[1], &[1]],
        &[&[1, 2], &[2, 1], &[1, 2]],
        // The second moves the window past the first, which is on its way.
        &[&[1], &[65], &[64], &[128]],
        &[&[-63, 1], &[2], &[-63], &[66]],
        // Over the end of the low half: low bits 0xffff_fff7 to 5.
        &[&[1, 9], &[10, 15], &[15, 9, 10], &[9]],
        &[&[70, 6], &[6, 5], &[5, 70]],
        // Everything twice within a batch too.
        &[&[3, 3], &[3, 3, 3], &[4, 3]],
    ];
    for batches in scenarios {
        let mut order = Vec::new();
        let mut left = vec![2; batches.len()];
        let mut seen = 0;
        interleave(&mut order, &mut left, &mut |order| {
            seen += 1;
            run_interleaved(base, batches, order);
        });
        let expected = (1..=2 * batches.len()).product::<usize>() >> batches.len();
        assert_eq!(seen, expected, "all interleavings of {} workers", batches.len());
    }
}

/// Calls `run` with every order in which workers can take the steps that each has `left`.
fn interleave(order: &mut Vec<usize>, left: &mut Vec<u32>, run: &mut impl FnMut(&[usize])) {
    if left.iter().all(|left| *left == 0) {
        return run(order);
    }
    for worker in 0..left.len() {
        if left[worker] > 0 {
            left[worker] -= 1;
            order.push(worker);
            interleave(order, left, run);
            order.pop();
            left[worker] += 1;
        }
    }
}

fn run_interleaved(base: u64, batches: &[&[i64]], order: &[usize]) {
    // It stood lower and moved on, so that late numbers are free.
    let mut window = ReplayWindow::new(64, true, base - 200);
    window.accept(base).expect("new");
    let mut model = Model::new(64, true, base - 200);
    model.accept(base).expect("new");
    let mut checked: Vec<Option<Vec<Result<u64, DropReason>>>> = vec![None; batches.len()];
    let mut accepted = Vec::new();
    for &worker in order {
        match checked[worker].take() {
            None => {
                let lows = batches[worker]
                    .iter()
                    .map(|offset| base.wrapping_add_signed(*offset) as u32);
                let outcomes: Vec<_> = lows.clone().map(|low| window.check(low)).collect();
                let expected: Vec<_> = lows.map(|low| model.check(low)).collect();
                assert_eq!(outcomes, expected, "{batches:?} {order:?}");
                checked[worker] = Some(outcomes);
            }
            Some(outcomes) => {
                for (outcome, offset) in outcomes.into_iter().zip(batches[worker]) {
                    // A number of which the high half was deduced wrong has the wrong nonce: the ICV fails.
                    let sent = base.wrapping_add_signed(*offset);
                    let Some(number) = outcome.ok().filter(|number| *number == sent) else {
                        continue;
                    };
                    let outcome = window.accept(number);
                    assert_eq!(outcome, model.accept(number), "{batches:?} {order:?}");
                    if outcome.is_ok() {
                        accepted.push(number);
                    }
                }
            }
        }
    }
    let distinct: HashSet<u64> = accepted.iter().copied().collect();
    assert_eq!(distinct.len(), accepted.len(), "twice: {batches:?} {order:?}");
    // Whatever the order, a number that no window could have left behind got through once.
    let top = batches
        .iter()
        .flat_map(|batch| batch.iter())
        .max()
        .expect("packets");
    let always = batches
        .iter()
        .flat_map(|batch| batch.iter())
        .filter(|offset| **offset > *top - 64);
    for offset in always {
        assert!(
            distinct.contains(&base.wrapping_add_signed(*offset)),
            "lost: {offset} of {batches:?} {order:?}"
        );
    }
    assert_eq!(window.highest(), base.wrapping_add_signed(*top));
}

fn tunnel(extended: bool) -> Case {
    Case {
        tunnel: true,
        outer_v6: false,
        udp: false,
        extended,
        ..Case::all()[0]
    }
}

fn inbound(case: Case, window: u32, start: u64) -> InboundSa {
    let mut parameters = case.parameters(false);
    parameters.replay_window = window;
    InboundSa::new(parameters, Provider::preferred(), start, Instant::now()).expect("valid")
}

/// RFC 4303 section 3.4.3: "The receive window is updated only if the integrity verification succeeds."
#[test]
fn forged_packets_far_ahead_do_not_move_the_window() {
    let clear = ipv4(0, &[], b"payload");
    for extended in [false, true] {
        let case = tunnel(extended);
        for window in SIZES {
            let start = LOW_SPACE - 300_000;
            let sender = case.outbound_after(Provider::preferred(), start);
            let sa = inbound(case, window, start);
            let (first, number) = seal_one(&sender, &clear).expect("sealed");
            let (late, _) = seal_one(&sender, &clear).expect("sealed");
            assert_eq!(open_one(&sa, &first), Ok((clear.clone(), number)));
            let jumps = [
                1,
                u64::from(window),
                u64::from(window) + 1,
                100_000,
                290_000,
                1 << 31,
            ];
            let mut forged: Vec<Vec<u8>> = jumps
                .iter()
                .map(|jump| {
                    let mut forged = first.clone();
                    let low = (number + jump) as u32;
                    forged[case.esp_at() + 4..case.esp_at() + 8].copy_from_slice(&low.to_be_bytes());
                    forged
                })
                .collect();
            // An authentic packet among them, so that batches are mixed.
            forged.insert(3, late.clone());
            let outcomes = open(&sa, &forged);
            for (n, outcome) in outcomes.iter().enumerate() {
                let expected = if n == 3 {
                    Ok((clear.clone(), number + 1))
                } else {
                    Err(DropReason::IcvMismatch)
                };
                // Without ESN the wrap makes it an old number.
                let old = !extended && n == 6;
                let expected = if old { Err(DropReason::ReplayOld) } else { expected };
                assert_eq!(*outcome, expected, "W {window}, packet {n}");
            }
            assert_eq!(sa.highest_sequence(), Some(number + 1));
            // What was sent meanwhile still arrives.
            let (next, sequence) = seal_one(&sender, &clear).expect("sealed");
            assert_eq!(open_one(&sa, &next), Ok((clear.clone(), sequence)));
        }
    }
}

/// The longest gap after which the high half is still deduced right, and one more.
#[test]
fn extended_numbers_survive_the_longest_gap_that_can_be() {
    let case = tunnel(true);
    let clear = ipv4(0, &[], b"payload");
    for window in SIZES {
        let w = u64::from(window);
        for start in [
            w,
            LOW_SPACE - 1,
            LOW_SPACE,
            2 * LOW_SPACE - w,
            2 * LOW_SPACE + w - 2,
        ] {
            for (gap, arrives) in [
                (LOW_SPACE - w, true),
                (LOW_SPACE - w + 1, false),
                (LOW_SPACE, false),
            ] {
                let sa = inbound(case, window, start);
                let sender = case.outbound_after(Provider::preferred(), start + gap - 1);
                let (wire, number) = seal_one(&sender, &clear).expect("sealed");
                let outcome = open_one(&sa, &wire);
                if arrives {
                    assert_eq!(
                        outcome,
                        Ok((clear.clone(), number)),
                        "W {window}, start {start:#x}"
                    );
                } else {
                    assert!(outcome.is_err(), "W {window}, start {start:#x}, gap {gap:#x}");
                    assert_eq!(sa.highest_sequence(), Some(start));
                }
            }
        }
    }
}

/// Two workers have the same packets at the same time, over and over, around a wrap of the low half. The packets are long,
/// so that both have checked them before either has decrypted them.
#[test]
fn of_two_workers_with_the_same_packet_one_gets_it() {
    const ROUNDS: u64 = 60;
    const BATCH: u64 = 64;
    let case = tunnel(true);
    let clear = ipv4(0, &[], &[9; 8000]);
    let start = 5 * LOW_SPACE - ROUNDS * BATCH / 2 - 7;
    let sender = case.outbound_after(Provider::preferred(), start);
    let sa = inbound(case, 64, start);
    let barrier = Barrier::new(2);
    let wire: Vec<Vec<Vec<u8>>> = (0..ROUNDS)
        .map(|_| {
            seal(&sender, &vec![clear.clone(); BATCH as usize])
                .into_iter()
                .map(|sealed| sealed.expect("sealed").0)
                .collect()
        })
        .collect();
    let (one, other) = std::thread::scope(|scope| {
        let worker = || {
            scope.spawn(|| {
                let mut got = Vec::new();
                for batch in &wire {
                    let mut frames = Frames::new(batch);
                    let mut packets = frames.packets();
                    let mut outcomes: Vec<Result<Opened, _>> = vec![Err(DropReason::SaMissing); batch.len()];
                    let now = Instant::now();
                    barrier.wait();
                    sa.open_batch(&mut packets, &mut outcomes, now);
                    got.extend(outcomes);
                }
                got
            })
        };
        let (one, other) = (worker(), worker());
        (one.join().expect("no panic"), other.join().expect("no panic"))
    });
    for ((one, other), number) in one.iter().zip(&other).zip(start + 1..) {
        match (one, other) {
            (Ok(opened), Err(DropReason::ReplayDuplicate))
            | (Err(DropReason::ReplayDuplicate), Ok(opened)) => {
                assert_eq!(opened.sequence, number);
            }
            pair => panic!("packet {number}: {pair:?}"),
        }
    }
    let counts = sa.counters();
    assert_eq!(counts.packets, ROUNDS * BATCH);
    assert_eq!(counts.dropped(DropReason::ReplayDuplicate), ROUNDS * BATCH);
}
