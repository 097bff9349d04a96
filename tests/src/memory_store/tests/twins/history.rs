//! What is asked of both: every call, in any order, rightly and wrongly.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::clock::Timestamp;
use gateway_core::connector::{ReversalForm, UpstreamIds};
use gateway_core::key::{OperationId, PaymentId, ReplicaId};
use gateway_core::operation::{Failure, ParkedReason, Reserved, State, StateName, Verb};
use gateway_core::store::contract::{
    self, Ledger, account, approved, client, create, declined, guarded_sale, intent, key, not_sent,
    reference, reversal, sale, settlement, unknown, wish,
};
use gateway_core::store::{
    CancelWish, Check, Heartbeat, Intent, IntentKind, Recorded, ReversalBegun, ReversalIntent,
    Settlement, TokenRow,
};
use rand::RngExt;
use serde_json::json;

use super::{ALL, GRAIN, Twins, drawn, sorted};

/// Spans within one world are none or long: the two ledgers are not asked at the same instant.
const LATER: Duration = Duration::from_hours(10);

impl Twins {
    pub(super) async fn step(&mut self, step: u32) {
        match self.dice.random_range(0..20) {
            0..4 => self.charge(step).await,
            4..7 => self.follow_up(step).await,
            7..11 => self.settle().await,
            11 => self.cancel(step).await,
            12 | 13 => self.reverse().await,
            14 => self.resolve().await,
            15 => self.adopt().await,
            16 => self.leave().await,
            17 => self.ask_again().await,
            18 => self.token().await,
            _ => self.look().await,
        }
    }

