//! One command: which it is, and its arguments by name.

use crate::findings::quote;

/// What a statement asks for.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) mode: Mode,
    pub(super) verb: &'static str,
    /// Empty for verbs without an object.
    pub(super) object: &'static str,
    /// What comes after verb and object.
    arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Static,
    Dynamic,
}

/// Verbs of each mode, with their objects.
const STATIC: &[(&str, &[&str])] = &[
    ("add", &["filter", "filteraction", "filterlist", "policy", "rule"]),
    (
        "delete",
        &["all", "filter", "filteraction", "filterlist", "policy", "rule"],
    ),
    ("dump", &[]),
    ("exportpolicy", &[]),
    ("help", &[]),
    ("importpolicy", &[]),
    ("restorepolicyexamples", &[]),
    (
        "set",
        &[
            "batch",
            "defaultrule",
            "filteraction",
            "filterlist",
            "policy",
            "rule",
            "store",
        ],
    ),
    ("show", &[]),
];
const DYNAMIC: &[(&str, &[&str])] = &[
    ("add", &["mmpolicy", "qmpolicy", "rule"]),
    ("delete", &["all", "mmpolicy", "qmpolicy", "rule", "sa"]),
    ("dump", &[]),
    ("help", &[]),
    ("set", &["config", "mmpolicy", "qmpolicy", "rule"]),
    ("show", &[]),
];

impl Command {
    /// `words` are those after `ipsec`.
    pub(super) fn parse(words: &[String]) -> Result<Self, String> {
        let mut words = words.iter();
        let mode = words.next().map_or("", String::as_str);
        let (mode, verbs) = match one_of(mode, ["static", "dynamic", "dump", "help"])? {
            "static" => (Mode::Static, STATIC),
            "dynamic" => (Mode::Dynamic, DYNAMIC),
            // They change nothing, like `show`.
            _ => (Mode::Static, &STATIC[2..3]),
        };
        let verb = if verbs.len() == 1 {
            "dump"
        } else {
            one_of(
                words.next().map_or("", String::as_str),
                verbs.iter().map(|(verb, _)| *verb),
            )?
        };
        let objects = verbs
            .iter()
            .find(|(known, _)| *known == verb)
            .map_or(&[][..], |(_, objects)| objects);
        let object = if objects.is_empty() {
            ""
        } else {
            one_of(words.next().map_or("", String::as_str), objects.iter().copied())?
        };
        Ok(Self {
            mode,
            verb,
            object,
            arguments: words.cloned().collect(),
        })
    }

