//! AF_XDP sockets on veth pairs, in network namespaces that the tests make themselves. Needs root.
//!
//! Every backend passes the same tests. Where one cannot do what another can, [`Tested`] says so, and the tests expect just that.
//!
//! The outside witness is the kernel's packet socket at the other end of each pair.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;

use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ravelin_xsk::{
    Batch, BusyPoll, FrameCounts, Kick, Mode, OpenError, Port, PortError, PortOptions, Umem, UmemOptions,
    queue_count,
};
use support::backends::{Tested, with_every_backend};
use support::bpf::{METADATA, Redirect};
use support::net::{in_namespace, ip, veth};
use support::packet::{Witness, frame, number};

/// How long to wait for what should take microseconds.
const PATIENCE: Duration = Duration::from_secs(20);

fn umem<B: Tested>(frame_count: u32) -> Umem {
    umem_of::<B>(&UmemOptions {
        frame_count,
        ..UmemOptions::default()
    })
}

fn umem_of<B: Tested>(options: &UmemOptions) -> Umem {
    B::memory(options, &rings(256)).unwrap()
}

/// Small rings, so that wrap-around and shortage happen within a test.
fn rings(size: u32) -> PortOptions {
    PortOptions {
        rx_ring: size,
        tx_ring: size,
        fill_ring: size,
        completion_ring: size,
        ..PortOptions::default()
    }
}

/// Receives until `count` frames are in the batch, waiting in `poll`.
fn receive<'u>(port: &mut impl Port<'u>, batch: &mut Batch<'u>, count: usize) {
    port.rx(batch);
    while batch.len() < count {
        let mut fds = [PollFd::new(port.fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(5000u16)).unwrap();
        assert_eq!(
            ready,
            1,
            "{} of {count} frames: {:?}",
            batch.len(),
            port.statistics()
        );
        port.rx(batch);
    }
}

/// Kicks until the kernel has taken everything.
fn flush<'u>(port: &mut impl Port<'u>) {
    let started = Instant::now();
    while port.kick().unwrap() == Kick::Retry {
        port.reclaim();
        assert!(
            started.elapsed() < PATIENCE,
            "still queued: {:?}",
            port.counters()
        );
    }
}

fn batch_of<'u>(umem: &'u Umem, numbers: std::ops::Range<u64>, len: usize) -> Batch<'u> {
    let mut batch = Batch::new();
    for number in numbers {
        let mut filled = umem.frame().unwrap();
        filled.append(len).unwrap().copy_from_slice(&frame(number, len));
        batch.push(filled).unwrap();
    }
    batch
}

fn received_packets_are_whole_and_have_metadata_and_headroom<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 1500);
        let witness = Witness::new("a0");
        let program = Redirect::attach("a1");
        let umem = umem::<B>(256);
        let mut port = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        assert!(!B::zero_copy(&port));
        program.set(0, port.fd());
        let mut batch = Batch::new();
        for number in 0..1000 {
            let sent = frame(number, 22 + (number as usize * 13) % 1493);
            witness.send(&sent);
            receive(&mut port, &mut batch, 1);
            assert_eq!(batch[0].data(), sent);
            assert_eq!(batch[0].metadata(8), Some(&METADATA.to_ne_bytes()[..]));
            assert_eq!(batch[0].headroom(), 256);
            batch.clear();
        }
        let statistics = port.statistics().unwrap();
        assert_eq!(
            (
                statistics.rx_dropped,
                statistics.rx_ring_full,
                statistics.rx_invalid_descriptors
            ),
            (0, 0, 0)
        );
        assert_eq!((port.counters().received, port.counters().invalid), (1000, 0));
    });
}

