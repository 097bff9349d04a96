//! The reference's own sample answers, recorded error bodies, and every way in which an answer can be no proof.

use std::sync::LazyLock;

use gateway_core::card::{CardSource, Cvv, Expiry, Pan};
use gateway_core::clock::Timestamp;
use gateway_core::connector::{Decline, DeclineClass, NotSent, Payer, UnknownReason, Verdict};
use gateway_core::key::{AccountName, OperationId, UpstreamReference};
use gateway_core::money::{Currency, Money};
use gateway_core::operation::Verb;
use proptest::prelude::*;

use super::*;

const SALE: &str = r#"{"guid":"59344814-87c2-4a62-9859-9b0f5ecadf1e","status":"Transaction - Approved","batchStatus":"Batch - Open",
 "timeStamp":"2018-09-10T10:36:13.77-03:00","deviceGuid":"8ec1c40b-0c00-4a57-a9c7-7800bd52c308",
 "amount":1500,"effectiveAmount":1500,
 "riskResponse":{"transactionId":"79S001R5ND45","response":"Approved","reason":"","score":"34"},
 "cardDataSource":"INTERNET","batchGuid":"efb9bfdf-56b9-46de-8b93-28c549e8be92",
 "connexPayTransaction":{"guid":"87e94cdf-6f5c-41c7-8c7e-0815b56796f9","expectedPayments":9,"filler":"ZZZ",
                         "incomingTransCode":"09ZZZTAS35609101800150000"},
 "processorStatusCode":"A0000","processorResponseMessage":"Success","wasProcessed":true,
 "authCode":"TAS356","refNumber":"16286858","invoiceNumber":"16286858","generatedBy":"apiuser",
 "card":{"first4":"4716","last4":"0473","cardNumber":"nr959X7eCIXI0473","cardType":"Visa","expirationDate":"2019-12",
         "customer":{"guid":"829e2d67-6831-4aa0-85b3-58a46101651b","firstName":"Jane","ssN4":"1210"}},
 "sequenceNumber":"849741","riskProcessingOnly":false}"#;

const AUTH_ONLY: &str = r#"{"guid":"9d973cf7-4e18-4b5d-879f-04940ce237a5","status":"Transaction - Approved","batchStatus":"Batch - Open",
 "timeStamp":"2018-07-02T13:37:39.9-03:00","amount":15.5,"effectiveAmount":15.5,
 "deviceGuid":"8ec1c40b-0c00-4a57-a9c7-7800bd52c308","cardDataSource":"INTERNET",
 "batchGuid":"d5610f19-8cf4-42fb-ae72-b0442f3b3fd6","processorStatusCode":"A0000","processorResponseMessage":"Success",
 "wasProcessed":true,"authCode":"TAS957","refNumber":"15872604","invoiceNumber":"15872604",
 "card":{"first4":"4485","last4":"8507","cardNumber":"S2guBjeE8Eix8507","cardHolderName":"Jane Doe","cardType":"Visa","expirationDate":"2019-12"}}"#;

const CAPTURE: &str = r#"{"guid":"cf05ed0a-f9df-4e62-b613-61323a37c14e","status":"Transaction - Approved","batchStatus":"Batch - Open",
 "timeStamp":"2017-07-11T10:58:25.95","deviceGuid":"8f65764d-72c1-4dee-ac9f-4cd4c98e8c35",
 "authOnlyGuid":"539e87eb-54a2-44da-8980-62667d81d95c","newAmount":90,"effectiveAmount":90,
 "batchGuid":"1564cb1b-eddb-4747-9565-61a7d7d225f9","processorStatusCode":"A0000","processorResponseMessage":"Success",
 "wasProcessed":true,"refNumber":"13283616","invoiceNumber":"11518",
 "authOnly":{"guid":"539e87eb-54a2-44da-8980-62667d81d95c","status":"Transaction - Approved","amount":90,"effectiveAmount":90,
             "processorStatusCode":"A0002","processorResponseMessage":"Partially Approved","wasProcessed":true,"authCode":"VTLMC1"},
 "relatedSale":{"guid":"34f87b4e-3345-4c01-96de-c4257c38e822","status":"Transaction - Approved","batchStatus":"Batch - Open",
                "timeStamp":"2017-07-11T10:58:27.37","amount":90,"effectiveAmount":90,"wasProcessed":true}}"#;

