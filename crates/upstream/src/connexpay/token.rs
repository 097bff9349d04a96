//! Fetches access tokens: `POST /token`, a password grant.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gateway_core::connector::AlwaysOpen;
use gateway_core::token::{FetchedToken, TokenError, TokenSource};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use secrecy::{ExposeSecret, SecretString};

use super::body;
use super::client::reply;
use super::login::Login;
use super::wire::TokenAnswer;
use crate::pool::{Call, CallFailure, Pool, Transport};

/// The token endpoint of one account, for its [`gateway_core::token::TokenKeeper`].
pub struct ConnexPayTokens<W = Pool> {
    wire: Arc<W>,
    login: Arc<Login>,
    timeout: Duration,
}

impl<W> fmt::Debug for ConnexPayTokens<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnexPayTokens")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl<W: Transport> ConnexPayTokens<W> {
    /// `timeout` for one fetch, shorter than the keeper's own.
    pub fn new(wire: Arc<W>, login: Arc<Login>, timeout: Duration) -> Self {
        Self {
            wire,
            login,
            timeout,
        }
    }
}

#[async_trait]
impl<W: Transport> TokenSource for ConnexPayTokens<W> {
    async fn fetch(&self) -> Result<FetchedToken, TokenError> {
        let login = self.login.credentials();
        let login = login.map_err(|detail| TokenError::Unreachable { detail })?;
        let fields = [
            ("grant_type", "password"),
            ("username", login.username.expose_secret()),
            ("password", login.password.expose_secret()),
        ];
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let exchange = self
            .wire
            .call(Call {
                method: Method::POST,
                path: "/token",
                headers: &headers,
                body: body::form(&fields),
                timeout: self.timeout,
                gate: &AlwaysOpen,
                label: "POST /token",
            })
            .await;
        let response = exchange.result.map_err(|failure| {
            let detail = match failure {
                CallFailure::NotSent(reason) => format!("{reason:?}"),
                CallFailure::Unknown(reason) => format!("{reason:?}"),
            };
            TokenError::Unreachable { detail }
        })?;
        let status = response.status.as_u16();
        // The body of a refusal may repeat the login: only the status is told.
        match status {
            200..=299 => {}
            400 | 401 | 403 => {
                return Err(TokenError::Refused {
                    detail: format!("HTTP {status}"),
                });
            }
            500..=599 => {
                return Err(TokenError::Unreachable {
                    detail: format!("HTTP {status}"),
                });
            }
            _ => {
                return Err(TokenError::Unusable {
                    detail: format!("HTTP {status}"),
                });
            }
        }
        let unusable = |detail: &str| TokenError::Unusable {
            detail: detail.to_owned(),
        };
        let Some(answer) = reply(&response).object::<TokenAnswer>() else {
            return Err(unusable("no JSON with access_token and expires_in"));
        };
        let bearer = answer
            .token_type
            .is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        let sendable = !answer.access_token.is_empty()
            && answer
                .access_token
                .expose()
                .bytes()
                .all(|b| b.is_ascii_graphic());
        if !bearer || !sendable || answer.expires_in == 0 {
            return Err(unusable("a token that cannot be used"));
        }
        Ok(FetchedToken {
            value: SecretString::from(answer.access_token.expose()),
            expires_in: Duration::from_secs(answer.expires_in),
        })
    }
}
