//! Reading back: one transaction, all of a kind, and the searches with their documented traps.

use http::StatusCode;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Date, Month, PrimitiveDateTime, Time};

use super::super::json::{Fields, Object, array, major};
use super::super::site::Reply;
use super::Desk;
use super::answer::{self, ZONE, message, time_stamp};
use super::batch::DAY_MS;
use super::books::{Entry, EntryKind};
use super::refusal::{NO_MERCHANT, Problem};
use super::rules::Envelope;

const NOBODY: &str = "00000000-0000-0000-0000-000000000000";
const ISO_DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");

/// The filters that searches understand. Any other name is ignored without a word, as integrators found out.
struct Filters {
    amount_from: Option<i64>,
    amount_to: Option<i64>,
    holder: Option<String>,
    last_four: Option<String>,
    brand: Option<String>,
    order_number: Option<String>,
    invoice_number: Option<String>,
    reason: Option<String>,
    status: Option<String>,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
}

impl Filters {
    fn read(kind: EntryKind, body: &Fields) -> Result<Self, Problem> {
        // What a kind does not list is ignored as well.
        let creates = matches!(kind, EntryKind::Sale | EntryKind::AuthOnly);
        let carded = creates || kind == EntryKind::Verify;
        let text = |name: &str, listed: bool| if listed { body.text(name) } else { Ok(None) };
        let amounts = match kind {
            EntryKind::Sale | EntryKind::AuthOnly | EntryKind::Return => {
                Some(("AmountFrom", "AmountTo"))
            }
            EntryKind::Capture => Some(("NewAmountFrom", "NewAmountTo")),
            EntryKind::Void | EntryKind::Verify => None,
        };
        let (amount_from, amount_to) = match amounts {
            Some((from, to)) => (body.amount(from)?, body.amount(to)?),
            None => (None, None),
        };
        Ok(Self {
            amount_from,
            amount_to,
            holder: text("CardHolderName", carded)?,
            last_four: text("CardLastFour", carded)?,
            brand: text("CardType", carded)?,
            order_number: text("OrderNumber", creates)?,
            invoice_number: text("InvoiceNumber", creates)?,
            reason: text("VoidReason", kind == EntryKind::Void)?,
            status: body.text("Status")?,
            from_ms: day(body, "TimeStampFrom")?,
            to_ms: day(body, "TimeStampTo")?.map(|day| day.saturating_add(DAY_MS)),
        })
    }

    fn allow(&self, entry: &Entry) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| found.is_some_and(|found| found.eq_ignore_ascii_case(wanted)))
        };
        let card = entry.card.as_ref();
        let number = entry.reference_number.to_string();
        self.amount_from.is_none_or(|from| entry.amount >= from)
            && self.amount_to.is_none_or(|to| entry.amount <= to)
            && same(&self.holder, entry.holder.as_deref())
            && same(&self.last_four, card.map(|card| card.last_four.as_str()))
            && same(&self.brand, card.map(|card| card.brand.as_str()))
            && same(&self.order_number, entry.order_number.as_deref())
            && same(
                &self.invoice_number,
                Some(entry.order_number.as_deref().unwrap_or(&number)),
            )
            && same(&self.reason, entry.reason.as_deref())
            && same(&self.status, Some(answer::status(entry)))
            && self.from_ms.is_none_or(|from| entry.at_ms >= from)
            && self.to_ms.is_none_or(|to| entry.at_ms < to)
    }
}