fn large_frames_extra_headroom_and_busy_polling_work<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 3000);
        let witness = Witness::new("a0");
        let program = Redirect::attach("a1");
        let options = UmemOptions {
            frame_size: 4096,
            frame_count: 256,
            headroom: 192,
            ..UmemOptions::default()
        };
        assert!(options.fits_mtu(3000, 64));
        let umem = umem_of::<B>(&options);
        let busy_poll = Some(BusyPoll {
            microseconds: 20,
            budget: 64,
        });
        let mut port = B::open(
            &umem,
            "a1",
            0,
            &PortOptions {
                busy_poll,
                ..rings(64)
            },
        )
        .unwrap();
        program.set(0, port.fd());
        let sent = frame(1, 3014);
        witness.send(&sent);
        let mut batch = Batch::new();
        receive(&mut port, &mut batch, 1);
        assert_eq!(batch[0].data(), sent);
        assert_eq!(batch[0].metadata(8), Some(&METADATA.to_ne_bytes()[..]));
        assert_eq!(batch[0].headroom(), 256 + 192);
        assert_eq!(port.tx(&mut batch), 1);
        flush(&mut port);
        assert_eq!(witness.receive(), sent);
    });
}

/// Both sides of every border between chunks, for either size of them.
fn awkward_lengths() -> impl Iterator<Item = usize> {
    let borders = [1792, 2048, 3584, 3840, 4096, 5376, 6144, 7168, 7680, 8192, 9014];
    let around = borders
        .into_iter()
        .flat_map(|border| border - 3..=(border + 3).min(9014));
    around.chain((60..9014).step_by(271))
}

fn jumbo_packets_are_gathered_and_scattered<B: Tested>() {
    for frame_size in [2048, 4096] {
        in_namespace(|| {
            veth("a0", "a1", 9000);
            veth("b0", "b1", 9100);
            let (source, sink) = (Witness::new("a0"), Witness::new("b0"));
            let (program_a, program_b) = (Redirect::attach("a1"), Redirect::attach("b1"));
            let options = UmemOptions {
                frame_size,
                frame_count: 256,
                large_frames: 8,
                ..UmemOptions::default()
            };
            assert!(options.fits_mtu(9000, 64));
            let umem = umem_of::<B>(&options);
            let mut a = B::open(&umem, "a1", 0, &rings(64)).unwrap();
            // The second shares the memory of the first, and with it the chains.
            let mut b = B::open(&umem, "b1", 0, &rings(64)).unwrap();
            program_a.set(0, a.fd());
            program_b.set(0, b.fd());
            let mut batch = Batch::new();
            for (number, length) in (0..).zip(awkward_lengths()) {
                let sent = frame(number, length);
                source.send(&sent);
                receive(&mut a, &mut batch, 1);
                let received = &mut batch[0];
                assert_eq!(received.data(), sent);
                assert_eq!(received.metadata(8), Some(&METADATA.to_ne_bytes()[..]));
                assert_eq!(received.headroom(), 256);
                assert_eq!(received.is_large(), length + 256 > frame_size as usize);
                // As an engine does: something in front, and behind if there is room.
                let mut expected = [&sent[..14], &sent[..]].concat();
                received.prepend(14).unwrap().copy_from_slice(&sent[..14]);
                if let Ok(place) = received.append(4) {
                    place.fill(0xee);
                    expected.extend([0xee; 4]);
                }
                assert_eq!(b.tx(&mut batch), 1);
                flush(&mut b);
                assert_eq!(sink.receive(), expected);
                b.reclaim();
            }
            // And back again, where a transmit ring takes only a part of the batch.
            for length in [9014, 60, 9014, 2049, 9014] {
                sink.send(&frame(length as u64, length));
            }
            receive(&mut b, &mut batch, 5);
            assert_eq!(a.tx(&mut batch), 5);
            flush(&mut a);
            for length in [9014, 60, 9014, 2049, 9014] {
                assert_eq!(source.receive(), frame(length as u64, length));
            }
            for port in [&mut a, &mut b] {
                port.reclaim();
                port.refill();
                let counters = port.counters();
                assert_eq!(
                    (counters.invalid, counters.too_long, counters.no_frame),
                    (0, 0, 0)
                );
            }
            assert_eq!((umem.counts().free, umem.counts().receiving), (128, 128));
            assert_eq!(umem.large_counts().free, 8);
        });
    }
}

