//! Typed access to a parsed TOML tree: every complaint goes to the report with its place, and reading goes on.

use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Report, Span, quote};
use crate::schema::{Key, Kind, Literal, Need, TableSpec};

/// A value and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    value: &'a DeValue<'a>,
    span: Span,
}

impl<'a> Node<'a> {
    pub(crate) fn new(value: &'a toml::Spanned<DeValue<'a>>, file: u16) -> Self {
        Self {
            value: value.get_ref(),
            span: Span::new(file, value.span()),
        }
    }

    pub(crate) fn span(&self) -> Span {
        self.span
    }

    /// The string, when it is one.
    pub(crate) fn as_string(&self) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text.as_ref()),
            _ => None,
        }
    }

    /// The integer, when it is one that fits.
    pub(crate) fn as_integer(&self) -> Option<i64> {
        match self.value {
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok(),
            _ => None,
        }
    }

    /// The elements, when it is an array.
    pub(crate) fn as_array(&self) -> Option<impl ExactSizeIterator<Item = Node<'a>> + use<'a>> {
        match self.value {
            DeValue::Array(array) => {
                let file = self.span.file();
                Some(array.iter().map(move |value| Node::new(value, file)))
            }
            _ => None,
        }
    }

    pub(crate) fn string(&self, report: &mut Report<'_>) -> Option<&'a str> {
        let text = self.as_string();
        if text.is_none() {
            self.wrong_type(report, "a string in quotes");
        }
        text
    }

    pub(crate) fn boolean(&self, report: &mut Report<'_>) -> Option<bool> {
        if let DeValue::Boolean(value) = self.value {
            return Some(*value);
        }
        self.wrong_type(report, "true or false");
        None
    }

    /// An integer from `min` to `max`, both included.
    pub(crate) fn integer(&self, report: &mut Report<'_>, min: i64, max: i64) -> Option<i64> {
        match self.as_integer() {
            Some(value) if (min..=max).contains(&value) => Some(value),
            _ => {
                self.wrong_type(report, &format!("a whole number from {min} to {max}"));
                None
            }
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, report: &mut Report<'_>, choices: &[(&str, T)]) -> Option<T> {
        let words = || {
            choices
                .iter()
                .map(|(word, _)| format!("\"{word}\""))
                .collect::<Vec<_>>()
                .join(" or ")
        };
        let Some(text) = self.as_string() else {
            self.wrong_type(report, &words());
            return None;
        };
        let found = choices
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, choice)| *choice);
        if found.is_none() {
            report.error(
                &self.span(),
                format!("{} is not known here; write {}", quote(text), words()),
            );
        }
        found
    }

    /// A table as `spec` describes it; any other key is reported.
    pub(crate) fn table(&self, report: &mut Report<'_>, spec: &'static TableSpec) -> Option<Table<'a>> {
        if let DeValue::Table(entries) = self.value {
            return Some(Table::new(report, entries, self.span, spec));
        }
        self.wrong_type(report, &format!("a table ({})", spec.what));
        None
    }

    /// The entries of a table whose keys are names of the user's choice; `what` names them in messages.
    pub(crate) fn entries(&self, report: &mut Report<'_>, what: &str) -> Option<Vec<Entry<'a>>> {
        let DeValue::Table(entries) = self.value else {
            self.wrong_type(report, &format!("a table ({what})"));
            return None;
        };
        let file = self.span.file();
        let entries = entries.iter().map(|(key, value)| Entry {
            name: key.get_ref().as_ref(),
            key: Span::new(file, key.span()),
            value: Node::new(value, file),
        });
        Some(entries.collect())
    }

    pub(crate) fn array(
        &self,
        report: &mut Report<'_>,
        of: &str,
    ) -> Option<impl ExactSizeIterator<Item = Node<'a>> + use<'a>> {
        let elements = self.as_array();
        if elements.is_none() {
            self.wrong_type(report, &format!("an array of {of}"));
        }
        elements
    }

    /// Says what was expected in place of this value.
    pub(crate) fn wrong_type(&self, report: &mut Report<'_>, expected: &str) {
        let found = match self.value {
            DeValue::Table(_) => "a table".to_owned(),
            DeValue::Array(_) => "an array".to_owned(),
            _ => report.quote(&self.span()),
        };
        report.error(&self.span(), format!("expected {expected}, found {found}"));
    }
}

/// A value with a name of the user's choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    /// Where the name stands.
    pub(crate) key: Span,
    pub(crate) value: Node<'a>,
}

/// A table with a fixed set of keys.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    entries: &'a DeTable<'a>,
    span: Span,
    spec: &'static TableSpec,
}

impl<'a> Table<'a> {
    /// Reports keys that `spec` does not have, and those that need another key.
    pub(crate) fn new(
        report: &mut Report<'_>,
        entries: &'a DeTable<'a>,
        span: Span,
        spec: &'static TableSpec,
    ) -> Self {
        let table = Self { entries, span, spec };
        for (key, value) in entries {
            let name = key.get_ref().as_ref();
            let Some(known) = spec.key(name) else {
                report_unknown(report, &Span::new(span.file(), key.span()), name, spec);
                continue;
            };
            if let Some((other, wanted)) = known.only_with
                && table.differs(other, wanted)
            {
                let span = Span::new(span.file(), value.span());
                report.error(&span, format!("{name} is only for {other} = {wanted}; remove it"));
            }
        }
        table
    }

