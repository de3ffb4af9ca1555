//! The canonical layout of a policy's text: `ravelin fmt`.
//!
//! Only white space and commas at the end of arrays change; words, comments and their order stay. Where lines break is
//! the author's choice; how far they are indented and what stands around signs is not.

use toml_parser::parser::{Event, EventKind, parse_document};
use toml_parser::{ParseError, Source};

use crate::diagnostic::{PolicyErrors, Report};
use crate::policy::MAX_FILE_BYTES;
use crate::source;

const INDENT: &str = "    ";

/// The same TOML in canonical layout: one space around `=` and after `,`, elements of broken arrays indented by four
/// spaces each level with a comma after the last, at most one blank line in a row, no white space at the end of lines.
/// `name` stands in messages.
///
/// # Errors
/// The text is not TOML, or larger than a policy may be.
pub fn canonical_layout(text: &str, name: &str) -> Result<String, PolicyErrors> {
    let mut report = Report::default();
    let layout = source::check_syntax(&mut report, text, name).and_then(|()| lay_out(text));
    if layout.is_none() && report.is_good() {
        let most = MAX_FILE_BYTES >> 20;
        report.error_in_file(
            name,
            format!("it would be larger than {most} MiB in canonical layout"),
        );
    }
    report.finish(layout).map(|(layout, _)| layout)
}

/// `None` when the layout of a text that is TOML is too large for a policy: deep nesting is indented.
fn lay_out(text: &str) -> Option<String> {
    // A mark of byte order is no part of the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = Source::new(text);
    let tokens = source.lex().into_vec();
    let mut events: Vec<Event> = Vec::with_capacity(tokens.len());
    // There are none: it was parsed before, with a bound on its depth.
    let mut errors: Option<ParseError> = None;
    parse_document(&tokens, &mut events, &mut errors);
    let broken = broken_containers(&events);
    let mut layout = Layout::new(text.len());
    for (index, event) in events.iter().enumerate() {
        let span = event.span();
        let word = text.get(span.start()..span.end()).unwrap_or("");
        layout.event(event.kind(), word, broken.get(index) == Some(&true));
        if layout.out.len() as u64 > MAX_FILE_BYTES {
            return None;
        }
    }
    Some(layout.finish())
}

/// For the index of each array or inline table that opens: whether a line breaks in it, outside what it contains.
fn broken_containers(events: &[Event]) -> Vec<bool> {
    let mut broken = vec![false; events.len()];
    let mut open: Vec<Container> = Vec::new();
    for (index, event) in events.iter().enumerate() {
        match event.kind() {
            EventKind::ArrayOpen | EventKind::InlineTableOpen => {
                if let Some(outer) = open.last_mut() {
                    outer.empty = false;
                }
                open.push(Container {
                    index,
                    empty: true,
                    newline: false,
                    comment: false,
                });
            }
            EventKind::ArrayClose | EventKind::InlineTableClose => {
                if let Some(container) = open.pop() {
                    broken[container.index] = container.comment || (container.newline && !container.empty);
                }
            }
            EventKind::Newline => open
                .iter_mut()
                .next_back()
                .into_iter()
                .for_each(|inner| inner.newline = true),
            EventKind::Comment => open
                .iter_mut()
                .next_back()
                .into_iter()
                .for_each(|inner| inner.comment = true),
            EventKind::Whitespace => {}
            _ => {
                if let Some(inner) = open.last_mut() {
                    inner.empty = false;
                }
            }
        }
    }
    broken
}

struct Container {
    index: usize,
    empty: bool,
    newline: bool,
    comment: bool,
}

/// An array or inline table being written.
struct Frame {
    broken: bool,
    /// What was last written in it, comments apart.
    last: Last,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    Value,
    Comma,
}

struct Layout {
    out: String,
    open: Vec<Frame>,
    /// Line breaks since the last word.
    newlines: usize,
    /// Whether a broken container was just opened: the next word starts a line.
    opened: bool,
    /// Whether the next word stays away from the one before.
    space: bool,
    /// Where the last value ends, which a comma follows.
    value_end: usize,
}

impl Layout {
    fn new(length: usize) -> Self {
        Self {
            out: String::with_capacity(length + length / 8),
            open: Vec::new(),
            newlines: 0,
            opened: false,
            space: false,
            value_end: 0,
        }
    }

