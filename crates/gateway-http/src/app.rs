//! What every handler works with.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::clock::Clock;
use gateway_core::engine::Engine;
use http::HeaderMap;
use prometheus_client::registry::Registry;

use crate::auth::Authenticator;
use crate::auth::{Caller, Scope};
use crate::extract::BodyLimits;
use crate::problem::Problem;
use crate::rate::Rates;
use crate::telemetry::HttpMetrics;
use crate::token_metrics::TokenMetrics;

/// Cheap to clone: one per process, shared by all handlers.
#[derive(Clone, Debug)]
pub struct App(Arc<Parts>);

/// What an [`App`] is made of.
#[derive(Debug)]
pub struct Parts {
    pub engine: Arc<Engine>,
    pub authenticator: Arc<Authenticator>,
    pub rates: Rates,
    pub clock: Arc<dyn Clock>,
    pub body_limits: BodyLimits,
    /// The longest `Request-Timeout`.
    pub request_timeout_max: Duration,
    /// How long a final answer keeps its full body.
    pub retention: Duration,
    /// Shown by `/readyz`.
    pub quarantine: bool,
    pub tokens: TokenMetrics,
    pub http_metrics: HttpMetrics,
    /// All metrics of the process: the engine's, the connectors', the edge's.
    pub registry: Arc<Registry>,
}

impl App {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The caller, if its rate allows one more request and its token has one of `scopes`. Without any scope asked for,
    /// any valid token will do.
    pub async fn caller(
        &self,
        headers: &HeaderMap,
        scopes: &[Scope],
    ) -> Result<Arc<Caller>, Problem> {
        let caller = self.authenticator.authenticate(headers).await?;
        tracing::Span::current().record("payment.client", caller.client.as_str());
        self.rates.require(&caller.client)?;
        if let Some(first) = scopes.first()
            && !scopes.iter().any(|scope| caller.scopes.has(*scope))
        {
            caller.require(*first)?;
        }
        Ok(caller)
    }
}

impl std::ops::Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}
