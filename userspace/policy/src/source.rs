//! The files that a policy is read from: the one named and those that it includes.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::io::Read as _;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Report, Span, quote};
use crate::policy::MAX_FILE_BYTES;
use crate::reader::Node;
use crate::regular_file::RegularFile;

/// Key of the files to include.
pub(crate) const INCLUDE: &str = "include";

/// Most files of a policy, and how deep they may include each other.
const MAX_FILES: usize = 1_024;
const MAX_DEPTH: usize = 16;

/// Most includes that are written, the same file each time or not.
const MAX_INCLUDES: usize = 4_096;

/// Most values, and most words, signs and lines, of a policy's text. The TOML tree takes some hundred bytes for each:
/// it would grow to 5 GB for a file of nothing else, and grows to 2 GB for a million filters.
const MAX_VALUES: usize = 8 << 20;
const MAX_WORDS: usize = 24 << 20;

/// Syntax errors beyond this number are consequences of the first.
const MAX_SYNTAX_ERRORS: usize = 5;

/// Longer than the longest range of addresses in text.
const MAX_ADDRESS: usize = 100;

/// In a file larger than this (bytes) only the first syntax error is told.
const MAX_RECOVERED: usize = 1 << 20;

/// One file, parsed.
#[derive(Debug)]
pub(crate) struct Part<'t> {
    /// Index among the report's files.
    pub(crate) file: u16,
    /// What paths in it are relative to.
    pub(crate) folder: PathBuf,
    pub(crate) root: Spanned<DeTable<'t>>,
}

/// Looks on while the files of a policy are read, in the order in which they are.
pub trait Witness {
    /// From here on a file is looked for, opened and read.
    fn begins(&mut self, path: &Path);

    /// This is done with. `text` is what stands in it; nothing, if there was nothing to read.
    fn ends(&mut self, text: &[u8]);
}

/// Nobody looks on.
impl Witness for () {
    fn begins(&mut self, _: &Path) {}
    fn ends(&mut self, _: &[u8]) {}
}

/// Keeps the texts of all files while the trees made of them are in use.
#[derive(Debug)]
pub(crate) struct Texts {
    places: Vec<OnceCell<String>>,
}

impl Texts {
    pub(crate) fn new() -> Self {
        Self {
            places: std::iter::repeat_with(OnceCell::new).take(MAX_FILES).collect(),
        }
    }
}

/// Reads a policy file and what it includes: each file after those it includes, as if their texts stood there.
/// `None` when something was wrong, which has been reported.
pub(crate) fn load<'t>(
    report: &mut Report<'t>,
    texts: &'t Texts,
    path: &Path,
    witness: &mut dyn Witness,
) -> Option<Vec<Part<'t>>> {
    let name = path.display().to_string();
    let mut reader = Reader::new(report, Some(texts), witness);
    let (canonical, text) = match reader.fetch(path) {
        // Nothing was read before it.
        Ok(fetched) => fetched?,
        Err(problem) => {
            reader.report.error_in_file(&name, problem);
            return None;
        }
    };
    reader.open.push((canonical, name.clone()));
    reader.parse(text, &name, path.parent().unwrap_or(Path::new("")));
    (!reader.faulty).then_some(reader.parts)
}

/// Takes a text as the policy; it cannot include files.
pub(crate) fn parse<'t>(report: &mut Report<'t>, text: &'t str, name: &str) -> Option<Vec<Part<'t>>> {
    let mut nobody = ();
    let mut reader = Reader::new(report, None, &mut nobody);
    let text = match reader.claim_room(text.as_bytes()) {
        Ok(()) => decode(text),
        Err(problem) => {
            reader.report.error_in_file(name, problem);
            return None;
        }
    };
    reader.parse(text, name, Path::new(name).parent().unwrap_or(Path::new("")));
    (!reader.faulty).then_some(reader.parts)
}

/// Whether a text is TOML; what is wrong with it is reported.
pub(crate) fn check_syntax<'t>(report: &mut Report<'t>, text: &'t str, name: &str) -> Option<()> {
    let mut nobody = ();
    let mut reader = Reader::new(report, None, &mut nobody);
    if let Err(problem) = reader.claim_room(text.as_bytes()) {
        reader.report.error_in_file(name, problem);
        return None;
    }
    let file = reader.report.add(name, text);
    reader.parse_toml(decode(text), file).map(|_| ())
}

/// A text, and what is wrong right after it.
type Text<'t> = (&'t str, Option<&'static str>);

