//! A policy in the making, and how it is written down.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::imported::comment;

/// Longest name the policy language takes, in characters.
const MAX_NAME: usize = 64;

/// Addresses in one line of an array.
const PER_LINE: usize = 8;

/// Where the SPIs of connections without keys start; the policy language wants them unique.
const FIRST_OUTBOUND_SPI: usize = 0x1001;
const FIRST_INBOUND_SPI: usize = 0x2_1001;

/// The parts of a policy, in the order in which they are written.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    /// Keys of the top level with their values, as TOML.
    pub(crate) settings: Vec<(&'static str, String)>,
    pub(crate) lists: Vec<List>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) connections: Vec<Connection>,
}

#[derive(Debug)]
pub(crate) struct List {
    pub(crate) name: String,
    pub(crate) comment: String,
    pub(crate) filters: Vec<Filter>,
}

/// A filter, its addresses as the policy language writes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Filter {
    pub(crate) line: u32,
    pub(crate) source: Vec<String>,
    pub(crate) destination: Vec<String>,
    pub(crate) protocol: Option<u8>,
    /// Ranges as the policy language writes them; empty for any.
    pub(crate) source_port: String,
    pub(crate) destination_port: String,
    pub(crate) icmp: Option<(u8, Option<u8>)>,
    pub(crate) mirrored: bool,
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) comment: String,
    pub(crate) name: String,
    pub(crate) list: String,
    pub(crate) action: &'static str,
    /// Further keys with their values, as TOML.
    pub(crate) keys: Vec<(&'static str, String)>,
}

/// A connection whose keys are still to be made.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) comment: Vec<String>,
    pub(crate) name: String,
    pub(crate) mode: &'static str,
    pub(crate) local: String,
    pub(crate) remote: String,
}

impl Draft {
    pub(crate) fn write(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.settings {
            let _ = writeln!(text, "{key} = {value}");
        }
        for list in &self.lists {
            list.write(&mut text);
        }
        for rule in &self.rules {
            rule.write(&mut text);
        }
        for (index, connection) in self.connections.iter().enumerate() {
            connection.write(index, &mut text);
        }
        // Without settings, the heading's empty line is enough.
        text.trim_start().to_owned()
    }
}

impl List {
    fn write(&self, text: &mut String) {
        let _ = writeln!(text, "\n# {}", comment(&self.comment));
        let _ = writeln!(text, "[filter-lists.{}]", key(&self.name));
        if self.filters.is_empty() {
            text.push_str("filters = []\n");
            return;
        }
        text.push_str("filters = [\n");
        let mut last = None;
        for filter in &self.filters {
            // One line of the source may stand for many filters.
            if last != Some(filter.line) && filter.line != 0 {
                let _ = writeln!(text, "    # line {}", filter.line);
            }
            last = Some(filter.line);
            text.push_str("    ");
            filter.write(text);
            text.push_str(",\n");
        }
        text.push_str("]\n");
    }
}

impl Filter {
    fn write(&self, text: &mut String) {
        text.push_str("{ source = ");
        write_addresses(&self.source, text);
        text.push_str(", destination = ");
        write_addresses(&self.destination, text);
        if let Some(number) = self.protocol {
            let _ = write!(text, ", protocol = {}", protocol(number));
        }
        for (key, ports) in [
            ("source-port", &self.source_port),
            ("destination-port", &self.destination_port),
        ] {
            if ports.is_empty() {
                continue;
            }
            let _ = match ports.parse::<u16>() {
                Ok(port) => write!(text, ", {key} = {port}"),
                Err(_) => write!(text, ", {key} = {}", quoted(ports)),
            };
        }
        if let Some((kind, code)) = self.icmp {
            let _ = write!(text, ", icmp-type = {kind}");
            if let Some(code) = code {
                let _ = write!(text, ", icmp-code = {code}");
            }
        }
        if !self.mirrored {
            text.push_str(", mirrored = false");
        }
        text.push_str(" }");
    }
}

