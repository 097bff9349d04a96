//! Faults of the connection: refused, reset, closed for idling, and what the counters say of them.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;

use super::{Caller, another, ready, sale, sale_path};
use crate::simulators::connexpay::verb;
use crate::simulators::{Fault, Kind, Moment, Options, Selector, Simulators};

#[tokio::test]
async fn a_refused_connection_is_refused_by_the_kernel_and_the_port_comes_back() {
    let (simulators, mut open) = ready().await;
    let upstream = simulators.connexpay();
    upstream
        .set_fault(Fault::new(Kind::RefuseConnection))
        .await
        .expect("in force");
    for _ in 0..3 {
        let refused = Caller::connect(simulators.address())
            .await
            .err()
            .expect("no connection");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(
        open.post("sales", &sale("10", "A1")).await.status,
        200,
        "open connections go on"
    );

    upstream.lift_faults().await.expect("lifted");
    let mut again = another(&simulators, &open.token).await;
    assert_eq!(again.post("sales", &sale("11", "A2")).await.status, 200);
}

#[tokio::test]
async fn the_control_api_lifts_a_refusal_from_its_own_address() {
    let (simulators, _open) = ready().await;
    let mut control = Caller::connect(simulators.control_address())
        .await
        .expect("a connection");
    let faults = r#"{"faults":[{"fault":"refuse_connection"}],"seed":7}"#;
    let put = control
        .call("PUT", "/_sandbox/connexpay/faults", faults)
        .await
        .expect("an answer");
    assert_eq!(put.status, 204, "{}", put.body);
    assert!(Caller::connect(simulators.address()).await.is_err());
    let deleted = control
        .call("DELETE", "/_sandbox/connexpay/faults", "")
        .await
        .expect("an answer");
    assert_eq!(deleted.status, 204);
    assert!(Caller::connect(simulators.address()).await.is_ok());
}

#[tokio::test]
async fn an_outage_resets_what_is_open_and_refuses_what_is_new() {
    let (simulators, mut open) = ready().await;
    let upstream = simulators.connexpay();
    let gate = upstream.hold(Moment::Received, Selector::verb(verb::SALE));
    open.write("POST", sale_path(), &sale("10", "A1").to_string())
        .await
        .expect("written");
    gate.reached(1).await.expect("received");
    upstream
        .set_fault(Fault::new(Kind::Outage))
        .await
        .expect("in force");
    let cut = open.read().await.expect_err("no answer");
    assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
    assert!(Caller::connect(simulators.address()).await.is_err());
}

#[tokio::test]
async fn a_reset_on_accept_comes_before_any_byte_is_read_and_is_counted() {
    let (simulators, open) = ready().await;
    let upstream = simulators.connexpay();
    upstream
        .set_fault(Fault::new(Kind::ResetOnAccept).first(1))
        .await
        .expect("in force");
    // The reset may already be there when the connection is reported.
    let reset = match Caller::connect(simulators.address()).await {
        Ok(mut struck) => struck.read().await.expect_err("no answer"),
        Err(reset) => reset,
    };
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    let seen = simulators
        .wait_for_connections(|seen| seen.len() == 2)
        .await
        .expect("seen");
    assert_eq!(
        (
            seen[1].ended_by,
            seen[1].requests,
            seen[1].first_byte_after_ms
        ),
        (Some("reset"), 0, None)
    );

    let mut next = another(&simulators, &open.token).await;
    assert_eq!(
        next.post("sales", &sale("10", "A1")).await.status,
        200,
        "the first only"
    );
}

#[tokio::test]
async fn an_unread_request_is_reset_and_leaves_no_trace_in_the_books() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    upstream
        .set_fault(Fault::on(Kind::ResetBeforeRead, verb::SALE).first(1))
        .await
        .expect("in force");
    caller
        .write("POST", sale_path(), &sale("10", "A1").to_string())
        .await
        .expect("written");
    assert_eq!(
        caller.read().await.expect_err("no answer").kind(),
        ErrorKind::ConnectionReset
    );
    assert!(upstream.books().entries.is_empty());
    let struck = upstream.requests_of(verb::SALE);
    assert_eq!(
        (struck[0].fault.as_deref(), struck[0].answered),
        (Some("reset_before_read"), false)
    );
}

#[tokio::test]
async fn only_connections_that_idle_too_long_are_closed() {
    let (simulators, mut idle) = ready().await;
    let upstream = simulators.connexpay();
    let mut busy = another(&simulators, &idle.token).await;
    let gate = upstream.hold(Moment::Received, Selector::verb(verb::SALE));
    busy.write("POST", sale_path(), &sale("10", "A1").to_string())
        .await
        .expect("written");
    gate.reached(1).await.expect("received");
    let limit = Fault::new(Kind::CloseIdle).delay(Duration::from_millis(20));
    upstream.set_fault(limit).await.expect("in force");

    assert!(idle.rest().await.expect("an orderly end").is_empty());
    let seen = simulators
        .wait_for_connections(|seen| seen[0].ended_by.is_some())
        .await
        .expect("seen");
    assert_eq!(
        (seen[0].ended_by, seen[1].ended_by),
        (Some("idle"), None),
        "the busy one stays"
    );
    gate.release();
    assert_eq!(busy.read().await.expect("an answer").status, 200);
    assert!(
        busy.rest().await.expect("an orderly end").is_empty(),
        "and idles now"
    );
}

