//! The JSON Schema: the one in docs is the one the reader's tables give, it takes every example, and refuses what the
//! reader refuses for its form.

use jsonschema::Validator;
use ravelin_policy::{Policy, json_schema};
use serde_json::Value;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/policy.schema.json");

const GOOD: &str = r#"
default = "block"
[addresses]
lab = ["10.0.0.0/8", "me"]
[filter-lists.a]
filters = [
    { source = "$lab", destination = ["any", "10.0.0.7 - 10.0.0.9"], protocol = "tcp", destination-port = [80, "443, 8000-8099"] },
]
[[rules]]
name = "r"
filter-list = "a"
action = "protect"
connection = "c"
fallback-clear = true
soft-expiry = 60
[connections.c]
mode = "tunnel"
local = "192.0.2.1"
remote = "192.0.2.2"
encapsulation = "udp"
local-port = 4500
[connections.c.static]
algorithm = "aes-128-gcm"
replay-window = 128
outbound = { spi = 0x1001, key-file = "out" }
inbound = { spi = 0x2001, key-file = "in" }
"#;

fn validator() -> Validator {
    let schema: Value = serde_json::from_str(&json_schema()).expect("JSON");
    assert!(jsonschema::draft202012::meta::is_valid(&schema));
    jsonschema::draft202012::new(&schema).expect("a schema")
}

fn json(text: &str) -> Value {
    toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[track_caller]
fn assert_valid(validator: &Validator, text: &str) {
    let document = json(text);
    let errors: Vec<_> = validator
        .iter_errors(&document)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:#?}\n{text}");
}

#[test]
fn the_file_in_docs_is_current() {
    let file = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        file == json_schema(),
        "docs/policy.schema.json is out of date; write it anew: ravelin schema > docs/policy.schema.json"
    );
}

#[test]
fn every_example_is_valid() {
    let validator = validator();
    assert_valid(&validator, GOOD);
    assert_valid(&validator, "");
    for key in [
        "tfc-padding = 9",
        "tfc-padding = \"mtu\"",
        "dscp = 0",
        "dscp = \"copy\"",
    ] {
        let text = GOOD.replace("local-port = 4500", key);
        assert_valid(&validator, &text);
        assert!(Policy::parse(&text, "p").is_ok(), "{key}");
    }
    for block in include_str!("../../../docs/policy.md").split("```toml\n").skip(1) {
        assert_valid(&validator, block.split_once("```").expect("a closed block").0);
    }
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    for entry in std::fs::read_dir(folder).expect("docs/examples") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            assert_valid(&validator, &std::fs::read_to_string(path).expect("text"));
        }
    }
}

/// What is wrong in its form is wrong for both, so that an editor says it first.
#[test]
fn schema_and_reader_refuse_the_same_forms() {
    let validator = validator();
    assert!(Policy::parse(GOOD, "p").is_ok());
    for (from, to) in [
        ("default = \"block\"", "default = \"drop\""),
        ("default = \"block\"", "defualt = \"block\""),
        ("default = \"block\"", "audit = \"yes\""),
        ("default = \"block\"", "exemptions = 4"),
        ("default = \"block\"", "boot = \"open\""),
        ("default = \"block\"", "include = \"a.toml\""),
        (
            "default = \"block\"",
            "interfaces = { outer = \"a name too long\" }",
        ),
        ("\"me\"", "7"),
        ("\"me\"", "\"office\""),
        ("\"me\"", "[\"me\"]"),
        ("[addresses]\nlab", "[addresses]\n\"-\" = []\nlab"),
        ("source = \"$lab\", ", ""),
        ("\"tcp\"", "\"tpc\""),
        ("\"tcp\"", "256"),
        ("[80, ", "[65536, "),
        ("443, 8000-8099", "https"),
        ("protocol =", "colour = 1, protocol ="),
        ("protocol =", "icmp-type = 256, protocol ="),
        ("name = \"r\"", ""),
        ("name = \"r\"", "name = \" r\""),
        ("action = \"protect\"", "action = \"permit\""),
        ("fallback-clear = true", ""),
        ("soft-expiry = 60", "soft-expiry = 0"),
        ("soft-expiry = 60", "priority = -1"),
        ("mode = \"tunnel\"", "mode = \"beet\""),
        ("local = \"192.0.2.1\"", "local = \"gateway\""),
        ("encapsulation = \"udp\"", ""),
        ("local-port = 4500", "local-port = 0"),
        (
            "encapsulation = \"udp\"\nlocal-port = 4500",
            "protocol = \"ah\"\ntfc-padding = 9",
        ),
        ("local-port = 4500", "original-local = \"10.0.0.1\""),
        ("local-port = 4500", "dscp = 64"),
        ("replay-window = 128", "replay-window = 100"),
        ("replay-window = 128", "esn = 1"),
        ("spi = 0x1001", "spi = 255"),
        ("key-file = \"in\"", "key-file = \"\""),
        ("algorithm = \"aes-128-gcm\"", "algorithm = \"des\""),
    ] {
        assert!(GOOD.contains(from), "{from} is not in the policy");
        let text = GOOD.replacen(from, to, 1);
        assert!(Policy::parse(&text, "p").is_err(), "the reader takes {to}");
        assert!(!validator.is_valid(&json(&text)), "the schema takes {to}");
    }
}

/// The tables of the manual say the same defaults.
#[test]
fn the_manual_knows_the_defaults() {
    let manual = include_str!("../../../docs/policy.md");
    let rows: Vec<Vec<&str>> = manual
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let schema: Value = serde_json::from_str(&json_schema()).expect("JSON");
    let definitions = schema["$defs"].as_object().expect("definitions");
    let mut seen = 0;
    for table in definitions.values().chain([&schema]) {
        let properties = table["properties"].as_object().into_iter().flatten();
        for (key, default) in properties.filter_map(|(key, value)| Some((key, value.get("default")?))) {
            let default = default.to_string();
            let told = rows.iter().any(|row| {
                row[1].contains(&format!("`{key}`"))
                    && row[2..].iter().any(|cell| cell.trim_matches('`') == default)
            });
            assert!(told, "the manual does not say that {key} is {default} by default");
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen}");
}

/// Every key has its line, and says what it defaults to where it does.
#[test]
fn everything_is_described() {
    fn walk(value: &Value, seen: &mut usize) {
        let Value::Object(object) = value else {
            return;
        };
        if let Some(Value::Object(properties)) = object.get("properties")
            && object.get("additionalProperties") == Some(&Value::Bool(false))
        {
            for (key, value) in properties {
                let text = value["description"].as_str().unwrap_or_default();
                assert!(
                    text.len() > 5 && !text.contains('\n') && !text.ends_with('.'),
                    "{key}: {text}"
                );
                *seen += 1;
            }
        }
        object.values().for_each(|value| walk(value, seen));
    }
    let schema: Value = serde_json::from_str(&json_schema()).expect("JSON");
    let mut seen = 0;
    walk(&schema, &mut seen);
    assert!(seen > 40, "{seen}");
    assert_eq!(schema["properties"]["exemptions"]["default"], 3);
    assert_eq!(schema["properties"]["boot"]["default"], "stateful");
}
