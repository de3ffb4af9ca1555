//! What every table of a policy may hold, said once: the reader knows keys, bounds and defaults from here, and the
//! JSON Schema is made of the same descriptions.

use serde_json::{Map, Value, json};

use crate::document;
use crate::party;
use crate::protocol::Protocol;

/// A table with a fixed set of keys.
#[derive(Debug)]
pub(crate) struct TableSpec {
    /// What it is called in messages: "a rule".
    pub(crate) what: &'static str,
    /// Its name among the schema's definitions.
    pub(crate) id: &'static str,
    pub(crate) keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) need: Need,
    /// The key is a mistake unless the other one has this value.
    pub(crate) only_with: Option<(&'static str, Literal)>,
    /// One line.
    pub(crate) doc: &'static str,
}

impl Key {
    pub(crate) const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self::new(name, kind, Need::Required, doc)
    }

    pub(crate) const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self::new(name, kind, Need::Optional, doc)
    }

    pub(crate) const fn default(name: &'static str, kind: Kind, default: Literal, doc: &'static str) -> Self {
        Self::new(name, kind, Need::Default(default), doc)
    }

    const fn new(name: &'static str, kind: Kind, need: Need, doc: &'static str) -> Self {
        Self {
            name,
            kind,
            need,
            only_with: None,
            doc,
        }
    }

    pub(crate) const fn only_with(mut self, key: &'static str, value: Literal) -> Self {
        self.only_with = Some((key, value));
        self
    }
}

/// What may be written for a key.
#[derive(Debug)]
pub(crate) enum Kind {
    Boolean,
    /// A whole number from the first to the second, both included.
    Integer(i64, i64),
    /// The same, in steps of the third.
    Multiple(i64, i64, i64),
    /// One of these words, or a whole number from the first to the second.
    WordOr(&'static [&'static str], i64, i64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A name of the user's choice.
    Name,
    /// A source or destination: one party or an array of them.
    Parties,
    /// One IP address.
    Address,
    Protocol,
    Ports,
    /// The name of a network interface.
    Interface,
    /// An array of them, at least one.
    Interfaces,
    /// A file.
    Path,
    /// An array of files.
    Paths,
    /// A table.
    Table(&'static TableSpec),
    /// An array of tables.
    Tables(&'static TableSpec),
    /// A table of tables with names of the user's choice.
    Named(&'static TableSpec),
    /// A table of parties with names of the user's choice.
    Groups,
}

impl Kind {
    /// Smallest and largest value and step of a number.
    pub(crate) fn bounds(&self) -> (i64, i64, i64) {
        match *self {
            Self::Integer(min, max) | Self::WordOr(_, min, max) => (min, max, 1),
            Self::Multiple(min, max, step) => (min, max, step),
            _ => (i64::MIN, i64::MAX, 1),
        }
    }
}

/// What holds when a key is left out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Required,
    /// Nothing, or what the documentation of the key says.
    Optional,
    Default(Literal),
}

/// A value written in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Literal {
    Boolean(bool),
    Integer(i64),
    Word(&'static str),
}

impl std::fmt::Display for Literal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Word(value) => write!(f, "\"{value}\""),
        }
    }
}

impl Literal {
    fn json(self) -> Value {
        match self {
            Self::Boolean(value) => json!(value),
            Self::Integer(value) => json!(value),
            Self::Word(value) => json!(value),
        }
    }
}

