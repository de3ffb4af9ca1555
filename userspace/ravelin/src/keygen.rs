//! `ravelin keygen`: key files.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use ravelin_keying::key_file;
use ravelin_policy::Algorithm;

/// Make a key file: random, in hex, readable by its owner only
///
/// Each direction of each connection needs a key of its own. Give both gateways both files of a connection: what is
/// `outbound` on one is `inbound` on the other. An existing file is never overwritten.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// File to make
    file: PathBuf,

    /// Algorithm the key is for
    #[arg(long, value_name = "NAME", default_value = "aes-256-gcm")]
    algorithm: Name,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Name {
    #[value(name = "aes-128-gcm")]
    Aes128Gcm,
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
}

pub(crate) fn keygen(arguments: &Arguments) -> Result<()> {
    let algorithm = match arguments.algorithm {
        Name::Aes128Gcm => Algorithm::Aes128Gcm,
        Name::Aes256Gcm => Algorithm::Aes256Gcm,
    };
    key_file::create(&arguments.file, algorithm)?;
    println!("{}: new key for {algorithm}", arguments.file.display());
    Ok(())
}
