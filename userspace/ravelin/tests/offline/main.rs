//! The commands that touch nothing, from outside: what they print, held against files in `tests/golden`.
//!
//! `RAVELIN_UPDATE_GOLDEN=1 cargo test -p ravelin --test offline` writes the files anew; read the difference before
//! it is committed.

mod capture;
mod check;
mod diff;
mod explain;
mod fmt;
mod golden;
mod import;
mod service;
mod waiting;
