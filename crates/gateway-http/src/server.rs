//! The accept loop: connections within bounds, each with an end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use crate::config::Server;
use crate::telemetry::Active;
use crate::version::{self, Version};

/// The head of a request: method, path and headers together.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// A TLS handshake is a few round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For an answer to be read, on a connection that is to end.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// Bounds of callers' connections. See `config/reference.toml`.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub connections_max: usize,
    pub connection_age_max: Duration,
    pub header_read_timeout: Duration,
    /// From the end of a request's headers until its answer has been read.
    pub request_max: Duration,
    pub streams_max: u32,
}

impl From<&Server> for Bounds {
    fn from(server: &Server) -> Self {
        Self {
            connections_max: server.connections_max,
            connection_age_max: server.connection_age_max,
            header_read_timeout: server.header_read_timeout,
            request_max: server.body_read_timeout + server.request_timeout_max + ANSWER_GRACE,
            streams_max: server.streams_max,
        }
    }
}

impl Bounds {
    /// Leaves of so many open files enough for what this process opens itself. Else callers that connect and say nothing
    /// would keep it from its ledger and its processors, reversals included.
    #[must_use]
    pub fn within(self, files_max: Option<u64>, own_files: usize) -> Self {
        let files_max = files_max.map_or(usize::MAX, |files| {
            usize::try_from(files).unwrap_or(usize::MAX)
        });
        let left = files_max.saturating_sub(own_files).max(1);
        if left < self.connections_max {
            tracing::warn!(
                files_max,
                connections_max = self.connections_max,
                left,
                "the limit of open files leaves fewer connections for callers than are configured"
            );
        }
        Self {
            connections_max: self.connections_max.min(left),
            ..self
        }
    }
}

/// Serves until `closing` turns true, then closes every connection after the request under way, at most `grace`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<ServerConfig>>,
    bounds: Bounds,
    open: Gauge,
    mut closing: watch::Receiver<bool>,
    grace: Duration,
) {
    let connections_max = bounds.connections_max.min(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(connections_max));
    let tls = tls.map(TlsAcceptor::from);
    let builders = Arc::new(Builders::new(&bounds));
    loop {
        // At the bound nobody is accepted: callers wait in the kernel's queue, and the connections we have go on.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
            () = closed(&mut closing) => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => stream,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            },
            () = closed(&mut closing) => break,
        };
        let (router, tls, builders) = (router.clone(), tls.clone(), Arc::clone(&builders));
        let (open, closing) = (Active::enter(&open), closing.clone());
        tokio::spawn(async move {
            let _place = place;
            let _open = open;
            let _ = stream.set_nodelay(true);
            let Some(tls) = tls else {
                return serve_one(&builders, stream, router, bounds, closing).await;
            };
            // Boxed: a connection without TLS is not to hold the place of one with it.
            let encrypted = async move {
                // Whoever fails here never was a caller: scanners and health checks of load balancers, mostly.
                if let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                    serve_one(&builders, stream, router, bounds, closing).await;
                }
            };
            Box::pin(encrypted).await;
        });
    }
    drop(listener);
    let all = u32::try_from(connections_max).unwrap_or(u32::MAX);
    if timeout(grace, places.acquire_many(all)).await.is_err() {
        let left = connections_max - places.available_permits();
        tracing::warn!(left, "callers' connections are cut off");
    }
}

struct Builders {
    http1: Builder<TokioExecutor>,
    http2: Builder<TokioExecutor>,
}

impl Builders {
    fn new(bounds: &Bounds) -> Self {
        let builder = builder(bounds);
        Self {
            http1: builder.clone().http1_only(),
            http2: builder.http2_only(),
        }
    }

    fn of(&self, version: Version) -> &Builder<TokioExecutor> {
        match version {
            Version::Http1 => &self.http1,
            Version::Http2 => &self.http2,
        }
    }
}

fn builder(bounds: &Bounds) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_read_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(64)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.streams_max)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).expect("32 KiB"))
        // RFC 9113, 10.5, and CVE-2023-44487: streams opened only to be reset cost us work.
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(256)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

async fn serve_one<S>(
    builders: &Builders,
    stream: S,
    router: Router,
    bounds: Bounds,
    mut closing: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let began = Instant::now();
    // The builders have no timer before the version is known, nor for the first headers of HTTP/2.
    let first_by = began + bounds.header_read_timeout;
    // Spread over a tenth, so that connections opened together do not all come back together.
    let age = bounds
        .connection_age_max
        .mul_f64(rand::random_range(0.9..=1.0));
    let old_at = began + age;
    let (version, stream) = tokio::select! {
        read = version::read(stream) => match read {
            Ok(read) => read,
            Err(_gone) => return,
        },
        () = sleep_until(first_by.min(old_at)) => return,
        () = closed(&mut closing) => return,
    };
    let has_asked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&has_asked);
    let service = TowerToHyperService::new(tower::service_fn(move |request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        tower::ServiceExt::oneshot(router.clone(), request.map(axum::body::Body::new))
    }));
    let builder = builders.of(version);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut first_is_due = true;
    // Who was asked to end and has not by then does not read: whatever was under way has long been answered. Only a
    // wait ends here, never the work.
    let cut_at = old_at + bounds.header_read_timeout + bounds.request_max;
    let mut is_ending = false;
    loop {
        tokio::select! {
            // An error here is the caller's: gone, too slow, or not HTTP. What was answered is in the log and the metrics.
            _ended = connection.as_mut() => return,
            () = sleep_until(first_by), if first_is_due => {
                if !has_asked.load(Ordering::Relaxed) {
                    return;
                }
                first_is_due = false;
                continue;
            }
            () = sleep_until(cut_at), if is_ending => return,
            () = sleep_until(old_at), if !is_ending => {}
            () = closed(&mut closing), if !is_ending => {}
        }
        is_ending = true;
        connection.as_mut().graceful_shutdown();
    }
}

/// When the server closes, or nobody is left to say so.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Errors of one connection are nobody's business; running out of file descriptors is ours, and spinning does not help.
async fn pause_after(error: &io::Error) {
    let of_one_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    );
    if !of_one_connection {
        tracing::error!(
            error = error as &dyn std::error::Error,
            "cannot accept connections"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// Binds with a backlog of its own size: the default of 128 is full within a blink of a storm.
pub fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        tokio::net::TcpSocket::new_v4()?
    } else {
        tokio::net::TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4_096)
}

#[cfg(test)]
mod tests;
