//! A policy and the file it came from.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use ravelin_policy::{MAX_FILE_BYTES, Policy, Warning};

use crate::prepare::ApplyError;

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
        // Absolute, so that a later reload does not depend on where the process was started.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let (policy, warnings) = Policy::load(&path)?;
        if policy.rules().is_empty() && is_blank(&path) {
            return Err(ApplyError::Empty(path));
        }
        let file = Self {
            sha256: sha256(policy.files()).unwrap_or_default(),
            policy: Arc::new(policy),
            path,
        };
        Ok((file, warnings))
    }

    /// The file's absolute path.
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

fn is_blank(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.trim().is_empty())
}

/// The hash of the files one after the other: of a policy without includes it is what `sha256sum` prints.
fn sha256(files: &[Arc<str>]) -> std::io::Result<String> {
    let mut hash = digest::Context::new(&digest::SHA256);
    for file in files {
        let mut bytes = Vec::new();
        std::fs::File::open(&**file)?
            .take(MAX_FILE_BYTES)
            .read_to_end(&mut bytes)?;
        hash.update(&bytes);
    }
    Ok(hash
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
