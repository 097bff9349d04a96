//! The bytes under a connection: counts what really left, and looks at the socket itself when asked who is there.

use std::io::{self, IoSlice, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A probe looks for the end of the stream, a TLS ticket or an alert; none needs more, and hyper's buffer is 8 KiB.
const PROBE_BYTES: usize = 1_024;

/// Counters of one connection, shared by its layers. Only the task that holds the connection moves them.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// Bytes of HTTP taken over by the socket, or by TLS on its way to the socket.
    accepted: AtomicU64,
    /// Bytes taken over by the socket: TLS records, where there is TLS.
    left: AtomicU64,
    /// Bytes of HTTP received.
    received: AtomicU64,
    probing: AtomicBool,
}

/// Where the counters stood when a request began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    accepted: u64,
    left: u64,
    received: u64,
}

impl Wire {
    pub(super) fn mark(&self) -> Mark {
        Mark {
            accepted: self.accepted.load(Ordering::Relaxed),
            left: self.left.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }

    /// Bytes of the request handed to the socket since `mark`. Zero is proof that nothing of it left: either HTTP wrote
    /// nothing (what the socket took then was TLS's own, an alert), or TLS still held all of it.
    pub(super) fn written_since(&self, mark: Mark) -> u64 {
        if self.left.load(Ordering::Relaxed) == mark.left {
            return 0;
        }
        self.accepted.load(Ordering::Relaxed) - mark.accepted
    }

    pub(super) fn heard_since(&self, mark: Mark) -> bool {
        self.received.load(Ordering::Relaxed) != mark.received
    }

    /// While probing, reads ask the socket itself: the runtime learns of a closed connection only when it next looks.
    pub(super) fn set_probing(&self, probing: bool) {
        self.probing.store(probing, Ordering::Relaxed);
    }
}

/// The TCP connection.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    wire: Arc<Wire>,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream, wire: Arc<Wire>) -> Self {
        Self { tcp, wire }
    }

    fn count(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = written {
            self.wire.left.fetch_add(*count as u64, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.wire.probing.load(Ordering::Relaxed) {
            let size = buf.remaining().min(PROBE_BYTES);
            match (&*SockRef::from(&self.tcp)).read(buf.initialize_unfilled_to(size)) {
                Ok(count) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.count(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.count(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// What HTTP reads and writes: the socket, or TLS over it.
#[derive(Debug)]
pub(super) enum Layer {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// The layer that HTTP talks to, counted.
#[derive(Debug)]
pub(super) struct Stream {
    layer: Layer,
    wire: Arc<Wire>,
}

impl Stream {
    pub(super) fn new(layer: Layer, wire: Arc<Wire>) -> Self {
        Self { layer, wire }
    }

    fn count(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = written {
            self.wire
                .accepted
                .fetch_add(*count as u64, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.layer {
            Layer::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Layer::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        };
        let count = buf.filled().len() - before;
        self.wire
            .received
            .fetch_add(count as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.layer {
            Layer::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Layer::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        };
        self.count(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.layer {
            Layer::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Layer::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        };
        self.count(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.layer {
            Layer::Plain(socket) => socket.is_write_vectored(),
            Layer::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Layer::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Layer::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_both_http_gave_and_the_socket_took_counts_as_written() {
        let wire = Wire::default();
        wire.left.store(2_000, Ordering::Relaxed); // The TLS handshake.
        let mark = wire.mark();
        wire.accepted.fetch_add(300, Ordering::Relaxed);
        assert_eq!(wire.written_since(mark), 0, "TLS holds all of it");
        wire.left.fetch_add(1, Ordering::Relaxed);
        assert_eq!(wire.written_since(mark), 300, "a part may be enough");
        let mark = wire.mark();
        wire.left.fetch_add(24, Ordering::Relaxed);
        assert_eq!(
            wire.written_since(mark),
            0,
            "an alert is no part of a request"
        );
    }
}
