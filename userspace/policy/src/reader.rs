//! Typed access to a parsed TOML tree: every complaint goes to the report with its place, and reading goes on.

use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Report, Span, quote};

/// A value and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    value: &'a DeValue<'a>,
    start: usize,
    end: usize,
}

impl<'a> Node<'a> {
    pub(crate) fn new(value: &'a toml::Spanned<DeValue<'a>>) -> Self {
        let span = value.span();
        Self {
            value: value.get_ref(),
            start: span.start,
            end: span.end,
        }
    }

    pub(crate) fn span(&self) -> Span {
        self.start..self.end
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
            DeValue::Array(array) => Some(array.iter().map(Node::new)),
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

    /// A table whose keys are `known`; any other key is reported. `what` names the table in messages.
    pub(crate) fn table(
        &self,
        report: &mut Report<'_>,
        what: &'static str,
        known: &[&str],
    ) -> Option<Table<'a>> {
        let entries = self.entries(report, what)?;
        Some(Table::new(report, entries, self.span(), what, known))
    }

    /// The entries of a table whose keys are names of the user's choice.
    pub(crate) fn entries(&self, report: &mut Report<'_>, what: &str) -> Option<&'a DeTable<'a>> {
        if let DeValue::Table(entries) = self.value {
            return Some(entries);
        }
        self.wrong_type(report, &format!("a table ({what})"));
        None
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

/// A table with a fixed set of keys.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    entries: &'a DeTable<'a>,
    span: Span,
    what: &'static str,
}

impl<'a> Table<'a> {
    pub(crate) fn new(
        report: &mut Report<'_>,
        entries: &'a DeTable<'a>,
        span: Span,
        what: &'static str,
        known: &[&str],
    ) -> Self {
        for key in entries.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            if report.only_counts() {
                report.error(&key.span(), "");
            } else {
                let hint = match closest(name, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known are {}", known.join(", ")),
                };
                report.error(
                    &key.span(),
                    format!("unknown key {} in {what}; {hint}", quote(name)),
                );
            }
        }
        Self { entries, span, what }
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn optional(&self, key: &str) -> Option<Node<'a>> {
        self.entries.get(key).map(Node::new)
    }

    pub(crate) fn required(&self, report: &mut Report<'_>, key: &str) -> Option<Node<'a>> {
        let node = self.optional(key);
        if node.is_none() {
            report.error(&self.span, format!("{} needs the key `{key}`", self.what));
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
