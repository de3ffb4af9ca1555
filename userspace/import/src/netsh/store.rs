//! What the commands of a script build up: filter lists, filter actions, policies, rules, settings.

use std::collections::HashMap;

use crate::findings::quote;
use crate::netsh::address::Side;
use crate::netsh::command::Arguments;
use crate::netsh::security::{Method, quick_mode};

/// Most objects of one kind: a limit against a script that is only there to exhaust memory.
pub(super) const MAX_OBJECTS: usize = 100_000;

/// Everything a script defines, in the order of definition.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) lists: Named<FilterList>,
    pub(super) actions: Named<FilterAction>,
    pub(super) policies: Named<Policy>,
    pub(super) dynamic: Vec<DynamicRule>,
    pub(super) exemptions: Option<u8>,
    pub(super) boot: Option<&'static str>,
    /// The assigned policy, in lower case.
    pub(super) assigned: Option<String>,
    pub(super) filters: usize,
    /// Objects looked at by commands that look at all of a kind.
    pub(super) searched: usize,
}

#[derive(Debug, Default)]
pub(super) struct FilterList {
    pub(super) line: u32,
    pub(super) filters: Vec<Filter>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) line: u32,
    pub(super) source: Side,
    pub(super) destination: Side,
    pub(super) protocol: Option<u8>,
    pub(super) source_port: Option<u16>,
    pub(super) destination_port: Option<u16>,
    pub(super) mirrored: bool,
}

#[derive(Clone, Debug)]
pub(super) struct FilterAction {
    pub(super) line: u32,
    pub(super) action: Action,
    pub(super) accept_unsecured: bool,
    pub(super) fallback_clear: bool,
    pub(super) perfect_forward_secrecy: bool,
    pub(super) methods: Vec<Method>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Permit,
    Block,
    Negotiate,
}

#[derive(Debug, Default)]
pub(super) struct Policy {
    pub(super) line: u32,
    pub(super) rules: Named<Rule>,
    /// Whether the default response rule was turned off.
    pub(super) without_default_rule: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) line: u32,
    pub(super) list: String,
    pub(super) action: String,
    pub(super) tunnel: Option<Side>,
    pub(super) connection_type: &'static str,
    pub(super) active: bool,
    /// How peers prove who they are; never with what.
    pub(super) authentication: Vec<&'static str>,
}

/// A rule that goes straight into the machine's database.
#[derive(Clone, Debug)]
pub(super) struct DynamicRule {
    pub(super) filter: Filter,
    pub(super) inbound: Action,
    pub(super) outbound: Action,
    pub(super) quick_mode_policy: Option<String>,
    pub(super) rule: Rule,
}

/// Objects by name, in the order of definition. Names differ in more than case.
#[derive(Debug)]
pub(super) struct Named<T> {
    objects: Vec<Option<(String, T)>>,
    by_name: HashMap<String, usize>,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self {
            objects: Vec::new(),
            by_name: HashMap::new(),
        }
    }
}

