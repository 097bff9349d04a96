//! What can happen to one call on its way to the ledger and back, as whoever plays the world decides it.

use std::fmt;

use futures_util::future::BoxFuture;

/// Decides the fate of each call. It is asked once per call, when that call begins, in the order in which they begin: a
/// plan that draws from a seed draws the same again.
pub trait FaultPlan: Send + Sync + fmt::Debug {
    fn fate(&self, call: Call) -> Fate;
}

/// Nothing ever goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct NoFaults;

impl FaultPlan for NoFaults {
    fn fate(&self, _: Call) -> Fate {
        Fate::default()
    }
}

/// Ended by whoever made it; a call whose future is dropped while it waits is a process that died there.
pub type Wait = BoxFuture<'static, ()>;

/// What becomes of one call. By default it is answered at once.
#[derive(Default)]
pub struct Fate {
    /// On the way there: nothing is written yet.
    pub before: Option<Wait>,
    pub ending: Ending,
    /// On the way back: what is written is written, and nobody here knows yet.
    pub after: Option<Wait>,
}

impl From<Ending> for Fate {
    fn from(ending: Ending) -> Self {
        Self {
            ending,
            ..Self::default()
        }
    }
}

impl fmt::Debug for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fate")
            .field("before", &self.before.is_some())
            .field("ending", &self.ending)
            .field("after", &self.after.is_some())
            .finish()
    }
}

/// How a call ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// As the ledger says.
    #[default]
    Answered,
    /// `Unreachable`: there was no connection, and nothing was asked.
    Unreachable,
    /// `Contended`: the database gave it up for another transaction, and nothing was written.
    Contended,
    /// `Unavailable`, before the commit.
    LostUnwritten,
    /// `Unavailable`, between the two transactions in which a ledger may commit one batch. What is no batch of at least
    /// two is not written at all.
    LostHalfWritten,
    /// `Unavailable`, after the commit.
    LostWritten,
}

impl Ending {
    pub const ALL: [Self; 6] = [
        Self::Answered,
        Self::Unreachable,
        Self::Contended,
        Self::LostUnwritten,
        Self::LostHalfWritten,
        Self::LostWritten,
    ];
}

/// What is asked of the ledger: one for each method of `Store`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    Record,
    Settle,
    OperationByKey,
    Operation,
    Ended,
    Payment,
    OperationsOf,
    Payments,
    Events,
    Timeline,
    Metadata,
    EraseMetadata,
    Cancel,
    Beat,
    Leave,
    AdoptSilent,
    AdoptOverdue,
    HandOver,
    Due,
    Reschedule,
    CountSend,
    BeginReversal,
    UncountSend,
    ReversalOf,
    Control,
    AtRisk,
    Faults,
    Ping,
    Migrate,
    LoadToken,
    StoreToken,
}
