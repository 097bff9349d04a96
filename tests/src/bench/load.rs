//! Callers in a closed loop: each sends its next request when the last one was answered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::wire::{Wire, broken};
use crate::stack::{Doing, StackError};

/// Where a name of its own goes into each request.
pub(super) const HOLE: &str = "oooooooooooooooo";

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
    /// Answers within the span.
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

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index below the length, from a share between 0 and 1"
)]
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let index = (sorted.len() as f64 * share) as usize;
    let last = sorted.len().saturating_sub(1);
    sorted.get(index.min(last)).copied().unwrap_or_default()
}

/// Sends from `connections` at once for `span`. A connection that breaks, or any unexpected answer, fails it.
pub(super) async fn run(
    target: Arc<Target>,
    connections: usize,
    span: Duration,
) -> Result<Tally, StackError> {
    let mut wires = Vec::with_capacity(connections);
    for _ in 0..connections {
        let stream = TcpStream::connect(target.address).await;
        let wire = stream.and_then(Wire::new);
        wires.push(wire.doing(|| format!("connecting to {}", target.address))?);
    }
    let end = Instant::now() + span;
    let mut callers: JoinSet<io::Result<Tally>> = wires
        .into_iter()
        .map(|wire| call(Arc::clone(&target), wire, end))
        .collect();
    let mut all = Tally {
        span,
        ..Tally::default()
    };
    while let Some(ended) = callers.join_next().await {
        let one = ended
            .doing(|| "waiting for a caller".to_owned())?
            .doing(|| format!("calling {}", target.address))?;
        all.answers += one.answers;
        all.in_time += one.in_time;
        all.latencies.extend(one.latencies);
    }
    all.latencies.sort_unstable();
    Ok(all)
}

async fn call(target: Arc<Target>, mut wire: Wire, end: Instant) -> io::Result<Tally> {
    let mut request = target.request.clone();
    let mut tally = Tally::default();
    let mut begun = Instant::now();
    while begun < end {
        let name = name(rand::random());
        for hole in &target.holes {
            request[*hole..*hole + name.len()].copy_from_slice(&name);
        }
        wire.stream.write_all(&request).await?;
        if !wire.read().await? {
            return Err(broken("closed instead of an answer"));
        }
        if !wire.head().starts_with(target.expected.as_bytes()) {
            let head = String::from_utf8_lossy(wire.head());
            let body = String::from_utf8_lossy(wire.body());
            return Err(broken(&format!("not {}: {head}{body}", target.expected)));
        }
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

    #[test]
    fn quantiles_of_few_values_are_among_them() {
        let values: Vec<Duration> = (1..=10).map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 0.5), Duration::from_millis(6));
        assert_eq!(quantile(&values, 0.99), Duration::from_millis(10));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
