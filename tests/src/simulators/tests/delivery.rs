//! Faults of one request: what is committed, and what of the answer reaches the wire.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::{Caller, another, ready, sale, sale_path};
use crate::simulators::connexpay::verb;
use crate::simulators::{Fault, Kind, Moment, Selector};

const OUT: &str = "timeoutreversal";

fn reversal(sequence_number: &str) -> serde_json::Value {
    serde_json::json!({"DeviceGuid": crate::simulators::connexpay::DEVICE_USD, "SequenceNumber": sequence_number})
}

#[tokio::test]
async fn hangs_hold_the_socket_until_they_are_lifted() {
    for (kind, net) in [(Kind::HangBeforeCommit, 0), (Kind::CommitThenHang, 1000)] {
        let (simulators, mut caller) = ready().await;
        let upstream = simulators.connexpay();
        upstream
            .set_fault(Fault::on(kind, verb::SALE))
            .await
            .expect("in force");
        caller
            .write("POST", sale_path(), &sale("10", "A1").to_string())
            .await
            .expect("written");
        upstream
            .wait_for_requests(1, |one| one.fault.is_some())
            .await
            .expect("struck");
        let mut other = another(&simulators, &caller.token).await;
        assert_eq!(other.get("devices").await.status, 200, "only sales hang");
        assert!(
            simulators.connections()[0].ended_by.is_none(),
            "the socket is held open"
        );
        upstream.lift_faults().await.expect("lifted");
        assert_eq!(
            caller.read().await.expect_err("no answer").kind(),
            ErrorKind::UnexpectedEof
        );
        assert_eq!(upstream.books().position("A1").net, net, "{kind:?}");
        assert!(
            upstream
                .requests_of(verb::SALE)
                .iter()
                .all(|one| !one.answered)
        );
    }
}

#[tokio::test]
async fn a_hanging_caller_may_leave() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    upstream
        .set_fault(Fault::on(Kind::HangBeforeCommit, verb::SALE))
        .await
        .expect("in force");
    caller
        .write("POST", sale_path(), &sale("10", "A1").to_string())
        .await
        .expect("written");
    upstream
        .wait_for_requests(1, |one| one.fault.is_some())
        .await
        .expect("struck");
    drop(caller);
    simulators
        .wait_for_connections(|seen| seen[0].ended_by.is_some())
        .await
        .expect("noticed");
}

#[tokio::test]
async fn committed_and_reset() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    upstream
        .set_fault(Fault::on(Kind::CommitThenReset, verb::SALE))
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
    assert_eq!(upstream.books().position("A1").net, 1000);
}