fn no_chunk_is_lost_in_a_storm_of_jumbo_packets<B: Tested>() {
    const TOTAL: u64 = 100_000;
    in_namespace(|| {
        veth("a0", "a1", 16_000);
        veth("b0", "b1", 16_000);
        let (source, sink) = (Witness::new("a0"), Witness::new("b0"));
        let (program_a, program_b) = (Redirect::attach("a1"), Redirect::attach("b1"));
        let umem = umem_of::<B>(&UmemOptions {
            frame_count: 512,
            large_frames: 4,
            ..UmemOptions::default()
        });
        let mut a = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        let mut b = B::open(&umem, "b1", 0, &rings(32)).unwrap();
        program_a.set(0, a.fd());
        program_b.set(0, b.fd());
        let mut batch = Batch::new();
        let lengths = [60, 9014, 1793, 1500, 4097, 16_014, 3000];
        let (mut next, mut seen, mut mismatched) = (0, 0u64, 0);
        // The witness sends more at once than rings and large frames hold, so that packets are lost everywhere; what
        // arrives is whole and in order.
        let mut last = None;
        while next < TOTAL {
            for _ in 0..24 {
                source.send(&frame(next, lengths[next as usize % lengths.len()]));
                next += 1;
            }
            for _ in 0..4 {
                a.rx(&mut batch);
                b.tx(&mut batch);
                flush(&mut b);
                b.reclaim();
            }
            while let Some(arrived) = sink.try_receive() {
                let number = number(&arrived);
                mismatched += u64::from(arrived != frame(number, lengths[number as usize % lengths.len()]));
                assert!(last.is_none_or(|last| last < number), "{last:?} {number}");
                last = Some(number);
                seen += 1;
            }
        }
        // The last ones are under way.
        let started = Instant::now();
        while !batch.is_empty() || a.rx(&mut batch) > 0 {
            b.tx(&mut batch);
            flush(&mut b);
            b.reclaim();
            assert!(started.elapsed() < PATIENCE);
        }
        a.refill();
        b.refill();
        let (counters, statistics) = (a.counters(), a.statistics().unwrap());
        assert_eq!(mismatched, 0);
        assert!(seen > TOTAL / 20, "{seen}");
        // 16,014 bytes and the headroom fit; what was short is large frames.
        assert_eq!((counters.too_long, counters.invalid), (0, 0), "{counters:?}");
        assert!(counters.no_frame > 0, "{counters:?}");
        assert!(
            statistics.rx_ring_full + statistics.rx_dropped > 0,
            "{statistics:?}"
        );
        let expected = FrameCounts {
            free: 512 - 96,
            receiving: 96,
            ..FrameCounts::default()
        };
        assert_eq!(umem.counts(), expected, "{counters:?} {:?}", b.counters());
        assert_eq!(umem.large_counts().free, 4);
    });
}

fn without_large_frames_a_jumbo_packet_is_the_kernels_to_drop<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 9000);
        let witness = Witness::new("a0");
        let program = Redirect::attach("a1");
        let umem = umem::<B>(256);
        let mut port = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        program.set(0, port.fd());
        witness.send(&frame(0, 9014));
        witness.send(&frame(1, 60));
        let mut batch = Batch::new();
        receive(&mut port, &mut batch, 1);
        assert_eq!(batch[0].data(), frame(1, 60));
        assert_eq!(port.statistics().unwrap().rx_dropped, 1);
        assert_eq!(umem.counts().held, 1);
    });
}

fn sent_frames_arrive_in_order_with_what_was_put_in_front<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 1500);
        let witness = Witness::new("a0");
        let umem = umem::<B>(256);
        let mut port = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        for round in 0..50 {
            let mut batch = batch_of(&umem, round * 40..(round + 1) * 40, 200);
            for queued in &mut batch {
                queued.trim_front(22).unwrap();
                let header = frame(number(&[&[0; 14][..], &[0; 8]].concat()), 22);
                queued.prepend(22).unwrap().copy_from_slice(&header);
                let (chunk, start, end) = queued.chunk_mut();
                chunk[end] = 0xee;
                queued.set_range(start, end + 1).unwrap();
            }
            assert_eq!(port.tx(&mut batch), 40);
            flush(&mut port);
            for number in round * 40..(round + 1) * 40 {
                let mut expected = frame(number, 200);
                expected[14..22].fill(0);
                expected.push(0xee);
                assert_eq!(witness.receive(), expected);
            }
            port.reclaim();
        }
        assert_eq!(port.counters().queued, 2000);
        assert_eq!(port.counters().completed, 2000);
        assert_eq!(
            umem.counts(),
            FrameCounts {
                free: 192,
                receiving: 64,
                ..FrameCounts::default()
            }
        );
    });
}

