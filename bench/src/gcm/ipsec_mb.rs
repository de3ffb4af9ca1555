//! intel-ipsec-mb: a program of its own (bench/peers/ipsec_mb.c) that is asked for one figure at a time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use ravelin_gcm::Algorithm;

use crate::Work;

/// How the library is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// One call for each packet.
    Direct,
    /// One for a batch of jobs.
    Burst,
}

impl Api {
    pub(crate) const ALL: [Self; 2] = [Self::Direct, Self::Burst];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Burst => "burst",
        }
    }
}

/// The running program, on this thread's CPU; it works only while this thread waits for its answer. It ends with its input.
#[derive(Debug)]
pub(crate) struct IpsecMb {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    version: String,
}

impl IpsecMb {
    pub(crate) fn start(program: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let questions = child.stdin.take();
        let answers = child.stdout.take().context("its output is piped")?;
        let mut peer = Self {
            child,
            questions,
            answers: BufReader::new(answers),
            version: String::new(),
        };
        peer.version = peer.answer()?;
        Ok(peer)
    }

    /// What it says of itself: version and instructions.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Nanoseconds per packet.
    pub(crate) fn measure(&mut self, api: Api, work: Work) -> Result<f64> {
        let operation = if work.opens { "open" } else { "seal" };
        let (bits, api) = (bits(work.algorithm), api.name());
        let answer = self.ask(&format!("{api} {bits} {operation} {} {}\n", work.keys, work.size))?;
        answer
            .parse()
            .with_context(|| format!("intel-ipsec-mb said `{answer}`"))
    }

    /// The tag of the last of a batch, sealed, in hexadecimal.
    pub(crate) fn tag(&mut self, api: Api, work: Work) -> Result<String> {
        let (bits, api) = (bits(work.algorithm), api.name());
        self.ask(&format!("tag {api} {bits} {}\n", work.size))
    }

    fn ask(&mut self, question: &str) -> Result<String> {
        let questions = self.questions.as_mut().context("its input is piped")?;
        questions
            .write_all(question.as_bytes())
            .context("intel-ipsec-mb does not listen any more")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .context("the answer of intel-ipsec-mb")?;
        ensure!(!line.is_empty(), "intel-ipsec-mb ended without an answer");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for IpsecMb {
    fn drop(&mut self) {
        self.questions = None;
        let _ = self.child.wait();
    }
}

const fn bits(algorithm: Algorithm) -> usize {
    algorithm.encryption_key_len() * 8
}
