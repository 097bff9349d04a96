//! Callers: in a closed loop, each its next request after an answer, or in an open one, whatever became of the others.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::wire::{Wire, broken};
use crate::quantile::quantile;
use crate::stack::{Doing, StackError};

/// Where a name of its own goes into each request.
pub(super) const HOLE: &str = "oooooooooooooooo";
/// Of an open loop: far more than are under way at once, unless it has come to a standstill.
const OPEN_CONNECTIONS: usize = 512;

/// One request, sent again and again with another name each time.
#[derive(Debug)]
pub(super) struct Target {
    address: SocketAddr,
    request: Vec<u8>,
    holes: Vec<usize>,
    /// How a right answer begins; any other ends the run.
    expected: &'static str,
}

impl Target {
    /// A POST of JSON; `headers` and `body` have a [`HOLE`] wherever the request's name goes.
    pub(super) fn post(
        address: SocketAddr,
        path: &str,
        headers: &str,
        body: &str,
        expected: &'static str,
    ) -> Arc<Self> {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n{headers}Content-Length: \
             {length}\r\n\r\n{body}"
        );
        let holes = request.match_indices(HOLE).map(|(at, _)| at).collect();
        Arc::new(Self {
            address,
            request: request.into_bytes(),
            holes,
            expected,
        })
    }
}

/// What callers saw.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// All answers: those after the span, too, to what was asked within it.
    pub(super) answers: u64,
    /// Answers within the span; in an open loop, all.
    pub(super) in_time: u64,
    pub(super) span: Duration,
    /// Sorted.
    pub(super) latencies: Vec<Duration>,
}

impl Tally {
    pub(super) fn per_second(&self) -> f64 {
        per_second(self.in_time, self.span)
    }

    /// The latency that this share of answers (0 to 1) did not exceed.
    pub(super) fn quantile(&self, share: f64) -> Duration {
        quantile(&self.latencies, share)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a run are far below 2^52"
)]
pub(super) fn per_second(count: u64, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}

/// Sends from `connections` at once for `span`, each its next request when the last one was answered. They share the
/// targets in turn. A connection that breaks, or any unexpected answer, fails it.
pub(super) async fn closed(
    targets: Vec<Arc<Target>>,
    connections: usize,
    span: Duration,
) -> Result<Tally, StackError> {
    let callers = connect(&targets, connections).await?;
    let end = Instant::now() + span;
    let callers = callers.into_iter().map(|caller| caller.in_turn(end));
    gather(callers.collect(), span).await
}

/// Sends `rate` requests a second for `span`, at moments that know nothing of one another and nothing of the answers. What
/// is measured begins at such a moment, even if no connection was free by then: a slow answer cannot hide those who come
/// after it.
pub(super) async fn open(
    target: Arc<Target>,
    rate: f64,
    span: Duration,
) -> Result<Tally, StackError> {
    let mut moments = Vec::new();
    let mut next = 0.0;
    while next < span.as_secs_f64() {
        moments.push(Duration::from_secs_f64(next));
        // Exponential gaps: as independent callers come.
        next -= (1.0 - rand::random::<f64>()).ln() / rate;
    }
    let callers = connect(&[target], OPEN_CONNECTIONS).await?;
    let schedule = Arc::new(Schedule {
        begin: Instant::now(),
        moments,
        next: AtomicUsize::new(0),
    });
    let callers = callers
        .into_iter()
        .map(|caller| caller.on_schedule(Arc::clone(&schedule)));
    gather(callers.collect(), span).await
}

/// From so many connections once each, one `gap` after the other, whether the one before was answered or not.
pub(super) async fn once(
    target: Arc<Target>,
    connections: usize,
    gap: Duration,
) -> Result<Tally, StackError> {
    let begin = Instant::now();
    let callers = (0..).take(connections).map(|turn| {
        let target = Arc::clone(&target);
        async move {
            let due = begin + gap * turn;
            sleep_until(due.into()).await;
            Caller::connect(&target).await?.ask().await?;
            Ok(Tally {
                answers: 1,
                in_time: 1,
                latencies: vec![due.elapsed()],
                ..Tally::default()
            })
        }
    });
    gather(callers.collect(), Duration::ZERO).await
}