fn two_devices_share_one_umem_and_no_frame_is_lost<B: Tested>() {
    const TOTAL: u64 = 100_000;
    in_namespace(|| {
        veth("a0", "a1", 1500);
        veth("b0", "b1", 1500);
        let (source, sink) = (Witness::new("a0"), Witness::new("b0"));
        let (program_a, program_b) = (Redirect::attach("a1"), Redirect::attach("b1"));
        let umem = umem::<B>(512);
        // The transmit ring is no multiple of what arrives, so batches are cut and rings wrap.
        let mut a = B::open(&umem, "a1", 0, &rings(128)).unwrap();
        let mut b = B::open(&umem, "b1", 0, &rings(64)).unwrap();
        program_a.set(0, a.fd());
        program_b.set(0, b.fd());
        let mut batch = Batch::new();
        let (mut sent, mut seen) = (0, 0);
        let mut moved = Instant::now();
        while seen < TOTAL {
            while sent < TOTAL && sent < seen + 48 {
                source.send(&frame(sent, 60));
                sent += 1;
            }
            a.rx(&mut batch);
            b.tx(&mut batch);
            flush(&mut b);
            b.reclaim();
            while let Some(arrived) = sink.try_receive() {
                assert_eq!(arrived, frame(seen, 60));
                seen += 1;
                moved = Instant::now();
            }
            assert!(
                moved.elapsed() < PATIENCE,
                "{seen} of {sent}: {:?}",
                a.statistics()
            );
        }
        // And back again, the other way round.
        sink.send(&frame(7, 60));
        receive(&mut b, &mut batch, 1);
        assert_eq!(a.tx(&mut batch), 1);
        flush(&mut a);
        assert_eq!(source.receive(), frame(7, 60));

        a.reclaim();
        b.reclaim();
        a.refill();
        b.refill();
        let expected = FrameCounts {
            free: 512 - 192,
            receiving: 192,
            ..FrameCounts::default()
        };
        assert_eq!(umem.counts(), expected, "{:?} {:?}", a.counters(), b.counters());
        assert_eq!(a.outstanding().receiving + b.outstanding().receiving, 192);
        assert_eq!((a.counters().received, b.counters().completed), (TOTAL, TOTAL));
        assert_eq!((a.counters().completed, b.counters().received), (1, 1));
        assert_eq!((a.counters().invalid, b.counters().invalid), (0, 0));
    });
}

fn frames_leave_only_when_kicked_or_polled<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 1500);
        let witness = Witness::new("a0");
        let umem = umem::<B>(256);
        let mut port = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        assert_eq!(port.kick().unwrap(), Kick::Idle);
        assert_eq!(port.counters().wakeups, 0, "nothing queued, no system call");
        port.tx(&mut batch_of(&umem, 0..1, 60));
        assert_eq!(witness.try_receive(), None);
        assert_eq!(port.kick().unwrap(), Kick::Sent);
        assert_eq!(witness.receive(), frame(0, 60));
        assert_eq!(port.counters().wakeups, 1);

        port.tx(&mut batch_of(&umem, 1..2, 60));
        poll(
            &mut [PollFd::new(port.fd(), PollFlags::POLLIN)],
            PollTimeout::ZERO,
        )
        .unwrap();
        assert_eq!(witness.receive(), frame(1, 60));
        drop(port);
        drop(umem);

        let umem = self::umem::<B>(256);
        let always = PortOptions {
            need_wakeup: false,
            ..rings(64)
        };
        let mut port = B::open(&umem, "a1", 0, &always).unwrap();
        port.tx(&mut batch_of(&umem, 2..3, 60));
        assert_eq!(port.kick().unwrap(), Kick::Sent);
        assert_eq!(witness.receive(), frame(2, 60));
    });
}

