//! One rule of a chain.

use ravelin_policy::Family;

use crate::findings::{Findings, quote};
use crate::firewall::value::{self, protocol, value};
use crate::firewall::{Field, Matches, Ranges, Rule, Trouble, Verdict, allow_new_only};
use crate::nft::set::{Element, Sets};
use crate::nft::token::{Token, Tokens};

/// Most ranges in the conditions of all rules together.
const MAX_RANGES: usize = 2_000_000;

/// Reads the rules of one text.
#[derive(Debug)]
pub(super) struct Rules<'s, 't> {
    pub(super) sets: &'s mut Sets<'t>,
    /// Ranges in conditions so far.
    pub(super) ranges: usize,
    /// Whether it was said what a reject becomes.
    pub(super) reject: Option<u32>,
}

/// How a field is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A rule being read.
struct Draft<'t> {
    matches: Vec<Matches>,
    verdict: Option<Verdict>,
    /// A verdict map: matches and the verdict of each entry.
    map: Vec<(Vec<Matches>, Verdict)>,
    /// `ct state new` or more, which can be left away from a rule that accepts.
    new_only: bool,
    said: Vec<&'t str>,
}

impl<'t> Rules<'_, 't> {
    /// Reads a rule up to the end of its line, and adds what it says to `rules`.
    pub(super) fn read(
        &mut self,
        tokens: &mut Tokens<'t>,
        table: usize,
        family: Option<Family>,
        rules: &mut Vec<Rule>,
        findings: &mut Findings,
    ) {
        let line = tokens.line();
        let mut draft = Draft {
            matches: vec![Matches::of_family(family)],
            verdict: None,
            map: Vec::new(),
            new_only: false,
            said: Vec::new(),
        };
        let result = self.statements(tokens, table, &mut draft);
        let verdict = skip_rest(tokens).or(draft.said.last().copied());
        if let Err(trouble) = result {
            let accepts = match verdict {
                Some("accept") => Some(true),
                Some("drop" | "reject") => Some(false),
                _ => None,
            };
            return trouble.tell(line, accepts, findings);
        }
        if draft.new_only && !allow_new_only(line, draft.verdict.as_ref(), findings) {
            return;
        }
        for told in &draft.said {
            if *told == "log" {
                findings.loss(line, "logging was left out");
            }
        }
        for (matches, verdict) in draft.map {
            let matches = draft
                .matches
                .iter()
                .flat_map(|rule| matches.iter().map(|entry| rule.and(entry)));
            rules.push(Rule {
                line,
                matches: matches.collect(),
                verdict,
            });
        }
        if let Some(verdict) = draft.verdict {
            rules.push(Rule {
                line,
                matches: draft.matches,
                verdict,
            });
        }
    }

    fn statements(
        &mut self,
        tokens: &mut Tokens<'t>,
        table: usize,
        draft: &mut Draft<'t>,
    ) -> Result<(), Trouble> {
        while let Some(Token::Word(word)) = tokens.peek() {
            tokens.next();
            match word {
                "accept" => draft.verdict = Some(Verdict::Accept),
                "drop" => draft.verdict = Some(Verdict::Drop),
                "reject" => {
                    self.reject.get_or_insert(tokens.line());
                    draft.verdict = Some(Verdict::Drop);
                    draft.said.push("reject");
                    // What kind of answer is sent.
                    return Ok(());
                }
                "return" => draft.verdict = Some(Verdict::Return),
                "continue" => {}
                "jump" | "goto" => {
                    let name = tokens
                        .word()
                        .ok_or_else(|| Trouble::Wrong(format!("{word} where?")))?
                        .to_owned();
                    draft.verdict = Some(if word == "jump" {
                        Verdict::Jump(name)
                    } else {
                        Verdict::Goto(name)
                    });
                }
                "counter" => skip_words(tokens, &["packets", "bytes", "name"]),
                "comment" => {
                    tokens.next();
                }
                "log" => {
                    draft.said.push("log");
                    skip_words(
                        tokens,
                        &["prefix", "level", "group", "snaplen", "queue-threshold", "flags"],
                    );
                }
                "ct" => self.connection_state(tokens, draft)?,
                "iif" | "oif" | "iifname" | "oifname" => interface(tokens, word)?,
                word => {
                    let Some(field) = field(word, tokens)? else {
                        return Err(Trouble::Lost(format!("{} is not known to a policy", quote(word))));
                    };
                    self.condition(tokens, table, field, draft)?;
                }
            }
            if let Some(Verdict::Accept | Verdict::Drop) = draft.verdict {
                draft.said.push(if draft.verdict == Some(Verdict::Accept) {
                    "accept"
                } else {
                    "drop"
                });
            }
        }
        match tokens.peek() {
            None | Some(Token::End | Token::Sign(';' | '}')) => Ok(()),
            Some(Token::Text(text)) => Err(Trouble::Lost(format!("{} has no meaning here", quote(text)))),
            Some(Token::Sign(sign)) => Err(Trouble::Wrong(format!("`{sign}` is not expected here"))),
            Some(Token::Word(_)) => Ok(()),
        }
    }

    /// A field or several with dots between, and what they are compared with.
    fn condition(
        &mut self,
        tokens: &mut Tokens<'t>,
        table: usize,
        first: Field,
        draft: &mut Draft<'t>,
    ) -> Result<(), Trouble> {
        let mut fields = vec![first];
        while tokens.take_word(".") {
            let word = tokens.word().unwrap_or("");
            match field(word, tokens)? {
                Some(field) => fields.push(field),
                None => return Err(Trouble::Lost(format!("{} is not known to a policy", quote(word)))),
            }
        }
        if tokens.take_word("vmap") {
            let elements = self.set(tokens, table)?;
            for element in elements {
                let verdict = verdict_of(&element)?;
                let matches = alternatives(&fields, &[element])?;
                self.spend(&matches)?;
                draft.map.push((matches, verdict));
            }
            return Ok(());
        }
        if let Some(Token::Word(sign @ ("&" | "|" | "^"))) = tokens.peek() {
            return Err(Trouble::unknown(&format!("calculating with a field (`{sign}`)")));
        }
        let operator = operator(tokens);
        let elements = self.set(tokens, table)?;
        let conditions = match fields.as_slice() {
            [field] => {
                let values = compared(*field, operator, &elements)?;
                let mut matches = Matches::default();
                matches.limit(*field, values);
                vec![matches]
            }
            fields if operator == Operator::Equal => alternatives(fields, &elements)?,
            _ => {
                return Err(Trouble::Lost(
                    "the negation of a set of several fields is not known to a policy".to_owned(),
                ));
            }
        };
        self.spend(&conditions)?;
        if draft.matches.len().saturating_mul(conditions.len()) > MAX_RANGES {
            return Err(Trouble::Wrong(
                "the sets of this rule come to too many combinations".to_owned(),
            ));
        }
        draft.matches = draft
            .matches
            .iter()
            .flat_map(|rule| conditions.iter().map(|condition| rule.and(condition)))
            .collect();
        Ok(())
    }

    fn spend(&mut self, matches: &[Matches]) -> Result<(), Trouble> {
        self.ranges += matches.iter().map(|matches| 1 + matches.ranges()).sum::<usize>();
        if self.ranges > MAX_RANGES {
            return Err(Trouble::Wrong(
                "the sets in conditions come to too many values".to_owned(),
            ));
        }
        Ok(())
    }

    /// A value, a set in braces, or the elements of a named one.
    fn set(&mut self, tokens: &mut Tokens<'t>, table: usize) -> Result<Vec<Element<'t>>, Trouble> {
        if tokens.take('{') {
            return self.sets.elements(tokens).map_err(Trouble::Wrong);
        }
        let word = tokens
            .word()
            .ok_or_else(|| Trouble::Wrong("a value is missing".to_owned()))?;
        if word.starts_with('$') {
            return Err(Trouble::Wrong(
                "variables are not known here; import what `nft list ruleset` prints".to_owned(),
            ));
        }
        let Some(name) = word.strip_prefix('@') else {
            let mut element = Element {
                key: vec![word],
                data: Vec::new(),
            };
            while tokens.take_word(".") {
                element.key.extend(tokens.word());
            }
            // `a,b` stands for a set where values are flags; here nothing is.
            return Ok(vec![element]);
        };
        let set = self
            .sets
            .by_name
            .get(&(table, name))
            .ok_or_else(|| Trouble::Wrong(format!("there is no set {}", quote(name))))?;
        if set.changes {
            return Err(Trouble::Lost(format!("set {} changes by itself", quote(name))));
        }
        self.ranges += set.elements.len();
        if self.ranges > MAX_RANGES {
            return Err(Trouble::Wrong(
                "the sets in conditions come to too many values".to_owned(),
            ));
        }
        Ok(set.elements.clone())
    }

    fn connection_state(&mut self, tokens: &mut Tokens<'t>, draft: &mut Draft<'t>) -> Result<(), Trouble> {
        let lost = |what: &str| Err(Trouble::Lost(format!("{what} is not known to a policy")));
        if tokens.word() != Some("state") {
            return lost("connection tracking");
        }
        if operator(tokens) != Operator::Equal {
            return lost("the state of connections");
        }
        let mut states = Vec::new();
        if tokens.take('{') {
            let elements = self.sets.elements(tokens).map_err(Trouble::Wrong)?;
            states.extend(elements.iter().flat_map(|element| element.key.iter().copied()));
        } else {
            states.extend(tokens.word());
            while tokens.take(',') {
                states.extend(tokens.word());
            }
        }
        if !states.contains(&"new") {
            return lost("the state of connections");
        }
        draft.new_only = true;
        Ok(())
    }
}

