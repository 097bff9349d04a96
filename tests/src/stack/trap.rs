//! A trap in a `TcpProxy`: what becomes of the one exchange whose request holds certain bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Where the exchange is interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The server never sees the matching bytes.
    BeforeRequest,
    /// The server has done what was asked, and the client has not learned of it. Bytes coming back are kept from the
    /// client until they contain this end of an answer; empty: at the first byte.
    AfterAnswer { ending: Vec<u8> },
}

impl Moment {
    /// After whatever Postgres statement committed, a `COMMIT` or one that commits by itself: `ReadyForQuery` with status
    /// idle, so that no transaction is open any more (Postgres manual, 55.7).
    pub fn after_commit() -> Self {
        Self::AfterAnswer {
            ending: b"Z\0\0\0\x05I".to_vec(),
        }
    }
}

/// What was set in the proxy. It springs once, for the first connection that matches. Dropping it disarms it, unless it has
/// caught something: then what it holds goes on, and what it was to cut is still cut.
#[derive(Debug)]
#[must_use = "dropping a trap disarms it"]
pub struct Trap {
    pub(super) state: Arc<TrapState>,
    release: watch::Sender<bool>,
}

impl Trap {
    pub(super) fn new(pattern: &[u8], moment: Moment, holds: bool) -> Self {
        let release = watch::Sender::new(false);
        let state = TrapState {
            pattern: pattern.to_vec(),
            moment,
            holds,
            armed: AtomicBool::new(true),
            sprung: watch::Sender::new(false),
            released: release.subscribe(),
        };
        Self {
            state: Arc::new(state),
            release,
        }
    }

    /// Returns when an exchange was caught at its moment.
    pub async fn sprung(&self) {
        // An error would mean that the sender, which lies beside it, is gone.
        let _ = self
            .state
            .sprung
            .subscribe()
            .wait_for(|sprung| *sprung)
            .await;
    }

    pub fn has_sprung(&self) -> bool {
        *self.state.sprung.borrow()
    }

    /// Lets the exchange go on from where it is held, or from where it will be.
    pub fn release(&self) {
        self.release.send_replace(true);
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.state.armed.store(false, Ordering::Release);
    }
}

#[derive(Debug)]
pub(super) struct TrapState {
    pub(super) pattern: Vec<u8>,
    pub(super) moment: Moment,
    /// Held until released; else the connection is cut.
    pub(super) holds: bool,
    armed: AtomicBool,
    sprung: watch::Sender<bool>,
    released: watch::Receiver<bool>,
}

impl TrapState {
    /// Takes the trap for one connection. Only one is ever told yes.
    pub(super) fn take(&self) -> bool {
        self.armed.swap(false, Ordering::AcqRel)
    }

    pub(super) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Acquire)
    }

    pub(super) fn spring(&self) {
        self.sprung.send_replace(true);
    }

    pub(super) async fn released(&self) {
        // An error means that the trap was dropped, which releases too.
        let _ = self.released.clone().wait_for(|released| *released).await;
    }
}
