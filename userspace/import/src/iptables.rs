//! Rules as `iptables-save` and `ip6tables-save` print them.

use ravelin_policy::Family;

use crate::findings::{Findings, ImportErrors, quote};
use crate::firewall::value::{no_value, protocol, value};
use crate::firewall::{
    Base, Field, Firewall, FirewallOptions, Hook, Matches, Ranges, Rule, Trouble, Verdict, allow_new_only,
};
use crate::imported::Imported;
use crate::source::Source;

/// Lines looked at for signs of IPv6.
const LOOKED_AT: usize = 10_000;

/// Imports what `iptables-save` or `ip6tables-save` prints.
///
/// Imported is the table `filter`; rules about anything but a packet's addresses, protocol, ports and ICMP type are
/// left out, each with a warning.
///
/// # Errors
/// Text that is not in that format, or rules that are too many for a policy when jumps are written out.
pub fn iptables_save(source: &Source, options: &FirewallOptions) -> Result<Imported, ImportErrors> {
    let mut findings = Findings::new(source.name());
    let family = family(source.text());
    let mut reader = Reader {
        family,
        firewall: Firewall::default(),
        table: None,
        elsewhere: false,
        reject: None,
    };
    let lines: Vec<(u32, &str)> = source.lines(&mut findings).collect();
    for (line, text) in lines {
        if let Err(trouble) = reader.line(line, text.trim(), &mut findings) {
            let accepts = text.split_whitespace().skip_while(|word| *word != "-j").nth(1);
            let accepts = match accepts {
                Some("ACCEPT") => Some(true),
                Some("DROP" | "REJECT") => Some(false),
                _ => None,
            };
            trouble.tell(line, accepts, &mut findings);
        }
    }
    if let Some(line) = reader.reject {
        findings.note(
            line,
            "rules that reject block here: packets are dropped without an answer",
        );
    }
    let draft = reader.firewall.draft(options, &mut findings);
    let language = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    Imported::finish(source, language, findings, &draft.write())
}

/// The version of IP that the rules are about, which only a comment says.
fn family(text: &str) -> Family {
    let v6 = text.lines().take(LOOKED_AT).any(|line| {
        if line.starts_with('#') {
            return line.contains("ip6tables-save");
        }
        let mut words = line.split_whitespace();
        line.contains("ipv6-icmp")
            || words.any(|word| {
                word.split('/')
                    .next()
                    .is_some_and(|word| word.parse::<std::net::Ipv6Addr>().is_ok())
            })
    });
    if v6 { Family::V6 } else { Family::V4 }
}

struct Reader {
    family: Family,
    firewall: Firewall,
    /// The table whose rules are being read, and the line where it starts.
    table: Option<u32>,
    /// It is not the table `filter`.
    elsewhere: bool,
    /// Where the first rule that rejects stands.
    reject: Option<u32>,
}

impl Reader {
    fn line(&mut self, line: u32, text: &str, findings: &mut Findings) -> Result<(), Trouble> {
        let Some(first) = text.chars().next() else {
            return Ok(());
        };
        match first {
            '#' => return Ok(()),
            '*' => {
                self.table = Some(line);
                self.elsewhere = &text[1..] != "filter";
                return Ok(());
            }
            _ if text == "COMMIT" => {
                self.table = None;
                return Ok(());
            }
            _ => {}
        }
        let Some(table) = self.table else {
            return Err(Trouble::Wrong(format!(
                "{} stands in no table; import what `iptables-save` prints",
                quote(text)
            )));
        };
        if let Some(chain) = text.strip_prefix(':') {
            return self.chain(line, chain);
        }
        if self.elsewhere {
            // Told once a table, at its first rule.
            if !self
                .firewall
                .by_name
                .contains_key(&(table as usize, String::new()))
            {
                self.firewall.chain(table as usize, "", line);
                findings.loss(
                    table,
                    "rules of this table are not about which packets pass; they were left out",
                );
            }
            return Ok(());
        }
        let words = words(text).map_err(Trouble::Wrong)?;
        self.rule(line, &words, findings)
    }