/// The field that a word, or it and the next, names; none if a policy has no such field.
fn field(word: &str, tokens: &mut Tokens<'_>) -> Result<Option<Field>, Trouble> {
    let transport = |port: fn(Option<u8>) -> Field| Some(port(protocol(word)));
    if !matches!(
        word,
        "ip" | "ip6" | "tcp" | "udp" | "sctp" | "dccp" | "udplite" | "th" | "icmp" | "icmpv6" | "meta"
    ) {
        return Ok(None);
    }
    let part = tokens
        .word()
        .ok_or_else(|| Trouble::Wrong(format!("something is missing after {word}")))?;
    let found = match (word, part) {
        ("ip", "saddr") => Some(Field::Source(Family::V4)),
        ("ip", "daddr") => Some(Field::Destination(Family::V4)),
        ("ip6", "saddr") => Some(Field::Source(Family::V6)),
        ("ip6", "daddr") => Some(Field::Destination(Family::V6)),
        ("meta", "l4proto") => Some(Field::Protocol),
        ("meta", "nfproto" | "protocol") => Some(Field::Version),
        ("icmp", "type") => Some(Field::IcmpType(Family::V4)),
        ("icmp", "code") => Some(Field::IcmpCode(Family::V4)),
        ("icmpv6", "type") => Some(Field::IcmpType(Family::V6)),
        ("icmpv6", "code") => Some(Field::IcmpCode(Family::V6)),
        ("ip" | "ip6" | "meta" | "icmp" | "icmpv6", _) => None,
        (_, "sport") => transport(Field::SourcePort),
        (_, "dport") => transport(Field::DestinationPort),
        _ => None,
    };
    if found.is_none() && (word, part) == ("ip", "protocol") {
        return Ok(Some(Field::ProtocolOf(Family::V4)));
    }
    if found.is_none() && (word, part) == ("ip6", "nexthdr") {
        return Ok(Some(Field::ProtocolOf(Family::V6)));
    }
    match found {
        Some(field) => Ok(Some(field)),
        None => Err(Trouble::Lost(format!("`{word} {part}` is not known to a policy"))),
    }
}

