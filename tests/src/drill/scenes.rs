//! What callers come for: sales, holds, captures, voids, refunds, card checks, and what they do beside the recipe.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gateway_core::operation::Verb;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::caller::Callers;
use super::notes::{GONE, Intent, Notes, Told};
use crate::stack::StackError;
use crate::world::{amount, sale};

/// Minor units, below those that play a part at the simulated processor.
const AMOUNTS: std::ops::Range<i64> = 100..500_000;
/// The processor takes no less: 0.50.
const PART_MIN: i64 = 50;
/// How many answers are asked for again in the end.
const ASKED_AGAIN: usize = 2_000;
const CREATED: u16 = 201;

/// Scenes for callers to play.
#[derive(Debug)]
pub(super) struct Scenes {
    callers: Callers,
    notes: Arc<Notes>,
    count: AtomicU64,
    /// Nobody begins anything more.
    over: AtomicBool,
    /// Of some intents, what the final answer was.
    kept: Mutex<Vec<(Intent, Told)>>,
}

impl Scenes {
    pub(super) fn new(callers: Callers, notes: &Arc<Notes>) -> Self {
        Self {
            callers,
            notes: Arc::clone(notes),
            count: AtomicU64::new(0),
            over: AtomicBool::new(false),
            kept: Mutex::default(),
        }
    }

    /// From now on callers only wait for what they began: how long that may take is promised of each operation, not of all
    /// that one may want of a payment.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A sale and an authorization that stand: look-ups must show that they would have found something.
    pub(super) async fn controls(&self, mut dice: StdRng) -> Result<(), StackError> {
        for verb in [Verb::Sale, Verb::Authorize] {
            let create = self.create(verb, &mut dice);
            let told = self.ask(&create, None).await;
            if told.status != CREATED {
                let text = String::from_utf8_lossy(&told.bytes).into_owned();
                return Err(StackError::new(format!("a control: {text}")));
            }
        }
        Ok(())
    }

    /// One caller's scene, whichever it is.
    pub(super) async fn play(&self, mut dice: StdRng) {
        let scene = dice.random_range(0..100);
        let verb = match scene {
            0..74 => Verb::Sale,
            74..96 => Verb::Authorize,
            _ => Verb::Verify,
        };
        let create = self.create(verb, &mut dice);
        let told = match scene {
            0..2 => return self.cancel_first(&create).await,
            2..5 => return self.cancel_meanwhile(&create, &mut dice).await,
            5..9 => self.race(&create).await,
            9..13 => self.ask(&create, Some("1")).await,
            _ => self.ask(&create, None).await,
        };
        if dice.random_ratio(1, 20) {
            self.again(&create, &told).await;
        }
        if told.status != CREATED || self.is_over() {
            return;
        }
        let Some(payment) = payment(&told) else {
            return;
        };
        match scene {
            13..21 => {
                sleep(dice.random_range(0..5_000).millis()).await;
                self.follow(&payment, Verb::Void, 0).await;
            }
            // Refused as `not-settled` until the batch closes.
            21..26 => self.refund(&payment, create.minor, &mut dice).await,
            74..82 => {
                self.follow(&payment, Verb::Capture, create.minor).await;
            }
            82..88 => {
                let part = dice.random_range(PART_MIN..=create.minor);
                let captured = self.follow(&payment, Verb::Capture, part).await;
                if captured.status == CREATED && !self.is_over() && dice.random_bool(0.5) {
                    self.refund(&payment, part, &mut dice).await;
                }
            }
            88..94 => {
                self.follow(&payment, Verb::Void, 0).await;
            }
            _ => {}
        }
    }

    /// The same key twice at once, at two gateways: one answer.
    async fn race(&self, create: &Intent) -> Told {
        let (told, other) = tokio::join!(self.ask(create, None), self.ask(create, None));
        self.same(create, &told, &other);
        told
    }

    async fn again(&self, intent: &Intent, told: &Told) {
        let other = self.ask(intent, None).await;
        self.same(intent, told, &other);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < ASKED_AGAIN {
            kept.push((intent.clone(), told.clone()));
        }
    }

    fn same(&self, intent: &Intent, told: &Told, other: &Told) {
        if told != other {
            let text = |told: &Told| String::from_utf8_lossy(&told.bytes).into_owned();
            let (first, second) = (text(told), text(other));
            let what = format!("{} was told {first}, and {second}", intent.key);
            self.notes.contradiction(what);
        }
    }

    /// A key that is cancelled before it was ever seen is never executed.
    async fn cancel_first(&self, create: &Intent) {
        self.notes.wished(create);
        self.cancel(create).await;
        self.gone(create).await;
    }

