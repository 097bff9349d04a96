//! What became of a refund: whose returns the processor lists, and what is left of the sale.

use gateway_core::connector::{Finding, UpstreamIds};

use super::answers::Status;
use super::findings::{could_not, is_part};
use super::requests::id;
use super::searches::{Asking, Filter, Kind, PAGE, Stands, status};
use super::wire::Record;
use crate::pool::Transport;

/// Records read behind the rows of one search: all that may be of the sale must be, for its totals to tell.
const READS_MAX: usize = 20;

/// The approved returns of one sale.
#[derive(Default)]
struct Returns {
    /// The one that carries our reference, and whether it is of our amount.
    ours: Option<(String, bool)>,
    /// Of our amount, and without anybody's reference.
    unnamed: Vec<String>,
    /// One of our amount carries another reference.
    foreign: bool,
    /// One of them, whatever its amount, carries another reference: this processor names its returns.
    named: bool,
    /// Why there may be more of them than were read.
    unread: Option<String>,
}

impl<W: Transport> Asking<'_, W> {
    /// A refund: by the record that carries our reference, else by how what is left of the sale has changed.
    pub(super) async fn refund(&mut self) -> Finding {
        let Some(sale) = id(self.subject, "sale").map(str::to_owned) else {
            return could_not("the payment has no sale");
        };
        let prepared = self.subject.prepared.as_ref();
        if prepared.is_some_and(|prepared| prepared.as_void) {
            return self.void().await;
        }
        let before = prepared.and_then(|prepared| prepared.baseline);
        let reference = self
            .subject
            .parent_reference
            .as_ref()
            .map(AsRef::<str>::as_ref);
        let stands = match self.stands(Kind::Sales, &sale, reference).await {
            Ok(stands) => stands,
            Err(detail) => return Finding::CouldNotAsk { detail },
        };
        if stands.is_read() && before == Some(stands.remaining) {
            return Finding::NotFound { conclusive: true };
        }
        let returns = self.returns_of(&sale, &stands.record).await;
        self.refund_among(returns, &sale, before, &stands)
    }

    /// Which of the returns, if any, is this refund. By totals alone only where no return of the sale is named, all of
    /// them are known, and the change is exactly ours: then the ledger, which lets one refund at a time change the sale,
    /// makes it ours.
    fn refund_among(
        &self,
        returns: Returns,
        sale: &str,
        before: Option<i64>,
        stands: &Stands,
    ) -> Finding {
        let found = |guid: &str| {
            self.followed(
                UpstreamIds::default(),
                guid.to_owned(),
                stands.remaining,
                stands.settled,
            )
        };
        match &returns.ours {
            Some((ours, true)) => return found(ours),
            Some((_, false)) => {
                let detail = "another amount was returned than asked".to_owned();
                return Finding::Contradiction { detail };
            }
            None => {}
        }
        let Some(before) = before.filter(|_| stands.is_read()) else {
            return could_not(
                "what stood of the sale before the refund, or stands now, is not known for certain",
            );
        };
        if returns.foreign {
            let detail = "a return of this sale and amount was made by another request".to_owned();
            return Finding::Contradiction { detail };
        }
        if let Some(detail) = returns.unread {
            return Finding::CouldNotAsk { detail };
        }
        if before - stands.remaining != self.subject.amount.minor() {
            return Finding::Contradiction {
                detail: format!(
                    "before a refund of {} the sale stood at {before}, and now at {}",
                    self.subject.amount.minor(),
                    stands.remaining
                ),
            };
        }
        match returns.unnamed.as_slice() {
            _ if returns.named => {
                could_not("returns of this sale are named, and ours is not listed so far")
            }
            [] => could_not("the sale has changed, and no return of this amount is listed so far"),
            [only] => found(only),
            // Earlier ones were of the same amount.
            _ => found(sale),
        }
    }

    /// The approved returns of a sale; only ours, where it is found among those of its amount: a merchant may have more
    /// returns in these days than one search lists, and few of them are of one amount.
    async fn returns_of(&mut self, sale: &str, record: &Record) -> Returns {
        let of_amount = Filter::DaysAndAmount(self.subject);
        let narrowed = self.returns_among(&of_amount, sale, record).await;
        if narrowed.ours.is_some() {
            return narrowed;
        }
        self.returns_among(&Filter::Days(self.subject), sale, record)
            .await
    }

    /// Rows do not name their sale, so the records are read; the card narrows which.
    async fn returns_among(&mut self, filter: &Filter<'_>, sale: &str, record: &Record) -> Returns {
        let mut returns = Returns::default();
        let mut rows = match self.search(Kind::Returns, filter).await {
            Ok(rows) => rows,
            Err(detail) => {
                returns.unread = Some(detail);
                return returns;
            }
        };
        let is_full = rows.len() >= PAGE;
        rows.retain(|row| match (last_four(row), last_four(record)) {
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => true,
        });
        let amount = self.subject.amount;
        rows.sort_by_key(|row| self.money(row.amount.as_ref()) != Some(amount));
        if is_full || rows.len() > READS_MAX {
            returns.unread = Some("more returns are listed than were read".to_owned());
        }
        for row in rows.into_iter().take(READS_MAX) {
            let Some(guid) = row.guid else {
                returns.unread = Some("a return is listed without its id".to_owned());
                continue;
            };
            let record = match self.read(Kind::Returns, &guid).await {
                Ok(record) => record,
                Err(unread) => {
                    returns.unread = Some(unread);
                    continue;
                }
            };
            if status(&record) != Some(Status::Approved) {
                continue;
            }
            let Some(theirs) = sale_of_return(&record) else {
                returns.unread = Some("a return does not name its sale".to_owned());
                continue;
            };
            if !theirs.eq_ignore_ascii_case(sale) {
                continue;
            }
            let told = record.amount.as_ref().or(row.amount.as_ref());
            // The amount may be what was asked for, where the code says that it is a part.
            let is_our_amount =
                !is_part(&record) && told.is_none_or(|told| self.money(Some(told)) == Some(amount));
            match record.sequence_number.as_deref() {
                Some(theirs) if theirs.eq_ignore_ascii_case(self.subject.reference.as_str()) => {
                    returns.ours = Some((guid, is_our_amount));
                    return returns;
                }
                Some(_) => {
                    returns.named = true;
                    returns.foreign |= is_our_amount;
                }
                None if is_our_amount => returns.unnamed.push(guid),
                None => {}
            }
        }
        returns
    }
}

fn last_four(record: &Record) -> Option<&str> {
    record.card.as_ref().and_then(|card| card.last4.as_deref())
}

fn sale_of_return(record: &Record) -> Option<&str> {
    let nested = record.sale.as_ref().and_then(|sale| sale.guid.as_deref());
    record.sale_guid.as_deref().or(nested)
}
