//! What the books say, what they leave out, and that they survive.

use std::path::PathBuf;

use serde_json::json;
use tokio::net::TcpListener;

use crate::simulators::connexpay::{DEVICE_USD, EntryKind};
use crate::simulators::tests::{another, ready, sale};
use crate::simulators::{Options, Simulators};

/// A folder of its own, removed at the end.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        Self(std::env::temp_dir().join(format!("sandbox-books-{}", uuid::Uuid::new_v4())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn on(folder: &Folder) -> Simulators {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    Simulators::start(listener, Some(folder.0.clone()), Options::default())
        .await
        .expect("simulators")
}

#[tokio::test]
async fn books_survive_a_restart_and_hold_no_card_data() {
    let folder = Folder::new();
    let simulators = on(&folder).await;
    let mut caller = another(&simulators, "").await;
    let token = caller.token.clone();
    let sold = caller.post("sales", &sale("12.34", "A1")).await.json();
    let void = json!({"DeviceGuid": DEVICE_USD, "SaleGuid": sold["guid"]});
    caller.post("sales", &sale("5", "A2")).await;
    assert_eq!(caller.post("void", &void).await.status, 201);
    let before = simulators.connexpay().books();
    simulators.shutdown().await;

    let file = folder.0.join("connexpay.jsonl");
    let text = std::fs::read_to_string(&file).expect("the books");
    for secret in ["4012000098765439", "\"401200", "\"999\"", token.as_str()] {
        assert!(!text.contains(secret), "{secret} in the books");
    }
    // A process that dies while it writes leaves a piece of a line.
    std::fs::write(&file, format!("{text}[{{\"entry\":{{\"guid")).expect("written");

    let simulators = on(&folder).await;
    assert_eq!(simulators.connexpay().books(), before);
    assert_eq!(
        std::fs::read_to_string(&file).expect("the books"),
        text,
        "the piece is gone"
    );
    let mut caller = another(&simulators, &token).await;
    assert_eq!(
        caller.post("sales", &sale("1", "A3")).await.status,
        200,
        "tokens live on"
    );
    let again = sale("3", "A4");
    let stored = caller.post("sales", &again).await.json();
    assert_eq!(
        stored["card"]["cardNumber"], sold["card"]["cardNumber"],
        "one token per card"
    );
    assert_eq!(
        simulators.connexpay().books().entries.len(),
        before.entries.len() + 2
    );
}

#[tokio::test]
async fn books_are_on_disk_before_the_answer() {
    let folder = Folder::new();
    let simulators = on(&folder).await;
    let mut caller = another(&simulators, "").await;
    let guid = caller.post("sales", &sale("12.34", "A1")).await.json()["guid"]
        .as_str()
        .expect("an id")
        .to_owned();
    let text = std::fs::read_to_string(folder.0.join("connexpay.jsonl")).expect("the books");
    assert!(text.contains(&guid));
}

#[tokio::test]
async fn a_reset_empties_the_file() {
    let folder = Folder::new();
    let simulators = on(&folder).await;
    let mut caller = another(&simulators, "").await;
    caller.post("sales", &sale("12.34", "A1")).await;
    simulators.reset().await.expect("reset");
    assert!(simulators.connexpay().books().entries.is_empty());
    caller.post("sales", &sale("12.34", "A1")).await;
    let now = simulators.connexpay().books();
    simulators.shutdown().await;
    assert_eq!(on(&folder).await.connexpay().books(), now);
}

#[tokio::test]
async fn positions_follow_the_money_to_the_reference_where_it_began() {
    let (simulators, mut caller) = ready().await;
    let upstream = simulators.connexpay();
    let guid = |heard: &crate::simulators::tests::Heard| {
        heard.json()["guid"].as_str().expect("an id").to_owned()
    };

    let mut hold = sale("100", "H1");
    hold.as_object_mut().expect("an object").remove("RiskData");
    let auth = guid(&caller.post("AuthOnlys", &hold).await);
    assert_eq!(
        (
            upstream.books().position("H1").held,
            upstream.books().position("H1").net
        ),
        (10_000, 0)
    );
    let capture = json!({"DeviceGuid": DEVICE_USD, "AuthOnlyGuid": auth, "NewAmount": 90.00});
    let captured = caller.post("Captures", &capture).await;
    assert_eq!(captured.status, 200, "{}", captured.body);
    let sold = captured.json()["relatedSale"]["guid"]
        .as_str()
        .expect("an id")
        .to_owned();
    let position = upstream.books().position("H1");
    assert_eq!(
        (
            position.held,
            position.net,
            position.captures,
            position.sales
        ),
        (0, 9000, 1, 1)
    );

    upstream.settle().expect("settled");
    for amount in [20.5, 30.0] {
        let refund = json!({"DeviceGuid": DEVICE_USD, "SaleGuid": sold, "Amount": amount});
        assert_eq!(caller.post("returns", &refund).await.status, 200);
    }
    let books = upstream.books();
    assert_eq!(
        (books.position("H1").net, books.position("H1").returns),
        (3950, 2)
    );
    assert_eq!(
        books.entry(&sold).expect("the sale").effective,
        3950,
        "two ways of counting agree"
    );
    let last = books.of(EntryKind::Return)[1].guid.clone();
    assert_eq!(
        caller
            .post(
                "void",
                &json!({"DeviceGuid": DEVICE_USD, "ReturnGuid": last})
            )
            .await
            .status,
        201
    );
    assert_eq!(
        upstream.books().position("H1").net,
        6950,
        "a voided return is no return"
    );
    assert_eq!(upstream.books().net(), 6950);

    // The same number twice is a double charge, and it shows.
    caller.post("sales", &sale("7", "D1")).await;
    caller.post("sales", &sale("7", "D1")).await;
    let position = upstream.books().position("D1");
    assert_eq!((position.sales, position.net), (2, 1400));
}
