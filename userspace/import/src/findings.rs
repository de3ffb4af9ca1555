//! What an import has to say besides the policy: warnings, and errors.

use std::fmt;
use std::sync::Arc;

/// Errors and warnings beyond this number are only counted.
const MAX_LISTED: usize = 1_000;

/// Offending text longer than this (characters) is cut when quoted.
const MAX_QUOTED: usize = 60;

/// Something to know about an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The source's name.
    pub file: Arc<str>,
    /// The line it speaks of, counted from 1; 0 for the source as a whole.
    pub line: u32,
    /// What happened and what to do.
    pub message: String,
    /// Whether the policy does not say something that the source says.
    pub loss: bool,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        place(f, &self.file, self.line)?;
        f.write_str(&self.message)
    }
}

/// Why a source was refused: at least one error, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportErrors {
    file: Arc<str>,
    errors: Vec<(u32, String)>,
    omitted: usize,
}

impl ImportErrors {
    pub(crate) fn one(file: &str, line: u32, message: String) -> Self {
        Self {
            file: file.into(),
            errors: vec![(line, message)],
            omitted: 0,
        }
    }
}

impl fmt::Display for ImportErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (line, message)) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            place(f, &self.file, *line)?;
            f.write_str(message)?;
        }
        if self.omitted > 0 {
            write!(f, "\n... and {} more errors", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ImportErrors {}

fn place(f: &mut fmt::Formatter<'_>, file: &str, line: u32) -> fmt::Result {
    match line {
        0 => write!(f, "{file}: "),
        line => write!(f, "{file}:{line}: "),
    }
}

/// Collects warnings and errors while a source is read.
#[derive(Debug)]
pub(crate) struct Findings {
    file: Arc<str>,
    warnings: Vec<Warning>,
    errors: Vec<(u32, String)>,
    omitted_errors: usize,
    omitted_warnings: usize,
    omitted_losses: usize,
}

impl Findings {
    pub(crate) fn new(file: &str) -> Self {
        Self {
            file: file.into(),
            warnings: Vec::new(),
            errors: Vec::new(),
            omitted_errors: 0,
            omitted_warnings: 0,
            omitted_losses: 0,
        }
    }

    /// Something in the source that the policy does not say.
    pub(crate) fn loss(&mut self, line: u32, message: impl Into<String>) {
        self.warn(line, message.into(), true);
    }

    /// Something to know about what the policy says.
    pub(crate) fn note(&mut self, line: u32, message: impl Into<String>) {
        self.warn(line, message.into(), false);
    }

    fn warn(&mut self, line: u32, message: String, loss: bool) {
        if self.warnings.len() >= MAX_LISTED {
            self.omitted_warnings += 1;
            self.omitted_losses += usize::from(loss);
            return;
        }
        self.warnings.push(Warning {
            file: self.file.clone(),
            line,
            message,
            loss,
        });
    }

    /// Something that cannot be read at all.
    pub(crate) fn error(&mut self, line: u32, message: impl Into<String>) {
        if self.errors.len() >= MAX_LISTED {
            self.omitted_errors += 1;
            return;
        }
        self.errors.push((line, message.into()));
    }

    /// The warnings when there were no errors, else the errors.
    pub(crate) fn finish(mut self) -> Result<Vec<Warning>, ImportErrors> {
        if !self.errors.is_empty() {
            self.errors.sort_by_key(|(line, _)| *line);
            return Err(ImportErrors {
                file: self.file,
                errors: self.errors,
                omitted: self.omitted_errors,
            });
        }
        self.warnings.sort_by_key(|warning| warning.line);
        if self.omitted_warnings > 0 {
            self.warnings.push(Warning {
                file: self.file.clone(),
                line: 0,
                message: format!(
                    "{} more warnings are not listed; {} of them say that something was left out",
                    self.omitted_warnings, self.omitted_losses
                ),
                loss: self.omitted_losses > 0,
            });
        }
        Ok(self.warnings)
    }
}

/// `text` in back quotes, without control characters, cut to a readable length.
pub(crate) fn quote(text: &str) -> String {
    let text = text.trim();
    let mut shown: String = text
        .chars()
        .take(MAX_QUOTED)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}
