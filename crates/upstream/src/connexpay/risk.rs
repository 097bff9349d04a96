//! The caller's `risk` object: which fields this processor takes, and how they become its `RiskData`.

use gateway_core::connector::Fault;
use gateway_core::echo::pointer_to;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use time::macros::format_description;

use super::ascii::spelled;

/// One field: what callers call it, what the processor calls it, what it holds.
struct Field {
    name: &'static str,
    wire: &'static str,
    kind: Kind,
}

enum Kind {
    /// At most so many characters.
    Text(usize),
    /// `M` or `F`.
    Gender,
    /// `2002-05-30`.
    Date,
    /// `2020-06-30` or `2020-06-30 14:30:00`.
    Moment,
    /// Zero or more.
    Integer,
    /// An integer or a text.
    Loose(usize),
    Digits(usize),
    /// ISO 3166-1, two letters.
    Country,
    Object(&'static [Field]),
    List(&'static [Field]),
}

/// Longer texts than any limit that is published would only be a way to send something else.
const TEXT_MAX: usize = 250;
/// Passengers or parameters of one request.
const ITEMS_MAX: usize = 100;
/// What a sale must name (sales table of the reference).
const REQUIRED: [&str; 3] = ["gender", "product_type", "product_item"];

const fn field(name: &'static str, wire: &'static str, kind: Kind) -> Field {
    Field { name, wire, kind }
}

/// `OrderNumber` is not among them: it carries our own reference.
static FIELDS: [Field; 21] = [
    field("name", "Name", Kind::Text(64)),
    field("gender", "Gender", Kind::Gender),
    field("date_of_birth", "DateOfBirth", Kind::Date),
    field("billing_address1", "BillingAddress1", Kind::Text(TEXT_MAX)),
    field("billing_address2", "BillingAddress2", Kind::Text(TEXT_MAX)),
    field("billing_city", "BillingCity", Kind::Text(TEXT_MAX)),
    field("billing_state", "BillingState", Kind::Text(TEXT_MAX)),
    field("billing_postal_code", "BillingPostalCode", Kind::Text(15)),
    field("billing_country_code", "BillingCountryCode", Kind::Country),
    field("email", "Email", Kind::Text(TEXT_MAX)),
    field("product_type", "ProductType", Kind::Text(TEXT_MAX)),
    field("product_desc", "ProductDesc", Kind::Text(TEXT_MAX)),
    field("product_item", "ProductItem", Kind::Text(TEXT_MAX)),
    field("product_quantity", "ProductQuantity", Kind::Integer),
    // Minor units, where the payment's amount is in major ones.
    field("product_price", "ProductPrice", Kind::Integer),
    field(
        "card_holder_phone_number",
        "CardHolderPhoneNumber",
        Kind::Digits(15),
    ),
    field("seller_id", "SellerId", Kind::Text(TEXT_MAX)),
    field("session_id", "SessionId", Kind::Text(TEXT_MAX)),
    field("flight_data", "FlightData", Kind::Object(&FLIGHT)),
    field(
        "flight_passengers",
        "FlightPassengers",
        Kind::List(&PASSENGER),
    ),
    field(
        "custom_parameters",
        "CustomParameters",
        Kind::List(&PARAMETER),
    ),
];

static FLIGHT: [Field; 8] = [
    field("airline", "Airline", Kind::Text(TEXT_MAX)),
    field(
        "departure_airport",
        "DepartureAirport",
        Kind::Text(TEXT_MAX),
    ),
    field("departure_date", "DepartureDate", Kind::Moment),
    field(
        "destination_airport",
        "DestinationAirport",
        Kind::Text(TEXT_MAX),
    ),
    // A string by the table, a number in the sample.
    field("hours_to_departure", "HoursToDeparture", Kind::Loose(20)),
    field("journey_type", "JourneyType", Kind::Text(TEXT_MAX)),
    field("route", "Route", Kind::Text(TEXT_MAX)),
    field("route_by_country", "RouteByCountry", Kind::Text(TEXT_MAX)),
];

static PASSENGER: [Field; 4] = [
    field("country", "Country", Kind::Text(TEXT_MAX)),
    field("date_of_birth", "DateOfBirth", Kind::Date),
    field("id", "Id", Kind::Text(TEXT_MAX)),
    field("name", "Name", Kind::Text(TEXT_MAX)),
];

static PARAMETER: [Field; 2] = [
    field("name", "Name", Kind::Text(TEXT_MAX)),
    field("value", "Value", Kind::Loose(TEXT_MAX)),
];

/// Every fault of a `risk` object. `required`: a sale, which must name the buyer's gender and the product.
pub(super) fn check(risk: &Map<String, Value>, required: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    if required {
        for name in REQUIRED {
            if risk.get(name).is_none_or(Value::is_null) {
                faults.push(fault(
                    format!("/risk/{name}"),
                    "required",
                    "this processor requires it of every sale",
                ));
            }
        }
    }
    check_object("/risk", risk, &FIELDS, &mut faults);
    faults
}

fn check_object(at: &str, object: &Map<String, Value>, fields: &[Field], faults: &mut Vec<Fault>) {
    for (name, value) in object {
        let pointer = || pointer_to(at, name);
        match fields.iter().find(|field| field.name == name) {
            Some(_) if value.is_null() => {}
            Some(field) => check_value(&pointer, value, &field.kind, faults),
            None => faults.push(fault(
                pointer(),
                "unknown-field",
                "this processor has no such field",
            )),
        }
    }
}

/// Of most values nobody asks where they are.
fn check_value(pointer: &dyn Fn() -> String, value: &Value, kind: &Kind, faults: &mut Vec<Fault>) {
    let detail = match kind {
        Kind::Object(fields) => match value {
            Value::Object(object) => return check_object(&pointer(), object, fields, faults),
            _ => "must be an object",
        },
        Kind::List(fields) => match value {
            Value::Array(items) if items.len() <= ITEMS_MAX => {
                for (index, item) in items.iter().enumerate() {
                    let at = format!("{}/{index}", pointer());
                    match item {
                        Value::Object(object) => check_object(&at, object, fields, faults),
                        _ => faults.push(fault(at, "invalid", "must be an object")),
                    }
                }
                return;
            }
            _ => "must be a list of at most 100 objects",
        },
        Kind::Text(max) => match value.as_str() {
            Some(text) if text.chars().count() > *max => "is too long for this processor",
            Some(text) if spelled(text, *max).is_none() => {
                "must have a character that can be written in ASCII"
            }
            Some(_) => return,
            None => "must be a string",
        },
        Kind::Gender if matches!(value.as_str(), Some("M" | "F")) => return,
        Kind::Gender => "must be \"M\" or \"F\"",
        Kind::Date if value.as_str().is_some_and(is_date) => return,
        Kind::Date => "must be a date as in 2002-05-30",
        Kind::Moment
            if value
                .as_str()
                .is_some_and(|text| is_date(text) || is_moment(text)) =>
        {
            return;
        }
        Kind::Moment => "must be as in 2020-06-30 or 2020-06-30 14:30:00",
        Kind::Integer | Kind::Loose(_) if value.is_u64() => return,
        Kind::Integer => "must be an integer, zero or more",
        Kind::Loose(max) => match value.as_str() {
            Some(text) if text.chars().count() <= *max && text.is_ascii() => return,
            _ => "must be an ASCII string or an integer, zero or more",
        },
        Kind::Digits(max) => match value.as_str() {
            Some(text) if !digits(text).is_empty() && digits(text).len() <= *max => return,
            _ => "must be a string with digits, at most 15",
        },
        Kind::Country => match value.as_str() {
            Some(text) if text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic()) => {
                return;
            }
            _ => "must be a country code of two letters",
        },
    };
    faults.push(fault(pointer(), "invalid", detail));
}

fn is_date(text: &str) -> bool {
    let form = format_description!("[year]-[month]-[day]");
    time::Date::parse(text, form).is_ok()
}

fn is_moment(text: &str) -> bool {
    let form = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    time::PrimitiveDateTime::parse(text, form).is_ok()
}

/// What a phone number is without its separators.
pub(super) fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

pub(super) fn fault(
    pointer: impl Into<String>,
    code: &'static str,
    detail: impl Into<String>,
) -> Fault {
    Fault {
        pointer: pointer.into(),
        code,
        detail: detail.into(),
    }
}

/// A checked `risk` object as the processor reads it. A field that is not in the table is not sent.
pub(super) struct RiskData<'a> {
    pub(super) risk: &'a Map<String, Value>,
    /// Here too: whether the top-level order number or this one is what their search sees is not documented.
    pub(super) order_number: &'a str,
}

