//! A TCP proxy that breaks connections when it is told to.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::trap::TrapState;
use super::{Doing, Moment, StackError, Trap};

const CHUNK_BYTES: usize = 16 * 1024;
/// Longer patterns could begin further back than the bytes that are kept to find them.
const PATTERN_BYTES_MAX: usize = 256;
/// More than any answer a test withholds; past it the connection fails, and the test with it.
const WITHHELD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Stands between a client and one server. Its own port stays open throughout: while the server is away, connections are
/// accepted and reset. Ends with every connection on drop.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    server: String,
    gate: watch::Sender<Gate>,
    connections: watch::Sender<Connections>,
    traps: Mutex<Vec<Arc<TrapState>>>,
}

#[derive(Clone, Copy, Debug)]
struct Gate {
    paused: bool,
    /// Connections with a lower number must end.
    cut_below: u64,
}

#[derive(Debug, Default)]
struct Connections {
    accepted: u64,
    open: BTreeSet<u64>,
}

impl TcpProxy {
    /// Forwards connections to `server`, `host:port`, from a loopback port of its own.
    pub async fn start(server: impl Into<String>) -> Result<Self, StackError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .doing(|| "opening a port for the proxy".to_owned())?;
        let address = listener
            .local_addr()
            .doing(|| "asking for the proxy's port".to_owned())?;
        let shared = Arc::new(Shared {
            server: server.into(),
            gate: watch::Sender::new(Gate {
                paused: false,
                cut_below: 0,
            }),
            connections: watch::Sender::default(),
            traps: Mutex::default(),
        });
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self {
            address,
            shared,
            acceptor,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections accepted since the start.
    pub fn accepted_count(&self) -> u64 {
        self.shared.connections.borrow().accepted
    }

    pub fn open_count(&self) -> usize {
        self.shared.connections.borrow().open.len()
    }

    /// Resets every connection on both sides; returns when all are closed. New ones are welcome.
    pub async fn cut(&self) {
        let cut_below = self.shared.connections.borrow().accepted;
        self.shared
            .gate
            .send_modify(|gate| gate.cut_below = cut_below);
        let is_gone = |connections: &Connections| {
            connections
                .open
                .first()
                .is_none_or(|lowest| *lowest >= cut_below)
        };
        // An error would mean that the sender, which `self` holds, is gone.
        let _ = self.shared.connections.subscribe().wait_for(is_gone).await;
    }

    /// From now on nothing passes in either direction, and no connection breaks: what arrives is kept.
    pub fn pause(&self) {
        self.shared.gate.send_modify(|gate| gate.paused = true);
    }

    pub fn resume(&self) {
        self.shared.gate.send_modify(|gate| gate.paused = false);
    }

    /// Cuts the first connection whose request contains `pattern`, at the moment given.
    pub fn cut_at(&self, moment: Moment, pattern: &[u8]) -> Trap {
        self.set(Trap::new(pattern, moment, false))
    }

    /// Holds the first connection whose request contains `pattern`, at the moment given, until the trap is released.
    pub fn hold_at(&self, moment: Moment, pattern: &[u8]) -> Trap {
        self.set(Trap::new(pattern, moment, true))
    }

    /// Forwards the first request that contains `pattern` and cuts its connection when the server answers, without
    /// letting the client see any of the answer. For a commit give `Moment::after_commit` to `cut_at` instead: the first
    /// byte of a longer answer may precede the commit.
    pub fn cut_after_forwarding_matching(&self, pattern: &[u8]) -> Trap {
        self.cut_at(Moment::AfterAnswer { ending: Vec::new() }, pattern)
    }

    fn set(&self, trap: Trap) -> Trap {
        let length = trap.state.pattern.len();
        assert!(
            (1..=PATTERN_BYTES_MAX).contains(&length),
            "a pattern has 1 to {PATTERN_BYTES_MAX} bytes"
        );
        let mut traps = lock(&self.shared.traps);
        traps.retain(|earlier| earlier.is_armed());
        traps.push(Arc::clone(&trap.state));
        drop(traps);
        trap
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new(); // Aborts them all when this task ends.
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let mut number = 0;
                shared.connections.send_modify(|connections| {
                    number = connections.accepted;
                    connections.accepted += 1;
                    connections.open.insert(number);
                });
                connections.spawn(serve(client, number, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut client: TcpStream, number: u64, shared: Arc<Shared>) {
    let mut gate = shared.gate.subscribe();
    let mut server = None;
    let outcome = tokio::select! {
        biased;
        _ = gate.wait_for(|gate| gate.cut_below > number) => Err(Over),
        outcome = forward(&mut client, &mut server, &shared) => outcome,
    };
    if outcome.is_err() {
        // A reset, not an orderly end: nobody may take what came so far for everything there was. A socket that refuses
        // is one that broke already.
        for socket in std::iter::once(&client).chain(&server) {
            let _ = socket.set_zero_linger();
        }
    }
    drop((client, server)); // Before they count as closed.
    shared.connections.send_modify(|connections| {
        connections.open.remove(&number);
    });
}

/// One connection, until both sides have finished by themselves.
async fn forward(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    shared: &Shared,
) -> Result<(), Over> {
    shared.open_gate().await;
    let server = server.insert(TcpStream::connect(&shared.server).await?);
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_reader, client_writer) = client.split();
    let (server_reader, server_writer) = server.split();
    let withheld = Mutex::new(None);
    let requests = forward_requests(client_reader, server_writer, shared, &withheld);
    let answers = forward_answers(server_reader, client_writer, shared, &withheld);
    tokio::try_join!(requests, answers).map(drop)
}

/// The connection ends here and now: a cut, a trap, a socket that broke, a server that is away.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

/// The trap that keeps the answers of one connection from its client.
type Withheld = Mutex<Option<Arc<TrapState>>>;

async fn forward_requests(
    mut from: tcp::ReadHalf<'_>,
    mut to: tcp::WriteHalf<'_>,
    shared: &Shared,
    withheld: &Withheld,
) -> Result<(), Over> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut seen = Vec::new(); // The end of what went before, then the chunk: a pattern may straddle two reads.
    loop {
        let length = from.read(&mut chunk).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        let chunk = &chunk[..length];
        let earlier = seen.len();
        seen.extend_from_slice(chunk);
        if let Some(trap) = shared.caught(&seen, earlier) {
            match trap.moment {
                Moment::BeforeRequest => {
                    trap.spring();
                    if !trap.holds {
                        return Err(Over);
                    }
                    trap.released().await;
                }
                // Before the request is forwarded, so that no byte of its answer can slip through.
                Moment::AfterAnswer { .. } => *lock(withheld) = Some(trap),
            }
        }
        seen.drain(..seen.len().saturating_sub(PATTERN_BYTES_MAX - 1));
        shared.open_gate().await;
        to.write_all(chunk).await?;
    }
}

async fn forward_answers(
    mut from: tcp::ReadHalf<'_>,
    mut to: tcp::WriteHalf<'_>,
    shared: &Shared,
    withheld: &Withheld,
) -> Result<(), Over> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut kept = Vec::new();
    loop {
        let length = from.read(&mut chunk).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        kept.extend_from_slice(&chunk[..length]);
        let trap = lock(withheld).clone();
        if let Some(trap) = trap {
            if kept.len() > WITHHELD_BYTES_MAX {
                return Err(Over);
            }
            let Moment::AfterAnswer { ending } = &trap.moment else {
                return Err(Over);
            };
            if find(&kept, ending, 0).is_none() {
                continue;
            }
            trap.spring();
            if !trap.holds {
                return Err(Over);
            }
            trap.released().await;
            *lock(withheld) = None;
        }
        shared.open_gate().await;
        to.write_all(&kept).await?;
        kept.clear();
    }
}

impl Shared {
    async fn open_gate(&self) {
        // An error would mean that the sender, which `self` holds, is gone.
        let _ = self.gate.subscribe().wait_for(|gate| !gate.paused).await;
    }

    /// The first armed trap whose pattern ends behind `earlier` bytes of `seen`; it is taken.
    fn caught(&self, seen: &[u8], earlier: usize) -> Option<Arc<TrapState>> {
        let traps = lock(&self.traps);
        let caught = traps.iter().find(|trap| {
            let from = (earlier + 1).saturating_sub(trap.pattern.len());
            find(seen, &trap.pattern, from).is_some() && trap.take()
        });
        caught.cloned()
    }
}

/// Nothing that holds these locks can leave them half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where `pattern` begins in `bytes`, at `from` or later. The empty pattern is everywhere.
fn find(bytes: &[u8], pattern: &[u8], from: usize) -> Option<usize> {
    if pattern.is_empty() {
        return Some(from);
    }
    bytes
        .get(from..)?
        .windows(pattern.len())
        .position(|window| window == pattern)
        .map(|at| at + from)
}
