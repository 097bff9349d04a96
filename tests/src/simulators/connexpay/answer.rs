//! Transactions as ConnexPay writes them, one form per route.

use time::format_description::BorrowedFormatItem;
use time::macros::{format_description, offset};
use time::{OffsetDateTime, UtcOffset};

use super::super::json::{Object, quote};
use super::super::site::Twist;
use super::Desk;
use super::books::{Entry, EntryKind, EntryState};
use super::card::{CardOnFile, address_check};
use super::refusal::message_of;

/// What only the answer to the creating request shows.
#[derive(Default)]
pub(super) struct Shown<'a> {
    pub(super) twist: Option<&'a Twist>,
    pub(super) risky: bool,
    pub(super) zip: Option<&'a str>,
    pub(super) cvv_given: bool,
}

/// The transaction's name in messages.
pub(super) const fn name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Sale => "Sale",
        EntryKind::AuthOnly => "AuthOnly",
        EntryKind::Capture => "Capture",
        EntryKind::Void => "Void",
        EntryKind::Return => "Return",
        EntryKind::Verify => "Verify",
    }
}

pub(super) const fn status(entry: &Entry) -> &'static str {
    match entry.state {
        EntryState::Approved | EntryState::RiskOnly => "Transaction - Approved",
        EntryState::Declined => "Transaction - Declined",
    }
}

pub(super) fn message(code: &str) -> &'static str {
    match code {
        "A0000" => "Success",
        "A0002" => "Partially Approved",
        "ARP00" => "Risk Processing Only",
        code => message_of(code),
    }
}

/// Where the sandbox stands; the zone of its time stamps is not documented, this is that of the samples.
pub(super) const ZONE: UtcOffset = offset!(-3);
const LOCAL: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:1+]");
const ZONED: &[BorrowedFormatItem<'_>] = format_description!(
    "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:1+][offset_hour sign:mandatory]:[offset_minute]"
);
const YEAR_MONTH: &[BorrowedFormatItem<'_>] = format_description!("[year repr:last_two][month]");

pub(super) fn local_time(at_ms: i64) -> OffsetDateTime {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000);
    at.unwrap_or(OffsetDateTime::UNIX_EPOCH).to_offset(ZONE)
}

/// With an offset for sales and authorizations, without for the rest: the samples show both.
pub(super) fn time_stamp(entry: &Entry) -> String {
    let format = if matches!(entry.kind, EntryKind::Sale | EntryKind::AuthOnly) {
        ZONED
    } else {
        LOCAL
    };
    local_time(entry.at_ms).format(format).unwrap_or_default()
}

pub(super) fn unzoned(at_ms: i64) -> String {
    local_time(at_ms).format(LOCAL).unwrap_or_default()
}

pub(super) fn zoned(at_ms: i64) -> String {
    local_time(at_ms).format(ZONED).unwrap_or_default()
}

/// `YYMM`, as card expiries are compared.
pub(super) fn year_month(at_ms: i64) -> String {
    local_time(at_ms).format(YEAR_MONTH).unwrap_or_default()
}

