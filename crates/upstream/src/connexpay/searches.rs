//! Asking for their records: searches with their traps, and reads by id.
//!
//! A search ignores filters that it does not know, without a word, and its rows leave out the very ids that one would
//! want. So a row is never believed: the record behind it is read, and it is ours only if it carries our reference, or
//! names our parent. A search that returns anybody else's row has ignored its filter and proves nothing by silence.

use gateway_core::connector::{CallEvidence, Subject};
use gateway_core::money::Money;
use gateway_core::token::Token;
use http::{Method, StatusCode};

use super::amount::Major;
use super::answers::Status;
use super::client::{Request, reply};
use super::wire::{Record, SearchAnswer, SearchRequest, day};
use super::{ConnexPay, body};
use crate::pool::{Response, Transport};
use crate::scrub::Scrub;

/// Rows asked for in one page. With our reference as the filter there is one; with dates there may be many.
pub(super) const PAGE: usize = 100;
/// A day on either side: their zone is unknown.
const DAY: std::time::Duration = std::time::Duration::from_hours(24);

/// What can be searched, and read by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sales,
    AuthOnlys,
    Captures,
    Returns,
}

impl Kind {
    fn search(self) -> (String, &'static str) {
        let (name, label) = match self {
            Self::Sales => ("Sales", "POST /Search/Sales"),
            Self::AuthOnlys => ("AuthOnlys", "POST /Search/AuthOnlys"),
            Self::Captures => ("Captures", "POST /Search/Captures"),
            Self::Returns => ("Returns", "POST /Search/Returns"),
        };
        (format!("/Search/{name}/false/1/{PAGE}"), label)
    }

    fn read(self, guid: &str) -> (String, &'static str) {
        let (name, label) = match self {
            Self::Sales => ("sales", "GET /sales/{guid}"),
            Self::AuthOnlys => ("AuthOnlys", "GET /AuthOnlys/{guid}"),
            Self::Captures => ("Captures", "GET /Captures/{guid}"),
            Self::Returns => ("returns", "GET /returns/{guid}"),
        };
        (format!("/{name}/{guid}"), label)
    }
}

