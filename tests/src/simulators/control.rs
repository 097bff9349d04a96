//! The control API of the sandbox: faults, books, journal, reset.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Deserialize;

use super::House;
use super::fault::{Fault, FaultOrder};
use super::site::Reply;

const BODY_BYTES_MAX: usize = 1 << 20;

/// A list of faults, alone or with the seed of their draws.
#[derive(Deserialize)]
#[serde(untagged)]
enum Wanted {
    List(Vec<Fault>),
    Order(FaultOrder),
}

/// Answers one request below `/_sandbox/`; `path` is what follows that prefix.
pub(crate) async fn answer(
    house: &Arc<House>,
    path: &str,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let reply = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => route(house, &head.method, path, &body.to_bytes()).await,
        Err(_) => refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            &["the body is too large or broke off".to_owned()],
        ),
    };
    reply.into_response()
}

async fn route(house: &Arc<House>, method: &Method, path: &str, body: &[u8]) -> Reply {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match (method, parts.as_slice()) {
        (&Method::POST, ["reset"]) => match house.reset().await {
            Ok(()) => Reply::empty(StatusCode::NO_CONTENT),
            Err(error) => failed(&error),
        },
        (&Method::GET, ["connections"]) => shown(&house.connections()),
        (_, [upstream, rest @ ..]) => {
            let Some(site) = house.site(upstream) else {
                let names = house.names().join(", ");
                return refused(
                    StatusCode::NOT_FOUND,
                    &[format!("no upstream {upstream:?}; there are {names}")],
                );
            };
            match (method, rest) {
                (&Method::GET, ["faults"]) => shown(&site.faults.in_force()),
                (&Method::PUT, ["faults"]) => match serde_json::from_slice(body) {
                    Ok(Wanted::List(faults)) => {
                        order(house, upstream, FaultOrder { faults, seed: 0 }).await
                    }
                    Ok(Wanted::Order(wanted)) => order(house, upstream, wanted).await,
                    Err(_) => refused(StatusCode::BAD_REQUEST, &[explain(body)]),
                },
                (&Method::DELETE, ["faults"]) => {
                    order(house, upstream, FaultOrder::default()).await
                }
                (&Method::GET, ["books"]) => Reply::json(StatusCode::OK, site.processor.books()),
                (&Method::GET, ["requests"]) => shown(&site.journal.all()),
                (&Method::GET, ["rules"]) => Reply::json(StatusCode::OK, site.processor.rules()),
                (&Method::PUT, ["rules"]) => match site.processor.set_rules(body) {
                    Ok(()) => Reply::json(StatusCode::OK, site.processor.rules()),
                    Err(objection) => refused(StatusCode::BAD_REQUEST, &[objection]),
                },
                (&Method::POST, ["close-batch"]) => match site.processor.close_batch() {
                    Ok(()) => Reply::empty(StatusCode::NO_CONTENT),
                    Err(error) => failed(&error),
                },
                (&Method::POST, ["release-late"]) => {
                    site.release_late();
                    Reply::empty(StatusCode::NO_CONTENT)
                }
                _ => nothing_here(),
            }
        }
        _ => nothing_here(),
    }
}

async fn order(house: &Arc<House>, upstream: &str, wanted: FaultOrder) -> Reply {
    match house.order(upstream, wanted).await {
        Ok(()) => Reply::empty(StatusCode::NO_CONTENT),
        Err(objections) => refused(StatusCode::BAD_REQUEST, &objections),
    }
}

/// The untagged form loses what was wrong, so the body is read once more in the form it seems to have.
fn explain(body: &[u8]) -> String {
    let list = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let objection = if list {
        serde_json::from_slice::<Vec<Fault>>(body).err()
    } else {
        serde_json::from_slice::<FaultOrder>(body).err()
    };
    objection.map_or_else(String::new, |error| error.to_string())
}

fn shown(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(json) => Reply::json(StatusCode::OK, json),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> Reply {
    refused(StatusCode::INTERNAL_SERVER_ERROR, &[error.to_string()])
}

fn nothing_here() -> Reply {
    refused(
        StatusCode::NOT_FOUND,
        &["no such control; tests/README.md lists them".to_owned()],
    )
}

fn refused(status: StatusCode, errors: &[String]) -> Reply {
    Reply::json(status, serde_json::json!({ "errors": errors }).to_string())
}