fn a_full_transmit_ring_leaves_the_rest_and_a_large_one_goes_in_few_calls<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 1500);
        let witness = Witness::new("a0");
        let umem = umem::<B>(1024);
        let mut small = B::open(&umem, "a1", 0, &rings(16)).unwrap();
        let mut batch = batch_of(&umem, 0..40, 60);
        assert_eq!(small.tx(&mut batch), 16);
        assert_eq!(batch.len(), 24);
        assert_eq!(small.tx(&mut batch), 0);
        for _ in 0..2 {
            flush(&mut small);
            assert_eq!(small.reclaim(), 16);
            small.tx(&mut batch);
        }
        assert!(batch.is_empty());
        flush(&mut small);
        for number in 0..40 {
            assert_eq!(witness.receive(), frame(number, 60));
        }
        drop(small);
        drop(batch);
        drop(umem);

        let umem = self::umem::<B>(1024);
        let mut large = B::open(&umem, "a1", 0, &rings(256)).unwrap();
        for start in [0, 60, 120, 180] {
            assert_eq!(large.tx(&mut batch_of(&umem, start..start + 60, 60)), 60);
        }
        flush(&mut large);
        for number in 0..240 {
            assert_eq!(witness.receive(), frame(number, 60));
        }
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut release = release.split('.').map_while(|part| part.parse::<u32>().ok());
        let has_budget = (release.next(), release.next()) >= (Some(6), Some(17));
        let calls = large.counters().wakeups;
        assert!(
            calls <= if has_budget { 1 } else { 8 },
            "{calls} calls for 240 frames"
        );
    });
}

fn what_the_kernel_drops_is_in_its_statistics<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 2000);
        let witness = Witness::new("a0");
        let program = Redirect::attach("a1");
        let umem = umem::<B>(256);
        let options = PortOptions {
            fill_ring: 64,
            ..rings(16)
        };
        let mut port = B::open(&umem, "a1", 0, &options).unwrap();
        program.set(0, port.fd());
        let mut batch = Batch::new();
        witness.send(&frame(0, 1793));
        witness.send(&frame(1, 1792));
        receive(&mut port, &mut batch, 1);
        assert_eq!(number(batch[0].data()), 1);
        assert_eq!(batch[0].tailroom(), 0);
        assert_eq!(port.statistics().unwrap().rx_dropped, 1);
        batch.clear();

        for number in 0..40 {
            witness.send(&frame(number, 60));
        }
        while port.statistics().unwrap().rx_ring_full < 24 {
            std::thread::yield_now();
        }
        receive(&mut port, &mut batch, 16);
        assert_eq!(port.rx(&mut batch), 0);
        let numbers: Vec<_> = batch.iter().map(|frame| number(frame.data())).collect();
        assert_eq!(numbers, (0..16).collect::<Vec<_>>());
        batch.clear();
        port.refill();
        assert_eq!(
            umem.counts(),
            FrameCounts {
                free: 192,
                receiving: 64,
                ..FrameCounts::default()
            }
        );

        // Chunks whose packet found no room are used again.
        for number in 0..200 {
            witness.send(&frame(number, 60));
            receive(&mut port, &mut batch, 1);
            batch.clear();
        }
        assert_eq!(port.counters().invalid, 0);
    });
}

fn a_device_that_is_down_is_an_error_and_frames_wait<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 1500);
        let witness = Witness::new("a0");
        let umem = umem::<B>(256);
        let mut port = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        port.check().unwrap();
        port.tx(&mut batch_of(&umem, 0..3, 60));
        ip(&["link", "set", "a1", "down"]);
        let error = port.kick().unwrap_err();
        assert!(matches!(error, PortError::DeviceDown { .. }), "{error}");
        assert!(error.to_string().contains("a1 queue 0"), "{error}");
        assert!(matches!(port.check(), Err(PortError::DeviceDown { .. })));
        ip(&["link", "set", "a1", "up"]);
        flush(&mut port);
        for number in 0..3 {
            assert_eq!(witness.receive(), frame(number, 60));
        }
    });
}

fn a_peer_that_is_down_costs_frames_but_does_not_stick<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 1500);
        let umem = umem::<B>(256);
        let mut port = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        ip(&["link", "set", "a0", "down"]);
        port.tx(&mut batch_of(&umem, 0..32, 60));
        flush(&mut port);
        assert_eq!(port.reclaim(), 32, "dropped frames complete");
        assert_eq!(port.counters().dropped, 32);
        assert_eq!(umem.counts().free, 192);
    });
}

