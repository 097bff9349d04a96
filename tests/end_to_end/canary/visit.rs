//! A caller that sends the canary down every path there is, and keeps whatever it hears.

mod breakage;

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Fault, Form, Kind, Selector};
use sandbox::stack::eventually;
use sandbox::world::{World, claims, sale};
use serde_json::{Value, json};

use super::PATIENCE;
use super::gateway::{PANICS, PANICS_WITH_CARD};
use super::search::Canary;
use super::sinks::Sink;

pub(super) struct Visitor<'a> {
    world: &'a World,
    canary: Canary,
    url: String,
    token: String,
    http: reqwest::Client,
    pub(super) heard: Sink,
}

/// What came back.
struct Heard {
    status: u16,
    body: Value,
}

impl Heard {
    #[track_caller]
    fn expect(self, statuses: &[u16]) -> Self {
        assert!(
            statuses.contains(&self.status),
            "{}: {}",
            self.status,
            self.body
        );
        self
    }

    fn payment(&self) -> String {
        self.body["id"].as_str().expect("a payment").to_owned()
    }
}

impl<'a> Visitor<'a> {
    pub(super) fn new(world: &'a World, url: &str) -> Self {
        Self {
            world,
            canary: Canary::sent(),
            url: url.to_owned(),
            token: world.key.mint(&claims("shop-1")),
            http: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("an HTTP client"),
            heard: Sink::default(),
        }
    }

    /// A sale with the canary's card.
    fn sale(&self, minor: i64) -> Value {
        let mut body = sale(minor);
        body["card"] = json!({
            "number": self.canary.number, "cvv": self.canary.code, "holder": self.canary.holder,
            "expiry_month": 12, "expiry_year": 2031,
        });
        body
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .header("content-type", "application/json")
    }

    /// Whatever is heard is kept, headers too.
    async fn send(&self, request: RequestBuilder) -> Heard {
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        self.heard
            .write(format!("{status} {:?}\n", answer.headers()).as_bytes());
        let bytes = answer.bytes().await.expect("a body");
        self.heard.write(&bytes);
        self.heard.write(b"\n");
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Heard { status, body }
    }

    async fn post(&self, path: &str, key: &str, body: impl Into<reqwest::Body>) -> Heard {
        let request = self.request(Method::POST, path).body(body);
        let request = request.header("idempotency-key", key);
        self.send(request.bearer_auth(&self.token)).await
    }

    async fn get(&self, path: &str) -> Heard {
        self.send(self.request(Method::GET, path).bearer_auth(&self.token))
            .await
    }

    async fn pay(&self, key: &str, body: &Value) -> Heard {
        self.post("/v1/payments", key, body.to_string()).await
    }

    async fn follow(&self, verb: &str, key: &str, payment: &str, body: &Value) -> Heard {
        let path = format!("/v1/payments/{payment}/{verb}");
        self.post(&path, key, body.to_string()).await
    }

    /// A payment whose metadata holds the planted canary: what answers show and the ledger keeps.
    pub(super) async fn plant(&self, planted: &Canary) {
        let mut body = sale(77_00);
        let spellings: Vec<String> = planted
            .spellings()
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        // So few at a time fit into a payment's metadata.
        for (number, part) in spellings.chunks(12).enumerate() {
            let parts = part.iter().enumerate();
            let parts = parts.map(|(place, text)| (format!("planted-{place}"), json!(text)));
            body["metadata"] = Value::Object(parts.collect());
            let paid = self
                .pay(&format!("planted-{number}"), &body)
                .await
                .expect(&[201]);
            self.get(&format!("/v1/payments/{}", paid.payment()))
                .await
                .expect(&[200]);
        }
    }

    /// Every path on which a request can be answered, refused or lost.
    pub(super) async fn walk(&self, with_card_in_panics: bool) {
        self.first_payments().await;
        self.refused_requests().await;
        self.refused_names().await;
        self.refused_card_numbers().await;
        self.faults(with_card_in_panics).await;
        self.follow_ups().await;
        self.verifications().await;
        self.outage().await;
        self.world.settle_and_audit(Duration::from_mins(1)).await;
        self.read_everything().await;
    }

    async fn set_faults(&self, faults: Vec<Fault>) {
        let connexpay = self.world.simulators.connexpay();
        connexpay.set_faults(faults, 1).await.expect("faults");
    }

