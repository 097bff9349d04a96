//! Clients that keep a gateway busy without asking anything of it, while somebody pays.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use gateway_http::process::raise_open_files;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::stack::{GatewayProcess, StackError, eventually};
use crate::world::{Caller, World, claims, sale};

/// A payment may take so long on a machine that is busy with the attack, too.
const PAYMENT_MAX: Duration = Duration::from_secs(2);
/// What a connection may cost: its task, and the buffer of a head, or of an answer that nobody reads.
const CONNECTION_BYTES_MAX: u64 = 128 * 1024;
const OTHER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Options of `slow-clients`.
#[derive(Debug, Args)]
pub struct SlowClients {
    /// Connections that say nothing; of the other kinds there is a tenth.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// How long each kind goes on, once its connections are open.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// What a client does instead of asking.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Nothing.
    Idle,
    /// One header after the other, for ever.
    SlowHead,
    /// A body, byte by byte.
    SlowBody,
    /// Many requests, whose answers it does not read.
    SlowRead,
    /// Requests for very many parts of one answer.
    Ranges,
}

const KINDS: [Kind; 5] = [
    Kind::Idle,
    Kind::SlowHead,
    Kind::SlowBody,
    Kind::SlowRead,
    Kind::Ranges,
];

/// Plays one kind after the other, and prints what became of payments and memory.
pub async fn run(wanted: SlowClients) -> Result<(), StackError> {
    raise_open_files();
    let mut world = World::on_sqlite().await;
    // As they are by default; a caller who pays is one more.
    world.config.more_server = format!("connections_max = {}\n", wanted.connections + 100);
    let gateway = world.process("gateway").await;
    let address = gateway.base_url().trim_start_matches("http://").to_owned();
    let address: SocketAddr = address
        .parse()
        .map_err(|error| StackError::new(format!("{address}: {error}")))?;
    let shop = world.caller(gateway.base_url());
    let token: Arc<str> = world.key.mint(&claims("shop-1")).into();
    println!("at rest: {} MiB", resident(&gateway) / 1024 / 1024);
    println!("kind | connections | cut off meanwhile | payments | median | slowest | most memory");
    let mut short = Vec::new();
    for kind in KINDS {
        let count = match kind {
            Kind::Idle => wanted.connections,
            _ => wanted.connections / 10,
        };
        let cut = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..count {
            clients.spawn(attack(kind, address, Arc::clone(&token), Arc::clone(&cut)));
        }
        let opened = eventually(Duration::from_mins(1), "the connections", async || {
            let open = shop.metric("http_server_open_connections").await;
            // Some are being cut off, and come back.
            (open >= 0.9 * u32::try_from(count).map_or(f64::MAX, f64::from)).then_some(())
        });
        opened.await?;
        let span = Duration::from_secs(wanted.seconds);
        let seen = pay(&shop, &gateway, kind, span).await?;
        clients.shutdown().await;
        println!(
            "{kind:?} | {count} | {} | {seen}",
            cut.load(Ordering::Relaxed)
        );
        short.extend(seen.faults(kind, count));
        if !shop.get("/readyz").await.body["ready"]
            .as_bool()
            .unwrap_or_default()
        {
            short.push(format!("{kind:?}: not ready afterwards"));
        }
    }
    if short.is_empty() {
        return Ok(());
    }
    Err(StackError::new(short.join("; ")))
}

/// What a caller saw meanwhile.
struct Seen {
    payments: Vec<Duration>,
    refused: usize,
    memory_max: u64,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.payments.clone();
        sorted.sort();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let slowest = sorted.last().copied().unwrap_or_default();
        write!(
            f,
            "{} | {:.1} ms | {:.1} ms | {} MiB",
            sorted.len(),
            median.as_secs_f64() * 1e3,
            slowest.as_secs_f64() * 1e3,
            self.memory_max / 1024 / 1024
        )
    }
}

