//! The journal: every request a processor received, kept so that a test can ask what really came over the wire.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::fault::Subject;
use super::{StillWaiting, locked, unix_ms, within};

/// One request as it was received. Card numbers are masked, tokens are digests.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Counts from 1 per processor, in the order in which request heads were read.
    pub number: u64,
    /// Unix milliseconds.
    pub at_ms: i64,
    pub connection: u64,
    /// Which request of its connection, from 1.
    pub on_connection: u64,
    /// How old its connection was when the head arrived.
    pub connection_age_ms: u64,
    pub method: String,
    pub path: String,
    pub verb: String,
    /// Minor units.
    pub amount: Option<i64>,
    pub last_four: Option<String>,
    pub sequence_number: Option<String>,
    pub order_number: Option<String>,
    pub parent: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub body: serde_json::Value,
    /// The fault that struck it.
    pub fault: Option<String>,
    /// The status of the answer that was made, even if it was not delivered.
    pub status: Option<u16>,
    /// Whether an answer was handed to the connection. Faults that cut or hang leave it false.
    pub answered: bool,
}

#[derive(Debug, Default)]
struct Inner {
    records: VecDeque<RequestRecord>,
    received: u64,
    by_verb: BTreeMap<String, u64>,
}

/// The requests of one processor, the newest `count_max` of them.
#[derive(Debug)]
pub(crate) struct Journal {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
    count_max: usize,
}

impl Journal {
    pub(crate) fn new(count_max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            changes: watch::Sender::new(0),
            count_max,
        }
    }

    /// Notes a request and gives it its number.
    pub(crate) fn receive(&self, mut record: RequestRecord) -> u64 {
        let mut inner = locked(&self.inner);
        inner.received += 1;
        record.number = inner.received;
        record.at_ms = unix_ms();
        let number = record.number;
        inner.records.push_back(record);
        if inner.records.len() > self.count_max {
            inner.records.pop_front(); // At the bound the oldest is forgotten; the counters go on.
        }
        drop(inner);
        self.changed();
        number
    }

    pub(crate) fn describe(&self, number: u64, subject: &Subject) {
        *locked(&self.inner)
            .by_verb
            .entry(subject.verb.to_owned())
            .or_default() += 1;
        self.update(number, |record| {
            subject.verb.clone_into(&mut record.verb);
            record.amount = subject.amount;
            record.last_four.clone_from(&subject.last_four);
            record.sequence_number.clone_from(&subject.sequence_number);
            record.order_number.clone_from(&subject.order_number);
            record.parent.clone_from(&subject.parent);
            record.body = subject.body.clone();
        });
    }

    pub(crate) fn update(&self, number: u64, change: impl FnOnce(&mut RequestRecord)) {
        {
            let mut inner = locked(&self.inner);
            let first = inner.records.front().map_or(number, |record| record.number);
            let index = number
                .checked_sub(first)
                .and_then(|offset| usize::try_from(offset).ok());
            if let Some(record) = index.and_then(|index| inner.records.get_mut(index)) {
                change(record);
            }
        }
        self.changed();
    }

    pub(crate) fn all(&self) -> Vec<RequestRecord> {
        locked(&self.inner).records.iter().cloned().collect()
    }

    pub(crate) fn received(&self) -> u64 {
        locked(&self.inner).received
    }

    pub(crate) fn received_of(&self, verb: &str) -> u64 {
        locked(&self.inner).by_verb.get(verb).copied().unwrap_or(0)
    }

    pub(crate) fn clear(&self) {
        let mut inner = locked(&self.inner);
        // Numbers go on: a request still running must not write into a later one's record.
        inner.records.clear();
        inner.by_verb.clear();
        drop(inner);
        self.changed();
    }

    /// Waits until `count` requests satisfy `predicate` and returns all that do.
    pub(crate) async fn wait_for(
        &self,
        count: usize,
        predicate: impl Fn(&RequestRecord) -> bool,
    ) -> Result<Vec<RequestRecord>, StillWaiting> {
        let mut changes = self.changes.subscribe();
        within("requests in the journal", async {
            loop {
                changes.borrow_and_update();
                let found: Vec<RequestRecord> = locked(&self.inner)
                    .records
                    .iter()
                    .filter(|record| predicate(record))
                    .cloned()
                    .collect();
                if found.len() >= count {
                    return found;
                }
                // The sender lives in `self`, so the wait cannot fail.
                let _ = changes.changed().await;
            }
        })
        .await
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}
