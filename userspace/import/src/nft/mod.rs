//! Rule sets of nftables, as `nft list ruleset` prints them.

mod rule;
mod set;
mod token;

use ravelin_policy::Family;

use crate::findings::{Findings, ImportErrors, quote};
use crate::firewall::{Base, Firewall, FirewallOptions, Hook, Matches};
use crate::imported::Imported;
use crate::nft::rule::Rules;
use crate::nft::set::Sets;
use crate::nft::token::{Token, Tokens};
use crate::source::Source;

/// Imports what `nft list ruleset` prints.
///
/// Imported are the chains at input, forward and output with what depends on a packet's addresses, protocol, ports and ICMP
/// type alone; rules about anything else are left out, each with a warning.
///
/// # Errors
/// Text that is no rule set, or one that is too large for a policy when jumps are written out.
pub fn nft(source: &Source, options: &FirewallOptions) -> Result<Imported, ImportErrors> {
    let mut findings = Findings::new(source.name());
    let mut sets = Sets::default();
    // Rules may name sets that come after them.
    walk(
        source,
        &mut findings,
        &mut |tokens, kind, table, name, findings| {
            let line = tokens.line();
            if matches!(kind, "set" | "map") {
                if let Err(message) = sets.read(tokens, table.index, name) {
                    findings.error(line, message);
                }
            } else {
                tokens.skip_block();
            }
        },
    );
    let mut firewall = Firewall::default();
    let mut rules = Rules {
        sets: &mut sets,
        ranges: 0,
        reject: None,
    };
    // Everything wrong with the structure has been told.
    let mut again = Findings::new(source.name());
    walk(source, &mut again, &mut |tokens, kind, table, name, _| {
        if kind == "chain" {
            chain(tokens, table, name, &mut firewall, &mut rules, &mut findings);
        } else {
            tokens.skip_block();
        }
    });
    if let Some(line) = rules.reject {
        findings.note(
            line,
            "rules that reject block here: packets are dropped without an answer",
        );
    }
    let draft = firewall.draft(options, &mut findings);
    Imported::finish(source, "nftables", findings, &draft.write())
}

/// A table of a family that is imported.
#[derive(Clone, Copy)]
struct Table {
    index: usize,
    family: Option<Family>,
    dormant: bool,
}

/// Called for a block in a table, behind its `{`, and reads to behind its `}`.
type Block<'w, 't> = dyn FnMut(&mut Tokens<'t>, &'t str, Table, &'t str, &mut Findings) + 'w;

/// Finds the blocks of every table.
fn walk<'t>(source: &'t Source, findings: &mut Findings, block: &mut Block<'_, 't>) {
    let mut tokens = Tokens::new(source.text());
    let mut index = 0;
    loop {
        let line = tokens.line();
        match tokens.next() {
            None => return,
            Some(Token::End | Token::Sign(';')) => {}
            Some(Token::Word("table")) => {
                index += 1;
                if let Err(message) = table(&mut tokens, index, findings, block) {
                    findings.error(line, message);
                    return;
                }
            }
            Some(Token::Word(word)) => {
                let message = format!(
                    "{} is not expected here; import what `nft list ruleset` prints",
                    quote(word)
                );
                findings.error(line, message);
                return;
            }
            Some(_) => {
                findings.error(line, "this is no rule set; import what `nft list ruleset` prints");
                return;
            }
        }
    }
}

fn table<'t>(
    tokens: &mut Tokens<'t>,
    index: usize,
    findings: &mut Findings,
    block: &mut Block<'_, 't>,
) -> Result<(), String> {
    let line = tokens.line();
    let family = match tokens.word() {
        Some("ip") => Some(Some(Family::V4)),
        Some("ip6") => Some(Some(Family::V6)),
        Some("inet") => Some(None),
        Some("arp" | "bridge" | "netdev") => None,
        _ => return Err("a table has a family: ip, ip6, inet, arp, bridge or netdev".to_owned()),
    };
    let name = name(tokens).ok_or("a table has a name")?;
    tokens.skip_ends();
    if !tokens.take('{') {
        return Err("a table's `{` is missing".to_owned());
    }
    let Some(family) = family else {
        findings.loss(
            line,
            format!(
                "table {} is not about IP packets on their way; it was left out",
                quote(name)
            ),
        );
        tokens.skip_block();
        return Ok(());
    };
    let mut table = Table {
        index,
        family,
        dormant: false,
    };
    loop {
        match tokens.next_in_braces() {
            Some(Token::Sign('}')) => return Ok(()),
            None => return Err("the table is not closed with `}`".to_owned()),
            Some(Token::Sign(';')) => {}
            Some(Token::Word("flags")) => {
                if tokens.word() == Some("dormant") {
                    table.dormant = true;
                    findings.note(line, format!("table {} is dormant; it was left out", quote(name)));
                }
            }
            Some(Token::Word("comment")) => {
                tokens.next();
            }
            Some(Token::Word(kind)) => {
                let name = self::name(tokens).unwrap_or("");
                // `ct helper NAME {`
                while tokens
                    .peek()
                    .is_some_and(|token| matches!(token, Token::Word(_) | Token::Text(_)))
                {
                    tokens.next();
                }
                tokens.skip_ends();
                if !tokens.take('{') {
                    return Err(format!("the `{{` of {} is missing", quote(kind)));
                }
                if table.dormant {
                    tokens.skip_block();
                } else {
                    block(tokens, kind, table, name, findings);
                }
            }
            Some(_) => return Err("a chain, set or map is expected in a table".to_owned()),
        }
    }
}

