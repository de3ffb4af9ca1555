//! `ravelin schema`: what editors and generators of policies need to know.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use clap::Args;

/// Print the JSON Schema of policies
///
/// For editors that complete and check TOML, and for programs that write policies. It knows keys, values and
/// defaults; whether a policy makes sense as a whole is for `ravelin check`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {}

pub(crate) fn schema(_arguments: &Arguments) -> Result<()> {
    let schema = ravelin_policy::json_schema();
    let written = std::io::stdout().write_all(schema.as_bytes());
    written.context("cannot write the schema")
}