    fn one_of<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.dice.random_range(0..from.len())].clone())
    }

    fn chance(&mut self, of: u32) -> bool {
        self.dice.random_range(0..of) == 0
    }

    fn me(&mut self) -> ReplicaId {
        self.replicas[self.dice.random_range(0..3)]
    }

    fn id(&mut self) -> OperationId {
        OperationId::from_uuid(drawn(&mut self.dice))
    }

    fn span(&mut self) -> Duration {
        if self.chance(3) {
            Duration::ZERO
        } else {
            LATER
        }
    }

    /// The fixture's intent with ids under the seed, and spans that two clocks agree on.
    fn drawn(&mut self, intent: Intent) -> Intent {
        let mut kind = intent.kind.clone();
        if let IntentKind::Create { payment, .. } = &mut kind {
            *payment = PaymentId::from_uuid(drawn(&mut self.dice));
        }
        Intent {
            operation: self.id(),
            claim: drawn(&mut self.dice),
            owner: self.me(),
            send_within: self.span(),
            deadline_after: self.span(),
            late_arrival_horizon: self.span(),
            holds_while_unknown: self.chance(3),
            kind,
            ..intent
        }
    }

    async fn record(&mut self, batch: Vec<Intent>) {
        let batch: Vec<_> = batch.into_iter().map(Arc::new).collect();
        let answers = self
            .both("record", async |store| store.record(&batch).await)
            .await;
        for answer in answers.into_iter().flatten() {
            if let Recorded::New(operation) = answer {
                self.names.push(operation.key.to_string());
                self.operations.push(operation.id);
                self.payments.extend(operation.payment);
            }
        }
        self.records.push(batch);
    }

    /// New keys and old ones: then perhaps their second attempt, or another request.
    async fn charge(&mut self, step: u32) {
        let mut batch: Vec<Intent> = Vec::new();
        // A database may commit the guarded ones of a batch in a transaction of their own, later than the others.
        let guarded = self.chance(3);
        for i in 0..self.dice.random_range(1..4) {
            let known = self.names.clone();
            let again = self.chance(4).then(|| self.one_of(&known)).flatten();
            let name = again.unwrap_or_else(|| format!("{step}-{i}"));
            let minor = if self.chance(8) { 999 } else { 1_000 };
            let order = format!("o{}", self.dice.random_range(0..8));
            let intent = match self.dice.random_range(0..6) {
                _ if guarded => guarded_sale(&name, &order),
                2 => create(&name, Verb::Authorize, minor),
                3 if self.chance(2) => intent(&name, Verb::Verify, 0, IntentKind::Verification),
                4 => {
                    let mut noted = sale(&name, minor);
                    if let IntentKind::Create { metadata, .. } = &mut noted.kind {
                        *metadata = Some(format!("{{\"cart\": {step}}}"));
                    }
                    noted
                }
                _ => sale(&name, minor),
            };
            if batch.iter().all(|other| other.key != intent.key) {
                let mut intent = self.drawn(intent);
                // Ties are broken as a database happens to: two of a batch are not due at the same instant.
                intent.send_within += GRAIN * i;
                batch.push(intent);
            }
        }
        self.record(batch).await;
    }

    async fn follow_up(&mut self, step: u32) {
        let payments = self.payments.clone();
        let Some(id) = self.one_of(&payments) else {
            return;
        };
        let mut payment = self.payment(id).await;
        let uncaptured = payment.authorized - payment.captured;
        if self.chance(8) {
            payment.version -= 1;
        }
        let minor = if self.chance(5) { 2_000 } else { 300 };
        let name = format!("f{step}");
        let intent = match self.dice.random_range(0..5) {
            0 => contract::follow_up(&name, Verb::Void, uncaptured, &payment),
            1 | 2 => contract::follow_up(&name, Verb::Capture, minor, &payment),
            _ => contract::follow_up(&name, Verb::Refund, minor, &payment),
        };
        let intent = self.drawn(intent);
        self.record(vec![intent]).await;
    }

    /// Ends what is open, in a batch: rightly, with an answer to something else, or for more than there is.
    async fn settle(&mut self) {
        // The newest rather often: what nobody ends keeps its payment from others.
        let count = self.operations.len();
        let oldest = if self.chance(2) {
            0
        } else {
            count.saturating_sub(4)
        };
        let known = self.operations[oldest..].to_vec();
        let mut batch: Vec<Settlement> = Vec::new();
        for i in 0..self.dice.random_range(1..4) {
            let Some(id) = self.one_of(&known) else {
                return;
            };
            let operation = self.operation(id).await;
            let minor = operation.amount.minor();
            let ends = [
                approved(minor),
                approved(minor),
                approved(minor),
                declined(),
                not_sent(),
                unknown(),
                State::Parked {
                    parked: ParkedReason::NoAnswer,
                },
                State::Failed {
                    failure: Failure::DidNotHappen,
                },
            ];
            let from = operation.state.name();
            let ends: Vec<_> = ends
                .into_iter()
                .filter(|to| from.may_become(to.name()))
                .collect();
            let Some(to) = self.one_of(&ends) else {
                continue;
            };
            let mut settlement = settlement(&operation, to);
            let after = self.span() + GRAIN * i;
            settlement.check_after = settlement.check_after.map(|_| after);
            match self.dice.random_range(0..12) {
                0 => settlement.epoch -= 1,
                1 => settlement.attempt += 1,
                2 if StateName::Parked.may_become(settlement.to.name()) => {
                    settlement.from = StateName::Parked;
                }
                3 => settlement.effects.captured += 1,
                _ => {}
            }
            let alone = batch.iter().all(|other| {
                other.operation != settlement.operation
                    && (other.payment.is_none() || other.payment != settlement.payment)
            });
            if alone {
                batch.push(settlement);
            }
        }
        let batch: Vec<_> = batch.into_iter().map(Arc::new).collect();
        let settle = async |store: &Ledger| store.settle(&batch).await;
        drop(self.both("settle", settle).await);
        self.settlements.push(batch);
    }

    async fn cancel(&mut self, step: u32) {
        let known = self.names.clone();
        let name = match self.one_of(&known) {
            Some(name) if !self.chance(6) => name,
            _ => format!("never{step}"),
        };
        let wish = CancelWish {
            operation: self.id(),
            owner: self.me(),
            check_after: self.span(),
            ..wish(&name)
        };
        let wished = self.both("cancel", async |store| store.cancel(&wish).await);
        drop(wished.await);
        self.names.push(name);
    }

    /// Undoes what is unknown or unwanted, in some form, as it was read or as it was before.
    async fn reverse(&mut self) {
        let known = self.operations.clone();
        let Some(id) = self.one_of(&known) else {
            return;
        };
        let of = self.operation(id).await;
        if of.verb == Verb::Reversal {
            let back = async |store: &Ledger| store.uncount_send(of.id, of.epoch).await;
            drop(self.both("uncount_send", back).await);
            return;
        }
        let reserve = match of.payment {
            Some(payment) if of.state.name() == StateName::Approved => {
                let payment = self.payment(payment).await;
                Some(Reserved {
                    capture: payment.authorized - payment.captured,
                    refund: payment.captured - payment.refunded,
                })
            }
            _ => None,
        };
        let ids = UpstreamIds::default().with("sale", "guid-1");
        let form = match self.dice.random_range(0..3) {
            0 => ReversalForm::ByReference,
            1 => ReversalForm::Void { ids },
            _ => ReversalForm::Refund { ids, amount: 300 },
        };
        let wanted = ReversalIntent {
            operation: self.id(),
            owner: self.me(),
            reference: reference(&format!("reversal of {id}")),
            epoch: of.epoch - i64::from(self.chance(8)),
            ..reversal(&of, form, reserve)
        };
        self.begin_reversal(wanted).await;
    }

    async fn begin_reversal(&mut self, wanted: ReversalIntent) {
        let begin = async |store: &Ledger| store.begin_reversal(&wanted).await;
        let begun = self.both("begin_reversal", begin).await;
        if let Ok(ReversalBegun::Send { reversal, .. }) = begun {
            self.operations.push(reversal.id);
        }
        self.reversals.push(wanted);
    }

    /// One more send, one more check: what moves an operation without ending it.
    async fn resolve(&mut self) {
        let (me, known) = (self.me(), self.operations.clone());
        let Some(id) = self.one_of(&known) else {
            return;
        };
        let operation = self.operation(id).await;
        let epoch = operation.epoch - i64::from(self.chance(8));
        if self.chance(2) {
            let count = async |store: &Ledger| store.count_send(id, epoch, me).await;
            drop(self.both("count_send", count).await);
        } else {
            let check = Check {
                operation: id,
                epoch,
                owner: me,
                next_after: (!self.chance(4)).then_some(self.span()),
                sent: self.chance(2),
                evidence: json!({ "found": false }),
                reason: "not found so far",
            };
            let check = async |store: &Ledger| store.reschedule(&check).await;
            drop(self.both("reschedule", check).await);
        }
    }

    async fn adopt(&mut self) {
        let (me, other) = (self.me(), self.me());
        match self.dice.random_range(0..3) {
            0 => {
                let adopt = async |store: &Ledger| {
                    // As an adopter does: with a beat of its own it sees the others' counters.
                    let beats = store.beat(me).await?;
                    let seen = beats.into_iter().find(|one| one.replica == other);
                    let never = Heartbeat {
                        replica: other,
                        beat: 0,
                    };
                    let silent = seen.unwrap_or(never);
                    Ok(sorted(store.adopt_silent(me, &[silent], ALL).await?))
                };
                drop(self.both("adopt_silent", adopt).await);
            }
            1 => {
                let adopt = async |store: &Ledger| Ok(sorted(store.adopt_overdue(me, ALL).await?));
                drop(self.both("adopt_overdue", adopt).await);
            }
            _ => {
                let hand = async |store: &Ledger| store.hand_over(me).await;
                drop(self.both("hand_over", hand).await);
            }
        }
        let due = async |store: &Ledger| Ok(sorted(store.due(me, ALL).await?));
        drop(self.both("due", due).await);
    }

    async fn leave(&mut self) {
        let me = self.me();
        let leave = async |store: &Ledger| store.leave(me).await;
        drop(self.both("leave", leave).await);
        let other = self.replicas.iter().copied().find(|other| *other != me);
        self.beat(other.expect("there are three")).await;
        self.beat(me).await;
    }

    pub(super) async fn beat(&self, replica: ReplicaId) {
        let beat = async |store: &Ledger| {
            let mut others = store.beat(replica).await?;
            others.sort_unstable_by_key(|other| other.replica);
            Ok(others)
        };
        drop(self.both("beat", beat).await);
    }

    /// What was asked before, as after a lost acknowledgement.
    async fn ask_again(&mut self) {
        let (records, settlements) = (self.records.clone(), self.settlements.clone());
        let reversals = self.reversals.clone();
        match self.dice.random_range(0..3) {
            0 => {
                if let Some(batch) = self.one_of(&records) {
                    let record = async |store: &Ledger| store.record(&batch).await;
                    drop(self.both("record again", record).await);
                }
            }
            1 => {
                if let Some(batch) = self.one_of(&settlements) {
                    let settle = async |store: &Ledger| store.settle(&batch).await;
                    drop(self.both("settle again", settle).await);
                }
            }
            _ => {
                if let Some(wanted) = self.one_of(&reversals) {
                    self.begin_reversal(wanted).await;
                }
            }
        }
    }

    async fn token(&mut self) {
        let expected = self.dice.random_range(0..3);
        let token = TokenRow {
            generation: self.dice.random_range(0..3),
            ciphertext: vec![1, 2, 3],
            issued_at: Timestamp::from_seconds(1_000),
            expires_at: Timestamp::from_seconds(2_000),
        };
        let store_token = async |store: &Ledger| store.store_token("t", expected, &token).await;
        drop(self.both("store_token", store_token).await);
        let load = async |store: &Ledger| store.load_token("t").await;
        drop(self.both("load_token", load).await);
    }

    async fn look(&mut self) {
        let (known, names, payments) = (
            self.operations.clone(),
            self.names.clone(),
            self.payments.clone(),
        );
        if let Some(id) = self.one_of(&known) {
            let operation = self.operation(id).await;
            let verb = operation.verb;
            let control = async |store: &Ledger| store.control(&account(), verb, id).await;
            drop(self.both("control", control).await);
            let reversal = async |store: &Ledger| store.reversal_of(id).await;
            drop(self.both("reversal_of", reversal).await);
        }
        if let Some(name) = self.one_of(&names) {
            let by_key =
                async |store: &Ledger| store.operation_by_key(&client(), &key(&name)).await;
            drop(self.both("operation_by_key", by_key).await);
        }
        if let Some(id) = self.one_of(&payments) {
            let metadata = async |store: &Ledger| store.metadata(id).await;
            drop(self.both("metadata", metadata).await);
            if self.chance(2) {
                let erase = async |store: &Ledger| store.erase_metadata(id).await;
                drop(self.both("erase_metadata", erase).await);
            }
        }
    }
}