    /// `INPUT DROP [0:0]`, or `name - [0:0]` for a chain that is only jumped to.
    fn chain(&mut self, line: u32, text: &str) -> Result<(), Trouble> {
        let mut words = text.split_whitespace();
        let (Some(name), Some(policy)) = (words.next(), words.next()) else {
            return Err(Trouble::Wrong(
                "a chain is written `:NAME POLICY [packets:bytes]`".to_owned(),
            ));
        };
        if self.elsewhere {
            return Ok(());
        }
        let index = self.firewall.chain(0, name, line);
        self.firewall.chains[index].line = line;
        if let Some(hook) = Hook::named(name)
            && policy != "-"
        {
            self.firewall.bases.push(Base {
                hook,
                priority: 0,
                matches: Matches::of_family(Some(self.family)),
                accepts: policy != "DROP",
                chain: index,
            });
        }
        Ok(())
    }

    fn rule(&mut self, line: u32, words: &[String], findings: &mut Findings) -> Result<(), Trouble> {
        let mut words = words.iter().map(String::as_str).peekable();
        // `iptables-save -c` has counters in front.
        words.next_if(|word| word.starts_with('['));
        if words.next() != Some("-A") {
            return Err(Trouble::Wrong(
                "a rule starts with `-A CHAIN`; import what `iptables-save` prints".to_owned(),
            ));
        }
        let chain = words
            .next()
            .ok_or_else(|| Trouble::Wrong("-A without a chain".to_owned()))?;
        let Some(chain) = self.firewall.by_name.get(&(0, chain.to_owned())).copied() else {
            return Err(Trouble::Wrong(format!("there is no chain {}", quote(chain))));
        };
        let mut draft = Draft::new(self.family);
        while let Some(word) = words.next() {
            let negated = word == "!";
            let option = if negated { words.next().unwrap_or("") } else { word };
            let mut argument = || {
                words
                    .next()
                    .ok_or_else(|| Trouble::Wrong(format!("{} lacks its value", quote(option))))
            };
            match option {
                "-m" | "--match" => {
                    argument()?;
                }
                "--comment" => {
                    argument()?;
                }
                "-j" | "--jump" | "-g" | "--goto" => {
                    let target = argument()?;
                    draft.target(
                        option,
                        target,
                        self.firewall.by_name.contains_key(&(0, target.to_owned())),
                    )?;
                    if target == "REJECT" {
                        self.reject.get_or_insert(line);
                    }
                    if target == "LOG" {
                        findings.loss(line, "logging was left out");
                        return Ok(());
                    }
                    // What follows says how the target does it.
                    break;
                }
                option => draft.condition(option, negated, argument()?)?,
            }
        }
        if draft.new_only && !allow_new_only(line, draft.verdict.as_ref(), findings) {
            return Ok(());
        }
        if let Some(verdict) = draft.verdict {
            self.firewall.chains[chain].rules.push(Rule {
                line,
                matches: draft.matches,
                verdict,
            });
        }
        Ok(())
    }
}

/// A rule being read.
struct Draft {
    family: Family,
    matches: Vec<Matches>,
    protocol: Option<u8>,
    verdict: Option<Verdict>,
    new_only: bool,
}

impl Draft {
    fn new(family: Family) -> Self {
        Self {
            family,
            matches: vec![Matches::of_family(Some(family))],
            protocol: None,
            verdict: None,
            new_only: false,
        }
    }

    fn target(&mut self, option: &str, target: &str, is_chain: bool) -> Result<(), Trouble> {
        self.verdict = Some(match target {
            "ACCEPT" => Verdict::Accept,
            "DROP" | "REJECT" => Verdict::Drop,
            "RETURN" => Verdict::Return,
            "LOG" => return Ok(()),
            name if is_chain && matches!(option, "-g" | "--goto") => Verdict::Goto(name.to_owned()),
            name if is_chain => Verdict::Jump(name.to_owned()),
            name => return Err(Trouble::unknown(&format!("the target {}", quote(name)))),
        });
        Ok(())
    }

