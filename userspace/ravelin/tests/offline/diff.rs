//! `ravelin diff`.

use crate::golden::{compare, folder, ravelin, stdout};

#[test]
fn changes_are_told_by_region_with_an_example() {
    compare(
        "diff.txt",
        &stdout(&["diff", "servers.toml", "servers-new.toml"], 1),
    );
}

#[test]
fn the_same_for_machines() {
    let text = stdout(
        &["diff", "servers.toml", "servers-new.toml", "--json", "--all"],
        1,
    );
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["complete"], true);
    assert_eq!(report["more_changes"], 0);
    assert_eq!(report["settings"][0]["name"], "non-ip");
    let changes = report["changes"].as_array().expect("changes");
    assert!(changes.iter().any(|change| {
        change["old"]["rule"] == "no telnet" && change["new"]["consequence"] == "protect with `servers`"
    }));
}

#[test]
fn the_same_policy_does_not_differ_whatever_its_order() {
    assert_eq!(stdout(&["diff", "servers.toml", "servers.toml"], 0), "");
    // Rules and lists stand elsewhere, but say the same.
    let text = std::fs::read_to_string(folder().join("servers.toml")).expect("the policy");
    let (lists, rest) = text.split_once("[[rules]]").expect("rules");
    let (rules, connections) = rest.split_once("[connections").expect("connections");
    let mut rules: Vec<&str> = rules.split("[[rules]]").collect();
    rules.reverse();
    let turned = format!(
        "[connections{connections}\n{lists}\n[[rules]]{}",
        rules.join("[[rules]]")
    );
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("turned.toml");
    std::fs::write(&path, turned).expect("the policy can be written");
    let path = path.to_str().expect("a path");
    // Key files are named relative to the policy, so the connection is another; only that differs.
    let text = stdout(&["diff", "servers.toml", path], 1);
    for line in text
        .lines()
        .filter(|line| line.contains(" -> ") && line.contains("rule"))
    {
        assert_eq!(
            line,
            "protect with `servers` (rule `servers`) -> protect with `servers (redefined)` (rule `servers`)"
        );
    }
}

#[test]
fn trouble_is_told_apart_from_difference() {
    let output = ravelin(&["diff", "servers.toml", "nothing.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}
