//! One open connection: whether it may serve, and one exchange on it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gateway_core::clock::{Clock, Tick};
use gateway_core::connector::Ended;
use http::{HeaderMap, Request, header};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;

use super::connect::{Driver, Opened, Sender};
use super::exchange::Response;
use super::wire::{Mark, Wire};

/// What is known of a connection while it lives, whoever holds it.
#[derive(Debug)]
pub(super) struct Vital {
    pub(super) id: u64,
    /// Taken before the name was resolved: the processor counts from later.
    pub(super) born: Tick,
    /// No request starts at or after it.
    pub(super) planned_end: Tick,
    pub(super) address: SocketAddr,
    pub(super) tls: Option<&'static str>,
    /// Requests begun.
    pub(super) requests: AtomicU64,
}

/// An open connection. Whoever holds it drives it, in his own task: so a request is on the wire before the call that
/// asked the gate is suspended, a call that is dropped takes its connection with it, and no task is woken in between.
pub(super) struct Connection {
    sender: Sender,
    /// Nothing once the connection has ended.
    driver: Option<Driver>,
    wire: Arc<Wire>,
    pub(super) vital: Arc<Vital>,
    pub(super) idle_since: Tick,
    /// The pool's limit, or less if the processor announced less.
    pub(super) idle_max: Duration,
}

/// How one attempt went.
pub(super) struct Attempt {
    pub(super) result: Result<Response, Broken>,
    pub(super) bytes_written: u64,
    pub(super) first_byte_at: Option<Tick>,
    pub(super) status: Option<u16>,
}

/// Why there is no complete answer.
pub(super) struct Broken {
    pub(super) ended: Ended,
    pub(super) detail: String,
}

impl Connection {
    pub(super) fn new(opened: Opened, vital: Arc<Vital>, idle_max: Duration, now: Tick) -> Self {
        let Opened {
            sender,
            driver,
            wire,
            ..
        } = opened;
        Self {
            sender,
            driver: Some(driver),
            wire,
            vital,
            idle_since: now,
            idle_max,
        }
    }

    /// When it has idled long enough.
    pub(super) fn idle_until(&self) -> Tick {
        self.idle_since + self.idle_max
    }

    /// Whether the other side is still there and owes nothing, as far as this machine has heard.
    pub(super) fn probe(&mut self) -> bool {
        self.wire.set_probing(true);
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.wire.set_probing(false);
        self.is_ready()
    }

    /// Whether the last answer left it fit for another request.
    pub(super) fn settle(&mut self) -> bool {
        if !self.is_ready() {
            self.drive(&mut Context::from_waker(Waker::noop()));
        }
        self.is_ready()
    }

