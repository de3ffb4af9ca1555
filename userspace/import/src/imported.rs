//! A finished import.

use std::fmt::Write as _;
use std::path::Path;

use ravelin_policy::Policy;

use crate::findings::{Findings, ImportErrors, Warning};
use crate::source::Source;

/// Losses listed in the text of the policy itself.
const MAX_LISTED: usize = 100;

/// A policy made from a foreign source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The text of a policy that the policy crate accepts.
    pub policy: String,
    /// What to know about it, in the order of the source's lines.
    pub warnings: Vec<Warning>,
}

impl Imported {
    /// Whether the policy does not say something that the source says.
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        self.warnings.iter().any(|warning| warning.loss)
    }

    /// Puts a heading above `body`, reads the whole back, and hands it out.
    ///
    /// # Errors
    /// What was found wrong with the source, or why the policy crate refuses the result.
    pub(crate) fn finish(
        source: &Source,
        language: &str,
        findings: Findings,
        body: &str,
    ) -> Result<Self, ImportErrors> {
        let imported = Self::unread(source, language, findings, body)?;
        read_back(&imported.policy).map_err(|message| ImportErrors::one(source.name(), 0, message))?;
        Ok(imported)
    }

    /// The same for a body of which every part was read back by itself.
    pub(crate) fn unread(
        source: &Source,
        language: &str,
        findings: Findings,
        body: &str,
    ) -> Result<Self, ImportErrors> {
        let warnings = findings.finish()?;
        let mut policy = heading(source, language, &warnings);
        policy.push_str(body);
        Ok(Self { policy, warnings })
    }
}

/// Whether the policy crate takes it, and if not, why.
pub(crate) fn read_back(policy: &str) -> Result<(), String> {
    Policy::parse(policy, "the imported policy")
        .map(|_| ())
        .map_err(|errors| format!("the result is no policy that Ravelin takes:\n{errors}"))
}

fn heading(source: &Source, language: &str, warnings: &[Warning]) -> String {
    let file = Path::new(source.name())
        .file_name()
        .map_or(source.name().to_owned(), |name| {
            name.to_string_lossy().into_owned()
        });
    let mut text = String::new();
    let _ = writeln!(text, "# Imported from {} ({language}).", comment(&file));
    let losses: Vec<&Warning> = warnings.iter().filter(|warning| warning.loss).collect();
    if losses.is_empty() {
        text.push('\n');
        return text;
    }
    let _ = writeln!(
        text,
        "#\n# Not everything could be said in this language. What is missing:"
    );
    for loss in losses.iter().take(MAX_LISTED) {
        match loss.line {
            0 => {
                let _ = writeln!(text, "#   {}", comment(&loss.message));
            }
            line => {
                let _ = writeln!(text, "#   line {line}: {}", comment(&loss.message));
            }
        }
    }
    if losses.len() > MAX_LISTED {
        let _ = writeln!(
            text,
            "#   and {} more, which the import printed",
            losses.len() - MAX_LISTED
        );
    }
    text.push('\n');
    text
}

/// `text` as it may stand in a TOML comment.
pub(crate) fn comment(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
