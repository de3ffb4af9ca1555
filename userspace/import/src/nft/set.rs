//! Sets and maps: their elements, as words until a rule says which fields they are.

use std::collections::HashMap;

use crate::nft::token::{Token, Tokens};

/// Most elements of all sets together.
const MAX_ELEMENTS: usize = 1_000_000;

/// One element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Element<'t> {
    /// The parts of the key; more than one when fields are concatenated.
    pub(super) key: Vec<&'t str>,
    /// What a map has behind the colon.
    pub(super) data: Vec<&'t str>,
}

/// A named set or map.
#[derive(Debug, Default)]
pub(super) struct Set<'t> {
    pub(super) elements: Vec<Element<'t>>,
    /// Whether the kernel adds and removes elements by itself.
    pub(super) changes: bool,
}

/// The named sets and maps of all tables.
#[derive(Debug, Default)]
pub(super) struct Sets<'t> {
    pub(super) by_name: HashMap<(usize, &'t str), Set<'t>>,
    elements: usize,
}

impl<'t> Sets<'t> {
    /// Reads the block of a named set or map, whose `{` has been taken.
    pub(super) fn read(
        &mut self,
        tokens: &mut Tokens<'t>,
        table: usize,
        name: &'t str,
    ) -> Result<(), String> {
        let mut set = Set::default();
        loop {
            match tokens.next_in_braces() {
                Some(Token::Sign('}')) => break,
                None => return Err("the set is not closed".to_owned()),
                Some(Token::Word("elements")) => {
                    if !tokens.take('=') || !tokens.take('{') {
                        return Err("elements are written = { ... }".to_owned());
                    }
                    set.elements.extend(self.elements(tokens)?);
                }
                Some(Token::Word("timeout" | "gc-interval" | "dynamic")) => set.changes = true,
                Some(Token::Sign('{')) => tokens.skip_block(),
                _ => {}
            }
        }
        self.by_name.insert((table, name), set);
        Ok(())
    }

    /// Reads elements up to the `}`; the `{` has been taken.
    pub(super) fn elements(&mut self, tokens: &mut Tokens<'t>) -> Result<Vec<Element<'t>>, String> {
        let mut elements = Vec::new();
        let mut element = Element::default();
        let (mut in_data, mut dot) = (false, false);
        loop {
            let token = tokens.next_in_braces();
            match token {
                Some(Token::Sign(',' | '}')) | None => {
                    if !element.key.is_empty() {
                        self.elements += 1;
                        if self.elements > MAX_ELEMENTS {
                            return Err(format!("more than {MAX_ELEMENTS} elements in sets"));
                        }
                        elements.push(std::mem::take(&mut element));
                    }
                    (in_data, dot) = (false, false);
                    match token {
                        Some(Token::Sign('}')) => return Ok(elements),
                        None => return Err("the elements are not closed with `}`".to_owned()),
                        _ => {}
                    }
                }
                Some(Token::Word(":")) => in_data = true,
                Some(Token::Word(".")) => dot = true,
                // What the kernel knows besides: `timeout 5m expires 4m`, `counter packets 1 bytes 2`, `comment "..."`.
                Some(
                    Token::Word("timeout" | "expires" | "packets" | "bytes" | "comment") | Token::Sign('='),
                ) => {
                    tokens.next();
                }
                Some(Token::Word("counter")) => {}
                Some(Token::Word(word)) if in_data => element.data.push(word),
                Some(Token::Text(word) | Token::Word(word)) if element.key.is_empty() || dot => {
                    element.key.push(word);
                    dot = false;
                }
                Some(Token::Text(_) | Token::Word(_)) => {
                    return Err("an element is no plain value".to_owned());
                }
                Some(Token::Sign(sign)) => return Err(format!("`{sign}` among the elements of a set")),
                Some(Token::End) => {}
            }
        }
    }
}