fn name<'t>(tokens: &mut Tokens<'t>) -> Option<&'t str> {
    match tokens.peek()? {
        Token::Word(name) | Token::Text(name) => {
            tokens.next();
            Some(name)
        }
        _ => None,
    }
}

fn chain<'t>(
    tokens: &mut Tokens<'t>,
    table: Table,
    name: &str,
    firewall: &mut Firewall,
    rules: &mut Rules<'_, 't>,
    findings: &mut Findings,
) {
    let line = tokens.line();
    let index = firewall.chain(table.index, name, line);
    firewall.chains[index].line = line;
    let mut read = Vec::new();
    // Rules of a chain that is not imported are not spoken of one by one.
    let mut quiet = Findings::new("");
    let mut elsewhere = None;
    let mut base = None;
    loop {
        match tokens.peek() {
            None => {
                findings.error(line, format!("chain {} is not closed with `}}`", quote(name)));
                break;
            }
            Some(Token::End | Token::Sign(';')) => {
                tokens.next();
            }
            Some(Token::Sign('}')) => {
                tokens.next();
                break;
            }
            Some(Token::Word("type")) => match hook(tokens) {
                Ok((hook, priority)) => {
                    base = Some(Base {
                        hook,
                        priority,
                        matches: Matches::of_family(table.family),
                        accepts: true,
                        chain: index,
                    });
                }
                Err(what) => elsewhere = Some(what),
            },
            Some(Token::Word("policy")) => {
                tokens.next();
                let policy = tokens.word();
                if let Some(base) = &mut base {
                    base.accepts = policy != Some("drop");
                }
            }
            Some(Token::Word("devices" | "device")) => elsewhere = Some("devices".to_owned()),
            Some(_) => {
                let before = tokens.clone();
                let findings = if elsewhere.is_some() {
                    &mut quiet
                } else {
                    &mut *findings
                };
                rules.read(tokens, table.index, table.family, &mut read, findings);
                if before.is_at(tokens) {
                    tokens.next();
                }
            }
        }
    }
    if let Some(what) = elsewhere {
        let message = format!(
            "chain {} is about {what}, which a policy does not know; it was left out",
            quote(name)
        );
        findings.loss(line, message);
        return;
    }
    firewall.chains[index].rules = read;
    firewall.bases.extend(base);
}

/// `type filter hook input priority filter + 10;` as hook and priority, or what the chain is about.
fn hook(tokens: &mut Tokens<'_>) -> Result<(Hook, i64), String> {
    let mut words = Vec::new();
    while let Some(Token::Word(word)) = tokens.peek() {
        tokens.next();
        // `device` may name one in quotes.
        words.push(word);
    }
    let after = |word: &str| {
        let at = words.iter().position(|found| *found == word)?;
        words.get(at + 1).copied()
    };
    let place = after("hook").unwrap_or("nothing");
    if after("type") != Some("filter") {
        return Err(format!("{} at {place}", after("type").unwrap_or("nothing")));
    }
    let Some(hook) = Hook::named(place) else {
        return Err(place.to_owned());
    };
    let priority = words
        .iter()
        .skip_while(|word| **word != "priority")
        .skip(1)
        .fold((0_i64, 1_i64), |(sum, sign), word| match *word {
            "+" => (sum, 1),
            "-" => (sum, -1),
            word => (sum.saturating_add(sign * named_priority(word)), 1),
        })
        .0;
    Ok((hook, priority))
}

fn named_priority(word: &str) -> i64 {
    match word {
        "raw" => -300,
        "mangle" => -150,
        "dstnat" => -100,
        "filter" => 0,
        "security" => 50,
        "srcnat" => 100,
        number => number.parse::<i32>().map_or(0, i64::from),
    }
}