impl Desk<'_> {
    pub(super) fn read(&self, kind: EntryKind, guid: &str) -> Result<Reply, Problem> {
        let entry = self
            .ledger
            .find(kind, guid)
            .ok_or(Problem::NoEntity(answer::name(kind)))?;
        Ok(Reply::json(StatusCode::OK, self.render(entry, None)))
    }

    pub(super) fn list(&self, wanted: impl Fn(&Entry) -> bool) -> Reply {
        let rows: Vec<String> = self
            .ledger
            .entries
            .iter()
            .filter(|entry| wanted(entry))
            .map(|entry| self.render(entry, None))
            .collect();
        if rows.is_empty() {
            return Reply::empty(StatusCode::NO_CONTENT);
        }
        Reply::json(StatusCode::OK, array(rows))
    }

    pub(super) fn search(
        &self,
        kind: EntryKind,
        export: bool,
        page: usize,
        size: usize,
        body: &Fields,
    ) -> Result<Reply, Problem> {
        let Some(merchant) = body.text("MerchantGuid")? else {
            return Err(Problem::Model(vec![(
                "MerchantGuid",
                "The MerchantGuid field is required.".to_owned(),
            )]));
        };
        let owns = |guid: &str| {
            self.rules
                .device(guid)
                .is_some_and(|device| device.merchant_guid.eq_ignore_ascii_case(&merchant))
        };
        if !self.rules.devices.iter().any(|device| owns(&device.guid)) {
            return Err(Problem::text(NO_MERCHANT));
        }
        let filters = Filters::read(kind, body)?;
        let lag = i64::try_from(self.rules.search_lag_ms).unwrap_or(i64::MAX);
        let found: Vec<&Entry> = self
            .ledger
            .with_order(filters.order_number.as_deref())
            .filter(|entry| entry.kind == kind && owns(&entry.device) && filters.allow(entry))
            .filter(|entry| self.now_ms - entry.at_ms >= lag)
            .collect();
        let rows = found
            .iter()
            .skip((page - 1).saturating_mul(size))
            .take(size);
        if export {
            let lines = rows.map(|entry| {
                format!(
                    "{},{},{}\n",
                    answer::status(entry),
                    major(entry.amount),
                    time_stamp(entry)
                )
            });
            let csv: String = std::iter::once("Status,Amount,TimeStamp\n".to_owned())
                .chain(lines)
                .collect();
            return Ok(Reply {
                content_type: "text/csv",
                ..Reply::json(StatusCode::OK, csv)
            });
        }
        let rows: Vec<String> = rows.map(|entry| self.row(entry)).collect();
        if rows.is_empty() {
            return Ok(Reply::empty(StatusCode::NO_CONTENT));
        }
        let body = match self.rules.search_envelope {
            Envelope::Count => counted(rows),
            Envelope::Pages => Object::new()
                .raw("pageCurrent", &page.to_string())
                .raw("pageCurrentResults", &rows.len().to_string())
                .raw("pageTotal", &found.len().div_ceil(size).to_string())
                .raw("pageSize", &size.to_string())
                .raw("totalResults", &found.len().to_string())
                .raw("cardSummary", "null")
                .raw("searchResultDTO", &array(rows))
                .finish(),
        };
        Ok(Reply::json(StatusCode::OK, body))
    }

    /// Search rows are shallow, and leave out the very ids one would want most.
    fn row(&self, entry: &Entry) -> String {
        let object = Object::new().text("status", answer::status(entry));
        let parent = entry
            .parent
            .as_deref()
            .and_then(|guid| self.ledger.get(guid));
        match entry.kind {
            EntryKind::Sale => object
                .amount("amount", entry.amount)
                .raw("card", &card_row(entry))
                .text("timeStamp", &time_stamp(entry))
                .text("processorResponseMessage", message(&entry.code))
                .amount("effectiveAmount", entry.effective)
                .text("batchStatus", self.batch_status(entry))
                .text("guid", &entry.guid)
                .text("deviceGuid", &entry.device)
                .finish(),
            EntryKind::AuthOnly => object
                .amount("amount", entry.amount)
                .raw("card", &card_row(entry))
                .nullable("orderNumber", entry.order_number.as_deref())
                .raw("orderDate", "null")
                .text("timeStamp", &time_stamp(entry))
                .raw("customerId", "null")
                .text("processorResponseMessage", message(&entry.code))
                .text("batchStatus", self.batch_status(entry))
                .raw("relatedCapture", &self.related(EntryKind::Capture, entry))
                .raw("relatedVoid", &self.related(EntryKind::Void, entry))
                .text("guid", &entry.guid)
                .text("deviceGuid", &entry.device)
                .finish(),
            EntryKind::Capture => object
                .raw(
                    "authOnly",
                    &parent.map_or_else(|| "null".to_owned(), hollow_authorization),
                )
                .number("newAmount", 0) // As in the sample, whatever was captured.
                .text("timeStamp", &time_stamp(entry))
                .text("processorResponseMessage", message(&entry.code))
                .text("batchStatus", self.batch_status(entry))
                .text("guid", &entry.guid)
                .finish(),
            EntryKind::Void => {
                let sale = parent.map_or_else(
                    || "null".to_owned(),
                    |target| {
                        Object::new()
                            .amount("amount", target.amount)
                            .raw("card", &card_row(target))
                            .finish()
                    },
                );
                let reason = entry
                    .reason
                    .as_deref()
                    .filter(|reason| *reason != "timeout_reversal");
                object
                    .raw("sale", &sale)
                    .nullable("voidReason", reason)
                    .text("timeStamp", &time_stamp(entry))
                    .text("processorStatusCode", &entry.code)
                    .text("batchStatus", self.batch_status(entry))
                    .text("guid", &entry.guid)
                    .finish()
            }
            EntryKind::Return => object
                .amount("amount", entry.amount)
                .raw("card", &card_row(entry))
                .text("timeStamp", &time_stamp(entry))
                .text("processorStatusCode", &entry.code)
                .text("batchStatus", self.batch_status(entry))
                .text("guid", &entry.guid)
                .text("deviceGuid", &entry.device)
                .finish(),
            EntryKind::Verify => object
                .raw("card", &card_row(entry))
                .text("timeStamp", &time_stamp(entry))
                .text("processorStatusCode", &entry.code)
                .finish(),
        }
    }

    fn related(&self, kind: EntryKind, entry: &Entry) -> String {
        self.ledger.child(kind, &entry.guid).map_or_else(
            || "null".to_owned(),
            |child| {
                Object::new()
                    .text("guid", &child.guid)
                    .text("status", answer::status(child))
                    .finish()
            },
        )
    }
}

