//! From an operation to the request that this processor understands, and what it would refuse in one.

use bytes::Bytes;
use gateway_core::card::{CardSource, Sensitive};
use gateway_core::connector::{Customer, Fault, Payer, Subject};
use gateway_core::draft::Draft;
use gateway_core::echo::pointer_to;
use gateway_core::key::UpstreamReference;
use gateway_core::operation::Verb;
use serde_json::{Map, Value};

use super::amount::Major;
use super::answers::Shape;
use super::ascii::{Spelled, spelled};
use super::risk::{self, RiskData, digits, fault};
use super::wire::{
    CaptureRequest, CardRequest, ChargeRequest, ConnexPayTransaction, CustomerRequest,
    ReturnRequest, VoidRequest,
};
use super::{ConnexPayConfig, body};

/// Minor units: 0.50 by the reference, and 999,999.99 by an error text that users recorded.
const AMOUNT_MIN: i64 = 50;
const AMOUNT_MAX: i64 = 99_999_999;
/// Longer than any name or address line, and far below what a form is refused for.
const TEXT_MAX: usize = 100;

/// One request, ready to be sent.
pub(super) struct Plan {
    pub(super) shape: Shape,
    pub(super) path: &'static str,
    pub(super) label: &'static str,
    pub(super) body: Bytes,
    /// The id of the transaction that it names.
    pub(super) parent: Option<String>,
    /// The sequence number that it carries.
    pub(super) sequence: Option<String>,
}

/// What is missing for a request. Nothing was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// A create, and nobody has the card any more.
    Card,
    /// The payment has no such id at this processor.
    Id(&'static str),
    /// A verb that this processor does not know.
    Verb,
}

/// The id of the payment by the connector's name for it, as `prepare` found it or as earlier answers gave it.
pub(super) fn id<'a>(subject: &'a Subject, name: &str) -> Option<&'a str> {
    let prepared = subject
        .prepared
        .as_ref()
        .and_then(|prepared| prepared.ids.get(name))
        .map(String::as_str);
    prepared.or_else(|| subject.parent.get(name))
}

/// The request for an operation.
pub(super) fn plan(
    config: &ConnexPayConfig,
    subject: &Subject,
    payer: Option<&Payer>,
) -> Result<Plan, Missing> {
    match subject.verb {
        Verb::Sale | Verb::Authorize | Verb::Verify => {
            Ok(charge(config, subject, payer.ok_or(Missing::Card)?))
        }
        Verb::Capture => {
            let authorization = id(subject, "authorization").ok_or(Missing::Id("authorization"))?;
            let request = CaptureRequest {
                device_guid: &config.device_guid,
                auth_only_guid: authorization,
                // The newer API has no such field and captures the whole, which is all that core asks for there.
                new_amount: config.partial_captures.then_some(Major(subject.amount)),
                sequence_number: subject.reference.as_str(),
                order_number: subject.reference.as_str(),
            };
            Ok(Plan {
                shape: Shape::Capture,
                path: "/Captures",
                label: "POST /Captures",
                body: body::json(&request),
                parent: Some(authorization.to_owned()),
                sequence: Some(subject.reference.to_string()),
            })
        }
        Verb::Void => Ok(void(config, Target::of(subject)?, Some(&subject.reference))),
        Verb::Refund => {
            let sale = id(subject, "sale").ok_or(Missing::Id("sale"))?;
            if subject
                .prepared
                .as_ref()
                .is_some_and(|prepared| prepared.as_void)
            {
                return Ok(void(config, Target::Sale(sale), Some(&subject.reference)));
            }
            let sequence = subject.reference.to_string();
            Ok(refund(config, sale, Major(subject.amount), sequence))
        }
        Verb::Reversal => Err(Missing::Verb),
    }
}

/// What a void names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Sale(&'a str),
    Authorization(&'a str),
}

impl<'a> Target<'a> {
    /// The sale where there is one: voiding what a capture collected voids its authorization as well.
    pub(super) fn of(subject: &'a Subject) -> Result<Self, Missing> {
        match (id(subject, "sale"), id(subject, "authorization")) {
            (Some(sale), _) => Ok(Self::Sale(sale)),
            // Its sale has an id too, which is not known: voiding the authorization would be refused.
            (None, Some(_)) if id(subject, "capture").is_some() => Err(Missing::Id("sale")),
            (None, Some(authorization)) => Ok(Self::Authorization(authorization)),
            (None, None) => Err(Missing::Id("sale")),
        }
    }
}

