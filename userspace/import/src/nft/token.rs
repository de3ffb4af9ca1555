//! The words of a rule set.

/// Longest word in bytes.
const MAX_WORD: usize = 4_096;

/// A word or sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'t> {
    Word(&'t str),
    /// What stands between quotation marks.
    Text(&'t str),
    /// One of `{ } , ; = ! < > ( )`.
    Sign(char),
    /// The end of a line.
    End,
}

/// The tokens of a text, each with its line.
#[derive(Clone, Debug)]
pub(super) struct Tokens<'t> {
    rest: &'t str,
    line: u32,
    ahead: Option<(Token<'t>, u32)>,
}

const SIGNS: &[char] = &['{', '}', ',', ';', '=', '!', '<', '>', '(', ')'];

impl<'t> Tokens<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            rest: text,
            line: 1,
            ahead: None,
        }
    }

    /// Whether both are at the same place.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        self.rest.len() == other.rest.len() && self.ahead.is_some() == other.ahead.is_some()
    }

    /// The line of the next token.
    pub(super) fn line(&mut self) -> u32 {
        self.peek();
        self.ahead.map_or(self.line, |(_, line)| line)
    }

    pub(super) fn peek(&mut self) -> Option<Token<'t>> {
        if self.ahead.is_none() {
            self.ahead = self.read();
        }
        self.ahead.map(|(token, _)| token)
    }

    pub(super) fn next(&mut self) -> Option<Token<'t>> {
        let token = self.peek();
        self.ahead = None;
        token
    }

    /// The next token that is not the end of a line.
    pub(super) fn next_in_braces(&mut self) -> Option<Token<'t>> {
        self.skip_ends();
        self.next()
    }

    pub(super) fn skip_ends(&mut self) {
        while self.peek() == Some(Token::End) {
            self.next();
        }
    }

    /// Takes the next token if it is this sign.
    pub(super) fn take(&mut self, sign: char) -> bool {
        let found = self.peek() == Some(Token::Sign(sign));
        if found {
            self.next();
        }
        found
    }

    /// Takes the next token if it is this word.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(Token::Word(word));
        if found {
            self.next();
        }
        found
    }

    /// The next word, if it is one.
    pub(super) fn word(&mut self) -> Option<&'t str> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.next();
                Some(word)
            }
            _ => None,
        }
    }

    /// Skips to behind the `}` that closes a `{` already taken.
    pub(super) fn skip_block(&mut self) {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.next() {
                Some(Token::Sign('{')) => depth += 1,
                Some(Token::Sign('}')) => depth -= 1,
                None => return,
                _ => {}
            }
        }
    }

    fn read(&mut self) -> Option<(Token<'t>, u32)> {
        loop {
            let text = self.rest.trim_start_matches([' ', '\t', '\r']);
            let line = self.line;
            let first = text.chars().next()?;
            if first == '\n' {
                self.rest = &text[1..];
                self.line = self.line.saturating_add(1);
                return Some((Token::End, line));
            }
            if first == '#' {
                self.rest = &text[text.find('\n').unwrap_or(text.len())..];
                continue;
            }
            // A line continued on the next.
            if let Some(rest) = text.strip_prefix("\\\n") {
                self.rest = rest;
                self.line = self.line.saturating_add(1);
                continue;
            }
            if first == '"' {
                let end = text[1..].find(['"', '\n']).map_or(text.len(), |end| end + 1);
                let quoted = &text[1..end];
                self.rest = text[end..].strip_prefix('"').unwrap_or(&text[end..]);
                return Some((Token::Text(quoted), line));
            }
            if SIGNS.contains(&first) {
                self.rest = &text[1..];
                return Some((Token::Sign(first), line));
            }
            let end = text
                .find(|c: char| c.is_ascii_whitespace() || SIGNS.contains(&c) || c == '"')
                .unwrap_or(text.len());
            let mut cut = end.min(MAX_WORD);
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            self.rest = &text[end..];
            return Some((Token::Word(&text[..cut]), line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Token::{End, Sign, Text, Word};
    use super::Tokens;

    #[test]
    fn words_signs_and_texts_are_told_apart() {
        let mut tokens = Tokens::new("ip saddr != { 10.0.0.0/8, ::1 } # no\ncomment \"a b\" \\\n;");
        let mut found = Vec::new();
        while let Some(token) = tokens.next() {
            found.push(token);
        }
        let expected = [
            Word("ip"),
            Word("saddr"),
            Sign('!'),
            Sign('='),
            Sign('{'),
            Word("10.0.0.0/8"),
            Sign(','),
            Word("::1"),
            Sign('}'),
            End,
            Word("comment"),
            Text("a b"),
            Sign(';'),
        ];
        assert_eq!(found, expected);
        assert_eq!(tokens.line(), 3);
    }
}