    /// Says goodbye: TLS's alert and TCP's FIN, as far as the socket takes them at once. Only where no request is under
    /// way: it writes whatever is still to be written.
    pub(super) fn close(self) {
        drop(self.sender);
        if let Some(mut driver) = self.driver {
            // The answer does not matter: it is dropped either way.
            let _ = Pin::new(&mut driver).poll(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Sends the request and reads its answer. On any error, and when the future is dropped half-way, the connection
    /// must not be used again.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        answer_bytes_max: usize,
        clock: &dyn Clock,
    ) -> Attempt {
        let mark = self.wire.mark();
        self.vital.requests.fetch_add(1, Ordering::Relaxed);
        let mut answer = Answer {
            response: None,
            first_byte_at: None,
        };
        let result = self
            .carry(request, timeout, answer_bytes_max, mark, &mut answer, clock)
            .await;
        let Answer {
            response,
            first_byte_at,
        } = answer;
        let status = response.as_ref().map(|(parts, _)| parts.status.as_u16());
        let result = result.map(|body| {
            let (parts, _) = response.expect("a body is complete only after its head");
            if let Some(announced) = announced_idle(&parts.headers) {
                // Three quarters: our FIN must overtake theirs.
                self.idle_max = self.idle_max.min(announced * 3 / 4);
            }
            Response {
                status: parts.status,
                headers: parts.headers,
                body,
            }
        });
        Attempt {
            result,
            bytes_written: self.wire.written_since(mark),
            first_byte_at,
            status,
        }
    }

    async fn carry(
        &mut self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        answer_bytes_max: usize,
        mark: Mark,
        answer: &mut Answer,
        clock: &dyn Clock,
    ) -> Result<Bytes, Broken> {
        let mut head = pin!(self.sender.try_send_request(request));
        let mut body = Collected {
            first: Bytes::new(),
            rest: BytesMut::new(),
            bytes_max: answer_bytes_max,
        };
        let mut too_late = pin!(tokio::time::sleep(timeout));
        poll_fn(|cx| {
            loop {
                if let Some(driver) = &mut self.driver
                    && Pin::new(driver).poll(cx).is_ready()
                {
                    // Dropping it also answers the request that it never began.
                    self.driver = None;
                }
                if answer.first_byte_at.is_none() && self.wire.heard_since(mark) {
                    answer.first_byte_at = Some(clock.tick());
                }
                if answer.response.is_none()
                    && let Poll::Ready(arrived) = head.as_mut().poll(cx)
                {
                    let (parts, incoming) = arrived
                        .map_err(|error| broken(&error.into_error()))?
                        .into_parts();
                    if incoming.size_hint().lower() > answer_bytes_max as u64 {
                        answer.response = Some((parts, incoming));
                        return Poll::Ready(Err(too_large(answer_bytes_max)));
                    }
                    answer.response = Some((parts, incoming));
                }
                let mut progress = false;
                if let Some((_, incoming)) = &mut answer.response {
                    while let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(cx) {
                        let Some(frame) = frame else {
                            return Poll::Ready(Ok(body.finish()));
                        };
                        progress = true;
                        // Trailers say nothing that we need.
                        if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
                            body.push(data)?;
                        }
                    }
                }
                // Only what was taken from hyper can let it go on without the socket; the socket wakes us.
                if !progress {
                    break;
                }
            }
            too_late.as_mut().poll(cx).map(|()| {
                Err(Broken {
                    ended: Ended::TimedOut,
                    detail: format!("no complete answer within {timeout:?}"),
                })
            })
        })
        .await
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    fn is_ready(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }
}

/// What has arrived of an answer.
struct Answer {
    response: Option<(http::response::Parts, Incoming)>,
    first_byte_at: Option<Tick>,
}

/// A body as it arrives. Most come in one piece, which is not copied.
struct Collected {
    first: Bytes,
    rest: BytesMut,
    bytes_max: usize,
}

impl Collected {
    fn push(&mut self, data: Bytes) -> Result<(), Broken> {
        if self.first.len() + self.rest.len() + data.len() > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        if self.first.is_empty() {
            self.first = data;
        } else {
            self.rest.extend_from_slice(&data);
        }
        Ok(())
    }

    fn finish(&mut self) -> Bytes {
        let first = std::mem::take(&mut self.first);
        if self.rest.is_empty() {
            return first;
        }
        let mut whole = BytesMut::with_capacity(first.len() + self.rest.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&self.rest);
        whole.freeze()
    }
}

fn too_large(bytes_max: usize) -> Broken {
    Broken {
        ended: Ended::TooLarge,
        detail: format!("an answer of more than {bytes_max} bytes"),
    }
}

/// hyper's errors name what went wrong and quote nothing of what was read.
fn broken(error: &hyper::Error) -> Broken {
    let ended = if error.is_parse_too_large() {
        Ended::TooLarge
    } else if error.is_parse() {
        Ended::Malformed
    } else {
        Ended::Closed
    };
    let detail = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    Broken { ended, detail }
}

/// The `timeout` of a `Keep-Alive` header: how long the processor keeps an idle connection.
fn announced_idle(headers: &HeaderMap) -> Option<Duration> {
    static KEEP_ALIVE: header::HeaderName = header::HeaderName::from_static("keep-alive");
    let value = headers.get(&KEEP_ALIVE)?.to_str().ok()?;
    let seconds = value
        .split(',')
        .find_map(|part| part.trim().strip_prefix("timeout="))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}