impl Rule {
    fn write(&self, text: &mut String) {
        let _ = writeln!(text, "\n# {}", comment(&self.comment));
        let _ = writeln!(text, "[[rules]]\nname = {}", quoted(&self.name));
        let _ = writeln!(text, "filter-list = {}", quoted(&self.list));
        let _ = writeln!(text, "action = \"{}\"", self.action);
        for (key, value) in &self.keys {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
}

impl Connection {
    fn write(&self, index: usize, text: &mut String) {
        text.push('\n');
        for line in &self.comment {
            let _ = writeln!(text, "# {}", comment(line));
        }
        let name = key(&self.name);
        let _ = writeln!(text, "[connections.{name}]\nmode = \"{}\"", self.mode);
        let _ = writeln!(
            text,
            "local = {}\nremote = {}",
            quoted(&self.local),
            quoted(&self.remote)
        );
        let file = self.name.replace(' ', "-");
        let _ = writeln!(
            text,
            "# Make the keys with `ravelin keygen FILE`, one for each direction. The other end has the same two files and SPIs, \
             outbound and inbound exchanged."
        );
        let _ = writeln!(text, "[connections.{name}.static]\nalgorithm = \"aes-256-gcm\"");
        for (direction, first) in [("outbound", FIRST_OUTBOUND_SPI), ("inbound", FIRST_INBOUND_SPI)] {
            let _ = writeln!(
                text,
                "{direction} = {{ spi = {:#x}, key-file = {} }}",
                first + index,
                quoted(&format!("{file}-{direction}.key"))
            );
        }
    }
}

/// One address as a string, several as an array.
fn write_addresses(addresses: &[String], text: &mut String) {
    if let [one] = addresses {
        text.push_str(&quoted(one));
        return;
    }
    text.push('[');
    for (index, address) in addresses.iter().enumerate() {
        if index > 0 {
            text.push_str(if index % PER_LINE == 0 {
                ",\n        "
            } else {
                ", "
            });
        }
        text.push_str(&quoted(address));
    }
    text.push(']');
}

/// A protocol as TOML: its name where the policy language has one.
fn protocol(number: u8) -> String {
    let shown = ravelin_policy::Protocol(number).to_string();
    if shown.starts_with(|c: char| c.is_ascii_digit()) {
        shown
    } else {
        quoted(&shown)
    }
}

/// `text` as a TOML basic string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `name` as a TOML key.
fn key(name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if bare { name.to_owned() } else { quoted(name) }
}

/// Names that the policy language takes, each once.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Names given, with the number of the last one made from it.
    given: HashMap<String, usize>,
}

impl Names {
    /// A name as close to `wish` as possible that was not given before.
    pub(crate) fn unique(&mut self, wish: &str) -> String {
        let base = usable(wish, MAX_NAME);
        if !self.given.contains_key(&base) {
            self.given.insert(base.clone(), 1);
            return base;
        }
        loop {
            let number = self.given.entry(base.clone()).or_insert(1);
            *number += 1;
            let suffix = format!(" {number}");
            let name = format!("{}{suffix}", usable(&base, MAX_NAME - suffix.len()));
            if !self.given.contains_key(&name) {
                self.given.insert(name.clone(), 1);
                return name;
            }
        }
    }
}

/// `wish` without what the policy language does not take in a name, at most `max` characters.
fn usable(wish: &str, max: usize) -> String {
    let mut name = String::new();
    for c in wish.trim().chars() {
        if name.len() >= max {
            break;
        }
        match c {
            c if c.is_ascii_alphanumeric() => name.push(c),
            '.' | '_' | '-' | ' ' if !name.is_empty() => name.push(c),
            _ if !name.is_empty() => name.push('_'),
            _ => {}
        }
    }
    let name = name.trim_end();
    if name.is_empty() {
        "unnamed".to_owned()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::{Names, quoted};

    #[test]
    fn names_are_usable_and_unique() {
        let mut names = Names::default();
        assert_eq!(names.unique("Secure Server (Require)"), "Secure Server _Require_");
        assert_eq!(names.unique("a"), "a");
        assert_eq!(names.unique("a"), "a 2");
        assert_eq!(names.unique("a 2"), "a 2 2");
        assert_eq!(names.unique("a"), "a 3");
        assert_eq!(names.unique("阻止"), "unnamed");
        assert_eq!(names.unique("--x"), "x");
        let long = "x".repeat(100);
        assert_eq!(names.unique(&long).len(), 64);
        assert_eq!(names.unique(&long).len(), 64);
    }

    #[test]
    fn strings_are_quoted() {
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000A\"");
    }
}
