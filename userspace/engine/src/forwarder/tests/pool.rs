//! A worker with crypto threads: what goes away comes back in order, or not at all.

use std::thread;
use std::time::Instant;

use proptest::prelude::*;
use ravelin_xdp_common::{DropReason, Kind};
use ravelin_xsk::twin::{TwinEnd, TwinPort};
use ravelin_xsk::{BATCH, Umem};

use super::{Site, clear_frame, connection, gateway, inject, umem};
use crate::crypto_pool::{CryptoPool, CryptoThread};
use crate::errand::Errand;
use crate::forwarder::Forwarder;
use crate::pipeline::PATIENCE;
use crate::regime::Regime;

type Gateway<'a, 'u> = Forwarder<'a, 'u, TwinPort<'u>>;

/// A gateway whose one crypto thread is in the test's hands.
fn with_thread<'a, 'u>(
    site: &'a Site,
    memory: &'u Umem,
) -> (Gateway<'a, 'u>, CryptoThread<'u>, TwinEnd, TwinEnd) {
    let (forwarder, inner, outer) = gateway(site, memory);
    let (pool, mut threads) = CryptoPool::new(1);
    (forwarder.with_pool(pool), threads.remove(0), inner, outer)
}

/// Packets with these numbers, which the gateway seals.
fn flood(inner: &TwinEnd, numbers: std::ops::Range<usize>, slot: impl Fn(usize) -> u32) {
    for number in numbers {
        let frame = clear_frame(&(number as u32).to_be_bytes(), 64);
        inject(inner, Kind::Seal, slot(number), &frame);
    }
}

fn sequences(outer: &TwinEnd) -> Vec<u32> {
    let frames = std::iter::from_fn(|| outer.take());
    frames
        .map(|frame| u32::from_be_bytes(frame[38..42].try_into().unwrap()))
        .collect()
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[42..46].try_into().unwrap())
}

fn turn_until_back(forwarder: &mut Gateway<'_, '_>) {
    while forwarder.turn().unwrap().away {}
}

#[test]
fn few_packets_are_done_at_once() {
    let (site, memory) = (Site::resolved(1, 1), umem());
    let (mut forwarder, thread, inner, outer) = with_thread(&site, &memory);
    flood(&inner, 0..BATCH - 1, |_| 0);
    assert!(!forwarder.turn().unwrap().away);
    assert_eq!(sequences(&outer), (1..BATCH as u32).collect::<Vec<_>>());
    assert!(thread.take().is_none());
    assert_eq!(site.counters.shared.value(), 0);
}

#[test]
fn batches_leave_in_their_order_whichever_is_done_first() {
    let (site, memory) = (Site::resolved(1, 1), umem());
    let (mut forwarder, thread, inner, outer) = with_thread(&site, &memory);
    let mut away = Vec::new();
    // The last one is small, and overtakes nothing all the same.
    for (first, last) in [(0, BATCH), (BATCH, 2 * BATCH), (2 * BATCH, 2 * BATCH + 3)] {
        flood(&inner, first..last, |_| 0);
        assert!(forwarder.turn().unwrap().away);
        away.push(thread.take().unwrap());
    }
    assert_eq!(site.counters.shared.value(), 2 * BATCH as u64 + 3);
    assert_eq!(memory.counts().held as usize, 2 * BATCH + 3);
    thread.hand_in(away.pop().unwrap());
    thread.hand_in(away.pop().unwrap());
    forwarder.turn().unwrap();
    assert!(sequences(&outer).is_empty());
    thread.hand_in(away.pop().unwrap());
    assert!(!forwarder.turn().unwrap().away);
    assert_eq!(sequences(&outer), (1..2 * BATCH as u32 + 4).collect::<Vec<_>>());
    forwarder.turn().unwrap();
    assert_eq!(memory.counts().held, 0);
}

