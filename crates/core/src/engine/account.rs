//! One merchant account, and what it and its processor say against a request before that is recorded.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::connector::{Connector, Fault};
use crate::draft::Draft;
use crate::key::AccountName;
use crate::money::Currency;

/// One merchant account at one processor.
#[derive(Debug)]
pub struct Account {
    pub name: AccountName,
    pub connector: Arc<dyn Connector>,
    /// The processor's base URL for new payments.
    pub endpoint: String,
    /// Currencies it takes.
    pub currencies: Vec<Currency>,
    /// Of one upstream call.
    pub timeout: Duration,
    /// From the last send until a late arrival is impossible.
    pub late_arrival_horizon: Duration,
}

/// Everything that speaks against the request, without any I/O. An account that is not configured is a fault, too.
pub(super) fn faults(
    accounts: &HashMap<AccountName, Arc<Account>>,
    account: &AccountName,
    draft: &Draft<'_>,
) -> Vec<Fault> {
    match accounts.get(account) {
        Some(account) => account.faults(draft),
        None => vec![Fault {
            pointer: "/account".to_owned(),
            code: "unknown-account",
            detail: "names no configured account".to_owned(),
        }],
    }
}

impl Account {
    fn faults(&self, draft: &Draft<'_>) -> Vec<Fault> {
        if let Some(verb) = draft.verb
            && !self.connector.capabilities(verb).supported
        {
            return vec![Fault {
                pointer: String::new(),
                code: "unsupported",
                detail: format!("account {} does not support {}", self.name, verb.as_str()),
            }];
        }
        let mut faults = self.connector.check(draft);
        if let Some(currency) = draft.currency
            && !self.currencies.contains(&currency)
        {
            let detail = format!("account {} does not take {}", self.name, currency.code());
            refuse_currency(&mut faults, "currency-not-supported", detail);
        }
        faults
    }
}

/// A connector of one currency may have named it already, and better.
pub(super) fn refuse_currency(faults: &mut Vec<Fault>, code: &'static str, detail: String) {
    let pointer = "/amount/currency";
    if faults.iter().all(|fault| fault.pointer != pointer) {
        faults.push(Fault {
            pointer: pointer.to_owned(),
            code,
            detail,
        });
    }
}
