//! Errors and warnings with the place in the policy they speak of.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Diagnostics beyond this number are only counted.
const MAX_REPORTED: usize = 50;

/// Offending text longer than this (characters) is cut when quoted.
const MAX_QUOTED: usize = 48;

/// Columns beyond this are counted in bytes instead of characters.
const MAX_COUNTED: usize = 1024;

/// A place in a policy file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Index into [`Policy::files`](crate::Policy::files).
    pub file: u16,
    /// Line, counted from 1.
    pub line: u32,
    /// Column in characters, counted from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One error or warning: the file, the place, what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The policy's name, usually its path.
    pub file: Arc<str>,
    /// Where in the file; `None` when it concerns the file as a whole.
    pub position: Option<Position>,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// A policy that works but is probably not what was meant.
pub type Warning = Diagnostic;

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "{}:{position}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// Why a policy was refused: at least one error, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyErrors {
    errors: Vec<Diagnostic>,
    omitted: usize,
}

impl PolicyErrors {
    /// The errors, in the order of the file; never empty.
    #[must_use]
    pub fn errors(&self) -> &[Diagnostic] {
        &self.errors
    }

    /// How many further errors were found but are not listed.
    #[must_use]
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        if self.omitted > 0 {
            write!(f, "\n... and {} more errors", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}

/// A byte range in one of a policy's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    file: u16,
    start: usize,
    end: usize,
}

impl Span {
    pub(crate) fn new(file: u16, range: Range<usize>) -> Self {
        Self {
            file,
            start: range.start,
            end: range.end,
        }
    }

    pub(crate) fn file(self) -> u16 {
        self.file
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

/// Collects errors and warnings while a policy is read.
#[derive(Debug, Default)]
pub(crate) struct Report<'t> {
    files: Vec<File<'t>>,
    errors: Findings,
    warnings: Findings,
}

/// A file that findings may be in.
#[derive(Debug)]
struct File<'t> {
    name: Arc<str>,
    text: &'t str,
    /// Byte offset at which each line starts.
    lines: Vec<usize>,
}

/// Errors or warnings, of which no more than [`MAX_REPORTED`] are kept.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    found: Vec<Diagnostic>,
    omitted: usize,
}