#[test]
fn the_window_takes_packets_in_their_order_and_each_once() {
    let (site1, site2) = (Site::resolved(1, 1), Site::resolved(2, 1));
    let (umem1, umem2) = (umem(), umem());
    let (mut one, inner1, outer1) = gateway(&site1, &umem1);
    let (mut two, thread, inner2, outer2) = with_thread(&site2, &umem2);
    let mut wire = Vec::new();
    for first in (0..12 * BATCH).step_by(BATCH) {
        flood(&inner1, first..first + BATCH, |_| 0);
        one.turn().unwrap();
        wire.extend(std::iter::from_fn(|| outer1.take()));
    }
    let sa = || {
        let regime = site2.shared.regime();
        std::sync::Arc::clone(&regime.inbound(0).unwrap().sa)
    };
    let mut send = |frames: &[Vec<u8>]| {
        frames
            .iter()
            .for_each(|frame| inject(&outer2, Kind::OpenEsp, 0, frame));
        two.turn().unwrap();
        thread.take().unwrap()
    };
    // Twelve times the window's packets lie between the first batch and the last, and the first ones come again at once.
    let (first, again) = (send(&wire[..BATCH]), send(&wire[..BATCH]));
    let last = send(&wire[11 * BATCH..]);
    for batch in [last, again] {
        thread.hand_in(batch);
    }
    two.turn().unwrap();
    assert_eq!((inner2.take(), sa().highest_sequence()), (None, Some(0)));
    thread.hand_in(first);
    assert!(!two.turn().unwrap().away);
    let numbers: Vec<_> = std::iter::from_fn(|| inner2.take())
        .map(|frame| number(&frame) as usize)
        .collect();
    let expected: Vec<_> = (0..BATCH).chain(11 * BATCH..12 * BATCH).collect();
    assert_eq!(numbers, expected);
    assert_eq!(site2.counters.drops(DropReason::ReplayDuplicate), BATCH as u64);
    assert_eq!(sa().highest_sequence(), Some(12 * BATCH as u64));
    two.turn().unwrap();
    assert_eq!(umem2.counts().held, 0);
}

#[test]
fn a_regime_is_taken_up_when_nothing_is_away_any_more_that_it_may_not_know() {
    for stays in [true, false] {
        let (site, memory) = (Site::resolved(1, 1), umem());
        let (mut forwarder, thread, inner, outer) = with_thread(&site, &memory);
        flood(&inner, 0..BATCH, |_| 0);
        forwarder.turn().unwrap();
        let before = site.counters.taken_up.edition();
        let away = thread.take().unwrap();
        let connections = stays.then(|| connection(&site.definition, 1, 0, 5).into());
        let next = Regime::new(2, site.rules.clone(), connections, []);
        let edition = site.shared.publish(next);
        let turns = [(); 3].map(|()| {
            let started = Instant::now();
            // It takes packets all the same: those go after the others.
            forwarder.turn().unwrap();
            started.elapsed()
        });
        // It does not wait again for what hangs. One turn or the other may have been without a CPU.
        assert!(turns.iter().min() < Some(&PATIENCE), "{turns:?}");
        assert_eq!(site.counters.taken_up.edition(), before);
        assert!(sequences(&outer).is_empty());
        thread.hand_in(away);
        forwarder.turn().unwrap();
        forwarder.turn().unwrap();
        assert_eq!(site.counters.taken_up.edition(), edition);
        // To a peer that policy knows no more, nothing goes.
        let (sent, dropped) = if stays { (BATCH, 0) } else { (0, BATCH as u64) };
        assert_eq!(sequences(&outer).len(), sent);
        assert_eq!(site.counters.drops(DropReason::SaMissing), dropped);
        assert_eq!(memory.counts().held, 0);
    }
}

#[test]
fn nothing_overtakes_a_batch_that_hangs() {
    let site = Site::with(1, 8, "tfc-padding = 200").with_hops(1);
    let memory = umem();
    let (mut forwarder, thread, inner, outer) = with_thread(&site, &memory);
    flood(&inner, 0..BATCH, |_| 0);
    forwarder.turn().unwrap();
    let away = thread.take().unwrap();
    // For too many SAs to go away, and a dummy of the same SA.
    flood(&inner, 0..BATCH, |number| number as u32 % 8);
    assert!(site.shared.errands.send(Errand::Dummy { slot: 0 }));
    forwarder.turn().unwrap();
    assert!(sequences(&outer).is_empty());
    assert_eq!(site.counters.drops(DropReason::ReceiveOverrun), BATCH as u64 + 1);
    thread.hand_in(away);
    assert!(!forwarder.turn().unwrap().away);
    assert_eq!(sequences(&outer), (1..=BATCH as u32).collect::<Vec<_>>());
    // It goes on as before.
    flood(&inner, 0..BATCH, |number| number as u32 % 8);
    assert!(site.shared.errands.send(Errand::Dummy { slot: 0 }));
    forwarder.turn().unwrap();
    assert_eq!(sequences(&outer).len(), BATCH + 1);
    forwarder.turn().unwrap();
    assert_eq!(memory.counts().held, 0);
}