/// `reference`: the caller's own void. Without one it cleans up a create, whose reference is not to be used twice; a
/// void needs none, since it is executed at most once for what it names.
pub(super) fn void(
    config: &ConnexPayConfig,
    target: Target<'_>,
    reference: Option<&UpstreamReference>,
) -> Plan {
    let (sale_guid, auth_only_guid, parent) = match target {
        Target::Sale(guid) => (Some(guid), None, guid),
        Target::Authorization(guid) => (None, Some(guid), guid),
    };
    let request = VoidRequest {
        device_guid: &config.device_guid,
        sale_guid,
        auth_only_guid,
        void_reason: reference.is_none().then_some("DEVICE_TIMEOUT"),
        sequence_number: reference.map(AsRef::as_ref),
    };
    Plan {
        shape: Shape::Void,
        path: "/void",
        label: "POST /void",
        body: body::json(&request),
        parent: Some(parent.to_owned()),
        sequence: reference.map(ToString::to_string),
    }
}

/// `sequence`: new for every return, and never sent with a second one.
pub(super) fn refund(
    config: &ConnexPayConfig,
    sale: &str,
    amount: Major,
    sequence: String,
) -> Plan {
    let request = ReturnRequest {
        device_guid: &config.device_guid,
        sale_guid: sale,
        amount,
        sequence_number: &sequence,
    };
    Plan {
        shape: Shape::Return,
        path: "/returns",
        label: "POST /returns",
        body: body::json(&request),
        parent: Some(sale.to_owned()),
        sequence: Some(sequence),
    }
}

fn charge(config: &ConnexPayConfig, subject: &Subject, payer: &Payer) -> Plan {
    let (shape, path, label) = match subject.verb {
        Verb::Sale => (Shape::Sale, "/sales", "POST /sales"),
        Verb::Authorize => (Shape::AuthOnly, "/AuthOnlys", "POST /AuthOnlys"),
        _ => (Shape::Verify, "/Verify", "POST /Verify"),
    };
    let sale = shape == Shape::Sale;
    let create = shape != Shape::Verify;
    let reference = create.then_some(subject.reference.as_str());
    let expected = payer
        .upstream
        .get("expected_payments")
        .and_then(Value::as_u64)
        .and_then(|count| u8::try_from(count).ok());
    let request = ChargeRequest {
        device_guid: &config.device_guid,
        amount: create.then_some(Major(subject.amount)),
        sequence_number: reference,
        order_number: reference,
        risk_processing_only: sale.then_some(false),
        send_receipt: sale.then_some(false),
        statement_description: subject
            .statement_descriptor
            .as_ref()
            .filter(|_| create)
            .map(AsRef::as_ref),
        // A sale must name the number; an authorization may.
        connexpay_transaction: match expected {
            None if sale => Some(ConnexPayTransaction {
                expected_payments: 0,
            }),
            expected => expected
                .filter(|_| create)
                .map(|expected_payments| ConnexPayTransaction { expected_payments }),
        },
        risk_data: (sale || create && !payer.risk.is_empty()).then(|| RiskData {
            risk: &payer.risk,
            order_number: subject.reference.as_str(),
        }),
        card: card(payer),
    };
    Plan {
        shape,
        path,
        label,
        body: body::json(&request),
        parent: None,
        sequence: reference.map(str::to_owned),
    }
}

fn card(payer: &Payer) -> CardRequest<'_> {
    let customer = payer.customer.as_ref().map(customer);
    match &payer.card {
        CardSource::Pan {
            number,
            cvv,
            expiry,
            holder,
        } => CardRequest {
            card_number: number.expose(),
            card_holder_name: ascii(holder.as_ref()),
            cvv2: cvv.as_ref().map(gateway_core::card::Cvv::expose),
            expiration_date: Some(expiry.yymm()),
            customer,
        },
        CardSource::Token { token, expiry, cvv } => CardRequest {
            card_number: token.as_str(),
            card_holder_name: None,
            cvv2: cvv.as_ref().map(gateway_core::card::Cvv::expose),
            expiration_date: expiry.map(gateway_core::card::Expiry::yymm),
            customer,
        },
    }
}

