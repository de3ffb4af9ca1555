//! Which engine of this machine a command is about.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

/// Chooses an engine.
#[derive(Debug, Args)]
pub(crate) struct Instance {
    /// Name of the engine, for machines with several: part of the paths of its pins, socket and state
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = name)]
    pub(crate) instance: String,

    /// Control socket [default: /run/ravelin/NAME.sock]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

impl Instance {
    pub(crate) fn control(&self) -> PathBuf {
        self.control
            .clone()
            .unwrap_or_else(|| format!("/run/ravelin/{}.sock", self.instance).into())
    }
}

/// A name that is safe as part of a path.
fn name(text: &str) -> Result<String> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
    if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
        bail!("use 1 to 64 letters, digits, `-` and `_`");
    }
    Ok(text.to_owned())
}
