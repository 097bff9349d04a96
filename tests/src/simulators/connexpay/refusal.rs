//! How ConnexPay says no: error bodies, the texts of its error list, the codes of its decline table.

use http::StatusCode;

use super::super::json::{Mismatch, Object, array, quote};
use super::super::site::Reply;

/// `code<tab>message`, all 524 decline codes of the API reference.
const CODES: &str = include_str!("codes.tsv");

pub(super) const NO_DEVICE: &str = "Invalid Device GUID";
pub(super) const NO_MERCHANT: &str = "No Merchant was found for the current User";
pub(super) const NO_CARD_NUMBER: &str = "Card number, track1data or track2data missing";
pub(super) const NO_EXPIRY: &str =
    "Expiration date is required if the Card number is being sent. B.CB.GS01";
pub(super) const NO_CARD_FOR_TOKEN: &str = "There is no card match for the given Token. B.VB.C01";
pub(super) const CAPTURED_ALREADY: &str = "There is an approved Capture for this AuthOnly already";
pub(super) const NO_AUTH_TO_CAPTURE: &str =
    "The Capture AuthOnlyGuid value does not have matching results.";
pub(super) const CAPTURE_OTHER_ACCOUNT: &str =
    "The referenced AuthOnly and this Capture devices are not from the same MerchantAccount";
pub(super) const RETURN_OTHER_ACCOUNT: &str =
    "The referenced Sale and this Return devices are not from the same MerchantAccount";
pub(super) const RETURN_NO_SALE: &str = "Either the SaleGuid or SaleReferenceNumber are required";
pub(super) const RETURN_TOO_OLD: &str = "You can't return a sale run more than 180 days ago";
pub(super) const AMOUNT_EXCEEDED: &str = "Original Amount exceeded";
pub(super) const SALE_VOIDED: &str = "Sale has been voided";
pub(super) const NOT_SETTLED: &str = "Sale has not been settled";
pub(super) const SETTLED: &str = "Transaction already settled";
pub(super) const VOID_NOTHING: &str = "One of SaleGuid, AuthOnlyGuid, ReturnGuid, SaleReferenceNumber, \
     AuthOnlyReferenceNumber or ReturnReferenceNumber fields is required";
pub(super) const VOID_TOO_MANY: &str = "Only one of SaleGuid, AuthOnlyGuid, ReturnGuid, SaleReferenceNumber, \
     AuthOnlyReferenceNumber or ReturnReferenceNumber fields can be accepted";
pub(super) const AUTH_CAPTURED: &str =
    "The AuthOnly cannot be voided because it has been captured already";
pub(super) const FOREIGN_DEVICE: &str =
    "The transaction was not originated in any device of the current user.";
pub(super) const NO_OPEN_BATCH: &str = "No open batch";
pub(super) const DATABASE: &str = "There was a database error";
pub(super) const SERVER: &str = "A server error has occurred. The operation could not be finished.";
pub(super) const DENIED: &str = "Authorization has been denied for this request.";

/// A refusal before or instead of a decision of the card's issuer. Nothing is in the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// A text of the error list, as `422`.
    Text(String),
    /// A code of the decline table, as `422`.
    Code(&'static str),
    /// A required field is absent or outside its limits, as `400`: name and objection of each.
    Model(Vec<(&'static str, String)>),
    /// The JSON does not bind, as `400`.
    Unreadable,
    /// No such entity, as `404`.
    NoEntity(&'static str),
    /// As `500`.
    Database,
}

impl From<Mismatch> for Problem {
    fn from(_: Mismatch) -> Self {
        Self::Unreadable
    }
}

impl From<std::io::Error> for Problem {
    fn from(_: std::io::Error) -> Self {
        Self::Database
    }
}

impl Problem {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub(super) fn reply(&self) -> Reply {
        match self {
            Self::Text(text) => error(StatusCode::UNPROCESSABLE_ENTITY, text),
            Self::Code(code) => error(StatusCode::UNPROCESSABLE_ENTITY, &decline_text(code)),
            Self::Unreadable => error(StatusCode::BAD_REQUEST, "Unable to decode the Model"),
            Self::NoEntity(kind) => error(
                StatusCode::NOT_FOUND,
                &format!("No {kind} could be found for the given Id"),
            ),
            Self::Database => error(StatusCode::INTERNAL_SERVER_ERROR, DATABASE),
            Self::Model(faults) => {
                let state = faults
                    .iter()
                    .fold(Object::new(), |state, (name, objection)| {
                        state.raw(name, &array([quote(objection)]))
                    });
                let body = Object::new()
                    .text("message", "The request is invalid.")
                    .raw("errorId", "null")
                    .raw("modelState", &state.finish());
                Reply::json(StatusCode::BAD_REQUEST, body.finish())
            }
        }
    }
}

pub(super) fn error(status: StatusCode, message: &str) -> Reply {
    let id = uuid::Uuid::new_v4().to_string();
    Reply::json(
        status,
        Object::new()
            .text("message", message)
            .text("errorId", &id)
            .finish(),
    )
}

/// `Error code D2020. CVV2 verification failed.`, as recorded from the live service.
pub(super) fn decline_text(code: &str) -> String {
    format!(
        "Error code {code}. {}.",
        message_of(code).trim_end_matches('.')
    )
}

pub(super) fn message_of(code: &str) -> &'static str {
    CODES
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .find(|(known, _)| *known == code)
        .map_or("Declined", |(_, message)| message)
}
