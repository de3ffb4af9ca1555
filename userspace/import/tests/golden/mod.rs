//! Comparison with files: `RAVELIN_UPDATE_GOLDEN=1 cargo test` writes them, and a human reads the difference.

use std::path::PathBuf;

/// Compares `text` with a file in `tests/FOLDER`.
pub(crate) fn compare_text(folder: &str, file: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder)
        .join(file);
    if std::env::var_os("RAVELIN_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("a writable golden file");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == text,
        "{} differs; with RAVELIN_UPDATE_GOLDEN=1 it becomes:\n{text}",
        path.display()
    );
}
