//! The bodies callers send, parsed into types with all faults at once.

mod card;
mod customer;
mod legible;
#[cfg(test)]
mod tests;

use gateway_core::card::{CardSource, Expiry};
use gateway_core::clock::Timestamp;
use gateway_core::connector::Payer;
use gateway_core::echo::pointer_to;
use gateway_core::idempotency::CanonicalForm;
use gateway_core::key::{
    AccountName, IdempotencyKey, KeyError, OrderReference, PaymentId, StatementDescriptor,
};
use gateway_core::money::{Currency, Money};
use gateway_core::operation::Verb;
use gateway_core::pan_scan::contains_pan;
use serde_json::{Map, Value};

pub use legible::{Faulty, Legible};
use legible::{expired, money};

use crate::fields::{Faults, Field, Fields, refuse_duplicates};
use crate::json::Json;
use crate::problem::{Fault, Kind, Problem};

/// ISO 8583 gives an amount twelve digits (field 4); no processor takes more.
pub const AMOUNT_MAX: i64 = 999_999_999_999;
/// The sum of the lengths of names and values, in bytes.
pub const METADATA_BYTES_MAX: usize = 4096;
pub const METADATA_COUNT_MAX: usize = 64;

/// A create: sale or authorization.
#[derive(Debug)]
pub struct CreatePayment {
    /// `Sale` for `"capture": "automatic"`, `Authorize` for `"manual"`.
    pub verb: Verb,
    pub account: AccountName,
    pub amount: Money,
    pub order_reference: Option<OrderReference>,
    pub statement_descriptor: Option<StatementDescriptor>,
    /// Refuse if another live create of this order exists. Only with an order reference.
    pub once_per_order: bool,
    /// What passes through unstored.
    pub payer: Payer,
    /// Text to text, at most 4 KiB. Kept with the payment, erasable, in no answer to a POST.
    pub metadata: Option<Map<String, Value>>,
}

/// A capture or refund of one amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmountOnly {
    pub amount: Money,
}

/// A card check without money.
#[derive(Debug)]
pub struct Verification {
    pub account: AccountName,
    pub order_reference: Option<OrderReference>,
    pub payer: Payer,
}

/// The wish that a key has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancellation {
    pub key: IdempotencyKey,
}

impl CreatePayment {
    pub fn parse(body: &[u8]) -> Result<Self, Faulty> {
        let (legible, rest) = read_legibly(body, |fields| {
            let account = account(fields);
            let amount = amount(fields);
            let capture = fields.optional("capture");
            let verb = if capture.is_present() {
                capture.one_of(&[("automatic", Verb::Sale), ("manual", Verb::Authorize)])
            } else {
                Some(Verb::Sale)
            };
            let order_reference = order_reference(fields);
            let descriptor = fields.optional("statement_descriptor");
            let statement_descriptor = name(&descriptor, StatementDescriptor::parse);
            let once = fields.optional("once_per_order");
            let once_per_order = once.boolean().unwrap_or_default();
            if once_per_order && !fields.has("order_reference") {
                let field = fields.optional("order_reference");
                field.refuse("required", "is required with once_per_order");
            }
            let legible = Legible::read(account, verb, amount, fields);
            let metadata = metadata(fields);
            let rest = (
                order_reference,
                statement_descriptor,
                once_per_order,
                metadata,
            );
            (legible, rest)
        })?;
        let (order_reference, statement_descriptor, once_per_order, metadata) = rest;
        Ok(Self {
            verb: legible.verb.expect(READ),
            account: legible.account.clone().expect(READ),
            amount: legible.amount().expect(READ),
            order_reference,
            statement_descriptor,
            once_per_order,
            payer: legible.into_payer().expect(READ),
            metadata,
        })
    }

    /// What makes a repeat the same request. The CVV, and whatever has its default value, are left out.
    pub fn canonical_form(&self) -> CanonicalForm {
        let mut form = CanonicalForm::new(self.verb.as_str());
        form.text("/account", self.account.as_str());
        form.amount(self.amount);
        put_order(&mut form, self.order_reference.as_ref());
        let descriptor = self.statement_descriptor.as_ref();
        form.optional_text(
            "/statement_descriptor",
            descriptor.map(StatementDescriptor::as_str),
        );
        form.boolean_unless("/once_per_order", self.once_per_order, false);
        put_payer(&mut form, &self.payer);
        for (name, value) in self.metadata.iter().flatten() {
            form.json(free_pointer("/metadata", name), value);
        }
        form
    }

