//! Whatever is asked for in whatever order, the books add up, and reading them again gives the same.

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::books::Folder;
use crate::simulators::connexpay::{Books, ConnexPay, DEVICE_USD, Entry, EntryKind, Rules};
use crate::simulators::site::{Processor, Received};
use crate::simulators::tests::card;

#[derive(Clone, Debug)]
enum Step {
    Sale(i64),
    Authorize(i64),
    Capture(Index, i64),
    Void(Index),
    Return(Index, i64),
    Reverse(Index),
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let amount = || 50..2000_i64;
    let any = any::<Index>;
    let step = prop_oneof![
        amount().prop_map(Step::Sale),
        amount().prop_map(Step::Authorize),
        (any(), amount()).prop_map(|(which, amount)| Step::Capture(which, amount)),
        any().prop_map(Step::Void),
        (any(), amount()).prop_map(|(which, amount)| Step::Return(which, amount)),
        any().prop_map(Step::Reverse),
        Just(Step::Settle),
    ];
    proptest::collection::vec(step, 1..40)
}

struct Counter {
    processor: ConnexPay,
    token: String,
    calls: u64,
}

impl Counter {
    fn open(folder: &Folder) -> Self {
        let processor = ConnexPay::open(Some(&folder.0), Rules::default()).expect("books");
        let mut counter = Self {
            processor,
            token: String::new(),
            calls: 0,
        };
        let answer = counter.send(
            "token",
            "grant_type=password&username=apiuser&password=sandbox".to_owned(),
        );
        answer["access_token"]
            .as_str()
            .expect("a token")
            .clone_into(&mut counter.token);
        counter
    }

    fn send(&mut self, route: &str, body: String) -> Value {
        self.calls += 1;
        let mut headers = HeaderMap::new();
        let value = format!("Bearer {}", self.token).parse().expect("a header");
        headers.insert(header::AUTHORIZATION, value);
        let request = Received {
            number: self.calls,
            method: Method::POST,
            path: format!("/api/v1/{route}"),
            headers,
            body: Bytes::from(body),
        };
        let reply = self.processor.answer(&request, None);
        assert!(!reply.status.is_server_error(), "{reply:?}");
        serde_json::from_slice(&reply.body).unwrap_or_default()
    }

    fn post(&mut self, route: &str, mut fields: Value) {
        fields["DeviceGuid"] = DEVICE_USD.into();
        self.send(route, fields.to_string());
    }

    fn pick(&self, which: Index, kinds: &[EntryKind]) -> Option<Entry> {
        let entries = self.processor.books().entries;
        let fitting: Vec<&Entry> = entries
            .iter()
            .filter(|entry| kinds.contains(&entry.kind))
            .collect();
        (!fitting.is_empty()).then(|| (*which.get(&fitting)).clone())
    }

    fn take(&mut self, step: &Step) {
        let major = |minor: i64| -> Value {
            serde_json::from_str(&crate::simulators::json::major(minor)).expect("a number")
        };
        match step {
            Step::Sale(amount) => {
                let sequence = format!("S{}", self.calls);
                self.post(
                    "sales",
                    json!({"Amount": major(*amount), "SequenceNumber": sequence, "Card": card(),
                    "ConnexPayTransaction": {"ExpectedPayments": 0},
                    "RiskData": {"Gender": "F", "ProductType": "Flight", "ProductItem": "1"}}),
                );
            }
            Step::Authorize(amount) => {
                let sequence = format!("A{}", self.calls);
                self.post(
                    "AuthOnlys",
                    json!({"Amount": major(*amount), "SequenceNumber": sequence, "Card": card()}),
                );
            }
            Step::Capture(which, amount) => {
                if let Some(auth) = self.pick(*which, &[EntryKind::AuthOnly]) {
                    self.post(
                        "Captures",
                        json!({"AuthOnlyGuid": auth.guid, "NewAmount": major(*amount)}),
                    );
                }
            }
            Step::Void(which) => {
                let kinds = [EntryKind::Sale, EntryKind::AuthOnly, EntryKind::Return];
                if let Some(target) = self.pick(*which, &kinds) {
                    let name = match target.kind {
                        EntryKind::Sale => "SaleGuid",
                        EntryKind::AuthOnly => "AuthOnlyGuid",
                        _ => "ReturnGuid",
                    };
                    self.post("void", json!({name: target.guid}));
                }
            }
            Step::Return(which, amount) => {
                if let Some(sale) = self.pick(*which, &[EntryKind::Sale]) {
                    self.post(
                        "returns",
                        json!({"SaleGuid": sale.guid, "Amount": major(*amount)}),
                    );
                }
            }
            Step::Reverse(which) => {
                if let Some(sale) = self.pick(*which, &[EntryKind::Sale]) {
                    self.post(
                        "timeoutreversal",
                        json!({"SequenceNumber": sale.sequence_number}),
                    );
                }
            }
            Step::Settle => self.processor.settle().expect("settled"),
        }
    }
}

/// What is left of each sale, from the movements alone.
fn left(books: &Books, sale: &Entry) -> i64 {
    let acting = |kind, on: &str| -> Vec<&Entry> {
        let all = books.of(kind).into_iter();
        all.filter(|entry| entry.is_approved() && entry.parent.as_deref() == Some(on))
            .collect()
    };
    let voided: i64 = acting(EntryKind::Void, &sale.guid)
        .iter()
        .map(|void| void.approved)
        .sum();
    let returned: i64 = acting(EntryKind::Return, &sale.guid)
        .iter()
        .filter(|back| acting(EntryKind::Void, &back.guid).is_empty())
        .map(|back| back.approved)
        .sum();
    sale.approved - voided - returned
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_books_always_add_up_and_read_back_the_same(steps in steps()) {
        let folder = Folder::new();
        let mut counter = Counter::open(&folder);
        for step in &steps {
            counter.take(step);
        }
        let books = counter.processor.books();
        let mut total = 0;
        for sale in books.of(EntryKind::Sale) {
            prop_assert_eq!(sale.effective, left(&books, sale), "{:?}", sale);
            total += sale.effective;
            let voids = books.of(EntryKind::Void);
            let times = voids.iter().filter(|void| void.parent.as_ref() == Some(&sale.guid)).count();
            prop_assert!(times <= 1, "voided twice");
        }
        prop_assert_eq!(books.net(), total);
        for auth in books.of(EntryKind::AuthOnly) {
            let captures = books.of(EntryKind::Capture);
            let captures = captures.iter().filter(|capture| capture.parent.as_ref() == Some(&auth.guid));
            let amounts: Vec<i64> = captures.map(|capture| capture.approved).collect();
            prop_assert!(amounts.len() <= 1 && amounts.iter().all(|amount| *amount <= auth.approved));
        }
        drop(counter);
        prop_assert_eq!(Counter::open(&folder).processor.books(), books);
    }
}
