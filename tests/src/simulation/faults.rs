//! Everything that the simulation can make go wrong, by name, and how often it did.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum FaultKind { $($(#[$doc])* $kind,)* }

        impl FaultKind {
            pub(super) const ALL: &[Self] = &[$(Self::$kind,)*];

            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    RefuseConnection = "refuse_connection",
    /// The connection ends before a byte of the request was written.
    ClosedUnwritten = "closed_unwritten",
    WaitForConnection = "wait_for_connection",
    ResetBeforeRead = "reset_before_read",
    HangBeforeCommit = "hang_before_commit",
    CommitThenHang = "commit_then_hang",
    CommitThenReset = "commit_then_reset",
    CommitThenTruncate = "commit_then_truncate",
    CommitThen500 = "commit_then_500",
    CommitThenCode = "commit_then_code",
    CommitThenGarbage = "commit_then_garbage",
    CommitThenStatus = "commit_then_status",
    CommitLate = "commit_late",
    Http500 = "http_500",
    Http429 = "http_429",
    TokenExpired = "token_expired",
    TokensRevoked = "tokens_revoked",
    SlowDrip = "slow_drip",
    Duplicated = "duplicated",
    Redirect308 = "redirect_308",
    Route404 = "route_404",
    PartialApproval = "partial_approval",
    Decline422 = "decline_422",
    Decline2xx = "decline_2xx",
    LedgerUnreachable = "ledger_unreachable",
    LedgerSilent = "ledger_silent",
    LedgerContended = "ledger_contended",
    LedgerLostUnwritten = "ledger_lost_before_commit",
    LedgerLostHalfWritten = "ledger_lost_half_committed",
    LedgerLostWritten = "ledger_lost_after_commit",
    LedgerSlow = "ledger_slow",
    LockAway = "lock_away",
    LockLost = "lock_lost",
    LockFlushed = "lock_flushed",
    LockSquatted = "lock_kept_by_the_dead",
    Crash = "crash",
    Stop = "stop",
    ClockStep = "clock_step",
    Ambush = "ambush",
    HangUp = "caller_hangs_up",
    Race = "callers_race",
}

impl FaultKind {
    /// A call to the ledger that failed, or took long.
    pub(super) const fn is_of_ledger(self) -> bool {
        matches!(
            self,
            Self::LedgerUnreachable
                | Self::LedgerContended
                | Self::LedgerLostUnwritten
                | Self::LedgerLostHalfWritten
                | Self::LedgerLostWritten
                | Self::LedgerSlow
        )
    }
}

const COUNT: usize = FaultKind::ALL.len();

/// How often each kind struck.
#[derive(Debug)]
pub(super) struct Tally([AtomicU64; COUNT]);

impl Default for Tally {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Tally {
    pub(super) fn count(&self, kind: FaultKind) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add(&self, other: &Self) {
        for (mine, theirs) in self.0.iter().zip(&other.0) {
            mine.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (FaultKind, u64)> {
        let kinds = FaultKind::ALL.iter().copied();
        kinds.zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}
