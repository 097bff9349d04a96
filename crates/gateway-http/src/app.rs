//! What every handler works with.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::clock::Clock;
use gateway_core::engine::Engine;
use http::HeaderMap;

use crate::auth::Authenticator;
use crate::auth::{Caller, Scope};
use crate::extract::BodyLimits;
use crate::problem::Problem;

/// Cheap to clone: one per process, shared by all handlers.
#[derive(Clone, Debug)]
pub struct App(Arc<Parts>);

/// What an [`App`] is made of.
#[derive(Debug)]
pub struct Parts {
    pub engine: Arc<Engine>,
    pub authenticator: Arc<Authenticator>,
    pub clock: Arc<dyn Clock>,
    pub body_limits: BodyLimits,
    /// The longest `Request-Timeout`.
    pub request_timeout_max: Duration,
    /// How long a final answer keeps its full body.
    pub retention: Duration,
}

impl App {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The caller, if its token has one of `scopes`. Without any scope asked for, any valid token will do.
    pub async fn caller(
        &self,
        headers: &HeaderMap,
        scopes: &[Scope],
    ) -> Result<Arc<Caller>, Problem> {
        let caller = self.authenticator.authenticate(headers).await?;
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
