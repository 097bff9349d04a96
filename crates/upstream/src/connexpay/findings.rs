//! What became of an operation: from their records to a finding.
//!
//! A record is ours only if it carries our reference; or, for a follow-up, if it names our parent, and the change from
//! the baseline is exactly ours. Amount, card and time decide nothing.

use gateway_core::connector::{
    Approval, Control, Decline, DeclineClass, Finding, Found, Standing, UpstreamIds,
};
use gateway_core::money::Money;

use super::answers::{self, Shape, Status};
use super::codes;
use super::requests::{Missing, Target, id};
use super::searches::{Asking, Filter, Kind, is_guid, is_settled, status};
use super::wire::{Record, Related};
use crate::pool::Transport;
use crate::scrub::Scrub;

/// Records read behind the rows of one search.
const CANDIDATES_MAX: usize = 8;

/// What an authorization says of its capture.
enum Captured {
    By(Box<Record>),
    Not { conclusive: bool },
}

impl<W: Transport> Asking<'_, W> {
    /// A sale or an authorization: by its id, where an answer told it; else by our reference.
    pub(super) async fn create(&mut self, shape: Shape, control: Option<&Control>) -> Finding {
        let (kind, name) = if shape == Shape::Sale {
            (Kind::Sales, "sale")
        } else {
            (Kind::AuthOnlys, "authorization")
        };
        let subject = self.subject;
        if let Some(guid) = id(subject, name) {
            match self.read(kind, guid).await {
                Ok(record) => return self.known(shape, record).await,
                Err(detail) => tracing::debug!(detail, "searching by reference instead"),
            }
        }
        let reference = subject.reference.as_str();
        let filter = Filter::OrderNumber(reference);
        #[cfg(feature = "sabotage")]
        let filter = if gateway_core::sabotaged!(LookUpByAmount) {
            Filter::Days(subject)
        } else {
            filter
        };
        let rows = match self.search(kind, &filter).await {
            Ok(rows) => rows,
            Err(detail) => return Finding::CouldNotAsk { detail },
        };
        let nothing_came = rows.is_empty();
        let mut ours = Vec::new();
        let mut unread = None;
        for row in self.candidates(rows) {
            let Some(guid) = row.guid.clone() else {
                continue;
            };
            match self.read(kind, &guid).await {
                Ok(record)
                    if carries(&record, &row, reference)
                        || gateway_core::sabotaged!(LookUpByAmount)
                            && self.money(record.amount.as_ref()) == Some(subject.amount) =>
                {
                    ours.push(with_row(record, row));
                }
                Ok(_) => {}
                // The row itself may carry it.
                Err(_) if row.order_number.as_deref() == Some(reference) => ours.push(row),
                Err(why) => unread = Some(why),
            }
        }
        if !ours.is_empty() {
            return self.ours(shape, ours).await;
        }
        if let Some(unread) = unread {
            return Finding::CouldNotAsk { detail: unread };
        }
        if !nothing_came {
            return could_not("the search returned rows that are not ours: it ignores its filter");
        }
        let conclusive = match control {
            Some(control) => self.finds(kind, control).await,
            None => false,
        };
        Finding::NotFound { conclusive }
    }

    /// A create whose id is known. The search adds what only rows tell of an authorization; where it does not answer, or
    /// does not find it, the record and the payment's ids are enough.
    async fn known(&mut self, shape: Shape, mut record: Record) -> Finding {
        let subject = self.subject;
        let reference = subject.reference.as_str();
        let theirs = record.sequence_number.as_deref();
        if theirs.is_some_and(|theirs| !theirs.eq_ignore_ascii_case(reference)) {
            let detail = "the transaction that is known as ours carries another reference";
            return Finding::Contradiction {
                detail: detail.to_owned(),
            };
        }
        let is_captured = id(subject, "sale").or(id(subject, "capture")).is_some();
        if shape == Shape::AuthOnly && !is_captured {
            let filter = Filter::OrderNumber(reference);
            let rows = self.search(Kind::AuthOnlys, &filter).await;
            let guid = record.guid.clone().unwrap_or_default();
            let row = rows
                .ok()
                .and_then(|rows| rows.into_iter().find(|row| is_guid(row, &guid)));
            record = match row {
                Some(row) => with_row(record, row),
                None => record,
            };
        }
        self.ours(shape, vec![record]).await
    }

    /// Whether the same search finds a transaction that is known to be there. Other rows under its number (a refused
    /// attempt) do no harm: that the filter works was shown by our own number, under which nothing came.
    async fn finds(&mut self, kind: Kind, control: &Control) -> bool {
        let name = if kind == Kind::Sales {
            "sale"
        } else {
            "authorization"
        };
        let Some(guid) = control.ids.get(name) else {
            return false;
        };
        let rows = self
            .search(kind, &Filter::OrderNumber(control.reference.as_str()))
            .await;
        rows.is_ok_and(|rows| rows.iter().any(|row| is_guid(row, guid)))
    }

    /// Rows worth reading: those that can be ours, those with our amount first. It only decides the order.
    fn candidates(&self, rows: Vec<Record>) -> Vec<Record> {
        let reference = self.subject.reference.as_str();
        let possible = |row: &Record| {
            row.order_number
                .as_deref()
                .is_none_or(|order| order == reference)
                || gateway_core::sabotaged!(LookUpByAmount)
        };
        let mut rows: Vec<Record> = rows.into_iter().filter(possible).collect();
        rows.sort_by_key(|row| self.money(row.amount.as_ref()) != Some(self.subject.amount));
        rows.truncate(CANDIDATES_MAX);
        rows
    }

    async fn ours(&mut self, shape: Shape, records: Vec<Record>) -> Finding {
        let mut approved = Vec::new();
        let mut declined = None;
        for record in records {
            match status(&record) {
                Some(Status::Approved) => approved.push(record),
                Some(Status::Declined) => declined = Some(record),
                // Stored, and the processor not asked, or not reached: their books are not finished with it.
                _ => return could_not("the record is there, without a result"),
            }
        }
        if approved.len() > 1 {
            let detail = format!(
                "{} approved transactions carry our reference",
                approved.len()
            );
            return Finding::Contradiction { detail };
        }
        match (approved.pop(), declined) {
            (Some(record), _) => self.approved(shape, record).await,
            (None, Some(record)) => self.scrubbed(|scrub| declined_record(&record, scrub)),
            (None, None) => could_not("no record"),
        }
    }

    async fn approved(&mut self, shape: Shape, record: Record) -> Finding {
        if let Some(detail) = contradiction(&record) {
            return Finding::Contradiction {
                detail: detail.to_owned(),
            };
        }
        let asked = self.subject.amount;
        let Some(amount) = self.approved_amount(&record) else {
            return could_not("an amount that cannot be read");
        };
        let approval = self.scrubbed(|scrub| answers::approval(shape, &record, amount, scrub));
        let Some(approval) = approval else {
            return could_not("a record without an id");
        };
        let captured = id(self.subject, "sale").or(id(self.subject, "capture"));
        if shape == Shape::AuthOnly && (captured.is_some() || record.related_capture.is_some()) {
            return self.captured(approval, &record).await;
        }
        let Some(remaining) = self.remaining(&record) else {
            return could_not("a record without an effective amount");
        };
        // What is undone is what stands: by books that let more stand than came in, more would be given back.
        if remaining > amount.minor() {
            return more_than_approved();
        }
        // A hold is never settled, whatever its batch says.
        let settled = shape == Shape::Sale && is_settled(&record);
        if is_part(&record) && amount == asked && remaining == asked.minor() {
            let detail = "approved in part, without saying how much".to_owned();
            return Finding::Contradiction { detail };
        }
        // A sale is not adopted, but reversed.
        if shape == Shape::AuthOnly {
            answers::tell_warning(self.subject, &record);
        }
        Finding::Found(Found::Approved {
            approval,
            standing: Standing { remaining, settled },
        })
    }

    /// An authorization that was captured: what stands of it is the sale.
    async fn captured(&mut self, mut approval: Approval, record: &Record) -> Finding {
        let sale = match id(self.subject, "sale") {
            Some(sale) => {
                approval.ids.extend(&self.subject.parent);
                sale.to_owned()
            }
            None => match self.sale_captured(&approval, record).await {
                Ok(ids) => {
                    approval.ids.extend(&ids);
                    ids.get("sale").unwrap_or_default().to_owned()
                }
                Err(detail) => return Finding::CouldNotAsk { detail },
            },
        };
        match self.stands(Kind::Sales, &sale, None).await {
            Ok(sale) if sale.remaining > approval.amount.minor() => more_than_approved(),
            Ok(sale) => Finding::Found(Found::Approved {
                approval,
                standing: Standing {
                    remaining: sale.remaining,
                    settled: sale.settled,
                },
            }),
            Err(detail) => Finding::CouldNotAsk { detail },
        }
    }

    /// The ids of an authorization's capture, and of the sale that it made.
    async fn sale_captured(
        &mut self,
        authorization: &Approval,
        record: &Record,
    ) -> Result<UpstreamIds, String> {
        let related = record.related_capture.as_ref();
        let named = related.and_then(|related| related.guid.as_deref());
        let capture = named.or(id(self.subject, "capture"));
        let capture = capture.ok_or("captured, and the capture is not named")?;
        let capture = self.read(Kind::Captures, capture).await?;
        if !names(&capture, &authorization.upstream_reference) {
            return Err("the capture that it names is another authorization's".to_owned());
        }
        let ids = answers::approval(
            Shape::Capture,
            &capture,
            authorization.amount,
            Scrub::default(),
        )
        .map(|capture| capture.ids)
        .ok_or("a capture without an id")?;
        if ids.get("sale").is_none() {
            return Err("a capture without its sale".to_owned());
        }
        Ok(ids)
    }

    /// A capture, by the authorization that it names: there is at most one.
    pub(super) async fn capture(&mut self) -> Finding {
        let Some(authorization) = id(self.subject, "authorization").map(str::to_owned) else {
            return could_not("the payment has no authorization");
        };
        let finding = match self.capture_of(&authorization).await {
            Ok(Captured::By(capture)) => return self.found_capture(&capture),
            Ok(Captured::Not { conclusive }) => return Finding::NotFound { conclusive },
            Err(detail) => Finding::CouldNotAsk { detail },
        };
        // Where captures cannot be read, the sale that ours made can be found by our order number.
        let sales = self
            .search(
                Kind::Sales,
                &Filter::OrderNumber(self.subject.reference.as_str()),
            )
            .await;
        let reference = self.subject.reference.as_str();
        let sale = sales.ok().and_then(|rows| {
            rows.into_iter().find(|row| {
                row.order_number.as_deref() == Some(reference)
                    && status(row) == Some(Status::Approved)
                    && row.guid.is_some()
            })
        });
        match sale {
            Some(sale) if self.money(sale.amount.as_ref()) == Some(self.subject.amount) => {
                let guid = sale.guid.clone().unwrap_or_default();
                let remaining = self.remaining(&sale).unwrap_or(self.subject.amount.minor());
                let settled = is_settled(&sale);
                self.followed(
                    UpstreamIds::default().with("sale", guid.as_str()),
                    guid,
                    remaining,
                    settled,
                )
            }
            _ => finding,
        }
    }

    /// The capture of an authorization, if there is one; why it cannot be told, if not. How fresh a search is, nobody
    /// documents: that there is none is settled only if the authorization itself, read by its id, stands untouched too.
    async fn capture_of(&mut self, authorization: &str) -> Result<Captured, String> {
        let subject = self.subject;
        let record = self.read(Kind::AuthOnlys, authorization).await;
        let row = match &subject.parent_reference {
            Some(reference) => {
                let rows = self
                    .search(Kind::AuthOnlys, &Filter::OrderNumber(reference.as_str()))
                    .await;
                rows.and_then(|rows| {
                    let row = rows.into_iter().find(|row| is_guid(row, authorization));
                    row.ok_or_else(|| "the search does not find the authorization".to_owned())
                })
            }
            None => Err("the authorization's reference is not known".to_owned()),
        };
        let named_by_record = record
            .as_ref()
            .ok()
            .and_then(|record| record.related_capture.clone());
        let related = match &row {
            Ok(row) => named_by_record.or_else(|| row.related_capture.clone()),
            Err(_) => named_by_record,
        };
        match (related, row) {
            (Some(Related { guid: Some(guid) }), _) => {
                let capture = self.read(Kind::Captures, &guid).await?;
                return if names(&capture, authorization) {
                    Ok(Captured::By(Box::new(capture)))
                } else {
                    Err("the capture that it names is another authorization's".to_owned())
                };
            }
            (Some(Related { guid: None }), _) => {
                tracing::debug!("the capture is not named: looking for it among all");
            }
            (None, Ok(row)) => {
                let conclusive =
                    record.is_ok_and(|record| self.is_untouched(&with_row(record, row)));
                return Ok(Captured::Not { conclusive });
            }
            (None, Err(detail)) => tracing::debug!(detail, "looking for the capture among all"),
        }
        let order = subject.parent_reference.as_ref().map(AsRef::<str>::as_ref);
        let rows = self.search(Kind::Captures, &Filter::Days(subject)).await?;
        let possible = |row: &Record| {
            let theirs = row
                .auth_only
                .as_ref()
                .and_then(|auth| auth.order_number.as_deref());
            theirs.is_none() || theirs == order
        };
        let guids = rows
            .iter()
            .filter(|row| possible(row))
            .filter_map(|row| row.guid.clone());
        for guid in guids.take(CANDIDATES_MAX).collect::<Vec<_>>() {
            let capture = self.read(Kind::Captures, &guid).await?;
            if names(&capture, authorization) {
                return Ok(Captured::By(Box::new(capture)));
            }
        }
        Err("no capture names the authorization, among those that were read".to_owned())
    }

    /// Whether an authorization stands as it was approved. One that is voided may have been captured: a void of the
    /// capture's sale voids it too.
    fn is_untouched(&self, authorization: &Record) -> bool {
        status(authorization) == Some(Status::Approved) && self.remaining(authorization) != Some(0)
    }

    fn found_capture(&self, capture: &Record) -> Finding {
        let reference = self.subject.reference.as_str();
        if capture
            .sequence_number
            .as_deref()
            .is_some_and(|theirs| !theirs.eq_ignore_ascii_case(reference))
        {
            let detail =
                "the authorization was captured by a request that is not this one".to_owned();
            return Finding::Contradiction { detail };
        }
        match status(capture) {
            Some(Status::Approved) => {}
            Some(Status::Declined) => {
                return self.scrubbed(|scrub| declined_record(capture, scrub));
            }
            _ => return could_not("the capture is there, without a result"),
        }
        if let Some(detail) = contradiction(capture) {
            return Finding::Contradiction {
                detail: detail.to_owned(),
            };
        }
        let sale = capture.sale_of_capture();
        let captured = [
            capture.new_amount.as_ref(),
            capture.amount.as_ref(),
            sale.and_then(|sale| sale.amount.as_ref()),
        ];
        // A list shows 0 whatever was captured.
        let captured = captured
            .into_iter()
            .filter_map(|amount| self.money(amount))
            .find(|amount| !amount.is_zero());
        // The amount may be what was asked for, where the code says that it is a part.
        let in_part = is_part(capture) || sale.is_some_and(is_part);
        if in_part || captured.is_some_and(|amount| amount != self.subject.amount) {
            let detail = "another amount was captured than asked".to_owned();
            return Finding::Contradiction { detail };
        }
        let amount = self.subject.amount;
        let approval =
            self.scrubbed(|scrub| answers::approval(Shape::Capture, capture, amount, scrub));
        let Some(approval) = approval else {
            return could_not("a capture without an id");
        };
        answers::tell_warning(self.subject, capture);
        let stands = sale.unwrap_or(capture);
        let remaining = self
            .remaining(stands)
            .unwrap_or(self.subject.amount.minor());
        Finding::Found(Found::Approved {
            approval,
            standing: Standing {
                remaining,
                settled: is_settled(stands),
            },
        })
    }

    /// A void, or a refund that was sent as one: nothing is left of what it names.
    pub(super) async fn void(&mut self) -> Finding {
        let (kind, guid) = match Target::of(self.subject) {
            Ok(Target::Sale(guid)) => (Kind::Sales, guid.to_owned()),
            Ok(Target::Authorization(guid)) => (Kind::AuthOnlys, guid.to_owned()),
            Err(Missing::Id(name)) => return could_not(&format!("the payment has no {name}")),
            Err(Missing::Card | Missing::Verb) => return could_not("not a void"),
        };
        let reference = self
            .subject
            .parent_reference
            .as_ref()
            .map(AsRef::<str>::as_ref);
        let stands = match self.stands(kind, &guid, reference).await {
            Ok(stands) => stands,
            Err(detail) => return Finding::CouldNotAsk { detail },
        };
        let before = self
            .subject
            .prepared
            .as_ref()
            .and_then(|prepared| prepared.baseline);
        let before = before.unwrap_or(self.subject.amount.minor());
        match stands.remaining {
            0 => {
                let void = stands.record.related_void.and_then(|related| related.guid);
                self.followed(
                    UpstreamIds::default(),
                    void.unwrap_or(guid),
                    0,
                    stands.settled,
                )
            }
            // A row may be older than the void: it settles nothing, and contradicts nothing.
            remaining if !stands.is_read() && remaining == before => {
                Finding::NotFound { conclusive: false }
            }
            _ if !stands.is_read() => could_not("what stands is known from a search only"),
            remaining if remaining == before => {
                match self.void_in_list(kind, &guid, reference).await {
                    Ok(None) => Finding::NotFound { conclusive: true },
                    Ok(Some(void)) => self.followed(
                        UpstreamIds::default(),
                        void.unwrap_or(guid),
                        0,
                        stands.settled,
                    ),
                    Err(detail) => Finding::CouldNotAsk { detail },
                }
            }
            remaining => Finding::Contradiction {
                detail: format!("before the void {before} stood, and now {remaining}"),
            },
        }
    }

    /// The void that a list names beside an authorization: whether its effective amount shows one is not documented.
    async fn void_in_list(
        &mut self,
        kind: Kind,
        guid: &str,
        reference: Option<&str>,
    ) -> Result<Option<Option<String>>, String> {
        let (Kind::AuthOnlys, Some(reference)) = (kind, reference) else {
            return Ok(None);
        };
        let rows = self.search(kind, &Filter::OrderNumber(reference)).await?;
        let row = rows.into_iter().find(|row| is_guid(row, guid));
        let row = row.ok_or_else(|| "the search does not find the authorization".to_owned())?;
        Ok(row.related_void.map(|related| related.guid))
    }

    pub(super) fn followed(
        &self,
        ids: UpstreamIds,
        reference: String,
        remaining: i64,
        settled: bool,
    ) -> Finding {
        let approval = Approval {
            ids,
            upstream_reference: reference,
            authorization_code: None,
            amount: self.subject.amount,
            card: None,
        };
        Finding::Found(Found::Approved {
            approval,
            standing: Standing { remaining, settled },
        })
    }

    /// What was approved, at the time: what is left of it now is another matter.
    fn approved_amount(&self, record: &Record) -> Option<Money> {
        let amount = match &record.amount {
            Some(amount) => self.money(Some(amount))?,
            None => self.subject.amount,
        };
        let left = self
            .money(record.effective_amount.as_ref())
            .filter(|_| is_part(record));
        let parts = [self.money(record.partially_approved_amount.as_ref()), left];
        let smallest = parts
            .into_iter()
            .flatten()
            .filter(|part| !part.is_zero())
            .map(Money::minor)
            .min();
        let minor = smallest.map_or(amount.minor(), |part| part.min(amount.minor()));
        Money::new(minor, amount.currency()).ok()
    }
}

