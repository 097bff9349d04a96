//! A request before it is recorded, as far as it can be read: what a connector checks.

use std::fmt;

use serde_json::{Map, Value};

use crate::connector::{Customer, Payer};
use crate::money::{Currency, Money};
use crate::operation::Verb;

/// A part is absent where the request has none, and where it is at fault
/// already and that was told: what is left is checked all the same, so that a caller hears everything at once.
#[derive(Clone, Copy)]
pub struct Draft<'a> {
    /// Absent: a create, and which of the two is not known.
    pub verb: Option<Verb>,
    /// Minor units.
    pub value: Option<i64>,
    pub currency: Option<Currency>,
    pub customer: Option<&'a Customer>,
    /// Of a request that has none: empty.
    pub risk: Option<&'a Map<String, Value>>,
    /// Of a request that has none: empty.
    pub upstream: Option<&'a Map<String, Value>>,
}

impl<'a> Draft<'a> {
    /// A create or a card check that has no fault of its own. `amount`: none for a card check.
    pub fn of_payer(verb: Verb, amount: Option<Money>, payer: &'a Payer) -> Self {
        Self {
            customer: payer.customer.as_ref(),
            risk: Some(&payer.risk),
            upstream: Some(&payer.upstream),
            ..Self::of_follow_up(verb, amount)
        }
    }

    /// `amount`: none for a void.
    pub fn of_follow_up(verb: Verb, amount: Option<Money>) -> Self {
        Self {
            verb: Some(verb),
            value: amount.map(Money::minor),
            currency: amount.map(Money::currency),
            customer: None,
            risk: None,
            upstream: None,
        }
    }
}

/// As little as of a [`Payer`].
impl fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("verb", &self.verb)
            .finish_non_exhaustive()
    }
}