impl Desk<'_> {
    pub(super) fn batch_status(&self, entry: &Entry) -> &'static str {
        if self.ledger.is_settled(entry) {
            "Batch - Closed"
        } else {
            "Batch - Open"
        }
    }

    /// The answer to a sale, an authorization or a verification.
    pub(super) fn render_created(&self, entry: &Entry, shown: &Shown<'_>) -> String {
        let mut object = self.head(entry, shown.twist);
        if entry.kind == EntryKind::Sale {
            let response = if shown.risky { "Declined" } else { "Approved" };
            let risk = Object::new()
                .text("transactionId", &format!("79S{}", entry.reference_number))
                .text("response", response)
                .text("reason", if shown.risky { "e-mail address" } else { "" })
                .text("score", if shown.risky { "99" } else { "34" });
            object = object.raw("riskResponse", &risk.finish());
        }
        if entry.kind == EntryKind::Sale && entry.is_approved() {
            let payments = entry.expected_payments.unwrap_or(0);
            // Expected payments, filler, authorization code, date, cents: the form of the samples.
            let date = local_time(entry.at_ms);
            let code = format!(
                "{payments:02}ZZZ{}{:02}{:02}{:02}{:08}",
                entry.authorization_code,
                u8::from(date.month()),
                date.day(),
                date.year() % 100,
                entry.approved
            );
            let transaction = Object::new()
                .text("guid", &self.ledger.chance.uuid().to_string())
                .number("expectedPayments", payments)
                .text("filler", "ZZZ")
                .text("incomingTransCode", &code);
            object = object.raw("connexPayTransaction", &transaction.finish());
        }
        object = self.body(object, entry, shown.twist);
        if let Some((letter, text)) = shown.zip.and_then(address_check) {
            object = object
                .text("addressVerificationCode", letter)
                .text("addressVerificationResult", text);
        }
        if shown.cvv_given && entry.state == EntryState::Approved {
            object = object
                .text("cvvVerificationCode", "M")
                .text("cvvVerificationResult", "CVV2 matches");
        }
        if entry.kind == EntryKind::Sale {
            object = object.flag("riskProcessingOnly", entry.state == EntryState::RiskOnly);
        }
        object.finish()
    }

    /// A transaction as `GET` shows it, and as follow-ups are answered.
    pub(super) fn render(&self, entry: &Entry, twist: Option<&Twist>) -> String {
        let object = self.head(entry, twist);
        self.body(object, entry, twist).finish()
    }

    fn head(&self, entry: &Entry, twist: Option<&Twist>) -> Object {
        let status = match twist {
            Some(Twist::Status(status)) => status,
            _ => status(entry),
        };
        let parent = entry
            .parent
            .as_deref()
            .and_then(|guid| self.ledger.get(guid));
        let object = Object::new()
            .text("guid", &entry.guid)
            .text("status", status)
            .text("batchStatus", self.batch_status(entry))
            .text("timeStamp", &time_stamp(entry))
            .text("deviceGuid", &entry.device);
        match (entry.kind, parent) {
            (EntryKind::Verify, _) => object,
            (EntryKind::Capture, Some(auth)) => object
                .text("authOnlyGuid", &auth.guid)
                .amount("newAmount", entry.amount)
                .amount("effectiveAmount", entry.effective),
            (EntryKind::Void, Some(target)) => {
                let name = match target.kind {
                    EntryKind::AuthOnly => "authOnlyGuid",
                    EntryKind::Return => "returnGuid",
                    _ => "saleGuid",
                };
                let reason = entry
                    .reason
                    .as_deref()
                    .filter(|reason| *reason != "timeout_reversal");
                object
                    .text(name, &target.guid)
                    .optional("voidReason", reason)
            }
            (EntryKind::Return, Some(sale)) => object
                .text("saleGuid", &sale.guid)
                .amount("amount", entry.amount),
            _ => object
                .amount("amount", entry.amount)
                .amount("effectiveAmount", entry.effective),
        }
    }

    fn body(&self, mut object: Object, entry: &Entry, twist: Option<&Twist>) -> Object {
        let processed =
            entry.state != EntryState::Declined && !matches!(twist, Some(Twist::Status(_)));
        let creates = matches!(entry.kind, EntryKind::Sale | EntryKind::AuthOnly);
        if creates {
            object = object.text("cardDataSource", "INTERNET");
        }
        object = object
            .optional("batchGuid", entry.batch.as_deref())
            .text("processorStatusCode", &entry.code);
        if creates || entry.kind == EntryKind::Capture {
            object = object.text("processorResponseMessage", message(&entry.code));
        }
        object = object.flag("wasProcessed", processed);
        if entry.kind != EntryKind::Verify {
            let number = entry.reference_number.to_string();
            // An issuer that said no gave no code.
            let code = Some(entry.authorization_code.as_str())
                .filter(|_| entry.state != EntryState::Declined);
            object = object
                .optional("authCode", code)
                .text("refNumber", &number)
                .text(
                    "invoiceNumber",
                    entry.order_number.as_deref().unwrap_or(&number),
                );
        }
        if creates {
            object = object
                .optional("statementDescription", entry.statement.as_deref())
                .text("generatedBy", &self.rules.username)
                .optional("orderNumber", entry.order_number.as_deref());
        }
        if creates || entry.kind == EntryKind::Verify {
            object = object.raw(
                "card",
                &render_card(entry.card.as_ref(), entry.holder.as_deref()),
            );
        }
        object = object.optional("sequenceNumber", entry.sequence_number.as_deref());
        let parent = entry
            .parent
            .as_deref()
            .and_then(|guid| self.ledger.get(guid));
        match (entry.kind, parent) {
            (EntryKind::Capture, Some(auth)) => {
                object = object.raw("authOnly", &self.render(auth, None));
                match self.ledger.child(EntryKind::Sale, &entry.guid) {
                    Some(sale) => object.raw("relatedSale", &self.render(sale, None)),
                    None => object,
                }
            }
            (EntryKind::Void | EntryKind::Return, Some(target)) => {
                let name = match target.kind {
                    EntryKind::AuthOnly => "authOnly",
                    EntryKind::Return => "return",
                    _ => "sale",
                };
                object.raw(name, &self.render(target, None))
            }
            _ => object,
        }
    }
}

fn render_card(card: Option<&CardOnFile>, holder: Option<&str>) -> String {
    let Some(card) = card else {
        return "null".to_owned();
    };
    let expiry = match (card.expiry.get(..2), card.expiry.get(2..)) {
        (Some(year), Some(month)) if !year.is_empty() => quote(&format!("20{year}-{month}")),
        _ => "null".to_owned(),
    };
    Object::new()
        .text("first4", &card.first_four)
        .text("last4", &card.last_four)
        .text("cardNumber", &card.token)
        .optional("cardHolderName", holder)
        .text("cardType", &card.brand)
        .raw("expirationDate", &expiry)
        .finish()
}
