//! Holds every answer that a test gets against what the OpenAPI document says of its route.

use std::sync::LazyLock;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::Reply;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let (_, declared) = gateway_http::routes::declared().split_for_parts();
    gateway_http::openapi::document(&declared, Duration::from_mins(2))
});

/// Fails the test if the route does not declare this status, this type of problem, a header that it must have, or a word
/// where the document lists the words there are.
#[track_caller]
pub(crate) fn assert_declared(method: &Method, target: &str, reply: &Reply) {
    let path = target.split('?').next().unwrap_or_default();
    if !path.starts_with("/v1/") {
        return; // Pages, metrics, health.
    }
    let status = reply.status;
    let said = || format!("{method} {target}: {status} {}", reply.body);
    let Some(methods) = route(path) else {
        assert_eq!(status, 404, "no such path. {}", said());
        return;
    };
    let responses = &methods[method.as_str().to_ascii_lowercase()]["responses"];
    if responses.is_null() {
        assert_eq!(status, 405, "no such method. {}", said());
        return;
    }
    let declared = &responses[status.to_string()];
    assert!(declared.is_object(), "not declared. {}", said());
    if status >= 400 {
        let kind = format!("`{}`", reply.problem());
        let kinds = declared["description"].as_str().unwrap_or_default();
        assert!(kinds.contains(&kind), "not in {kinds}. {}", said());
    }
    for (_, described) in declared["content"].as_object().into_iter().flatten() {
        let words = words_beyond(&described["schema"], &reply.body);
        assert!(words.is_empty(), "not listed: {words:?}. {}", said());
    }
    for (name, header) in declared["headers"].as_object().into_iter().flatten() {
        if header["required"] == true {
            let given = reply.headers.contains_key(name.as_str());
            assert!(given, "without {name}. {}", said());
        }
    }
}

/// What a body says where its schema lists the words there are, and is none of them. Each with its member's name.
fn words_beyond(schema: &Value, body: &Value) -> Vec<String> {
    let schema = match schema["$ref"].as_str() {
        Some(pointer) => DOCUMENT
            .pointer(pointer.trim_start_matches('#'))
            .expect("a schema"),
        None => schema,
    };
    if let Some(listed) = schema["enum"].as_array()
        && !listed.contains(body)
    {
        return vec![body.to_string()];
    }
    let mut beyond = Vec::new();
    // Something or null: what is there must be the something.
    let parts = ["allOf", "oneOf"].map(|parts| schema[parts].as_array());
    for part in parts.into_iter().flatten().flatten() {
        if !body.is_null() {
            beyond.extend(words_beyond(part, body));
        }
    }
    for (name, member) in body.as_object().into_iter().flatten() {
        let words = words_beyond(&schema["properties"][name], member);
        beyond.extend(words.iter().map(|word| format!("{name}: {word}")));
    }
    for item in body.as_array().into_iter().flatten() {
        beyond.extend(words_beyond(&schema["items"], item));
    }
    beyond
}

/// The methods of the declared path that fits.
fn route(path: &str) -> Option<&'static Value> {
    let fits = |template: &str| {
        let (mut given, mut wanted) = (path.split('/'), template.split('/'));
        loop {
            match (given.next(), wanted.next()) {
                (None, None) => return true,
                (Some(part), Some("{id}")) if !part.is_empty() => {}
                (Some(part), Some(name)) if part == name => {}
                _ => return false,
            }
        }
    };
    let paths = DOCUMENT["paths"].as_object()?;
    let found = paths.iter().find(|(template, _)| fits(template));
    found.map(|(_, methods)| methods)
}