fn a_removed_device_is_an_error_and_its_chunks_come_back<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 1500);
        veth("b0", "b1", 1500);
        let source = Witness::new("a0");
        let sink = Witness::new("b0");
        let program = Redirect::attach("a1");
        let umem = umem::<B>(512);
        let mut first = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        let mut second = B::open(&umem, "b1", 0, &rings(64)).unwrap();
        program.set(0, first.fd());
        source.send(&frame(0, 60));
        let mut batch = Batch::new();
        receive(&mut first, &mut batch, 1);
        batch.clear();
        assert_eq!(first.tx(&mut batch_of(&umem, 0..10, 60)), 10);

        ip(&["link", "del", "a0"]);
        let error = first.kick().unwrap_err();
        assert!(matches!(error, PortError::DeviceGone { .. }), "{error}");
        assert!(matches!(first.check(), Err(PortError::DeviceGone { .. })));
        assert_eq!(first.rx(&mut batch), 0);

        // The UMEM was registered through the socket that is dead now: others share through one that is not.
        veth("c0", "c1", 1500);
        let witness = Witness::new("c0");
        let third = B::open(&umem, "c1", 0, &rings(32));
        assert_eq!(third.is_ok(), B::MEMORY_OUTLIVES_ITS_FIRST_SOCKET);
        if let Ok(mut third) = third {
            third.tx(&mut batch_of(&umem, 5..6, 60));
            flush(&mut third);
            assert_eq!(witness.receive(), frame(5, 60));
            ip(&["link", "del", "c0"]);
        }
        drop(first);
        let lost = if B::UNSENT_FRAMES_COME_BACK { 0 } else { 10 };
        assert_eq!(
            umem.counts(),
            FrameCounts {
                free: 448 - lost,
                receiving: 64,
                lost,
                ..FrameCounts::default()
            }
        );
        if !B::MEMORY_OUTLIVES_ITS_FIRST_SOCKET {
            // The other one goes on by itself.
            assert_eq!(second.tx(&mut batch_of(&umem, 1..2, 60)), 1);
            flush(&mut second);
            assert_eq!(sink.receive(), frame(1, 60));
            return;
        }

        // The UMEM was registered through the socket that is gone; a new one shares through the other.
        drop(program);
        drop(source);
        veth("a0", "a1", 1500);
        let source = Witness::new("a0");
        let program = Redirect::attach("a1");
        let mut first = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        program.set(0, first.fd());
        source.send(&frame(1, 60));
        receive(&mut first, &mut batch, 1);
        assert_eq!(second.tx(&mut batch), 1);
        flush(&mut second);
        assert_eq!(sink.receive(), frame(1, 60));
    });
}

fn a_closed_socket_can_be_opened_again_while_another_is_open<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 1500);
        veth("b0", "b1", 1500);
        let witness = Witness::new("b0");
        let umem = umem::<B>(512);
        let first = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        drop(B::open(&umem, "b1", 0, &rings(64)).unwrap());
        let mut second = B::open(&umem, "b1", 0, &rings(64)).unwrap();
        assert_eq!(second.tx(&mut batch_of(&umem, 0..1, 60)), 1);
        flush(&mut second);
        assert_eq!(witness.receive(), frame(0, 60));
        drop(first);
        let first = B::open(&umem, "a1", 0, &rings(64));
        assert_eq!(first.is_ok(), B::MEMORY_OUTLIVES_ITS_FIRST_SOCKET);
    });
}

/// What an engine puts in front of a packet that fills its chunk to the end.
fn a_frame_that_fills_its_chunk_and_grows_in_front_is_sent_or_refused<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 2000);
        let witness = Witness::new("a0");
        let umem = umem::<B>(256);
        let mut port = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        let mut batch = batch_of(&umem, 0..1, 1792);
        let mut expected = frame(0, 1792);
        expected.splice(..0, expected[..14].to_vec());
        assert_eq!(batch[0].tailroom(), 0);
        batch[0].prepend(14).unwrap().copy_from_slice(&expected[..14]);
        assert_eq!(port.tx(&mut batch), 1);
        flush(&mut port);
        assert_eq!(port.counters().refused, u64::from(!B::SENDS_FROM_ANYWHERE));
        if B::SENDS_FROM_ANYWHERE {
            assert_eq!(witness.receive(), expected);
        }
        port.reclaim();
        assert_eq!((umem.counts().free, umem.counts().receiving), (192, 64));
    });
}

