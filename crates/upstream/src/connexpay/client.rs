//! One call to the API: with a token, and with another one if that is refused.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::connector::{AlwaysOpen, CallEvidence, NotSent, SendGate, UnknownReason};
use gateway_core::token::{Token, TokenKeeper};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::{Instant, timeout};

use super::answers::Reply;
use crate::pool::{Call, CallFailure, Response, Transport};

/// The API of one account.
pub(super) struct Client<W> {
    pub(super) wire: Arc<W>,
    pub(super) tokens: Arc<TokenKeeper>,
    /// A 401 with the API's own body was refused before any processing.
    pub(super) trust_401: bool,
}

impl<W> fmt::Debug for Client<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("trust_401", &self.trust_401)
            .finish_non_exhaustive()
    }
}

/// A call, but for the token.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    /// For the evidence, without ids.
    pub(super) label: &'a str,
    pub(super) body: Bytes,
    pub(super) timeout: Duration,
}

/// What came of it: an answer, whatever it says; or proof that nothing was executed; or neither.
pub(super) enum Outcome {
    /// With the token it was sent with, which an answer may repeat.
    Answered(Response, Token),
    NotSent(NotSent),
    Unknown(UnknownReason),
}

impl<W: Transport> Client<W> {
    /// Sends a request that may move money. After a 401 that proves "not executed", once more with another token;
    /// `gate` is asked before each.
    pub(super) async fn send(
        &self,
        request: &Request<'_>,
        gate: &dyn SendGate,
        evidence: &mut Vec<CallEvidence>,
    ) -> Outcome {
        self.call(request, gate, self.trust_401, evidence).await
    }

    /// Sends a request that moves no money: repeating it after any 401 is safe.
    pub(super) async fn ask(
        &self,
        request: &Request<'_>,
        evidence: &mut Vec<CallEvidence>,
    ) -> Result<(Response, Token), String> {
        match self.call(request, &AlwaysOpen, true, evidence).await {
            Outcome::Answered(response, token) => Ok((response, token)),
            Outcome::NotSent(reason) => Err(format!("{}: nothing sent: {reason:?}", request.label)),
            Outcome::Unknown(reason) => Err(format!("{}: no answer: {reason:?}", request.label)),
        }
    }

    async fn call(
        &self,
        request: &Request<'_>,
        gate: &dyn SendGate,
        repeats: bool,
        evidence: &mut Vec<CallEvidence>,
    ) -> Outcome {
        // A fetch may outlast the account's timeout (a replica that died in the middle of one still holds the lock); it
        // goes on for those who come later.
        let mut token = match timeout(request.timeout, self.tokens.current()).await {
            Ok(Ok(token)) => token,
            Ok(Err(error)) => return no_token(&error),
            Err(_) => return no_token_within(request.timeout),
        };
        let began = Instant::now();
        let first = match self
            .call_once(request, &token, request.timeout, gate, evidence)
            .await
        {
            Ok(response) if response.status == StatusCode::UNAUTHORIZED => response,
            outcome => return finished(outcome, token),
        };
        let proven = reply(&first).own_error().is_some();
        if !(repeats && (proven || request.method == Method::GET)) {
            self.tokens.report_unauthorized(token.generation());
            return Outcome::Answered(first, token);
        }
        let left = || request.timeout.saturating_sub(began.elapsed());
        token = match timeout(left(), self.tokens.replace(token.generation())).await {
            Ok(Ok(token)) => token,
            Ok(Err(error)) => return no_token(&error),
            Err(_) => return no_token_within(request.timeout),
        };
        // The account's timeout covers both. With less than half of it left no repeat is begun: it would end as a
        // time-out, and what was proven not executed would be unknown.
        if left() < request.timeout / 2 {
            return Outcome::Answered(first, token);
        }
        let second = self
            .call_once(request, &token, left(), gate, evidence)
            .await;
        #[cfg(feature = "sabotage")]
        let mut second = second;
        #[cfg(feature = "sabotage")]
        while gateway_core::sabotaged!(RepeatAfterEvery401)
            && matches!(&second, Ok(response) if response.status == StatusCode::UNAUTHORIZED)
        {
            let timeout = request.timeout;
            second = self
                .call_once(request, &token, timeout, gate, evidence)
                .await;
        }
        if second
            .as_ref()
            .is_ok_and(|response| response.status == StatusCode::UNAUTHORIZED)
        {
            self.tokens.report_unauthorized(token.generation());
        }
        finished(second, token)
    }

    async fn call_once(
        &self,
        request: &Request<'_>,
        token: &Token,
        timeout: Duration,
        gate: &dyn SendGate,
        evidence: &mut Vec<CallEvidence>,
    ) -> Result<Response, CallFailure> {
        let Some(headers) = headers(request, token) else {
            let detail = "the token cannot be written into a header".to_owned();
            return Err(CallFailure::NotSent(NotSent::NoToken { detail }));
        };
        let exchange = self
            .wire
            .call(Call {
                method: request.method.clone(),
                path: request.path,
                headers: &headers,
                body: request.body.clone(),
                timeout,
                gate,
                label: request.label,
            })
            .await;
        evidence.push(exchange.evidence);
        #[cfg(feature = "sabotage")]
        if let Err(CallFailure::Unknown(UnknownReason::Closed { detail })) = &exchange.result {
            if gateway_core::sabotaged!(ResendAfterClose) {
                let again = self.call_once(request, token, timeout, gate, evidence);
                return Box::pin(again).await;
            }
            if gateway_core::sabotaged!(ClosedIsNotSent) {
                let detail = detail.clone();
                return Err(CallFailure::NotSent(NotSent::Unreachable { detail }));
            }
        }
        exchange.result
    }
}

fn headers(request: &Request<'_>, token: &Token) -> Option<HeaderMap> {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose())).ok()?;
    bearer.set_sensitive(true);
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(AUTHORIZATION, bearer);
    headers.insert(ACCEPT, JSON);
    if request.method != Method::GET {
        headers.insert(CONTENT_TYPE, JSON);
    }
    Some(headers)
}

fn finished(result: Result<Response, CallFailure>, token: Token) -> Outcome {
    match result {
        Ok(response) => Outcome::Answered(response, token),
        Err(CallFailure::NotSent(reason)) => Outcome::NotSent(reason),
        Err(CallFailure::Unknown(reason)) => Outcome::Unknown(reason),
    }
}

fn no_token_within(waited: Duration) -> Outcome {
    Outcome::NotSent(NotSent::NoToken {
        detail: format!("no access token within {waited:?}"),
    })
}

fn no_token(error: &gateway_core::token::TokenError) -> Outcome {
    Outcome::NotSent(NotSent::NoToken {
        detail: error.to_string(),
    })
}

/// The answer as the classification reads it.
pub(super) fn reply(response: &Response) -> Reply<'_> {
    Reply {
        status: response.status.as_u16(),
        content_type: response
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok()),
        body: &response.body,
    }
}
