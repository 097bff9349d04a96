//! Time as the rules see it: instants to show, ticks to measure with, and the clocks that give both.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An instant in microseconds since the Unix epoch, UTC, as the ledger stores it.
///
/// Kept within the years 1 to 9999, what RFC 3339 can write: arithmetic saturates there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The text is not an RFC 3339 instant between the years 1 and 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 instant, as in 2026-11-20T14:09:00.123Z")]
pub struct TimestampError;

impl Timestamp {
    /// 0001-01-01T00:00:00Z.
    pub const MIN: Self = Self(-62_135_596_800_000_000);
    /// 9999-12-31T23:59:59.999999Z.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    pub const fn from_micros(micros: i64) -> Self {
        if micros < Self::MIN.0 {
            Self::MIN
        } else if micros > Self::MAX.0 {
            Self::MAX
        } else {
            Self(micros)
        }
    }

    pub const fn from_millis(millis: i64) -> Self {
        Self::from_micros(millis.saturating_mul(1_000))
    }

    pub const fn from_seconds(seconds: i64) -> Self {
        Self::from_micros(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down.
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0).max(0);
        Duration::from_micros(micros.unsigned_abs())
    }

    /// The instant as callers see it, cut to milliseconds: `2026-11-20T14:09:00.123Z`.
    pub fn rfc3339(self) -> String {
        self.write_with(3)
    }

    /// Reads RFC 3339 with any offset; what lies beyond a microsecond is dropped.
    ///
    /// # Errors
    /// `TimestampError`.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let instant = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TimestampError)?;
        let parsed = Self::from(instant);
        // A year 0 would be moved to year 1 in silence.
        if parsed == Self::MIN && instant.unix_timestamp_nanos() < i128::from(Self::MIN.0) * 1_000 {
            return Err(TimestampError);
        }
        Ok(parsed)
    }

    /// The same instant for the ledger's drivers.
    pub fn to_offset_date_time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000)
            .expect("the years 1 to 9999 are within the range of the time crate")
    }

    fn write_with(self, digits: usize) -> String {
        let utc = self.to_offset_date_time();
        let fraction = if digits == 3 {
            u32::from(utc.millisecond())
        } else {
            utc.microsecond()
        };
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{fraction:0digits$}Z",
            utc.year(),
            u8::from(utc.month()),
            utc.day(),
            utc.hour(),
            utc.minute(),
            utc.second(),
        )
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(instant: OffsetDateTime) -> Self {
        let micros = instant.unix_timestamp_nanos().div_euclid(1_000);
        let bound = if micros < 0 { i64::MIN } else { i64::MAX };
        Self::from_micros(i64::try_from(micros).unwrap_or(bound))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(instant: SystemTime) -> Self {
        let micros = match instant.duration_since(UNIX_EPOCH) {
            Ok(after) => micros_of(after),
            Err(before) => micros_of(before.duration()).saturating_neg(),
        };
        Self::from_micros(micros)
    }
}

fn micros_of(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(micros_of(span)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        Self::from_micros(self.0.saturating_sub(micros_of(span)))
    }
}

/// Milliseconds, as callers see it; `Serialize` writes microseconds too where there are any.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.write_with(6))
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        Self::parse(text)
    }
}

