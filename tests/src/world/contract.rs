//! Holds every answer that a test gets against what the OpenAPI document says of its route.

use std::sync::LazyLock;

use http::Method;
use serde_json::Value;

use super::Reply;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let (_, declared) = gateway_http::routes::declared().split_for_parts();
    gateway_http::openapi::document(&declared)
});

/// Fails the test if the route does not declare this status, this type of problem, or a header that it must have.
#[track_caller]
pub(super) fn assert_declared(method: &Method, target: &str, reply: &Reply) {
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
    for (name, header) in declared["headers"].as_object().into_iter().flatten() {
        if header["required"] == true {
            let given = reply.headers.contains_key(name.as_str());
            assert!(given, "without {name}. {}", said());
        }
    }
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
