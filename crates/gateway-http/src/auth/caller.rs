//! The caller of a request, and the questions a route asks about what it may do.

use std::collections::BTreeMap;

use gateway_core::clock::Timestamp;
use gateway_core::key::Client;

use crate::problem::{Kind, Problem};

/// What a token may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Sales, authorizations, captures, voids, verifications, cancellations.
    PaymentsWrite,
    /// Every read.
    PaymentsRead,
    /// Refunds: money that leaves again needs a permission of its own.
    RefundsWrite,
    /// Deciding parked operations.
    OperationsResolve,
}

impl Scope {
    pub const ALL: [Self; 4] = [
        Self::PaymentsWrite,
        Self::PaymentsRead,
        Self::RefundsWrite,
        Self::OperationsResolve,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PaymentsWrite => "payments:write",
            Self::PaymentsRead => "payments:read",
            Self::RefundsWrite => "refunds:write",
            Self::OperationsResolve => "operations:resolve",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The scopes of one token. Those we do not know are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }
}

impl<'a> FromIterator<&'a str> for Scopes {
    fn from_iter<I: IntoIterator<Item = &'a str>>(words: I) -> Self {
        let known = |word: &str| Scope::ALL.into_iter().find(|scope| scope.as_str() == word);
        Self(
            words
                .into_iter()
                .filter_map(known)
                .fold(0, |bits, scope| bits | scope.bit()),
        )
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The configured name that idempotency keys belong to.
    pub client: Client,
    /// The token's `sub`.
    pub subject: String,
    pub scopes: Scopes,
    /// The accounts the token is limited to; `None`: all.
    pub accounts: Option<Vec<String>>,
    /// The largest single amount by currency, in minor units; `None`: any. A currency not listed is refused.
    pub max_amount: Option<BTreeMap<String, i64>>,
    /// When the token ends for us: its `exp` and the leeway.
    pub valid_until: Timestamp,
}

impl Caller {
    pub fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.has(scope) {
            return Ok(());
        }
        let problem = Problem::new(
            Kind::Forbidden,
            format!("the token lacks the scope `{}`", scope.as_str()),
        );
        Err(problem
            .member("reason", "scope")
            .member("scope", scope.as_str()))
    }

    /// Whether the token covers an account, for reads that leave out what it does not cover.
    pub fn covers(&self, account: &str) -> bool {
        self.accounts
            .as_ref()
            .is_none_or(|covered| covered.iter().any(|name| name == account))
    }

    pub fn require_account(&self, account: &str) -> Result<(), Problem> {
        if self.covers(account) {
            return Ok(());
        }
        Err(
            Problem::new(Kind::Forbidden, "the token does not cover this account")
                .member("reason", "account"),
        )
    }

    /// `minor`: minor units of the ISO 4217 currency `currency`.
    pub fn require_amount(&self, currency: &str, minor: i64) -> Result<(), Problem> {
        let Some(limits) = &self.max_amount else {
            return Ok(());
        };
        let detail = match limits.get(currency) {
            Some(limit) if minor <= *limit => return Ok(()),
            Some(_) => "the amount is above what the token allows",
            None => "the token allows no amount in this currency",
        };
        Err(Problem::new(Kind::Forbidden, detail).member("reason", "amount"))
    }
}