impl<T> Named<T> {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.objects
            .iter()
            .flatten()
            .map(|(name, object)| (name.as_str(), object))
    }

    pub(super) fn find(&self, name: &str) -> Option<&T> {
        let index = self.by_name.get(&name.to_lowercase())?;
        self.objects[*index].as_ref().map(|(_, object)| object)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.objects.iter_mut().flatten().map(|(_, object)| object)
    }

    /// How many there were, those that are gone included.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn find_mut(&mut self, name: &str) -> Option<&mut T> {
        let index = self.by_name.get(&name.to_lowercase())?;
        self.objects[*index].as_mut().map(|(_, object)| object)
    }

    /// False when there is one of this name.
    pub(super) fn add(&mut self, name: &str, object: T) -> Result<bool, String> {
        if self.by_name.contains_key(&name.to_lowercase()) {
            return Ok(false);
        }
        if self.objects.len() >= MAX_OBJECTS {
            return Err(format!("more than {MAX_OBJECTS} objects of one kind"));
        }
        self.by_name.insert(name.to_lowercase(), self.objects.len());
        self.objects.push(Some((name.to_owned(), object)));
        Ok(true)
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(index) = self.by_name.remove(&name.to_lowercase()) {
            self.objects[index] = None;
        }
    }

    pub(super) fn rename(&mut self, name: &str, new: &str) -> Result<(), String> {
        if new.is_empty() || self.by_name.contains_key(&new.to_lowercase()) {
            return Err(format!("newname={} is empty or in use", quote(new)));
        }
        if let Some(index) = self.by_name.remove(&name.to_lowercase()) {
            self.by_name.insert(new.to_lowercase(), index);
            if let Some((name, _)) = &mut self.objects[index] {
                *name = new.to_owned();
            }
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Filter {
    pub(super) fn read(line: u32, arguments: &Arguments) -> Result<Self, String> {
        let side = |address, mask| Side::parse(arguments.required(address)?, arguments.text(mask));
        let protocol = protocol(arguments.text("protocol").unwrap_or("any"))?;
        let filter = Self {
            line,
            source: side("srcaddr", "srcmask")?,
            destination: side("dstaddr", "dstmask")?,
            protocol,
            source_port: port(arguments, "srcport")?,
            destination_port: port(arguments, "dstport")?,
            mirrored: arguments.yes("mirrored")?.unwrap_or(true),
        };
        let ports = filter.source_port.is_some() || filter.destination_port.is_some();
        if ports && !matches!(protocol, Some(6 | 17)) {
            return Err("ports need protocol=TCP or protocol=UDP".to_owned());
        }
        filter.check_family()?;
        Ok(filter)
    }
}

impl Filter {
    /// The same packets seen from the other end.
    pub(super) fn reversed(&self) -> Self {
        Self {
            source: self.destination.clone(),
            destination: self.source.clone(),
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self.clone()
        }
    }

    fn check_family(&self) -> Result<(), String> {
        let family = |side: &Side| match side {
            Side::Known(address) => address.family(),
            _ => None,
        };
        let (source, destination) = (family(&self.source), family(&self.destination));
        if let (Some(source), Some(destination)) = (source, destination)
            && source != destination
        {
            return Err(format!("srcaddr= is {source} and dstaddr= {destination}"));
        }
        let only = self
            .protocol
            .and_then(|number| ravelin_policy::Protocol(number).family());
        if let (Some(only), Some(family)) = (only, source.or(destination))
            && only != family
        {
            return Err(format!(
                "this protocol belongs to {only}, but the addresses are {family}"
            ));
        }
        Ok(())
    }
}

fn port(arguments: &Arguments, key: &str) -> Result<Option<u16>, String> {
    let Some(value) = arguments.text(key) else {
        return Ok(None);
    };
    match value.parse::<u16>() {
        Ok(0) => Ok(None),
        Ok(port) if value.bytes().all(|b| b.is_ascii_digit()) => Ok(Some(port)),
        _ if value.eq_ignore_ascii_case("any") => Ok(None),
        _ => Err(format!(
            "{key}= is a port from 0 to 65535, 0 for any, not {}",
            quote(value)
        )),
    }
}

fn protocol(value: &str) -> Result<Option<u8>, String> {
    match value.to_ascii_lowercase().as_str() {
        // 0 is how any is stored.
        "any" | "0" => Ok(None),
        "icmp" => Ok(Some(1)),
        "tcp" => Ok(Some(6)),
        "udp" => Ok(Some(17)),
        "icmpv6" => Ok(Some(58)),
        "raw" => Ok(Some(255)),
        number if number.bytes().all(|b| b.is_ascii_digit()) => number
            .parse()
            .map(Some)
            .map_err(|_| format!("protocol= is at most 255, not {}", quote(value))),
        _ => Err(format!(
            "protocol= is ANY, ICMP, TCP, UDP, RAW or a number, not {}",
            quote(value)
        )),
    }
}

impl Action {
    pub(super) fn read(arguments: &Arguments, key: &str) -> Result<Option<Self>, String> {
        Ok(arguments
            .word(key, &["permit", "block", "negotiate"])?
            .map(|word| match word {
                "permit" => Self::Permit,
                "block" => Self::Block,
                _ => Self::Negotiate,
            }))
    }
}

impl FilterAction {
    pub(super) fn new(line: u32) -> Self {
        Self {
            line,
            action: Action::Negotiate,
            accept_unsecured: false,
            fallback_clear: false,
            perfect_forward_secrecy: false,
            methods: Vec::new(),
        }
    }

    pub(super) fn set(&mut self, arguments: &Arguments) -> Result<(), String> {
        if let Some(action) = Action::read(arguments, "action")? {
            self.action = action;
        }
        if let Some(inpass) = arguments.yes("inpass")? {
            self.accept_unsecured = inpass;
        }
        if let Some(soft) = arguments.yes("soft")? {
            self.fallback_clear = soft;
        }
        if let Some(qmpfs) = arguments.yes("qmpfs")? {
            self.perfect_forward_secrecy = qmpfs;
        }
        if let Some(methods) = arguments.text("qmsecmethods") {
            self.methods = quick_mode(methods)?;
        }
        Ok(())
    }
}

impl Rule {
    pub(super) fn set(&mut self, arguments: &Arguments) -> Result<(), String> {
        if let Some(list) = arguments.text("filterlist") {
            list.clone_into(&mut self.list);
        }
        if let Some(action) = arguments.text("filteraction") {
            action.clone_into(&mut self.action);
        }
        for key in ["tunnel", "tunneldstaddress"] {
            if let Some(tunnel) = arguments.text(key)
                // 0.0.0.0 stands for no tunnel.
                && tunnel != "0.0.0.0"
                && !tunnel.is_empty()
            {
                self.tunnel = Some(Side::parse(tunnel, None).map_err(|error| format!("{key}=: {error}"))?);
            }
        }
        if let Some(kind) = arguments.word("conntype", &["lan", "dialup", "all"])? {
            self.connection_type = kind;
        }
        if let Some(active) = arguments.yes("activate")? {
            self.active = active;
        }
        let mut methods = Vec::new();
        if arguments.yes("kerberos")? == Some(true) {
            methods.push("Kerberos");
        }
        if arguments.has("psk") {
            methods.push("a preshared key");
        }
        if arguments.has("rootca") {
            methods.push("certificates");
        }
        if !methods.is_empty() {
            self.authentication = methods;
        }
        Ok(())
    }
}
