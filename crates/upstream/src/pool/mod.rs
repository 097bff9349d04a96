//! The transport pool: carries one HTTP exchange at a time to a processor, and proves what left this process.
//!
//! ```text
//! Pool::new(config: PoolConfig, clock: Arc<dyn Clock>, metrics: &PoolMetrics) -> Result<Arc<Pool>, PoolError>
//! pool.call(Call { method, path, headers, body, timeout, gate, label }).await -> Exchange
//!     Exchange { result: Result<Response { status, headers, body }, CallFailure>, evidence: CallEvidence }
//!     CallFailure::NotSent(NotSent) | CallFailure::Unknown(UnknownReason)
//! ```
//!
//! One pool per (scheme, host, port) and account settings; `Pool::new` is called inside a tokio runtime. Redirects,
//! declines and 5xx are responses: what a status means is the connector's to say.

mod config;
mod exchange;

pub use config::{PoolConfig, PoolError, Resolve, Roots, SystemResolver};
pub use exchange::{Call, CallFailure, Exchange, Response};
