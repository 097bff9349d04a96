//! The auditor: compares the ledger with the processor's books, payment by payment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use gateway_core::operation::StateName;
use gateway_core::payment::{Payment, PaymentStatus};
use gateway_core::store::{Operation, PaymentQuery, Store};
use sqlx::{ConnectOptions as _, Connection as _};
use uuid::Uuid;

use super::World;
use crate::simulators::connexpay::Books;
use crate::stack::eventually;

/// Payments whose operations are read at the same time.
const ASKED_AT_ONCE: usize = 4;

/// Everything that is wrong, one sentence each.
pub(super) type Differences = Vec<String>;

/// What the auditor tolerates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// Every operation is final, or provably not sent.
    Final,
    /// Parked operations are allowed, and nothing is said of their money.
    Parked,
}

impl World {
    /// Fails the test unless every operation is final and ledger and books agree.
    pub async fn audit(&self) {
        self.audit_with(Tolerance::Final).await;
    }

    pub async fn audit_with(&self, tolerance: Tolerance) {
        let differences = self.differences(tolerance).await;
        assert!(
            differences.is_empty(),
            "ledger and books differ:\n{}",
            differences.join("\n")
        );
    }

    /// Waits until nothing is open any more, then audits.
    pub async fn settle_and_audit(&self, within: Duration) {
        let store = self.store().await;
        let quiet = eventually(within, "every operation to end", async || {
            let payments = all_payments(&*store).await.ok()?;
            for payment in &payments {
                let operations = store.operations_of(payment.id).await.ok()?;
                if !operations.iter().all(is_over) {
                    return None;
                }
            }
            Some(())
        });
        if quiet.await.is_err() {
            self.audit().await; // Says which.
        }
        self.audit().await;
    }

    /// The ledger, read beside the gateways.
    pub async fn store(&self) -> std::sync::Arc<dyn Store> {
        gateway_http::ledger::at(&self.config.ledger_url)
            .await
            .expect("the ledger's address")
    }

    pub async fn differences(&self, tolerance: Tolerance) -> Differences {
        self.differences_at(&self.config.ledger_url, tolerance)
            .await
    }

    /// As the server at this URL has it.
    pub async fn differences_at(&self, ledger_url: &str, tolerance: Tolerance) -> Differences {
        let store = gateway_http::ledger::at(ledger_url)
            .await
            .expect("the ledger's address");
        let payments = all_payments(&*store).await.expect("the ledger to answer");
        let entries = entries(ledger_url).await.expect("the ledger's entries");
        let books = self.simulators.connexpay().books();
        let mut differences = Vec::new();
        let mut known = BTreeSet::new();
        let mut with_operations = stream::iter(&payments)
            .map(async |payment| (payment, store.operations_of(payment.id).await))
            .buffered(ASKED_AT_ONCE);
        while let Some((payment, operations)) = with_operations.next().await {
            known.insert(payment.reference.to_string());
            let operations = operations.expect("the ledger to answer");
            let open: Vec<_> = operations
                .iter()
                .filter(|operation| !is_over(operation))
                .collect();
            for operation in &open {
                let parked = operation.state.name() == StateName::Parked;
                if !(parked && tolerance == Tolerance::Parked) {
                    differences.push(format!(
                        "{} ({} of {}) is {:?}",
                        operation.id,
                        operation.verb.as_str(),
                        payment.id,
                        operation.state
                    ));
                }
            }
            if open.is_empty() {
                compare(payment, &books, &mut differences);
                let entered = entries.get(&payment.id.uuid()).copied().unwrap_or_default();
                compare_entries(payment, entered, &books, &mut differences);
            }
        }
        for (reference, position) in &books.positions {
            if !known.contains(reference) && (position.net != 0 || position.held != 0) {
                differences.push(format!(
                    "no payment for {reference} in the books: {position:?}"
                ));
            }
        }
        differences
    }
}

/// Nothing more will happen to it by itself.
fn is_over(operation: &Operation) -> bool {
    let state = operation.state.name();
    // An approval that its caller cancelled is over when its reversal is.
    (state.is_final() || state == StateName::NotSent) && operation.due_at.is_none()
}