const VOID: &str = r#"{"guid":"7a4ef786-8288-404d-9340-e837d06784af","batchStatus":"Batch - Open","timeStamp":"2017-07-11T11:05:46.31",
 "deviceGuid":"8f65764d-72c1-4dee-ac9f-4cd4c98e8c35","saleGuid":"bfff1a26-4207-4871-9597-48282e3fcfea",
 "status":"Transaction - Approved","voidReason":"DEVICE_TIMEOUT","processorStatusCode":"A0000","wasProcessed":true,
 "batchGuid":"1564cb1b-eddb-4747-9565-61a7d7d225f9","authCode":"VTLMC1","refNumber":"13283644","invoiceNumber":"11518",
 "sale":{"guid":"bfff1a26-4207-4871-9597-48282e3fcfea","status":"Transaction - Approved","batchStatus":"Batch - Open","amount":19.74,"effectiveAmount":0}}"#;

const RETURN: &str = r#"{"guid":"4f31b350-edd1-49fd-a1ad-4b065f78d7b9","batchStatus":"Batch - Open","timeStamp":"2017-07-11T11:10:38.11",
 "deviceGuid":"8f65764d-72c1-4dee-ac9f-4cd4c98e8c35","saleGuid":"ded98ad3-0553-4607-b84c-1bbd85f474d5",
 "status":"Transaction - Approved","amount":19.74,"batchGuid":"450463e0-5050-4c33-8c2f-4e39a2dd8614",
 "processorStatusCode":"A0014","wasProcessed":true,"authCode":"VTLMC1","refNumber":"13283670","invoiceNumber":"11518",
 "sale":{"guid":"ded98ad3-0553-4607-b84c-1bbd85f474d5","status":"Transaction - Approved","batchStatus":"Batch - Closed","amount":19.74,"effectiveAmount":0}}"#;

const VERIFY: &str = r#"{"guid":"6b71517b-5972-47f3-aa3d-dcf3eef4bd70","status":"Transaction - Approved","timeStamp":"2017-07-11T11:14:51.18",
 "deviceGuid":"8f65764d-72c1-4dee-ac9f-4cd4c98e8c35",
 "card":{"first4":"4532","last4":"7402","cardNumber":"hNDbeGr7VBgY7402","cardHolderName":"Jane Doe","expirationDate":"2019-12"},
 "processorStatusCode":"A0000","wasProcessed":true}"#;

const DEVICE: &str = "8ec1c40b-0c00-4a57-a9c7-7800bd52c308";
const OTHER_DEVICE: &str = "8f65764d-72c1-4dee-ac9f-4cd4c98e8c35";
const RULES: Rules = Rules {
    trust_401: true,
    trust_429: false,
    unlisted_code: UnlistedCode::Unknown,
};

fn usd(minor: i64) -> Money {
    Money::new(minor, Currency::parse("USD").unwrap()).unwrap()
}

static SUBJECT: LazyLock<Subject> = LazyLock::new(|| {
    let recorded_at = Timestamp::from_seconds(1_800_000_000);
    Subject {
        operation: OperationId::generate(recorded_at, [7; 10]),
        verb: Verb::Sale,
        account: AccountName::parse("acme").unwrap(),
        endpoint: String::new(),
        reference: UpstreamReference::parse("7Q4M0ZK2T9B1XW5RC").unwrap(),
        amount: usd(150_000),
        order_reference: None,
        statement_descriptor: None,
        parent: UpstreamIds::default(),
        parent_reference: None,
        prepared: None,
        sends: 1,
        recorded_at,
    }
});

fn asked(shape: Shape, minor: i64) -> Asked<'static> {
    Asked {
        subject: &SUBJECT,
        shape,
        amount: usd(minor),
        reference: Some("849741"),
        device_guid: DEVICE,
        parent: None,
        rules: RULES,
        scrub: Scrub::default(),
    }
}

