//! A panic in a worker's thread. The program knows nothing of it: it is a debugger's work, on the program as it is shipped.

use std::fs;

use nix::sys::ptrace::{self, AddressType, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use object::{Object as _, ObjectSymbol as _};

/// What the worker's panic says.
pub(crate) const MESSAGE: &str = "injected";

/// `int3`.
const BREAKPOINT: u8 = 0xcc;

/// Has the first worker of an engine panic in place of its next turn.
pub(crate) fn in_worker(engine: u32) {
    in_place_of(engine, worker(engine), |name| {
        name.contains("9forwarder") && name.contains("4turn17h")
    });
}

/// Has that worker's first crypto thread panic when it looks for work the next time.
pub(crate) fn in_crypto_thread(engine: u32) {
    in_place_of(engine, crypto_thread(engine), |name| {
        name.contains("11crypto_pool") && name.contains("4next17h")
    });
}

/// As the thread enters the function, it goes to `core::panicking::panic` instead.
fn in_place_of(engine: u32, thread: Pid, function: fn(&str) -> bool) {
    let file = fs::read(format!("/proc/{engine}/exe")).unwrap();
    let elf = object::File::parse(&*file).unwrap();
    let base = base(engine);
    let address = |wanted: fn(&str) -> bool| -> Vec<u64> {
        let symbols = elf.symbols().filter(|symbol| symbol.name().is_ok_and(wanted));
        symbols.map(|symbol| base + symbol.address()).collect()
    };
    let turns = address(function);
    let panics = address(|name| name.ends_with("4core9panicking5panic"));
    assert!(!turns.is_empty() && panics.len() == 1, "{turns:x?} {panics:x?}");

    ptrace::seize(thread, Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    wait(thread);
    let code: Vec<i64> = turns.iter().map(|turn| read(thread, *turn)).collect();
    for (turn, word) in turns.iter().zip(&code) {
        write(thread, *turn, word & !0xff | i64::from(BREAKPOINT));
    }
    let mut registers = loop {
        ptrace::cont(thread, None).unwrap();
        if matches!(wait(thread), WaitStatus::Stopped(_, Signal::SIGTRAP)) {
            let registers = ptrace::getregs(thread).unwrap();
            if turns.contains(&(registers.rip - 1)) {
                break registers;
            }
        }
    };
    for (turn, word) in turns.iter().zip(&code) {
        write(thread, *turn, *word);
    }
    // Further down the stack than the panic will come: the message, and a `Location`, whose file name ends with a zero.
    let text = (registers.rsp & !0xf) - (256 << 10);
    let mut bytes = MESSAGE.as_bytes().to_vec();
    bytes.resize(16, 0);
    let location = text + bytes.len() as u64;
    let words = [text, MESSAGE.len() as u64 + 1, 1 << 32 | 1];
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    for (place, word) in bytes.as_chunks().0.iter().enumerate() {
        write(thread, text + 8 * place as u64, i64::from_le_bytes(*word));
    }
    registers.rip = panics[0];
    (registers.rdi, registers.rsi, registers.rdx) = (text, MESSAGE.len() as u64, location);
    ptrace::setregs(thread, registers).unwrap();
    ptrace::detach(thread, None).unwrap();
}

/// Where the program was loaded.
fn base(engine: u32) -> u64 {
    let program = fs::read_link(format!("/proc/{engine}/exe")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{engine}/maps")).unwrap();
    let first = maps
        .lines()
        .find(|line| line.ends_with(program.to_str().unwrap()));
    let (start, _) = first.unwrap().split_once('-').unwrap();
    u64::from_str_radix(start, 16).unwrap()
}

/// The first worker's thread.
pub(crate) fn worker(engine: u32) -> Pid {
    thread(engine, "ravelin-0")
}

/// Its first crypto thread.
pub(crate) fn crypto_thread(engine: u32) -> Pid {
    thread(engine, "ravelin-0/0")
}

fn thread(engine: u32, name: &str) -> Pid {
    let mut tasks = fs::read_dir(format!("/proc/{engine}/task")).unwrap().flatten();
    let task = tasks.find(|task| fs::read_to_string(task.path().join("comm")).unwrap().trim() == name);
    let number = task.unwrap().file_name().into_string().unwrap();
    Pid::from_raw(number.parse().unwrap())
}

fn wait(thread: Pid) -> WaitStatus {
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap()
}

fn read(thread: Pid, address: u64) -> i64 {
    ptrace::read(thread, address as AddressType).unwrap()
}

fn write(thread: Pid, address: u64, word: i64) {
    ptrace::write(thread, address as AddressType, word).unwrap();
}
