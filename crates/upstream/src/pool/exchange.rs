//! What goes into a call and what comes out of it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::connector::{CallEvidence, NotSent, SendGate, UnknownReason};
use http::{HeaderMap, Method, StatusCode};

/// What carries calls to a processor: the [`super::Pool`], or the simulation's. Not an object: a call costs what it costs
/// there, and nothing for the choice.
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// Sends one request and reads its answer, as [`super::Pool::call`] does and with the same proof.
    fn call(&self, call: Call<'_>) -> impl Future<Output = Exchange> + Send;
}

/// One request to the processor. Nothing in it is ever written to a log.
pub struct Call<'a> {
    pub method: Method,
    /// Path and query below the base address, starting with `/`.
    pub path: &'a str,
    /// Sent as they are. The pool adds `host`, `content-length` and, where configured, the keep-alive headers.
    pub headers: &'a HeaderMap,
    /// Sent with its length; empty for a GET.
    pub body: Bytes,
    /// For the whole exchange, counted from the moment a connection is ready. Waiting for one is bounded by
    /// `wait_max` of the pool.
    pub timeout: Duration,
    /// Asked on a ready connection, immediately before the request is handed to it; again on each further attempt.
    pub gate: &'a dyn SendGate,
    /// Names the call in the evidence: `POST /sales`, without ids that could be secret.
    pub label: &'a str,
}

impl fmt::Debug for Call<'_> {
    // Headers hold tokens, bodies hold cards.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, timeout, .. } = self;
        write!(f, "Call({label}, timeout {timeout:?})")
    }
}

/// What came of a call, and what the wire saw.
#[derive(Debug)]
pub struct Exchange {
    pub result: Result<Response, CallFailure>,
    /// Of the last attempt: earlier ones, if any, wrote no byte.
    pub evidence: CallEvidence,
}

/// A complete answer, whatever its status.
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl fmt::Debug for Response {
    // A processor may echo the card in its error texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({}, {} bytes)", self.status, self.body.len())
    }
}

/// Why there is no complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// Proven: no byte of the request left this process, and none can any more.
    NotSent(NotSent),
    /// Some of it left, or may have: it may have been acted on.
    Unknown(UnknownReason),
}
