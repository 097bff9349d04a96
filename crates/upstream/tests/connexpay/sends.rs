//! What is sent, what proves that nothing was, and what an answer proves.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway_core::card::{CardSource, CardToken};
use gateway_core::connector::{
    AlwaysOpen, Connector, DeclineClass, NotSent, Payer, UnknownReason, Verdict,
};
use gateway_core::draft::Draft;
use gateway_core::operation::Verb;
use serde_json::json;

use crate::world::{
    AUTH, DEVICE, Gate, PAN, REFERENCE, Reply, SALE, Seen, World, error, ok, payer, prepared, usd,
};

const DENIED: &str = "Authorization has been denied for this request.";

fn approved_sale() -> Reply {
    ok(&json!({
        "guid": SALE, "status": "Transaction - Approved", "batchStatus": "Batch - Open", "deviceGuid": DEVICE,
        "amount": 1500, "effectiveAmount": 1500.00, "processorStatusCode": "A0000", "wasProcessed": true,
        "authCode": "TAS356", "sequenceNumber": REFERENCE, "riskProcessingOnly": false,
        "card": {"last4": "5439", "cardNumber": "nr959X7eCIXI5439", "cardType": "Visa", "expirationDate": "2030-12"}
    }))
}

#[tokio::test]
async fn a_sale_carries_our_reference_twice_and_exact_amounts() {
    let world = World::new(|seen| {
        if seen.call == "POST /sales" {
            approved_sale()
        } else {
            Reply::Empty(404)
        }
    })
    .await;
    let gate = Gate::open_for(1);
    let answer = world
        .connector
        .execute(&world.subject(Verb::Sale, 150_000), Some(&payer()), &gate)
        .await;
    let Verdict::Approved(approval) = &answer.verdict else {
        panic!("{answer:?}")
    };
    assert_eq!(approval.ids.get("sale"), Some(SALE));
    assert_eq!(approval.upstream_reference, SALE);
    assert_eq!(approval.amount.minor(), 150_000);
    assert_eq!(answer.evidence.len(), 1);
    assert_eq!(answer.evidence[0].call, "POST /sales");
    assert_eq!(gate.asked(), 1);
    assert!(!format!("{answer:?}").contains(PAN));

    let seen = world.seen();
    assert_eq!(seen[0].call, "POST /token");
    assert_eq!(
        seen[0].text,
        "grant_type=password&username=api+user&password=p%26ss"
    );
    assert_eq!(seen[1].token, "Bearer token-1");
    assert!(
        seen[1].text.contains(r#""Amount":1500.00,"#),
        "{}",
        seen[1].text
    );
    assert_eq!(
        seen[1].json(),
        json!({
            "DeviceGuid": DEVICE, "Amount": 1500.00, "SequenceNumber": REFERENCE, "OrderNumber": REFERENCE,
            "RiskProcessingOnly": false, "SendReceipt": false, "StatementDescription": "Agent Booking 123",
            "ConnexPayTransaction": {"ExpectedPayments": 9},
            "RiskData": {"Gender": "F", "ProductType": "Flight", "ProductItem": "784GTWJFK856", "OrderNumber": REFERENCE},
            "Card": {
                "CardNumber": PAN, "CardHolderName": "Jane Doe", "Cvv2": "099", "ExpirationDate": "3012",
                "Customer": {"FirstName": "Jane", "Phone": "9177563007", "State": "NY", "Country": "US",
                             "Address1": "107 7th Av.", "Zip": "10007"}
            }
        })
    );
}

#[tokio::test]
async fn an_authorization_and_a_verification_send_what_theirs_take() {
    let world = World::new(|seen| match seen.call.as_str() {
        "POST /AuthOnlys" => {
            ok(&json!({"guid": AUTH, "status": "Transaction - Approved", "amount": 15.5}))
        }
        "POST /Verify" => Reply::Json(
            201,
            json!({"guid": SALE, "status": "Transaction - Approved"}).to_string(),
        ),
        _ => Reply::Empty(404),
    })
    .await;
    let plain = || Payer {
        card: CardSource::Token {
            token: CardToken::parse("nr959X7eCIXI0473").unwrap(),
            expiry: None,
            cvv: None,
        },
        customer: None,
        risk: serde_json::Map::new(),
        upstream: serde_json::Map::new(),
    };
    let authorized = world
        .connector
        .execute(
            &world.subject(Verb::Authorize, 1_550),
            Some(&plain()),
            &AlwaysOpen,
        )
        .await;
    let Verdict::Approved(approval) = authorized.verdict else {
        panic!("{authorized:?}")
    };
    assert_eq!(approval.ids.get("authorization"), Some(AUTH));
    assert_eq!(
        approval.card.unwrap().token.unwrap().as_str(),
        "nr959X7eCIXI0473"
    );
    let verified = world
        .connector
        .execute(&world.subject(Verb::Verify, 0), Some(&plain()), &AlwaysOpen)
        .await;
    assert!(
        matches!(verified.verdict, Verdict::Approved(_)),
        "{verified:?}"
    );

    let seen = world.seen();
    assert_eq!(
        seen[1].json(),
        json!({"DeviceGuid": DEVICE, "Amount": 15.5, "SequenceNumber": REFERENCE, "OrderNumber": REFERENCE,
               "StatementDescription": "Agent Booking 123", "Card": {"CardNumber": "nr959X7eCIXI0473"}})
    );
    assert_eq!(
        seen[2].json(),
        json!({"DeviceGuid": DEVICE, "Card": {"CardNumber": "nr959X7eCIXI0473"}})
    );
}

#[tokio::test]
async fn follow_ups_name_their_parent() {
    let world = World::new(|seen| match seen.call.as_str() {
        "POST /token" => Reply::Empty(404),
        _ => error(422, "Transaction already settled"),
    })
    .await;
    let connector = &world.connector;
    connector
        .execute(
            &world.follow_up(Verb::Capture, 9_000, &[("authorization", AUTH)]),
            None,
            &AlwaysOpen,
        )
        .await;
    connector
        .execute(
            &world.follow_up(Verb::Void, 9_000, &[("authorization", AUTH)]),
            None,
            &AlwaysOpen,
        )
        .await;
    let captured = [("authorization", AUTH), ("capture", SALE), ("sale", SALE)];
    connector
        .execute(
            &world.follow_up(Verb::Void, 9_000, &captured),
            None,
            &AlwaysOpen,
        )
        .await;
    connector
        .execute(
            &world.follow_up(Verb::Refund, 450, &captured),
            None,
            &AlwaysOpen,
        )
        .await;
    let mut whole = prepared(world.follow_up(Verb::Refund, 9_000, &captured), 9_000);
    whole.prepared.as_mut().unwrap().as_void = true;
    connector.execute(&whole, None, &AlwaysOpen).await;

    let sent: Vec<_> = world
        .seen()
        .into_iter()
        .skip(1)
        .map(|seen| (seen.call.clone(), seen.json()))
        .collect();
    let sequence = REFERENCE;
    assert_eq!(
        sent,
        [
            (
                "POST /Captures".to_owned(),
                json!({"DeviceGuid": DEVICE, "AuthOnlyGuid": AUTH, "NewAmount": 90.0,
                "SequenceNumber": sequence, "OrderNumber": sequence})
            ),
            (
                "POST /void".to_owned(),
                json!({"DeviceGuid": DEVICE, "AuthOnlyGuid": AUTH, "SequenceNumber": sequence})
            ),
            (
                "POST /void".to_owned(),
                json!({"DeviceGuid": DEVICE, "SaleGuid": SALE, "SequenceNumber": sequence})
            ),
            (
                "POST /returns".to_owned(),
                json!({"DeviceGuid": DEVICE, "SaleGuid": SALE, "Amount": 4.5,
                "SequenceNumber": sequence})
            ),
            (
                "POST /void".to_owned(),
                json!({"DeviceGuid": DEVICE, "SaleGuid": SALE, "SequenceNumber": sequence})
            ),
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_sent_is_not() {
    let world = World::new(|_| Reply::Empty(404)).await;
    let without_card = world
        .connector
        .execute(&world.subject(Verb::Sale, 1_000), None, &AlwaysOpen)
        .await;
    assert!(
        matches!(without_card.verdict, Verdict::NotSent(_)),
        "{without_card:?}"
    );
    let no_parent = world
        .connector
        .execute(&world.subject(Verb::Void, 1_000), None, &AlwaysOpen)
        .await;
    assert!(
        matches!(no_parent.verdict, Verdict::Refused(_)),
        "{no_parent:?}"
    );
    let mut elsewhere = world.subject(Verb::Sale, 1_000);
    elsewhere.endpoint = "https://salesapi.example/api/v1".to_owned();
    let elsewhere = world
        .connector
        .execute(&elsewhere, Some(&payer()), &AlwaysOpen)
        .await;
    assert!(
        matches!(
            elsewhere.verdict,
            Verdict::NotSent(NotSent::Unreachable { .. })
        ),
        "{elsewhere:?}"
    );
    assert!(world.seen().is_empty());
}

/// Refuses the first token.
fn expired(seen: &Seen) -> Reply {
    match (seen.call.as_str(), seen.token.as_str()) {
        ("POST /sales", "Bearer token-1") => error(401, DENIED),
        ("POST /sales", _) => approved_sale(),
        _ => Reply::Empty(404),
    }
}

#[tokio::test]
async fn a_proven_401_is_repeated_once_with_another_token() {
    let world = World::new(expired).await;
    let gate = Gate::open_for(2);
    let answer = world
        .connector
        .execute(&world.subject(Verb::Sale, 150_000), Some(&payer()), &gate)
        .await;
    assert!(matches!(answer.verdict, Verdict::Approved(_)), "{answer:?}");
    assert_eq!(gate.asked(), 2);
    assert_eq!(
        answer
            .evidence
            .iter()
            .map(|call| call.status)
            .collect::<Vec<_>>(),
        [Some(401), Some(200)]
    );
}

/// A share of the timeout must be left for it, not a span: an account with a short one is no worse off.
#[tokio::test]
async fn a_proven_401_is_repeated_within_a_short_timeout() {
    let world = World::with(|config| config.timeout = Duration::from_secs(3), expired).await;
    let subject = world.subject(Verb::Sale, 150_000);
    let gate = Gate::open_for(2);
    let answer = world
        .connector
        .execute(&subject, Some(&payer()), &gate)
        .await;
    assert!(matches!(answer.verdict, Verdict::Approved(_)), "{answer:?}");
    assert_eq!(world.calls(), ["POST /sales", "POST /sales"]);
}

#[tokio::test]
async fn the_gate_has_the_last_word_on_the_repeat() {
    let world = World::new(expired).await;
    let answer = world
        .connector
        .execute(
            &world.subject(Verb::Sale, 150_000),
            Some(&payer()),
            &Gate::open_for(1),
        )
        .await;
    assert_eq!(answer.verdict, Verdict::NotSent(NotSent::TooLate));
    assert_eq!(world.calls(), ["POST /sales"]);
}

#[tokio::test]
async fn a_second_401_is_not_repeated() {
    let world = World::new(|seen| {
        if seen.call == "POST /sales" {
            error(401, DENIED)
        } else {
            Reply::Empty(404)
        }
    })
    .await;
    let answer = world
        .connector
        .execute(
            &world.subject(Verb::Sale, 150_000),
            Some(&payer()),
            &AlwaysOpen,
        )
        .await;
    assert!(
        matches!(
            answer.verdict,
            Verdict::NotSent(NotSent::RefusedUnprocessed { .. })
        ),
        "{answer:?}"
    );
    assert_eq!(world.calls(), ["POST /sales", "POST /sales"]);
}

#[tokio::test]
async fn a_401_that_is_not_theirs_or_not_trusted_proves_nothing() {
    let script = |seen: &Seen| {
        if seen.call == "POST /sales" {
            Reply::Html(401)
        } else {
            Reply::Empty(404)
        }
    };
    let foreign = World::new(script).await;
    let wary = World::with(|config| config.trust_401 = false, expired).await;
    for world in [foreign, wary] {
        let answer = world
            .connector
            .execute(
                &world.subject(Verb::Sale, 150_000),
                Some(&payer()),
                &AlwaysOpen,
            )
            .await;
        assert!(
            matches!(
                answer.verdict,
                Verdict::Unknown(UnknownReason::Unusable { .. })
            ),
            "{answer:?}"
        );
        assert_eq!(world.calls(), ["POST /sales"]);
    }
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    for reply in [
        || Reply::Html(400),
        || Reply::Html(500),
        || ok(&json!({"access_token": "", "expires_in": 10})),
    ] {
        let world = World::new(move |_| reply()).await;
        let answer = world
            .connector
            .execute(
                &world.subject(Verb::Sale, 150_000),
                Some(&payer()),
                &AlwaysOpen,
            )
            .await;
        assert!(
            matches!(answer.verdict, Verdict::NotSent(NotSent::NoToken { .. })),
            "{answer:?}"
        );
        assert!(world.calls().is_empty());
        assert!(world.connector.refuses_now(Verb::Sale).is_some());
    }
}

#[tokio::test]
async fn silence_and_a_close_are_unknown_and_open_the_breaker() {
    let count = AtomicUsize::new(0);
    let world = World::with(
        |config| config.timeout = Duration::from_secs(2),
        move |seen| match seen.call.as_str() {
            "POST /sales" if count.fetch_add(1, Ordering::SeqCst) == 0 => Reply::Hang,
            "POST /sales" => Reply::Close,
            "POST /void" => error(422, "Transaction already settled"),
            _ => Reply::Empty(404),
        },
    )
    .await;
    let sale = world.subject(Verb::Sale, 150_000);
    let silent = world
        .connector
        .execute(&sale, Some(&payer()), &AlwaysOpen)
        .await;
    assert_eq!(silent.verdict, Verdict::Unknown(UnknownReason::TimedOut));
    assert!(silent.evidence[0].bytes_written > 0);
    for _ in 0..2 {
        assert_eq!(world.connector.refuses_now(Verb::Sale), None);
        let closed = world
            .connector
            .execute(&sale, Some(&payer()), &AlwaysOpen)
            .await;
        assert!(
            matches!(
                closed.verdict,
                Verdict::Unknown(UnknownReason::Closed { .. })
            ),
            "{closed:?}"
        );
    }
    assert_eq!(
        world.connector.refuses_now(Verb::Authorize),
        Some(NotSent::BreakerOpen)
    );
    let held_back = world
        .connector
        .execute(&sale, Some(&payer()), &AlwaysOpen)
        .await;
    assert_eq!(held_back.verdict, Verdict::NotSent(NotSent::BreakerOpen));
    assert_eq!(world.connector.refuses_now(Verb::Void), None);
    let void = world
        .connector
        .execute(
            &world.follow_up(Verb::Void, 1_000, &[("sale", SALE)]),
            None,
            &AlwaysOpen,
        )
        .await;
    assert!(matches!(void.verdict, Verdict::Refused(_)), "{void:?}");
}

#[tokio::test]
async fn an_echo_of_the_request_is_not_kept() {
    let world = World::new(|seen| match seen.call.as_str() {
        "POST /sales" => error(
            422,
            &format!(
                "Jane Doe may not use {PAN} (099) in 10007 by {}",
                seen.token
            ),
        ),
        _ => Reply::Empty(404),
    })
    .await;
    let answer = world
        .connector
        .execute(
            &world.subject(Verb::Sale, 150_000),
            Some(&payer()),
            &AlwaysOpen,
        )
        .await;
    // In ports and times of the evidence short ones occur by chance.
    let told = format!("{:?}", answer.verdict);
    for secret in [PAN, "099", "10007", "token-1"] {
        assert!(!told.contains(secret), "{told}");
    }
    let told = format!("{:?}", answer.evidence);
    for secret in [PAN, "token-1"] {
        assert!(!told.contains(secret), "{told}");
    }
}

#[tokio::test]
async fn a_decline_is_final_and_says_why() {
    let world = World::new(|seen| match seen.call.as_str() {
        "POST /sales" => error(422, "Error code D2012. Insufficient Funds"),
        _ => Reply::Empty(404),
    })
    .await;
    let answer = world
        .connector
        .execute(
            &world.subject(Verb::Sale, 150_000),
            Some(&payer()),
            &AlwaysOpen,
        )
        .await;
    let Verdict::Declined(decline) = answer.verdict else {
        panic!("{answer:?}")
    };
    assert_eq!(
        (decline.class, decline.code.as_deref()),
        (DeclineClass::Soft, Some("D2012"))
    );
}

#[tokio::test]
async fn what_this_processor_would_refuse_is_refused_at_once() {
    let world = World::new(|_| Reply::Empty(404)).await;
    let faults = |verb, minor, payer: &Payer| {
        let amount = (verb != Verb::Verify).then(|| usd(minor));
        let draft = Draft::of_payer(verb, amount, payer);
        let found = world.connector.check(&draft);
        found
            .into_iter()
            .map(|fault| (fault.pointer, fault.code))
            .collect::<Vec<_>>()
    };
    assert_eq!(faults(Verb::Sale, 50, &payer()), []);
    assert_eq!(faults(Verb::Sale, 99_999_999, &payer()), []);
    let mut wrong = payer();
    wrong.upstream = serde_json::from_value(json!({"expected_payments": 100, "a/b": 1})).unwrap();
    wrong.risk.insert("order_number".to_owned(), json!("857B2"));
    wrong.risk.remove("gender");
    let customer = wrong.customer.as_mut().unwrap();
    customer.state = Some("New York".to_owned().into());
    customer.country = Some("United States".to_owned().into());
    customer.email = Some("nobody".to_owned().into());
    let mut found = faults(Verb::Sale, 49, &wrong);
    found.sort();
    let expected = [
        ("/amount/value", "out-of-range"),
        ("/customer/address/country", "invalid"),
        ("/customer/email", "invalid"),
        ("/risk/gender", "required"),
        ("/risk/order_number", "unknown-field"),
        ("/upstream/*", "unknown-field"),
        ("/upstream/expected_payments", "out-of-range"),
    ]
    .map(|(pointer, code)| (pointer.to_owned(), code));
    assert_eq!(found, expected);
    let unused = faults(Verb::Verify, 0, &payer());
    assert_eq!(
        unused
            .iter()
            .filter(|(_, code)| *code == "unknown-field")
            .count(),
        4
    );
}

#[tokio::test]
async fn an_approval_with_a_warning_counts_and_leaves_one_line() {
    let world = World::new(|seen| match seen.call.as_str() {
        "POST /sales" => ok(&json!({
            "guid": SALE, "status": "Transaction - Approved - Warning", "amount": 1500, "wasProcessed": true,
            "processorStatusCode": "A0014", "processorResponseMessage": format!("of {PAN}"), "authCode": "TAS356",
        })),
        // With such a status even a yes proves nothing, so there is nothing to tell.
        "POST /AuthOnlys" => Reply::Json(
            422,
            json!({"guid": AUTH, "status": "Transaction - Approved - Warning"}).to_string(),
        ),
        _ => Reply::Empty(404),
    })
    .await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);
    let subject = world.subject(Verb::Sale, 150_000);
    let answer = world
        .connector
        .execute(&subject, Some(&payer()), &AlwaysOpen)
        .await;
    assert!(matches!(answer.verdict, Verdict::Approved(_)), "{answer:?}");
    let hold = world.subject(Verb::Authorize, 150_000);
    let answer = world
        .connector
        .execute(&hold, Some(&payer()), &AlwaysOpen)
        .await;
    assert!(matches!(answer.verdict, Verdict::Unknown(_)), "{answer:?}");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    let [line] = lines[..] else { panic!("{log}") };
    let operation = subject.operation.to_string();
    for told in [
        " WARN ",
        "approved with a warning",
        "acme",
        &operation,
        "A0014",
    ] {
        assert!(line.contains(told), "{line}");
    }
    assert!(!line.contains(PAN), "{line}");
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
