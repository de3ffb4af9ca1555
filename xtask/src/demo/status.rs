//! What `ravelin status --json` says, and what changed between two of them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Every counter of a daemon by a dotted name: `drops.icv_mismatch`, `connections.sites.outbound.packets`, …
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status(BTreeMap<String, u64>);

impl Status {
    pub(super) fn parse(json: &str) -> Result<Self> {
        let value =
            serde_json::from_str(json).context("`ravelin status --json` wrote something else than JSON")?;
        let mut counters = BTreeMap::new();
        flatten("", &value, &mut counters);
        Ok(Self(counters))
    }

    /// A counter; one that is not listed has counted nothing.
    pub(super) fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// The counters that grew since `before`, and by how much.
    pub(super) fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().filter_map(|(name, now)| {
            let delta = now.saturating_sub(before.count(name));
            (delta > 0).then(|| (name.clone(), delta))
        });
        Self(grown.collect())
    }

    /// The counters below `prefix`, with the rest of their names.
    pub(super) fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        self.0
            .iter()
            .filter_map(move |(name, count)| Some((name.strip_prefix(prefix)?, *count)))
    }

    /// Packets that went through a connection, both directions.
    pub(super) fn connection_packets(&self, connection: &str) -> u64 {
        ["outbound", "inbound"]
            .iter()
            .map(|side| self.count(&format!("connections.{connection}.{side}.packets")))
            .sum()
    }
}

/// Numbers keep their path; elements of a list go by their `name`, or else by their index.
fn flatten(path: &str, value: &Value, counters: &mut BTreeMap<String, u64>) {
    let join = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match value {
        Value::Number(number) => {
            if let Some(number) = number.as_u64() {
                counters.insert(path.to_owned(), number);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                flatten(&join(key), member, counters);
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                let index = index.to_string();
                flatten(
                    &join(element["name"].as_str().unwrap_or(&index)),
                    element,
                    counters,
                );
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn counters_go_by_dotted_names() {
        let before = Status::parse(r#"{"drops":{"rule_block":1},"connections":[]}"#).unwrap();
        let after = Status::parse(
            r#"{"instance":"a","drops":{"rule_block":4,"icv_mismatch":0},
                "connections":[{"name":"sites","outbound":{"packets":2},"inbound":{"packets":3}}]}"#,
        )
        .unwrap();
        let grown = after.since(&before);
        assert_eq!(grown.count("drops.rule_block"), 3);
        assert_eq!(grown.connection_packets("sites"), 5);
        assert_eq!(grown.below("drops.").collect::<Vec<_>>(), [("rule_block", 3)]);
    }
}