fn answer(asked: &Asked<'_>, status: u16, body: &str) -> Verdict {
    let content_type = Some("application/json; charset=utf-8");
    classify(
        asked,
        &Reply {
            status,
            content_type,
            body: body.as_bytes(),
        },
    )
}

fn approved(verdict: Verdict) -> Approval {
    match verdict {
        Verdict::Approved(approval) => approval,
        other => panic!("not approved: {other:?}"),
    }
}

fn is_unknown(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Unknown(UnknownReason::Unusable { .. }))
}

/// The sale's sample with one member replaced, or removed where `value` is empty.
fn sale_with(name: &str, value: &str) -> String {
    let mut sale: serde_json::Map<String, serde_json::Value> = serde_json::from_str(SALE).unwrap();
    if value.is_empty() {
        sale.remove(name).unwrap();
    } else {
        sale.insert(name.to_owned(), serde_json::from_str(value).unwrap());
    }
    serde_json::to_string(&sale).unwrap()
}

fn sale(name: &str, value: &str) -> Verdict {
    answer(&asked(Shape::Sale, 150_000), 200, &sale_with(name, value))
}

fn class_of(verdict: &Verdict) -> Option<(&'static str, DeclineClass)> {
    match verdict {
        Verdict::Declined(decline) => Some(("declined", decline.class)),
        Verdict::Refused(decline) => Some(("refused", decline.class)),
        _ => None,
    }
}

#[test]
fn the_sample_sale_is_approved() {
    for status in [200, 201] {
        let approval = approved(answer(&asked(Shape::Sale, 150_000), status, SALE));
        assert_eq!(
            approval.upstream_reference,
            "59344814-87c2-4a62-9859-9b0f5ecadf1e"
        );
        assert_eq!(
            approval.ids,
            UpstreamIds::default().with("sale", "59344814-87c2-4a62-9859-9b0f5ecadf1e")
        );
        assert_eq!(approval.amount, usd(150_000));
        assert_eq!(approval.authorization_code.as_deref(), Some("TAS356"));
        let card = approval.card.unwrap();
        assert_eq!(card.token.unwrap().as_str(), "nr959X7eCIXI0473");
        assert_eq!(card.last_four.as_deref(), Some("0473"));
        assert_eq!(card.brand.as_deref(), Some("visa"));
        assert_eq!(card.expiry, Some(Expiry::new(2019, 12).unwrap()));
    }
}

#[test]
fn the_sample_authorization_is_approved() {
    let approval = approved(answer(&asked(Shape::AuthOnly, 1_550), 200, AUTH_ONLY));
    assert_eq!(
        approval.ids,
        UpstreamIds::default().with("authorization", "9d973cf7-4e18-4b5d-879f-04940ce237a5")
    );
    assert_eq!(approval.amount, usd(1_550));
}

#[test]
fn the_sample_capture_is_approved_and_names_its_sale() {
    let parent = Some("539e87eb-54a2-44da-8980-62667d81d95c");
    let asked = Asked {
        device_guid: OTHER_DEVICE,
        parent,
        ..asked(Shape::Capture, 9_000)
    };
    let expected = UpstreamIds::default()
        .with("capture", "cf05ed0a-f9df-4e62-b613-61323a37c14e")
        .with("sale", "34f87b4e-3345-4c01-96de-c4257c38e822");
    // The authorisation inside was approved in part; that is not this capture's news.
    assert_eq!(approved(answer(&asked, 200, CAPTURE)).ids, expected);

    let newer = r#"{"guid":"cf05ed0a-f9df-4e62-b613-61323a37c14e",
        "sale":{"guid":"34f87b4e-3345-4c01-96de-c4257c38e822","status":"Transaction - Approved","amount":90.00,
        "effectiveAmount":90.00,"processorStatusCode":"A0000","wasProcessed":true,"authCode":"VTLMC1"}}"#;
    let approval = approved(answer(&asked, 200, newer));
    assert_eq!(approval.ids, expected);
    assert_eq!(approval.authorization_code.as_deref(), Some("VTLMC1"));

    let stranger = Asked {
        parent: Some("9d973cf7-4e18-4b5d-879f-04940ce237a5"),
        ..asked
    };
    assert!(is_unknown(&answer(&stranger, 200, CAPTURE)));
}

