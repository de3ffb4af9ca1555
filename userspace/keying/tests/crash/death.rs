//! How processes end.

use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ChildStdout;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::disk::Machine;
use crate::life::{Life, REFUSED};
use crate::wire::Sent;

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Death {
    /// Never: it ends by itself.
    None,
    /// When it enters or leaves a system call for the so manieth time.
    AtSystemCall(u32),
    /// So many instructions after so many rounds.
    AtInstruction { rounds: u32, instructions: u32 },
    /// At any time after it has sent that often.
    AfterRecords(u32),
}

/// How it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Done,
    SystemCall,
    Instruction,
    AnyTime,
    /// It would not send: nobody knows which numbers were used.
    Refused,
}

impl Ending {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::SystemCall => "killed at a system call",
            Self::Instruction => "killed at an instruction",
            Self::AnyTime => "killed at any time",
            Self::Refused => "refused",
        }
    }
}

/// Runs a process to its end; what it has sent.
pub(crate) fn die(life: &Life, death: Death, machine: &mut Machine) -> (Vec<Sent>, Ending) {
    let mut life = life.clone();
    match death {
        Death::None => {}
        Death::AtSystemCall(_) => life.stop[0] = true,
        Death::AtInstruction { rounds, .. } => (life.stop[1], life.rounds) = (true, rounds),
        Death::AfterRecords(_) => life.rounds = 10_000,
    }
    let mut child = life.command().spawn().expect("a process");
    let pid = Pid::from_raw(child.id() as i32);
    let mut pipe = child.stdout.take().expect("a pipe");
    let mut sent = Vec::new();
    let ending = match death {
        Death::None => Ending::Done,
        Death::AtSystemCall(count) => {
            machine.begin();
            at_system_call(pid, count, machine)
        }
        Death::AtInstruction { instructions, .. } => at_instruction(pid, instructions),
        Death::AfterRecords(count) => {
            for _ in 0..count {
                sent.extend(next(&mut pipe));
            }
            kill(pid, Signal::SIGKILL).expect("killed");
            Ending::AnyTime
        }
    };
    sent.extend(std::iter::from_fn(|| next(&mut pipe)));
    let status = child.wait().expect("ended");
    if status.code() == Some(i32::from(REFUSED)) {
        assert!(sent.is_empty(), "refused, and sent");
        return (sent, Ending::Refused);
    }
    // A process that failed would prove nothing.
    let expected = match ending {
        Ending::Done => status.success(),
        _ => status.signal() == Some(Signal::SIGKILL as i32),
    };
    assert!(expected, "{ending:?}, but {status}");
    (sent, ending)
}

fn next(pipe: &mut ChildStdout) -> Option<Sent> {
    let mut bytes = [0; Sent::LEN];
    pipe.read_exact(&mut bytes).ok()?;
    Some(Sent::parse(&bytes))
}

fn at_system_call(pid: Pid, count: u32, machine: &mut Machine) -> Ending {
    assert!(stopped(pid), "refused before it began");
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).expect("options");
    for number in 1..=count {
        ptrace::syscall(pid, None).expect("goes on");
        let status = waitpid(pid, None).expect("a child");
        assert!(matches!(status, WaitStatus::PtraceSyscall(_)), "{status:?}");
        if ptrace::getregs(pid).expect("registers").orig_rax as i64 == libc::SYS_exit_group {
            ptrace::detach(pid, None).expect("goes on");
            return Ending::Done;
        }
        // Odd ones are on the way in.
        if number % 2 == 0 {
            machine.watch(pid);
        }
    }
    kill(pid, Signal::SIGKILL).expect("killed");
    Ending::SystemCall
}

fn at_instruction(pid: Pid, count: u32) -> Ending {
    if !stopped(pid) {
        return Ending::Refused;
    }
    for _ in 0..count {
        ptrace::step(pid, None).expect("goes on");
        let status = waitpid(pid, None).expect("a child");
        assert!(
            matches!(status, WaitStatus::Stopped(_, Signal::SIGTRAP)),
            "{status:?}"
        );
    }
    kill(pid, Signal::SIGKILL).expect("killed");
    Ending::Instruction
}

/// Waits until a traced process has stopped itself; `false` if it refuses to go on until there.
fn stopped(pid: Pid) -> bool {
    let flags = WaitPidFlag::WNOWAIT | WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED;
    match waitid(Id::Pid(pid), flags).expect("a child") {
        WaitStatus::Exited(_, code) if code == i32::from(REFUSED) => false,
        WaitStatus::Stopped(_, Signal::SIGSTOP) | WaitStatus::PtraceEvent(_, Signal::SIGSTOP, _) => {
            waitpid(pid, None).expect("a child");
            true
        }
        other => panic!("{other:?}"),
    }
}
