//! Callers: they ask, retry with the same key, hang up, race each other, cancel, follow up and read back, and note what they
//! were told.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::card::{CardSource, Cvv, Expiry, Pan};
use gateway_core::connector::Payer;
use gateway_core::engine::{CreateRequest, Engine, FollowUpRequest};
use gateway_core::idempotency::CanonicalForm;
use gateway_core::key::{Client, IdempotencyKey, OrderReference, PaymentId};
use gateway_core::money::Money;
use gateway_core::operation::Verb;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::dice::Dice;
use super::faults::FaultKind;
use super::log::{Act, Key, Told, What};
use super::plan::{FollowUpWish, Wish, millis};
use super::replica::{WAIT_MAX, account_name, usd};
use super::told;
use super::world::World;
use crate::simulators::connexpay::SANDBOX_CARDS;

/// The replicas' first heartbeats are confirmed by then: a balancer sends nobody to them earlier.
pub(super) const READY: Duration = Duration::from_millis(1_500);

/// Whose keys all callers use.
pub(super) fn client() -> Client {
    Client::parse("shop").expect("a name")
}

/// What a caller asks, as often as it likes.
#[derive(Clone, Debug)]
enum Ask {
    Create(Wish),
    /// The key of a create with another request.
    Reuse(Wish),
    FollowUp {
        verb: Verb,
        payment: PaymentId,
        minor: Option<i64>,
    },
    Cancel,
    Read,
}

impl Ask {
    fn act(&self) -> Act {
        match self {
            Self::Create(wish) => Act::Create {
                verb: wish.verb,
                minor: wish.minor,
            },
            Self::Reuse(_) => Act::Reuse,
            Self::FollowUp { verb, minor, .. } => Act::FollowUp {
                verb: *verb,
                minor: minor.unwrap_or(0),
            },
            Self::Cancel => Act::Cancel,
            Self::Read => Act::Read,
        }
    }
}

/// How one question is asked.
#[derive(Clone, Copy, Debug)]
struct Manner {
    replica: usize,
    /// What the caller says that it waits.
    wait: Option<Duration>,
    /// When it leaves without an answer.
    hangs_up: Option<Duration>,
}

impl World {
    /// Asks one replica. `None`: the caller left, or nobody answered.
    async fn ask(self: &Arc<Self>, key: &Key, ask: Ask, manner: Manner) -> Option<Told> {
        let life = self.life(manner.replica);
        let call = self.next_call();
        let usual = self.plan.figures.upstream_timeout + gateway_core::engine::DEADLINE_SLACK;
        let waits = manner.wait.unwrap_or(usual).min(WAIT_MAX);
        self.log.note(What::Asked {
            call,
            key: Arc::clone(key),
            act: ask.act(),
            place: life.place,
            wait: waits,
        });
        if life.machine.is_dead() {
            self.log.note(What::Lost { call });
            return None;
        }
        let (engine, world) = (Arc::clone(&life.engine), Arc::clone(self));
        let named = Arc::clone(key);
        let answering = life.machine.spawn(async move {
            let told = serve(&engine, &named, ask, manner.wait, waits).await;
            // Noted where it is told, at the same instant: between the two nobody else may tell anything.
            if let Some(told) = &told {
                world.log.note(What::Told {
                    call,
                    told: told.clone(),
                });
            }
            told
        });
        let leave = answering.abort_handle();
        // Longer than any answer may take: what a stopped machine holds, nobody waits for.
        let patience = manner.hangs_up.unwrap_or(2 * WAIT_MAX);
        match timeout(patience, answering).await {
            Ok(Ok(told)) => told,
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Ok(Err(_)) => {
                self.log.note(What::Lost { call });
                None
            }
            Err(_) => {
                leave.abort();
                if manner.hangs_up.is_some() {
                    self.tally.count(FaultKind::HangUp);
                }
                self.log.note(What::HungUp { call });
                None
            }
        }
    }