struct Reader<'r, 't> {
    report: &'r mut Report<'t>,
    /// Where texts are kept; without it there are no includes.
    texts: Option<&'t Texts>,
    witness: &'r mut dyn Witness,
    parts: Vec<Part<'t>>,
    /// Files being read, from the first to the one that is included deepest: canonical path and name.
    open: Vec<(PathBuf, String)>,
    /// Canonical paths of all files read.
    seen: HashSet<PathBuf>,
    files: usize,
    includes: usize,
    bytes: u64,
    values: usize,
    words: usize,
    faulty: bool,
}

impl<'r, 't> Reader<'r, 't> {
    fn new(report: &'r mut Report<'t>, texts: Option<&'t Texts>, witness: &'r mut dyn Witness) -> Self {
        Self {
            report,
            texts,
            witness,
            parts: Vec::new(),
            open: Vec::new(),
            seen: HashSet::new(),
            files: 0,
            includes: 0,
            bytes: 0,
            values: 0,
            words: 0,
            faulty: false,
        }
    }

    /// The canonical path and the text of a file that was not read yet, or why there is no text.
    fn fetch(&mut self, path: &Path) -> Result<Option<(PathBuf, Text<'t>)>, String> {
        self.witness.begins(path);
        let fetched = self.read(path);
        let text = match &fetched {
            Ok(Some((_, (text, _)))) => text.as_bytes(),
            _ => &[],
        };
        self.witness.ends(text);
        fetched
    }

