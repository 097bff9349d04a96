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

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::schema::ProblemDocument;

/// The resources under `/v1`, and the health of the process, with what OpenAPI says of each.
pub fn declared() -> OpenApiRouter<App> {
    #[derive(utoipa::OpenApi)]
    #[openapi(components(schemas(ProblemDocument)))]
    struct Shared;

    OpenApiRouter::with_openapi(<Shared as utoipa::OpenApi>::openapi())
        .routes(routes!(payments::create, payments::list))
        .routes(routes!(payments::show))
        .routes(routes!(follow_ups::capture))
        .routes(routes!(follow_ups::void))
        .routes(routes!(follow_ups::refund))
        .routes(routes!(payments::erase_metadata))
        .routes(routes!(verifications::create))
        .routes(routes!(cancellations::create))
        .routes(routes!(operations::by_key))
        .routes(routes!(operations::show))
        .routes(routes!(events::list))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
}
