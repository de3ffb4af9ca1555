//! Comparison with files: `UPDATE_GOLDEN=1 cargo test` writes them, and a human reads the difference.

use std::fmt::Write as _;
use std::path::PathBuf;

use ravelin_import::Imported;

/// Compares the policy with `NAME.toml` and the warnings with `NAME.warnings`, both in `tests/FOLDER`.
pub(crate) fn compare(folder: &str, name: &str, imported: &Imported) {
    let mut warnings = String::new();
    for warning in &imported.warnings {
        let _ = writeln!(
            warnings,
            "{}{warning}",
            if warning.loss { "loss: " } else { "note: " }
        );
    }
    compare_text(folder, &format!("{name}.toml"), &imported.policy);
    compare_text(folder, &format!("{name}.warnings"), &warnings);
}

/// Compares `text` with a file in `tests/FOLDER`.
pub(crate) fn compare_text(folder: &str, file: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder)
        .join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("a writable golden file");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == text,
        "{} differs; with UPDATE_GOLDEN=1 it becomes:\n{text}",
        path.display()
    );
}
