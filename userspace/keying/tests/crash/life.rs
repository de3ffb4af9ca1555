//! One process: takes numbers under two keys and says on its output which ones it sent.

use std::collections::HashSet;
use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use fastrand::Rng;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use ravelin_esp::{Secret, SequenceCounter, SequenceNumber};
use ravelin_keying::{BootPage, BootPages, Fingerprint, MarkError, MarkFileError, SequenceMark, StateFolder};
use ravelin_xsk::SharedWords;

use crate::disk::Machine;

/// A key without extended sequence numbers.
pub(crate) const KEY_32_BITS: u64 = 0;

/// How a process ends that cannot tell which numbers were used.
pub(crate) const REFUSED: u8 = 2;

/// Numbers that are taken at once: a packet, a batch, and what a moment at full speed takes.
const SIZES: [u32; 6] = [1, 7, 64, 20_000, 70_000, 300_000];

/// What a process is to do.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) folder: PathBuf,
    /// Where pages lie that stand for memory which outlives the process.
    pub(crate) memory: Option<PathBuf>,
    seed: u64,
    /// Stop for a tracer at the beginning, and after this many rounds.
    pub(crate) stop: [bool; 2],
    pub(crate) rounds: u32,
}

impl Life {
    pub(crate) fn new(machine: &Machine, seed: u64) -> Self {
        Self {
            folder: machine.state(),
            memory: Some(machine.memory()),
            seed,
            stop: [false; 2],
            rounds: 8,
        }
    }

    /// The process that does it, with its output in a pipe.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env::current_exe().expect("this program"));
        command.arg("life").arg(&self.folder);
        command.arg(self.memory.as_deref().unwrap_or("-".as_ref()));
        command.arg(self.seed.to_string()).arg(self.rounds.to_string());
        command.args(self.stop.map(|stop| stop.to_string()));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    pub(crate) fn from_arguments(arguments: &[String]) -> Option<Self> {
        let [name, folder, memory, seed, rounds, first, second] = arguments else {
            return None;
        };
        (name == "life").then(|| Self {
            folder: folder.into(),
            memory: (memory != "-").then(|| memory.into()),
            seed: seed.parse().expect("a seed"),
            rounds: rounds.parse().expect("a number"),
            stop: [first, second].map(|stop| stop == "true"),
        })
    }

    pub(crate) fn live(&self) -> ExitCode {
        if self.stop.contains(&true) {
            ptrace::traceme().expect("a tracer");
        }
        let mut rng = Rng::with_seed(self.seed);
        self.pause(0);
        let mut folder = StateFolder::open(&self.folder).expect("a state folder");
        if let Some(path) = &self.memory {
            folder.remember_in(Box::new(Pages(path.clone()))).expect("memory");
        }
        let folder = Arc::new(folder);
        let keys = [(KEY_32_BITS, false), (1, true)].map(|(key, extended)| {
            let fingerprint = Fingerprint::of(&Secret::copy_from(&[key as u8 + 1; 36]));
            match SequenceMark::open(&folder, 0x1000 + key as u32, fingerprint) {
                Ok(mark) => {
                    let counter = SequenceCounter::new(extended, mark.start());
                    Some((key, mark, counter))
                }
                Err(MarkError::File(MarkFileError::Lost { .. })) => None,
                Err(error) => panic!("{error}"),
            }
        });
        let [Some(first), Some(second)] = keys else {
            return ExitCode::from(REFUSED);
        };
        let mut keys = [first, second];
        for (_, mark, counter) in &mut keys {
            mark.extend(counter).expect("recorded");
        }
        let mut out = io::stdout();
        for round in 0.. {
            if round == self.rounds {
                self.pause(1);
            }
            // Those that are stopped go on until they are killed.
            if round >= self.rounds && !self.stop[1] {
                break;
            }
            let (key, mark, counter) = &mut keys[rng.usize(..2)];
            let size = SIZES[rng.usize(..SIZES.len())];
            let mut numbers = counter.reserve_up_to(size).map(SequenceNumber::into_value);
            if let Some(first) = numbers.next() {
                let record = [*key, first, numbers.last().unwrap_or(first)];
                let bytes: Vec<u8> = record.iter().flat_map(|word| word.to_le_bytes()).collect();
                out.write_all(&bytes).and_then(|()| out.flush()).expect("a wire");
            }
            if rng.bool() {
                mark.extend(counter).expect("recorded");
            }
        }
        ExitCode::SUCCESS
    }

    fn pause(&self, which: usize) {
        if self.stop[which] {
            raise(Signal::SIGSTOP).expect("a signal");
        }
    }
}

/// Files in a folder, mapped.
#[derive(Debug)]
struct Pages(PathBuf);

#[derive(Debug)]
struct Page(SharedWords);

impl BootPages for Pages {
    fn page(&mut self, number: u32, make: bool) -> io::Result<Option<Arc<dyn BootPage>>> {
        let path = self.0.join(number.to_string());
        if !make && !path.exists() {
            return Ok(None);
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(make)
            .truncate(false)
            .open(path)?;
        file.set_len(<dyn BootPage>::WORDS as u64 * 8)?;
        let words = SharedWords::of(file.as_fd(), <dyn BootPage>::WORDS)?;
        Ok(Some(Arc::new(Page(words))))
    }

    fn others(&mut self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn page_of(&mut self, _other: &str, _number: u32) -> io::Result<Option<Arc<dyn BootPage>>> {
        Ok(None)
    }

    fn others_pages(&mut self) -> io::Result<HashSet<u64>> {
        Ok(HashSet::new())
    }

    fn name_again(&mut self) -> io::Result<bool> {
        Ok(false)
    }
}

impl BootPage for Page {
    fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }
}