    fn condition(&mut self, option: &str, negated: bool, argument: &str) -> Result<(), Trouble> {
        let family = self.family;
        match option {
            "-s" | "--source" | "--src" | "--src-range" => {
                self.limit(Field::Source(family), negated, argument.split(','))
            }
            "-d" | "--destination" | "--dst" | "--dst-range" => {
                self.limit(Field::Destination(family), negated, argument.split(','))
            }
            "-p" | "--protocol" => {
                if matches!(argument, "all" | "0") {
                    return Ok(());
                }
                if !negated {
                    self.protocol = protocol(argument);
                }
                self.limit(Field::Protocol, negated, std::iter::once(argument))
            }
            "--sport" | "--source-port" | "--sports" | "--source-ports" => {
                self.limit_ports(Field::SourcePort(self.protocol), negated, argument)
            }
            "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
                self.limit_ports(Field::DestinationPort(self.protocol), negated, argument)
            }
            "--ports" if !negated => {
                let mut other = Self {
                    matches: self.matches.clone(),
                    ..Self::new(family)
                };
                other.limit_ports(Field::SourcePort(self.protocol), false, argument)?;
                self.limit_ports(Field::DestinationPort(self.protocol), false, argument)?;
                self.matches.extend(other.matches);
                Ok(())
            }
            "--icmp-type" | "--icmpv6-type" => self.icmp(negated, argument),
            "-i" | "--in-interface" | "-o" | "--out-interface" => match (argument, negated) {
                ("lo", false) => Err(Trouble::Nothing),
                ("lo", true) => Ok(()),
                _ => Err(Trouble::unknown(&format!("the device ({option})"))),
            },
            "--state" | "--ctstate" if !negated && argument.split(',').any(|state| state == "NEW") => {
                self.new_only = true;
                Ok(())
            }
            "--state" | "--ctstate" => Err(Trouble::unknown("the state of connections")),
            option => Err(Trouble::unknown(&quote(option))),
        }
    }

    fn limit<'w>(
        &mut self,
        field: Field,
        negated: bool,
        words: impl Iterator<Item = &'w str>,
    ) -> Result<(), Trouble> {
        let mut values = Vec::new();
        for word in words {
            values.push(value(field, word).ok_or_else(|| no_value(field, word))?);
        }
        let values = Ranges::new(values);
        let values = if negated {
            values.complement(field.max())
        } else {
            values
        };
        for matches in &mut self.matches {
            matches.limit(field, values.clone());
        }
        Ok(())
    }

    /// Ports with `:` between first and last, either of which may be left out.
    fn limit_ports(&mut self, field: Field, negated: bool, argument: &str) -> Result<(), Trouble> {
        let ranges: Vec<String> = argument
            .split(',')
            .map(|part| match part.split_once(':') {
                Some((first, last)) => {
                    let first = if first.is_empty() { "0" } else { first };
                    let last = if last.is_empty() { "65535" } else { last };
                    format!("{first}-{last}")
                }
                None => part.to_owned(),
            })
            .collect();
        self.limit(field, negated, ranges.iter().map(String::as_str))
    }

    fn icmp(&mut self, negated: bool, argument: &str) -> Result<(), Trouble> {
        if matches!(argument, "any" | "255") {
            return Ok(());
        }
        match argument.split_once('/') {
            None => self.limit(Field::IcmpType(self.family), negated, std::iter::once(argument)),
            Some(_) if negated => Err(Trouble::unknown("the negation of an ICMP type and code")),
            Some((kind, code)) => {
                self.limit(Field::IcmpType(self.family), false, std::iter::once(kind))?;
                self.limit(Field::IcmpCode(self.family), false, std::iter::once(code))
            }
        }
    }
}

/// The words of a rule; those in quotation marks may hold spaces, and quotation marks behind `\`.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let (mut word, mut in_word, mut in_quotes) = (String::new(), false, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => (in_quotes, in_word) = (!in_quotes, true),
            '\\' if in_quotes => word.extend(chars.next()),
            c if c.is_whitespace() && !in_quotes => {
                if in_word {
                    words.push(std::mem::take(&mut word));
                }
                in_word = false;
            }
            c => {
                word.push(c);
                in_word = true;
            }
        }
    }
    if in_quotes {
        return Err("a quotation mark is not closed".to_owned());
    }
    if in_word {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn quoted_words_may_hold_spaces() {
        let found = words(r#"-A INPUT  -m comment --comment "a \"b\" c" -j DROP"#).unwrap();
        assert_eq!(
            found,
            [
                "-A",
                "INPUT",
                "-m",
                "comment",
                "--comment",
                "a \"b\" c",
                "-j",
                "DROP"
            ]
        );
        assert!(words("\"").is_err());
    }
}