impl Serialize for Timestamp {
    // Lossless: an instant that went through a stored document must equal the one beside it in a column.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = if self.0 % 1_000 == 0 { 3 } else { 6 };
        serializer.serialize_str(&self.write_with(digits))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// A reading of a clock that never goes back and counts sleep, since an arbitrary origin.
/// Comparable only with ticks of the same clock in the same process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(Duration);

impl Tick {
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Tick {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// Where the rules get time from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock: to show and to store, never to decide who is silent, for it may be stepped.
    fn now(&self) -> Timestamp;
    /// The monotonic clock: to measure spans.
    fn tick(&self) -> Tick;
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    // CLOCK_BOOTTIME and not Instant: CLOCK_MONOTONIC stands still while a laptop or a virtual machine sleeps, and a
    // replica that slept through its own silence must notice.
    fn tick(&self) -> Tick {
        let reading = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let since_boot = Duration::try_from(reading);
        Tick(since_boot.expect("clock_gettime(2): the time since boot is never negative"))
    }
}

/// A clock that a test moves by hand: frozen, or running with the machine's beside real sockets.
#[derive(Debug)]
pub struct ManualClock {
    runs: bool,
    state: Mutex<Shift>,
}

/// What the two clocks show: an absolute reading when frozen, an offset when running.
#[derive(Clone, Copy, Debug)]
struct Shift {
    wall_micros: i64,
    tick: Duration,
}

impl ManualClock {
    /// Stands at `start` until it is moved.
    pub fn new(start: Timestamp) -> Self {
        Self::with(false, start.micros())
    }

    /// Goes with the machine's clocks, ahead by what it was moved.
    pub fn running() -> Self {
        Self::with(true, 0)
    }

    fn with(runs: bool, wall_micros: i64) -> Self {
        let tick = Duration::ZERO;
        Self {
            runs,
            state: Mutex::new(Shift { wall_micros, tick }),
        }
    }

    /// Time passes: both clocks move.
    pub fn advance(&self, span: Duration) {
        let mut shift = self.shift();
        shift.wall_micros = shift.wall_micros.saturating_add(micros_of(span));
        shift.tick = shift.tick.saturating_add(span);
    }

    /// Somebody sets the wall clock forward; the monotonic one does not notice.
    pub fn advance_wall(&self, span: Duration) {
        let mut shift = self.shift();
        shift.wall_micros = shift.wall_micros.saturating_add(micros_of(span));
    }

    /// Somebody sets the wall clock back; the monotonic one does not notice.
    pub fn set_back_wall(&self, span: Duration) {
        let mut shift = self.shift();
        shift.wall_micros = shift.wall_micros.saturating_sub(micros_of(span));
    }

    fn shift(&self) -> MutexGuard<'_, Shift> {
        // The two fields are plain numbers: a panic elsewhere cannot have left them half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let shown = self.shift().wall_micros;
        let machine = if self.runs {
            SystemClock.now().micros()
        } else {
            0
        };
        Timestamp::from_micros(machine.saturating_add(shown))
    }

    fn tick(&self) -> Tick {
        let shown = self.shift().tick;
        if self.runs {
            SystemClock.tick() + shown
        } else {
            Tick(shown)
        }
    }
}

/// A clock that follows tokio's time, which a test may pause: then a whole world runs in an instant.
#[derive(Debug)]
pub struct SimulatedClock {
    start: Timestamp,
    origin: tokio::time::Instant,
    wall_offset_micros: Mutex<i64>,
}

impl SimulatedClock {
    /// The wall clock shows `start` now; the tick is zero now.
    pub fn new(start: Timestamp) -> Self {
        Self {
            start,
            origin: tokio::time::Instant::now(),
            wall_offset_micros: Mutex::new(0),
        }
    }

    /// Somebody sets the wall clock forward; the monotonic one does not notice.
    pub fn advance_wall(&self, span: Duration) {
        let mut offset = self.wall_offset();
        *offset = offset.saturating_add(micros_of(span));
    }

    /// Somebody sets the wall clock back; the monotonic one does not notice.
    pub fn set_back_wall(&self, span: Duration) {
        let mut offset = self.wall_offset();
        *offset = offset.saturating_sub(micros_of(span));
    }

    fn wall_offset(&self) -> MutexGuard<'_, i64> {
        let locked = self.wall_offset_micros.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        let offset = *self.wall_offset();
        let true_time = self.start + self.origin.elapsed();
        Timestamp::from_micros(true_time.micros().saturating_add(offset))
    }

    fn tick(&self) -> Tick {
        Tick(self.origin.elapsed())
    }
}

#[cfg(test)]
mod tests;
