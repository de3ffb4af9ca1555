//! The policy file of commands that look at a policy and touch nothing.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use ravelin_policy::{Policy, Position, Warning};

/// A policy, and what to call it.
#[derive(Debug)]
pub(crate) struct PolicyFile {
    pub(crate) policy: Policy,
    pub(crate) warnings: Vec<Warning>,
    name: String,
}

impl PolicyFile {
    /// Reads a policy as it holds on a machine with the addresses `own`.
    pub(crate) fn load(path: &Path, _own: &[IpAddr]) -> Result<Self> {
        let (policy, warnings) = Policy::load(path)?;
        Ok(Self {
            policy,
            warnings,
            name: path.display().to_string(),
        })
    }

    /// `file:line:column`.
    pub(crate) fn place(&self, position: Position) -> String {
        format!("{}:{position}", self.name)
    }
}