pub(super) enum Filter<'a> {
    OrderNumber(&'a str),
    /// Around the day on which the operation was recorded.
    Days(&'a Subject),
    /// Of those, the ones of its amount: may be refused or ignored, so what is not among them may exist all the same.
    DaysAndAmount(&'a Subject),
}

/// What stands of a transaction at this moment.
pub(super) struct Stands {
    pub(super) record: Record,
    /// Minor units.
    pub(super) remaining: i64,
    pub(super) settled: bool,
    /// Why the record itself was not read, where this is told by a row of a search. A row may be older than what it tells
    /// of: how fresh a search is, nobody documents.
    pub(super) unread: Option<String>,
}

impl Stands {
    pub(super) fn is_read(&self) -> bool {
        self.unread.is_none()
    }

    /// What a later comparison may start from: nothing that may have been out of date already.
    pub(super) fn baseline(&self) -> Option<i64> {
        self.is_read().then_some(self.remaining)
    }
}

/// One look-up: the questions of one check share their evidence.
pub(super) struct Asking<'a, W> {
    connector: &'a ConnexPay<W>,
    pub(super) subject: &'a Subject,
    pub(super) evidence: Vec<CallEvidence>,
    /// The one that was sent last, which an answer may repeat.
    token: Option<Token>,
}

impl<'a, W: Transport> Asking<'a, W> {
    pub(super) fn new(connector: &'a ConnexPay<W>, subject: &'a Subject) -> Self {
        Self {
            connector,
            subject,
            evidence: Vec::new(),
            token: None,
        }
    }

    async fn ask(&mut self, request: &Request<'_>) -> Result<Response, String> {
        let client = &self.connector.client;
        let (response, token) = client.ask(request, &mut self.evidence).await?;
        self.token = Some(token);
        Ok(response)
    }

    /// A look-up holds no card data; what it was asked with could come back.
    pub(super) fn scrubbed<T>(&self, read: impl FnOnce(Scrub<'_>) -> T) -> T {
        let passwords = self.connector.login.passwords();
        read(Scrub {
            payer: None,
            token: self.token.as_ref().map(Token::expose),
            passwords: &passwords,
        })
    }

    /// What stands of a known transaction: by its id, or, where that route is missing, by the search.
    pub(super) async fn stands(
        &mut self,
        kind: Kind,
        guid: &str,
        reference: Option<&str>,
    ) -> Result<Stands, String> {
        let (record, unread) = match (self.read(kind, guid).await, reference) {
            (Ok(record), _) => (record, None),
            (Err(unread), None) => return Err(unread),
            (Err(unread), Some(reference)) => {
                let rows = self.search(kind, &Filter::OrderNumber(reference)).await?;
                let row = rows.into_iter().find(|row| is_guid(row, guid));
                match row {
                    Some(row) => (row, Some(unread)),
                    None => return Err(unread),
                }
            }
        };
        if status(&record) != Some(Status::Approved) {
            return Err("the transaction is not approved in their books".to_owned());
        }
        let remaining = self
            .remaining(&record)
            .ok_or("a record without an effective amount")?;
        let settled = kind == Kind::Sales && is_settled(&record);
        Ok(Stands {
            record,
            remaining,
            settled,
            unread,
        })
    }

    /// The sale that a capture made.
    pub(super) async fn sale_of(&mut self, capture: &str) -> Result<String, String> {
        let record = self.read(Kind::Captures, capture).await?;
        let sale = record.sale_of_capture().and_then(|sale| sale.guid.clone());
        sale.ok_or_else(|| "the capture does not name its sale".to_owned())
    }

    pub(super) fn money(&self, amount: Option<&super::amount::Decimal>) -> Option<Money> {
        amount.and_then(|amount| amount.money(self.subject.amount.currency()))
    }

    pub(super) fn remaining(&self, record: &Record) -> Option<i64> {
        if record.related_void.is_some() {
            return Some(0);
        }
        self.money(record.effective_amount.as_ref())
            .map(Money::minor)
    }

    pub(super) async fn search(
        &mut self,
        kind: Kind,
        filter: &Filter<'_>,
    ) -> Result<Vec<Record>, String> {
        let config = &self.connector.config;
        let merchant_guid = config.merchant_guid.as_str();
        let request = match filter {
            Filter::OrderNumber(reference) => SearchRequest {
                merchant_guid,
                order_number: Some(reference),
                amount_from: None,
                amount_to: None,
                time_stamp_from: None,
                time_stamp_to: None,
            },
            Filter::Days(subject) | Filter::DaysAndAmount(subject) => {
                let amount =
                    matches!(filter, Filter::DaysAndAmount(_)).then(|| Major(subject.amount));
                SearchRequest {
                    merchant_guid,
                    order_number: None,
                    amount_from: amount,
                    amount_to: amount,
                    time_stamp_from: Some(day(subject.recorded_at - DAY)),
                    time_stamp_to: Some(day(subject.recorded_at + DAY + DAY)),
                }
            }
        };
        let (path, label) = kind.search();
        let request = Request {
            method: Method::POST,
            path: &path,
            label,
            body: body::json(&request),
            timeout: config.read_timeout,
        };
        let response = self.ask(&request).await?;
        let reply = reply(&response);
        if response.status == StatusCode::NO_CONTENT {
            return Ok(Vec::new());
        }
        if !reply.is_success() {
            // Their name for an empty result, which may come as an error.
            let none = reply
                .own_error()
                .is_some_and(|text| text.trim().eq_ignore_ascii_case("NoResultFound204"));
            return if none {
                Ok(Vec::new())
            } else {
                Err(format!("{label}: HTTP {}", reply.status))
            };
        }
        let Some(answer) = reply.object::<SearchAnswer>() else {
            return Err(format!("{label}: not a search result"));
        };
        let said = answer.count.or(answer.total_results);
        let rows = answer
            .ret
            .or(answer.search_result)
            .ok_or_else(|| format!("{label}: a result without rows"))?;
        if rows.is_empty() && said.is_some_and(|count| count > 0) {
            return Err(format!("{label}: a count without rows"));
        }
        Ok(rows)
    }

    /// The record of a known id. Another record than asked for, or one of another device, is no answer.
    pub(super) async fn read(&mut self, kind: Kind, guid: &str) -> Result<Record, String> {
        let (path, label) = kind.read(guid);
        let request = Request {
            method: Method::GET,
            path: &path,
            label,
            body: bytes::Bytes::new(),
            timeout: self.connector.config.read_timeout,
        };
        let response = self.ask(&request).await?;
        let reply = reply(&response);
        if !reply.is_success() {
            return Err(format!("{label}: HTTP {}", reply.status));
        }
        let no_answer = |what| format!("{label}: {what}");
        let record = reply.record().ok_or_else(|| no_answer("not a record"))?;
        if !is_guid(&record, guid) {
            return Err(no_answer("another record than asked for"));
        }
        let device = &self.connector.config.device_guid;
        if record
            .device_guid
            .as_ref()
            .is_some_and(|theirs| !theirs.eq_ignore_ascii_case(device))
        {
            return Err(no_answer("a record of another device"));
        }
        Ok(record)
    }
}

pub(super) fn status(record: &Record) -> Option<Status> {
    record.status.as_deref().map(Status::parse)
}

pub(super) fn is_guid(record: &Record, guid: &str) -> bool {
    record
        .guid
        .as_deref()
        .is_some_and(|theirs| theirs.eq_ignore_ascii_case(guid))
}

pub(super) fn is_settled(record: &Record) -> bool {
    let status = record.batch_status.as_deref().unwrap_or_default();
    status
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .eq_ignore_ascii_case("batch - closed")
}