impl Serialize for RiskData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        serialize_fields(&mut map, self.risk, &FIELDS)?;
        map.serialize_entry("OrderNumber", self.order_number)?;
        map.end()
    }
}

fn serialize_fields<M: SerializeMap>(
    map: &mut M,
    object: &Map<String, Value>,
    fields: &[Field],
) -> Result<(), M::Error> {
    for field in fields {
        if let Some(value) = object.get(field.name).filter(|value| !value.is_null()) {
            map.serialize_entry(
                field.wire,
                &Worded {
                    value,
                    kind: &field.kind,
                },
            )?;
        }
    }
    Ok(())
}

/// A value in the processor's form.
struct Worded<'a> {
    value: &'a Value,
    kind: &'a Kind,
}

impl Serialize for Worded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.kind, self.value) {
            (Kind::Object(fields), Value::Object(object)) => {
                Renamed { object, fields }.serialize(serializer)
            }
            (Kind::List(fields), Value::Array(items)) => serializer.collect_seq(
                items
                    .iter()
                    .filter_map(Value::as_object)
                    .map(|object| Renamed { object, fields }),
            ),
            (Kind::Text(max), Value::String(text)) => match spelled(text, *max) {
                Some(text) => serializer.serialize_str(&text),
                None => serializer.serialize_str(""),
            },
            (Kind::Digits(_), Value::String(text)) => serializer.serialize_str(&digits(text)),
            (_, value) => value.serialize(serializer),
        }
    }
}

