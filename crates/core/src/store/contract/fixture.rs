//! Intents and settlements as a gateway would make them, for the tests of the contract.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;
use uuid::Uuid;

use crate::card::StoredCard;
use crate::connector::{
    Approval, Decline, DeclineClass, NotSent, ReversalForm, UnknownReason, UpstreamIds,
};
use crate::idempotency::{CanonicalForm, FingerprintKeys};
use crate::key::{
    AccountName, Client, IdempotencyKey, OperationId, OrderReference, PaymentId, ReplicaId,
    UpstreamReference,
};
use crate::money::{Currency, Money};
use crate::operation::{Facts, Reserved, State, Verb, effects};
use crate::payment::Payment;
use crate::store::{
    CancelWish, Heartbeat, Intent, IntentKind, Operation, Recorded, ReversalIntent, Settled,
    Settlement, Store,
};

/// A ledger under test.
pub type Ledger = Arc<dyn Store>;

pub fn usd(minor: i64) -> Money {
    Money::new(minor, Currency::parse("USD").expect("a currency")).expect("not negative")
}

pub fn client() -> Client {
    Client::from_stored("shop")
}

pub fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::from_stored(text)
}

pub fn account() -> AccountName {
    AccountName::from_stored("acme-us")
}

pub fn replica() -> ReplicaId {
    ReplicaId::from_uuid(Uuid::now_v7())
}

/// A replica as an adopter sees it that never saw it beat.
pub fn never_beat(replica: ReplicaId) -> Heartbeat {
    Heartbeat { replica, beat: 0 }
}

pub fn operation_id() -> OperationId {
    OperationId::from_uuid(Uuid::now_v7())
}

pub fn payment_id() -> PaymentId {
    PaymentId::from_uuid(Uuid::now_v7())
}

/// Derived from the key, as the real one is: the same key has the same reference in every attempt.
pub fn reference(key: &str) -> UpstreamReference {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    let letters = digest
        .as_ref()
        .iter()
        .map(|byte| char::from(b'A' + byte % 26));
    UpstreamReference::from_stored(&letters.take(UpstreamReference::LENGTH).collect::<String>())
}

pub fn keys() -> Arc<FingerprintKeys> {
    let secret = SecretString::from("00".repeat(32));
    Arc::new(FingerprintKeys::parse(&secret, &[]).expect("32 bytes in hexadecimal"))
}

/// An intent with everything at its default: a sale or authorization when `kind` is a create.
pub fn intent(name: &str, verb: Verb, minor: i64, kind: IntentKind) -> Intent {
    let mut form = CanonicalForm::new(verb.as_str());
    form.amount(usd(minor));
    let keys = keys();
    Intent {
        operation: operation_id(),
        claim: Uuid::new_v4(),
        client: client(),
        key: key(name),
        verb,
        account: account(),
        endpoint: "https://upstream.test".to_owned(),
        amount: usd(minor),
        reference: reference(name),
        fingerprint: form.fingerprint(&keys),
        form: Arc::new(form),
        keys,
        order_reference: None,
        statement_descriptor: None,
        owner: ReplicaId::from_uuid(Uuid::from_u128(1)),
        send_within: Duration::from_secs(30),
        deadline_after: Duration::from_secs(30),
        late_arrival_horizon: Duration::from_mins(10),
        holds_while_unknown: false,
        kind,
    }
}

pub fn create(name: &str, verb: Verb, minor: i64) -> Intent {
    let kind = IntentKind::Create {
        payment: payment_id(),
        once_per_order: false,
        metadata: None,
    };
    intent(name, verb, minor, kind)
}

pub fn sale(name: &str, minor: i64) -> Intent {
    create(name, Verb::Sale, minor)
}

/// A sale that must be the only live one of its order.
pub fn guarded_sale(name: &str, order: &str) -> Intent {
    let kind = IntentKind::Create {
        payment: payment_id(),
        once_per_order: true,
        metadata: None,
    };
    let order_reference = Some(OrderReference::from_stored(order));
    Intent {
        order_reference,
        ..intent(name, Verb::Sale, 1_000, kind)
    }
}

/// A capture, void or refund of a payment as it was read.
pub fn follow_up(name: &str, verb: Verb, minor: i64, of: &Payment) -> Intent {
    let reserve = match verb {
        Verb::Capture => Reserved {
            capture: minor,
            refund: 0,
        },
        Verb::Void if of.captured == 0 => Reserved {
            capture: minor,
            refund: 0,
        },
        _ => Reserved {
            capture: 0,
            refund: minor,
        },
    };
    let kind = IntentKind::FollowUp {
        payment: of.id,
        version: of.version,
        reserve,
        prepared: None,
    };
    intent(name, verb, minor, kind)
}

