//! `ravelin keygen`: key files.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ravelin_keying::key_file;
use ravelin_policy::Algorithm;

use crate::memory;

/// Make a key file: random, in hex, readable by its owner only
///
/// Each direction of each connection needs a key of its own. Give both gateways both files of a connection: what is
/// `outbound` on one is `inbound` on the other. An existing file is never overwritten.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// File to make
    file: PathBuf,

    /// Algorithm the key is for
    #[arg(long, value_name = "NAME", default_value = "aes-256-gcm", value_parser = algorithm())]
    algorithm: Algorithm,
}

pub(crate) fn keygen(arguments: &Arguments) -> Result<()> {
    memory::forbid_dumps()?;
    let algorithm = arguments.algorithm;
    key_file::create(&arguments.file, algorithm)?;
    println!("{}: new key for {algorithm}", arguments.file.display());
    Ok(())
}

/// Takes the names of algorithms, and lists them in `--help`.
fn algorithm() -> impl TypedValueParser<Value = Algorithm> {
    PossibleValuesParser::new(Algorithm::NAMES.iter().copied()).try_map(|name| name.parse::<Algorithm>())
}
