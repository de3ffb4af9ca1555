//! What the engine knows of its surroundings, and when to look again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ravelin_policy::Surroundings;
use tokio::sync::oneshot;

use crate::held::Held;
use crate::names::{Lookup, look_up};
use crate::thread::in_thread;

/// The surroundings, as far as the policy in force needs them.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) surroundings: Surroundings,
    /// The SSH connection that must go on, and how it comes as far as is known by now.
    pub(crate) session: Option<Held>,
    /// How long the answers of name servers are believed.
    interval: Duration,
    due: Instant,
    lookup: Option<oneshot::Receiver<Lookup>>,
    /// Names whose last look-up failed, which was said.
    failing: BTreeSet<String>,
}

impl Watch {
    pub(crate) fn new(surroundings: Surroundings, session: Option<Held>, interval: Duration) -> Self {
        Self {
            surroundings,
            session,
            interval,
            due: Instant::now() + interval,
            lookup: None,
            failing: BTreeSet::new(),
        }
    }

    /// Has the next look-up happen now: routes have changed, or names are new.
    pub(crate) fn hurry(&mut self) {
        self.due = Instant::now();
    }

    /// Whether it is time for a look-up.
    pub(crate) fn is_due(&self) -> bool {
        self.lookup.is_none() && self.due <= Instant::now()
    }

    /// Starts a look-up of `names`, and forgets all others unless it is to `keep` them.
    pub(crate) fn begin(&mut self, names: &BTreeSet<&str>, keep: bool) {
        self.due = Instant::now() + self.interval;
        if !keep {
            let known = &mut self.surroundings.names;
            known.retain(|name, _| names.contains(name.as_str()));
            self.failing.retain(|name| names.contains(name.as_str()));
        }
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            // Without a thread now, there is one next time.
            self.lookup = in_thread("ravelin-lookup", move || {
                look_up(names.iter().map(String::as_str))
            })
            .ok();
        }
    }

    /// What a look-up comes to; never, without one.
    pub(crate) async fn finished(&mut self) -> Lookup {
        let Some(lookup) = &mut self.lookup else {
            return std::future::pending().await;
        };
        let result = lookup.await.unwrap_or_default();
        self.lookup = None;
        result
    }

    /// Takes up what was found; a name whose look-up failed keeps its addresses. Returns whether anything is different,
    /// and what to say about it.
    pub(crate) fn take(&mut self, lookup: Lookup) -> (bool, Vec<String>) {
        let mut said = Vec::new();
        let mut changed = false;
        for (name, why) in lookup.failed {
            let known = self
                .surroundings
                .names
                .get(&name)
                .is_some_and(|addresses| !addresses.is_empty());
            if known && self.failing.insert(name.clone()) {
                said.push(format!(
                    "`{name}` cannot be looked up ({why}); its last addresses stay"
                ));
            }
        }
        for (name, addresses) in lookup.found {
            if self.failing.remove(&name) {
                said.push(format!("`{name}` can be looked up again"));
            }
            changed |= self.surroundings.names.get(&name) != Some(&addresses);
            self.surroundings.names.insert(name, addresses);
        }
        (changed, said)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use ravelin_policy::Surroundings;

    use super::{Lookup, Watch};

    #[test]
    fn a_failed_look_up_keeps_the_addresses_and_is_told_once() {
        let mut watch = Watch::new(Surroundings::default(), None, Duration::from_secs(60));
        let found = |address: &str| Lookup {
            found: BTreeMap::from([("a.example".to_owned(), vec![address.parse().unwrap()])]),
            failed: BTreeMap::new(),
        };
        let failed = || Lookup {
            found: BTreeMap::new(),
            failed: BTreeMap::from([("a.example".to_owned(), "no answer".to_owned())]),
        };
        assert_eq!(watch.take(found("192.0.2.1")), (true, Vec::new()));
        assert_eq!(watch.take(found("192.0.2.1")), (false, Vec::new()));
        let (changed, said) = watch.take(failed());
        assert!(!changed && said[0].contains("`a.example`"), "{said:?}");
        assert_eq!(watch.take(failed()), (false, Vec::new()));
        assert_eq!(watch.surroundings.names["a.example"].len(), 1);
        let (changed, said) = watch.take(found("192.0.2.2"));
        assert!(changed && said.len() == 1, "{said:?}");
    }
}
