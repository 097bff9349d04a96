//! A steady load on the pool, which knows when it was steady.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Gate, Moment, Selector};
use sandbox::stack::unix_ms;
use sandbox::world::sale;
use tokio::time::{interval, interval_at, sleep_until};

use super::{CONNECTIONS, LEAD, ROUND, STALL_MAX, Scene, are_most, load_lasts, millis};

/// For how long the load may sag. After a third of it the pool, whose memory is scaled as well, wants a connection less;
/// when all are busy again, there must be time to open it.
const DIP_MAX: Duration = Duration::from_millis(250);

/// A load that keeps all connections busy, one answer after the other.
pub(super) struct Load<'a> {
    scene: &'a Scene,
    answers: Gate,
    /// Payments that were let through.
    pub(super) answered: AtomicUsize,
    enough: AtomicBool,
    /// The end of each span in which not all payers were at the processor, in Unix milliseconds, and its length.
    dips: Mutex<Vec<(u64, Duration)>>,
}

impl<'a> Load<'a> {
    pub(super) fn new(scene: &'a Scene) -> Self {
        let connexpay = scene.world.simulators.connexpay();
        Self {
            scene,
            answers: connexpay.hold(Moment::BeforeCommit, Selector::verb(verb::SALE)),
            answered: AtomicUsize::default(),
            enough: AtomicBool::default(),
            dips: Mutex::default(),
        }
    }

    /// Pays all the time, and is answered once in each round: its `number` says when.
    pub(super) async fn pay_in_turn(&self, number: u32) {
        let count = u32::try_from(CONNECTIONS).expect("few");
        let mut turn = tokio::time::Instant::now() + ROUND * number / count;
        sleep_until(turn).await;
        while !self.enough.load(Ordering::Relaxed) {
            let paid = self.answered.load(Ordering::Relaxed);
            let (key, payer) = (format!("payer-{number}-{paid}"), self.scene.shop.clone());
            let payment = tokio::spawn(async move { payer.pay(&key, &sale(10_00)).await });
            turn += ROUND;
            sleep_until(turn).await;
            self.answered.fetch_add(1, Ordering::Relaxed);
            // The longest waiting: this one.
            self.answers.release_one();
            payment.await.expect("no panic").expect(201);
        }
    }

    /// Looks whether all payers are at the processor. The pool keeps what was in use lately, and forgets as fast as it ages.
    pub(super) async fn watch(&self) {
        let mut step = interval(Duration::from_millis(5));
        let mut full_at = Instant::now();
        while !self.enough.load(Ordering::Relaxed) {
            step.tick().await;
            let answered = self.answered.load(Ordering::Relaxed);
            if self.answers.arrived().saturating_sub(answered) < CONNECTIONS {
                continue;
            }
            let dip = full_at.elapsed();
            full_at = Instant::now();
            if dip > DIP_MAX {
                self.dips.lock().expect("no panic").push((unix_ms(), dip));
            }
        }
    }

    /// Whether a stall of the machine made the load sag between `from` and `to`, in Unix milliseconds. What sags with no
    /// stall may wait for the pool itself: that excuses nothing.
    pub(super) fn was_disturbed(&self, from: u64, to: u64) -> bool {
        let dips = self.dips.lock().expect("no panic");
        let disturbed = dips.iter().any(|(ended, dip)| {
            let began = *ended - millis(*dip);
            let overlaps = from <= *ended && began <= to;
            overlaps && self.scene.stalls.longest(began, *ended) > STALL_MAX
        });
        disturbed || self.scene.stalls.longest(from, to) > STALL_MAX
    }

    /// Rounds until it is enough, and how many payments of each waited for a connection. Judges those that no stall
    /// disturbed; on a busy machine it takes longer until they are most of them. Tells when it was enough.
    pub(super) async fn judge_rounds(&self) -> u64 {
        let (began, lasts) = (Instant::now(), load_lasts());
        // The first rounds open what the others find.
        let mut pace = interval_at(tokio::time::Instant::now() + 2 * ROUND, ROUND);
        pace.tick().await;
        let mut waited = self.scene.waited().await;
        let (mut rounds, mut judged) = (0, 0);
        while began.elapsed() < lasts || !are_most(judged, rounds) && began.elapsed() < 2 * lasts {
            // What is needed in this round was to be opened a lead ahead of it.
            let from = unix_ms() - millis(LEAD);
            pace.tick().await;
            let waiting = self.scene.waited().await - waited;
            waited += waiting;
            rounds += 1;
            let disturbed = self.was_disturbed(from, unix_ms());
            println!("round {rounds}: {waiting} waited, disturbed: {disturbed}");
            if !disturbed {
                judged += 1;
                assert_eq!(waiting, 0, "payments of round {rounds} waited");
            }
        }
        let to = unix_ms();
        self.enough.store(true, Ordering::Relaxed);
        assert!(
            are_most(judged, rounds),
            "{judged} of {rounds} rounds were not disturbed: too few to judge"
        );
        to
    }
}