    fn read(&mut self, path: &Path) -> Result<Option<(PathBuf, Text<'t>)>, String> {
        let first = self.open.is_empty();
        let failed = |what: &str, error: std::io::Error| match first {
            true => format!("cannot {what} the policy: {error}"),
            // Whoever includes it says which one.
            false => error.to_string(),
        };
        let canonical = path.canonicalize().map_err(|error| failed("open", error))?;
        if let Some(start) = self.open.iter().position(|(open, _)| *open == canonical) {
            let mut names: Vec<&str> = self.open[start..].iter().map(|(_, name)| name.as_str()).collect();
            names.push(names[0]);
            return Err(format!(
                "these files include each other: {}; take one include out",
                names.join(" -> ")
            ));
        }
        // Two files may both include a third: it counts once.
        if !self.seen.insert(canonical.clone()) {
            return Ok(None);
        }
        let file = RegularFile::open(path).map_err(|error| failed("open", error))?;
        let room = MAX_FILE_BYTES - self.bytes.min(MAX_FILE_BYTES);
        if file.metadata().is_ok_and(|metadata| metadata.len() > room) {
            return Err(self.too_large());
        }
        let mut bytes = Vec::new();
        file.take(room + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| failed("read", error))?;
        self.claim_room(&bytes)?;
        let Some(place) = self.texts.and_then(|texts| texts.places.get(self.files)) else {
            return Err(format!("more than {MAX_FILES} files"));
        };
        self.files += 1;
        let (text, problem) = match String::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let mut bytes = error.into_bytes();
                bytes.truncate(valid);
                let text = String::from_utf8(bytes).unwrap_or_default();
                (text, Some("not UTF-8; save the policy as UTF-8 text"))
            }
        };
        let (text, nul) = decode(place.get_or_init(|| text));
        Ok(Some((canonical, (text, nul.or(problem)))))
    }

    /// Refuses what would take far more memory than a policy.
    fn claim_room(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.bytes += bytes.len() as u64;
        if self.bytes > MAX_FILE_BYTES {
            return Err(self.too_large());
        }
        let mut before = b' ';
        for byte in bytes {
            self.values += usize::from(matches!(byte, b'=' | b',' | b'[' | b'{'));
            self.words += usize::from(matches!(
                byte,
                b'=' | b',' | b'[' | b'{' | b']' | b'}' | b'.' | b'\n'
            ));
            self.words += usize::from(*byte == b' ' && before != b' ');
            before = *byte;
        }
        if self.values > MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values; this is no policy"));
        }
        if self.words > MAX_WORDS {
            return Err(format!(
                "more than {MAX_WORDS} words and signs; this is no policy"
            ));
        }
        Ok(())
    }

    fn too_large(&self) -> String {
        let most = MAX_FILE_BYTES >> 20;
        if self.open.is_empty() {
            format!("larger than {most} MiB; this is no policy")
        } else {
            format!("with it the policy is larger than {most} MiB")
        }
    }

    fn parse(&mut self, text: Text<'t>, name: &str, folder: &Path) {
        let file = self.report.add(name, text.0);
        match self.parse_toml(text, file) {
            Some(root) => {
                self.include(file, folder, &root);
                self.parts.push(Part {
                    file,
                    folder: folder.to_owned(),
                    root,
                });
            }
            None => self.faulty = true,
        }
    }

    fn parse_toml(&mut self, (text, problem): Text<'t>, file: u16) -> Option<Spanned<DeTable<'t>>> {
        let end = text.len()..text.len();
        if let Some(problem) = problem {
            self.report.error(&Span::new(file, end), problem);
            return None;
        }
        let first = match DeTable::parse(text) {
            Ok(root) => return Some(root),
            Err(first) => first,
        };
        // What the parser guesses after a syntax error would only give misleading complaints, so nothing else is read.
        // Collecting all syntax errors of a large file that is not TOML at all takes long.
        let errors = if text.len() <= MAX_RECOVERED {
            DeTable::parse_recoverable(text).1
        } else {
            vec![first]
        };
        let mut bare = None;
        for error in errors.iter().take(MAX_SYNTAX_ERRORS) {
            let span = error.span().unwrap_or(end.clone());
            if let Some(address) = bare_address(text, span.start) {
                // The parser stumbles over some of them more than once.
                if bare.replace(address.start) != Some(address.start) {
                    let message = format!(
                        "not TOML: addresses are strings: write \"{}\"",
                        &text[address.clone()]
                    );
                    self.report.error(&Span::new(file, address), message);
                }
                continue;
            }
            let span = Span::new(file, span);
            let found = if span.is_empty() {
                String::new()
            } else {
                format!(", found {}", self.report.quote(&span))
            };
            self.report
                .error(&span, format!("not TOML: {}{found}", error.message()));
        }
        None
    }

    fn include(&mut self, file: u16, folder: &Path, root: &Spanned<DeTable<'_>>) {
        let Some(value) = root.get_ref().get(INCLUDE) else {
            return;
        };
        let node = Node::new(value, file);
        let DeValue::Array(paths) = value.get_ref() else {
            node.wrong_type(self.report, "an array of files");
            self.faulty = true;
            return;
        };
        self.includes += paths.len();
        if let Some(problem) = self.no_includes() {
            self.report.error(&node.span(), problem);
            self.faulty = true;
            return;
        }
        for path in paths {
            let node = Node::new(path, file);
            let included = match node.string(self.report) {
                Some(text) => self.include_one(text, folder),
                None => Err(None),
            };
            if let Err(problem) = included {
                if let Some(problem) = problem {
                    self.report.error(&node.span(), problem);
                }
                self.faulty = true;
            }
        }
    }

    fn no_includes(&self) -> Option<String> {
        if self.texts.is_none() {
            return Some("only a policy in a file can include files".to_owned());
        }
        if self.includes > MAX_INCLUDES {
            return Some(format!("more than {MAX_INCLUDES} includes in the policy"));
        }
        (self.open.len() > MAX_DEPTH)
            .then(|| format!("files are included more than {MAX_DEPTH} deep; include this one further up"))
    }

    /// The error is what is wrong with the include, unless it has been reported.
    fn include_one(&mut self, text: &str, folder: &Path) -> Result<(), Option<String>> {
        if text.trim().is_empty() || text.len() > 4096 || text.chars().any(char::is_control) {
            return Err(Some(format!("{} is not the path of a file", quote(text))));
        }
        let path = folder.join(text);
        let fetched = self
            .fetch(&path)
            .map_err(|problem| Some(format!("cannot include {}: {problem}", quote(text))))?;
        let Some((canonical, text)) = fetched else {
            return Ok(());
        };
        let name = path.display().to_string();
        self.open.push((canonical, name.clone()));
        self.parse(text, &name, path.parent().unwrap_or(folder));
        self.open.pop();
        Ok(())
    }
}

/// Where the address, prefix or range without quotes is that `at` lies in or right behind.
fn bare_address(text: &str, at: usize) -> Option<Range<usize>> {
    let is_inside = |byte: &u8| byte.is_ascii_alphanumeric() || b".:/-".contains(byte);
    let (before, behind) = text.as_bytes().split_at_checked(at)?;
    let inside = |bytes: &mut dyn Iterator<Item = &u8>| {
        bytes.take(MAX_ADDRESS).take_while(|byte| is_inside(byte)).count()
    };
    let start = at - inside(&mut before.iter().rev());
    let end = at + inside(&mut behind.iter());
    let first = text[start..end].split(['/', '-']).next()?;
    let quoted = before[..start].ends_with(b"\"") || text[end..].starts_with('"');
    (!quoted && first.parse::<IpAddr>().is_ok()).then_some(start..end)
}

/// The text up to a NUL byte.
fn decode(text: &str) -> Text<'_> {
    match text.find('\0') {
        None => (text, None),
        Some(at) => (&text[..at], Some("a NUL byte; a policy is text")),
    }
}