impl Findings {
    pub(crate) fn push(&mut self, diagnostic: impl FnOnce() -> Diagnostic) {
        if self.found.len() < MAX_REPORTED {
            self.found.push(diagnostic());
        } else {
            self.omitted += 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(crate) fn into_warnings(mut self) -> Vec<Warning> {
        self.found.sort_by_key(|diagnostic| diagnostic.position);
        self.found
    }

    pub(crate) fn into_errors(mut self) -> PolicyErrors {
        self.found.sort_by_key(|diagnostic| diagnostic.position);
        PolicyErrors {
            errors: self.found,
            omitted: self.omitted,
        }
    }
}

impl<'t> Report<'t> {
    /// Adds a file and returns its index. There are never more than 2^16.
    pub(crate) fn add(&mut self, name: &str, text: &'t str) -> u16 {
        let lines = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        self.files.push(File {
            name: name.into(),
            text,
            lines,
        });
        u16::try_from(self.files.len() - 1).unwrap_or(u16::MAX)
    }

    /// The names of the files, by index.
    pub(crate) fn files(&self) -> Arc<[Arc<str>]> {
        self.files.iter().map(|file| file.name.clone()).collect()
    }

    /// Records an error at `span`.
    pub(crate) fn error(&mut self, span: &Span, message: impl Into<String>) {
        // A file of mistakes only is not worth a position each.
        let position = if self.only_counts() {
            Position::default()
        } else {
            self.position(span)
        };
        self.error_at(position, message);
    }

    /// Records an error that concerns a file as a whole.
    pub(crate) fn error_in_file(&mut self, file: &str, message: String) {
        self.errors.push(|| Diagnostic {
            file: file.into(),
            position: None,
            message,
        });
    }

    /// Records a warning at `position`.
    pub(crate) fn warn(&mut self, position: Position, message: impl Into<String>) {
        let files = &self.files;
        self.warnings.push(|| Diagnostic {
            file: file_of(files, position),
            position: Some(position),
            message: message.into(),
        });
    }

    /// Records an error at a position already computed.
    pub(crate) fn error_at(&mut self, position: Position, message: impl Into<String>) {
        let files = &self.files;
        self.errors.push(|| Diagnostic {
            file: file_of(files, position),
            position: Some(position),
            message: message.into(),
        });
    }

    /// A position for use inside a message about another: with its file where there are several.
    pub(crate) fn place(&self, position: Position) -> String {
        if self.files.len() > 1 {
            format!("{}:{position}", file_of(&self.files, position))
        } else {
            position.to_string()
        }
    }

    /// Whether there are no errors so far.
    pub(crate) fn is_good(&self) -> bool {
        self.errors.is_empty()
    }

    /// Whether further errors are only counted, so that their text need not be found out.
    pub(crate) fn only_counts(&self) -> bool {
        self.errors.found.len() >= MAX_REPORTED
    }

    /// What was read and the warnings when there were no errors, else the errors.
    pub(crate) fn finish<T>(mut self, read: Option<T>) -> Result<(T, Vec<Warning>), PolicyErrors> {
        match read {
            Some(read) if self.errors.is_empty() => Ok((read, self.warnings.into_warnings())),
            _ => {
                // Nothing is refused without a reason.
                if self.errors.is_empty() {
                    let file = file_of(&self.files, Position::default());
                    self.error_in_file(&file, "the policy could not be read".to_owned());
                }
                Err(self.errors.into_errors())
            }
        }
    }

    /// Line and column of the start of `span`.
    pub(crate) fn position(&self, span: &Span) -> Position {
        let Some(file) = self.files.get(usize::from(span.file)) else {
            return Position::default();
        };
        let offset = span.start.min(file.text.len());
        let line = file.lines.partition_point(|start| *start <= offset).max(1);
        let start = file.lines[line - 1];
        // In an overlong line the column counts bytes: counting characters would make reading quadratic.
        let before = file
            .text
            .get(start..offset)
            .filter(|before| before.len() <= MAX_COUNTED);
        let column = before.map_or(offset - start, |before| before.chars().count()) + 1;
        Position {
            file: span.file,
            line: saturate(line),
            column: saturate(column),
        }
    }

    /// The text at `span` in back quotes, cut to a readable length, without anything that may be a key.
    pub(crate) fn quote(&self, span: &Span) -> String {
        let text = self
            .files
            .get(usize::from(span.file))
            .map_or("", |file| file.text);
        quote(text.get(span.start..span.end).unwrap_or(""))
    }
}

/// `text` in back quotes, cut to a readable length, without control characters and without anything that may be
/// a key pasted into the wrong place.
pub(crate) fn quote(text: &str) -> String {
    let longest_hex = text
        .split(|c: char| !c.is_ascii_hexdigit())
        .map(str::len)
        .max()
        .unwrap_or(0);
    if longest_hex >= 32 {
        return "(text not shown: it looks like a key)".to_owned();
    }
    let mut shown: String = text
        .trim()
        .chars()
        .take(MAX_QUOTED)
        .flat_map(char::escape_debug)
        .collect();
    // escape_debug is for string literals; a quote needs no escape here.
    shown = shown.replace("\\\"", "\"").replace("\\'", "'");
    if text.trim().chars().nth(MAX_QUOTED).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}

fn file_of(files: &[File<'_>], position: Position) -> Arc<str> {
    let file = files.get(usize::from(position.file)).or(files.first());
    file.map_or_else(|| "".into(), |file| file.name.clone())
}

fn saturate(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Position, Report, Span, quote};

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let mut report = Report::default();
        report.add("other", "");
        let file = report.add("p", "a\nö b\n");
        let position = |start: usize| report.position(&Span::new(file, start..start + 1));
        let at = |line, column| Position { file, line, column };
        assert_eq!(position(0), at(1, 1));
        assert_eq!(position(5), at(2, 3));
        assert_eq!(position(6), at(2, 4));
        assert_eq!(position(7), at(3, 1));
        assert_eq!(position(900), at(3, 1));
        // In the middle of a character: no panic.
        assert_eq!(position(3).line, 2);
        assert_eq!(report.quote(&Span::new(file, 3..4)), "``");
        assert_eq!(report.place(at(2, 3)), "p:2:3");
    }

    #[test]
    fn keys_are_never_quoted() {
        let key = "00112233445566778899aabbccddeeff00112233";
        assert!(!quote(&format!("key = \"{key}\"")).contains("0011"));
        assert_eq!(quote("10.0.0.300"), "`10.0.0.300`");
        assert_eq!(quote("a\u{1b}[2Jb"), "`a\\u{1b}[2Jb`");
    }
}