fn frames_of_other_memory_and_stumps_are_refused<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 1500);
        let (umem, other) = (umem::<B>(256), umem::<B>(64));
        let mut port = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        // A batch is of one memory only by its lifetime, not by its type.
        let mut batch = batch_of(&other, 0..1, 60);
        batch.append_from(&mut batch_of(&umem, 1..2, 60));
        batch[1].truncate(13).unwrap();
        assert_eq!(port.tx(&mut batch), 2);
        assert_eq!(port.counters().refused, 2);
        assert_eq!(port.kick().unwrap(), Kick::Idle);
        assert_eq!((umem.counts().free, other.counts().free), (192, 64));
    });
}

fn chunks_of_a_socket_closed_in_use_are_lost_and_counted<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 1500);
        let umem = umem::<B>(256);
        let mut port = B::open(&umem, "a1", 0, &rings(64)).unwrap();
        port.tx(&mut batch_of(&umem, 0..5, 60));
        drop(port);
        assert_eq!(
            umem.counts(),
            FrameCounts {
                free: 187,
                lost: 69,
                ..FrameCounts::default()
            }
        );
    });
}

fn opening_fails_with_advice<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 1500);
        let umem = umem::<B>(256);
        let fails = |umem: &Umem, device: &str, queue, options: &PortOptions| {
            let error = B::open(umem, device, queue, options).err().unwrap();
            (error.to_string(), error)
        };

        let (text, error) = fails(&umem, "nosuch0", 0, &rings(16));
        assert!(
            matches!(error, OpenError::NoSuchDevice { .. }) && text.contains("nosuch0"),
            "{text}"
        );
        let (text, error) = fails(&umem, "a-name-that-is-too-long", 0, &rings(16));
        assert!(matches!(error, OpenError::NoSuchDevice { .. }), "{text}");
        let (text, error) = fails(&umem, "a1", 4, &rings(16));
        assert!(
            matches!(error, OpenError::NoSuchQueue { queues: 1, .. }),
            "{text}"
        );
        assert!(text.contains("ethtool -l a1"), "{text}");
        let (text, error) = fails(
            &umem,
            "a1",
            0,
            &PortOptions {
                mode: Mode::ZeroCopy,
                ..rings(16)
            },
        );
        assert!(
            matches!(error, OpenError::ModeNotSupported { .. }) && text.contains("copy mode"),
            "{text}"
        );
        for size in [0, 8, 100, 65536] {
            let (text, error) = fails(&umem, "a1", 0, &rings(size));
            assert!(matches!(error, OpenError::RingSize { .. }), "{text}");
        }
        assert_eq!(umem.counts().free, 256, "a failed opening keeps nothing");

        let _port = B::open(
            &umem,
            "a1",
            0,
            &PortOptions {
                mode: Mode::Copy,
                ..rings(16)
            },
        )
        .unwrap();
        let (text, error) = fails(&umem, "a1", 0, &rings(16));
        assert!(matches!(error, OpenError::QueueInUse { .. }), "{text}");
        let other = self::umem::<B>(64);
        let (text, error) = fails(&other, "a1", 0, &rings(16));
        assert!(
            matches!(error, OpenError::QueueInUse { .. }) && text.contains("another AF_XDP socket"),
            "{text}"
        );
        assert_eq!(other.counts().free, 64);
    });
}