    /// The token endpoint fails first, repeating what it was sent.
    async fn first_payments(&self) {
        let failing = [Kind::EchoCard, Kind::CommitThenGarbage];
        let failing = failing.map(|kind| Fault::on(kind, verb::TOKEN).first(1));
        self.set_faults(failing.to_vec()).await;
        let body = self.sale(10_00);
        self.pay("first", &body).await.expect(&[503]);
        let paid = eventually(PATIENCE, "a token", async || {
            let heard = self.pay("first", &body).await;
            (heard.status == 201).then_some(())
        });
        paid.await.expect("charged");
        self.pay("first", &body).await.expect(&[201]);
        self.pay("first", &self.sale(11_00)).await.expect(&[422]);
    }

    /// Requests that are refused for what they say.
    async fn refused_requests(&self) {
        let Canary { number, code, .. } = &self.canary;
        let wrong_digit = if number.ends_with('0') { '1' } else { '0' };
        let wrong = format!("{}{wrong_digit}", &number[..number.len() - 1]);
        let changed = |pointer: &str, value: Value| {
            let mut body = self.sale(10_00);
            let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
            let place = body.pointer_mut(parent).expect("a place");
            if place.is_null() {
                *place = json!({});
            }
            place[name] = value;
            body.to_string()
        };
        let whole = self.sale(10_00).to_string();
        let cut = whole.find(number.as_str()).expect("it is there") + 14;
        let mut bodies = vec![
            changed("/card/number", json!(wrong)),
            changed("/card/number", json!(format!("{number}00000"))),
            changed("/card/number", json!(format!("{number}x"))),
            changed(
                "/card/number",
                json!(number.parse::<u64>().expect("a number")),
            ),
            changed("/card/number", json!([number])),
            changed("/card/token", json!(number)),
            changed("/card/cvv", json!(format!("{code}9"))),
            changed("/card/cvv", json!({"value": code})),
            changed("/card/cvv", json!(735)),
            changed("/card/expiry_year", json!(2020)),
            changed("/card/expiry_month", json!(number)),
            changed("/amount/value", json!(number)),
            changed("/amount/currency", json!(number)),
            changed("/capture", json!(number)),
            changed("/account", json!(number)),
            changed("/order_reference", json!(number)),
            changed("/statement_descriptor", json!(number)),
            changed("/metadata", json!({"note": number})),
            changed("/metadata", json!({number: "note"})),
            changed(&format!("/{number}"), json!(1)),
            changed(&format!("/card/{number}"), json!(1)),
            changed(&format!("/upstream/{number}"), json!(number)),
            changed(&format!("/risk/{number}"), json!(number)),
            changed("/upstream/expected_payments", json!(number)),
            changed("/customer/email", json!({"at": number})),
            format!("{whole}{number}"),
            whole[..cut].to_owned(),
            whole.replace(r#""card""#, &format!(r#""card":"{number}","card""#)),
            whole.replace(':', &format!(" {number}:")),
            format!("[{whole}]"),
            format!("\"{number}\""),
            number.clone(),
            format!("{}{whole}{}", "[".repeat(100), "]".repeat(100)),
            format!(r#"{{"metadata": "{}"}}"#, number.repeat(10_000)),
        ];
        bodies.push(whole.replace("Zephyrine", "\\ud800"));
        for (place, body) in bodies.iter().enumerate() {
            let key = format!("refused-{place}");
            self.post("/v1/payments", &key, body.clone())
                .await
                .expect(&[400, 413, 422]);
        }
        let not_text = [whole.as_bytes(), number.as_bytes(), &[0xff, 0xfe]].concat();
        self.post("/v1/payments", "bytes", not_text)
            .await
            .expect(&[400]);
    }

    /// Values in the place of names: what is not known is refused by name, and these must not be repeated.
    async fn refused_names(&self) {
        let Canary {
            number,
            code,
            token,
            holder,
            ..
        } = &self.canary;
        let spaced: Vec<String> = code.chars().map(String::from).collect();
        let names = [
            number.clone(),
            code.clone(),
            spaced.join(" "),
            spaced.join("-"),
            format!("cvv {code}"),
            token.clone(),
            holder.clone(),
            holder.replace(' ', "+"),
        ];
        // Where, what holds it, and the pointer by which it is refused.
        let places = [
            ("", json!({}), "/*"),
            ("/amount", json!({}), "/amount/*"),
            ("/card", json!({}), "/card/*"),
            ("/customer/address", json!({}), "/customer/address/*"),
            ("/metadata", json!({"metadata": {}}), "/metadata/*"),
            ("/risk", json!({}), "/risk/*"),
            (
                "/risk/flight_data",
                json!({"risk": {"flight_data": {}}}),
                "/risk/flight_data/*",
            ),
            (
                "/risk/flight_passengers/0",
                json!({"risk": {"flight_passengers": [{}]}}),
                "/risk/flight_passengers/0/*",
            ),
            ("/upstream", json!({}), "/upstream/*"),
            (
                "/upstream/deeper",
                json!({"upstream": {"deeper": {}}}),
                "/upstream/deeper",
            ),
            (
                "/surprise/0/deeper",
                json!({"surprise": [{"deeper": {}}]}),
                "/surprise",
            ),
        ];
        for (number, name) in names.iter().enumerate() {
            for (place, holder, pointer) in &places {
                let mut body = self.sale(10_00);
                for (name, held) in holder.as_object().expect("an object") {
                    match (body[name].as_object_mut(), held) {
                        (Some(object), Value::Object(held)) => object.extend(held.clone()),
                        _ => body[name] = held.clone(),
                    }
                }
                body.pointer_mut(place).expect("a place")[name] = json!(1);
                let key = format!("name-{number}-{}", place.replace('/', "-"));
                let refused = self.pay(&key, &body).await.expect(&[422]);
                let named = &refused.body["errors"][0]["pointer"];
                assert_eq!(named, pointer, "{}", refused.body);
                // Twice is refused as well, at any depth.
                let member = format!("{}:1", json!(name));
                let body = body.to_string();
                let twice = body.replacen(&member, &format!("{member},{member}"), 1);
                let refused = self.post("/v1/payments", &key, twice).await.expect(&[422]);
                let named = &refused.body["errors"][0]["pointer"];
                assert_eq!(named, &format!("{place}/*"), "{}", refused.body);
            }
            for path in ["/v1/payments", "/v1/operations", "/v1/events"] {
                let url = format!("{}{path}", self.url);
                let url = reqwest::Url::parse_with_params(&url, [(name, name)]).expect("a URL");
                let request = self.http.get(url).bearer_auth(&self.token);
                self.send(request).await.expect(&[400]);
            }
            let card = self.sale(0)["card"].take();
            let check = json!({"account": "acme-us", "card": card, "risk": {name: 1}});
            let check = self.post("/v1/verifications", "name", check.to_string());
            check.await.expect(&[422]);
        }
    }

    /// A card number wherever else a request has room for one.
    async fn refused_card_numbers(&self) {
        let number = &self.canary.number;
        let whole = self.sale(10_00).to_string();
        let post = |path: &str| {
            let request = self.request(Method::POST, path).body(whole.clone());
            request.bearer_auth(&self.token)
        };
        let payments = || post("/v1/payments");
        let mut requests = vec![
            payments().header("idempotency-key", number),
            payments().header("idempotency-key", format!("\"{number}")),
            payments()
                .header("idempotency-key", "k")
                .header("request-timeout", number),
            payments()
                .header("idempotency-key", "k")
                .header("content-type", number),
            payments()
                .header("idempotency-key", "k")
                .header("content-encoding", number),
            // A trace that its caller keeps, and what its tracing says besides.
            payments()
                .header("idempotency-key", "traced")
                .header(
                    "traceparent",
                    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                )
                .header("tracestate", format!("shop={number}")),
            post("/nowhere")
                .header(
                    "traceparent",
                    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                )
                .header("tracestate", format!("shop={number}"))
                .header("baggage", format!("card={number}")),
            payments(),
            post(&format!("/v1/payments/{number}/refunds")).header("idempotency-key", "k"),
            post(&format!("/{number}")),
            self.request(Method::POST, "/v1/payments")
                .bearer_auth(number)
                .body(whole.clone()),
            self.request(Method::POST, "/v1/payments")
                .header("authorization", number),
            self.request(Method::DELETE, &format!("/v1/payments/{number}")),
        ];
        for body in [
            json!({"idempotency_key": number}),
            json!({"idempotency_key": "k", number: number}),
            json!({number: number}),
        ] {
            let request = self.request(Method::POST, "/v1/cancellations");
            requests.push(request.bearer_auth(&self.token).body(body.to_string()));
        }
        for path in [
            format!("/v1/payments/{number}"),
            format!("/v1/payments?order_reference={number}"),
            format!("/v1/payments?status={number}&cursor={number}&created_after={number}"),
            format!("/v1/payments?{number}={number}"),
            format!("/v1/operations?idempotency_key={number}"),
            format!("/v1/operations/{number}"),
            format!("/v1/events?after={number}"),
            format!("/{number}"),
        ] {
            requests.push(self.request(Method::GET, &path).bearer_auth(&self.token));
        }
        for request in requests {
            let shown = format!("{request:?}");
            let heard = self.send(request).await;
            assert!(
                (200..500).contains(&heard.status),
                "{shown}: {}",
                heard.body
            );
        }
    }

    /// Every fault of a charge, each at its own amount, all at once.
    async fn faults(&self, with_card_in_panics: bool) {
        let Canary {
            number,
            code,
            holder,
            ..
        } = &self.canary;
        let told = format!("card {number} of {holder} with code {code}");
        let on_sale = |kind| Fault::on(kind, verb::SALE);
        let on_hold = |kind| Fault::on(kind, verb::AUTH_ONLY);
        let kinds = [
            on_sale(Kind::EchoCard),
            on_sale(Kind::EchoCard).status("Something nobody has listed."),
            on_sale(Kind::EchoCard).status("Error code D0777. Declined by the issuer."),
            on_sale(Kind::EchoCard2xx),
            on_sale(Kind::CommitThenEcho),
            on_sale(Kind::CommitThenStatus).status(&format!("Transaction - {told}")),
            on_sale(Kind::CommitThenCode).code(&format!("E0910 {told}")),
            on_sale(Kind::Redirect308).location(&format!("https://elsewhere.invalid/?{number}")),
            on_sale(Kind::Decline422),
            on_sale(Kind::Decline2xx),
            on_sale(Kind::CommitThenGarbage),
            on_sale(Kind::CommitThenHang),
            on_sale(Kind::CommitThenReset),
            on_sale(Kind::CommitThenTruncate),
            on_sale(Kind::CommitThen500),
            on_sale(Kind::CommitLate).delay(Duration::from_secs(2)),
            on_sale(Kind::Http500),
            on_sale(Kind::Http429),
            on_sale(Kind::TokenExpired).first(1),
            on_sale(Kind::SlowDrip).delay(Duration::from_millis(200)),
            on_sale(Kind::Route404),
            on_sale(Kind::PartialApproval),
            on_sale(Kind::ResetBeforeRead),
            on_sale(Kind::HangBeforeCommit),
            on_hold(Kind::EchoCard),
            on_hold(Kind::EchoCard).status("Something nobody has listed."),
            on_hold(Kind::EchoCard2xx),
            on_hold(Kind::CommitThenEcho),
            on_hold(Kind::CommitThenGarbage),
            on_hold(Kind::CommitThenHang),
        ];
        // Each form in a text that is kept at once, in fields that are kept as they come, and in one that is looked into
        // because nobody has listed it.
        let forms = Form::ALL.into_iter().flat_map(|form| {
            let unlisted = on_hold(Kind::EchoCard).status("Unlisted.");
            let kinds = [
                on_sale(Kind::EchoCard2xx),
                on_hold(Kind::CommitThenEcho),
                unlisted,
            ];
            kinds.map(|fault| fault.form(form))
        });
        let kinds = kinds.into_iter().chain(forms);
        let mut faults = Vec::new();
        let mut bodies = Vec::new();
        for (minor, mut fault) in (2_000_00..).step_by(1_00).zip(kinds) {
            let mut body = self.sale(minor);
            if fault.when.verb.as_deref() == Some(verb::AUTH_ONLY) {
                body["capture"] = json!("manual");
            }
            fault.when = Selector {
                amount: Some(minor),
                ..fault.when
            };
            faults.push(fault);
            bodies.push(body);
        }
        // What looks for them and undoes them fails at first, too.
        for verb in [verb::TIMEOUT_REVERSAL, verb::SEARCH, verb::READ, verb::VOID] {
            let unlisted = Fault::on(Kind::EchoCard, verb).status("Something nobody has listed.");
            faults.push(unlisted.first(2));
            faults.push(Fault::on(Kind::EchoCard, verb).first(1));
        }
        bodies.push(self.sale(PANICS));
        if with_card_in_panics {
            bodies.push(self.sale(PANICS_WITH_CARD));
        }
        self.set_faults(faults).await;
        let paying = bodies.iter().map(async |body| {
            let key = format!("fault-{}", body["amount"]["value"]);
            let payment = self.post("/v1/payments", &key, body.to_string());
            payment.await.expect(&[201, 402, 503, 504]);
        });
        join_all(paying).await;
        // A caller that gives up on one of them, and one that cancels.
        let cancel = json!({"idempotency_key": "fault-201100"}).to_string();
        self.post("/v1/cancellations", "unused", cancel)
            .await
            .expect(&[201]);
        // Those that were refused in words nobody knows are looked up and undone while that fails, too.
        for place in [1, 2, 5] {
            let body = &bodies[place];
            let key = format!("fault-{}", body["amount"]["value"]);
            let ended = eventually(PATIENCE, "its end", async || {
                let heard = self.pay(&key, body).await;
                (heard.status == 402).then_some(())
            });
            ended.await.expect("every charge ends");
        }
        self.world
            .simulators
            .connexpay()
            .lift_faults()
            .await
            .expect("lifted");
    }

    /// Follow-ups carry no card, and what answers them repeats the token.
    async fn follow_ups(&self) {
        let connexpay = self.world.simulators.connexpay();
        let amount = json!({"amount": {"value": 10_00, "currency": "USD"}});
        let mut hold = self.sale(10_00);
        hold["capture"] = json!("manual");
        let held = self.pay("hold", &hold).await.expect(&[201]).payment();
        let sold = self
            .pay("sold", &self.sale(10_00))
            .await
            .expect(&[201])
            .payment();
        let settled = self
            .pay("settled", &self.sale(10_00))
            .await
            .expect(&[201])
            .payment();
        let echoes = [verb::CAPTURE, verb::VOID, verb::RETURN]
            .map(|verb| Fault::on(Kind::EchoCard, verb).first(1));
        self.set_faults(echoes.to_vec()).await;
        let number = &self.canary.number;
        for (verb, key, payment) in [("captures", "c", &held), ("voids", "v", &sold)] {
            let body = if verb == "voids" {
                json!({})
            } else {
                amount.clone()
            };
            let mut unknown = body.clone();
            unknown[number.as_str()] = json!(number);
            self.follow(verb, &format!("{key}-0"), payment, &unknown)
                .await
                .expect(&[422]);
            self.follow(verb, &format!("{key}-1"), payment, &body)
                .await
                .expect(&[402]);
            self.follow(verb, &format!("{key}-2"), payment, &body)
                .await
                .expect(&[201]);
        }
        connexpay.settle().expect("books");
        self.follow("refunds", "r-1", &settled, &amount)
            .await
            .expect(&[402]);
        let half = json!({"amount": {"value": 5_00, "currency": "USD"}});
        self.follow("refunds", "r-2", &settled, &half)
            .await
            .expect(&[201]);
        connexpay.lift_faults().await.expect("lifted");
    }

    async fn verifications(&self) {
        let kinds = [
            Kind::EchoCard,
            Kind::EchoCard2xx,
            Kind::CommitThenEcho,
            Kind::CommitThenGarbage,
        ];
        self.set_faults(
            kinds
                .map(|kind| Fault::on(kind, verb::VERIFY).first(1))
                .to_vec(),
        )
        .await;
        let card = self.sale(0)["card"].clone();
        let body = json!({"account": "acme-us", "card": card}).to_string();
        for number in 0..=kinds.len() {
            let key = format!("verify-{number}");
            self.post("/v1/verifications", &key, body.clone())
                .await
                .expect(&[201, 402]);
        }
    }

    /// Nothing answers at all.
    async fn outage(&self) {
        let body = self.sale(10_00);
        self.set_faults(vec![Fault::new(Kind::Outage)]).await;
        self.pay("outage", &body).await.expect(&[503]);
        self.world
            .simulators
            .connexpay()
            .lift_faults()
            .await
            .expect("lifted");
        let paid = eventually(PATIENCE, "the processor to be back", async || {
            let heard = self.pay("outage", &body).await;
            (heard.status == 201).then_some(())
        });
        paid.await.expect("charged");
    }

    /// Whatever the gateway tells about what happened.
    async fn read_everything(&self) {
        let payments = self.get("/v1/payments?limit=500").await.expect(&[200]).body;
        let list = payments
            .as_object()
            .and_then(|list| list.values().find_map(Value::as_array));
        for payment in list.expect("a list") {
            let id = payment["id"].as_str().expect("an id");
            let payment = self
                .get(&format!("/v1/payments/{id}"))
                .await
                .expect(&[200])
                .body;
            for operation in payment["operations"].as_array().expect("a list") {
                let id = operation["id"].as_str().expect("an id");
                self.get(&format!("/v1/operations/{id}"))
                    .await
                    .expect(&[200]);
            }
        }
        self.get("/v1/events").await.expect(&[200]);
        self.get("/readyz").await.expect(&[200]);
    }
}
