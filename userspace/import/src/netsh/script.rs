//! A script as statements: continued lines joined, quotes and redirections understood, what is not netsh left out.

use crate::findings::{Findings, quote};
use crate::source::Source;

/// Longest statement in bytes, continued lines included.
const MAX_STATEMENT: usize = 256 << 10;

/// Commands of a batch file that configure nothing.
const HARMLESS: &[&str] = &[
    "echo", "rem", "cls", "pause", "exit", "setlocal", "endlocal", "title", "color", "bye", "quit", "goto",
];

/// One netsh command.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) line: u32,
    /// Without `netsh`; quotes are taken away.
    pub(super) words: Vec<String>,
}

/// The netsh commands of a script, its context (`pushd ipsec static`) put in front of each.
pub(super) fn statements(source: &Source, findings: &mut Findings) -> Vec<Statement> {
    let mut script = Script::default();
    let mut pending: Option<(u32, String)> = None;
    let mut last = 0;
    for (line, text) in source.lines(findings) {
        last = line;
        let (first, mut statement) = pending.take().unwrap_or((line, String::new()));
        if let Some(start) = continued(text) {
            statement.push_str(start);
            if statement.len() > MAX_STATEMENT {
                findings.error(
                    first,
                    format!("the continued line is longer than {MAX_STATEMENT} bytes"),
                );
                return script.statements;
            }
            pending = Some((first, statement));
            continue;
        }
        statement.push_str(text);
        script.take(first, &statement, findings);
    }
    if let Some((first, statement)) = pending {
        findings.error(last, "the last line ends with `^`, but nothing follows");
        script.take(first, &statement, findings);
    }
    script.statements
}

/// The line without its `^` when the next line continues it.
fn continued(text: &str) -> Option<&str> {
    let start = text.trim_end().strip_suffix('^')?;
    // An even number of them is an escaped `^`; a comment is not continued.
    let carets = start.len() - start.trim_end_matches('^').len();
    (carets % 2 == 0 && !is_comment(text)).then_some(start)
}

fn is_comment(text: &str) -> bool {
    let text = text.trim_start().trim_start_matches('@');
    text.starts_with("::")
        || text.starts_with('#')
        || (text.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("rem"))
            && !text[3..].starts_with(|c: char| c.is_alphanumeric()))
}

#[derive(Debug, Default)]
struct Script {
    statements: Vec<Statement>,
    context: Vec<String>,
    /// What `popd` goes back to.
    contexts: Vec<Vec<String>>,
}

impl Script {
    fn take(&mut self, line: u32, text: &str, findings: &mut Findings) {
        if is_comment(text) || text.trim_start().starts_with(':') {
            return;
        }
        match split(text) {
            Ok(commands) => {
                for words in commands {
                    self.command(line, words, findings);
                }
            }
            Err(message) => findings.error(line, message),
        }
    }

    fn command(&mut self, line: u32, mut words: Vec<String>, findings: &mut Findings) {
        if let Some(first) = words.first_mut() {
            let plain = first.trim_start_matches('@').to_owned();
            *first = plain;
        }
        words.retain(|word| !word.is_empty());
        let Some(first) = words.first() else { return };
        let lower = first.to_ascii_lowercase();
        let program = lower.rsplit(['\\', '/']).next().unwrap_or("");
        if matches!(program, "netsh" | "netsh.exe") {
            words.remove(0);
            // `-c ipsec static` names the context; nothing else of netsh's options changes what a command means.
            if words.first().is_some_and(|word| word.eq_ignore_ascii_case("-c")) {
                words.remove(0);
            }
            if words.first().is_some_and(|word| word.starts_with('-')) {
                findings.loss(line, "netsh options (a remote machine, or a script in another file) are not followed; the line was left out");
                return;
            }
            self.statement(line, words, findings);
            return;
        }
        match lower.as_str() {
            "pushd" => {
                self.contexts.push(std::mem::take(&mut self.context));
                self.contexts.truncate(64);
                self.context = words.split_off(1);
            }
            "popd" => self.context = self.contexts.pop().unwrap_or_default(),
            ".." => {
                self.context.pop();
            }
            _ if HARMLESS
                .iter()
                .any(|word| lower == *word || lower.starts_with(&format!("{word}."))) => {}
            _ if is_context(&lower) || !self.context.is_empty() => self.statement(line, words, findings),
            _ => findings.loss(
                line,
                format!(
                    "{} is no command of netsh ipsec; the line was left out",
                    quote_key(first)
                ),
            ),
        }
    }