#[test]
fn the_sample_void_is_approved_if_nothing_is_left() {
    let parent = Some("bfff1a26-4207-4871-9597-48282e3fcfea");
    let asked = Asked {
        device_guid: OTHER_DEVICE,
        parent,
        ..asked(Shape::Void, 1_974)
    };
    let approval = approved(answer(&asked, 201, VOID));
    assert_eq!(approval.amount, usd(1_974));
    assert_eq!(approval.ids, UpstreamIds::default());
    let partial = VOID.replace("\"effectiveAmount\":0", "\"effectiveAmount\":5.00");
    assert!(is_unknown(&answer(&asked, 201, &partial)));
}

#[test]
fn the_sample_return_is_approved_though_it_became_a_void() {
    let parent = Some("ded98ad3-0553-4607-b84c-1bbd85f474d5");
    let asked = Asked {
        device_guid: OTHER_DEVICE,
        parent,
        ..asked(Shape::Return, 1_974)
    };
    assert_eq!(
        approved(answer(&asked, 200, RETURN)).upstream_reference,
        "4f31b350-edd1-49fd-a1ad-4b065f78d7b9"
    );
}

#[test]
fn the_sample_verification_is_approved() {
    let asked = Asked {
        device_guid: OTHER_DEVICE,
        ..asked(Shape::Verify, 0)
    };
    let approval = approved(answer(&asked, 201, VERIFY));
    assert!(approval.amount.is_zero());
    assert_eq!(
        approval.card.unwrap().token.unwrap().as_str(),
        "hNDbeGr7VBgY7402"
    );
}

/// What ledger and callers need of the reference's samples is kept, with a card that is as close to it as may be.
#[test]
fn fields_that_are_kept_survive_the_search_for_secrets() {
    for (cvv, body, shape, code, token) in [
        ("356", SALE, Shape::Sale, "TAS356", "nr959X7eCIXI0473"),
        (
            "957",
            AUTH_ONLY,
            Shape::AuthOnly,
            "TAS957",
            "S2guBjeE8Eix8507",
        ),
        ("959", SALE, Shape::Sale, "TAS356", "nr959X7eCIXI0473"),
    ] {
        let payer = payer_with(cvv);
        let mut asked = asked(shape, if shape == Shape::Sale { 150_000 } else { 1_550 });
        asked.scrub.payer = Some(&payer);
        asked.scrub.token = Some("an access token of this account");
        let approval = approved(answer(&asked, 200, body));
        assert_eq!(approval.authorization_code.as_deref(), Some(code));
        let card = approval.card.unwrap();
        assert_eq!(card.token.unwrap().as_str(), token);
        assert_eq!(card.brand.as_deref(), Some("visa"));
        assert!(card.last_four.is_some() && card.expiry.is_some());
        assert!(!approval.upstream_reference.is_empty());
    }
}

