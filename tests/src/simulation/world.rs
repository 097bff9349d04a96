//! One world under a seed: replicas, ledger, lock, wire and processor, played from its beginning until nothing is open.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_core::clock::SimulatedClock;
use gateway_core::key::IdempotencyKey;
use gateway_core::operation::StateName;
use gateway_core::store::{Operation, PaymentQuery, Store};
use tokio::time::{sleep, sleep_until};

use super::ambush::Sprung;
use super::caller;
use super::checker::Evidence;
use super::dice::Dice;
use super::faults::{FaultKind, Tally};
use super::lock_way::SharedLock;
use super::log::{Heard, Log, Place, What};
use super::plan::{Blow, Odds, Plan, Spell, Trouble};
use super::replica::{Life, START};
use crate::memory_store::MemoryStore;
use crate::simulators::connexpay::{ConnexPay, Rules, Surroundings};

/// From the last moment at which anything can be open until the world must be quiet: a check more, and its pauses.
const PATIENCE: Duration = Duration::from_secs(20);
/// So long after the last fault it ends in any case: something then goes on for ever, and the judge says what.
const ENDLESS: Duration = Duration::from_mins(5);

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) log: Log,
    pub(super) tally: Tally,
    pub(super) ledger: MemoryStore,
    pub(super) processor: ConnexPay,
    pub(super) lock: Arc<SharedLock>,
    /// The present life of each replica.
    lives: Mutex<Vec<Arc<Life>>>,
    dice: Mutex<Dice>,
    sendings: AtomicUsize,
    calls: AtomicUsize,
    pub(super) sprung: Sprung,
    /// Requests that the processor has yet to receive.
    on_their_way: Arc<AtomicUsize>,
    over: AtomicBool,
    /// Of the instant at which it is over.
    origin: tokio::time::Instant,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World({})", self.plan.seed)
    }
}