    /// Repeats with the same key, as the contract asks, until there is a final answer or no use in asking.
    async fn pursue(
        self: &Arc<Self>,
        key: &Key,
        ask: Ask,
        mut replica: usize,
        dice: &mut Dice,
    ) -> Option<Told> {
        let mut refusals = 0;
        while !self.is_over() {
            let wait = dice.chance(500).then(|| dice.millis(500, 10_000));
            let hangs_up = (!self.is_calm() && !self.plan.is_fair() && dice.chance(150))
                .then(|| dice.millis(0, millis(wait.unwrap_or(WAIT_MAX))));
            let manner = Manner {
                replica,
                wait,
                hangs_up,
            };
            let told = self.ask(key, ask.clone(), manner).await;
            replica = dice.index(self.plan.replicas);
            if let Some(told) = told {
                // What waits for a person once nothing goes wrong any more is asked for again at the very end.
                if told.is_final() || told.kind == "needs-review" && self.is_calm() {
                    return Some(told);
                }
                // What stands in the way may be gone later: a batch closes, a payment is undone.
                refusals += u32::from(told.is_refusal());
                if refusals > 2 {
                    return Some(told);
                }
            }
            let most = if self.is_calm() { 4_000 } else { 1_500 };
            sleep(dice.millis(100, most)).await;
        }
        None
    }
}