    /// Faults that come with time, and so must not be asked of a key that is known already.
    pub fn faults_at(&self, now: Timestamp) -> Vec<Fault> {
        expired(expiry_of(&self.payer), now)
    }
}

impl AmountOnly {
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        read(body, |fields| {
            let (value, currency) = amount(fields);
            Some(Self {
                amount: money(value, currency)?,
            })
        })
    }

    pub fn canonical_form(&self, verb: Verb, payment: PaymentId) -> CanonicalForm {
        let mut form = CanonicalForm::new(verb.as_str());
        form.text("/payment", &payment.to_string());
        form.amount(self.amount);
        form
    }
}

/// A void has no fields: it always voids the whole payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Void;

impl Void {
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        read(body, |_| Some(Self))
    }

    pub fn canonical_form(self, payment: PaymentId) -> CanonicalForm {
        let mut form = CanonicalForm::new(Verb::Void.as_str());
        form.text("/payment", &payment.to_string());
        form
    }
}

impl Verification {
    pub fn parse(body: &[u8]) -> Result<Self, Faulty> {
        let (legible, order_reference) = read_legibly(body, |fields| {
            let account = account(fields);
            let order_reference = order_reference(fields);
            let legible = Legible::read(account, Some(Verb::Verify), (None, None), fields);
            (legible, order_reference)
        })?;
        Ok(Self {
            account: legible.account.clone().expect(READ),
            order_reference,
            payer: legible.into_payer().expect(READ),
        })
    }

    /// See [`CreatePayment::canonical_form`].
    pub fn canonical_form(&self) -> CanonicalForm {
        let mut form = CanonicalForm::new(Verb::Verify.as_str());
        form.text("/account", self.account.as_str());
        put_order(&mut form, self.order_reference.as_ref());
        put_payer(&mut form, &self.payer);
        form
    }

    /// See [`CreatePayment::faults_at`].
    pub fn faults_at(&self, now: Timestamp) -> Vec<Fault> {
        expired(expiry_of(&self.payer), now)
    }
}

impl Cancellation {
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        read(body, |fields| {
            let field = fields.required("idempotency_key");
            Some(Self {
                key: name(&field, IdempotencyKey::parse)?,
            })
        })
    }
}

/// Why every part of a request without faults is there: a reader that finds none records a fault.
const READ: &str = "what has no fault was read";

