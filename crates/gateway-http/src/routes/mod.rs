//! One file per resource. A handler reads the request, asks the engine, and renders what it says.

pub mod answer;
pub mod cancellations;
pub mod documents;
pub mod events;
pub mod follow_ups;
pub mod health;
pub mod operations;
pub mod pages;
pub mod payments;
pub mod verifications;

use axum::Router;
use axum::routing::{get, post};

use crate::app::App;

/// The resources under `/v1`.
pub fn v1() -> Router<App> {
    Router::new()
        .route("/v1/payments", post(payments::create).get(payments::list))
        .route("/v1/payments/{id}", get(payments::show))
        .route("/v1/payments/{id}/captures", post(follow_ups::capture))
        .route("/v1/payments/{id}/voids", post(follow_ups::void))
        .route("/v1/payments/{id}/refunds", post(follow_ups::refund))
        .route(
            "/v1/payments/{id}/metadata",
            axum::routing::delete(payments::erase_metadata),
        )
        .route("/v1/verifications", post(verifications::create))
        .route("/v1/cancellations", post(cancellations::create))
        .route("/v1/operations", get(operations::by_key))
        .route("/v1/operations/{id}", get(operations::show))
        .route("/v1/events", get(events::list))
}
