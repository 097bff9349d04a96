//! Double entry: every settlement that moves money adds debits that equal its credits, and no entry is ever changed.

use std::collections::BTreeMap;

/// One immutable debit or credit, in minor units of the operation's currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub ledger_account: LedgerAccount,
    pub side: Side,
    /// Above zero: the side tells the direction, not a sign.
    pub minor: i64,
}

/// What the company's books call the two ends of each movement. Kept per merchant account and currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LedgerAccount {
    /// What the processor owes us.
    Receivable,
    /// What customers paid.
    Sales,
    /// Holds on cardholders' funds, and their contra account.
    HoldsTaken,
    HoldsGiven,
}

impl LedgerAccount {
    pub const ALL: [Self; 4] = [
        Self::Receivable,
        Self::Sales,
        Self::HoldsTaken,
        Self::HoldsGiven,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Receivable => "receivable",
            Self::Sales => "sales",
            Self::HoldsTaken => "holds_taken",
            Self::HoldsGiven => "holds_given",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|account| account.as_str() == text)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Debit,
    Credit,
}

impl Side {
    /// The sign the database stores: its check "the sum is zero" needs no case.
    pub const fn sign(self) -> i64 {
        match self {
            Self::Debit => 1,
            Self::Credit => -1,
        }
    }
}

/// Debits less credits: zero, or a bug. Asserted before each write; the database has the same constraint.
pub fn imbalance(entries: &[Entry]) -> i64 {
    entries
        .iter()
        .map(|entry| entry.side.sign() * entry.minor)
        .sum()
}

/// Net change per ledger account, debits positive.
pub fn net(entries: &[Entry]) -> BTreeMap<LedgerAccount, i64> {
    let mut net = BTreeMap::new();
    for entry in entries {
        *net.entry(entry.ledger_account).or_default() += entry.side.sign() * entry.minor;
    }
    net
}
