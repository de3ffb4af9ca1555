//! A policy and the file it came from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use ravelin_policy::{Policy, Warning, Witness};

use crate::prepare::ApplyError;
use crate::reading::Reading;

/// A policy as it is written, read from a file.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    path: PathBuf,
    sha256: String,
    policy: Arc<Policy>,
}

impl PolicyFile {
    /// Reads and checks a policy. One without a word is refused: it is a file that is being written.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Policy`] with everything that is wrong with it, each with its place; [`ApplyError::Empty`].
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), ApplyError> {
        Self::load_watched(path, &Reading::default())
    }

    /// The same by the path as it is given, which then stands in messages: for commands that read it once.
    ///
    /// # Errors
    ///
    /// Those of [`PolicyFile::load`].
    pub fn load_once(path: &Path) -> Result<(Self, Vec<Warning>), ApplyError> {
        Self::read(path.to_owned(), &Reading::default())
    }

    /// The same; `reading` tells others how it is going.
    ///
    /// # Errors
    ///
    /// Those of [`PolicyFile::load`].
    pub(crate) fn load_watched(path: &Path, reading: &Reading) -> Result<(Self, Vec<Warning>), ApplyError> {
        // Absolute, so that a later reload does not depend on where the process was started.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self::read(path, reading)
    }

    fn read(path: PathBuf, reading: &Reading) -> Result<(Self, Vec<Warning>), ApplyError> {
        let mut texts = Texts {
            reading,
            hash: digest::Context::new(&digest::SHA256),
            blank: true,
        };
        let (policy, warnings) = Policy::load_before(&path, &mut texts)?;
        if policy.rules().is_empty() && texts.blank {
            return Err(ApplyError::Empty(path));
        }
        let hash = texts.hash.finish();
        let file = Self {
            sha256: hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            policy: Arc::new(policy),
            path,
        };
        Ok((file, warnings))
    }

    /// The file's path: absolute in an engine.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of the policy's text, in hex: of the file and then of those that it includes.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }
}

/// What is to be known of the texts, besides what they say: their hash, one after the other, which for a policy without
/// includes is what `sha256sum` prints.
struct Texts<'r> {
    reading: &'r Reading,
    hash: digest::Context,
    /// There was no word so far.
    blank: bool,
}

impl Witness for Texts<'_> {
    fn begins(&mut self, path: &Path) {
        self.reading.begin(path.display().to_string());
    }

    fn ends(&mut self, text: &[u8]) {
        self.reading.end();
        self.hash.update(text);
        self.blank = self.blank && text.trim_ascii().is_empty();
    }
}
