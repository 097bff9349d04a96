//! The document and the readers say the same.

use crate::requests::{AmountOnly, Cancellation, CreatePayment, Verification, Void};

use super::*;
use crate::problem::Problem;
use crate::routes;

fn built() -> Value {
    let (_, declared) = routes::declared().split_for_parts();
    document(&declared, Duration::from_mins(2))
}

/// Follows `$ref`.
fn resolve<'v>(document: &'v Value, schema: &'v Value) -> &'v Value {
    match schema["$ref"].as_str() {
        Some(pointer) => document
            .pointer(pointer.trim_start_matches('#'))
            .expect("a schema"),
        None => schema,
    }
}

fn schema<'v>(document: &'v Value, name: &str) -> &'v Value {
    &document["components"]["schemas"][name]
}

fn faults(parsed: Result<(), Problem>) -> Vec<(String, String)> {
    let problem = parsed.err();
    problem.map_or(Vec::new(), |problem| {
        problem
            .errors()
            .iter()
            .map(|fault| (fault.pointer.clone(), fault.code.to_string()))
            .collect()
    })
}

/// A value that breaks the schema's type.
fn of_wrong_type(schema: &Value) -> Value {
    if schema["type"] == "boolean" {
        json!("true")
    } else {
        json!(true)
    }
}

/// Walks a request's schema beside its reader: each described property is known, each required one is required, and
/// nothing else is let in.
fn agree(document: &Value, name: &str, read: &dyn Fn(&[u8]) -> Result<(), Problem>) {
    let described = schema(document, name);
    assert_eq!(described["additionalProperties"], false, "{name}");
    walk(document, described, "", &|body| {
        faults(read(body.to_string().as_bytes()))
    });
}

fn walk(
    document: &Value,
    described: &Value,
    pointer: &str,
    read: &dyn Fn(Value) -> Vec<(String, String)>,
) {
    let nest = |value: Value| {
        pointer
            .split('/')
            .skip(1)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .fold(value, |inner, name| json!({ name: inner }))
    };
    let empty = read(nest(json!({})));
    for name in described["required"].as_array().into_iter().flatten() {
        let wanted = (
            format!("{pointer}/{}", name.as_str().expect("a name")),
            "required".to_owned(),
        );
        assert!(empty.contains(&wanted), "{wanted:?} in {empty:?}");
    }
    let unknown = read(nest(json!({ "surprise": 1 })));
    assert!(
        unknown.contains(&(format!("{pointer}/surprise"), "unknown-field".into())),
        "{pointer}: {unknown:?}"
    );
    for (name, property) in described["properties"].as_object().into_iter().flatten() {
        let property = resolve(document, property);
        let here = format!("{pointer}/{name}");
        let wrong = read(nest(json!({ name: of_wrong_type(property) })));
        // A card is read as a number or a token; alone, the other fields wait for that choice.
        let waits_for_choice = wrong.contains(&(pointer.to_owned(), "required".into()));
        assert!(
            waits_for_choice || wrong.contains(&(here.clone(), "type".into())),
            "{here}: {wrong:?}"
        );
        let null = read(nest(json!({ name: null })));
        assert!(
            waits_for_choice || null.contains(&(here.clone(), "null".into())),
            "{here}: {null:?}"
        );
        if property["properties"].is_object() {
            walk(document, property, &here, read);
        }
    }
}

#[test]
fn what_is_described_is_what_is_read() {
    let document = built();
    agree(&document, "CreatePaymentRequest", &|body| {
        CreatePayment::parse(body)
            .map(|_| ())
            .map_err(|faulty| faulty.problem)
    });
    agree(&document, "FollowUpRequest", &|body| {
        AmountOnly::parse(body).map(|_| ())
    });
    agree(&document, "VoidRequest", &|body| {
        Void::parse(body).map(|_| ())
    });
    agree(&document, "VerificationRequest", &|body| {
        Verification::parse(body)
            .map(|_| ())
            .map_err(|faulty| faulty.problem)
    });
    agree(&document, "CancellationRequest", &|body| {
        Cancellation::parse(body).map(|_| ())
    });
}

#[test]
fn every_reference_leads_somewhere_and_no_request_allows_null() {
    fn walk(document: &Value, value: &Value) {
        if let Some(pointer) = value["$ref"].as_str() {
            assert!(
                document.pointer(pointer.trim_start_matches('#')).is_some(),
                "{pointer}"
            );
        }
        match value {
            Value::Object(members) => members.values().for_each(|inner| walk(document, inner)),
            Value::Array(items) => items.iter().for_each(|inner| walk(document, inner)),
            _ => {}
        }
    }
    let document = built();
    assert!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1."))
    );
    walk(&document, &document);
    let schemas = document["components"]["schemas"]
        .as_object()
        .expect("schemas");
    for (name, schema) in schemas.iter().filter(|(name, _)| name.ends_with("Request")) {
        assert!(!schema.to_string().contains("\"null\""), "{name}: {schema}");
    }
}

#[test]
fn every_money_moving_route_names_its_key_and_all_its_answers() {
    let document = built();
    for path in [
        "/v1/payments",
        "/v1/payments/{id}/captures",
        "/v1/payments/{id}/voids",
        "/v1/payments/{id}/refunds",
        "/v1/verifications",
    ] {
        let operation = &document["paths"][path]["post"];
        let names: Vec<_> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|of| &of["name"])
            .collect();
        assert!(
            names.contains(&&json!("Idempotency-Key")),
            "{path}: {names:?}"
        );
        for status in [
            "200", "201", "400", "401", "402", "403", "408", "410", "413", "415", "422", "429",
            "500", "503", "504",
        ] {
            assert!(
                operation["responses"][status].is_object(),
                "{path} {status}"
            );
        }
        let names_a_payment = path.contains("{id}");
        assert_eq!(operation["responses"]["404"].is_object(), names_a_payment);
        assert_eq!(
            operation["responses"]["409"].is_object(),
            path != "/v1/verifications"
        );
        for status in ["429", "503", "504"] {
            let header = &operation["responses"][status]["headers"]["Retry-After"];
            assert_eq!(header["required"], true, "{path} {status}");
        }
        assert!(
            operation["requestBody"]["content"]["application/json"].is_object(),
            "{path}"
        );
    }
    let cancellation = &document["paths"]["/v1/cancellations"]["post"];
    assert!(
        !cancellation.to_string().contains("Idempotency-Key"),
        "takes no key of its own"
    );
}

/// The members that hold one of our words, and each word that there is: a reader generated from the document knows them all.
#[test]
fn words_are_listed_where_there_are_no_others() {
    use gateway_core::operation::{StateName, Verb};
    use gateway_core::payment::PaymentStatus;

    let document = built();
    let listed = |name: &str, member: &str| {
        let property = &schema(&document, name)["properties"][member];
        resolve(&document, property)["enum"].clone()
    };
    let statuses = json!(PaymentStatus::ALL);
    assert_eq!(listed("PaymentDocument", "status"), statuses);
    assert_eq!(listed("EventDocument", "payment_status"), statuses);
    assert_eq!(listed("Problem", "payment_status"), statuses);
    let states = json!(StateName::ALL);
    assert_eq!(listed("OperationDocument", "state"), states);
    assert_eq!(listed("EventDocument", "from"), states);
    assert_eq!(listed("EventDocument", "to"), states);
    let verbs = json!(Verb::ALL);
    assert_eq!(listed("OperationDocument", "verb"), verbs);
    assert_eq!(listed("EventDocument", "verb"), verbs);
}
