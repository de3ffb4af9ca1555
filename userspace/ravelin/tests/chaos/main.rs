//! Everything that can happen to a running engine, many times over: nothing that must be protected may be seen in the clear,
//! what is permitted goes on, and no sequence number comes twice. Needs root.
//!
//! Two pairs of sites live through it at the same time, hosts with transport mode and gateways with tunnels. Their engines are
//! the shipped program, looked after as a service manager would: what ends is started again. The witnesses are a packet socket
//! with a parser of its own, and libpcap's filter language in dumpcap.
//!
//! `RAVELIN_CHAOS_EVENTS` makes it longer (200 events unless told otherwise), `RAVELIN_CHAOS_SEED` repeats a schedule, and with
//! `RAVELIN_CHAOS_PUBLISH` the measured times go into docs/operation.md.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod covered;
mod detector;
mod event;
mod flows;
mod pair;
mod random;
mod recovery;
mod room;
mod run;
mod side;
#[expect(dead_code, reason = "the other tests use the rest of it")]
#[path = "../gateway/support/mod.rs"]
mod support;
mod upgrade;

use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps tests apart that measure time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says something whether or not the test's output is kept.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes a table to `target/NAME.md`, and with `RAVELIN_CHAOS_PUBLISH` to its place in docs/operation.md.
fn report(name: &str, first: &str, table: &str) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    std::fs::write(target.join(format!("{name}.md")), format!("{first}{table}")).unwrap();
    if std::env::var_os("RAVELIN_CHAOS_PUBLISH").is_none() {
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operation.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let [begin, end] = ["begin", "end"].map(|word| format!("<!-- {name}: {word} -->\n"));
    let (before, _) = text.split_once(&begin).unwrap();
    let (_, after) = text.split_once(&end).unwrap();
    std::fs::write(file, format!("{before}{begin}{table}{end}{after}")).unwrap();
}