pub(super) fn counted(rows: Vec<String>) -> String {
    let count = rows.len().to_string();
    Object::new()
        .raw("count", &count)
        .raw("ret", &array(rows))
        .finish()
}

/// The start of that day at the sandbox, in Unix milliseconds: `YYYY-MM-DD` with or without a time, or `M/D/YYYY`.
pub(super) fn day(body: &Fields, name: &'static str) -> Result<Option<i64>, Problem> {
    let Some(text) = body.text(name)? else {
        return Ok(None);
    };
    let date = if text.contains('/') {
        american(&text)
    } else {
        text.get(..10)
            .and_then(|day| Date::parse(day, ISO_DAY).ok())
    };
    let date = date
        .ok_or_else(|| Problem::Model(vec![(name, format!("The field {name} is not a date."))]))?;
    let start = PrimitiveDateTime::new(date, Time::MIDNIGHT).assume_offset(ZONE);
    Ok(Some(start.unix_timestamp().saturating_mul(1000)))
}

fn american(text: &str) -> Option<Date> {
    let mut parts = text.split('/');
    let month = Month::try_from(parts.next()?.parse::<u8>().ok()?).ok()?;
    let day = parts.next()?.parse().ok()?;
    let year = parts.next()?.get(..4)?.parse().ok()?;
    Date::from_calendar_date(year, month, day).ok()
}

fn card_row(entry: &Entry) -> String {
    match &entry.card {
        Some(card) => Object::new()
            .optional("cardHolderName", entry.holder.as_deref())
            .text("cardType", &card.brand)
            .text("last4", &card.last_four)
            .finish(),
        None => "null".to_owned(),
    }
}

/// The authorization inside a row of captures: the sample's is empty but for amount and card.
fn hollow_authorization(auth: &Entry) -> String {
    Object::new()
        .raw("status", "null")
        .amount("amount", auth.amount)
        .raw("card", &card_row(auth))
        .nullable("orderNumber", auth.order_number.as_deref())
        .raw("orderDate", "null")
        .text("timeStamp", "0001-01-01T00:00:00")
        .raw("customerId", "null")
        .raw("processorResponseMessage", "null")
        .raw("batchStatus", "null")
        .raw("relatedCapture", "null")
        .raw("relatedVoid", "null")
        .text("guid", NOBODY)
        .text("deviceGuid", NOBODY)
        .finish()
}