fn operator(tokens: &mut Tokens<'_>) -> Operator {
    for (first, alone, with_equal) in [
        ('!', Operator::NotEqual, Operator::NotEqual),
        ('=', Operator::Equal, Operator::Equal),
        ('<', Operator::Less, Operator::LessOrEqual),
        ('>', Operator::Greater, Operator::GreaterOrEqual),
    ] {
        if tokens.take(first) {
            return if tokens.take('=') { with_equal } else { alone };
        }
    }
    Operator::Equal
}

/// The values of a field that a comparison holds for.
fn compared(field: Field, operator: Operator, elements: &[Element<'_>]) -> Result<Ranges, Trouble> {
    let mut values = Vec::with_capacity(elements.len());
    for element in elements {
        let [word] = element.key.as_slice() else {
            return Err(Trouble::Wrong(
                "the set's elements have more parts than the rule has fields".to_owned(),
            ));
        };
        values.push(value(field, word).ok_or_else(|| no_value(field, word))?);
    }
    let max = field.max();
    let first = values.first().copied().unwrap_or((0, 0));
    Ok(match operator {
        Operator::Equal => Ranges::new(values),
        Operator::NotEqual => Ranges::new(values).complement(max),
        Operator::Less => Ranges::new(first.0.checked_sub(1).map(|last| (0, last)).into_iter().collect()),
        Operator::LessOrEqual => Ranges::new(vec![(0, first.1)]),
        Operator::Greater => Ranges::new(
            first
                .1
                .checked_add(1)
                .map(|start| (start, max))
                .into_iter()
                .collect(),
        ),
        Operator::GreaterOrEqual => Ranges::new(vec![(first.0, max)]),
    })
}

/// What matches each element of a set of several fields.
fn alternatives(fields: &[Field], elements: &[Element<'_>]) -> Result<Vec<Matches>, Trouble> {
    let mut alternatives = Vec::with_capacity(elements.len());
    for element in elements {
        if element.key.len() != fields.len() {
            return Err(Trouble::Wrong(
                "the set's elements do not have a part for each of the rule's fields".to_owned(),
            ));
        }
        let mut matches = Matches::default();
        for (field, word) in fields.iter().zip(&element.key) {
            let range = value(*field, word).ok_or_else(|| no_value(*field, word))?;
            matches.limit(*field, Ranges::new(vec![range]));
        }
        alternatives.push(matches);
    }
    Ok(alternatives)
}

fn no_value(field: Field, word: &str) -> Trouble {
    if word == "*" {
        return Trouble::Lost("the catch-all element of a map or set is not known to a policy".to_owned());
    }
    value::no_value(field, word)
}

fn verdict_of(element: &Element<'_>) -> Result<Verdict, Trouble> {
    match element.data.as_slice() {
        ["accept"] => Ok(Verdict::Accept),
        ["drop"] => Ok(Verdict::Drop),
        ["return"] => Ok(Verdict::Return),
        ["jump", chain] => Ok(Verdict::Jump((*chain).to_owned())),
        ["goto", chain] => Ok(Verdict::Goto((*chain).to_owned())),
        other => Err(Trouble::Lost(format!(
            "the verdict {} of a map is not known to a policy",
            quote(&other.join(" "))
        ))),
    }
}

/// The loopback device is none of Ravelin's: rules about it need not be imported. Others cannot be.
fn interface(tokens: &mut Tokens<'_>, word: &str) -> Result<(), Trouble> {
    let operator = operator(tokens);
    let name = match tokens.next() {
        Some(Token::Text(name) | Token::Word(name)) => name,
        _ => "",
    };
    match (name, operator) {
        ("lo", Operator::Equal) => Err(Trouble::Nothing),
        // Always so.
        ("lo", Operator::NotEqual) => Ok(()),
        _ => Err(Trouble::Lost(format!(
            "the device ({word}) is not known to a rule of a policy"
        ))),
    }
}

/// Skips words of which each is followed by a value.
fn skip_words(tokens: &mut Tokens<'_>, words: &[&str]) {
    while let Some(Token::Word(word)) = tokens.peek() {
        if !words.contains(&word) {
            return;
        }
        tokens.next();
        tokens.next();
    }
}

/// Skips what is left of a rule, and gives the verdict found in it.
fn skip_rest<'t>(tokens: &mut Tokens<'t>) -> Option<&'t str> {
    let mut verdict = None;
    loop {
        match tokens.peek() {
            None | Some(Token::End | Token::Sign(';' | '}')) => return verdict,
            Some(Token::Sign('{')) => {
                tokens.next();
                tokens.skip_block();
                continue;
            }
            Some(Token::Word(word @ ("accept" | "drop" | "reject"))) => verdict = Some(word),
            _ => {}
        }
        tokens.next();
    }
}
