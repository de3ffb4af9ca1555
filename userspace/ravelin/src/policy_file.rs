//! The policy file of commands that look at a policy and touch nothing.

use std::path::Path;

use anyhow::Result;
use ravelin_policy::{Policy, Position, Surroundings, Warning};

/// A policy, and what its author should look at.
#[derive(Debug)]
pub(crate) struct PolicyFile {
    pub(crate) policy: Policy,
    pub(crate) warnings: Vec<Warning>,
}

impl PolicyFile {
    /// Reads a policy as it holds in these surroundings. Names are not looked up: what they stand for is left out, and a warning
    /// says so.
    pub(crate) fn load(path: &Path, surroundings: &Surroundings) -> Result<Self> {
        let (file, mut warnings) = ravelin_engine::PolicyFile::load_once(path)?;
        let (policy, more) = file.policy().resolve(surroundings)?;
        warnings.extend(more);
        Ok(Self { policy, warnings })
    }

    /// `file:line:column`.
    pub(crate) fn place(&self, position: Position) -> String {
        format!("{}:{position}", self.policy.file(position))
    }
}