pub fn approved(minor: i64) -> State {
    let card = StoredCard::from_answer(Some("nr959X7eCIXI5439"), Some("Visa"), Some("5439"), None);
    State::Approved {
        approval: Approval {
            ids: UpstreamIds::default().with("sale", "guid-1"),
            upstream_reference: "guid-1".to_owned(),
            authorization_code: Some("TAS356".to_owned()),
            amount: usd(minor),
            card: Some(card),
        },
    }
}

pub fn declined() -> State {
    let message = "no".to_owned();
    State::Declined {
        decline: Decline {
            class: DeclineClass::Hard,
            code: None,
            message,
        },
    }
}

pub fn unknown() -> State {
    State::Unknown {
        unknown: UnknownReason::TimedOut,
    }
}

pub fn not_sent() -> State {
    State::NotSent {
        not_sent: NotSent::PoolExhausted,
    }
}

/// The settlement of an operation as it was read, with the effects that the rules give it.
pub fn settlement(operation: &Operation, to: State) -> Settlement {
    let facts = Facts {
        verb: operation.verb,
        amount: operation.amount,
        reserved: operation.reserved,
        holds_while_unknown: operation.holds_while_unknown,
    };
    let from = operation.state.name();
    let open = !to.is_final() && to.name() != crate::operation::StateName::NotSent;
    Settlement {
        operation: operation.id,
        payment: operation.payment,
        epoch: operation.epoch,
        attempt: operation.attempt,
        sends: operation.sends,
        from,
        effects: effects(&facts, from, to.name()).expect("a legal transition"),
        to,
        check_after: open.then_some(Duration::from_secs(2)),
        evidence: json!({ "test": true }),
        reason: "test",
    }
}

pub async fn record_one(store: &Ledger, intent: Intent) -> Recorded {
    let mut answers = store.record(&[Arc::new(intent)]).await.expect("recorded");
    answers.pop().expect("one answer for one intent")
}

/// Records what must be new.
pub async fn begin(store: &Ledger, intent: Intent) -> Operation {
    match record_one(store, intent).await {
        Recorded::New(operation) => *operation,
        other => panic!("not new: {other:?}"),
    }
}

pub async fn settle_one(store: &Ledger, settlement: Settlement) -> Settled {
    let mut answers = store
        .settle(&[Arc::new(settlement)])
        .await
        .expect("settled");
    answers.pop().expect("one answer for one settlement")
}

/// Settles what must be applied.
pub async fn end(store: &Ledger, operation: &Operation, to: State) -> Operation {
    match settle_one(store, settlement(operation, to)).await {
        Settled::Applied(operation) => *operation,
        other @ Settled::Stale(_) => panic!("not applied: {other:?}"),
    }
}

/// A sale that was approved.
pub async fn charged(store: &Ledger, name: &str, minor: i64) -> Operation {
    let operation = begin(store, sale(name, minor)).await;
    end(store, &operation, approved(minor)).await
}

/// An authorization that was approved.
pub async fn authorized(store: &Ledger, name: &str, minor: i64) -> Operation {
    let operation = begin(store, create(name, Verb::Authorize, minor)).await;
    end(store, &operation, approved(minor)).await
}

pub async fn payment_of(store: &Ledger, operation: &Operation) -> Payment {
    let id = operation.payment.expect("it has a payment");
    store
        .payment(id)
        .await
        .expect("readable")
        .expect("it exists")
}

pub async fn read(store: &Ledger, id: OperationId) -> Operation {
    store
        .operation(id)
        .await
        .expect("readable")
        .expect("it exists")
}

pub fn wish(name: &str) -> CancelWish {
    CancelWish {
        client: client(),
        key: key(name),
        operation: operation_id(),
        reference: reference(name),
        owner: ReplicaId::from_uuid(Uuid::from_u128(1)),
        check_after: Duration::ZERO,
    }
}

pub fn reversal(of: &Operation, form: ReversalForm, reserve: Option<Reserved>) -> ReversalIntent {
    let operation = operation_id();
    ReversalIntent {
        of: of.id,
        epoch: of.epoch,
        owner: of.owner,
        operation,
        reference: reference(&format!("reversal of {}", of.id)),
        form,
        reserve,
    }
}
