//! The world around the gateway, callers and upstream, on one thread of its own.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tokio::runtime::{self, Handle};
use tokio::sync::{oneshot, watch};

use super::stub::{self, Pace};
use crate::stack::{Doing, StackError};

/// Fewer, busier threads: with more, this side takes more of the cores that it shares with what it measures.
#[derive(Debug)]
pub(super) struct Outside {
    handle: Handle,
    upstream: SocketAddr,
    pace: watch::Sender<Pace>,
    connected: Arc<AtomicU64>,
    _end: oneshot::Sender<()>, // The thread ends when this is dropped.
}

impl Outside {
    pub(super) fn start() -> Result<Self, StackError> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .doing(|| "binding the stub upstream".to_owned())?;
        let upstream = listener
            .local_addr()
            .doing(|| "binding the stub upstream".to_owned())?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .doing(|| "starting a runtime".to_owned())?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let (pace, paced) = watch::channel(Pace::AtOnce);
        let connected = Arc::new(AtomicU64::new(0));
        let serving = stub::serve(listener, paced, Arc::clone(&connected));
        thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    stopped = serving => eprintln!("the stub upstream ended: {stopped:?}"),
                    _ = ended => {}
                }
            });
        });
        Ok(Self {
            handle,
            upstream,
            pace,
            connected,
            _end: end,
        })
    }

    pub(super) fn upstream(&self) -> SocketAddr {
        self.upstream
    }

    /// From now on the upstream answers sales so.
    pub(super) fn set_pace(&self, pace: Pace) {
        self.pace.send_replace(pace);
    }

    /// How many connections to the upstream were opened so far.
    pub(super) fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    /// Runs callers on that thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StackError>> + Send + 'static,
    ) -> Result<T, StackError> {
        self.handle
            .spawn(work)
            .await
            .doing(|| "waiting for callers".to_owned())?
    }
}
