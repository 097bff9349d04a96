//! The ledger's own records, read beside the gateways: states, owners, timelines.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::key::{Client, IdempotencyKey};
use gateway_core::operation::StateName;
use gateway_core::store::{Event, EventKind, Operation, Store};

use crate::stack::eventually;

/// A reader of the ledger, for keys of the client `shop`.
#[derive(Clone, Debug)]
pub struct Records {
    store: Arc<dyn Store>,
}

impl Records {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// The operation under a key, or nothing: none, or a ledger that does not answer.
    pub async fn find(&self, key: &str) -> Option<Operation> {
        let (client, key) = (
            Client::from_stored("shop"),
            IdempotencyKey::from_stored(key),
        );
        self.store
            .operation_by_key(&client, &key)
            .await
            .ok()
            .flatten()
    }

    pub async fn operation(&self, key: &str) -> Operation {
        self.find(key)
            .await
            .unwrap_or_else(|| panic!("no operation under {key}"))
    }

    pub async fn state(&self, key: &str) -> StateName {
        self.operation(key).await.state.name()
    }

    pub async fn timeline(&self, key: &str) -> Vec<Event> {
        let id = self.operation(key).await.id;
        self.store.timeline(id).await.expect("the ledger to answer")
    }

    /// The events of one kind, oldest first.
    pub async fn events(&self, key: &str, kind: EventKind) -> Vec<Event> {
        let mut events = self.timeline(key).await;
        events.retain(|event| event.kind == kind);
        events
    }

    /// Waits until the operation under `key` is as `wanted`.
    pub async fn until(
        &self,
        key: &str,
        within: Duration,
        what: &str,
        wanted: impl Fn(&Operation) -> bool,
    ) -> Operation {
        let reached = eventually(within, what, async || {
            self.find(key).await.filter(|operation| wanted(operation))
        });
        match reached.await {
            Ok(operation) => operation,
            Err(error) => panic!("{error:?}: {key} is {:?}", self.find(key).await),
        }
    }

    /// Waits for the first event of `kind` in the timeline of `key`.
    pub async fn until_event(&self, key: &str, kind: EventKind, within: Duration) -> Event {
        let what = format!("an event {} of {key}", kind.as_str());
        let reached = eventually(within, &what, async || {
            let id = self.find(key).await?.id;
            let events = self.store.timeline(id).await.ok()?;
            events.into_iter().find(|event| event.kind == kind)
        });
        reached.await.unwrap_or_else(|error| panic!("{error:?}"))
    }
}
