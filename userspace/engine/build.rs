//! Finds the compiled BPF object, which `cargo xtask build-ebpf` leaves in the target directory: it needs a
//! toolchain of its own that a build script must not install behind the user's back.
use std::env;
use std::path::{Path, PathBuf};

const OBJECT: &str = "RAVELIN_BPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let found = match env::var_os(OBJECT) {
        Some(path) => Some(PathBuf::from(path)).filter(|path| path.is_file()),
        None => in_target_directory(),
    };
    match found {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            println!("cargo::rustc-env={OBJECT}={}", path.display());
        }
        None => println!("cargo::error=the BPF object is missing: run `cargo xtask build-ebpf` first"),
    }
}

/// The object in the target directory of this build, some levels above `OUT_DIR`.
fn in_target_directory() -> Option<PathBuf> {
    let out = env::var_os("OUT_DIR")?;
    let path = Path::new(&out)
        .ancestors()
        .skip(1)
        .map(|folder| folder.join("bpf/ravelin.bpf.o"))
        .find(|path| path.is_file());
    if path.is_none() {
        // Looked for again at the next build: a path that does not exist counts as changed.
        println!(
            "cargo::rerun-if-changed={}",
            Path::new(&out).join("no-bpf-object").display()
        );
    }
    path
}
