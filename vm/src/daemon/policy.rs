//! What the daemon is told.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use ravelin_esp::Protocol;

use crate::{
    algorithm::hex,
    case::{Case, Direction, Generation},
};

/// Seconds that old SAs stay: longer than this runs, so that nothing depends on time.
const GRACE: u32 = 3600;

/// Writes a policy with a connection for each case, with SAs of a generation, and their keys to `folder`; the policy's file.
pub(super) fn write(folder: &Path, cases: &[Case], generation: Generation) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for case in cases {
        for direction in [Direction::ToTheirs, Direction::ToOurs] {
            let file = folder.join(key_file(case, direction, generation));
            let keymat = hex(&case.key_material(direction, generation));
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            let mut file = options.open(&file).with_context(|| file.display().to_string())?;
            writeln!(file, "{keymat}")?;
        }
    }
    write_text(
        &folder.join(format!("{generation:?}.toml")),
        cases,
        generation,
        "",
    )
}

/// Writes one with the SAs of a generation that has been written already, which follows peers to other ports.
pub(super) fn write_following(folder: &Path, cases: &[Case], generation: Generation) -> Result<PathBuf> {
    let file = folder.join("following.toml");
    write_text(&file, cases, generation, "address-update = \"port\"\n")
}

fn write_text(file: &Path, cases: &[Case], generation: Generation, udp_lines: &str) -> Result<PathBuf> {
    let mut text = "default = \"block\"\n".to_owned();
    for case in cases {
        connection(&mut text, case, generation, udp_lines);
    }
    fs::write(file, text).with_context(|| file.display().to_string())?;
    Ok(file.to_owned())
}

/// What a case's connection is called.
pub(super) fn name(case: &Case) -> String {
    format!("c{}", case.number)
}

fn connection(text: &mut String, case: &Case, generation: Generation, udp_lines: &str) {
    let name = name(case);
    let [source, destination] = case.addresses();
    let [local, remote] = case.outer_addresses();
    let udp = if case.udp {
        let (local, remote) = Direction::ToTheirs.udp_ports();
        format!("encapsulation = \"udp\"\nlocal-port = {local}\nremote-port = {remote}\n{udp_lines}")
    } else {
        String::new()
    };
    let protocol = match case.protocol {
        Protocol::Esp => "esp",
        Protocol::Ah => "ah",
    };
    let sa = |direction| {
        let spi = case.spi(direction, generation);
        format!(
            "{{ spi = {spi:#x}, key-file = \"{}\" }}",
            key_file(case, direction, generation)
        )
    };
    let _ = write!(
        text,
        "
[filter-lists.{name}]
filters = [{{ source = \"{source}\", destination = \"{destination}\" }}]
[[rules]]
name = \"{name}\"
filter-list = \"{name}\"
action = \"protect\"
connection = \"{name}\"
[connections.{name}]
mode = \"tunnel\"
protocol = \"{protocol}\"
local = \"{local}\"
remote = \"{remote}\"
rekey-grace = {GRACE}
{udp}[connections.{name}.static]
algorithm = \"{}\"
esn = {}
outbound = {}
inbound = {}
",
        case.algorithm,
        case.extended,
        sa(Direction::ToTheirs),
        sa(Direction::ToOurs)
    );
}

fn key_file(case: &Case, direction: Direction, generation: Generation) -> String {
    format!("{:x}.key", case.spi(direction, generation))
}