    async fn cancel_meanwhile(&self, create: &Intent, dice: &mut StdRng) {
        let pause = dice.random_range(0..1_500).millis();
        self.notes.wished(create);
        tokio::join!(self.ask(create, None), async {
            sleep(pause).await;
            self.cancel(create).await;
        });
        self.gone(create).await;
    }

    async fn cancel(&self, create: &Intent) {
        let told = self.callers.cancel(&create.key).await;
        if told.status == CREATED {
            self.notes.cancelled(&create.key);
        } else {
            let text = String::from_utf8_lossy(&told.bytes).into_owned();
            let what = format!("a cancellation of {} was refused: {text}", create.key);
            self.notes.contradiction(what);
        }
    }

    async fn gone(&self, create: &Intent) {
        let told = self.ask(create, None).await;
        if told.status != GONE {
            let what = format!("{} was cancelled, then told {}", create.key, told.status);
            self.notes.contradiction(what);
        }
    }

    async fn refund(&self, payment: &str, most: i64, dice: &mut StdRng) {
        let part = dice.random_range(PART_MIN..=most);
        self.follow(payment, Verb::Refund, part).await;
        if most - part >= PART_MIN && !self.is_over() && dice.random_bool(0.3) {
            self.follow(payment, Verb::Refund, most - part).await;
        }
    }

    async fn follow(&self, payment: &str, verb: Verb, minor: i64) -> Told {
        let (route, body) = match verb {
            Verb::Capture => ("captures", amount(minor)),
            Verb::Refund => ("refunds", amount(minor)),
            _ => ("voids", json!({})),
        };
        let intent = Intent {
            key: format!("drill-{}", self.name()),
            verb,
            minor,
            path: format!("/v1/payments/{payment}/{route}"),
            body,
        };
        self.ask(&intent, None).await
    }

    async fn ask(&self, intent: &Intent, wait: Option<&str>) -> Told {
        self.notes.wished(intent);
        let (told, in_doubt) = self.callers.until_final(intent, wait).await;
        self.notes.told(&intent.key, &told, in_doubt);
        told
    }

    fn create(&self, verb: Verb, dice: &mut StdRng) -> Intent {
        let minor = dice.random_range(AMOUNTS);
        let name = self.name();
        let mut body = sale(minor);
        body["order_reference"] = json!(name);
        body["card"]["number"] = json!(card_number(dice));
        let path = match verb {
            Verb::Authorize => {
                body["capture"] = json!("manual");
                "/v1/payments"
            }
            Verb::Verify => {
                body = json!({"account": body["account"], "card": body["card"], "customer": body["customer"]});
                "/v1/verifications"
            }
            _ => "/v1/payments",
        };
        Intent {
            key: format!("drill-{name}"),
            verb,
            minor: if verb == Verb::Verify { 0 } else { minor },
            path: path.to_owned(),
            body,
        }
    }

    /// Letters only: digits might make a valid card number, which the gateway refuses in keys.
    fn name(&self) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let digits = format!("{count:06x}").into_bytes();
        let letter = |digit: u8| {
            char::from(if digit <= b'9' {
                digit + 49
            } else {
                digit + 10
            })
        };
        digits.into_iter().map(letter).collect()
    }

    /// Whoever asks again in the end is told the same; what is wrong with that.
    pub(super) async fn ask_again(&self) {
        let kept = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *kept)
        };
        for (intent, told) in kept {
            let (other, _) = self.callers.until_final(&intent, None).await;
            self.same(&intent, &told, &other);
        }
    }
}

/// The payment that an approval names.
fn payment(told: &Told) -> Option<String> {
    let body: Value = serde_json::from_slice(&told.bytes).ok()?;
    body["id"].as_str().map(str::to_owned)
}

/// Any card will do that has a valid check digit: look-ups narrow by its last four digits.
fn card_number(dice: &mut StdRng) -> String {
    let mut digits = vec![4];
    digits.extend((0..14).map(|_| dice.random_range(0..10_u32)));
    let sum: u32 = digits
        .iter()
        .enumerate()
        .map(|(place, digit)| match place % 2 {
            0 => [0, 2, 4, 6, 8, 1, 3, 5, 7, 9][*digit as usize],
            _ => *digit,
        })
        .sum();
    digits.push((10 - sum % 10) % 10);
    digits
        .into_iter()
        .filter_map(|digit| char::from_digit(digit, 10))
        .collect()
}

trait Millis {
    fn millis(self) -> Duration;
}

impl Millis for u64 {
    fn millis(self) -> Duration {
        Duration::from_millis(self)
    }
}