/// A request that the processor has yet to receive.
pub(super) struct OnItsWay(Arc<AtomicUsize>);

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl World {
    /// Plays `plan` on a runtime of its own, whose time passes as fast as the work allows.
    pub(super) fn play(plan: Plan) -> (Arc<Self>, Evidence) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without input and output needs nothing of the machine");
        runtime.block_on(async {
            let world = Self::begin(plan);
            world.run().await;
            let evidence = Evidence::gather(&world).await;
            // A replica holds its world, which holds it: a million worlds would not fit in memory.
            world.lives().clear();
            (world, evidence)
        })
    }

    fn begin(mut plan: Plan) -> Arc<Self> {
        let clock = Arc::new(SimulatedClock::new(START));
        let origin = tokio::time::Instant::now();
        let start_ms = START.millis();
        let now_ms =
            move || start_ms + i64::try_from(origin.elapsed().as_millis()).unwrap_or(i64::MAX / 2);
        let mut dice = plan.dice.fork();
        let surroundings = Surroundings::simulated(now_ms, dice.throw());
        let processor = ConnexPay::open_in(None, rules(&plan), surroundings);
        let lives = Vec::with_capacity(plan.replicas);
        let world = Arc::new(Self {
            ledger: MemoryStore::new(clock),
            processor: processor.expect("books in memory"),
            log: Log::begin(),
            tally: Tally::default(),
            lock: Arc::default(),
            lives: Mutex::new(lives),
            dice: Mutex::new(dice),
            sendings: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            sprung: Sprung::default(),
            on_their_way: Arc::default(),
            over: AtomicBool::new(false),
            origin,
            plan,
        });
        for replica in 0..world.plan.replicas {
            let life = world.new_life(replica, 0);
            world.lives().push(life);
        }
        world
    }

    fn new_life(self: &Arc<Self>, replica: usize, life: u32) -> Arc<Life> {
        let place = Place { replica, life };
        let dice = self
            .dice
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fork();
        self.log.note(What::Started(place));
        Arc::new(Life::begin(self, place, dice))
    }

    pub(super) fn life(&self, replica: usize) -> Arc<Life> {
        Arc::clone(&self.lives()[replica])
    }

    fn lives(&self) -> MutexGuard<'_, Vec<Arc<Life>>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What may go wrong by chance at this moment.
    pub(super) fn odds(&self) -> Odds {
        if self.is_calm() {
            Odds::NONE
        } else {
            self.plan.odds
        }
    }

    /// What troubles that replica at `at`: as planned, or because of an ambush.
    pub(super) fn troubles(&self, what: Trouble, replica: usize, at: Duration) -> Option<Spell> {
        let mut sprung = self.sprung.spell();
        let sprung = sprung.take_if(|spell| spell.troubles(what, replica, at));
        self.plan.troubles(what, replica, at).or(sprung)
    }

    pub(super) fn is_calm(&self) -> bool {
        self.log.now() >= self.plan.calm_at
    }

    /// Callers give up from here on.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn struck(&self, fault: FaultKind, place: Option<Place>) {
        self.tally.count(fault);
        self.log.note(What::Struck { fault, place });
    }

    pub(super) fn next_sending(&self) -> usize {
        self.sendings.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn next_call(&self) -> usize {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn heard(&self, sending: usize, heard: Heard) {
        self.log.note(What::Heard { sending, heard });
    }

    pub(super) fn on_its_way(&self) -> OnItsWay {
        self.on_their_way.fetch_add(1, Ordering::Relaxed);
        OnItsWay(Arc::clone(&self.on_their_way))
    }

    async fn run(self: &Arc<Self>) {
        let directing = tokio::spawn(direct(Arc::clone(self)));
        let callers: Vec<_> = self
            .plan
            .wishes
            .iter()
            .map(|wish| tokio::spawn(caller::live(Arc::clone(self), wish.clone())))
            .collect();
        directing.await.expect("the director does not panic");
        let step = Duration::from_millis(500);
        loop {
            let served = callers.iter().all(tokio::task::JoinHandle::is_finished);
            if served && self.is_quiet() {
                break;
            }
            let now = self.log.now();
            if now > self.latest() || now > self.plan.calm_at + ENDLESS {
                break;
            }
            sleep(step).await;
        }
        self.over.store(true, Ordering::Relaxed);
        for caller in callers {
            if let Err(error) = caller.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        caller::ask_once_more(self).await;
    }

    /// Nothing is open any more, and nothing can arrive any more.
    fn is_quiet(&self) -> bool {
        let is_over = |operation: &&Operation| {
            let state = operation.state.name();
            (state.is_final() || state == StateName::NotSent) && operation.due_at.is_none()
        };
        self.on_their_way.load(Ordering::Relaxed) == 0
            && self.ledger.look(|all| all.iter().all(is_over))
    }

    /// When everything must have ended.
    fn latest(&self) -> Duration {
        // A reversal may be repeated for as long as what it undoes waits for a person: each send moves its own horizon.
        let late = self.ledger.look(|all| {
            let wanted = all.iter().filter(|operation| operation.reverses.is_none());
            wanted.map(|operation| operation.late_after).max()
        });
        let late = late.map_or(Duration::ZERO, |late| late.since(START));
        late.max(self.plan.calm_at) + PATIENCE + 3 * self.plan.figures.repeat_every
    }

    /// Every operation in the ledger, with the reversals.
    pub(super) async fn operations(&self) -> Vec<Operation> {
        let ledger = &self.ledger;
        let all = PaymentQuery {
            limit: 1_000,
            ..PaymentQuery::default()
        };
        let mut operations = Vec::new();
        for payment in ledger.payments(&all).await.expect("memory answers") {
            let of = ledger.operations_of(payment.id).await;
            operations.extend(of.expect("memory answers"));
        }
        for wish in &self.plan.wishes {
            let key = IdempotencyKey::from_stored(&wish.key);
            let of = ledger.operation_by_key(&caller::client(), &key).await;
            let of = of.expect("memory answers");
            operations.extend(of.filter(|operation| operation.payment.is_none()));
        }
        operations
    }
}

fn rules(plan: &Plan) -> Rules {
    let account = &plan.account;
    let seconds = |span: Duration| span.as_secs().max(1);
    Rules {
        token_lifetime_s: seconds(plan.figures.token_lifetime),
        single_token: account.single_token,
        decline_form: account.decline_form,
        sequence: account.sequence,
        duplicate_window_s: account.duplicate_window.as_secs(),
        batch_close_after_s: account.batch_closes_after.map(seconds),
        search_lag_ms: super::plan::millis(account.search_lag),
        partial_capture: account.partial_captures,
        returns_capped_in_sum: account.returns_capped,
        ..Rules::default()
    }
}

/// What the director does at one moment.
#[derive(Clone, Copy, Debug)]
enum Cue {
    Blow(Blow),
    Look { replica: usize },
    Return { replica: usize },
}

/// Lets the plan's blows and stops happen; ends when it is calm and every replica runs.
async fn direct(world: Arc<World>) {
    let plan = &world.plan;
    let mut cues: Vec<(Duration, Cue)> = Vec::new();
    for (at, blow) in &plan.blows {
        cues.push((*at, Cue::Blow(*blow)));
        if let Blow::Crash {
            replica,
            back_after,
            ..
        } = blow
        {
            cues.push((*at + *back_after, Cue::Return { replica: *replica }));
        }
    }
    for spell in plan
        .spells
        .iter()
        .filter(|spell| spell.what == Trouble::Stopped)
    {
        let replica = spell.replica.unwrap_or(0);
        cues.push((spell.from, Cue::Look { replica }));
        cues.push((spell.to, Cue::Look { replica }));
    }
    cues.retain(|(at, _)| *at < plan.calm_at);
    cues.sort_by_key(|(at, _)| *at);
    for (at, cue) in cues {
        sleep_until(world.origin + at).await;
        match cue {
            Cue::Blow(blow) => strike(&world, blow),
            Cue::Look { replica } => look(&world, replica),
            Cue::Return { replica } => restart(&world, replica),
        }
    }
    sleep_until(world.origin + plan.calm_at).await;
    world.log.note(What::Calm);
    for replica in 0..plan.replicas {
        world.life(replica).machine.spare();
        look(&world, replica);
        if world.life(replica).machine.is_dead() {
            restart(&world, replica);
        }
    }
    strike(&world, Blow::BatchClose);
}

fn strike(world: &Arc<World>, blow: Blow) {
    match blow {
        Blow::Crash { replica, polls, .. } => {
            let life = world.life(replica);
            world.struck(FaultKind::Crash, Some(life.place));
            life.machine.crash_after(polls);
        }
        Blow::ClockStep { replica, seconds } => {
            let life = world.life(replica);
            world.struck(FaultKind::ClockStep, Some(life.place));
            let span = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 {
                life.clock.set_back_wall(span);
            } else {
                life.clock.advance_wall(span);
            }
        }
        Blow::LockFlush => {
            world.struck(FaultKind::LockFlushed, None);
            world.lock.flush();
        }
        Blow::BatchClose => {
            world.log.note(What::BatchClosed);
            world.processor.settle().expect("books in memory");
        }
        Blow::TokensRevoked => {
            world.struck(FaultKind::TokensRevoked, None);
            world.processor.revoke_tokens().expect("books in memory");
        }
    }
}

/// Stops a replica or lets it go on, as the plan has it for now.
pub(super) fn look(world: &Arc<World>, replica: usize) {
    let life = world.life(replica);
    let now = world.log.now();
    if world.troubles(Trouble::Stopped, replica, now).is_some() {
        world.struck(FaultKind::Stop, Some(life.place));
        world.log.note(What::Stopped(life.place));
        life.machine.stop();
    } else {
        world.log.note(What::WentOn(life.place));
        life.machine.go_on();
    }
}

/// What was to die is dead by now at the latest; a new life begins.
fn restart(world: &Arc<World>, replica: usize) {
    let life = world.life(replica);
    life.machine.crash();
    world.log.note(What::Crashed(life.place));
    let lease = Duration::from_secs(5);
    if world.lock.squat(replica, lease) > 0 {
        world.struck(FaultKind::LockSquatted, Some(life.place));
    }
    let next = world.new_life(replica, life.place.life + 1);
    world.lives()[replica] = next;
    look(world, replica);
}
