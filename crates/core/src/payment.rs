//! A payment is what its operations add up to: totals, what open operations reserve, and the status they amount to.

use serde::{Deserialize, Serialize};

use crate::card::StoredCard;
use crate::clock::Timestamp;
use crate::connector::UpstreamIds;
use crate::key::{AccountName, OperationId, OrderReference, PaymentId, UpstreamReference};
use crate::money::Currency;

/// The payment's status, as callers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentStatus {
    Pending,
    Authorized,
    Captured,
    PartiallyRefunded,
    Refunded,
    Voided,
    Declined,
    Failed,
    Reversed,
    Cancelled,
    Unknown,
}

impl PaymentStatus {
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Authorized,
        Self::Captured,
        Self::PartiallyRefunded,
        Self::Refunded,
        Self::Voided,
        Self::Declined,
        Self::Failed,
        Self::Reversed,
        Self::Cancelled,
        Self::Unknown,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Authorized => "authorized",
            Self::Captured => "captured",
            Self::PartiallyRefunded => "partially_refunded",
            Self::Refunded => "refunded",
            Self::Voided => "voided",
            Self::Declined => "declined",
            Self::Failed => "failed",
            Self::Reversed => "reversed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// The status that approved totals amount to. The settle statement has the same `case`.
    pub const fn derive(authorized: i64, captured: i64, refunded: i64, voided: bool) -> Self {
        if voided {
            Self::Voided
        } else if refunded > 0 && refunded >= captured {
            Self::Refunded
        } else if refunded > 0 {
            Self::PartiallyRefunded
        } else if captured > 0 {
            Self::Captured
        } else if authorized > 0 {
            Self::Authorized
        } else {
            Self::Pending
        }
    }
}

/// A payment as the ledger holds it. All amounts in minor units of `currency`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    pub id: PaymentId,
    pub account: AccountName,
    /// The processor's base URL at which it began: its follow-ups go there.
    pub endpoint: String,
    pub currency: Currency,
    /// What the create asked for.
    pub amount: i64,
    pub status: PaymentStatus,
    pub authorized: i64,
    pub captured: i64,
    pub refunded: i64,
    pub voided: bool,
    pub capture_reserved: i64,
    pub refund_reserved: i64,
    /// The one operation that has the payment for itself.
    pub busy_with: Option<OperationId>,
    /// Raised by every record and settle that touches the payment: what `prepare` read is valid for one version only.
    pub version: i64,
    pub order_reference: Option<OrderReference>,
    pub upstream_ids: UpstreamIds,
    /// The reference of the create.
    pub reference: UpstreamReference,
    pub card: Option<StoredCard>,
    pub created_at: Timestamp,
}

/// The payment as one settlement left it: what its operation's answer shows for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub status: PaymentStatus,
    pub authorized: i64,
    pub captured: i64,
    pub refunded: i64,
    pub as_of: Timestamp,
}
