//! `explain --pcap` says of every frame of a capture what the kernel does with it: the same file reader and the same
//! machine that is not there, held against `BPF_PROG_TEST_RUN`.

use std::io::Cursor;

use ravelin_capture::Capture;
use ravelin_classifier::Host;
use ravelin_classifier::arbitrary::Rng;
use ravelin_xdp_common::{InboundEndpoint, Outcome};

use crate::kernel::{Hook, Kernel, Run};
use crate::traffic;
use crate::world::{World, direction};

const CAPTURES: usize = 60;
const FRAMES: usize = 200;

/// Nanoseconds between two frames: no fragment is forgotten for its age, neither here nor in the kernel.
const APART: u64 = 1_000;

#[test]
fn explained_captures_agree_with_the_kernel() {
    let mut rng = Rng::new(31);
    let mut outcomes = [0; 3];
    let mut kernel = Kernel::load();
    kernel.announce(&inbound_of_the_connections(), &World::own());
    for round in 0..CAPTURES {
        // Of another generation: what the kernel remembers of fragments does not outlast its rule set.
        let world = World::arbitrary(&mut rng);
        kernel.apply(&world);
        let (Some(policy), Some((rules, generation))) = (world.policy(), world.rules()) else {
            panic!("a world without rules");
        };
        let frames: Vec<Vec<u8>> = traffic::frames(&mut rng, Some(policy), FRAMES)
            .into_iter()
            .map(|made| made.bytes)
            .filter(|bytes| bytes.len() >= 14)
            .collect();
        let hook = *rng.pick(&[Hook::Outer, Hook::Inner]);
        let mut host = Host::new(policy, rules.clone(), &World::own());
        let mut capture = Capture::read(Cursor::new(pcap(&frames))).unwrap();
        for bytes in &frames {
            let frame = capture
                .next_frame()
                .unwrap()
                .expect("as many frames as were written");
            assert_eq!(frame.bytes, bytes);
            host.set_time(frame.time);
            let reader = frame.reader();
            let judgement = host.judge_read(&reader, direction(hook));
            assert!(!reader.missed(), "a whole frame");
            let run = kernel.run(hook, bytes).expect("a frame that the kernel takes");
            assert_eq!(
                run.without_generation(),
                Run::expected(hook, &judgement, bytes).without_generation(),
                "round {round}, generation {generation}, {hook:?}, {bytes:02x?}\n{policy:#?}"
            );
            outcomes[match judgement.outcome() {
                Outcome::Pass(_) => 0,
                Outcome::Drop(_) => 1,
                Outcome::Redirect(_) => 2,
            }] += 1;
        }
        assert!(capture.next_frame().unwrap().is_none());
    }
    assert!(outcomes.iter().all(|count| *count > 100), "{outcomes:?}");
}

/// The inbound SAs of the connections that generated policies have.
fn inbound_of_the_connections() -> Vec<(u32, InboundEndpoint)> {
    let known = World::endpoints();
    [0x2001, 0x2002]
        .into_iter()
        .zip(0..)
        .map(|(spi, slot)| {
            let (_, endpoint) = known.iter().find(|(it, _)| *it == spi).expect("a known SPI");
            (spi, InboundEndpoint { slot, ..*endpoint })
        })
        .collect()
}

/// A classic file of Ethernet frames with times in nanoseconds.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = 0xa1b2_3c4d_u32.to_le_bytes().to_vec();
    file.extend([2, 0, 4, 0]);
    for word in [0_u32, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (frame, time) in frames.iter().zip((0..).step_by(APART as usize)) {
        for word in [1, time, frame.len(), frame.len()] {
            file.extend(u32::try_from(word).unwrap().to_le_bytes());
        }
        file.extend(frame);
    }
    file
}