impl Seen {
    fn faults(&self, kind: Kind, connections: usize) -> Vec<String> {
        let mut faults = Vec::new();
        if self.refused > 0 || self.payments.is_empty() {
            faults.push(format!("{kind:?}: {} payments were refused", self.refused));
        }
        if self.payments.iter().any(|took| *took > PAYMENT_MAX) {
            faults.push(format!(
                "{kind:?}: a payment took longer than {PAYMENT_MAX:?}"
            ));
        }
        let connections = u64::try_from(connections).unwrap_or(u64::MAX);
        let memory_max = OTHER_BYTES_MAX + connections.saturating_mul(CONNECTION_BYTES_MAX);
        if self.memory_max > memory_max {
            faults.push(format!("{kind:?}: more than {memory_max} bytes of memory"));
        }
        faults
    }
}

/// Payments one after the other.
async fn pay(
    shop: &Caller,
    gateway: &GatewayProcess,
    kind: Kind,
    span: Duration,
) -> Result<Seen, StackError> {
    let began = Instant::now();
    let mut seen = Seen {
        payments: Vec::new(),
        refused: 0,
        memory_max: 0,
    };
    while began.elapsed() < span {
        let key = format!("{kind:?}-{}", seen.payments.len() + seen.refused);
        let asked = Instant::now();
        match shop.pay(&key, &sale(15_00)).await.status {
            201 => seen.payments.push(asked.elapsed()),
            _ => seen.refused += 1,
        }
        seen.memory_max = seen.memory_max.max(resident(gateway));
        if gateway.id().is_none() {
            return Err(StackError::new("the gateway is gone"));
        }
    }
    Ok(seen)
}

fn resident(gateway: &GatewayProcess) -> u64 {
    gateway.resident_bytes().unwrap_or_default()
}

/// One client that comes back whenever it is cut off.
async fn attack(kind: Kind, address: SocketAddr, token: Arc<str>, cut: Arc<AtomicUsize>) {
    loop {
        if let Ok(stream) = connect(kind, address).await {
            let _ = go_slow(kind, stream, &token).await;
            cut.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn connect(kind: Kind, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if matches!(kind, Kind::SlowRead) {
        socket.set_recv_buffer_size(2_048)?;
    }
    socket.connect(address).await
}

/// Until the gateway has enough of it.
async fn go_slow(kind: Kind, mut stream: TcpStream, token: &str) -> std::io::Result<()> {
    const PAUSE: Duration = Duration::from_secs(1);
    let (head, then): (String, &[u8]) = match kind {
        Kind::Idle => (String::new(), b""),
        Kind::SlowHead => (
            "POST /v1/payments HTTP/1.1\r\nhost: x\r\n".to_owned(),
            b"x-more: x\r\n",
        ),
        Kind::SlowBody => (
            format!(
                "POST /v1/payments HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nidempotency-key: slow\r\n\
                 content-type: application/json\r\ncontent-length: 60000\r\n\r\n"
            ),
            b" ",
        ),
        Kind::SlowRead => (
            "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(64),
            b"",
        ),
        Kind::Ranges => {
            let parts: Vec<_> = (0..1_300).map(|part| format!("5-{part}")).collect();
            (
                format!(
                    "GET /openapi.json HTTP/1.1\r\nhost: x\r\nrange: bytes=0-,{}\r\n\r\n",
                    parts.join(",")
                ),
                b"",
            )
        }
    };
    stream.write_all(head.as_bytes()).await?;
    let mut answer = [0; 4_096];
    loop {
        match kind {
            Kind::Idle => {
                if stream.read(&mut answer).await? == 0 {
                    return Ok(());
                }
            }
            Kind::SlowHead | Kind::SlowBody => {
                // What is said meanwhile is the end: an answer, or a close.
                if let Ok(read) = timeout(PAUSE, stream.read(&mut answer)).await {
                    read?;
                    return Ok(());
                }
                stream.write_all(then).await?;
            }
            Kind::SlowRead => {
                sleep(PAUSE).await;
                // One byte at a time, to be taken for alive.
                if stream.read(&mut answer[..1]).await? == 0 {
                    return Ok(());
                }
            }
            Kind::Ranges => {
                if stream.read(&mut answer).await? == 0 {
                    return Ok(());
                }
                if timeout(PAUSE, stream.readable()).await.is_err() {
                    stream.write_all(head.as_bytes()).await?;
                }
            }
        }
    }
}
