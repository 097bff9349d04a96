//! Their JSON: requests in the reference's capitalised names, answers in its uncapitalised ones.
//!
//! Newer answers carry many fields that the reference does not know, and any field may be missing: every one is
//! optional here, unknown ones are ignored, and what is missing is a question for `answers`.

use gateway_core::card::Sensitive;
use gateway_core::clock::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::amount::{Decimal, Major};
use super::ascii::Spelled;
use super::risk::RiskData;

/// `POST /sales`, `POST /AuthOnlys`, `POST /Verify`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ChargeRequest<'a> {
    pub(super) device_guid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) amount: Option<Major>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sequence_number: Option<&'a str>,
    /// The searchable name; our reference too, never the caller's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) order_number: Option<&'a str>,
    /// Absent means the merchant's default, and true would approve without an authorisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) risk_processing_only: Option<bool>,
    /// Absent means true: the cardholder is mailed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) send_receipt: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) statement_description: Option<&'a str>,
    #[serde(
        rename = "ConnexPayTransaction",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) connexpay_transaction: Option<ConnexPayTransaction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) risk_data: Option<RiskData<'a>>,
    pub(super) card: CardRequest<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ConnexPayTransaction {
    pub(super) expected_payments: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CardRequest<'a> {
    pub(super) card_number: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) card_holder_name: Option<Spelled>,
    /// The table says integer and the samples send a string, which alone keeps a leading zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cvv2: Option<&'a str>,
    /// `YYMM`; may be absent with a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expiration_date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) customer: Option<CustomerRequest>,
}

/// Text that non-ASCII characters have been spelled out of.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CustomerRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_name: Option<Spelled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_name: Option<Spelled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) phone: Option<Spelled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) city: Option<Spelled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<Spelled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) country: Option<Spelled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) email: Option<Spelled>,
    /// With `zip`, what the address check compares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address1: Option<Spelled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address2: Option<Spelled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) zip: Option<Spelled>,
}

/// `POST /Captures`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CaptureRequest<'a> {
    pub(super) device_guid: &'a str,
    pub(super) auth_only_guid: &'a str,
    /// Absent: the whole authorisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) new_amount: Option<Major>,
    pub(super) sequence_number: &'a str,
    pub(super) order_number: &'a str,
}

/// `POST /void`: exactly one of the two ids. By id, because reference numbers repeat.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VoidRequest<'a> {
    pub(super) device_guid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sale_guid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auth_only_guid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) void_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sequence_number: Option<&'a str>,
}

/// `POST /returns`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReturnRequest<'a> {
    pub(super) device_guid: &'a str,
    pub(super) sale_guid: &'a str,
    pub(super) amount: Major,
    pub(super) sequence_number: &'a str,
}

/// `POST /timeoutreversal`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TimeoutReversalRequest<'a> {
    pub(super) device_guid: &'a str,
    pub(super) sequence_number: &'a str,
}

/// `POST /Search/{kind}/false/1/{size}`. The one filter that is known to work, or a window of days, and amounts within it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SearchRequest<'a> {
    pub(super) merchant_guid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) order_number: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) amount_from: Option<Major>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) amount_to: Option<Major>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) time_stamp_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) time_stamp_to: Option<String>,
}

/// A day as their date filters take it. Their zone is unknown, so windows are a day wider on both sides.
pub(super) fn day(at: Timestamp) -> String {
    at.rfc3339().chars().take(10).collect()
}

