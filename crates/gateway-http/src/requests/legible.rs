//! What can be read of a create or a card check though some of it is at fault, so that all of its faults are told at once.

use std::fmt;

use gateway_core::card::{CardSource, Expiry};
use gateway_core::clock::Timestamp;
use gateway_core::connector::{Customer, Payer};
use gateway_core::draft::Draft;
use gateway_core::key::AccountName;
use gateway_core::money::{Currency, Money};
use gateway_core::operation::Verb;
use serde_json::{Map, Value};

use super::{card, customer};
use crate::fields::{Field, Fields};
use crate::problem::{Fault, Problem};

/// The parts that account, processor and clock have a say in. Absent: at fault, and that is recorded.
pub struct Legible {
    pub account: Option<AccountName>,
    pub(super) verb: Option<Verb>,
    value: Option<i64>,
    currency: Option<Currency>,
    card: Option<CardSource>,
    expiry: Option<Expiry>,
    customer: Option<Customer>,
    risk: Option<Map<String, Value>>,
    upstream: Option<Map<String, Value>>,
}

/// A request that cannot be taken.
#[derive(Debug)]
pub struct Faulty {
    pub problem: Problem,
    /// Nothing of a body that is no object.
    pub legible: Option<Box<Legible>>,
}

impl Legible {
    /// `amount`: a card check has none. Reads who pays.
    pub(super) fn read(
        account: Option<AccountName>,
        verb: Option<Verb>,
        (value, currency): (Option<i64>, Option<Currency>),
        fields: &mut Fields<'_, '_, '_>,
    ) -> Self {
        let (card, expiry) = card::read(&fields.required("card"));
        Self {
            account,
            verb,
            value,
            currency,
            card,
            expiry,
            customer: customer::read(&fields.optional("customer")),
            risk: own_object(&fields.optional("risk")),
            upstream: own_object(&fields.optional("upstream")),
        }
    }

    /// For the checks of account and processor.
    pub fn draft(&self) -> Draft<'_> {
        Draft {
            verb: self.verb,
            value: self.value,
            currency: self.currency,
            customer: self.customer.as_ref(),
            risk: self.risk.as_ref(),
            upstream: self.upstream.as_ref(),
        }
    }

    /// Faults that come with time.
    pub fn faults_at(&self, now: Timestamp) -> Vec<Fault> {
        expired(self.expiry, now)
    }

    pub(super) fn amount(&self) -> Option<Money> {
        money(self.value, self.currency)
    }

    pub(super) fn into_payer(self) -> Option<Payer> {
        Some(Payer {
            card: self.card?,
            customer: self.customer,
            risk: self.risk?,
            upstream: self.upstream?,
        })
    }
}

/// As little as of a [`Payer`].
impl fmt::Debug for Legible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Legible")
            .field("account", &self.account)
            .field("verb", &self.verb)
            .finish_non_exhaustive()
    }
}

impl From<Problem> for Faulty {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            legible: None,
        }
    }
}

pub(super) fn money(value: Option<i64>, currency: Option<Currency>) -> Option<Money> {
    let money = |(value, currency)| Money::new(value, currency).expect("the value is at least 1");
    value.zip(currency).map(money)
}

pub(super) fn expired(expiry: Option<Expiry>, now: Timestamp) -> Vec<Fault> {
    let is_past = expiry.is_some_and(|expiry| expiry.is_past(now));
    let fault = || Fault::new("/card/expiry_month", "expired", "the card has expired");
    is_past.then(fault).into_iter().collect()
}

/// An object whose fields the processor knows; left out, it is empty.
fn own_object(field: &Field<'_, '_, '_>) -> Option<Map<String, Value>> {
    if field.is_present() {
        field.raw_object()
    } else {
        Some(Map::new())
    }
}