fn customer(customer: &Customer) -> CustomerRequest {
    let phone = customer
        .phone
        .as_ref()
        .map(|phone| Sensitive::from(digits(phone.expose())));
    CustomerRequest {
        first_name: ascii(customer.first_name.as_ref()),
        last_name: ascii(customer.last_name.as_ref()),
        phone: ascii(phone.as_ref()),
        city: ascii(customer.city.as_ref()),
        // Two letters are all that fits: regions of other countries are left out, not cut.
        state: ascii(
            customer
                .state
                .as_ref()
                .filter(|state| is_letters(state.expose(), 2..=2)),
        ),
        country: ascii(customer.country.as_ref()),
        email: ascii(customer.email.as_ref()),
        address1: ascii(customer.line1.as_ref()),
        address2: ascii(customer.line2.as_ref()),
        zip: ascii(customer.postal_code.as_ref()),
    }
}

fn ascii(text: Option<&Sensitive>) -> Option<Spelled> {
    text.and_then(|text| spelled(text.expose(), TEXT_MAX))
}

fn is_letters(text: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphabetic())
}

/// Everything that this processor would refuse, at once.
pub(super) fn check(config: &ConnexPayConfig, draft: &Draft<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let moves_money = draft
        .verb
        .is_none_or(|verb| verb.is_create() || matches!(verb, Verb::Capture | Verb::Refund));
    if moves_money
        && draft
            .currency
            .is_some_and(|currency| currency != config.currency)
    {
        let detail = format!("this account is charged in {}", config.currency);
        faults.push(fault("/amount/currency", "invalid", detail));
    }
    let fits = |value: i64| (AMOUNT_MIN..=AMOUNT_MAX).contains(&value);
    if moves_money && draft.value.is_some_and(|value| !fits(value)) {
        faults.push(fault(
            "/amount/value",
            "out-of-range",
            "this processor takes 50 to 99999999 minor units",
        ));
    }
    let create = draft.verb.is_none_or(Verb::is_create);
    for (name, value) in draft.upstream.into_iter().flatten() {
        let pointer = pointer_to("/upstream", name);
        match (name.as_str(), value) {
            ("expected_payments", Value::Null) if create => {}
            ("expected_payments", value) if create => {
                if value.as_u64().is_none_or(|count| count > 99) {
                    faults.push(fault(
                        pointer,
                        "out-of-range",
                        "must be an integer, 0 to 99",
                    ));
                }
            }
            _ => faults.push(fault(
                pointer,
                "unknown-field",
                "this processor has no such field",
            )),
        }
    }
    let risk = draft.risk.into_iter();
    if create {
        let required = draft.verb == Some(Verb::Sale);
        faults.extend(risk.flat_map(|risk| risk::check(risk, required)));
    } else {
        let unused = risk
            .flat_map(Map::keys)
            .map(|name| pointer_to("/risk", name));
        faults.extend(
            unused
                .map(|pointer| fault(pointer, "unknown-field", "a card check takes no risk data")),
        );
    }
    if let Some(customer) = draft.customer {
        check_customer(customer, &mut faults);
    }
    faults
}

fn check_customer(customer: &Customer, faults: &mut Vec<Fault>) {
    let text =
        |field: &Option<Sensitive>| field.as_ref().map(|text| text.expose().trim().to_owned());
    let mut refuse = |pointer: &str, detail: &str| faults.push(fault(pointer, "invalid", detail));
    if text(&customer.phone).is_some_and(|phone| !(1..=15).contains(&digits(&phone).len())) {
        refuse("/customer/phone", "must have 1 to 15 digits");
    }
    if text(&customer.email).is_some_and(|email| !email.is_ascii() || !email.contains('@')) {
        refuse("/customer/email", "must be an address in ASCII");
    }
    let country = text(&customer.country);
    if country
        .as_ref()
        .is_some_and(|country| !is_letters(country, 2..=3))
    {
        refuse(
            "/customer/address/country",
            "must be a country code of two or three letters",
        );
    }
    let has_states = country.is_none_or(|country| {
        ["US", "USA", "CA", "CAN"]
            .iter()
            .any(|code| country.eq_ignore_ascii_case(code))
    });
    if has_states && text(&customer.state).is_some_and(|state| !is_letters(&state, 2..=2)) {
        refuse(
            "/customer/address/state",
            "must be the two letters of a state or province",
        );
    }
    let fits = |code: &str| {
        (1..=10).contains(&code.len())
            && code
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'-'))
    };
    if text(&customer.postal_code).is_some_and(|code| !fits(&code)) {
        refuse(
            "/customer/address/postal_code",
            "must be at most ten letters, digits, spaces or dashes",
        );
    }
}
