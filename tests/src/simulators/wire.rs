//! The socket under one HTTP connection: counts, and where a fault asks for it cuts, drips or resets.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::locked;

/// How the bytes of the current answer go out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    #[default]
    Whole,
    /// The head, then so many bytes of the body, then the end of the stream.
    CutBodyAfter(usize),
    /// One byte at a time, spread over the duration. `bytes` is an estimate; at the end the rest goes at once.
    Drip { over: Duration, bytes: usize },
}

#[derive(Debug)]
struct Traffic {
    shape: Shape,
    /// How much of the blank line that ends the head has been seen.
    head_end_seen: usize,
    dripping: Option<(Instant, usize)>,
    idle_since: Option<Instant>,
    first_byte: Option<Instant>,
    requests: u64,
}

/// What a connection's task, its socket and its request handlers share.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) opened: Instant,
    traffic: Mutex<Traffic>,
    /// A request began or ended.
    pub(crate) activity: Notify,
    pub(crate) kicked: Notify,
    reset: AtomicBool,
}

impl Link {
    pub(crate) fn new(id: u64) -> Self {
        let opened = Instant::now();
        Self {
            id,
            opened,
            traffic: Mutex::new(Traffic {
                shape: Shape::Whole,
                head_end_seen: 0,
                dripping: None,
                idle_since: Some(opened),
                first_byte: None,
                requests: 0,
            }),
            activity: Notify::new(),
            kicked: Notify::new(),
            reset: AtomicBool::new(false),
        }
    }

    /// A request head was read: the connection is busy, and the next answer goes out whole again.
    pub(crate) fn begin(&self) -> u64 {
        let mut traffic = locked(&self.traffic);
        traffic.idle_since = None;
        traffic.shape = Shape::Whole;
        traffic.requests += 1;
        let ordinal = traffic.requests;
        drop(traffic);
        self.activity.notify_one();
        ordinal
    }

    pub(crate) fn end(&self) {
        locked(&self.traffic).idle_since = Some(Instant::now());
        self.activity.notify_one();
    }

    pub(crate) fn shape(&self, shape: Shape) {
        let mut traffic = locked(&self.traffic);
        traffic.shape = shape;
        traffic.head_end_seen = 0;
        traffic.dripping = None;
    }

    /// From now on closing this connection means a reset (RST), not an orderly end (FIN).
    pub(crate) fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Release);
    }

    /// Resets the connection, whatever it is doing.
    pub(crate) fn kick(&self) {
        self.reset_on_close();
        self.kicked.notify_one();
    }

    pub(crate) fn was_reset(&self) -> bool {
        self.reset.load(Ordering::Acquire)
    }

    pub(crate) fn idle_since(&self) -> Option<Instant> {
        locked(&self.traffic).idle_since
    }

    pub(crate) fn first_byte(&self) -> Option<Instant> {
        locked(&self.traffic).first_byte
    }

    pub(crate) fn requests(&self) -> u64 {
        locked(&self.traffic).requests
    }
}

#[derive(Debug)]
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// The stream that hyper reads and writes: plain text, above TLS if there is any.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    link: Arc<Link>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub(crate) fn new(socket: Socket, link: Arc<Link>) -> Self {
        Self {
            socket,
            link,
            pause: None,
        }
    }

    fn poll_write_through(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush_through(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_cut(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        left: usize,
    ) -> Poll<io::Result<usize>> {
        let mut seen = locked(&self.link.traffic).head_end_seen;
        let head = head_length(bytes, &mut seen);
        let allowed = if seen == HEAD_END.len() {
            (head + left).min(bytes.len())
        } else {
            bytes.len()
        };
        if allowed == 0 {
            // What was allowed must be on its way before the end of the stream.
            ready!(self.poll_flush_through(cx))?;
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "cut by a fault",
            )));
        }
        let written = ready!(self.poll_write_through(cx, &bytes[..allowed]))?;
        let mut traffic = locked(&self.link.traffic);
        let body =
            written.saturating_sub(head_length(&bytes[..written], &mut traffic.head_end_seen));
        if traffic.head_end_seen == HEAD_END.len() {
            traffic.shape = Shape::CutBodyAfter(left.saturating_sub(body));
        }
        Poll::Ready(Ok(written))
    }

    fn poll_drip(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        over: Duration,
        total: usize,
    ) -> Poll<io::Result<usize>> {
        let (started, sent) = *locked(&self.link.traffic)
            .dripping
            .get_or_insert_with(|| (Instant::now(), 0));
        let share = u32::try_from(total.max(1)).unwrap_or(u32::MAX);
        let due = started + over / share * u32::try_from(sent).unwrap_or(u32::MAX);
        if sent >= total || started.elapsed() >= over {
            return self.poll_write_through(cx, bytes);
        }
        if due > Instant::now() {
            let pause = self
                .pause
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            ready!(pause.as_mut().poll(cx));
        }
        self.pause = None;
        let written = ready!(self.poll_write_through(cx, &bytes[..bytes.len().min(1)]))?;
        if let Some((_, sent)) = &mut locked(&self.link.traffic).dripping {
            *sent += written;
        }
        Poll::Ready(Ok(written))
    }
}

const HEAD_END: &[u8] = b"\r\n\r\n";

/// How many of these bytes still belong to the head; `seen` carries a partly seen end over to the next call.
fn head_length(bytes: &[u8], seen: &mut usize) -> usize {
    for (index, byte) in bytes.iter().enumerate() {
        if *seen == HEAD_END.len() {
            return index;
        }
        *seen = match *byte {
            byte if byte == HEAD_END[*seen] => *seen + 1,
            b'\r' => 1,
            _ => 0,
        };
    }
    bytes.len()
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match &mut this.socket {
            Socket::Plain(stream) => ready!(Pin::new(stream).poll_read(cx, buffer))?,
            Socket::Tls(stream) => ready!(Pin::new(stream.as_mut()).poll_read(cx, buffer))?,
        }
        if buffer.filled().len() > before {
            locked(&this.link.traffic)
                .first_byte
                .get_or_insert_with(Instant::now);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let shape = locked(&this.link.traffic).shape;
        match shape {
            Shape::Whole => this.poll_write_through(cx, bytes),
            Shape::CutBodyAfter(left) => this.poll_cut(cx, bytes, left),
            Shape::Drip { over, bytes: total } => this.poll_drip(cx, bytes, over, total),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_flush_through(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.link.was_reset() {
            // Without a linger time close(2) discards what is unsent and answers RST; if the option cannot be set
            // the peer is gone already.
            let _ = self.socket.tcp().set_zero_linger();
        }
    }
}