/// Any transaction, as answered, read or listed. Nested ones have the same form.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Record {
    #[serde(deserialize_with = "guid")]
    pub(super) guid: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) status: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) batch_status: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) device_guid: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) sequence_number: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) order_number: Option<String>,
    pub(super) amount: Option<Decimal>,
    /// What is left after voids and returns.
    pub(super) effective_amount: Option<Decimal>,
    /// A capture's amount.
    pub(super) new_amount: Option<Decimal>,
    pub(super) partially_approved_amount: Option<Decimal>,
    #[serde(deserialize_with = "text")]
    pub(super) processor_status_code: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) processor_response_message: Option<String>,
    pub(super) was_processed: Option<bool>,
    #[serde(deserialize_with = "text")]
    pub(super) auth_code: Option<String>,
    #[serde(deserialize_with = "guid")]
    pub(super) sale_guid: Option<String>,
    #[serde(deserialize_with = "guid")]
    pub(super) auth_only_guid: Option<String>,
    pub(super) risk_processing_only: Option<bool>,
    pub(super) risk_response: Option<RiskResponse>,
    pub(super) card: Option<CardAnswer>,
    pub(super) related_sale: Option<Box<Record>>,
    pub(super) sale: Option<Box<Record>>,
    pub(super) auth_only: Option<Box<Record>>,
    #[serde(deserialize_with = "related")]
    pub(super) related_capture: Option<Related>,
    #[serde(deserialize_with = "related")]
    pub(super) related_void: Option<Related>,
    /// An error body's text; no transaction has one.
    #[serde(alias = "Message", deserialize_with = "text")]
    pub(super) message: Option<String>,
}

impl Record {
    /// The sale that a capture made: `relatedSale` in the reference, `sale` in newer answers.
    pub(super) fn sale_of_capture(&self) -> Option<&Record> {
        self.related_sale.as_deref().or(self.sale.as_deref())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RiskResponse {
    #[serde(deserialize_with = "text")]
    pub(super) response: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CardAnswer {
    /// The token, ending in the real last four.
    #[serde(deserialize_with = "text")]
    pub(super) card_number: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) card_type: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) last4: Option<String>,
    /// `2030-12`, where the request says `3012`.
    #[serde(deserialize_with = "text")]
    pub(super) expiration_date: Option<String>,
}

/// A transaction that another names. Rows say `null` or not; the form of "not" is unpublished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Related {
    pub(super) guid: Option<String>,
}

/// Both envelopes of a search: that of the reference, and the newer one with pages.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SearchAnswer {
    pub(super) count: Option<u64>,
    pub(super) ret: Option<Vec<Record>>,
    #[serde(rename = "totalResults")]
    pub(super) total_results: Option<u64>,
    #[serde(rename = "searchResultDTO")]
    pub(super) search_result: Option<Vec<Record>>,
}

/// `POST /token`.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    pub(super) access_token: Sensitive,
    pub(super) token_type: Option<String>,
    pub(super) expires_in: u64,
}

/// A text; a number's digits; nothing for anything else. What decides about money is compared afterwards, so an
/// unexpected form ends as "unknown" there, and a side note in an unexpected form does not spoil an answer.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    Ok(text_of(&raw))
}

fn text_of(raw: &RawValue) -> Option<String> {
    let json = raw.get();
    let text = match json.as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(json).ok()?,
        b'-' | b'0'..=b'9' => json.to_owned(),
        _ => return None,
    };
    let trimmed = text.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

/// An id of theirs in lower case. Captures in a list name their authorisation by zeros: that is no id.
fn guid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    Ok(text_of(&raw).as_deref().and_then(guid_of))
}

/// Only the form of a GUID: it goes into paths and into the ledger.
pub(super) fn guid_of(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let hexadecimal = groups
        .iter()
        .all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()));
    let is_guid = lengths == [8, 4, 4, 4, 12]
        && hexadecimal
        && text.bytes().any(|b| !matches!(b, b'0' | b'-'));
    is_guid.then_some(text)
}

fn related<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Related>, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Named {
        #[serde(deserialize_with = "guid")]
        guid: Option<String>,
    }
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    Ok(match raw.get() {
        "null" | "false" | "\"\"" | "[]" => None,
        "true" => Some(Related { guid: None }),
        json if json.starts_with('{') => {
            let guid = serde_json::from_str::<Named>(json)
                .ok()
                .and_then(|named| named.guid);
            Some(Related { guid })
        }
        _ => {
            let Some(text) = text_of(&raw) else {
                return Ok(None);
            };
            // Zeros are how this API writes "none" where it has to write an id.
            let zeros = text.bytes().all(|b| matches!(b, b'0' | b'-'));
            (!zeros).then(|| Related {
                guid: guid_of(&text),
            })
        }
    })
}
