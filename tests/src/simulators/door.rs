//! The door of a simulated host: its listening socket, which can be closed and reopened, and its connections.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::wire::{Link, Socket, Wire};
use super::{StillWaiting, locked, unix_ms, within};

/// The connection is to end without an answer; with a reset if its link says so.
#[derive(Debug, thiserror::Error)]
#[error("the connection ends without an answer")]
pub(crate) struct Cut;

pub(crate) type Answer = Result<Response<Full<Bytes>>, Cut>;

/// Who answers the requests that come through a door.
pub(crate) trait Host: Send + Sync + 'static {
    fn serve(
        self: Arc<Self>,
        link: Arc<Link>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Answer> + Send;

    /// Whether a fault resets this new connection at once.
    fn resets_connection(&self) -> bool;
}

/// One connection, from accept to end. Times are Unix milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionRecord {
    pub id: u64,
    pub opened_at_ms: i64,
    /// When the first byte of the first request arrived, after a TLS handshake if there is one.
    pub first_byte_after_ms: Option<u64>,
    pub closed_after_ms: Option<u64>,
    pub requests: u64,
    /// How it ended: `caller`, `idle`, `reset`, `cut` or `tls`; absent while it is open.
    pub ended_by: Option<&'static str>,
}

#[derive(Debug)]
struct Seen {
    record: ConnectionRecord,
    link: Arc<Link>,
}

#[derive(Debug)]
struct State {
    address: SocketAddr,
    seen: Mutex<BTreeMap<u64, Seen>>,
    next: AtomicU64,
    idle_limit: watch::Sender<Option<Duration>>,
    changes: watch::Sender<u64>,
    record_count_max: usize,
}

enum Order {
    Close(oneshot::Sender<io::Result<()>>),
    Open(oneshot::Sender<io::Result<()>>),
}

enum Entrance {
    Open(TcpListener),
    /// Bound, so that nobody else takes the port, and not listening, so that the kernel refuses connections.
    Closed(TcpSocket),
}