    /// The arguments by name. `keys` are those that the command takes, in the order in which they may be given without
    /// their names.
    pub(super) fn arguments(&self, keys: &[&'static str]) -> Result<Arguments, String> {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        let mut positions = keys.iter();
        for argument in &self.arguments {
            let named = argument
                .split_once('=')
                .filter(|(key, _)| key.trim().chars().all(|c| c.is_ascii_alphanumeric()));
            let (key, value) = match named {
                Some((key, value)) => (one_of(key.trim(), keys.iter().copied())?, value),
                // What comes next would be the key, and end up in a message or a name.
                None if keys.contains(&"psk") && argument.eq_ignore_ascii_case("psk") => {
                    return Err("psk is written psk=KEY, without a space".to_owned());
                }
                None => {
                    let mut free = positions
                        .by_ref()
                        .filter(|key| !found.iter().any(|(known, _)| known == *key));
                    let key = free
                        .next()
                        .ok_or("there are more arguments than this command takes")?;
                    (*key, argument.as_str())
                }
            };
            if found.iter().any(|(known, _)| *known == key) && key != "rootca" {
                return Err(format!("{key}= is given twice"));
            }
            if key == "psk" && value.is_empty() {
                return Err("psk= is empty; is there a space after it?".to_owned());
            }
            found.push((key, value.trim().to_owned()));
        }
        Ok(Arguments(found))
    }
}

/// Named arguments, each with its value.
#[derive(Clone, Debug, Default)]
pub(super) struct Arguments(Vec<(&'static str, String)>);

impl Arguments {
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.text(key).is_some()
    }

    pub(super) fn required(&self, key: &str) -> Result<&str, String> {
        match self.text(key) {
            None | Some("") => Err(format!("{key}= is missing")),
            Some(value) => Ok(value),
        }
    }

    /// `yes` or `no`, or an abbreviation.
    pub(super) fn yes(&self, key: &str) -> Result<Option<bool>, String> {
        let Some(value) = self.text(key) else {
            return Ok(None);
        };
        match self.choice(key, value, &["yes", "no"])? {
            "yes" => Ok(Some(true)),
            _ => Ok(Some(false)),
        }
    }

    /// One of a few words, or an abbreviation.
    pub(super) fn word(&self, key: &str, words: &[&'static str]) -> Result<Option<&'static str>, String> {
        let Some(value) = self.text(key) else {
            return Ok(None);
        };
        self.choice(key, value, words).map(Some)
    }

    fn choice(&self, key: &str, value: &str, words: &[&'static str]) -> Result<&'static str, String> {
        one_of(value, words.iter().copied()).map_err(|_| {
            // What stands in the wrong place may be the preshared key.
            let found = if self.has("psk") || key == "kerberos" {
                String::new()
            } else {
                format!(", found {}", quote(value))
            };
            format!("{key}= is {}{found}", words.join(" or "))
        })
    }
}

/// The only one of `known` that is or starts with `word`, in any case.
fn one_of(word: &str, known: impl IntoIterator<Item = &'static str>) -> Result<&'static str, String> {
    let lower = word.to_ascii_lowercase();
    // Without the value of an argument in the wrong place, which may be a preshared key.
    let word = word.split('=').next().unwrap_or("");
    let mut starting = Vec::new();
    let mut all = Vec::new();
    for candidate in known {
        if candidate == lower {
            return Ok(candidate);
        }
        if !lower.is_empty() && candidate.starts_with(&lower) {
            starting.push(candidate);
        }
        all.push(candidate);
    }
    match starting.as_slice() {
        [one] => Ok(one),
        [] if lower.is_empty() => Err(format!("something is missing here: one of {}", all.join(", "))),
        [] => Err(format!(
            "{} is not known here; known are {}",
            quote(word),
            all.join(", ")
        )),
        several => Err(format!(
            "{} is ambiguous here: {}",
            quote(word),
            several.join(" or ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, Mode};

    fn command(text: &str) -> Result<Command, String> {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        Command::parse(&words)
    }

    #[test]
    fn unique_prefixes_are_enough() {
        let found = command("st a filterl n=x desc=y").unwrap();
        assert_eq!(
            (found.mode, found.verb, found.object),
            (Mode::Static, "add", "filterlist")
        );
        let arguments = found.arguments(&["name", "description"]).unwrap();
        assert_eq!(
            (arguments.text("name"), arguments.text("description")),
            (Some("x"), Some("y"))
        );
        assert_eq!(command("s ADD Filter").unwrap().object, "filter");
        assert!(command("static add filterx").is_err());
        assert!(command("static d all").unwrap_err().contains("delete or dump"));
        assert!(command("static add f").unwrap_err().contains("ambiguous"));
        assert_eq!(command("static show all").unwrap().verb, "show");
        assert_eq!(command("dump").unwrap().verb, "dump");
        assert!(command("").is_err());
    }

    #[test]
    fn arguments_may_stand_in_their_places() {
        let found = command("static add policy p assign=y because").unwrap();
        let arguments = found.arguments(&["name", "description", "assign"]).unwrap();
        assert_eq!(arguments.text("name"), Some("p"));
        assert_eq!(arguments.text("description"), Some("because"));
        assert_eq!(arguments.yes("assign"), Ok(Some(true)));
        assert!(
            command("static add policy a b c")
                .unwrap()
                .arguments(&["name"])
                .is_err()
        );
        assert!(
            command("static add policy name=a name=b")
                .unwrap()
                .arguments(&["name"])
                .is_err()
        );
    }

    #[test]
    fn a_preshared_key_in_the_wrong_place_is_not_repeated() {
        let keys = &["name", "activate", "kerberos", "psk"];
        let found = command("static add rule name=a activate=hunter2 psk=x").unwrap();
        assert!(
            !found
                .arguments(keys)
                .unwrap()
                .yes("activate")
                .unwrap_err()
                .contains("hunter2")
        );
        let found = command("static add rule name=a psk hunter2").unwrap();
        assert!(!found.arguments(keys).unwrap_err().contains("hunter2"));
    }
}