#[test]
fn a_full_pool_leaves_packets_where_they_are() {
    let (site, memory) = (Site::resolved(1, 1), umem());
    let (mut forwarder, thread, inner, outer) = with_thread(&site, &memory);
    let mut away = Vec::new();
    for first in 0..8 {
        flood(&inner, first * 32..first * 32 + 32, |_| 0);
        flood(&inner, first * 32 + 32..first * 32 + 64, |_| 0);
        forwarder.turn().unwrap();
        away.extend(thread.take());
    }
    assert_eq!(away.len(), 6);
    assert_eq!(site.counters.shared.value(), 6 * BATCH as u64);
    for batch in away {
        thread.hand_in(batch);
    }
    turn_until_back(&mut forwarder);
    assert_eq!(sequences(&outer), (1..8 * BATCH as u32 + 1).collect::<Vec<_>>());
    assert_eq!(
        DropReason::ALL
            .iter()
            .map(|reason| site.counters.drops(*reason))
            .sum::<u64>(),
        0
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Through both gateways with threads that run, in whatever portions packets come.
    #[test]
    fn packets_arrive_in_order_through_any_number_of_threads(
        threads in 1..4_usize,
        slots in 1..7_u32,
        portions in prop::collection::vec(1..200_usize, 1..24),
    ) {
        let (site1, site2) = (Site::resolved(1, slots), Site::resolved(2, slots));
        let (umem1, umem2) = (umem(), umem());
        // The policy uses the first connection only.
        let arriving = |number: usize| (number as u32).is_multiple_of(slots);
        let total: usize = portions.iter().sum();
        let opened = thread::scope(|scope| {
            let start = |site, memory| {
                let (forwarder, inner, outer) = gateway(site, memory);
                let (pool, ends) = CryptoPool::new(threads);
                for end in ends {
                    scope.spawn(move || end.run());
                }
                (forwarder.with_pool(pool), inner, outer)
            };
            let (mut one, inner1, outer1) = start(&site1, &umem1);
            let (mut two, inner2, outer2) = start(&site2, &umem2);
            let (mut sent, mut opened) = (0, Vec::new());
            let mut pass = |one: &mut Gateway<'_, '_>, two: &mut Gateway<'_, '_>| {
                let away = one.turn().unwrap().away;
                while let Some(frame) = outer1.take() {
                    let spi = u32::from_be_bytes(frame[34..38].try_into().unwrap());
                    inject(&outer2, Kind::OpenEsp, (spi - 0x1001) >> 8, &frame);
                }
                let away = two.turn().unwrap().away || away;
                opened.extend(std::iter::from_fn(|| inner2.take()).map(|frame| number(&frame)));
                away
            };
            // No wire holds more than 512 packets, and threads come to their turn whenever the machine likes.
            let under_way = || {
                let held = umem1.counts().held + umem2.counts().held;
                held as usize + inner1.unreceived() + outer1.waiting() + outer2.unreceived()
            };
            for portion in &portions {
                while under_way() > 256 {
                    pass(&mut one, &mut two);
                    thread::yield_now();
                }
                flood(&inner1, sent..sent + portion, |number| number as u32 % slots);
                sent += portion;
                // Some are left for the next time.
                pass(&mut one, &mut two);
                pass(&mut one, &mut two);
            }
            let mut idle = 0;
            while idle < 20 {
                idle = if pass(&mut one, &mut two) { 0 } else { idle + 1 };
            }
            opened
        });
        let expected: Vec<u32> = (0..total).filter(|number| arriving(*number)).map(|number| number as u32).collect();
        prop_assert_eq!(&opened, &expected);
        prop_assert_eq!(site1.counters.sealed.value(), total as u64);
        prop_assert_eq!(site2.counters.drops(DropReason::InnerPolicy), (total - expected.len()) as u64);
        prop_assert_eq!((umem1.counts().held, umem2.counts().held), (0, 0));
    }
}