#[tokio::test]
async fn connections_and_their_requests_are_counted() {
    let (simulators, mut first) = ready().await;
    let mut second = another(&simulators, &first.token).await;
    for number in 0..3 {
        first
            .post("sales", &sale("10", &format!("A{number}")))
            .await;
    }
    second.get("devices").await;
    drop(second);
    let seen = simulators
        .wait_for_connections(|seen| seen.iter().any(|one| one.ended_by.is_some()))
        .await
        .expect("seen");
    assert_eq!(
        seen.iter().map(|one| one.requests).collect::<Vec<_>>(),
        [4, 1]
    );
    assert_eq!(seen[1].ended_by, Some("caller"));
    assert!(seen.iter().all(|one| one.first_byte_after_ms.is_some()));
    let upstream = simulators.connexpay();
    assert_eq!(
        (
            upstream.request_count(),
            upstream.request_count_of(verb::TOKEN)
        ),
        (5, 1)
    );
    let journal = upstream.requests();
    assert_eq!(
        journal
            .iter()
            .map(|one| (one.connection, one.on_connection))
            .next_back(),
        Some((2, 1))
    );
}

#[tokio::test]
async fn a_fault_that_cannot_be_is_refused_with_all_reasons() {
    let (simulators, _caller) = ready().await;
    let objections = simulators
        .connexpay()
        .set_faults(
            vec![
                Fault::on(Kind::CommitThenHang, "sell"),
                Fault::new(Kind::RefuseConnection).first(2),
                Fault::new(Kind::Http500).probability(1.5),
            ],
            0,
        )
        .await
        .expect_err("refused");
    assert_eq!(objections.len(), 3, "{objections:?}");
    let mut control = Caller::connect(simulators.control_address())
        .await
        .expect("a connection");
    let unknown = r#"[{"fault":"http_500","wen":{}}]"#;
    let put = control
        .call("PUT", "/_sandbox/connexpay/faults", unknown)
        .await
        .expect("an answer");
    assert_eq!(put.status, 400);
    assert!(
        put.json()["errors"][0]
            .as_str()
            .is_some_and(|text| text.contains("wen")),
        "{}",
        put.body
    );
}

#[tokio::test]
async fn the_control_api_shows_books_and_masked_journal_and_resets() {
    let (simulators, mut caller) = ready().await;
    caller.post("sales", &sale("10.5", "A1")).await;
    let mut control = Caller::connect(simulators.control_address())
        .await
        .expect("a connection");
    let books = control
        .call("GET", "/_sandbox/connexpay/books", "")
        .await
        .expect("an answer");
    assert_eq!(books.json()["positions"]["A1"]["net"], Value::from(1050));
    let journal = control
        .call("GET", "/_sandbox/connexpay/requests", "")
        .await
        .expect("an answer");
    assert!(journal.body.contains("****5439"), "{}", journal.body);
    for secret in [
        "4012000098765439",
        "\"999\"",
        caller.token.as_str(),
        "sandbox&",
    ] {
        assert!(
            !journal.body.contains(secret) && !books.body.contains(secret),
            "{secret}"
        );
    }
    assert_eq!(
        control
            .call("POST", "/_sandbox/reset", "")
            .await
            .expect("an answer")
            .status,
        204
    );
    let books = control
        .call("GET", "/_sandbox/connexpay/books", "")
        .await
        .expect("an answer");
    assert_eq!(books.json()["entries"], Value::Array(Vec::new()));
    let next = caller.post("sales", &sale("10", "A1")).await;
    assert_eq!(next.status, 200, "tokens stay valid");
}

#[tokio::test]
async fn after_a_shutdown_the_port_is_free_for_the_next() {
    let (simulators, caller) = ready().await;
    let address = simulators.address();
    simulators
        .connexpay()
        .set_fault(Fault::new(Kind::RefuseConnection))
        .await
        .expect("in force");
    simulators.shutdown().await;
    for _ in 0..3 {
        let listener = TcpListener::bind(address).await.expect("the port");
        let next = Simulators::start(listener, None, Options::default())
            .await
            .expect("simulators");
        let mut fresh = another(&next, &caller.token).await;
        assert_eq!(
            fresh.post("sales", &sale("10", "A1")).await.status,
            401,
            "other books, other tokens"
        );
        next.shutdown().await;
    }
}
