//! Every problem type the gateway speaks, in one table: status, title, advice, and the text of its page.

use http::StatusCode;
use serde::Serialize;

/// Whether, and how, the caller may send the same intent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// Repeating with the same idempotency key is safe, and is how the outcome is learned.
    SameKey,
    /// This key is used up: another attempt is a new intent under a new key.
    NewKey,
    /// Repeating the request as it is cannot succeed.
    Never,
}

/// What became of the money under this key, as far as this answer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MoneyMoved {
    /// The ledger was asked: nothing moved and, under this request, nothing will.
    No,
    /// It moved and came back.
    Returned,
    /// Not known from this answer, either because the outcome is open or because the ledger was not asked.
    Unknown,
}

/// What one problem type means. The advice is the default; an answer that knows more may replace it.
#[derive(Clone, Copy, Debug)]
pub struct Meaning {
    /// The last segment of `/problems/{slug}`, stable for ever.
    pub slug: &'static str,
    pub status: StatusCode,
    pub title: &'static str,
    pub retry: Retry,
    pub money_moved: MoneyMoved,
    /// What happened and what to do, for the page at `/problems/{slug}`.
    pub text: &'static str,
}

macro_rules! kinds {
    ($($kind:ident = $slug:literal, $status:ident, $retry:ident, $money:ident, $title:literal, $text:literal;)*) => {
        /// A type of problem. `problem.rs` is the only place that turns an error into one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $(#[doc = $title] $kind,)* }

        impl Kind {
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            pub const fn meaning(self) -> Meaning {
                match self {
                    $(Self::$kind => Meaning {
                        slug: $slug,
                        status: StatusCode::$status,
                        title: $title,
                        retry: Retry::$retry,
                        money_moved: MoneyMoved::$money,
                        text: $text,
                    },)*
                }
            }
        }
    };
}