#[test]
fn fields_that_hold_a_secret_are_left_out() {
    let payer = payer_with("735");
    let mut asked = asked(Shape::Sale, 150_000);
    asked.scrub.payer = Some(&payer);
    // The code as base64, which is letters only; the number as base64 and as hexadecimal.
    for (name, value) in [
        ("authCode", "NzM1"),
        ("authCode", "735"),
        ("authCode", "373335"),
    ] {
        let body = sale_with(name, &format!("{value:?}"));
        let approval = approved(answer(&asked, 200, &body));
        assert_eq!(approval.authorization_code, None, "{value}");
    }
    for token in ["NDAxMjAwMDA5ODc2NTQzOQ", "34303132303030303938373635343339"] {
        let card = format!(r#"{{"cardNumber": "{token}", "cardType": "NzM1", "last4": "5439"}}"#);
        let approval = approved(answer(&asked, 200, &sale_with("card", &card)));
        let card = approval.card.unwrap();
        assert_eq!((card.token, card.brand), (None, None), "{token}");
        assert_eq!(card.last_four.as_deref(), Some("5439"));
    }
}

fn payer_with(cvv: &str) -> Payer {
    Payer {
        card: CardSource::Pan {
            number: Pan::parse("4012000098765439").unwrap(),
            cvv: Some(Cvv::parse(cvv).unwrap()),
            expiry: Expiry::new(2030, 12).unwrap(),
            holder: None,
        },
        customer: None,
        risk: serde_json::Map::new(),
        upstream: serde_json::Map::new(),
    }
}

#[test]
fn status_texts_are_compared_tolerantly() {
    for status in [
        "Transaction - Approved - Warning",
        " transaction -  APPROVED ",
    ] {
        approved(sale("status", &format!("{status:?}")));
    }
}

#[test]
fn other_and_missing_statuses_prove_nothing() {
    for status in [
        "Transaction - Created - Local",
        "Transaction - CreatedLocal",
        "Transaction - Created - Error: Processor not reached",
        "Transaction - Processor Error",
        "3DS - Pending Fingerprint",
        "Approved",
        "PASS",
    ] {
        assert!(
            is_unknown(&sale("status", &format!("{status:?}"))),
            "{status}"
        );
    }
    for value in ["", "null", "true", "[]"] {
        assert!(is_unknown(&sale("status", value)), "{value}");
    }
}

#[test]
fn contradictions_prove_nothing() {
    let contradictions = [
        ("wasProcessed", "false"),
        ("wasProcessed", "\"true\""),
        ("processorStatusCode", "\"D2026\""),
        ("processorStatusCode", "\"ARP00\""),
        ("processorStatusCode", "\"0\""),
        ("processorStatusCode", "\"A0002\""),
        ("riskProcessingOnly", "true"),
        ("riskResponse", r#"{"response":"Declined"}"#),
        ("deviceGuid", "\"8f65764d-72c1-4dee-ac9f-4cd4c98e8c35\""),
        ("sequenceNumber", "\"849742\""),
        ("guid", ""),
        ("guid", "null"),
        ("guid", "\"00000000-0000-0000-0000-000000000000\""),
        ("guid", "\"../sales\""),
        ("amount", "1500.005"),
        ("amount", "-1500"),
        ("amount", "\"a lot\""),
        ("effectiveAmount", "{}"),
        ("status", "\"Transaction - Declined\""),
    ];
    for (name, value) in contradictions {
        let verdict = sale(name, value);
        assert!(is_unknown(&verdict), "{name} {value}: {verdict:?}");
    }
}

#[test]
fn what_is_merely_absent_is_no_contradiction() {
    for name in [
        "wasProcessed",
        "processorStatusCode",
        "riskProcessingOnly",
        "riskResponse",
        "deviceGuid",
        "sequenceNumber",
        "amount",
        "effectiveAmount",
        "card",
        "authCode",
        "batchStatus",
    ] {
        assert_eq!(approved(sale(name, "")).amount, usd(150_000), "{name}");
    }
    approved(sale("sequenceNumber", "849741"));
    approved(sale("riskResponse", "null"));
    approved(sale("card", "null"));
}

#[test]
fn another_amount_is_reported_as_it_is() {
    assert_eq!(approved(sale("amount", "1000.00")).amount, usd(100_000));
    assert_eq!(
        approved(sale("effectiveAmount", "999.99")).amount,
        usd(99_999)
    );
    assert_eq!(approved(sale("amount", "1500.01")).amount, usd(150_001));
    assert_eq!(
        approved(sale("partiallyApprovedAmount", "70")).amount,
        usd(7_000)
    );
    assert_eq!(
        approved(sale("partiallyApprovedAmount", "0")).amount,
        usd(150_000)
    );
    let partial = sale_with("processorStatusCode", "\"A0002\"").replace(":1500", ":90.00");
    assert_eq!(
        approved(answer(&asked(Shape::Sale, 150_000), 200, &partial)).amount,
        usd(9_000)
    );
}

#[test]
fn what_repeats_the_card_number_is_left_out() {
    let echo = SALE
        .replace("nr959X7eCIXI0473", "4012000098765439")
        .replace("TAS356", "4012000098765439");
    let approval = approved(answer(&asked(Shape::Sale, 150_000), 200, &echo));
    assert_eq!(approval.authorization_code, None);
    assert!(!format!("{approval:?}").contains("4012000098765439"));
    assert!(
        !serde_json::to_string(&approval)
            .unwrap()
            .contains("4012000098765439")
    );
}

#[test]
fn a_declined_sale_is_declined_by_its_code() {
    let declined = |code: &str| {
        let body = format!(
            r#"{{"guid":"59344814-87c2-4a62-9859-9b0f5ecadf1e","status":"Transaction - Declined","amount":1500,
                "effectiveAmount":0,"processorStatusCode":{code},"processorResponseMessage":"Jane, 4012000098765439",
                "wasProcessed":false,"sequenceNumber":"849741"}}"#
        );
        answer(&asked(Shape::Sale, 150_000), 200, &body)
    };
    let class = |code: &str| class_of(&declined(code));
    assert_eq!(class("\"D2012\""), Some(("declined", DeclineClass::Soft)));
    assert_eq!(class("\"D2005\""), Some(("declined", DeclineClass::Hard)));
    assert_eq!(class("\"D2002\""), Some(("declined", DeclineClass::Fraud)));
    assert_eq!(class("\"D2015\""), Some(("declined", DeclineClass::Limit)));
    assert_eq!(
        class("\"D0008\""),
        Some(("declined", DeclineClass::Duplicate))
    );
    assert_eq!(
        class("\"D0092\""),
        Some(("declined", DeclineClass::InvalidRequest))
    );
    assert_eq!(class("null"), Some(("declined", DeclineClass::Soft)));
    // A fault of theirs, and success texts among the declines.
    for code in ["\"E0910\"", "\"E0912\"", "\"D3200\"", "\"Z0001\"", "\"05\""] {
        assert!(is_unknown(&declined(code)), "{code}");
    }
    let Verdict::Declined(decline) = declined("\"d2012\"") else {
        panic!("declined")
    };
    assert_eq!(decline.code.as_deref(), Some("D2012"));
    assert_eq!(decline.message, "Insufficient Funds");
    let Verdict::Declined(decline) = declined("null") else {
        panic!("declined")
    };
    assert_eq!(decline.message, "Jane, [redacted]");
}