#[tokio::test]
async fn committed_and_truncated_leaves_half_a_body_under_the_length_of_all_of_it() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    upstream
        .set_fault(Fault::on(Kind::CommitThenTruncate, verb::SALE))
        .await
        .expect("in force");
    caller
        .write("POST", sale_path(), &sale("10", "A1").to_string())
        .await
        .expect("written");
    let bytes = caller.rest().await.expect("an orderly end");
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|length| length.parse().ok())
        .expect("a length");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body.len(), length / 2);
    assert!(body.starts_with(r#"{"guid":"#), "{body}");
    assert_eq!(upstream.books().position("A1").net, 1000);
}

#[tokio::test]
async fn statuses_and_garbage_arrive_with_or_without_a_commit() {
    for (kind, status, net) in [
        (Kind::CommitThen500, 500, 1000),
        (Kind::CommitThenCode, 422, 1000),
        (Kind::CommitThenGarbage, 200, 1000),
        (Kind::Http500, 500, 0),
        (Kind::Http429, 429, 0),
        (Kind::Route404, 404, 0),
        (Kind::Redirect308, 308, 0),
        (Kind::EchoCard, 422, 0),
        (Kind::Decline422, 422, 0),
        (Kind::Decline2xx, 200, 0),
        (Kind::PartialApproval, 200, 500),
        (Kind::CommitThenStatus, 200, 1000),
    ] {
        let (simulators, mut caller) = ready().await;
        let upstream = simulators.connexpay();
        let fault = Fault::on(kind, verb::SALE)
            .location("https://elsewhere.invalid/sales")
            .first(1);
        upstream.set_fault(fault).await.expect("in force");
        let heard = caller.post("sales", &sale("10", "A1")).await;
        assert_eq!(heard.status, status, "{kind:?}: {}", heard.body);
        assert_eq!(upstream.books().position("A1").net, net, "{kind:?}");
        match kind {
            Kind::CommitThenCode => assert!(heard.message().starts_with("Error code E0910. ")),
            Kind::CommitThenGarbage => assert!(heard.body.starts_with("<html>")),
            Kind::Redirect308 => assert!(
                heard
                    .head
                    .contains("location: https://elsewhere.invalid/sales")
            ),
            Kind::EchoCard => {
                for echoed in ["4012000098765439", "999", caller.token.as_str()] {
                    assert!(heard.message().contains(echoed), "{}", heard.body);
                }
            }
            Kind::Decline422 => assert_eq!(
                heard.message(),
                "Error code D2020. CVV2 verification failed."
            ),
            Kind::Decline2xx => {
                assert_eq!(heard.json()["status"], "Transaction - Declined");
                assert_eq!(heard.json()["processorStatusCode"], "D2020");
                assert_eq!(heard.json()["wasProcessed"], false);
            }
            Kind::PartialApproval => {
                assert_eq!(heard.json()["status"], "Transaction - Approved");
                assert_eq!(heard.json()["processorStatusCode"], "A0002");
                assert_eq!(heard.json()["effectiveAmount"], 5);
            }
            Kind::CommitThenStatus => {
                assert_eq!(heard.json()["status"], "Transaction - Processor Error");
            }
            Kind::Http429 => assert!(heard.message().contains("quota")),
            _ => {}
        }
        let after = caller.post("sales", &sale("7", "A2")).await;
        assert_eq!(
            after.status, 200,
            "{kind:?} struck once, and the connection lives on"
        );
    }
}

#[tokio::test]
async fn an_expired_token_is_dead_and_a_new_one_works() {
    let (simulators, mut caller) = ready().await;
    let fault = Fault::on(Kind::TokenExpired, verb::SALE).first(1);
    simulators
        .connexpay()
        .set_fault(fault)
        .await
        .expect("in force");
    assert_eq!(caller.post("sales", &sale("10", "A1")).await.status, 401);
    assert_eq!(
        caller.post("sales", &sale("10", "A1")).await.status,
        401,
        "the token itself died"
    );
    caller.log_in().await;
    assert_eq!(caller.post("sales", &sale("10", "A1")).await.status, 200);
}

#[tokio::test]
async fn a_slow_answer_drips_and_is_whole_in_the_end() {
    let (simulators, mut caller) = ready().await;
    let over = Duration::from_secs(1);
    simulators
        .connexpay()
        .set_fault(Fault::on(Kind::SlowDrip, verb::SALE).delay(over))
        .await
        .expect("in force");
    let begun = Instant::now();
    caller
        .write("POST", sale_path(), &sale("10", "A1").to_string())
        .await
        .expect("written");
    let (mut text, mut drops, mut drop) = (String::new(), 0, [0; 4096]);
    while !text.ends_with("\"riskProcessingOnly\":false}") {
        let count = tokio::io::AsyncReadExt::read(&mut caller.stream, &mut drop)
            .await
            .expect("more");
        assert!(count > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&drop[..count]));
        drops += 1;
    }
    assert!(drops > 2, "a drip, not a gush");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(begun.elapsed() >= over / 2, "{:?}", begun.elapsed());
    simulators.connexpay().lift_faults().await.expect("lifted");
    assert_eq!(
        caller.post("sales", &sale("11", "A2")).await.status,
        200,
        "the next answer is whole"
    );
}

#[tokio::test]
async fn a_late_commit_lands_after_its_caller_left_and_after_the_reversal_found_nothing() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    upstream
        .set_fault(Fault::on(Kind::CommitLate, verb::SALE).first(1))
        .await
        .expect("in force");
    let mut other = another(&simulators, &caller.token).await;
    caller
        .write("POST", sale_path(), &sale("10", "A1").to_string())
        .await
        .expect("written");
    upstream
        .wait_for_requests(1, |one| one.fault.is_some())
        .await
        .expect("struck");
    drop(caller);
    let not_found = other.post(OUT, &reversal("A1")).await;
    assert_eq!(
        (not_found.status, not_found.message().as_str()),
        (422, "No Sale could be found for the given Id")
    );

    let gate = upstream.hold(Moment::AfterCommit, Selector::verb(verb::SALE));
    upstream.release_late();
    gate.reached(1).await.expect("committed");
    assert_eq!(
        upstream.books().position("A1").net,
        1000,
        "it lands all the same"
    );
    assert_eq!(other.post(OUT, &reversal("A1")).await.status, 200);
    assert_eq!(upstream.books().position("A1").net, 0);
}

#[tokio::test]
async fn a_late_commit_comes_by_itself_after_its_delay() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    let fault = Fault::on(Kind::CommitLate, verb::SALE).delay(Duration::from_millis(5));
    upstream.set_fault(fault).await.expect("in force");
    let gate = upstream.hold(Moment::AfterCommit, Selector::any());
    caller
        .write("POST", sale_path(), &sale("10", "A1").to_string())
        .await
        .expect("written");
    gate.reached(1).await.expect("committed");
    assert_eq!(upstream.books().position("A1").net, 1000);
}

#[tokio::test]
async fn a_gate_holds_before_the_commit_and_lets_one_through_at_a_time() {
    let (simulators, mut first) = ready().await;
    let upstream = simulators.connexpay();
    let mut second = another(&simulators, &first.token).await;
    let gate = upstream.hold(
        Moment::BeforeCommit,
        Selector::verb(verb::SALE).amount(1000),
    );
    first
        .write("POST", sale_path(), &sale("10", "A1").to_string())
        .await
        .expect("written");
    gate.reached(1).await.expect("held");
    second
        .write("POST", sale_path(), &sale("10", "A2").to_string())
        .await
        .expect("written");
    gate.reached(2).await.expect("held");
    assert!(upstream.books().entries.is_empty());
    gate.release_one();
    assert_eq!(first.read().await.expect("an answer").status, 200);
    assert_eq!(upstream.books().entries.len(), 1);
    gate.release();
    assert_eq!(second.read().await.expect("an answer").status, 200);
    assert_eq!(upstream.books().entries.len(), 2);
}

