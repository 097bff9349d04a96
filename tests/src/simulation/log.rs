//! What happened in one history, in its order: noted as values, and written out only if somebody wants to read it.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_core::key::{OperationId, PaymentId};
use gateway_core::operation::Verb;
use tokio::time::Instant;

use super::faults::FaultKind;

/// Where and in which life of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) replica: usize,
    pub(super) life: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica {}.{}", self.replica, self.life)
    }
}

/// A caller's question, or a request on the wire: its place among its kind.
pub(super) type Number = usize;

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) at: Duration,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Asked {
        call: Number,
        key: Key,
        act: Act,
        place: Place,
        /// How long the caller says that it waits.
        wait: Duration,
    },
    Told {
        call: Number,
        told: Told,
    },
    /// The caller left before it was answered.
    HungUp {
        call: Number,
    },
    /// There was nobody to ask, or nobody any more.
    Lost {
        call: Number,
    },
    Sent(Sent),
    /// Asked to send, the gate said no.
    Gated {
        place: Place,
        label: &'static str,
    },
    /// The processor worked on it.
    Delivered {
        sending: Number,
        status: u16,
        /// As a second copy, or after its sender gave up.
        late: bool,
    },
    /// What the sender saw of it.
    Heard {
        sending: Number,
        heard: Heard,
    },
    Struck {
        fault: FaultKind,
        place: Option<Place>,
    },
    Stopped(Place),
    WentOn(Place),
    Crashed(Place),
    Started(Place),
    BatchClosed,
    Calm,
}

/// An idempotency key, as callers name it. All are of one client.
pub(super) type Key = std::sync::Arc<str>;

/// What a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Create {
        verb: Verb,
        minor: i64,
    },
    /// The same key with another request.
    Reuse,
    FollowUp {
        verb: Verb,
        minor: i64,
    },
    Cancel,
    /// The outcome of a key, without executing anything.
    Read,
}

/// An answer, as the table of answers has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) operation: Option<OperationId>,
    pub(super) payment: Option<PaymentId>,
    /// Of a final answer, what must stay the same for ever.
    pub(super) body: Option<String>,
    pub(super) replayed: bool,
    /// From the record of the key, and not because the ledger, or time, or load forbade to ask it.
    pub(super) from_record: bool,
}

/// A request that left a replica.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) sending: Number,
    pub(super) place: Place,
    pub(super) label: &'static str,
    pub(super) moves_money: bool,
    pub(super) sequence: Option<String>,
    /// The transaction that it names.
    pub(super) parent: Option<String>,
    /// How many transactions the ledger had committed.
    pub(super) committed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A whole answer.
    Answer(u16),
    TimedOut,
    Closed,
}

pub(super) struct Log {
    origin: Instant,
    entries: Mutex<Vec<Entry>>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({} entries)", self.entries().len())
    }
}

impl Log {
    pub(super) fn begin() -> Self {
        Self {
            origin: Instant::now(),
            entries: Mutex::new(Vec::with_capacity(256)),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    pub(super) fn note(&self, what: What) {
        let at = self.now();
        self.entries().push(Entry { at, what });
    }

    pub(super) fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