fn packets_stay_out_of_core_dumps_and_children<B: Tested>() {
    in_namespace(|| {
        let umem = umem::<B>(64);
        let frame = umem.frame().unwrap();
        let start = frame.data().as_ptr().addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let range = |line: &str| {
            let (first, end) = line.split_once(' ')?.0.split_once('-')?;
            Some(usize::from_str_radix(first, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
        };
        let flags = maps
            .lines()
            .skip_while(|line| !range(line).is_some_and(|range| range.contains(&start)))
            .find(|line| line.starts_with("VmFlags:"))
            .unwrap();
        // proc_pid_smaps(5): "dd" do not include in core dump, "dc" do not copy on fork.
        assert!(flags.contains(" dd") && flags.contains(" dc"), "{flags}");
    });
}

fn without_privilege_opening_says_which_is_missing<B: Tested>() {
    in_namespace(|| {
        veth("a0", "a1", 1500);
        // The raw call changes this thread only, which ends with the test.
        // SAFETY: no pointers.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(changed, 0);
        let options = UmemOptions {
            frame_count: 64,
            ..UmemOptions::default()
        };
        let error = match B::memory(&options, &rings(16)) {
            Ok(umem) => {
                assert!(!B::MEMORY_WANTS_PRIVILEGE);
                let error = B::open(&umem, "a1", 0, &rings(16)).err().unwrap();
                assert!(matches!(error, OpenError::NotPermitted { .. }), "{error}");
                error.to_string()
            }
            Err(error) => {
                assert!(B::MEMORY_WANTS_PRIVILEGE, "{error}");
                error.to_string()
            }
        };
        assert!(error.contains("CAP_NET_RAW"), "{error}");
        assert!(error.contains("not permitted"), "{error}");
    });
}

#[test]
fn queues_are_counted() {
    in_namespace(|| {
        ip(&[
            "link",
            "add",
            "a0",
            "numrxqueues",
            "3",
            "numtxqueues",
            "3",
            "type",
            "veth",
            "peer",
            "name",
            "a1",
        ]);
        assert_eq!(queue_count("a0").unwrap(), 3);
        assert_eq!(queue_count("lo").unwrap(), 1);
        assert!(matches!(
            queue_count("nosuch0"),
            Err(OpenError::NoSuchDevice { .. })
        ));
    });
}

#[cfg(feature = "xsk-rs")]
#[test]
fn rings_and_xsk_rs_refuse_each_others_memory() {
    use ravelin_xsk::{Backend as _, Rings, XskRs};

    in_namespace(|| {
        veth("a0", "a1", 1500);
        let (ours, theirs) = (umem::<Rings>(64), umem::<XskRs>(64));
        let refused = |error| assert!(matches!(error, OpenError::OtherMemory { .. }), "{error}");
        refused(Rings::open(&theirs, "a1", 0, &rings(16)).unwrap_err());
        refused(XskRs::open(&ours, "a1", 0, &rings(16)).unwrap_err());
        // Made for rings of 256.
        refused(XskRs::open(&theirs, "a1", 0, &rings(512)).unwrap_err());
        assert_eq!((ours.counts().free, theirs.counts().free), (64, 64));
        drop(XskRs::open(&theirs, "a1", 0, &rings(16)).unwrap());
    });
}

with_every_backend! {
    received_packets_are_whole_and_have_metadata_and_headroom,
    large_frames_extra_headroom_and_busy_polling_work,
    jumbo_packets_are_gathered_and_scattered,
    no_chunk_is_lost_in_a_storm_of_jumbo_packets,
    without_large_frames_a_jumbo_packet_is_the_kernels_to_drop,
    sent_frames_arrive_in_order_with_what_was_put_in_front,
    two_devices_share_one_umem_and_no_frame_is_lost,
    frames_leave_only_when_kicked_or_polled,
    a_full_transmit_ring_leaves_the_rest_and_a_large_one_goes_in_few_calls,
    what_the_kernel_drops_is_in_its_statistics,
    a_device_that_is_down_is_an_error_and_frames_wait,
    a_peer_that_is_down_costs_frames_but_does_not_stick,
    a_removed_device_is_an_error_and_its_chunks_come_back,
    chunks_of_a_socket_closed_in_use_are_lost_and_counted,
    opening_fails_with_advice,
    packets_stay_out_of_core_dumps_and_children,
    without_privilege_opening_says_which_is_missing,
    a_closed_socket_can_be_opened_again_while_another_is_open,
    a_frame_that_fills_its_chunk_and_grows_in_front_is_sent_or_refused,
    frames_of_other_memory_and_stumps_are_refused,
}
