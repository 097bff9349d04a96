//! Which version of HTTP a caller speaks, by the first bytes that it sends.
//!
//! hyper-util can tell it too, but then hands these bytes on by themselves, and hyper makes its buffer twice as large for
//! the rest: 8 KiB for each connection that has asked once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// RFC 9113, 3.4.
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// A stream of which the first bytes were read; they are read again with those that follow.
#[derive(Debug)]
pub(crate) struct Begun<S> {
    first: [u8; PREFACE.len()],
    /// Of `first`: from here on nobody has read them again.
    next: usize,
    end: usize,
    stream: S,
}

/// Reads until the version is clear. Whoever says nothing and closes speaks HTTP/1.
pub(crate) async fn read<S>(mut stream: S) -> io::Result<(Version, Begun<S>)>
where
    S: AsyncRead + Unpin,
{
    let (mut first, mut end) = ([0; PREFACE.len()], 0);
    let version = loop {
        let count = stream.read(&mut first[end..]).await?;
        end += count;
        if count == 0 || first[..end] != PREFACE[..end] {
            break Version::Http1;
        }
        if end == PREFACE.len() {
            break Version::Http2;
        }
    };
    let begun = Begun {
        first,
        next: 0,
        end,
        stream,
    };
    Ok((version, begun))
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let again = buf.remaining().min(self.end - self.next);
        if again > 0 {
            buf.put_slice(&self.first[self.next..self.next + again]);
            self.next += again;
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending if again > 0 => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// What is made of bytes that come at most so many at once.
    async fn of(bytes: &[u8], at_once: usize) -> (Version, Vec<u8>) {
        let (mut caller, stream) = tokio::io::duplex(at_once);
        let say = async {
            caller.write_all(bytes).await.expect("somebody reads");
            drop(caller);
        };
        let hear = async {
            let (version, mut begun) = read(stream).await.expect("it is read");
            let mut whole = Vec::new();
            begun.read_to_end(&mut whole).await.expect("it is read");
            (version, whole)
        };
        tokio::join!(say, hear).1
    }

    #[tokio::test]
    async fn every_byte_is_there_in_its_order_however_it_came() {
        let pri = [&PREFACE[..], b"\0\0\0\x04"].concat();
        for (whole, version) in [
            (&b"POST /v1/payments HTTP/1.1\r\n\r\n"[..], Version::Http1),
            (b"PRI * HTTP/1.1\r\nhost: here\r\n\r\n", Version::Http1),
            (b"PRI", Version::Http1),
            (b"", Version::Http1),
            (&PREFACE, Version::Http2),
            (&pri, Version::Http2),
        ] {
            for at_once in [1, 7, 1_024] {
                assert_eq!(of(whole, at_once).await, (version, whole.to_vec()));
            }
        }
    }

    #[tokio::test]
    async fn what_is_there_comes_in_one_piece() {
        let (mut caller, stream) = tokio::io::duplex(1_024);
        let asked = b"GET /livez HTTP/1.1\r\nhost: here\r\n\r\n";
        caller.write_all(asked).await.expect("there is room");
        let (_, mut begun) = read(stream).await.expect("it is read");
        let mut buffer = [0; 1_024];
        let count = begun.read(&mut buffer).await.expect("it is read");
        assert_eq!(&buffer[..count], asked);
    }
}
