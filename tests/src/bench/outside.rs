//! The world around the gateway, callers and upstream, on one thread of its own.

use std::net::{SocketAddr, TcpListener};
use std::thread;

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

use super::stub;
use crate::stack::{Doing, StackError};

/// Fewer, busier threads: with more, this side takes more of the cores that it shares with what it measures.
#[derive(Debug)]
pub(super) struct Outside {
    handle: Handle,
    upstream: SocketAddr,
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
        thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    stopped = stub::serve(listener) => eprintln!("the stub upstream ended: {stopped:?}"),
                    _ = ended => {}
                }
            });
        });
        Ok(Self {
            handle,
            upstream,
            _end: end,
        })
    }

    pub(super) fn upstream(&self) -> SocketAddr {
        self.upstream
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
