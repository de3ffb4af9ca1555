//! Where figures are written: below the target folder always, into the repository on demand.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::samples::ENOUGH;

/// Where tables have their places.
const PAGES: [&str; 2] = ["docs/benchmarks.md", "docs/nanoseconds.md"];

/// Options of every bench about its results.
#[derive(Clone, Debug, clap::Args)]
pub struct Destination {
    /// Write table and raw figures to bench/results as well, and the table to its page in docs
    #[arg(long)]
    publish: bool,

    /// Folder for table and raw figures
    #[arg(long, value_name = "DIR", hide = true)]
    out: PathBuf,

    /// The clone of the repository
    #[arg(long, value_name = "DIR", hide = true)]
    root: PathBuf,
}

impl Destination {
    /// Finds out before the long part, not after it, whether results can be written.
    ///
    /// # Errors
    ///
    /// They cannot, or a quick run or one of few rounds is to be published.
    pub fn prepare(&self, quick: bool, rounds: usize) -> Result<()> {
        ensure!(
            !(quick && self.publish),
            "a quick run is a look, not a measurement: leave out --quick or --publish"
        );
        ensure!(
            rounds >= ENOUGH || !self.publish,
            "{rounds} rounds are too few to be published: {ENOUGH} are the least"
        );
        for folder in self.folders() {
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(())
    }

    /// Where what there is so far goes: to this run's folder, never to where the last whole run was published.
    #[must_use]
    pub fn for_now(&self) -> Self {
        Self {
            publish: false,
            ..self.clone()
        }
    }

    /// The folder of this run's files.
    #[must_use]
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Writes `name`.svg. With the next [`save`](Self::save) of this name it stands below the table.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn plot(&self, name: &str, picture: &str) -> Result<()> {
        for folder in self.folders() {
            write(&folder.join(format!("{name}.svg")), picture)?;
        }
        Ok(())
    }

    /// Writes `name`.md and `name`.json. May be called with what there is so far, and again.
    ///
    /// # Errors
    ///
    /// A file cannot be written, or no page has a place for this table.
    pub fn save(&self, name: &str, table: &str, raw: &str) -> Result<()> {
        for folder in self.folders() {
            write(&folder.join(format!("{name}.md")), table)?;
            write(&folder.join(format!("{name}.json")), raw)?;
        }
        if self.publish {
            let mut section = table.to_owned();
            let picture = format!("bench/results/{name}.svg");
            if self.root.join(&picture).is_file() {
                section += &format!("\n![the same as a picture](../{picture})\n");
            }
            for page in PAGES {
                let path = self.root.join(page);
                let text =
                    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                if let Some(text) = with_section(&text, name, &section) {
                    return write(&path, &text);
                }
            }
            bail!("no place for `{name}` in {}", PAGES.join(" or "));
        }
        Ok(())
    }

    /// Shows the table, and where it is.
    pub fn show(&self, table: &str) {
        println!("{table}\nwritten to {}", self.out.display());
    }

    fn folders(&self) -> Vec<PathBuf> {
        let published = self.publish.then(|| self.root.join("bench/results"));
        [self.out.clone()].into_iter().chain(published).collect()
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The page with another table between the comments `<!-- name: begin -->` and `<!-- name: end -->`.
fn with_section(page: &str, name: &str, table: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name}: begin -->"), format!("<!-- {name}: end -->"));
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", table.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::with_section;

    #[test]
    fn a_table_replaces_the_one_before() {
        let page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n<!-- y: begin --><!-- y: end -->\n";
        let once = with_section(page, "x", "new\n").unwrap();
        assert_eq!(
            once,
            "a\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nb\n<!-- y: begin --><!-- y: end -->\n"
        );
        assert_eq!(with_section(&once, "x", "new").unwrap(), once);
        assert_eq!(with_section(page, "z", "new"), None);
    }
}
