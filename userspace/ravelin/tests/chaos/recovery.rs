//! How long it took until protected traffic flowed again, by kind of event.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::Event;

/// One event, done with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovery {
    /// From when all was put right until every protected flow had an answer.
    pub(crate) after: Duration,
    /// The longest time without an answer, of any protected flow and of any permitted one.
    pub(crate) silence: [Duration; 2],
}

/// All events of a run.
#[derive(Debug, Default)]
pub(crate) struct Report(BTreeMap<Event, Vec<Recovery>>);

impl Report {
    pub(crate) fn add(&mut self, event: Event, recovery: Recovery) {
        self.0.entry(event).or_default().push(recovery);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (event, recoveries) in other.0 {
            self.0.entry(event).or_default().extend(recoveries);
        }
    }

    pub(crate) fn events(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// A table in Markdown, times in milliseconds.
    pub(crate) fn table(&self) -> String {
        let mut table =
            "| event | times | recovery, from when | least | median | most | silence of protected flows: median | most | of permitted ones: most |\n\
             |---|---|---|---|---|---|---|---|---|\n"
                .to_owned();
        for (event, recoveries) in &self.0 {
            let [words, from] = event.words();
            let sorted = |of: fn(&Recovery) -> Duration| {
                let mut all: Vec<u128> = recoveries.iter().map(|one| of(one).as_millis()).collect();
                all.sort_unstable();
                all
            };
            let (after, protected) = (sorted(|one| one.after), sorted(|one| one.silence[0]));
            let permitted = sorted(|one| one.silence[1]);
            let (middle, last) = (recoveries.len() / 2, recoveries.len() - 1);
            table += &format!(
                "| {words} | {} | {from} | {} | {} | {} | {} | {} | {} |\n",
                recoveries.len(),
                after[0],
                after[middle],
                after[last],
                protected[middle],
                protected[last],
                permitted[last],
            );
        }
        table
    }
}
