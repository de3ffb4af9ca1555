//! A folder that becomes the first file system of a machine: programs with their libraries, and files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::cpio::Archive;
use crate::program;

/// What a first process mounts over.
const MOUNT_POINTS: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

#[derive(Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    /// An empty one in place of what is at `path`.
    pub(crate) fn new(path: PathBuf) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        let root = Self(path);
        for folder in MOUNT_POINTS {
            root.folder(folder)?;
        }
        Ok(root)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn folder(&self, place: &str) -> Result<()> {
        let folder = self.0.join(place);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())
    }

    /// Copies a program to `place` and its libraries to where it looks for them.
    pub(crate) fn program(&self, program: &Path, place: &str) -> Result<()> {
        self.copy(program, Path::new(place))?;
        let listed = program::output(Command::new("ldd").arg(program))?;
        // Lines like `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
        for line in listed.lines() {
            if line.contains("not found") {
                bail!(
                    "{} needs a library that is missing: {}",
                    program.display(),
                    line.trim()
                );
            }
            if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) {
                self.copy(Path::new(library), Path::new(library.trim_start_matches('/')))?;
            }
        }
        Ok(())
    }

    pub(crate) fn copy(&self, from: &Path, place: &Path) -> Result<()> {
        // Through links: the machine has the files only.
        let content = fs::read(from).with_context(|| from.display().to_string())?;
        self.write(place, &content)
    }

    pub(crate) fn write(&self, place: impl AsRef<Path>, content: &[u8]) -> Result<()> {
        let file = self.0.join(place);
        let folder = file.parent().context("a file is in a folder")?;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::write(&file, content).with_context(|| file.display().to_string())
    }

    /// Packs it for a kernel into `file`.
    pub(crate) fn archive(&self, file: &Path) -> Result<()> {
        let mut archive = Archive::default();
        archive.tree(&self.0)?;
        // The kernel opens it for the first process, before anything is mounted.
        archive.device("dev/console", 5, 1);
        fs::write(file, archive.finish()).with_context(|| file.display().to_string())
    }
}
