//! One HTTP/1.1 message at a time, read with as little work as possible: this side shares the cores with what it measures.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Enough for nearly all: ten thousand connections at once must not take a gigabyte.
const MESSAGE_BYTES: usize = 4 * 1024;
/// No message here is longer; one that is ends the run.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A connection, and the message that was read last.
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
    /// Where the body begins, and where it ends.
    body: usize,
    end: usize,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; MESSAGE_BYTES],
            body: 0,
            end: 0,
        })
    }

    /// Reads the next message; false if the other side closed instead.
    pub(super) async fn read(&mut self) -> io::Result<bool> {
        let mut filled = 0;
        (self.body, self.end) = (0, 0);
        loop {
            let count = self.stream.read(&mut self.buffer[filled..]).await?;
            if count == 0 {
                return match filled {
                    0 => Ok(false),
                    _ => Err(broken("closed within a message")),
                };
            }
            let seen = filled.saturating_sub(3);
            filled += count;
            if self.body == 0
                && let Some(at) = find(&self.buffer[seen..filled], b"\r\n\r\n")
            {
                self.body = seen + at + 4;
                self.end = self.body + content_length(&self.buffer[..self.body])?;
            }
            if self.body > 0 && filled >= self.end {
                return if filled == self.end {
                    Ok(true)
                } else {
                    Err(broken("more than one message at once"))
                };
            }
            if filled == MESSAGE_BYTES_MAX {
                return Err(broken("a message without end"));
            }
            if filled == self.buffer.len() {
                self.buffer.resize(filled * 2, 0);
            }
        }
    }

    pub(super) fn head(&self) -> &[u8] {
        &self.buffer[..self.body]
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.buffer[self.body..self.end]
    }
}

fn content_length(head: &[u8]) -> io::Result<usize> {
    const NAME: &[u8] = b"content-length:";
    for line in head.split(|byte| *byte == b'\n') {
        let Some((name, value)) = line.split_at_checked(NAME.len()) else {
            continue;
        };
        if name.eq_ignore_ascii_case(NAME) {
            let value = str::from_utf8(value).ok();
            return value
                .and_then(|value| value.trim().parse().ok())
                .ok_or_else(|| broken("an unreadable Content-Length"));
        }
    }
    Err(broken("a message without Content-Length"))
}

/// Where `wanted` begins in `bytes`.
pub(super) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == first) {
        from += at;
        if bytes[from..].starts_with(wanted) {
            return Some(from);
        }
        from += 1;
    }
    None
}

pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_read_whatever_the_case_of_its_name() {
        let head = b"HTTP/1.1 201 Created\r\nContent-Length: 17\r\n\r\n";
        assert_eq!(content_length(head).expect("a length"), 17);
        let head = b"HTTP/1.1 201 Created\r\ncontent-length:3\r\n\r\n";
        assert_eq!(content_length(head).expect("a length"), 3);
        assert!(content_length(b"HTTP/1.1 201 Created\r\n\r\n").is_err());
    }

    #[test]
    fn what_is_searched_may_begin_with_what_is_not_it() {
        assert_eq!(find(b"aab", b"ab"), Some(1));
        assert_eq!(find(b"aa", b"ab"), None);
    }
}