fn more_than_approved() -> Finding {
    Finding::Contradiction {
        detail: "more stands of it than was approved".to_owned(),
    }
}

pub(super) fn could_not(detail: &str) -> Finding {
    Finding::CouldNotAsk {
        detail: detail.to_owned(),
    }
}

/// What only rows tell.
fn with_row(mut record: Record, row: Record) -> Record {
    record.related_capture = record.related_capture.or(row.related_capture);
    record.related_void = record.related_void.or(row.related_void);
    record
}

/// Whether the record is ours: by the sequence number where it has one, else by the order number.
fn carries(record: &Record, row: &Record, reference: &str) -> bool {
    let order = record
        .order_number
        .as_deref()
        .or(row.order_number.as_deref());
    let theirs = record.sequence_number.as_deref().or(order);
    theirs.is_some_and(|theirs| theirs.eq_ignore_ascii_case(reference))
}

fn names(capture: &Record, authorization: &str) -> bool {
    let nested = capture
        .auth_only
        .as_ref()
        .and_then(|auth| auth.guid.as_deref());
    let named = capture.auth_only_guid.as_deref().or(nested);
    named.is_some_and(|theirs| theirs.eq_ignore_ascii_case(authorization))
}

/// Approved for less than was asked, whatever its amounts say.
pub(super) fn is_part(record: &Record) -> bool {
    let code = record.processor_status_code.as_deref();
    code.is_some_and(codes::is_partial)
}

/// Why an approved record may be no payment.
fn contradiction(record: &Record) -> Option<&'static str> {
    if record.was_processed == Some(false) {
        return Some("approved, yet not processed");
    }
    if record.risk_processing_only == Some(true) {
        return Some("a risk check without an authorisation");
    }
    let code = record.processor_status_code.as_deref();
    code.is_some_and(|code| !codes::is_success(code))
        .then_some("approved, with a code that is no approval")
}

/// A record whose status is "declined". Unlike an answer, their finished books are believed whatever the code: a time-out
/// code there is how it ended.
fn declined_record(record: &Record, scrub: Scrub<'_>) -> Finding {
    if record.was_processed == Some(true) {
        return Finding::Contradiction {
            detail: "declined, yet processed".to_owned(),
        };
    }
    let code = record.processor_status_code.as_deref();
    let listed = code.and_then(codes::by_code);
    let class = listed
        .and_then(|listed| listed.class.decline())
        .unwrap_or(DeclineClass::Soft);
    let message = listed
        .map_or("declined", |listed| listed.message)
        .to_owned();
    Finding::Found(Found::Declined(Decline {
        class,
        code: code.map(|code| scrub.clean(code)),
        message,
    }))
}
