//! `cargo xtask conformance`: which feature of IPsec is proven by what.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::workspace::Workspace;

/// The document that is made.
const DOCUMENT: &str = "docs/conformance.md";

/// Write docs/conformance.md: every feature of ESP and AH, the test that proves it, and who says so besides us.
///
/// The table is xtask/src/conformance/table.toml. Each test that it names must exist, or nothing is written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if the document is not up to date
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    introduction: String,
    area: Vec<Area>,
    unsupported: Vec<Unsupported>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Area {
    name: String,
    feature: Vec<Feature>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Feature {
    name: String,
    /// RFC and section.
    source: String,
    /// What is missing of it.
    #[serde(default)]
    limits: String,
    proof: Vec<Proof>,
}

/// A test and what it is held against.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    file: String,
    /// A function in the file, or another word that stands in it.
    test: String,
    truth: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unsupported {
    name: String,
    source: String,
    reason: String,
}

/// Runs the task; whether the document was up to date, if only that was asked.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<bool> {
    let path = workspace.root.join(DOCUMENT);
    let document = document(&workspace.root)?;
    let current = fs::read_to_string(&path).is_ok_and(|text| text == document);
    if args.check {
        if !current {
            eprintln!("conformance: {DOCUMENT} is out of date; run: cargo xtask conformance");
        }
        return Ok(current);
    }
    if !current {
        fs::write(&path, document).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("conformance: {DOCUMENT}");
    Ok(true)
}

/// The document's text. Fails if a test that the table names does not exist.
fn document(root: &Path) -> Result<String> {
    let table: Table = toml::from_str(include_str!("conformance/table.toml")).context("the table")?;
    let proofs = table
        .area
        .iter()
        .flat_map(|area| &area.feature)
        .flat_map(|feature| &feature.proof);
    let missing: Vec<String> = proofs
        .filter(|proof| !exists(root, proof))
        .map(|proof| format!("{} in {}", proof.test, proof.file))
        .collect();
    if !missing.is_empty() {
        bail!("the table names tests that do not exist: {}", missing.join(", "));
    }
    let mut text = String::from(
        "<!-- Made by `cargo xtask conformance`; edit xtask/src/conformance/table.toml. -->\n\n",
    );
    writeln!(text, "# Conformance\n\n{}", table.introduction.trim())?;
    for area in &table.area {
        writeln!(text, "\n## {}\n", area.name)?;
        writeln!(
            text,
            "| feature | source | proof | held against |\n|---|---|---|---|"
        )?;
        for feature in &area.feature {
            let limits = match feature.limits.as_str() {
                "" => String::new(),
                limits => format!("<br>*{limits}*"),
            };
            for (n, proof) in feature.proof.iter().enumerate() {
                let (name, source) = if n == 0 {
                    (format!("{}{limits}", feature.name), feature.source.as_str())
                } else {
                    (String::new(), "")
                };
                let Proof { file, test, truth } = proof;
                writeln!(
                    text,
                    "| {name} | {source} | `{test}` in [{file}](../{file}) | {truth} |"
                )?;
            }
        }
    }
    writeln!(
        text,
        "\n## Not supported\n\n| feature | source | why |\n|---|---|---|"
    )?;
    for Unsupported { name, source, reason } in &table.unsupported {
        writeln!(text, "| {name} | {source} | {reason} |")?;
    }
    Ok(text)
}

/// Whether the file has a function of this name, or in files other than Rust's the word.
fn exists(root: &Path, proof: &Proof) -> bool {
    let Ok(text) = fs::read_to_string(root.join(&proof.file)) else {
        return false;
    };
    if proof.file.ends_with(".rs") {
        // One for any backend has parameters of types.
        ['(', '<']
            .iter()
            .any(|end| text.contains(&format!("fn {}{end}", proof.test)))
    } else {
        text.contains(&proof.test)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{DOCUMENT, Proof, document, exists};

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

    #[test]
    fn the_document_is_up_to_date_and_its_tests_exist() {
        let root = Path::new(ROOT);
        let written = std::fs::read_to_string(root.join(DOCUMENT)).unwrap_or_default();
        assert!(
            document(root).expect("the table") == written,
            "{DOCUMENT} is out of date; run: cargo xtask conformance"
        );
    }

    #[test]
    fn a_test_that_does_not_exist_is_missed() {
        let proof = |test: &str| Proof {
            file: "xtask/src/conformance.rs".to_owned(),
            test: test.to_owned(),
            truth: String::new(),
        };
        assert!(exists(
            Path::new(ROOT),
            &proof("a_test_that_does_not_exist_is_missed")
        ));
        assert!(!exists(Path::new(ROOT), &proof("another_test")));
    }
}