    fn event(&mut self, kind: EventKind, word: &str, broken: bool) {
        match kind {
            EventKind::Whitespace | EventKind::Error => {}
            EventKind::Newline => self.newlines += 1,
            EventKind::Comment => self.comment(word.trim_end()),
            EventKind::StdTableOpen | EventKind::ArrayTableOpen => {
                self.word(word);
                self.space = false;
            }
            EventKind::KeySep => {
                self.out.push_str(word);
                self.space = false;
            }
            EventKind::StdTableClose | EventKind::ArrayTableClose => self.out.push_str(word),
            EventKind::SimpleKey => self.word(word),
            EventKind::KeyValSep => {
                self.space = true;
                self.word(word);
            }
            EventKind::Scalar => {
                self.word(word);
                self.end_value();
            }
            EventKind::ValueSep => self.comma(),
            EventKind::ArrayOpen => self.open(word, broken, false),
            EventKind::InlineTableOpen => self.open(word, broken, true),
            EventKind::ArrayClose => self.close(word, false),
            EventKind::InlineTableClose => self.close(word, true),
        }
    }

    /// A word, on a line of its own when there was a line break before.
    fn word(&mut self, word: &str) {
        self.separate();
        self.out.push_str(word);
        self.space = true;
    }

    fn separate(&mut self) {
        if self.opened || self.newlines > 0 {
            let lines = match (self.out.is_empty(), self.opened) {
                (true, _) => 0,
                (false, true) => 1,
                (false, false) => self.newlines.min(2),
            };
            (0..lines).for_each(|_| self.out.push('\n'));
            let depth = self.open.iter().filter(|frame| frame.broken).count();
            (0..depth).for_each(|_| self.out.push_str(INDENT));
        } else if self.space {
            self.out.push(' ');
        }
        self.opened = false;
        self.newlines = 0;
    }

    /// A comment stays on its line; the line break that ends it is among the events.
    fn comment(&mut self, word: &str) {
        if self.newlines == 0 && !self.out.is_empty() {
            self.out.push(' ');
        } else {
            self.separate();
        }
        self.out.push_str(word);
    }

    fn open(&mut self, sign: &str, broken: bool, space: bool) {
        self.word(sign);
        self.open.push(Frame {
            broken,
            last: Last::Nothing,
        });
        self.space = space;
        self.opened = broken;
    }

    fn close(&mut self, sign: &str, space: bool) {
        let Some(frame) = self.open.pop() else {
            return;
        };
        if frame.broken {
            if frame.last == Last::Value {
                self.out.insert(self.value_end, ',');
            }
            self.newlines = 1;
        } else {
            if frame.last == Last::Comma {
                self.out.pop();
            }
            self.newlines = 0;
            self.space = space && frame.last != Last::Nothing;
        }
        self.opened = false;
        self.word(sign);
        self.end_value();
    }

    fn end_value(&mut self) {
        self.value_end = self.out.len();
        if let Some(frame) = self.open.last_mut() {
            frame.last = Last::Value;
        }
    }

    /// Right behind its value, even when comments stand between the two.
    fn comma(&mut self) {
        self.out.insert(self.value_end, ',');
        if let Some(frame) = self.open.last_mut() {
            frame.last = Last::Comma;
        }
    }

    fn finish(mut self) -> String {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::canonical_layout;
    use proptest::prelude::*;
    use toml::de::DeTable;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let layout = canonical_layout(text, "p").unwrap();
        assert_eq!(layout, expected);
        assert_eq!(canonical_layout(&layout, "p").unwrap(), layout, "again");
    }

    #[test]
    fn spaces_are_canonical() {
        check("", "");
        check("\n \n\n", "");
        check("a=1", "a = 1\n");
        check(
            "  a\t =   1   # why   \r\n\r\n\r\n\r\nb=2",
            "a = 1 # why\n\nb = 2\n",
        );
        check("[ a . b ]# c\n[[c]]\n", "[a.b] # c\n[[c]]\n");
        check("a . \"b c\" = 'x'", "a.\"b c\" = 'x'\n");
        check("a=[1,2 ,3,]\nb=[ ]\nc={}", "a = [1, 2, 3]\nb = []\nc = {}\n");
        check(
            "a={b=1,c={d=[{e=2}]}}",
            "a = { b = 1, c = { d = [{ e = 2 }] } }\n",
        );
        check("a = [\n]", "a = []\n");
        check("\n# top\n\n\n# next\na = 1\n\n", "# top\n\n# next\na = 1\n");
        check(
            "a = \"\"\"\n  x  \n\n\n y\"\"\"",
            "a = \"\"\"\n  x  \n\n\n y\"\"\"\n",
        );
        check("\u{feff}a=1", "a = 1\n");
    }