async fn connect(targets: &[Arc<Target>], connections: usize) -> Result<Vec<Caller>, StackError> {
    let mut callers = Vec::with_capacity(connections);
    for target in targets.iter().cycle().take(connections) {
        let caller = Caller::connect(target).await;
        callers.push(caller.doing(|| format!("connecting to {}", target.address))?);
    }
    Ok(callers)
}

async fn gather(
    mut callers: JoinSet<io::Result<Tally>>,
    span: Duration,
) -> Result<Tally, StackError> {
    let mut all = Tally {
        span,
        ..Tally::default()
    };
    while let Some(ended) = callers.join_next().await {
        let one = ended
            .doing(|| "waiting for a caller".to_owned())?
            .doing(|| "calling".to_owned())?;
        all.answers += one.answers;
        all.in_time += one.in_time;
        all.latencies.extend(one.latencies);
    }
    all.latencies.sort_unstable();
    Ok(all)
}

/// When callers come.
#[derive(Debug)]
struct Schedule {
    begin: Instant,
    moments: Vec<Duration>,
    /// Of the moments, the first that nobody has taken.
    next: AtomicUsize,
}

/// One connection.
struct Caller {
    target: Arc<Target>,
    request: Vec<u8>,
    wire: Wire,
}

impl Caller {
    async fn connect(target: &Arc<Target>) -> io::Result<Self> {
        Ok(Self {
            wire: Wire::new(TcpStream::connect(target.address).await?)?,
            request: target.request.clone(),
            target: Arc::clone(target),
        })
    }

    async fn in_turn(mut self, end: Instant) -> io::Result<Tally> {
        let mut tally = Tally::default();
        let mut begun = Instant::now();
        while begun < end {
            self.ask().await?;
            let answered = Instant::now();
            tally.answers += 1;
            if answered <= end {
                tally.in_time += 1;
                tally.latencies.push(answered - begun);
            }
            begun = answered;
        }
        Ok(tally)
    }

    async fn on_schedule(mut self, schedule: Arc<Schedule>) -> io::Result<Tally> {
        let mut tally = Tally::default();
        loop {
            let next = schedule.next.fetch_add(1, Ordering::Relaxed);
            let Some(moment) = schedule.moments.get(next) else {
                return Ok(tally);
            };
            let due = schedule.begin + *moment;
            sleep_until(due.into()).await;
            self.ask().await?;
            tally.answers += 1;
            tally.in_time += 1;
            tally.latencies.push(due.elapsed());
        }
    }

    /// The request under another name, until it is answered as it should be.
    async fn ask(&mut self) -> io::Result<()> {
        let name = name(rand::random());
        for hole in &self.target.holes {
            self.request[*hole..*hole + name.len()].copy_from_slice(&name);
        }
        self.wire.stream.write_all(&self.request).await?;
        if !self.wire.read().await? {
            return Err(broken("closed instead of an answer"));
        }
        if !self
            .wire
            .head()
            .starts_with(self.target.expected.as_bytes())
        {
            let head = String::from_utf8_lossy(self.wire.head());
            let body = String::from_utf8_lossy(self.wire.body());
            return Err(broken(&format!(
                "not {}: {head}{body}",
                self.target.expected
            )));
        }
        Ok(())
    }
}

/// Letters only: digits might make a valid card number, which the gateway refuses in keys.
fn name(number: u64) -> [u8; HOLE.len()] {
    let mut name = [0; HOLE.len()];
    for (pair, byte) in name.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair.copy_from_slice(&[b'A' + (byte >> 4), b'a' + (byte & 15)]);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_of_letters_and_fills_its_hole() {
        assert_eq!(&name(0), b"AaAaAaAaAaAaAaAa");
        assert_eq!(&name(u64::MAX), b"PpPpPpPpPpPpPpPp");
        assert_ne!(name(1), name(2));
    }
}
