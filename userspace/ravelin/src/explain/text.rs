//! An explanation as text.

use std::fmt::Write as _;

use super::next::IMPOSSIBLE;
use super::report::{Place, Report, Way};

/// Most columns of a line, where words allow it.
const WIDTH: usize = 110;

/// The report for people.
pub(crate) fn text(report: &Report) -> String {
    let mut text = format!("{}\n", report.packet);
    for way in &report.ways {
        text.push('\n');
        write_way(&mut text, way);
    }
    text
}

fn write_way(text: &mut String, way: &Way) {
    let direction = match way.direction {
        "in" => "Inbound, from the wire",
        _ => "Outbound, towards the wire",
    };
    let verdict = verdict(way);
    let _ = writeln!(text, "{direction}: {verdict}");
    write_wrapped(text, 2, "Next: ", &next(way));
    for note in &way.next.notes {
        write_wrapped(text, 2, "Note: ", note);
    }
    if let Some(winner) = &way.winner {
        text.push('\n');
        let _ = writeln!(text, "  The filter that decides:");
        write_place(text, winner);
        write_wrapped(text, 6, "rank: ", &winner.rank);
    }
    if !way.losers.is_empty() {
        let count = way.losers.len() + way.more_losers;
        let _ = writeln!(
            text,
            "\n  {} as well, and lost:",
            filters(count, true, "matches", "match")
        );
        for loser in &way.losers {
            write_place(text, &loser.place);
            write_wrapped(text, 6, "", &loser.why);
        }
        write_omitted(text, way.more_losers);
    }
    if !way.misses.is_empty() {
        let count = way.misses.len() + way.more_misses;
        let nearest = if count > 1 { ", nearest first" } else { "" };
        let others = way.winner.is_some();
        let _ = writeln!(
            text,
            "\n  {} not match{nearest}:",
            filters(count, others, "does", "do")
        );
        for miss in &way.misses {
            write_place(text, &miss.place);
            write_wrapped(text, 6, "", &miss.why.join("; "));
        }
        write_omitted(text, way.more_misses);
    }
}

fn verdict(way: &Way) -> String {
    let decides = match (&way.winner, way.default) {
        (Some(winner), _) => format!("rule `{}` decides", winner.rule),
        (None, Some(default)) => format!("no filter matches, and the policy's default is {default}"),
        (None, None) => "no filter matches".to_owned(),
    };
    match (way.next.before_filters, way.next.what) {
        (true, IMPOSSIBLE) => IMPOSSIBLE.to_owned(),
        (true, what) => format!(
            "{what}, before the filters are asked. They would say {}: {decides}",
            way.verdict
        ),
        (false, _) if way.verdict == "fragment_unknown" => format!("in doubt. {}", capitalised(&decides)),
        (false, _) => format!("{}. {}", way.verdict, capitalised(&decides)),
    }
}

fn next(way: &Way) -> String {
    match (way.next.counter, way.next.what) {
        (Some(counter), "drop") => format!("{} Counted as {counter}.", way.next.text),
        _ => way.next.text.clone(),
    }
}

fn write_place(text: &mut String, place: &Place) {
    let connection = place
        .connection
        .as_ref()
        .map_or_else(String::new, |name| format!(" with connection `{name}`"));
    let reversed = if place.reversed { ", read backwards" } else { "" };
    let _ = writeln!(text, "    {}{reversed}  [{}]", place.filter, place.filter_at);
    let _ = writeln!(
        text,
        "      rule `{}`, {}{connection}  [{}]",
        place.rule, place.action, place.rule_at
    );
}

fn write_omitted(text: &mut String, count: usize) {
    if count > 0 {
        let _ = writeln!(text, "    ... and {count} more (--all shows them)");
    }
}

fn filters(count: usize, others: bool, one: &str, many: &str) -> String {
    let other = if others { "other " } else { "" };
    match count {
        1 => format!("One {other}filter {one}"),
        count => format!("{count} {other}filters {many}"),
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Writes words into lines of at most [`WIDTH`] columns behind `indent` spaces; only the first has the label.
fn write_wrapped(text: &mut String, indent: usize, label: &str, words: &str) {
    let mut line = format!("{:indent$}{label}", "");
    let hanging = indent + label.len();
    let mut empty = true;
    for word in words.split(' ') {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = format!("{:hanging$}", "");
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(text, "{line}");
}