    /// Whether a key has another value than `wanted`; not when its value is none that it can have.
    fn differs(&self, key: &str, wanted: Literal) -> bool {
        let Some(node) = self.optional(key) else {
            let need = &self.known(key).need;
            return *need != Need::Required && *need != Need::Default(wanted);
        };
        match (wanted, node.value) {
            (Literal::Boolean(wanted), DeValue::Boolean(value)) => *value != wanted,
            (Literal::Integer(wanted), DeValue::Integer(_)) => node.as_integer() != Some(wanted),
            (Literal::Word(wanted), DeValue::String(word)) => {
                let known =
                    matches!(self.known(key).kind, Kind::Choice(words) if words.contains(&word.as_ref()));
                known && word != wanted
            }
            _ => false,
        }
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    pub(crate) fn optional(&self, key: &str) -> Option<Node<'a>> {
        debug_assert!(self.spec.key(key).is_some(), "{key} is not described");
        let file = self.span.file();
        self.entries.get(key).map(|value| Node::new(value, file))
    }

    pub(crate) fn required(&self, report: &mut Report<'_>, key: &str) -> Option<Node<'a>> {
        let node = self.optional(key);
        if node.is_none() {
            report.error(&self.span, format!("{} needs the key `{key}`", self.spec.what));
        }
        node
    }

    /// `default` when the key is absent, `None` when it is there but wrong (and reported by `read`).
    pub(crate) fn or_default<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(Node<'a>) -> Option<T>,
    ) -> Option<T> {
        self.optional(key).map_or(Some(default), read)
    }

    /// `None` when it is there but wrong, which has been reported.
    pub(crate) fn boolean(&self, report: &mut Report<'_>, key: &str) -> Option<bool> {
        match self.optional(key) {
            Some(node) => node.boolean(report),
            None => Some(self.known(key).need == Need::Default(Literal::Boolean(true))),
        }
    }

    /// A whole number within its bounds; `None` when it is there but wrong, which has been reported, `Some(None)`
    /// when it is absent and has no default.
    pub(crate) fn integer<T: TryFrom<i64>>(&self, report: &mut Report<'_>, key: &str) -> Option<Option<T>> {
        let known = self.known(key);
        let value = match (self.optional(key), &known.need) {
            (Some(node), _) => {
                let (min, max, step) = known.kind.bounds();
                let value = node.integer(report, min, max)?;
                if value % step != 0 {
                    let near = (value + step / 2) / step * step;
                    report.error(
                        &node.span(),
                        format!("{key} is a multiple of {step}, for instance {near}"),
                    );
                    return None;
                }
                value
            }
            (None, Need::Default(Literal::Integer(default))) => *default,
            (None, _) => return Some(None),
        };
        let value = T::try_from(value).ok();
        debug_assert!(value.is_some(), "{key} has bounds that its type has not");
        value.map(Some)
    }

    /// A whole number within its bounds, made into what it means, or one of `words`; `None` when it is wrong, which has been
    /// reported.
    pub(crate) fn word_or_integer<N: TryFrom<i64>, T: Copy>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        words: &[(&str, T)],
        integer: impl FnOnce(N) -> T,
    ) -> Option<T> {
        let known = self.known(key);
        debug_assert!(
            matches!(known.kind, Kind::WordOr(known, ..) if known.iter().eq(words.iter().map(|(word, _)| word))),
            "{key} is described with other words"
        );
        let meaning = |word: &str| {
            words
                .iter()
                .find(|(known, _)| *known == word)
                .map(|(_, meaning)| *meaning)
        };
        let Some(node) = self.optional(key) else {
            return match known.need {
                Need::Default(Literal::Word(word)) => meaning(word),
                _ => None,
            };
        };
        if let Some(meaning) = node.as_string().and_then(meaning) {
            return Some(meaning);
        }
        let (min, max, _) = known.kind.bounds();
        let value = node.as_integer().filter(|value| (min..=max).contains(value));
        let meaning = value.and_then(|value| N::try_from(value).ok()).map(integer);
        if meaning.is_none() {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let words = words.join(" or ");
            node.wrong_type(report, &format!("{words} or a whole number from {min} to {max}"));
        }
        meaning
    }

    /// One of `choices`; `None` when it is wrong or absent without a default, which has been reported.
    pub(crate) fn choice<T: Copy>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let known = self.known(key);
        debug_assert!(
            matches!(known.kind, Kind::Choice(words) if words.iter().eq(choices.iter().map(|(word, _)| word))),
            "{key} is described with other words"
        );
        if let (None, Need::Default(Literal::Word(default))) = (self.optional(key), &known.need) {
            let default = choices.iter().find(|(word, _)| word == default);
            return default.map(|(_, choice)| *choice);
        }
        self.required(report, key)?.choice(report, choices)
    }

    fn known(&self, key: &str) -> &'static Key {
        static UNKNOWN: Key = Key::optional("", Kind::Boolean, "");
        let known = self.spec.key(key);
        debug_assert!(known.is_some(), "{key} is not described");
        known.unwrap_or(&UNKNOWN)
    }
}

fn report_unknown(report: &mut Report<'_>, span: &Span, name: &str, spec: &'static TableSpec) {
    if report.only_counts() {
        report.error(span, "");
        return;
    }
    let known: Vec<&str> = spec.keys.iter().map(|key| key.name).collect();
    let hint = match closest(name, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known are {}", known.join(", ")),
    };
    report.error(
        span,
        format!("unknown key {} in {}; {hint}", quote(name), spec.what),
    );
}

/// The known word a typing mistake away from `word`.
pub(crate) fn closest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let (near, distance) = known
        .iter()
        .map(|candidate| (*candidate, distance(word, candidate)))
        .min_by_key(|(_, d)| *d)?;
    (distance <= 1 + near.len() / 4).then_some(near)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn typing_mistakes_find_their_word() {
        let known = ["filter-list", "action", "connection"];
        assert_eq!(closest("filter_list", &known), Some("filter-list"));
        assert_eq!(closest("actoin", &known), Some("action"));
        assert_eq!(closest("colour", &known), None);
    }
}