    fn statement(&mut self, line: u32, words: Vec<String>, findings: &mut Findings) {
        let full = if words
            .first()
            .is_some_and(|word| is_context(&word.to_ascii_lowercase()))
        {
            words
        } else {
            [self.context.clone(), words].concat()
        };
        let Some(first) = full.first() else { return };
        if !is_context(&first.to_ascii_lowercase()) {
            let message = format!(
                "netsh {} is not netsh ipsec; the line was left out",
                quote_key(first)
            );
            findings.loss(line, message);
            return;
        }
        let mode = full
            .get(1)
            .map_or("static".to_owned(), |word| word.to_ascii_lowercase());
        if full.len() <= 2 && ["static", "dynamic"].iter().any(|known| known.starts_with(&mode)) {
            self.context = full;
            return;
        }
        if full.iter().any(|word| is_variable(word)) {
            findings.error(
                line,
                "a variable of the shell stands in this line; write its value, for each value it takes",
            );
            return;
        }
        self.statements.push(Statement {
            line,
            words: full.into_iter().skip(1).collect(),
        });
    }
}

/// A word, without the value that it may give: a line broken in two may start with a preshared key.
fn quote_key(word: &str) -> String {
    quote(word.split('=').next().unwrap_or(""))
}

/// Whether a word in lower case is `ipsec` or a prefix of it that no other context of netsh has.
fn is_context(word: &str) -> bool {
    word.len() >= 3 && "ipsec".starts_with(word)
}

/// Whether `%NAME%`, `%1` or `%%i` stands in a word.
fn is_variable(word: &str) -> bool {
    word.split_once('%')
        .is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '%'))
}

/// The commands of one line (`&` stands between two), in words. A `"` begins or ends a part in which nothing else
/// is special; `^` takes the meaning of the character after it; from `>` on, output goes elsewhere.
fn split(text: &str) -> Result<Vec<Vec<String>>, String> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut in_word, mut in_quotes, mut redirected) = (String::new(), false, false, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if in_quotes {
            match c {
                '"' => in_quotes = false,
                // In rootca, an embedded quotation mark is written so.
                '\\' if chars.peek() == Some(&'\'') => {
                    chars.next();
                    word.push('\'');
                }
                c => word.push(c),
            }
            continue;
        }
        let end = c.is_whitespace() || matches!(c, '&' | '>' | '|');
        if end && in_word {
            // `2>` names the stream, not an argument.
            let stream = c == '>' && matches!(word.as_str(), "1" | "2");
            if !stream
                && !redirected
                && let Some(command) = commands.last_mut()
            {
                command.push(std::mem::take(&mut word));
            }
            // The word after `>` is a file.
            redirected = false;
            word.clear();
            in_word = false;
        }
        match c {
            '&' if redirected => {}
            '&' => commands.push(Vec::new()),
            '>' => redirected = true,
            '|' => return Err("a pipe; only plain commands can be read".to_owned()),
            '"' => (in_quotes, in_word) = (true, true),
            '^' => {
                if let Some(escaped) = chars.next() {
                    word.push(escaped);
                    in_word = true;
                }
            }
            c if c.is_whitespace() => {}
            c => {
                word.push(c);
                in_word = true;
            }
        }
    }
    if in_quotes {
        return Err("a quotation mark is not closed".to_owned());
    }
    if in_word
        && !redirected
        && let Some(command) = commands.last_mut()
    {
        command.push(word);
    }
    commands.retain(|command| !command.is_empty());
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_are_split_as_a_shell_of_windows_does() {
        let split = |text| {
            split(text).map(|commands| commands.iter().map(|words| words.join("|")).collect::<Vec<_>>())
        };
        assert_eq!(split("a name=\"b c\" d"), Ok(vec!["a|name=b c|d".to_owned()]));
        assert_eq!(split("a > nul"), Ok(vec!["a".to_owned()]));
        assert_eq!(split("a b=c >nul 2>&1"), Ok(vec!["a|b=c".to_owned()]));
        assert_eq!(
            split("a && b & c"),
            Ok(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()])
        );
        assert_eq!(split("a \"\""), Ok(vec!["a|".to_owned()]));
        assert_eq!(split("a^ b"), Ok(vec!["a b".to_owned()]));
        assert!(split("a \"b").is_err() && split("a | b").is_err());
    }
}
