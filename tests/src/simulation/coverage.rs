//! Which pairs of state and event the histories reached.

use std::collections::BTreeMap;

use gateway_core::operation::{StateName, Verb};
use gateway_core::store::{Event, EventKind};

/// The event that met an operation in a state, by names.
type Pair = (&'static str, &'static str, &'static str);

#[derive(Debug, Default)]
pub(super) struct Coverage(BTreeMap<Pair, u64>);

impl Coverage {
    /// Counts what happened to each operation; `events` in their order.
    pub(super) fn count(&mut self, events: &[Event]) {
        let mut states = BTreeMap::new();
        for event in events {
            let state = states.entry(event.operation).or_insert("none");
            let what = match (event.kind, event.to) {
                (EventKind::Transition, Some(to)) => to.as_str(),
                (kind, _) => kind.as_str(),
            };
            let pair = (event.verb.as_str(), *state, what);
            *self.0.entry(pair).or_default() += 1;
            if let (EventKind::Transition, Some(to)) = (event.kind, event.to) {
                *state = to.as_str();
            }
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        for (pair, count) in other.0 {
            *self.0.entry(pair).or_default() += count;
        }
    }

    /// How often each pair of state and event was met, by verb.
    pub(super) fn print(&self) {
        let mut pairs: BTreeMap<(&str, &str), BTreeMap<&str, u64>> = BTreeMap::new();
        for ((verb, state, what), count) in &self.0 {
            *pairs
                .entry((state, what))
                .or_default()
                .entry(verb)
                .or_default() += count;
        }
        println!(
            "pairs of state and event: {} ({} by verb)",
            pairs.len(),
            self.0.len()
        );
        for ((state, what), verbs) in pairs {
            let each = Verb::ALL.map(|verb| verbs.get(verb.as_str()).copied().unwrap_or(0));
            let [sale, authorize, capture, void, refund, verify, reversal] = each;
            println!(
                "  {state:>9} × {what:<16} sale {sale:>8} authorize {authorize:>8} capture {capture:>7} \
                 void {void:>7} refund {refund:>7} verify {verify:>6} reversal {reversal:>7}"
            );
        }
        let missing: Vec<String> = legal()
            .filter(|(from, to)| {
                !self
                    .0
                    .keys()
                    .any(|(_, state, what)| (*state, *what) == (from.as_str(), to.as_str()))
            })
            .map(|(from, to)| format!("{} → {}", from.as_str(), to.as_str()))
            .collect();
        if !missing.is_empty() {
            println!("  legal transitions not met: {}", missing.join(", "));
        }
    }
}

fn legal() -> impl Iterator<Item = (StateName, StateName)> {
    let pairs = StateName::ALL
        .into_iter()
        .flat_map(|from| StateName::ALL.map(|to| (from, to)));
    pairs.filter(|(from, to)| from.may_become(*to))
}