/// A listening socket with its connections. Dropping it ends them all.
#[derive(Debug)]
pub(crate) struct Door {
    state: Arc<State>,
    orders: mpsc::Sender<Order>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Door {
    pub(crate) fn open<H: Host>(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        record_count_max: usize,
        host: Arc<H>,
    ) -> io::Result<Self> {
        let state = Arc::new(State {
            address: listener.local_addr()?,
            seen: Mutex::default(),
            next: AtomicU64::new(1),
            idle_limit: watch::Sender::new(None),
            changes: watch::Sender::new(0),
            record_count_max,
        });
        let (orders, inbox) = mpsc::channel(8);
        let task = tokio::spawn(keep(listener, tls, host, Arc::clone(&state), inbox));
        Ok(Self {
            state,
            orders,
            task: Mutex::new(Some(task)),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.state.address
    }

    /// Closes the listening socket; returns once connections are refused. Harmless if it is closed already.
    pub(crate) async fn refuse(&self) -> io::Result<()> {
        self.ask(Order::Close).await
    }

    /// Listens again on the same port. Harmless if it is open already.
    pub(crate) async fn admit(&self) -> io::Result<()> {
        self.ask(Order::Open).await
    }

    /// Resets every open connection and returns once they are gone.
    pub(crate) async fn reset_all(&self) -> Result<(), StillWaiting> {
        let mut changes = self.state.changes.subscribe();
        for seen in locked(&self.state.seen)
            .values()
            .filter(|seen| seen.record.ended_by.is_none())
        {
            seen.link.kick();
        }
        within("connections to end", async {
            while locked(&self.state.seen)
                .values()
                .any(|seen| seen.record.ended_by.is_none())
            {
                // The sender lives in `self`, so the wait cannot fail.
                let _ = changes.changed().await;
            }
        })
        .await
    }

    pub(crate) fn limit_idle(&self, limit: Option<Duration>) {
        self.state.idle_limit.send_replace(limit);
    }

    pub(crate) fn connections(&self) -> Vec<ConnectionRecord> {
        locked(&self.state.seen).values().map(Seen::now).collect()
    }

    pub(crate) async fn wait_for(
        &self,
        what: &'static str,
        satisfied: impl Fn(&[ConnectionRecord]) -> bool,
    ) -> Result<Vec<ConnectionRecord>, StillWaiting> {
        let mut changes = self.state.changes.subscribe();
        within(what, async {
            loop {
                changes.borrow_and_update();
                let now = self.connections();
                if satisfied(&now) {
                    return now;
                }
                let _ = changes.changed().await; // As above.
            }
        })
        .await
    }

    /// Closes the listening socket and every connection; returns once the port is free.
    pub(crate) async fn close(&self) {
        let task = locked(&self.task).take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await; // The error says that it was aborted.
        }
        self.end_all();
        let gone = |seen: &[ConnectionRecord]| seen.iter().all(|one| one.ended_by.is_some());
        let _ = self.wait_for("connections to end", gone).await; // At the bound they are abandoned.
    }

    fn end_all(&self) {
        for seen in locked(&self.state.seen).values() {
            seen.link.kicked.notify_one();
        }
    }

    async fn ask(
        &self,
        order: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Order,
    ) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        let gone = || io::Error::other("the simulator was shut down");
        self.orders.send(order(done)).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(task) = locked(&self.task).take() {
            task.abort();
        }
        self.end_all();
    }
}

impl Seen {
    fn now(&self) -> ConnectionRecord {
        let since = |then: Instant| millis(then.saturating_duration_since(self.link.opened));
        ConnectionRecord {
            first_byte_after_ms: self.link.first_byte().map(since),
            requests: self.link.requests(),
            ..self.record.clone()
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

async fn keep<H: Host>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    host: Arc<H>,
    state: Arc<State>,
    mut inbox: mpsc::Receiver<Order>,
) {
    let mut entrance = Some(Entrance::Open(listener));
    loop {
        let order = match &entrance {
            Some(Entrance::Open(listener)) => tokio::select! {
                order = inbox.recv() => order,
                accepted = listener.accept() => {
                    match accepted {
                        Ok((stream, _)) => admit(stream, tls.clone(), &host, &state),
                        // The peer left before we looked, or descriptors ran out: let others run, then go on.
                        Err(_) => tokio::task::yield_now().await,
                    }
                    continue;
                }
            },
            Some(Entrance::Closed(_)) | None => inbox.recv().await,
        };
        let Some(order) = order else { return };
        let (done, result) = match (order, entrance.take()) {
            (Order::Close(done), Some(Entrance::Open(listener))) => {
                drop(listener);
                let (now, result) = split(reserve(state.address).map(Entrance::Closed));
                entrance = now;
                (done, result)
            }
            (Order::Open(done), Some(Entrance::Closed(socket))) => {
                let (now, result) = split(socket.listen(LISTEN_BACKLOG).map(Entrance::Open));
                entrance = now;
                (done, result)
            }
            // A failed step left nothing: bind anew.
            (Order::Open(done), None) => {
                let opened =
                    reserve(state.address).and_then(|socket| socket.listen(LISTEN_BACKLOG));
                let (now, result) = split(opened.map(Entrance::Open));
                entrance = now;
                (done, result)
            }
            (Order::Open(done) | Order::Close(done), unchanged) => {
                entrance = unchanged;
                (done, Ok(()))
            }
        };
        let _ = done.send(result); // Whoever asked may have left; the door is as they wished.
    }
}

const LISTEN_BACKLOG: u32 = 1024;

fn split(result: io::Result<Entrance>) -> (Option<Entrance>, io::Result<()>) {
    match result {
        Ok(entrance) => (Some(entrance), Ok(())),
        Err(error) => (None, Err(error)),
    }
}

fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?; // Connections of the closed listener still use the port.
    socket.bind(address)?;
    Ok(socket)
}

fn admit<H: Host>(stream: TcpStream, tls: Option<TlsAcceptor>, host: &Arc<H>, state: &Arc<State>) {
    let link = Arc::new(Link::new(state.next.fetch_add(1, Ordering::Relaxed)));
    let record = ConnectionRecord {
        id: link.id,
        opened_at_ms: unix_ms(),
        first_byte_after_ms: None,
        closed_after_ms: None,
        requests: 0,
        ended_by: None,
    };
    {
        let mut seen = locked(&state.seen);
        seen.insert(
            link.id,
            Seen {
                record,
                link: Arc::clone(&link),
            },
        );
        // At the bound the oldest ended connection is forgotten.
        if seen.len() > state.record_count_max
            && let Some(oldest) = seen
                .values()
                .find(|seen| seen.record.ended_by.is_some())
                .map(|seen| seen.record.id)
        {
            seen.remove(&oldest);
        }
    }
    state.changes.send_modify(|changes| *changes += 1);
    let (host, state) = (Arc::clone(host), Arc::clone(state));
    if host.resets_connection() {
        // Refused where listening goes on: the kernel has accepted, no byte has been read. It must end here, and
        // not in a task that may run after the caller's first bytes.
        link.reset_on_close();
        drop(Wire::new(Socket::Plain(stream), Arc::clone(&link)));
        ended(&state, &link, "reset");
        return;
    }
    tokio::spawn(async move {
        let ended_by = converse(stream, tls, host, &state, &link).await;
        ended(&state, &link, ended_by);
    });
}

fn ended(state: &State, link: &Link, by: &'static str) {
    if let Some(seen) = locked(&state.seen).get_mut(&link.id) {
        seen.record.closed_after_ms = Some(millis(link.opened.elapsed()));
        seen.record.ended_by = Some(if link.was_reset() { "reset" } else { by });
    }
    state.changes.send_modify(|changes| *changes += 1);
}

async fn converse<H: Host>(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    host: Arc<H>,
    state: &Arc<State>,
    link: &Arc<Link>,
) -> &'static str {
    // Small answers must not wait for the acknowledgement of earlier ones; failing means the peer is gone.
    let _ = stream.set_nodelay(true);
    let socket = match tls {
        None => Socket::Plain(stream),
        Some(acceptor) => {
            let shaken = tokio::select! {
                shaken = acceptor.accept(stream) => shaken,
                () = link.kicked.notified() => return "reset",
            };
            match shaken {
                Ok(stream) => Socket::Tls(Box::new(stream)),
                Err(_) => return "tls",
            }
        }
    };
    let wire = Wire::new(socket, Arc::clone(link));
    let service = service_fn(|request: Request<Incoming>| {
        let (host, link) = (Arc::clone(&host), Arc::clone(link));
        host.serve(link, request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(wire), service);
    let mut connection = std::pin::pin!(connection);
    let mut limits = state.idle_limit.subscribe();
    tokio::select! {
        ended = connection.as_mut() => return if ended.is_ok() { "caller" } else { "cut" },
        () = link.kicked.notified() => return "reset", // Dropping the connection closes the socket.
        () = idle(link, &mut limits) => connection.as_mut().graceful_shutdown(),
    }
    // A request that came in at the same moment is still answered, as a careful server does.
    let _ = connection.await;
    "idle"
}

/// Returns when the connection has idled for as long as the limit allows.
async fn idle(link: &Link, limits: &mut watch::Receiver<Option<Duration>>) {
    loop {
        let limit = *limits.borrow_and_update();
        let deadline = limit
            .zip(link.idle_since())
            .map(|(limit, since)| since + limit);
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
            () = link.activity.notified() => {}
            // The sender lives as long as the door, whose end ends this connection as well.
            _ = limits.changed() => {}
        }
    }
}