/// Reads one object. `None` from `take` means that it recorded a fault.
fn read<T>(
    body: &[u8],
    take: impl FnOnce(&mut Fields<'_, '_, '_>) -> Option<T>,
) -> Result<T, Problem> {
    match scan(body, take)? {
        (_, Some(problem)) => Err(problem),
        (value, None) => Ok(value.flatten().expect(READ)),
    }
}

/// Reads one object; if it has faults, what else could be read of it goes with them.
fn read_legibly<T>(
    body: &[u8],
    take: impl FnOnce(&mut Fields<'_, '_, '_>) -> (Legible, T),
) -> Result<(Legible, T), Faulty> {
    match scan(body, take)? {
        (taken, Some(problem)) => Err(Faulty {
            problem,
            legible: taken.map(|(legible, _)| Box::new(legible)),
        }),
        (taken, None) => Ok(taken.expect(READ)),
    }
}

/// What `take` makes of an object, and all faults found.
fn scan<T>(
    body: &[u8],
    take: impl FnOnce(&mut Fields<'_, '_, '_>) -> T,
) -> Result<(Option<T>, Option<Problem>), Problem> {
    let json = Json::parse(body)
        .map_err(|error| Problem::new(Kind::MalformedRequest, error.to_string()))?;
    let faults = Faults::default();
    refuse_duplicates(&json, "", &faults);
    let taken = Fields::of(&json, "", &faults).map(|mut fields| {
        let taken = take(&mut fields);
        fields.finish();
        taken
    });
    Ok((taken, faults.into_problem()))
}

/// A text with a type of its own.
fn name<T>(
    field: &Field<'_, '_, '_>,
    parse: impl FnOnce(&str) -> Result<T, KeyError>,
) -> Option<T> {
    match parse(field.any_text()?) {
        Ok(value) => Some(value),
        Err(error) => {
            let code = match error {
                KeyError::Empty => "empty",
                KeyError::TooLong { .. } => "too-long",
                KeyError::Character | KeyError::FirstCharacter => "character",
                KeyError::OuterSpace => "outer-space",
                KeyError::ContainsPan => "card-number",
                KeyError::LoneQuote | KeyError::Escape | KeyError::Form => "form",
            };
            field.refuse(code, error.to_string());
            None
        }
    }
}

fn account(fields: &mut Fields<'_, '_, '_>) -> Option<AccountName> {
    name(&fields.required("account"), AccountName::parse)
}

fn order_reference(fields: &mut Fields<'_, '_, '_>) -> Option<OrderReference> {
    name(&fields.optional("order_reference"), OrderReference::parse)
}

/// Minor units and currency, each by itself.
fn amount(fields: &mut Fields<'_, '_, '_>) -> (Option<i64>, Option<Currency>) {
    let Some(mut amount) = fields.required("amount").object() else {
        return (None, None);
    };
    let value = amount.required("value").integer(1..=AMOUNT_MAX);
    let field = amount.required("currency");
    let currency = field
        .any_text()
        .and_then(|code| match Currency::parse(code) {
            Ok(currency) => Some(currency),
            Err(error) => {
                field.refuse("currency", error.to_string());
                None
            }
        });
    amount.finish();
    (value, currency)
}

fn metadata(fields: &mut Fields<'_, '_, '_>) -> Option<Map<String, Value>> {
    let field = fields.optional("metadata");
    let members = field.members()?;
    let faults = field.faults();
    let mut bytes = 0;
    let mut map = Map::new();
    for (name, value) in members {
        let pointer = pointer_to(&field.pointer(), name);
        if contains_pan(name) {
            faults.push(&pointer, "card-number", "the name contains a card number");
        }
        let Json::Text(text) = value else {
            faults.push(
                &pointer,
                "type",
                format!("must be a string, not {}", value.type_name()),
            );
            continue;
        };
        if contains_pan(text) {
            faults.push(&pointer, "card-number", "contains a card number");
        }
        // A ledger that is asked to keep U+0000 refuses the whole batch.
        if text.contains('\0') || name.contains('\0') {
            faults.push(&pointer, "control-character", "must not hold U+0000");
        }
        bytes += name.len() + text.len();
        map.insert(
            name.as_ref().to_owned(),
            Value::String(text.as_ref().to_owned()),
        );
    }
    if bytes > METADATA_BYTES_MAX || members.len() > METADATA_COUNT_MAX {
        field.refuse(
            "too-long",
            format!("must have at most {METADATA_BYTES_MAX} bytes in {METADATA_COUNT_MAX} members"),
        );
    }
    (!map.is_empty()).then_some(map)
}

fn put_order(form: &mut CanonicalForm, order: Option<&OrderReference>) {
    form.optional_text("/order_reference", order.map(OrderReference::as_str));
}

fn put_payer(form: &mut CanonicalForm, payer: &Payer) {
    card::put(form, &payer.card);
    if let Some(customer) = &payer.customer {
        customer::put(form, customer);
    }
    for (name, value) in &payer.risk {
        form.json(free_pointer("/risk", name), value);
    }
    for (name, value) in &payer.upstream {
        form.json(free_pointer("/upstream", name), value);
    }
}

/// As [`pointer_to`], but whole: names that are hidden would make two requests look alike.
fn free_pointer(parent: &str, name: &str) -> String {
    format!("{parent}/{}", name.replace('~', "~0").replace('/', "~1"))
}

fn expiry_of(payer: &Payer) -> Option<Expiry> {
    match &payer.card {
        CardSource::Pan { expiry, .. } => Some(*expiry),
        CardSource::Token { expiry, .. } => *expiry,
    }
}