#[test]
fn an_unlisted_code_is_a_decline_only_by_configuration() {
    let rules = Rules {
        unlisted_code: UnlistedCode::Declined,
        ..RULES
    };
    let asked = Asked {
        rules,
        ..asked(Shape::Sale, 150_000)
    };
    let body = r#"{"guid":"59344814-87c2-4a62-9859-9b0f5ecadf1e","status":"Transaction - Declined","processorStatusCode":"05",
        "wasProcessed":false}"#;
    assert_eq!(
        class_of(&answer(&asked, 200, body)),
        Some(("declined", DeclineClass::Soft))
    );
    let issuer = r#"{"message":"Error code 05. Do not honor","errorId":null}"#;
    assert_eq!(
        class_of(&answer(&asked, 422, issuer)),
        Some(("declined", DeclineClass::Soft))
    );
    assert!(is_unknown(&answer(&asked, 400, issuer)));
    assert!(is_unknown(&answer(
        &asked,
        422,
        r#"{"message":"Error code 11. Still being processed"}"#
    )));
    assert!(is_unknown(&answer(
        &asked,
        422,
        r#"{"message":"Error code A0000. Not declined"}"#
    )));
}

#[test]
fn the_risk_engine_declines_as_fraud_where_nothing_was_authorised() {
    let refused = |status: &str, more: &str| {
        let body = format!(
            r#"{{"guid":"59344814-87c2-4a62-9859-9b0f5ecadf1e","status":"{status}","riskResponse":{{"response":"Declined"}}{more}}}"#
        );
        answer(&asked(Shape::Sale, 150_000), 200, &body)
    };
    assert_eq!(
        class_of(&refused("Transaction - Declined", "")),
        Some(("declined", DeclineClass::Fraud))
    );
    assert_eq!(
        class_of(&refused(
            "Transaction - Created - Local",
            r#","wasProcessed":false"#
        )),
        Some(("declined", DeclineClass::Fraud))
    );
    assert!(is_unknown(&refused(
        "Transaction - Created - Local",
        r#","authCode":"TAS356""#
    )));
    assert!(is_unknown(&refused(
        "Transaction - Declined",
        r#","wasProcessed":true"#
    )));
    assert!(is_unknown(&refused("Transaction - Processor Error", "")));
    assert_eq!(
        class_of(&refused(
            "Transaction - Declined",
            r#","processorStatusCode":"D2012""#
        )),
        Some(("declined", DeclineClass::Soft))
    );
}