    #[test]
    fn broken_arrays_keep_their_lines_and_comments() {
        check(
            "a = [ # first\n\n  1, 2\n # own\n\n\n  ,3 # three\n  # end\n\n ]",
            "a = [ # first\n    1, 2,\n    # own\n\n    3, # three\n    # end\n]\n",
        );
        check("a = [ # nothing\n]", "a = [ # nothing\n]\n");
        check(
            "a = [\n[\n1],[2\n]]",
            "a = [\n    [\n        1,\n    ], [\n        2,\n    ],\n]\n",
        );
        check("a = [{ b = [\n1] }]", "a = [{ b = [\n    1,\n] }]\n");
        check(
            "a = {\nb = 1, # one\nc = 2 }",
            "a = {\n    b = 1, # one\n    c = 2,\n}\n",
        );
    }

    #[test]
    fn what_is_not_toml_is_refused() {
        let text = canonical_layout("a = 1\nb = [", "p.toml")
            .unwrap_err()
            .to_string();
        assert!(text.starts_with("p.toml:2:6: not TOML"), "{text}");
        assert!(canonical_layout("a = 1\na = 2", "p").is_err(), "a key twice");
        assert!(canonical_layout(&format!("a = {}{}", "[".repeat(500), "]".repeat(500)), "p").is_err());
        assert!(canonical_layout("a = \0", "p").is_err());
        // Every line is indented by 240 spaces.
        let deep = format!(
            "a = {}{}{}",
            "[\n".repeat(60),
            "1,\n".repeat(300_000),
            "]\n".repeat(60)
        );
        let text = canonical_layout(&deep, "p").unwrap_err().to_string();
        assert_eq!(text, "p: it would be larger than 64 MiB in canonical layout");
        // Not read as a policy, and what it includes is not read at all.
        assert!(canonical_layout("include = [\"none.toml\"]\ncolour = 1", "p").is_ok());
    }

    /// TOML values, in any layout.
    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("1".to_owned()),
            Just("\"a # b\"".to_owned()),
            Just("'[,]'".to_owned()),
            Just("true".to_owned()),
            Just("\"\"\"\n a,\n\"\"\"".to_owned()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let array = (
                proptest::collection::vec((gap(), inner.clone(), gap()), 0..4),
                any::<bool>(),
                gap(),
            );
            let table = (proptest::collection::vec((gap(), inner, gap()), 0..4), gap());
            prop_oneof![
                array.prop_map(|(elements, comma, end)| {
                    let comma = if comma && !elements.is_empty() { "," } else { "" };
                    let elements: Vec<_> = elements
                        .into_iter()
                        .map(|(a, b, c)| format!("{a}{b}{c}"))
                        .collect();
                    format!("[{}{comma}{end}]", elements.join(","))
                }),
                table.prop_map(|(entries, end)| {
                    let entries = entries.into_iter().enumerate();
                    let entries: Vec<_> = entries
                        .map(|(n, (a, b, c))| format!("{a}k{n}.x= {b}{c}"))
                        .collect();
                    format!("{{{}{end}}}", entries.join(","))
                }),
            ]
        })
    }

    /// White space, line breaks and comments.
    fn gap() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof![
                Just(" "),
                Just("\t"),
                Just("\n"),
                Just("\r\n"),
                Just("#, ]} \n"),
                Just("")
            ],
            0..3,
        )
        .prop_map(|pieces| pieces.concat())
    }

    /// Everything but white space and commas before a closing bracket.
    fn words(text: &str) -> String {
        let words: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        words.replace(',', "")
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn layout_changes_no_word_and_is_stable(
            lines in proptest::collection::vec((gap(), value(), "[ \t]{0,2}(#[ a-z\\]]{0,5})?"), 0..6),
        ) {
            let mut text = String::new();
            for (index, (gap, value, end)) in lines.iter().enumerate() {
                let header = if index % 3 == 2 { format!("[ t{index} ]\n") } else { String::new() };
                text.push_str(&format!("{gap}\n{header}key{index}\t={value}{end}\n"));
            }
            let layout = canonical_layout(&text, "p").unwrap();
            prop_assert_eq!(&canonical_layout(&layout, "p").unwrap(), &layout, "again, of {:?}", text);
            prop_assert_eq!(words(&layout), words(&text));
            let plain = |text: &str| format!("{:?}", toml::from_str::<toml::Table>(text).unwrap());
            prop_assert_eq!(plain(&layout), plain(&text));
            prop_assert!(layout.lines().all(|line| line.trim_end() == line || text.contains("\"\"\"")));
            prop_assert!(!layout.contains("\n\n\n"));
        }

        #[test]
        fn bytes_never_panic(text in "[\\[\\]{}=\"'a.,#\n\r 1\u{feff}\u{0}]{0,60}") {
            if let Ok(layout) = canonical_layout(&text, "p") {
                prop_assert_eq!(canonical_layout(&layout, "p").unwrap(), layout);
            } else {
                prop_assert!(text.contains('\0') || DeTable::parse(&text).is_err());
            }
        }
    }
}