/// One create with all that is done about it.
pub(super) async fn live(world: Arc<World>, wish: Wish) {
    let mut dice = wish.dice.clone();
    let key: Key = wish.key.as_str().into();
    sleep(READY + wish.begins).await;
    let mut others = Vec::new();
    if let Some(after) = wish.cancelled_after {
        let (world, key, dice) = (Arc::clone(&world), Arc::clone(&key), dice.fork());
        others.push(tokio::spawn(cancel(world, key, after, dice)));
    }
    for _ in 1..wish.copies {
        world.tally.count(FaultKind::Race);
        let (world, key, ask) = (
            Arc::clone(&world),
            Arc::clone(&key),
            Ask::Create(wish.clone()),
        );
        let mut dice = dice.fork();
        others.push(tokio::spawn(async move {
            let replica = dice.index(world.plan.replicas);
            world.pursue(&key, ask, replica, &mut dice).await;
        }));
    }
    let ask = Ask::Create(wish.clone());
    let told = world.pursue(&key, ask, wish.replica, &mut dice).await;
    let approved = told.filter(|told| told.status == 201);
    if let Some(payment) = approved.as_ref().and_then(|told| told.payment) {
        for follow_up in &wish.follow_ups {
            for copy in 0..follow_up.copies {
                let mut follow_up = follow_up.clone();
                for _ in 0..copy {
                    follow_up.dice = follow_up.dice.fork();
                }
                let world = Arc::clone(&world);
                let minor = wish.minor;
                others.push(tokio::spawn(follow(world, follow_up, payment, minor)));
            }
        }
    }
    if approved.is_some() && wish.reused {
        let manner = Manner {
            replica: dice.index(world.plan.replicas),
            wait: None,
            hangs_up: None,
        };
        world.ask(&key, Ask::Reuse(wish.clone()), manner).await;
    }
    for other in others {
        if let Err(error) = other.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

async fn follow(world: Arc<World>, wish: FollowUpWish, payment: PaymentId, whole: i64) {
    let mut dice = wish.dice.clone();
    sleep(wish.after).await;
    let key: Key = wish.key.as_str().into();
    let ask = Ask::FollowUp {
        verb: wish.verb,
        payment,
        minor: (wish.verb != Verb::Void).then_some((whole * wish.share / 100).max(50)),
    };
    let replica = dice.index(world.plan.replicas);
    world.pursue(&key, ask, replica, &mut dice).await;
}

async fn cancel(world: Arc<World>, key: Key, after: Duration, mut dice: Dice) {
    sleep(after).await;
    while !world.is_over() {
        let manner = Manner {
            replica: dice.index(world.plan.replicas),
            wait: None,
            hangs_up: None,
        };
        let told = world.ask(&key, Ask::Cancel, manner).await;
        if told.is_some_and(|told| told.status == 201) {
            return;
        }
        sleep(dice.millis(100, 2_000)).await;
    }
}

/// When all is over, every key is asked for once more, and read once more.
pub(super) async fn ask_once_more(world: &Arc<World>) {
    for (number, wish) in world.plan.wishes.iter().enumerate() {
        let key: Key = wish.key.as_str().into();
        let manner = |replica: usize| Manner {
            replica: replica % world.plan.replicas,
            wait: None,
            hangs_up: None,
        };
        let told = world
            .ask(&key, Ask::Create(wish.clone()), manner(number))
            .await;
        world.ask(&key, Ask::Read, manner(number + 1)).await;
        if wish.cancelled_after.is_some() {
            world.ask(&key, Ask::Cancel, manner(number + 1)).await;
        }
        let payment = told.and_then(|told| told.payment);
        for follow_up in wish.follow_ups.iter().filter(|_| payment.is_some()) {
            let key: Key = follow_up.key.as_str().into();
            world.ask(&key, Ask::Read, manner(number)).await;
        }
    }
}

/// What the edge would do with the request, inside the replica. `None`: the key was never seen.
async fn serve(
    engine: &Engine,
    key: &Key,
    ask: Ask,
    wait: Option<Duration>,
    waits: Duration,
) -> Option<Told> {
    let client = client();
    let key = IdempotencyKey::from_stored(key);
    Some(match ask {
        Ask::Create(wish) => {
            let outcome = engine.create(create(key, &wish, wait)).await;
            told::of_outcome(engine, outcome).await
        }
        Ask::Reuse(wish) => {
            let other = Wish {
                minor: wish.minor + 100,
                ..wish
            };
            let outcome = engine.create(create(key, &other, wait)).await;
            told::of_outcome(engine, outcome).await
        }
        Ask::FollowUp {
            verb,
            payment,
            minor,
        } => {
            let amount = minor.map(money);
            let mut form = CanonicalForm::new(verb.as_str());
            form.text("/payment", &payment.to_string());
            if let Some(amount) = amount {
                form.amount(amount);
            }
            let request = FollowUpRequest {
                client,
                key,
                verb,
                payment,
                amount,
                permission: Arc::new(|_, _| Ok(())),
                form,
                wait,
            };
            let outcome = engine.follow_up(request).await;
            told::of_outcome(engine, outcome).await
        }
        Ask::Cancel => told::of_cancel(engine.cancel(client, key, Instant::now() + waits).await),
        Ask::Read => match engine.store().operation_by_key(&client, &key).await {
            Ok(operation) => told::of_look_up(engine, operation?).await,
            Err(_) => return None,
        },
    })
}

fn money(minor: i64) -> Money {
    Money::new(minor, usd()).expect("not negative")
}

fn create(key: IdempotencyKey, wish: &Wish, wait: Option<Duration>) -> CreateRequest {
    let (number, cvv) = SANDBOX_CARDS[wish.card];
    let number = Pan::parse(number).expect("a card of the sandbox");
    let mut form = CanonicalForm::new(wish.verb.as_str());
    form.text("/account", account_name().as_str());
    form.amount(money(wish.minor));
    form.optional_text("/order_reference", wish.order.as_deref());
    form.boolean_unless("/once_per_order", wish.once_per_order, false);
    form.pan("/card/number", &number);
    let risk = if wish.verb == Verb::Verify {
        json!({})
    } else {
        json!({"gender": "F", "product_type": "Flight", "product_item": "784GTWJFK856"})
    };
    let object = |json: serde_json::Value| match json {
        serde_json::Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    };
    CreateRequest {
        client: client(),
        key,
        verb: wish.verb,
        account: account_name(),
        amount: money(wish.minor),
        order_reference: wish
            .order
            .as_deref()
            .map(|order| OrderReference::parse(order).expect("a reference")),
        statement_descriptor: None,
        once_per_order: wish.once_per_order,
        metadata: None,
        payer: Payer {
            card: CardSource::Pan {
                number,
                cvv: Some(Cvv::parse(cvv).expect("of the sandbox")),
                expiry: Expiry::new(2030, 12).expect("a month"),
                holder: None,
            },
            customer: None,
            risk: object(risk),
            upstream: serde_json::Map::new(),
        },
        form,
        faults: Vec::new(),
        wait,
    }
}