fn compare(payment: &Payment, books: &Books, differences: &mut Differences) {
    let position = books.position(payment.reference.as_str());
    let (net, held) = match payment.status {
        PaymentStatus::Captured | PaymentStatus::PartiallyRefunded | PaymentStatus::Refunded => {
            // A processor that captures once lets the rest of the hold go.
            (payment.captured - payment.refunded, 0)
        }
        PaymentStatus::Authorized => (0, payment.authorized),
        PaymentStatus::Voided
        | PaymentStatus::Declined
        | PaymentStatus::Failed
        | PaymentStatus::Reversed
        | PaymentStatus::Cancelled
        | PaymentStatus::Pending => (0, 0),
        PaymentStatus::Unknown => {
            differences.push(format!(
                "{} is unknown though nothing of it is open",
                payment.id
            ));
            return;
        }
    };
    if (position.net, position.held) != (net, held) {
        differences.push(format!(
            "{} ({}, captured {}, refunded {}) should have net {net}, held {held}; the books say {position:?}",
            payment.id,
            payment.status.as_str(),
            payment.captured,
            payment.refunded
        ));
    }
    if payment.capture_reserved != 0 || payment.refund_reserved != 0 || payment.busy_with.is_some()
    {
        differences.push(format!(
            "{} reserves though nothing of it is open: {payment:?}",
            payment.id
        ));
    }
}

/// The double entry of one payment, minor units, as the database sums it up.
#[derive(Clone, Copy, Debug, Default)]
struct Entered {
    /// Debits less credits over all accounts.
    imbalance: i64,
    receivable: i64,
    held: i64,
}

fn compare_entries(
    payment: &Payment,
    entered: Entered,
    books: &Books,
    differences: &mut Differences,
) {
    let position = books.position(payment.reference.as_str());
    if entered.imbalance != 0 {
        differences.push(format!(
            "the entries of {} do not balance: {entered:?}",
            payment.id
        ));
    }
    // What a partial capture leaves of its hold is let go by the processor, and stays held here until a void says so.
    let held = match payment.status {
        _ if position.captures == 0 => position.held,
        PaymentStatus::Voided | PaymentStatus::Reversed | PaymentStatus::Cancelled => 0,
        _ => payment.authorized - payment.captured,
    };
    if (entered.receivable, entered.held) != (position.net, held) {
        differences.push(format!(
            "the entries of {} say {entered:?}, the books {position:?}",
            payment.id
        ));
    }
}

/// The sums of the ledger's entries by payment, read beside the product's own code.
async fn entries(url: &str) -> Result<BTreeMap<Uuid, Entered>, sqlx::Error> {
    const SUMS: &str =
        "select payment, ledger_account, cast(sum(minor) as bigint) from ledger_entry
        where payment is not null group by payment, ledger_account";
    type Row = (Uuid, String, i64);
    let rows: Vec<Row> = if url.starts_with("sqlite") {
        let options: sqlx::sqlite::SqliteConnectOptions = url.parse()?;
        let mut connection = options.read_only(true).connect().await?;
        let rows = sqlx::query_as(SUMS).fetch_all(&mut connection).await?;
        connection.close().await?;
        rows
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await?;
        let rows = sqlx::query_as(SUMS).fetch_all(&mut connection).await?;
        connection.close().await?;
        rows
    };
    let mut payments: BTreeMap<Uuid, Entered> = BTreeMap::new();
    for (payment, account, minor) in rows {
        let entered = payments.entry(payment).or_default();
        entered.imbalance += minor;
        match account.as_str() {
            "receivable" => entered.receivable += minor,
            "holds_taken" => entered.held += minor,
            _ => {}
        }
    }
    Ok(payments)
}

async fn all_payments(store: &dyn Store) -> Result<Vec<Payment>, gateway_core::store::StoreError> {
    let mut all = Vec::new();
    let mut before = None;
    loop {
        let page = store
            .payments(&PaymentQuery {
                before,
                limit: 500,
                ..PaymentQuery::default()
            })
            .await?;
        let Some(last) = page.last() else {
            return Ok(all);
        };
        before = Some((last.created_at, last.id));
        all.extend(page);
    }
}
