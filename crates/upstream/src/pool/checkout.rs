//! Who holds which connection: idle ones, lent ones, and the queue of those who wait for one.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_core::clock::{Clock, Tick};
use gateway_core::connector::NotSent;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::config::{PoolConfig, PoolError};
use super::connect::{Opened, Opener};
use super::connection::{Connection, Vital};
use super::metrics::{CloseReason, OnePool, PoolMetrics};
use super::slots::{Slots, ends_per_window};
use super::warmth::Warmth;

/// What the pool, its leases and its tasks share.
pub(super) struct Shared {
    pub(super) config: PoolConfig,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: OnePool,
    opener: Opener,
    pub(super) state: Mutex<State>,
    /// A pool without connections sleeps until there is one.
    pub(super) woken: Notify,
}

/// Guarded by one mutex, held for a few moves of pointers.
pub(super) struct State {
    /// The last used is taken first; so those not needed idle out.
    #[expect(
        clippy::vec_box,
        reason = "moved between list, lease and queue for each call: as a pointer"
    )]
    pub(super) idle: Vec<Box<Connection>>,
    /// Oldest first. Never both waiters and idle connections.
    waiters: VecDeque<Waiter>,
    /// Every open connection, idle or lent.
    pub(super) alive: BTreeMap<u64, Arc<Vital>>,
    /// Connections being opened.
    pub(super) opening: usize,
    /// Connections lent.
    pub(super) in_use: usize,
    slots: Slots,
    pub(super) warmth: Warmth,
    /// Until then no connection is opened ahead of use: the last attempt failed.
    pub(super) hold_off_until: Option<Tick>,
    pub(super) hold_off: Duration,
    last_id: u64,
    dropped: bool,
}

struct Waiter {
    id: u64,
    turn: oneshot::Sender<Result<Lease, NotSent>>,
}

/// Connections found closed that one call waits for, before it concludes that there is nobody behind them.
const DEAD_COUNT_MAX: u32 = 3;

/// After a failed attempt to open a connection ahead of use; doubled each time. Calls do not wait for it.
const HOLD_OFF_MIN: Duration = Duration::from_millis(250);
const HOLD_OFF_MAX: Duration = Duration::from_secs(10);

