//! The feed of state changes: `GET /v1/events?after=`.

use std::borrow::Cow;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use gateway_core::store::{EventCursor, EventQuery};
use http::HeaderMap;

use super::documents::{EventDocument, cursor_text};
use super::payments::{caller_accounts, limit};
use crate::app::App;
use crate::auth::Scope;
use crate::extract::Query;
use crate::patience::Patience;
use crate::problem::Problem;
use crate::schema::EventListDocument;

/// A page of events in the order of the feed. `next_after` goes into the next request, whether or not there was an event.
#[utoipa::path(
    get, path = "/v1/events", tag = "operations",
    params(
        ("after" = Option<String>, Query, description = "`next_after` of the page before; absent: from the beginning."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "50 unless given."),
    ),
    responses((status = 200, description = "A page.", body = EventListDocument)),
)]
pub async fn list(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let caller = app.caller(&headers, &[Scope::PaymentsRead]).await?;
    let patience = Patience::of(&app, &headers)?;
    let mut query = Query::parse(query.as_deref());
    let after = query.optional("after", |text| {
        cursor(text).ok_or(Cow::Borrowed("is no place in the feed"))
    });
    let limit = limit(&mut query);
    query.finish()?;
    let wanted = EventQuery {
        accounts: caller_accounts(&caller),
        after,
        limit,
    };
    let events = patience.ask(app.engine.store().events(&wanted)).await?;
    let next_after = events
        .last()
        .map(|event| event.cursor)
        .or(after)
        .map(cursor_text);
    let documents: Vec<_> = events
        .iter()
        .map(|event| EventDocument::of(event, false))
        .collect();
    Ok(Json(serde_json::json!({ "events": documents, "next_after": next_after })).into_response())
}

fn cursor(text: &str) -> Option<EventCursor> {
    let (transaction, id) = text.split_once('-')?;
    Some(EventCursor {
        transaction: transaction.parse().ok()?,
        id: id.parse().ok()?,
    })
}
