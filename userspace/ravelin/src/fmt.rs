//! `ravelin fmt`: policies in canonical layout.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use ravelin_policy::{MAX_FILE_BYTES, canonical_layout};

use crate::input;

/// Write policies in canonical layout
///
/// Changes white space only, and commas at the end of arrays: comments, the order of everything and the places where
/// lines break stay. A file that is not TOML is left as it is.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Change nothing; name the files that are not in canonical layout, and exit with 1 if there is one
    #[arg(long)]
    check: bool,

    /// Policy files; - reads standard input and writes standard output
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(crate) fn fmt(arguments: &Arguments) -> Result<()> {
    let mut failed = 0;
    let mut different = 0;
    for path in &arguments.files {
        match format(path, arguments.check) {
            Ok(changed) if arguments.check => different += usize::from(changed),
            Ok(_) => {}
            Err(error) => {
                eprintln!("{error:#}");
                failed += 1;
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} files left as they are", arguments.files.len());
    }
    if different > 0 {
        bail!(
            "{different} of {} files are not in canonical layout; run ravelin fmt without --check",
            arguments.files.len()
        );
    }
    Ok(())
}

/// Whether the layout differed.
fn format(path: &Path, check: bool) -> Result<bool> {
    let standard = input::is_standard(path);
    let name = if standard {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let text = if standard {
        read(std::io::stdin().lock(), &name)?
    } else {
        let file = input::open(path).with_context(|| format!("{name}: cannot open it"))?;
        read(file, &name)?
    };
    let layout = canonical_layout(&text, &name)?;
    let changed = layout != text;
    if check {
        if changed {
            println!("{name}");
        }
    } else if standard {
        std::io::stdout()
            .write_all(layout.as_bytes())
            .context("cannot write standard output")?;
    } else if changed {
        replace(path, &layout).with_context(|| format!("{name}: cannot write it"))?;
    }
    Ok(changed)
}

fn read(from: impl std::io::Read, name: &str) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("{name}: cannot read it"))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        bail!(
            "{name}: larger than {} MiB; this is no policy",
            MAX_FILE_BYTES >> 20
        );
    }
    String::from_utf8(bytes)
        .ok()
        .with_context(|| format!("{name}: not UTF-8; save it as UTF-8 text"))
}

/// Puts a new file in the place of the old one, so that whoever reads it sees one of the two whole. A symbolic link
/// stays one.
fn replace(path: &Path, text: &str) -> Result<()> {
    let path = path.canonicalize()?;
    let folder = path.parent().context("a file is in a folder")?;
    let metadata = std::fs::metadata(&path)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(metadata.permissions())?;
    keep_owner(file.as_file(), &metadata)?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(())
}

/// Root may write the files of others; they stay theirs.
fn keep_owner(file: &File, old: &std::fs::Metadata) -> Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        fchown(file, Some(old.uid()), Some(old.gid())).context("cannot give it back to its owner")?;
    }
    Ok(())
}