impl Shared {
    pub(super) fn new(
        config: PoolConfig,
        clock: Arc<dyn Clock>,
        metrics: &PoolMetrics,
    ) -> Result<Self, PoolError> {
        let now = clock.tick();
        Ok(Self {
            opener: Opener::new(&config)?,
            metrics: metrics.of_pool(&config.name, config.age_max),
            state: Mutex::new(State {
                idle: Vec::new(),
                waiters: VecDeque::new(),
                alive: BTreeMap::new(),
                opening: 0,
                in_use: 0,
                slots: Slots::new(config.age_max, config.age_margin, config.connections_max),
                warmth: Warmth::new(config.age_max, now),
                hold_off_until: None,
                hold_off: HOLD_OFF_MIN,
                last_id: 0,
                dropped: false,
            }),
            woken: Notify::new(),
            clock,
            config,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section is a few infallible moves: a panic elsewhere cannot have left it half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends a connection that is open and in time, waiting for one until `deadline`.
    pub(super) async fn checkout(self: &Arc<Self>, deadline: Instant) -> Result<Lease, NotSent> {
        if let Some(lease) = self.take_idle() {
            self.metrics.checkout_wait.observe(0.0);
            return Ok(lease);
        }
        self.metrics.waited.inc();
        let asked_at = Instant::now();
        let mut dead = 0;
        let lent = loop {
            match self.wait(deadline).await {
                Ok(mut lease) => match lease.flaw(self.clock.tick()) {
                    None => break Ok(lease),
                    flaw => lease.set_unfit(flaw),
                },
                Err(refusal) => break Err(refusal),
            }
            dead += 1;
            if dead == DEAD_COUNT_MAX {
                let detail = "connections were closed as soon as they were open".to_owned();
                break Err(NotSent::Unreachable { detail });
            }
        };
        self.metrics
            .checkout_wait
            .observe(asked_at.elapsed().as_secs_f64());
        lent.inspect_err(|_| {
            self.metrics.waiters_refused.inc();
        })
    }

    fn take_idle(self: &Arc<Self>) -> Option<Lease> {
        loop {
            let connection = {
                let mut state = self.lock();
                let connection = state.idle.pop()?;
                state.in_use += 1;
                let in_use = state.in_use;
                state.warmth.note(in_use);
                connection
            };
            self.metrics.idle.dec();
            let mut lease = self.lease(connection);
            match lease.flaw(self.clock.tick()) {
                None => return Some(lease),
                flaw => lease.set_unfit(flaw),
            }
        }
    }

    async fn wait(self: &Arc<Self>, deadline: Instant) -> Result<Lease, NotSent> {
        let (turn, mut mine) = oneshot::channel();
        let _queued = loop {
            let mut state = self.lock();
            // One came back meanwhile. Looked at under the lock that also queues: nobody waits beside an idle one.
            if !state.idle.is_empty() {
                drop(state);
                if let Some(lease) = self.take_idle() {
                    return Ok(lease);
                }
                continue;
            }
            // Those for whom a connection is, or can be, opened at once are not in anybody's way.
            let bound = self.config.connections_max;
            let expected = state.opening + bound.saturating_sub(state.alive.len() + state.opening);
            if state.waiters.len() >= self.config.waiters_max + expected {
                return Err(NotSent::PoolExhausted);
            }
            state.last_id += 1;
            let id = state.last_id;
            state.waiters.push_back(Waiter { id, turn });
            drop(state);
            self.metrics.waiters.inc();
            break Queued { shared: self, id };
        };
        self.open_for_waiters();
        match timeout_at(deadline, &mut mine).await {
            Ok(Ok(turn)) => turn,
            // The queue holds this call's sender until it uses it or this call leaves.
            Ok(Err(_)) => Err(NotSent::PoolExhausted),
            Err(_) => {
                let state = self.lock();
                let full = state.alive.len() + state.opening >= self.config.connections_max;
                Err(if full && state.opening == 0 {
                    NotSent::PoolExhausted
                } else {
                    NotSent::Unreachable {
                        detail: "no connection could be opened in time".to_owned(),
                    }
                })
            }
        }
    }

    /// Starts opening connections until every waiter has one coming, or the bound is reached.
    fn open_for_waiters(self: &Arc<Self>) {
        loop {
            let ticket = {
                let mut state = self.lock();
                let bound = self.config.connections_max;
                if state.opening >= state.waiters.len()
                    || state.alive.len() + state.opening >= bound
                {
                    return;
                }
                self.ticket(&mut state)
            };
            let Some(ticket) = ticket else { return };
            self.spawn_open(ticket);
        }
    }

    /// The right to open one connection, with its end drawn.
    pub(super) fn ticket(self: &Arc<Self>, state: &mut State) -> Option<Ticket> {
        let born = self.clock.tick();
        let planned_end = state.slots.draw(born)?;
        state.opening += 1;
        Some(Ticket {
            shared: Arc::clone(self),
            born,
            planned_end,
            used: false,
        })
    }

    /// In a task of its own: the call that wanted it may be served by another, or leave, and the connection is still
    /// of use.
    pub(super) fn spawn_open(self: &Arc<Self>, ticket: Ticket) {
        let shared = Arc::clone(self);
        self.woken.notify_one();
        tokio::spawn(async move {
            let began = shared.clock.tick();
            match shared.opener.open().await {
                Ok(opened) => {
                    let took = shared.clock.tick().since(began);
                    shared.metrics.handshake.observe(took.as_secs_f64());
                    shared.admit(ticket, opened);
                }
                Err(detail) => {
                    tracing::debug!(pool = %shared.config.name, %detail, "no connection");
                    shared.open_failed(ticket, detail);
                }
            }
        });
    }

    fn admit(self: &Arc<Self>, mut ticket: Ticket, opened: Opened) {
        let now = self.clock.tick();
        self.metrics.opened.inc();
        self.metrics.open.inc();
        let mut state = self.lock();
        ticket.used = true;
        state.opening -= 1;
        state.hold_off = HOLD_OFF_MIN;
        state.hold_off_until = None;
        state.last_id += 1;
        let vital = Arc::new(Vital {
            id: state.last_id,
            born: ticket.born,
            planned_end: ticket.planned_end,
            address: opened.address,
            tls: opened.tls,
            requests: AtomicU64::new(0),
        });
        state.alive.insert(vital.id, Arc::clone(&vital));
        let connection = Box::new(Connection::new(opened, vital, self.config.idle_max, now));
        state.in_use += 1;
        self.place(state, connection);
    }

    fn open_failed(self: &Arc<Self>, ticket: Ticket, detail: String) {
        self.metrics.open_failed.inc();
        drop(ticket); // Counts it as no longer opening, and gives its end back.
        let waiter = {
            let mut state = self.lock();
            state.hold_off_until = Some(self.clock.tick() + state.hold_off);
            state.hold_off = (state.hold_off * 2).min(HOLD_OFF_MAX);
            // Whoever else is opening one serves the others.
            if state.waiters.len() > state.opening {
                state.waiters.pop_front()
            } else {
                None
            }
        };
        if let Some(waiter) = waiter {
            self.metrics.waiters.dec();
            // Gone meanwhile: then nobody needs to know.
            let _ = waiter.turn.send(Err(NotSent::Unreachable { detail }));
        }
        self.open_for_waiters();
    }

    /// A lent connection comes back fit for another request: to the first who waits, else to the idle ones.
    pub(super) fn give_back(self: &Arc<Self>, mut connection: Box<Connection>) {
        let now = self.clock.tick();
        connection.idle_since = now;
        if now >= connection.vital.planned_end {
            self.close(connection, CloseReason::Aged);
            return;
        }
        self.place(self.lock(), connection);
    }

    fn place(self: &Arc<Self>, mut state: MutexGuard<'_, State>, connection: Box<Connection>) {
        if state.dropped {
            drop(state);
            self.close(connection, CloseReason::Shutdown);
        } else if state.waiters.is_empty() {
            state.in_use -= 1;
            state.idle.push(connection);
            drop(state);
            self.metrics.idle.inc();
        } else {
            drop(state);
            self.serve(self.lease(connection));
        }
    }

    /// Hands a connection to the first who waits and is still there.
    fn serve(self: &Arc<Self>, mut lease: Lease) {
        loop {
            let waiter = {
                let mut state = self.lock();
                let in_use = state.in_use;
                state.warmth.note(in_use);
                state.waiters.pop_front()
            };
            let Some(waiter) = waiter else {
                return drop(lease);
            };
            self.metrics.waiters.dec();
            match waiter.turn.send(Ok(lease)) {
                Ok(()) => return,
                Err(returned) => lease = returned.expect("what was sent is a lease"),
            }
        }
    }

    /// Ends a lent connection.
    pub(super) fn close(self: &Arc<Self>, connection: Box<Connection>, reason: CloseReason) {
        {
            let mut state = self.lock();
            state.in_use -= 1;
            state.forget(&connection.vital);
        }
        self.end(*connection, reason);
        self.open_for_waiters();
    }

    /// Ends an idle connection that was already taken off the books.
    pub(super) fn end(&self, connection: Connection, reason: CloseReason) {
        tracing::trace!(pool = %self.config.name, connection = connection.vital.id, ?reason, "connection closed");
        self.metrics.open.dec();
        self.metrics.closed(reason).inc();
        match reason {
            CloseReason::Aged
            | CloseReason::Idle
            | CloseReason::Gone
            | CloseReason::EndedByPeer
            | CloseReason::Shutdown => connection.close(),
            // A polite close lets HTTP and TLS write what they still hold: that may be a request reported as not sent.
            CloseReason::Failed | CloseReason::TimedOut | CloseReason::Abandoned => {
                drop(connection);
            }
        }
    }

    fn lease(self: &Arc<Self>, connection: Box<Connection>) -> Lease {
        Lease {
            shared: Arc::clone(self),
            connection: Some(connection),
            unfit: None,
        }
    }

    /// No more connections are kept: what is idle ends now, what is lent ends when it comes back.
    pub(super) fn shut_down(&self) {
        let idle = {
            let mut state = self.lock();
            state.dropped = true;
            let idle = std::mem::take(&mut state.idle);
            for connection in &idle {
                state.forget(&connection.vital);
            }
            idle
        };
        for connection in idle {
            self.metrics.idle.dec();
            self.end(*connection, CloseReason::Shutdown);
        }
    }

    /// Connections that may be open at once while some are being replaced.
    pub(super) fn open_max(&self) -> usize {
        self.config.connections_max + 5 * ends_per_window(self.config.connections_max)
    }
}

impl State {
    /// Takes a connection off the books.
    pub(super) fn forget(&mut self, vital: &Vital) {
        self.alive.remove(&vital.id);
        self.slots.free(vital.planned_end);
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.alive.is_empty() && self.opening == 0 && self.waiters.is_empty()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({})", self.config.name)
    }
}

/// A connection lent to one call. It goes back when dropped, or is closed if it is unfit.
pub(super) struct Lease {
    shared: Arc<Shared>,
    connection: Option<Box<Connection>>,
    unfit: Option<CloseReason>,
}

impl Lease {
    pub(super) fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("taken only by drop")
    }

    /// Why it may not serve now, if so.
    fn flaw(&mut self, now: Tick) -> Option<CloseReason> {
        let connection = self.connection();
        if now >= connection.vital.planned_end {
            Some(CloseReason::Aged)
        } else if now >= connection.idle_until() {
            Some(CloseReason::Idle)
        } else if !connection.probe() {
            Some(CloseReason::Gone)
        } else {
            None
        }
    }

    /// What becomes of it when dropped: `None` is fit for another request.
    pub(super) fn set_unfit(&mut self, reason: Option<CloseReason>) {
        self.unfit = reason;
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            match self.unfit {
                Some(reason) => self.shared.close(connection, reason),
                None => self.shared.give_back(connection),
            }
        }
    }
}

/// The right to open one connection; returned with its slot if it was not used, whatever happened to its task.
pub(super) struct Ticket {
    shared: Arc<Shared>,
    born: Tick,
    planned_end: Tick,
    used: bool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.used {
            let mut state = self.shared.lock();
            state.opening -= 1;
            state.slots.free(self.planned_end);
        }
    }
}

/// A place in the queue; leaves it when dropped.
struct Queued<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        // Ids grow along the queue.
        if let Ok(place) = state
            .waiters
            .binary_search_by_key(&self.id, |waiter| waiter.id)
        {
            let left = state.waiters.remove(place);
            drop(state);
            drop(left);
            self.shared.metrics.waiters.dec();
        }
    }
}
