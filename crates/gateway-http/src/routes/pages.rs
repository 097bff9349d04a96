//! For people: what each problem means, and how to use the service. Plain HTML without anything from elsewhere.

use std::fmt::Write as _;
use std::future::{Ready, ready};

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};

use crate::problem::{Kind, MoneyMoved, Problem, Retry};

/// The pages. They need neither a token nor the engine.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/problems", get(all_problems))
        .route("/problems/{slug}", get(one_problem))
        .route("/docs", get(docs))
}

fn all_problems() -> Ready<Response> {
    let mut rows = String::new();
    for kind in Kind::ALL {
        let meaning = kind.meaning();
        let _ = write!(
            rows,
            "<tr><td>{}</td><td><a href=\"/problems/{slug}\">{slug}</a></td><td>{}</td><td>{}</td><td>{}</td></tr>",
            meaning.status.as_u16(),
            meaning.title,
            retry_name(meaning.retry),
            money_name(meaning.money_moved),
            slug = meaning.slug,
        );
    }
    ready(page(
        "Problems",
        &format!(
            "<p>Only <code>application/problem+json</code> with one of these types is this service's word. Any other \
             5xx, from a proxy for example, means: outcome unknown, repeat with the same key.</p>\
             <table><tr><th>Status</th><th>Type</th><th>Means</th><th>retry</th><th>money_moved</th></tr>{rows}</table>"
        ),
    ))
}

fn one_problem(Path(slug): Path<String>) -> Ready<Result<Response, Problem>> {
    ready(problem_page(&slug))
}

fn problem_page(slug: &str) -> Result<Response, Problem> {
    let found = Kind::ALL
        .iter()
        .map(|kind| kind.meaning())
        .find(|meaning| meaning.slug == slug);
    let meaning = found.ok_or_else(|| {
        Problem::new(Kind::NotFound, "there is no such problem type").retry(Retry::Never)
    })?;
    let body = format!(
        "<p><code>/problems/{}</code> · status {}</p><p>{}</p>\
         <p><code>retry</code>: {} · <code>money_moved</code>: {} (unless the answer itself says otherwise)</p>\
         <p><a href=\"/problems\">All problems</a></p>",
        meaning.slug,
        meaning.status.as_u16(),
        meaning.text,
        retry_name(meaning.retry),
        money_name(meaning.money_moved),
    );
    Ok(page(meaning.title, &body))
}

fn docs() -> Ready<Response> {
    ready(page("Using the gateway", include_str!("docs.html")))
}

fn retry_name(retry: Retry) -> &'static str {
    match retry {
        Retry::SameKey => "same-key",
        Retry::NewKey => "new-key",
        Retry::Never => "never",
    }
}

fn money_name(money_moved: MoneyMoved) -> &'static str {
    match money_moved {
        MoneyMoved::No => "no",
        MoneyMoved::Returned => "returned",
        MoneyMoved::Unknown => "unknown",
    }
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
color:#1a1a1a}table{border-collapse:collapse;width:100%}td,th{border:1px solid #ccc;padding:.3rem .6rem;\
text-align:left;vertical-align:top}code,pre{font:14px/1.4 ui-monospace,monospace;background:#f4f4f4}\
pre{padding:.8rem;overflow-x:auto}";

/// `title` and `body` are our own texts: nothing of a caller's is ever put in.
fn page(title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title} · Quittance</title>\
         <style>{STYLE}</style></head><body><h1>{title}</h1>{body}</body></html>"
    );
    let mut response = (StatusCode::OK, html).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use tower::ServiceExt;

    use super::*;

    async fn get_page(path: &str) -> (StatusCode, String) {
        let request = http::Request::get(path)
            .body(Body::empty())
            .expect("a request");
        let response = router::<()>().oneshot(request).await.expect("infallible");
        let status = response.status();
        let body = to_bytes(response.into_body(), 1_000_000)
            .await
            .expect("small");
        (status, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    #[tokio::test]
    async fn every_problem_type_leads_to_its_page() {
        let (_, list) = get_page("/problems").await;
        for kind in Kind::ALL {
            let slug = kind.meaning().slug;
            assert!(list.contains(&format!("\"/problems/{slug}\"")), "{slug}");
            let (status, text) = get_page(&format!("/problems/{slug}")).await;
            assert_eq!(status, StatusCode::OK);
            assert!(text.contains(kind.meaning().text), "{slug}");
        }
        assert_eq!(get_page("/problems/nothing").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn the_docs_say_first_whose_word_counts_and_load_nothing_from_elsewhere() {
        let (status, text) = get_page("/docs").await;
        assert_eq!(status, StatusCode::OK);
        let body = text.split("<h1>").nth(1).expect("a body");
        assert!(
            body.find("problem+json").expect("said") < body.find("<h2").expect("sections"),
            "said first"
        );
        for foreign in ["src=", "<script", "<link", "@import"] {
            assert!(!text.contains(foreign), "{foreign}");
        }
    }
}