struct Renamed<'a> {
    object: &'a Map<String, Value>,
    fields: &'static [Field],
}

impl Serialize for Renamed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        serialize_fields(&mut map, self.object, self.fields)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            _ => panic!("an object"),
        }
    }

    fn faults(value: Value, required: bool) -> Vec<(String, &'static str)> {
        check(&map(value), required)
            .into_iter()
            .map(|fault| (fault.pointer, fault.code))
            .collect()
    }

    #[test]
    fn a_sale_must_name_buyer_and_product() {
        let expected = ["/risk/gender", "/risk/product_type", "/risk/product_item"]
            .map(|at| (at.to_owned(), "required"));
        assert_eq!(faults(json!({}), true), expected);
        assert_eq!(faults(json!({}), false), []);
        assert_eq!(
            faults(
                json!({"gender": "F", "product_type": "Flight", "product_item": "784GTWJFK856"}),
                true
            ),
            []
        );
    }

    #[test]
    fn faults_are_named_by_pointer() {
        let risk = json!({
            "gender": "X", "product_type": "Flight", "product_item": "", "order_number": "857B2", "a/b": 1,
            "4012000098765439": 1, "0735": 1,
            "product_price": 1.5, "date_of_birth": "1993-02-30",
            "flight_data": {"departure_date": "soon", "airlines": "x", "735": 1},
            "flight_passengers": [{"id": "1"}, {"passport": "2"}, 3],
        });
        let mut found = faults(risk, true);
        found.sort();
        let mut expected = [
            ("/risk/*", "unknown-field"),
            ("/risk/*", "unknown-field"),
            ("/risk/*", "unknown-field"),
            ("/risk/flight_data/*", "unknown-field"),
            ("/risk/date_of_birth", "invalid"),
            ("/risk/flight_data/airlines", "unknown-field"),
            ("/risk/flight_data/departure_date", "invalid"),
            ("/risk/flight_passengers/1/passport", "unknown-field"),
            ("/risk/flight_passengers/2", "invalid"),
            ("/risk/gender", "invalid"),
            ("/risk/order_number", "unknown-field"),
            ("/risk/product_item", "invalid"),
            ("/risk/product_price", "invalid"),
        ]
        .map(|(at, code)| (at.to_owned(), code));
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn fields_take_the_names_of_the_reference() {
        let risk = map(json!({
            "gender": "M", "product_type": "Flug", "product_item": "784GTWJFK856", "product_desc": "Zürich–Oslo",
            "product_price": 42400, "product_quantity": 4, "card_holder_phone_number": "+1 917 756-3046",
            "flight_data": {"airline": "American Airlines", "departure_date": "2020-06-30", "hours_to_departure": 5},
            "flight_passengers": [{"country": "USA", "date_of_birth": "1990-12-07", "id": "89456489", "name": "Adam Smith"}],
            "custom_parameters": [{"name": "ClientSpecific1", "value": "Traveling"}], "name": null,
        }));
        let sent = serde_json::to_value(RiskData {
            risk: &risk,
            order_number: "ABCDEFGH123456789",
        })
        .unwrap();
        assert_eq!(
            sent,
            json!({
                "Gender": "M", "ProductType": "Flug", "ProductItem": "784GTWJFK856", "ProductDesc": "Zurich-Oslo",
                "ProductPrice": 42400, "ProductQuantity": 4, "CardHolderPhoneNumber": "19177563046",
                "FlightData": {"Airline": "American Airlines", "DepartureDate": "2020-06-30", "HoursToDeparture": 5},
                "FlightPassengers": [{"Country": "USA", "DateOfBirth": "1990-12-07", "Id": "89456489", "Name": "Adam Smith"}],
                "CustomParameters": [{"Name": "ClientSpecific1", "Value": "Traveling"}],
                "OrderNumber": "ABCDEFGH123456789",
            })
        );
    }
}
