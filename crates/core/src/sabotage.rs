//! Promises that a test build can break, one at a time, where the product keeps them: the simulation must find each.
//!
//! Without the feature `sabotage`, which no build has that is used, [`sabotaged!`](crate::sabotaged) is `false` and nothing
//! else of this is there.

/// Whether the sabotage of that name is switched on. Never, unless the feature `sabotage` is built in.
#[cfg(feature = "sabotage")]
#[macro_export]
macro_rules! sabotaged {
    ($name:ident) => {
        $crate::sabotage::is_on($crate::sabotage::Sabotage::$name)
    };
}

/// Whether the sabotage of that name is switched on. Never: the feature `sabotage` is not built in.
#[cfg(not(feature = "sabotage"))]
#[macro_export]
macro_rules! sabotaged {
    ($name:ident) => {
        $crate::sabotage::never(stringify!($name))
    };
}

/// What no build that is used can do, by its name.
#[cfg(not(feature = "sabotage"))]
pub const fn never(_: &str) -> bool {
    false
}

#[cfg(feature = "sabotage")]
pub use hooks::*;

#[cfg(feature = "sabotage")]
mod hooks {
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::time::Duration;

    use crate::clock::{Tick, Timestamp};
    use crate::connector::{AlwaysOpen, DeclineClass, Payer, Subject, UpstreamIds, Verdict};
    use crate::engine::Account;
    use crate::store::Intent;

    macro_rules! sabotages {
        ($($kind:ident = $name:literal,)*) => {
            /// One promise broken where the product keeps it.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            #[repr(u8)]
            pub enum Sabotage { $($kind,)* }

            impl Sabotage {
                pub const ALL: &[Self] = &[$(Self::$kind,)*];

                pub const fn name(self) -> &'static str {
                    match self { $(Self::$kind => $name,)* }
                }
            }
        };
    }

    sabotages! {
        SendBeforeRecord = "send before record",
        SendWithoutHeartbeat = "send without the heartbeat check",
        SendAfterTheWait = "send after the caller's wait",
        SettleWithoutEpoch = "settle without the epoch",
        AdoptWithoutEpoch = "adopt without raising the epoch, settle any step from any state",
        AdoptAfterOutage = "adoption right after a ledger outage",
        AdoptOnAnOldView = "adoption without comparing the counter again",
        NotFoundIsFinal = "\"not found\" final at once",
        CouldNotAskIsNotFound = "\"could not ask\" taken for \"not found\"",
        ResendAfterClose = "re-send after a close",
        ClosedIsNotSent = "a close after bytes taken for \"not sent\"",
        SecondReturn = "a second return on a guess",
        ReversalWithoutRecord = "reversal without its own record",
        ReversalKeepsEpoch = "reverse and adopt without raising the epoch, settle from any state",
        LookUpByAmount = "look-up by amount instead of our reference",
        OrderIgnored = "once per order ignored",
        FingerprintIgnored = "fingerprint ignored",
        CancelNotReadBeforeSend = "cancellation not read before the send",
        CancelNotReadAtSettle = "cancellation not read at settle",
        ReservationKept = "reservation not given back",
        ReservationNotTaken = "reservation not taken, payment not held",
        LateSettleOverwrites = "late settle overwriting a final state",
        AnswerDropped = "answer dropped while the ledger is away",
        RefreshDropsWaiter = "token refresh that drops a waiter",
        RepeatAfterEvery401 = "401 repeated for ever",
    }

    const NONE: u8 = u8::MAX;
    static ON: AtomicU8 = AtomicU8::new(NONE);

    /// Switches one on, or all off, for the whole process.
    pub fn switch(to: Option<Sabotage>) {
        ON.store(to.map_or(NONE, |sabotage| sabotage as u8), Ordering::SeqCst);
    }

    pub fn is_on(sabotage: Sabotage) -> bool {
        ON.load(Ordering::Relaxed) == sabotage as u8
    }

    /// Sends what is not recorded yet.
    pub(crate) async fn before_record(
        account: &Account,
        intent: &Intent,
        payer: &Payer,
        now: Timestamp,
    ) {
        if !is_on(Sabotage::SendBeforeRecord) {
            return;
        }
        let subject = Subject {
            operation: intent.operation,
            verb: intent.verb,
            account: intent.account.clone(),
            endpoint: intent.endpoint.clone(),
            reference: intent.reference.clone(),
            amount: intent.amount,
            order_reference: intent.order_reference.clone(),
            statement_descriptor: intent.statement_descriptor.clone(),
            parent: UpstreamIds::default(),
            parent_reference: None,
            prepared: None,
            sends: 1,
            recorded_at: now,
        };
        let connector = &account.connector;
        connector.execute(&subject, Some(payer), &AlwaysOpen).await;
    }

    /// As if this process had beaten without a gap for as long as it runs.
    pub(crate) fn since_ever(unbroken_since: Tick) -> Tick {
        if is_on(Sabotage::AdoptAfterOutage) {
            Tick::from_origin(Duration::ZERO)
        } else {
            unbroken_since
        }
    }

    /// A duplicate of somebody's is one of ours.
    pub(crate) fn sends(sends: u32, verdict: &Verdict) -> u32 {
        let duplicate = matches!(verdict, Verdict::Declined(decline) | Verdict::Refused(decline)
            if decline.class == DeclineClass::Duplicate);
        if duplicate && is_on(Sabotage::LookUpByAmount) {
            sends + 1
        } else {
            sends
        }
    }
}