#[test]
fn refusals_are_read_by_code_and_by_text() {
    let class = |status, message: &str| {
        let body = serde_json::json!({"message": message, "errorId": null}).to_string();
        class_of(&answer(&asked(Shape::Sale, 150_000), status, &body))
    };
    let recorded = "Error code D2020. CVV2 verification failed.";
    assert_eq!(class(422, recorded), Some(("declined", DeclineClass::Soft)));
    assert_eq!(class(400, recorded), Some(("declined", DeclineClass::Soft)));
    assert_eq!(
        class(422, "Error code D0008. Possible Duplicate Request"),
        Some(("declined", DeclineClass::Duplicate))
    );
    assert_eq!(
        class(422, "Error code E0010. Inactive Device"),
        Some(("refused", DeclineClass::Configuration))
    );
    assert_eq!(
        class(422, "Error code D2206. INPUT_VALIDATION_ERROR"),
        Some(("refused", DeclineClass::InvalidRequest))
    );
    assert_eq!(
        class(422, "Sale has not been settled"),
        Some(("refused", DeclineClass::InvalidRequest))
    );
    assert_eq!(
        class(
            422,
            "There is an approved Capture for this AuthOnly already"
        ),
        Some(("declined", DeclineClass::Duplicate))
    );
    assert_eq!(
        class(422, "Original Amount exceeded"),
        Some(("declined", DeclineClass::Limit))
    );
    assert_eq!(
        class(400, "The request is invalid."),
        Some(("refused", DeclineClass::InvalidRequest))
    );
    assert_eq!(
        class(403, "The user does not have permission to do this"),
        Some(("refused", DeclineClass::Authentication))
    );
    assert_eq!(
        class(404, "Invalid Device GUID"),
        Some(("refused", DeclineClass::NotFound))
    );
    let wrapped = "The Sale could not be processed correctly. Error code (D2026). Error message: (Do not honor)";
    assert_eq!(class(422, wrapped), Some(("declined", DeclineClass::Soft)));
}

#[test]
fn a_refusal_that_is_not_listed_or_not_theirs_proves_nothing() {
    let asked = asked(Shape::Sale, 150_000);
    let theirs =
        |message: &str| serde_json::json!({"message": message, "errorId": "1"}).to_string();
    for message in [
        "Something went wrong",
        "Error code E0910. Time out",
        "Error code Z1234. Declined",
        "The Sale could not be processed correctly. Error code (). Error message: ()",
        "A server error has occurred. The operation could not be finished.",
        "No Route matched with those values",
        "",
    ] {
        for status in [400, 403, 404, 405, 415, 422] {
            assert!(
                is_unknown(&answer(&asked, status, &theirs(message))),
                "{status} {message}"
            );
        }
    }
    let listed = theirs("Invalid Device GUID");
    for status in [301, 302, 307, 402, 408, 413, 429, 500, 502, 503, 504] {
        assert!(is_unknown(&answer(&asked, status, &listed)), "{status}");
    }
    for body in [
        "",
        "<html>Invalid Device GUID</html>",
        "\"Invalid Device GUID\"",
        "[\"Invalid Device GUID\"]",
        "{",
        "{}",
        "null",
    ] {
        for status in [200, 201, 400, 401, 404, 422, 500] {
            assert!(is_unknown(&answer(&asked, status, body)), "{status} {body}");
        }
    }
    let html = Reply {
        status: 404,
        content_type: Some("text/html"),
        body: listed.as_bytes(),
    };
    assert!(is_unknown(&classify(&asked, &html)));
    let html = Reply {
        status: 200,
        content_type: Some("text/html"),
        body: SALE.as_bytes(),
    };
    assert!(is_unknown(&classify(&asked, &html)));
    assert!(is_unknown(&answer(&asked, 200, &listed)));
    assert!(is_unknown(&answer(&asked, 422, SALE)));
    assert!(is_unknown(&answer(&asked, 200, &format!("[{SALE}]"))));
}

