//! Asking before something opens.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Result, bail};

/// What is asked for.
pub(crate) struct Request<'a> {
    /// What happens then.
    pub(crate) what: &'a str,
    /// The question at a terminal.
    pub(crate) question: &'a str,
    /// What to give where there is nobody to ask.
    pub(crate) otherwise: &'a str,
    /// What has happened after a no.
    pub(crate) refused: &'a str,
}

/// Goes on after a yes. Without a terminal there is nobody to say it.
pub(crate) fn ask(request: &Request<'_>) -> Result<()> {
    let Request {
        what,
        question,
        otherwise,
        refused,
    } = request;
    if !io::stdin().is_terminal() {
        bail!("{what}; give {otherwise}");
    }
    eprint!("{what}. {question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("{refused}");
    }
    Ok(())
}
