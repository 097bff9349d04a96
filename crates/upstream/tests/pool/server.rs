//! A processor's server, written by hand: each connection follows a script, and everything it receives is kept.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// What one server saw.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) connections: Vec<Seen>,
}

/// What came in on one connection.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) accepted: Instant,
    pub(crate) bytes: usize,
    /// When each request was complete, and its text.
    pub(crate) requests: Vec<(Instant, String)>,
    pub(crate) ended: Option<Instant>,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Log>>,
    changed: watch::Sender<()>,
    accepting: AbortHandle,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// The server's end of one connection.
pub(crate) struct Peer {
    io: Box<dyn Io>,
    /// How many were accepted before it.
    pub(crate) index: usize,
    unread: Vec<u8>,
    log: Arc<Mutex<Log>>,
    changed: watch::Sender<()>,
    linger_zero: Arc<Mutex<Option<socket2::Socket>>>,
}

type Script = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Server {
    pub(crate) async fn start<F, Fut>(script: F) -> Self
    where
        F: Fn(Peer) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::run(None, Box::new(move |peer| Box::pin(script(peer)))).await
    }

    pub(crate) async fn start_tls<F, Fut>(tls: TlsAcceptor, script: F) -> Self
    where
        F: Fn(Peer) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::run(Some(tls), Box::new(move |peer| Box::pin(script(peer)))).await
    }

    async fn run(
        tls: Option<TlsAcceptor>,
        script: Box<dyn Fn(Peer) -> Script + Send + Sync>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let log = Arc::new(Mutex::new(Log::default()));
        let (changed, _) = watch::channel(());
        let accepting = {
            let (log, changed) = (Arc::clone(&log), changed.clone());
            let next = AtomicUsize::new(0);
            let script: Arc<dyn Fn(Peer) -> Script + Send + Sync> = Arc::from(script);
            tokio::spawn(async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    tcp.set_nodelay(true).expect("a TCP socket");
                    let handle = socket2::SockRef::from(&tcp)
                        .try_clone()
                        .expect("a spare descriptor");
                    let seen = Seen {
                        accepted: Instant::now(),
                        bytes: 0,
                        requests: Vec::new(),
                        ended: None,
                    };
                    log.lock().expect("no panic").connections.push(seen);
                    changed.send_replace(());
                    let (log, changed, tls) = (Arc::clone(&log), changed.clone(), tls.clone());
                    let script = Arc::clone(&script);
                    tokio::spawn(async move {
                        let Some(io) = shake(tcp, tls).await else {
                            return;
                        };
                        let linger_zero = Arc::new(Mutex::new(Some(handle)));
                        let peer = Peer {
                            io,
                            index,
                            unread: Vec::new(),
                            log,
                            changed,
                            linger_zero,
                        };
                        script(peer).await;
                    });
                }
            })
        };
        Self {
            address,
            log,
            changed,
            accepting: accepting.abort_handle(),
        }
    }

    pub(crate) fn base(&self) -> http::Uri {
        format!("http://{}", self.address)
            .parse()
            .expect("an address is a URI's authority")
    }

    pub(crate) fn connection_count(&self) -> usize {
        self.log.lock().expect("no panic").connections.len()
    }

    pub(crate) fn request_count(&self) -> usize {
        self.read(|log| log.connections.iter().map(|seen| seen.requests.len()).sum())
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.log.lock().expect("no panic"))
    }

    /// Waits until what was seen fulfils the condition.
    pub(crate) async fn until(&self, condition: impl Fn(&Log) -> bool) {
        let mut changes = self.changed.subscribe();
        let met = async {
            while !self.read(&condition) {
                changes.changed().await.expect("the server lives");
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), met)
            .await
            .expect("the server never saw it");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn shake(tcp: TcpStream, tls: Option<TlsAcceptor>) -> Option<Box<dyn Io>> {
    match tls {
        None => Some(Box::new(tcp)),
        Some(acceptor) => Some(Box::new(acceptor.accept(tcp).await.ok()?)),
    }
}

impl Peer {
    /// The next request, head and body as text; nothing when the client closed.
    pub(crate) async fn request(&mut self) -> Option<String> {
        loop {
            if let Some(length) = complete(&self.unread) {
                let rest = self.unread.split_off(length);
                let request =
                    String::from_utf8(std::mem::replace(&mut self.unread, rest)).expect("UTF-8");
                self.note(|seen| seen.requests.push((Instant::now(), request.clone())));
                return Some(request);
            }
            let mut buffer = [0; 4096];
            let count = self.io.read(&mut buffer).await.unwrap_or(0);
            self.note(|seen| match count {
                0 => seen.ended = Some(Instant::now()),
                _ => seen.bytes += count,
            });
            if count == 0 {
                return None;
            }
            self.unread.extend_from_slice(&buffer[..count]);
        }
    }

    pub(crate) async fn send(&mut self, raw: &str) {
        self.send_bytes(raw.as_bytes()).await;
    }

    pub(crate) async fn send_bytes(&mut self, raw: &[u8]) {
        // The client may have left: then the script goes on to the end of its input.
        let _ = self.io.write_all(raw).await;
        let _ = self.io.flush().await;
    }

    /// Reads until the client closes, whatever it sends, and says how much that was.
    pub(crate) async fn drain(&mut self) -> usize {
        let mut buffer = vec![0; 1 << 16];
        let mut total = 0;
        while let Ok(count @ 1..) = self.io.read(&mut buffer).await {
            total += count;
        }
        total
    }

    pub(crate) async fn answer(&mut self, status: &str, body: &str) {
        self.send(&format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    }

    /// Answers every request with its own number on this connection.
    pub(crate) async fn serve(mut self) {
        let mut number = 0;
        while self.request().await.is_some() {
            number += 1;
            self.answer("200 OK", &format!("{}/{number}", self.index))
                .await;
        }
    }

    /// Ends the connection with a TCP reset.
    pub(crate) fn reset(self) {
        let handle = self
            .linger_zero
            .lock()
            .expect("no panic")
            .take()
            .expect("reset once");
        handle
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("a TCP socket");
        drop(handle);
        drop(self.io);
    }

    /// Ends it in order, with a FIN.
    pub(crate) async fn close(mut self) {
        let _ = self.io.shutdown().await;
        self.note(|seen| seen.ended = Some(Instant::now()));
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.log.lock().expect("no panic").connections[self.index]);
        self.changed.send_replace(());
    }
}

/// The length of the first request, if all of it is there.
fn complete(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head])
        .expect("heads are ASCII")
        .to_ascii_lowercase();
    let body = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.trim().parse().expect("a number"));
    (bytes.len() >= head + body).then_some(head + body)
}
