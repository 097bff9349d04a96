//! How long a caller waits where nobody but the ledger is asked: reads, cancellations.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use gateway_core::store::StoreError;
use http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use crate::app::App;
use crate::extract::request_timeout;
use crate::problem::{Kind, Problem};

/// The wait of one caller: a ledger that is silent must not keep it longer.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub until: Instant,
}

impl Patience {
    /// From now on, as the header `Request-Timeout` says.
    pub fn of(app: &App, headers: &HeaderMap) -> Result<Self, Problem> {
        let asked = request_timeout(headers, app.request_timeout_max)?;
        Ok(Self::lasting(app, asked))
    }

    /// From now on, as long as the caller asked for; as the engine thinks right where it did not say.
    pub fn lasting(app: &App, asked: Option<Duration>) -> Self {
        Self {
            until: app.engine.patience(asked),
        }
    }

    /// Waits for one answer of the ledger. What is asked is dropped at the end of the wait: it must be harmless to give up
    /// and to repeat.
    pub async fn ask<T>(
        self,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Problem> {
        match timeout_at(self.until, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(unanswered(&error)),
            Err(elapsed) => Err(unanswered(&elapsed)),
        }
    }
}

/// The ledger did not answer, or not in time. It was not heard, so nothing is claimed.
pub fn unanswered(error: &(dyn Error + 'static)) -> Problem {
    tracing::warn!(error, "the ledger did not answer a caller");
    Problem::new(Kind::LedgerUnavailable, "the ledger did not answer")
        .retry_after(Duration::from_secs(1))
}
