//! Where figures are written: below the target folder always, into the repository on demand.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::samples::{ENOUGH, MISSED};

/// Where tables have their places.
const PAGES: [&str; 2] = ["docs/benchmarks.md", "docs/nanoseconds.md"];

/// Tables with aims.
const TABLES: [&str; 6] = ["host", "gcm", "cores", "engine", "veth", "filter"];

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
                    write(&path, &text)?;
                    return self.list_missed();
                }
            }
            bail!("no place for `{name}` in {}", PAGES.join(" or "));
        }
        Ok(())
    }

    /// Lists the aims that published tables miss.
    fn list_missed(&self) -> Result<()> {
        let page = self.root.join(PAGES[0]);
        let mut list = String::new();
        for name in TABLES {
            let path = self.root.join(format!("bench/results/{name}.md"));
            // One that was never published misses nothing.
            let table = fs::read_to_string(path).unwrap_or_default();
            for line in missed(&table) {
                list += &format!("- {name}: {line}\n");
            }
        }
        let text = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
        let text = with_section(&text, "missed", &list).context("no place for the aims that were missed")?;
        write(&page, &text)
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

/// What rows of tables say of aims that they miss. A cell that has only the aim follows the figure.
fn missed(report: &str) -> Vec<String> {
    let (mut header, mut list) = (Vec::new(), Vec::new());
    for line in report.lines() {
        let Some(row) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            // Some aims have a line of their own, below their table.
            if line.contains(", aim ≥ ") && line.contains(MISSED) {
                list.push(line.replace(MISSED, ", missed"));
            }
            header.clear();
            continue;
        };
        let cells: Vec<&str> = row.split(" |").map(str::trim).collect();
        if header.is_empty() {
            header = cells;
            continue;
        }
        for (place, cell) in cells.iter().enumerate().filter(|(_, cell)| cell.contains(MISSED)) {
            let cell = cell.replace(MISSED, "");
            let name = |place: usize| header.get(place).copied().unwrap_or_default();
            // A column of aims is about the first ratio.
            let ratio = header.iter().position(|name| name.contains(" / "));
            list.push(match (name(place), ratio) {
                ("aim", Some(ratio)) => {
                    format!(
                        "{}: {} {}, aim {cell}",
                        cells[0],
                        name(ratio),
                        cells.get(ratio).unwrap_or(&"")
                    )
                }
                (column, _) => format!("{}: {column}: {cell}", cells[0]),
            });
        }
    }
    list
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
    use super::{missed, with_section};

    #[test]
    fn what_is_missed_is_listed_with_its_figure() {
        let report = "Text.\n\n| work | a | ours / theirs | aim |\n|---|---:|---:|---|\n\
                      | seal, 64 B | 3 (±1) | 1.50 | ≥ 5.0: **missed** |\n| seal, 4 KiB | 9 (±1) | 1.90 | ≥ 1.1: met |\n\n\
                      | | 64 B |\n|---|---:|\n| ours / theirs, aim ≥ 2 | 1.20: **missed** |\n\n\
                      TCP: 0.10 × plain, aim ≥ 0.3: **missed**.\n\nDatagrams: 0.40 × plain, aim ≥ 0.3: met.\n\n\
                      One figure that was **missed** by all.\n";
        assert_eq!(
            missed(report),
            [
                "seal, 64 B: ours / theirs 1.50, aim ≥ 5.0",
                "ours / theirs, aim ≥ 2: 64 B: 1.20",
                "TCP: 0.10 × plain, aim ≥ 0.3, missed."
            ]
        );
    }

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
