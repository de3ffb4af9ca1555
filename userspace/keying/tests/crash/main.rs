//! No sequence number is used twice, wherever a process dies: thousands of processes take numbers and are killed, at every
//! system call, between instructions, and at any time; some of the deaths are power failures. What each of them sent is
//! compared with what all before it sent.
//!
//! `RAVELIN_CRASH_LIVES` says how many processes (10,000), `RAVELIN_CRASH_SEED` makes a run again.

mod death;
mod disk;
mod life;
mod wire;

use std::collections::BTreeMap;
use std::env;
use std::process::ExitCode;
use std::thread;

use fastrand::Rng;

use crate::death::{Death, Ending, die};
use crate::disk::{Machine, SECTOR};
use crate::life::{KEY_32_BITS, Life};
use crate::wire::Wire;

const LIVES: u64 = 10_000;

/// Processes of which each is killed after its first numbers: more than a key of 32 bits has blocks on disk.
const LOOPING: u64 = 4_500;

/// How often what happened.
type Tally = BTreeMap<&'static str, u64>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some(life) = Life::from_arguments(&arguments) {
        return life.live();
    }
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    let lives = number("RAVELIN_CRASH_LIVES").unwrap_or(LIVES).max(LOOPING + 1000);
    let seed = number("RAVELIN_CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("RAVELIN_CRASH_SEED={seed} RAVELIN_CRASH_LIVES={lives}");
    let rest = lives - LOOPING;
    let sweeping = thread::spawn(move || sweep(&mut Rng::with_seed(seed), rest));
    let looping = thread::spawn(move || crash_loop(&mut Rng::with_seed(!seed)));
    let mut passed = 0;
    for (name, thread) in [
        ("no_number_is_used_twice_wherever_a_process_dies", sweeping),
        ("a_crash_loop_does_not_use_a_key_up", looping),
    ] {
        let result = thread.join();
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        passed += u64::from(result.is_ok());
    }
    let word = if passed == 2 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; 0 ignored",
        2 - passed
    );
    if passed == 2 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Machines of which each lives for a while; at least one process dies at each system call there is, in a new state folder and in
/// one that was used, by a signal and by a power failure.
fn sweep(rng: &mut Rng, lives: u64) {
    let (mut tally, mut lived) = (Tally::new(), 0);
    let mut whole = 0;
    while lived < lives || whole == 0 {
        for power in [false, true] {
            for used in [false, true] {
                // Until a process ends before it comes to that many.
                for stop in 1.. {
                    let (count, ending) = machine(rng, stop, power, used, &mut tally);
                    lived += count;
                    if ending == Ending::Done {
                        break;
                    }
                }
            }
        }
        whole += 1;
    }
    println!("{lived} lives, {whole} times every system call: {tally:?}");
    for what in [
        "done",
        "killed at a system call",
        "killed at an instruction",
        "killed at any time",
    ] {
        assert!(
            tally.get(what).is_some_and(|count| *count > 100),
            "{what}: {tally:?}"
        );
    }
    for what in ["power failure", "without memory", "memory lost", "file gone back"] {
        assert!(
            tally.get(what).is_some_and(|count| *count > 20),
            "{what}: {tally:?}"
        );
    }
}

/// One machine's processes; how many there were, and how the one ended that was to die at system call `stop`.
fn machine(rng: &mut Rng, stop: u32, power: bool, used: bool, tally: &mut Tally) -> (u64, Ending) {
    let mut machine = Machine::new();
    let mut wire = Wire::default();
    let mut lived = 0;
    let mut live = |machine: &mut Machine, rng: &mut Rng, death: Death, memory: bool| {
        let mut life = Life::new(machine, rng.u64(..));
        if !memory {
            life.memory = None;
            count(tally, "without memory");
        }
        let (sent, ending) = die(&life, death, machine);
        wire.saw(&sent, &death);
        count(tally, ending.name());
        lived += 1;
        ending
    };
    if used {
        for _ in 0..rng.u32(1..3) {
            let death = any_death(rng);
            let memory = rng.u32(..8) > 0;
            live(&mut machine, rng, death, memory);
        }
    }
    let ending = live(&mut machine, rng, Death::AtSystemCall(stop), true);
    let mut lost = 0;
    let piece = if rng.bool() { SECTOR } else { 8 };
    if power && ending != Ending::Done {
        machine.lose_power(piece, rng);
        lost += 1;
    }
    let copy = machine.copy_file();
    let death = any_death(rng);
    let next = live(&mut machine, rng, death, true);
    // Where a disk tears less than it promises to keep whole, both copies of a new mark may be gone.
    let may_refuse = lost > 0 && piece < SECTOR;
    assert!(next != Ending::Refused || may_refuse, "refused without need");
    // What happens to state folders at the hands of administrators; each alone is to do no harm.
    let (mut forgotten, mut back) = (0, 0);
    match rng.u32(..4) {
        0 => {
            machine.lose_memory();
            forgotten += 1;
        }
        1 => {
            machine.restore_file(copy);
            back += 1;
        }
        _ => {}
    }
    let end = live(&mut machine, rng, Death::None, true);
    assert!(end != Ending::Refused || may_refuse, "refused without need");
    for (what, times) in [
        ("power failure", lost),
        ("memory lost", forgotten),
        ("file gone back", back),
    ] {
        *tally.entry(what).or_default() += times;
    }
    (lived, ending)
}

fn any_death(rng: &mut Rng) -> Death {
    match rng.u32(..4) {
        0 => Death::None,
        1 => Death::AfterRecords(rng.u32(1..12)),
        _ => Death::AtInstruction {
            rounds: rng.u32(..8),
            instructions: rng.u32(1..3000),
        },
    }
}

fn count(tally: &mut Tally, what: &'static str) {
    *tally.entry(what).or_default() += 1;
}

/// As many crashes as a service manager makes in an hour or two.
fn crash_loop(rng: &mut Rng) {
    let mut machine = Machine::new();
    let mut wire = Wire::default();
    for _ in 0..LOOPING {
        let life = Life::new(&machine, rng.u64(..));
        let death = Death::AfterRecords(rng.u32(1..4));
        let (sent, ending) = die(&life, death, &mut machine);
        assert!(ending == Ending::AnyTime, "{ending:?}");
        wire.saw(&sent, &death);
    }
    let last = wire.last(KEY_32_BITS).expect("sent");
    println!("{LOOPING} crashes, and the key of 32 bits is at {last:#x}");
}
