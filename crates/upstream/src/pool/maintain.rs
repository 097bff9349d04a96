//! The pool's one background task: retires what is due, and opens what will be needed before it is.

use std::sync::{Arc, Weak};
use std::time::Duration;

use gateway_core::clock::Tick;

use super::checkout::Shared;
use super::metrics::{AGE_BANDS, CloseReason, age_band};
use super::slots::ends_per_window;

/// How far ahead of a planned end its replacement is opened, as a part of the age: five seconds of five minutes, enough
/// for a slow TLS handshake.
const LEAD_PER_AGE: u32 = 60;

/// Runs until the pool is dropped.
pub(super) async fn maintain(pool: Weak<Shared>) {
    loop {
        let Some(shared) = pool.upgrade() else { return };
        round(&shared);
        let pause = pause(shared.config.age_max);
        if shared.lock().is_quiet() && shared.config.warm_min == 0 {
            // Whoever drops the pool aborts this task, so waiting with it in hand keeps nothing alive for ever.
            shared.woken.notified().await;
        }
        drop(shared);
        tokio::time::sleep(pause).await;
    }
}

/// Twice a second at an age of five minutes: no end is noticed later than half a window after it.
fn pause(age_max: Duration) -> Duration {
    (age_max / 600).clamp(Duration::from_millis(5), Duration::from_millis(500))
}

fn round(shared: &Arc<Shared>) {
    let now = shared.clock.tick();
    retire(shared, now);
    open_ahead(shared, now);
    report(shared, now);
}

/// Closes idle connections that are past their end or their idle limit, or were closed by the processor. Those in use
/// close when they come back.
fn retire(shared: &Arc<Shared>, now: Tick) {
    let due = {
        let mut state = shared.lock();
        let probed_before = pause(shared.config.age_max);
        let due: Vec<_> = state
            .idle
            .extract_if(.., |connection| {
                now >= connection.vital.planned_end
                    || now >= connection.idle_until()
                    // What was used since the last round was looked at then.
                    || (now.since(connection.idle_since) >= probed_before && !connection.probe())
            })
            .collect();
        for connection in &due {
            state.forget(&connection.vital);
        }
        due
    };
    for connection in due {
        let reason = if now >= connection.vital.planned_end {
            CloseReason::Aged
        } else if now >= connection.idle_until() {
            CloseReason::Idle
        } else {
            CloseReason::Gone
        };
        shared.metrics.idle.dec();
        shared.end(*connection, reason);
    }
}

/// Keeps as many connections as recent use asks for, not counting those that are about to end.
fn open_ahead(shared: &Arc<Shared>, now: Tick) {
    let config = &shared.config;
    let soon = now + config.age_max / LEAD_PER_AGE;
    let mut tickets = Vec::new();
    {
        let mut state = shared.lock();
        let in_use = state.in_use;
        let wanted = state.warmth.measure(now, in_use);
        let wanted = wanted
            .clamp(config.warm_min, config.warm_max.max(config.warm_min))
            .min(config.connections_max);
        shared
            .metrics
            .warm_target
            .set(i64::try_from(wanted).unwrap_or(i64::MAX));
        if state.hold_off_until.is_some_and(|until| now < until) {
            return;
        }
        let lasting = state
            .alive
            .values()
            .filter(|vital| vital.planned_end > soon)
            .count();
        let idling_out = |connection: &&Box<_>| {
            let connection: &super::connection::Connection = connection;
            connection.vital.planned_end > soon && connection.idle_until() <= soon
        };
        let idling_out = state.idle.iter().filter(idling_out).count();
        let missing = wanted.saturating_sub(lasting - idling_out + state.opening);
        let room = shared
            .open_max()
            .saturating_sub(state.alive.len() + state.opening);
        // A few per round: a processor that comes back is not greeted by all at once.
        for _ in 0..missing
            .min(room)
            .min(ends_per_window(config.connections_max))
        {
            tickets.extend(shared.ticket(&mut state));
        }
    }
    for ticket in tickets {
        shared.spawn_open(ticket);
    }
}

fn report(shared: &Shared, now: Tick) {
    let age_max = shared.config.age_max;
    let soon = now + age_max / 10;
    let mut bands = [0; AGE_BANDS];
    let mut ends_soon = 0;
    for vital in shared.lock().alive.values() {
        bands[age_band(now.since(vital.born), age_max)] += 1;
        ends_soon += i64::from(vital.planned_end <= soon);
    }
    for (gauge, count) in shared.metrics.by_age.iter().zip(bands) {
        gauge.set(count);
    }
    shared.metrics.planned_ends_soon.set(ends_soon);
}
