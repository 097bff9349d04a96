//! Any history: whatever happens in whatever order, totals are what the operations add up to.

use std::sync::{Arc, Mutex};

use super::fixture::{
    Ledger, approved, declined, follow_up, guarded_sale, never_beat, not_sent, replica, reversal,
    sale, settlement, unknown, usd, wish,
};
use crate::connector::ReversalForm;
use crate::key::{OperationId, PaymentId, ReplicaId};
use crate::operation::{Reserved, State, StateName, Verb};
use crate::payment::Payment;
use crate::store::contract::create;
use crate::store::{Intent, Operation, Recorded, ReversalBegun, Settlement, StoreError};

const TASKS: u64 = 6;
const STEPS: u64 = 120;

/// Numbers that look random and are the same in every run (xorshift64, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).expect("below a usize")
    }

    fn one_of<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())].clone())
    }
}

/// What all tasks have made so far.
#[derive(Default)]
struct Made {
    payments: Vec<PaymentId>,
    operations: Vec<OperationId>,
    keys: Vec<String>,
}

struct Task {
    store: Ledger,
    me: ReplicaId,
    number: u64,
    dice: Dice,
    made: Arc<Mutex<Made>>,
}

pub async fn any_history_leaves_totals_that_operations_add_up_to(store: Ledger) {
    let made = Arc::new(Mutex::new(Made::default()));
    let tasks: Vec<_> = (1..=TASKS)
        .map(|number| {
            let dice = Dice(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let (store, made) = (Arc::clone(&store), Arc::clone(&made));
            let mut task = Task {
                store,
                me: replica(),
                number,
                dice,
                made,
            };
            tokio::spawn(async move {
                for step in 0..STEPS {
                    task.step(step).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no step is refused by the ledger");
    }
    let payments = made.lock().expect("no panic").payments.clone();
    assert!(payments.len() > 30, "a history worth looking at");
    let mut ends = std::collections::HashSet::new();
    for id in payments {
        let operations = store.operations_of(id).await.expect("readable");
        let payment = store
            .payment(id)
            .await
            .expect("readable")
            .expect("it was made");
        adds_up(&payment, &operations);
        ends.extend(operations.iter().map(|o| (o.verb, o.state.name())));
    }
    // Not a history in which nothing happens. Which ends there are depends on who came first.
    assert!(ends.len() >= 12, "{ends:?}");
}

fn adds_up(payment: &Payment, operations: &[Operation]) {
    let approved = |verbs: &[Verb]| -> i64 {
        let of = |o: &&Operation| verbs.contains(&o.verb) && o.state.name() == StateName::Approved;
        operations.iter().filter(of).map(|o| o.amount.minor()).sum()
    };
    let shown = format!("{payment:?}\n{operations:#?}");
    assert_eq!(
        payment.authorized,
        approved(&[Verb::Sale, Verb::Authorize]),
        "{shown}"
    );
    assert_eq!(
        payment.captured,
        approved(&[Verb::Sale, Verb::Capture]),
        "{shown}"
    );
    assert_eq!(payment.refunded, approved(&[Verb::Refund]), "{shown}");
    let reserved = |of: fn(&Reserved) -> i64| -> i64 {
        operations
            .iter()
            .map(|operation| of(&operation.reserved))
            .sum()
    };
    assert_eq!(payment.capture_reserved, reserved(|r| r.capture), "{shown}");
    assert_eq!(payment.refund_reserved, reserved(|r| r.refund), "{shown}");
    for operation in operations {
        let over = operation.state.is_final() || operation.state.name() == StateName::NotSent;
        assert!(
            !over || operation.reserved == Reserved::default(),
            "{shown}"
        );
        assert!(!over || payment.busy_with != Some(operation.id), "{shown}");
        assert_eq!(
            operation.settled_at.is_some(),
            operation.state.is_final(),
            "{shown}"
        );
        assert_eq!(
            operation.snapshot.is_some(),
            operation.state.is_final(),
            "{shown}"
        );
    }
    let holder = payment
        .busy_with
        .map(|with| operations.iter().any(|o| o.id == with));
    assert_ne!(holder, Some(false), "{shown}");
}

impl Task {
    async fn step(&mut self, step: u64) {
        match self.dice.below(8) {
            0 | 1 => self.charge(step).await,
            2 | 3 => self.follow_up(step).await,
            4 | 5 => self.resolve().await,
            6 => self.cancel().await,
            _ => self.adopt().await,
        }
    }

    fn made<T>(&self, with: impl FnOnce(&mut Made) -> T) -> T {
        with(&mut self.made.lock().expect("no panic"))
    }

    async fn record(&self, intent: Intent) -> Recorded {
        let intent = Arc::new(Intent {
            owner: self.me,
            ..intent
        });
        loop {
            match self.store.record(&[Arc::clone(&intent)]).await {
                Err(StoreError::Contended(_)) => {}
                answers => return answers.expect("recorded").pop().expect("one answer"),
            }
        }
    }

    async fn settle(&self, settlement: Settlement) {
        let settlement = Arc::new(settlement);
        while let Err(error) = self.store.settle(&[Arc::clone(&settlement)]).await {
            assert!(
                matches!(error, StoreError::Contended(_)),
                "{error:?} of {settlement:?}"
            );
        }
    }

    /// Somebody's key, perhaps an old one: then perhaps its second attempt.
    async fn charge(&mut self, step: u64) {
        let known = self.made(|made| made.keys.clone());
        let name = match self.dice.below(4) {
            0 => self.dice.one_of(&known),
            _ => None,
        };
        let name = name.unwrap_or_else(|| format!("{}-{step}", self.number));
        let intent = match self.dice.below(3) {
            0 => guarded_sale(&name, &format!("o{}", self.dice.below(30))),
            1 => create(&name, Verb::Authorize, 1_000),
            _ => sale(&name, 1_000),
        };
        let answer = self.record(intent).await;
        if let Recorded::New(operation) = answer {
            self.made(|made| {
                made.payments.extend(operation.payment);
                made.payments.sort_unstable();
                made.payments.dedup();
                made.operations.push(operation.id);
                made.keys.push(name);
            });
            self.answer(&operation).await;
        }
    }

    async fn follow_up(&mut self, step: u64) {
        let payments = self.made(|made| made.payments.clone());
        let Some(id) = self.dice.one_of(&payments) else {
            return;
        };
        let payment = self
            .store
            .payment(id)
            .await
            .expect("readable")
            .expect("made");
        let uncaptured = payment.authorized - payment.captured;
        let (verb, minor) = match self.dice.below(5) {
            0 => (Verb::Void, uncaptured),
            1 | 2 if uncaptured > 0 => (Verb::Capture, 400),
            _ => (Verb::Refund, 300),
        };
        if minor == 0 {
            return;
        }
        let mut intent = follow_up(&format!("f{}-{step}", self.number), verb, minor, &payment);
        intent.holds_while_unknown = self.dice.below(2) == 0;
        if let Recorded::New(operation) = self.record(intent).await {
            self.made(|made| made.operations.push(operation.id));
            self.answer(&operation).await;
        }
    }

    /// The upstream says something, or nothing in time.
    async fn answer(&mut self, operation: &Operation) {
        let to = match self.dice.below(8) {
            0 | 1 => declined(),
            2 => not_sent(),
            3 => unknown(),
            4 => return,
            _ => approved(operation.amount.minor()),
        };
        self.settle(settlement(operation, to)).await;
    }

    /// The resolver meets an operation, as it stands now or stood a moment ago.
    async fn resolve(&mut self) {
        let operations = self.made(|made| made.operations.clone());
        let Some(id) = self.dice.one_of(&operations) else {
            return;
        };
        let operation = self
            .store
            .operation(id)
            .await
            .expect("readable")
            .expect("made");
        let approved_and_unwanted = operation.state.name() == StateName::Approved
            && operation.cancel_requested_at.is_some();
        if operation.state.name() == StateName::Unknown || approved_and_unwanted {
            match self.dice.below(3) {
                0 if !approved_and_unwanted => {
                    let to = approved(operation.amount.minor());
                    self.settle(settlement(&operation, to)).await;
                }
                1 if !approved_and_unwanted => {
                    self.settle(settlement(&operation, declined())).await;
                }
                _ if operation.verb.is_create() => self.reverse(&operation).await,
                _ => {}
            }
        }
    }

    async fn reverse(&mut self, operation: &Operation) {
        let reserve = if operation.state.name() == StateName::Approved {
            let id = operation.payment.expect("a create has one");
            let payment = self
                .store
                .payment(id)
                .await
                .expect("readable")
                .expect("made");
            Some(Reserved {
                capture: payment.authorized - payment.captured,
                refund: payment.captured - payment.refunded,
            })
        } else {
            None
        };
        let wanted = reversal(operation, ReversalForm::ByReference, reserve);
        let begun = loop {
            match self.store.begin_reversal(&wanted).await {
                Err(StoreError::Contended(_)) => {}
                begun => break begun.expect("recorded"),
            }
        };
        let ReversalBegun::Send { reversal, of } = begun else {
            return;
        };
        let undone = self.dice.below(3) > 0;
        let to = if undone {
            approved(usd(0).minor())
        } else {
            unknown()
        };
        self.settle(settlement(&reversal, to)).await;
        if undone && !of.state.is_final() {
            let to = State::Reversed {
                reversal: Some(reversal.id),
            };
            self.settle(settlement(&of, to)).await;
        }
    }

    async fn cancel(&mut self) {
        let keys = self.made(|made| made.keys.clone());
        let Some(name) = self.dice.one_of(&keys) else {
            return;
        };
        while let Err(error) = self.store.cancel(&wish(&name)).await {
            assert!(matches!(error, StoreError::Contended(_)), "{error:?}");
        }
    }

    async fn adopt(&mut self) {
        let operations = self.made(|made| made.operations.clone());
        let Some(id) = self.dice.one_of(&operations) else {
            return;
        };
        let owner = self
            .store
            .operation(id)
            .await
            .expect("readable")
            .expect("made")
            .owner;
        while let Err(error) = self
            .store
            .adopt_silent(self.me, &[never_beat(owner)], 3)
            .await
        {
            assert!(matches!(error, StoreError::Contended(_)), "{error:?}");
        }
    }
}
