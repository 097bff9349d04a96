//! Searches with their traps, batches, verification and the other reads.

use std::time::Duration;

use serde_json::json;

use super::{authorized, guid, with, without};
use crate::simulators::connexpay::{DEVICE_USD, Envelope, MERCHANT_USD};
use crate::simulators::tests::{ready, sale};

#[tokio::test]
async fn searches_are_shallow_ignore_unknown_filters_and_find_by_order_number() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    let search = |filter: &str, value: &str| json!({"merchantGuid": MERCHANT_USD, filter: value});
    assert_eq!(
        caller
            .post("Search/Sales/false", &search("OrderNumber", "A1"))
            .await
            .status,
        204
    );
    let first = guid(&caller.post("sales", &sale("10", "A1")).await);
    caller.post("sales", &sale("20", "A2")).await;
    let hit = caller
        .post("Search/Sales/false", &search("OrderNumber", "A1"))
        .await
        .json();
    assert_eq!(
        (&hit["count"], &hit["ret"][0]["guid"]),
        (&json!(1), &json!(first))
    );
    assert!(
        hit["ret"][0].get("sequenceNumber").is_none()
            && hit["ret"][0]["card"].get("cardNumber").is_none()
    );
    let trap = caller
        .post("search/sales/FALSE", &search("SequenceNumber", "A1"))
        .await
        .json();
    assert_eq!(trap["count"], 2, "an unknown filter is ignored");
    let page = caller
        .post("Search/Sales/false/2/1", &search("guid", "x"))
        .await
        .json();
    assert_eq!(
        (&page["count"], &page["ret"][0]["amount"]),
        (&json!(1), &json!(20))
    );
    let from = caller
        .post(
            "Search/Sales/false",
            &json!({"MerchantGuid": MERCHANT_USD, "AmountFrom": 15}),
        )
        .await;
    assert_eq!(from.json()["count"], 1);
    assert_eq!(
        caller.post("Search/Sales/false", &json!({})).await.status,
        400
    );
    let export = caller.post("Search/Sales/true", &search("x", "x")).await;
    assert!(
        export.body.starts_with("Status,Amount,TimeStamp\n"),
        "{}",
        export.body
    );

    caller
        .post(
            "void",
            &json!({"DeviceGuid": DEVICE_USD, "SaleGuid": first}),
        )
        .await;
    let voids = caller
        .post("Search/Voids/false", &search("x", "x"))
        .await
        .json();
    assert!(voids["ret"][0]["sale"].get("guid").is_none(), "{voids}");
    let auth = authorized(&mut caller, "30", "H1").await;
    caller
        .post(
            "Captures",
            &json!({"DeviceGuid": DEVICE_USD, "AuthOnlyGuid": auth}),
        )
        .await;
    let captures = caller
        .post("Search/Captures/false", &search("x", "x"))
        .await
        .json();
    assert_eq!(
        captures["ret"][0]["authOnly"]["guid"],
        uuid::Uuid::nil().to_string()
    );
    let auths = caller
        .post("Search/AuthOnlys/false", &search("OrderNumber", "H1"))
        .await
        .json();
    assert!(
        auths["ret"][0]["relatedCapture"]["guid"].is_string(),
        "{auths}"
    );

    upstream.change_rules(|rules| {
        rules.search_lag_ms = 60_000;
        rules.search_envelope = Envelope::Pages;
    });
    assert_eq!(
        caller
            .post("Search/Sales/false", &search("OrderNumber", "A2"))
            .await
            .status,
        204,
        "not indexed yet"
    );
    upstream.advance(Duration::from_secs(61));
    let pages = caller
        .post("Search/Sales/false", &search("OrderNumber", "A2"))
        .await
        .json();
    assert_eq!(
        (
            &pages["totalResults"],
            &pages["searchResultDTO"][0]["amount"]
        ),
        (&json!(1), &json!(20))
    );
}

#[tokio::test]
async fn batches_close_on_request_and_by_themselves() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    let device = json!({"DeviceGuid": DEVICE_USD});
    assert_eq!(
        caller.post("Batches/close", &device).await.message(),
        "No open batch"
    );
    let sold = caller.post("sales", &sale("10", "A1")).await.json();
    let batch = sold["batchGuid"].as_str().expect("an id").to_owned();
    let closed = caller.post("Batches/close", &device).await.json();
    assert_eq!(
        (&closed["guid"], &closed["status"]),
        (&json!(batch), &json!("PASS"))
    );
    assert_eq!(
        closed["batchInfo"],
        json!({"siccode":"5999","saleCount":1,"saleAmount":10,"returnCount":0,"returnAmount":0})
    );
    let read = caller
        .get(&format!("sales/{}", sold["guid"].as_str().expect("an id")))
        .await
        .json();
    assert_eq!(read["batchStatus"], "Batch - Closed");
    let rows = caller
        .get(&format!("Batches/{batch}/Transactions/"))
        .await
        .json();
    assert_eq!(
        (&rows[0]["transactionGuid"], &rows[0]["lastFour"]),
        (&sold["guid"], &json!("5439"))
    );
    let wide = json!({"deviceGuid": DEVICE_USD, "startDate": "1/1/1900", "endDate": "2999-01-01"});
    let found = caller.post("Batches/search", &wide).await.json();
    assert_eq!(
        (&found["count"], &found["ret"][0]["batchTotalAmount"]),
        (&json!(1), &json!(10))
    );
    assert!(
        found["ret"][0]["transactions"][0]
            .get("transactionGuid")
            .is_none()
    );

    upstream.change_rules(|rules| rules.batch_close_after_s = Some(3600));
    let sold = guid(&caller.post("sales", &sale("11", "A2")).await);
    upstream.advance(Duration::from_secs(3601));
    let void = caller
        .post("void", &json!({"DeviceGuid": DEVICE_USD, "SaleGuid": sold}))
        .await;
    assert_eq!(void.message(), "Transaction already settled");
}

#[tokio::test]
async fn verification_and_the_other_reads() {
    let (simulators, mut caller) = ready().await;
    let verify = without(sale("10", "V1"), "/Amount");
    let heard = caller.post("Verify", &verify).await;
    assert_eq!(
        (heard.status, &heard.json()["processorStatusCode"]),
        (201, &json!("A0000")),
        "{}",
        heard.body
    );
    assert!(heard.json().get("amount").is_none());
    assert_eq!(
        caller.get(&format!("Verify/{}", guid(&heard))).await.status,
        200
    );
    assert_eq!(simulators.connexpay().books().net(), 0);
    assert_eq!(
        caller.get("devices").await.json()["ret"][0]["guid"],
        DEVICE_USD
    );
    assert_eq!(caller.get("sales").await.status, 204);
    let missing = caller.get(&format!("sales/{}", uuid::Uuid::nil())).await;
    assert_eq!(
        (missing.status, missing.message().as_str()),
        (404, "No Sale could be found for the given Id")
    );
    let nowhere = caller.get("nowhere").await;
    assert!(nowhere.status == 404 && nowhere.message().starts_with("No HTTP resource"));
    let risk_only = with(sale("10", "R1"), "/RiskProcessingOnly", true.into());
    let heard = caller.post("sales", &risk_only).await;
    assert_eq!(heard.json()["processorStatusCode"], "ARP00");
    assert_eq!(
        simulators.connexpay().books().net(),
        0,
        "a risk check is no payment"
    );
}