// An answer given without asking the ledger says `Unknown`, even where this request sent nothing: an earlier
// request under the same key may have. A request without a usable key is `No`: no record can exist under it.
kinds! {
    MalformedRequest = "malformed-request", BAD_REQUEST, SameKey, Unknown,
        "The request could not be read",
        "The body is not JSON, nests too deeply, or a header or query parameter has the wrong form. This request sent nothing. Correct it.";
    IdempotencyKeyMissing = "idempotency-key-missing", BAD_REQUEST, NewKey, No,
        "The Idempotency-Key header is required",
        "Every POST that moves money names its intent in exactly one Idempotency-Key header. This request sent nothing.";
    IdempotencyKeyInvalid = "idempotency-key-invalid", BAD_REQUEST, NewKey, No,
        "The idempotency key is not valid",
        "A key is 1 to 255 printable ASCII characters, bare or as a quoted string, in one single header. This request sent nothing.";
    Unauthenticated = "unauthenticated", UNAUTHORIZED, SameKey, Unknown,
        "A valid bearer token is required",
        "The token is missing, expired, not yet valid, too long-lived, signed with an unknown key, or meant for another service. This request sent nothing. Get a new token and repeat with the same key.";
    Declined = "declined", PAYMENT_REQUIRED, NewKey, No,
        "The payment was declined",
        "The issuer or the processor said no; decline.class and decline.code say why. Final: this request leaves no effect. Another attempt needs a new key.";
    Duplicate = "duplicate", PAYMENT_REQUIRED, NewKey, No,
        "The processor took this for a duplicate",
        "The processor saw the same card and amount shortly before and refused this one. Final: this request leaves no effect. A deliberate second purchase needs a new key and, with some processors, a minute's wait.";
    Failed = "failed", PAYMENT_REQUIRED, NewKey, No,
        "The operation failed",
        "The processor refused to execute the request, or it is certain that it never executed it. Final: this request leaves no effect. Another attempt needs a new key.";
    Reversed = "reversed", PAYMENT_REQUIRED, NewKey, Returned,
        "The operation was reversed",
        "The outcome was unknown or not as asked, so the gateway undid it, and the undoing is confirmed. Final: the net effect is zero. Another attempt needs a new key.";
    Forbidden = "forbidden", FORBIDDEN, SameKey, Unknown,
        "The token does not allow this",
        "The member `reason` names what is missing: `client` (the subject is mapped to no client), `scope`, `account`, or `amount`. This request sent nothing.";
    NotFound = "not-found", NOT_FOUND, SameKey, Unknown,
        "Not found",
        "There is no such resource, or the token does not cover it. For a look-up by key: not seen so far; a request under that key may still be on its way. Cancel the key to make it certain.";
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, Never, Unknown,
        "The method is not allowed here",
        "The header Allow lists the methods of this resource. This request sent nothing.";
    RequestTimeout = "request-timeout", REQUEST_TIMEOUT, SameKey, Unknown,
        "The request took too long to arrive",
        "The body did not arrive in time. This request sent nothing. Repeat with the same key.";
    PaymentBusy = "payment-busy", CONFLICT, SameKey, No,
        "Another operation holds this payment",
        "A capture, void or refund of the same payment is still open, and this kind of operation must wait for it. Nothing was recorded. Repeat with the same key.";
    NotSettled = "not-settled", CONFLICT, SameKey, No,
        "The payment is not settled yet",
        "The processor refunds only settled payments. Nothing was recorded. Void the payment instead, or repeat with the same key after settlement.";
    AlreadySettled = "already-settled", CONFLICT, Never, No,
        "The payment is already settled",
        "A settled payment cannot be voided any more. Nothing was recorded. Refund it instead.";
    InvalidState = "invalid-state", CONFLICT, Never, No,
        "The payment's state does not allow this",
        "For example the capture of a voided payment, or the refund of an authorization that was never captured. Nothing was recorded; payment_status gives the state.";
    PossibleDuplicate = "possible-duplicate", CONFLICT, Never, No,
        "This order has a live payment under another key",
        "The request asked for once_per_order, and a create of the same account and order reference exists under another key; `existing` names it. Nothing was recorded.";
    Cancelled = "cancelled", GONE, Never, Unknown,
        "This key was cancelled",
        "A cancellation was asked for and answered. The key will never be executed again; `reversal` says how far the undoing is.";
    PayloadTooLarge = "payload-too-large", PAYLOAD_TOO_LARGE, SameKey, Unknown,
        "The request body is too large",
        "The member `bytes_max` gives the limit. This request sent nothing.";
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, SameKey, Unknown,
        "The body must be application/json",
        "Send the header Content-Type: application/json, without a content encoding. This request sent nothing.";
    InvalidRequest = "invalid-request", UNPROCESSABLE_ENTITY, SameKey, Unknown,
        "The request has faults",
        "The member `errors` lists every fault at once, each with a JSON pointer into the body. This request sent nothing and claimed no key.";
    IdempotencyKeyReused = "idempotency-key-reused", UNPROCESSABLE_ENTITY, Never, Unknown,
        "This key belongs to another request",
        "The key was used before with another verb, amount, card or other field. This request sent nothing. Look at the operation that holds the key before you mint a new one: the intent may already be done.";
    OverLimit = "over-limit", UNPROCESSABLE_ENTITY, Never, No,
        "The amount exceeds what is left",
        "Captures never exceed the authorization, refunds never the captures. Nothing was recorded; `available` gives what is left.";
    NotCancellable = "not-cancellable", UNPROCESSABLE_ENTITY, Never, Unknown,
        "This key cannot be cancelled",
        "Only the key of a create can be cancelled; this one belongs to a follow-up or to a verification. Nothing was changed.";
    RateLimited = "rate-limited", TOO_MANY_REQUESTS, SameKey, Unknown,
        "Too many requests from this client",
        "The client's rate is used up. This request sent nothing. Repeat with the same key after Retry-After seconds.";
    Internal = "internal", INTERNAL_SERVER_ERROR, SameKey, Unknown,
        "Something went wrong on our side",
        "A fault of the gateway. Whatever was recorded is resolved like everything else. Repeat with the same key to learn it.";
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, SameKey, Unknown,
        "The gateway is at its limit",
        "All places for running payments are taken. This request sent nothing. Repeat with the same key after Retry-After seconds.";
    KeysUnavailable = "keys-unavailable", SERVICE_UNAVAILABLE, SameKey, Unknown,
        "Tokens cannot be verified yet",
        "The keys that verify tokens could not be fetched since this process started. This request sent nothing. Repeat with the same key after Retry-After seconds.";
    LedgerUnavailable = "ledger-unavailable", SERVICE_UNAVAILABLE, SameKey, Unknown,
        "The ledger cannot be reached",
        "Nothing leaves the gateway before it is written down, so this request sent nothing; a cancellation may be on record. Repeat with the same key after Retry-After seconds.";
    UpstreamUnavailable = "upstream-unavailable", SERVICE_UNAVAILABLE, SameKey, No,
        "The processor cannot be reached",
        "No connection, no token, or the account's breaker is open. It is proven that this request sent nothing. Repeat with the same key after Retry-After seconds.";
    Draining = "draining", SERVICE_UNAVAILABLE, SameKey, Unknown,
        "This process is shutting down",
        "It takes no new work. This request sent nothing. Repeat with the same key; another process will answer.";
    Quarantined = "quarantined", SERVICE_UNAVAILABLE, SameKey, Unknown,
        "The ledger is being checked",
        "The ledger was restored and is not trusted until reconciliation has passed; until then nothing new is sent. Repeat with the same key after Retry-After seconds.";
    OutcomeUnknown = "outcome-unknown", GATEWAY_TIMEOUT, SameKey, Unknown,
        "The outcome is not known yet",
        "The request is running, being looked up or being reversed. It ends by itself, at the latest at resolves_by. Repeat with the same key, or read `operation`, until the answer is final. Never mint a new key for the same intent.";
    NeedsReview = "needs-review", GATEWAY_TIMEOUT, SameKey, Unknown,
        "A person is looking at this operation",
        "No machine can tell what became of it; people were alerted. It is never dropped. Repeat with the same key, or read `operation`, until the answer is final.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn slugs_are_unique_and_fit_a_path_segment() {
        let mut seen = HashSet::new();
        for kind in Kind::ALL {
            let slug = kind.meaning().slug;
            assert!(seen.insert(slug), "{slug} twice");
            assert!(
                slug.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
                "{slug}"
            );
        }
    }

    #[test]
    fn status_and_advice_agree_with_the_answer_table() {
        for kind in Kind::ALL {
            let meaning = kind.meaning();
            match meaning.status.as_u16() {
                402 => assert_eq!(
                    meaning.retry,
                    Retry::NewKey,
                    "{kind:?}: a final refusal uses the key up"
                ),
                503 | 504 => assert_eq!(
                    meaning.retry,
                    Retry::SameKey,
                    "{kind:?}: only the same key is safe"
                ),
                409 => assert_eq!(
                    meaning.money_moved,
                    MoneyMoved::No,
                    "{kind:?}: nothing is recorded"
                ),
                400..=500 => {}
                other => panic!("{kind:?}: {other} is not in the table"),
            }
            if meaning.status == StatusCode::GATEWAY_TIMEOUT {
                assert_eq!(meaning.money_moved, MoneyMoved::Unknown, "{kind:?}");
            }
        }
    }
}