#[tokio::test]
async fn faults_are_picked_by_card_reference_skip_and_count() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    let third = Fault::on(Kind::Http500, verb::SALE).after(1).first(1);
    let by_card = Fault::new(Kind::Http429).when(Selector::any().card("0057"));
    let by_reference = Fault::new(Kind::Route404).when(Selector::any().reference("A9"));
    upstream
        .set_faults(vec![by_card, by_reference, third], 0)
        .await
        .expect("in force");
    let mut other_card = sale("10", "A1");
    other_card["Card"]["CardNumber"] = "5499740000000057".into();
    other_card["Card"]["Cvv2"] = "998".into();
    assert_eq!(caller.post("sales", &other_card).await.status, 429);
    assert_eq!(caller.post("sales", &sale("10", "A9")).await.status, 404);
    let statuses = [
        caller.post("sales", &sale("10", "A2")).await.status,
        caller.post("sales", &sale("10", "A3")).await.status,
        caller.post("sales", &sale("10", "A4")).await.status,
    ];
    assert_eq!(statuses, [200, 500, 200]);
    let struck: Vec<u64> = upstream.faults().iter().map(|fault| fault.struck).collect();
    assert_eq!(struck, [1, 1, 1]);
}

#[tokio::test]
async fn the_same_seed_strikes_the_same_requests() {
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let (simulators, mut caller) = ready().await;
        let fault = Fault::on(Kind::Http500, verb::SALE).probability(0.5);
        simulators
            .connexpay()
            .set_faults(vec![fault], seed)
            .await
            .expect("in force");
        let mut statuses = Vec::new();
        for number in 0..24 {
            statuses.push(
                caller
                    .post("sales", &sale("10", &format!("A{number}")))
                    .await
                    .status,
            );
        }
        assert!(
            statuses.contains(&200) && statuses.contains(&500),
            "{statuses:?}"
        );
        runs.push(statuses);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test]
async fn under_all_faults_at_once_an_answered_approval_is_in_the_books() {
    let (simulators, caller) = ready().await;
    let upstream = simulators.connexpay();
    let kinds = [
        Kind::ResetBeforeRead,
        Kind::CommitThenReset,
        Kind::CommitThenTruncate,
        Kind::CommitThen500,
        Kind::CommitThenGarbage,
        Kind::Http429,
        Kind::Decline422,
        Kind::SlowDrip,
    ];
    let mut faults = vec![Fault::new(Kind::ResetOnAccept).probability(0.3)];
    faults.extend(kinds.map(|kind| {
        Fault::on(kind, verb::SALE)
            .probability(0.1)
            .delay(Duration::from_millis(5))
    }));
    upstream.set_faults(faults, 11).await.expect("in force");
    let lanes = (0..8).map(|lane| {
        let (address, token) = (simulators.address(), caller.token.clone());
        tokio::spawn(async move {
            let (mut approved, mut lost) = (Vec::new(), 0);
            let mut open: Option<Caller> = None;
            for number in 0..25 {
                let sequence = format!("L{lane}N{number}");
                let connected = match open.take() {
                    Some(caller) => Ok(caller),
                    None => Caller::connect(address).await,
                };
                let Ok(mut caller) = connected else {
                    lost += 1; // Reset while the connection was still being made.
                    continue;
                };
                token.clone_into(&mut caller.token);
                match caller
                    .call("POST", sale_path(), &sale("10", &sequence).to_string())
                    .await
                {
                    Ok(heard) if heard.status == 200 && heard.body.starts_with('{') => {
                        approved.push(sequence);
                    }
                    Ok(_) => {}
                    Err(_) => {
                        lost += 1;
                        continue;
                    }
                }
                open = Some(caller);
            }
            (approved, lost)
        })
    });
    let (mut approved, mut lost) = (Vec::new(), 0);
    for lane in futures_util::future::join_all(lanes).await {
        let (of_lane, lost_by_lane) = lane.expect("a lane");
        approved.extend(of_lane);
        lost += lost_by_lane;
    }
    let books = upstream.books();
    for sequence in &approved {
        assert_eq!(books.position(sequence).net, 1000, "{sequence}");
    }
    let charged = books
        .positions
        .values()
        .filter(|position| position.net == 1000)
        .count();
    assert!(
        charged > approved.len() && lost > 10,
        "{charged} {} {lost}: some answers were lost",
        approved.len()
    );
    assert!(
        upstream.faults().iter().all(|fault| fault.struck > 0),
        "{:?}",
        upstream.faults()
    );
    drop(caller);
    simulators
        .wait_for_connections(|seen| seen.iter().all(|one| one.ended_by.is_some()))
        .await
        .expect("all ended");
}