#[test]
fn a_declined_transaction_may_come_with_422() {
    let body = r#"{"guid":"59344814-87c2-4a62-9859-9b0f5ecadf1e","status":"Transaction - Declined","processorStatusCode":"D2012"}"#;
    let verdict = answer(&asked(Shape::Sale, 150_000), 422, body);
    assert_eq!(class_of(&verdict), Some(("declined", DeclineClass::Soft)));
}

#[test]
fn a_401_proves_something_only_with_their_body_and_by_configuration() {
    let own = r#"{"message":"Authorization has been denied for this request."}"#;
    let trusted = asked(Shape::Sale, 150_000);
    assert!(matches!(
        answer(&trusted, 401, own),
        Verdict::NotSent(NotSent::RefusedUnprocessed { .. })
    ));
    assert!(matches!(
        answer(&trusted, 401, &own.replace("message", "Message")),
        Verdict::NotSent(_)
    ));
    assert!(is_unknown(&answer(&trusted, 401, "")));
    assert!(is_unknown(&answer(&trusted, 429, own)));
    let wary = Asked {
        rules: Rules {
            trust_401: false,
            trust_429: true,
            ..RULES
        },
        ..trusted
    };
    assert!(is_unknown(&answer(&wary, 401, own)));
    assert!(matches!(
        answer(&wary, 429, own),
        Verdict::NotSent(NotSent::RefusedUnprocessed { .. })
    ));
    assert!(is_unknown(&answer(&wary, 429, "<html>slow down</html>")));
}

proptest! {
    #[test]
    fn no_body_makes_anything_but_a_2xx_an_approval(status in 100_u16..600, cut in 0_usize..900) {
        let asked = asked(Shape::Sale, 150_000);
        let whole = status / 100 == 2 && cut >= SALE.len();
        let verdict = answer(&asked, status, &SALE[..cut.min(SALE.len())]);
        prop_assert_eq!(matches!(verdict, Verdict::Approved(_)), whole);
    }

    #[test]
    fn arbitrary_bodies_are_never_an_answer(status in 100_u16..600, body in "\\PC{0,300}") {
        let verdict = answer(&asked(Shape::Sale, 150_000), status, &body);
        prop_assert!(is_unknown(&verdict), "{verdict:?}");
    }

    #[test]
    fn any_other_amount_is_never_reported_as_the_asked_one(approved_minor in 0_i64..200_000_000) {
        prop_assume!(approved_minor != 150_000);
        let text = usd(approved_minor).to_major_string();
        let approval = approved(sale("amount", &text));
        prop_assert_ne!(approval.amount, usd(150_000));
    }
}

#[test]
fn declines_tell_only_what_is_safe() {
    let body = r#"{"message":"Error code D2020. CVV2 verification failed for 4012000098765439.","errorId":"x"}"#;
    let verdict = answer(&asked(Shape::Sale, 150_000), 422, body);
    let expected = Decline {
        class: DeclineClass::Soft,
        code: Some("D2020".to_owned()),
        message: "CVV2 verification failed".to_owned(),
    };
    assert_eq!(verdict, Verdict::Declined(expected));
    let body = r#"{"message":"No card 4012 0000 9876 5439 here"}"#;
    assert!(!format!("{:?}", answer(&asked(Shape::Sale, 150_000), 422, body)).contains("5439"));
}