impl TableSpec {
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// The JSON Schema (draft 2020-12) of policies, for editors and generators of policies.
///
/// It knows keys, kinds, bounds and defaults. What a policy says as a whole, names that exist for instance, only
/// [`Policy::parse`](crate::Policy::parse) can check.
#[must_use]
pub fn json_schema() -> String {
    let mut definitions = Map::new();
    let mut top = table(&document::POLICY, &mut definitions);
    let parties = json!({
        "description": "One source or destination, or several",
        "anyOf": [
            { "$ref": "#/$defs/party" },
            { "type": "array", "items": { "$ref": "#/$defs/party" } },
        ],
    });
    definitions.insert("parties".to_owned(), parties);
    definitions.insert("party".to_owned(), party());
    definitions.insert("ports".to_owned(), ports());
    if let Value::Object(top) = &mut top {
        top.insert(
            "$schema".to_owned(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        top.insert("title".to_owned(), json!("Ravelin policy"));
        top.insert("$defs".to_owned(), Value::Object(definitions));
    }
    // Objects of strings only: writing them cannot fail.
    let mut text = serde_json::to_string_pretty(&top).unwrap_or_default();
    text.push('\n');
    text
}

/// The schema of a table; those inside it become definitions.
fn table(spec: &'static TableSpec, definitions: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    let mut dependent = Map::new();
    for key in spec.keys {
        let mut value = kind(&key.kind, definitions);
        if let Value::Object(value) = &mut value {
            value.insert("description".to_owned(), json!(key.doc));
            if let Need::Default(default) = key.need {
                value.insert("default".to_owned(), default.json());
            }
        }
        properties.insert(key.name.to_owned(), value);
        if let Some((other, wanted)) = key.only_with {
            let mut condition = json!({ "properties": { other: { "const": wanted.json() } } });
            let by_default = spec
                .key(other)
                .is_some_and(|key| key.need == Need::Default(wanted));
            if !by_default {
                condition["required"] = json!([other]);
            }
            dependent.insert(key.name.to_owned(), condition);
        }
    }
    let required: Vec<&str> = spec
        .keys
        .iter()
        .filter(|key| matches!(key.need, Need::Required))
        .map(|key| key.name)
        .collect();
    let mut object = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if let Value::Object(object) = &mut object {
        if !required.is_empty() {
            object.insert("required".to_owned(), json!(required));
        }
        if !dependent.is_empty() {
            object.insert("dependentSchemas".to_owned(), Value::Object(dependent));
        }
    }
    object
}

fn kind(kind: &Kind, definitions: &mut Map<String, Value>) -> Value {
    match *kind {
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Multiple(min, max, step) => {
            json!({ "type": "integer", "minimum": min, "maximum": max, "multipleOf": step })
        }
        Kind::WordOr(words, min, max) => {
            json!({ "anyOf": [{ "enum": words }, { "type": "integer", "minimum": min, "maximum": max }] })
        }
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Name => json!({ "type": "string", "pattern": NAME, "maxLength": document::MAX_NAME }),
        Kind::Parties => json!({ "$ref": "#/$defs/parties" }),
        Kind::Address => json!({ "type": "string", "pattern": "^[0-9A-Fa-f:.]+$" }),
        Kind::Protocol => {
            let names: Vec<&str> = std::iter::once("any").chain(Protocol::words()).collect();
            json!({ "anyOf": [
                { "enum": names },
                { "type": "integer", "minimum": 0, "maximum": 255 },
                { "type": "string", "pattern": "^[0-9]{1,3}$" },
            ] })
        }
        Kind::Ports => json!({ "anyOf": [
            { "$ref": "#/$defs/ports" },
            { "type": "array", "items": { "$ref": "#/$defs/ports" }, "minItems": 1 },
        ] }),
        Kind::Interface => interface(),
        Kind::Interfaces => json!({ "type": "array", "items": interface(), "minItems": 1 }),
        Kind::Path => path(),
        Kind::Paths => json!({ "type": "array", "items": path() }),
        Kind::Table(spec) => define(spec, definitions),
        Kind::Tables(spec) => json!({ "type": "array", "items": define(spec, definitions) }),
        Kind::Named(spec) => named(&define(spec, definitions)),
        Kind::Groups => named(&json!({ "$ref": "#/$defs/parties" })),
    }
}

const NAME: &str = "^[A-Za-z0-9]([A-Za-z0-9 ._-]*[A-Za-z0-9._-])?$";

fn interface() -> Value {
    json!({ "type": "string", "pattern": "^[^\\s/:]{1,15}$" })
}

fn path() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 4096 })
}

fn named(value: &Value) -> Value {
    json!({
        "type": "object",
        "propertyNames": { "pattern": NAME, "maxLength": document::MAX_NAME },
        "additionalProperties": value,
    })
}

fn define(spec: &'static TableSpec, definitions: &mut Map<String, Value>) -> Value {
    if !definitions.contains_key(spec.id) {
        let schema = table(spec, definitions);
        definitions.insert(spec.id.to_owned(), schema);
    }
    json!({ "$ref": format!("#/$defs/{}", spec.id) })
}

fn party() -> Value {
    let words: Vec<&str> = party::words().collect();
    json!({
        "anyOf": [
            { "enum": words },
            { "type": "string", "description": "An address, address/length or first-last", "pattern": "^ *[0-9A-Fa-f:.]+ *([/-] *[0-9A-Fa-f:.]+ *)?$" },
            { "type": "string", "description": "A DNS name with its domain", "pattern": "^ *[A-Za-z0-9_-]+\\.[A-Za-z0-9._-]* *$" },
            { "type": "string", "description": "An address group", "pattern": "^ *\\$[A-Za-z0-9][A-Za-z0-9 ._-]* *$" },
        ],
    })
}

fn ports() -> Value {
    json!({
        "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": 65_535 },
            { "enum": ["any"] },
            { "type": "string", "description": "\"80\", \"1000-2000\" or \"80, 443\"", "pattern": "^ *[0-9]+ *(- *[0-9]+ *)?(, *[0-9]+ *(- *[0-9]+ *)?)*$" },
        ],
    })
}
