//! The two sides of the bargain, at their bounds: who may send, who may adopt, and who is silent.

use super::*;
use crate::clock::{ManualClock, Timestamp};

const GAP: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_secs(5);
const MOMENT: Duration = Duration::from_micros(1);

struct Scene {
    clock: Arc<ManualClock>,
    liveness: Arc<Liveness>,
}

fn replica(number: u128) -> ReplicaId {
    ReplicaId::from_uuid(uuid::Uuid::from_u128(number))
}

fn scene() -> Scene {
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1_700_000_000)));
    let liveness = Liveness::new(
        replica(1),
        Arc::clone(&clock) as _,
        LivenessOptions::default(),
    );
    Scene { clock, liveness }
}

impl Scene {
    /// A beat that took no time, and what the ledger said of another replica's counter.
    fn beat(&self, other: i64) {
        let others = [Heartbeat {
            replica: replica(2),
            beat: other,
        }];
        self.liveness.confirmed(self.clock.tick(), &others);
    }

    /// Beats every `step` until `span` is over.
    fn beat_for(&self, span: Duration, step: Duration, other: i64) {
        let until = self.clock.tick() + span;
        while self.clock.tick() < until {
            self.clock.advance(step.min(until.since(self.clock.tick())));
            self.beat(other);
        }
    }

    fn silent(&self) -> Vec<ReplicaId> {
        let silent = self.liveness.silent();
        silent.into_iter().map(|silent| silent.replica).collect()
    }

    fn may_send(&self, since: Tick) -> bool {
        match self.liveness.vouches_since(since) {
            Ok(()) => true,
            Err(NotSent::HeartbeatLost) => false,
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn nothing_is_sent_before_the_first_beat() {
    let scene = scene();
    assert!(!scene.may_send(scene.clock.tick()));
    assert!(!scene.liveness.is_beating());
    scene.beat(0);
    assert!(scene.may_send(scene.clock.tick()));
    assert!(scene.liveness.is_beating());
}

#[test]
fn what_was_recorded_before_the_first_beat_is_not_sent() {
    let scene = scene();
    let recorded = scene.clock.tick();
    scene.clock.advance(MOMENT);
    scene.beat(0);
    assert!(!scene.may_send(recorded));
}

#[test]
fn a_byte_leaves_as_long_as_the_last_beat_is_fresh() {
    let scene = scene();
    scene.beat(0);
    let recorded = scene.clock.tick();
    scene.clock.advance(GAP);
    assert!(scene.may_send(recorded), "at the bound");
    scene.clock.advance(MOMENT);
    assert!(!scene.may_send(recorded), "past it");
}

#[test]
fn a_gap_since_the_record_is_not_healed_by_a_later_beat() {
    let scene = scene();
    scene.beat(0);
    let recorded = scene.clock.tick();
    scene.clock.advance(GAP + MOMENT);
    scene.beat(0);
    assert!(!scene.may_send(recorded));
    scene.beat_for(Duration::from_mins(1), GAP, 0);
    assert!(!scene.may_send(recorded), "however many follow");
    assert!(scene.may_send(scene.clock.tick()), "what is recorded now");
}

#[test]
fn beats_as_far_apart_as_they_may_be_vouch_for_the_whole_time() {
    let scene = scene();
    scene.beat(0);
    let recorded = scene.clock.tick();
    scene.beat_for(Duration::from_mins(1), GAP, 0);
    assert!(scene.may_send(recorded));
}

/// A beat counts from the moment it was sent: its answer may have come much later.
#[test]
fn a_beat_is_as_old_as_its_question() {
    let scene = scene();
    scene.beat(0);
    let sent = scene.clock.tick();
    scene.clock.advance(GAP + MOMENT);
    scene.liveness.confirmed(sent, &[]);
    assert!(!scene.may_send(sent));
}

/// Until the first beat after a gap was in the ledger, an adopter could still take what was recorded meanwhile.
#[test]
fn what_was_recorded_while_the_first_beat_after_a_gap_was_under_way_is_not_sent() {
    let scene = scene();
    let sent = scene.clock.tick();
    scene.clock.advance(MOMENT);
    let recorded = scene.clock.tick();
    scene.clock.advance(MOMENT);
    scene.liveness.confirmed(sent, &[]);
    assert!(!scene.may_send(recorded));
    assert!(scene.may_send(scene.clock.tick()), "what is recorded now");
}

/// The counter is told with the replica: the ledger compares it again.
#[test]
fn silence_is_told_with_the_counter_that_stands_still() {
    let scene = scene();
    scene.beat(7);
    scene.beat_for(SILENCE, GAP / 4, 7);
    let stands = Heartbeat {
        replica: replica(2),
        beat: 7,
    };
    assert_eq!(scene.liveness.silent(), [stands]);
}

#[test]
fn an_adopter_has_beaten_without_a_gap_for_as_long_as_silence_takes() {
    let scene = scene();
    assert!(!scene.liveness.may_adopt());
    scene.beat(0);
    scene.beat_for(SILENCE.checked_sub(MOMENT).expect("positive"), GAP / 4, 0);
    assert!(!scene.liveness.may_adopt(), "just short of it");
    scene.beat_for(MOMENT, MOMENT, 0);
    assert!(scene.liveness.may_adopt());
    // A pause of its own begins it anew.
    scene.clock.advance(GAP + MOMENT);
    assert!(!scene.liveness.may_adopt(), "its last beat is old");
    scene.beat(0);
    assert!(!scene.liveness.may_adopt(), "and the next one is the first");
    scene.beat_for(SILENCE, GAP, 0);
    assert!(scene.liveness.may_adopt());
}

#[test]
fn a_counter_that_stands_still_is_silence_and_one_that_moves_is_none() {
    let scene = scene();
    scene.beat(7);
    scene.beat_for(SILENCE, GAP / 4, 7);
    assert_eq!(scene.silent(), [replica(2)]);
    scene.beat(8);
    assert_eq!(scene.silent(), []);
    scene.beat_for(SILENCE.checked_sub(MOMENT).expect("positive"), GAP / 4, 8);
    assert_eq!(scene.silent(), []);
    scene.beat_for(MOMENT, MOMENT, 8);
    assert_eq!(scene.silent(), [replica(2)]);
}

/// While the ledger was away nobody's counter moved: that makes nobody silent.
#[test]
fn an_outage_of_the_ledger_makes_nobody_silent() {
    let scene = scene();
    scene.beat(7);
    scene.beat_for(SILENCE, GAP / 4, 8);
    scene.clock.advance(Duration::from_mins(1));
    scene.beat(8);
    assert_eq!(scene.silent(), []);
    scene.beat_for(SILENCE.checked_sub(MOMENT).expect("positive"), GAP / 4, 8);
    assert_eq!(scene.silent(), [], "it gets the whole span again");
    scene.beat_for(MOMENT, MOMENT, 8);
    assert_eq!(scene.silent(), [replica(2)]);
}

#[test]
fn nobody_is_silent_to_itself() {
    let scene = scene();
    for _ in 0..100 {
        scene.clock.advance(GAP / 4);
        let me = Heartbeat {
            replica: replica(1),
            beat: 1,
        };
        scene.liveness.confirmed(scene.clock.tick(), &[me]);
    }
    assert!(scene.liveness.may_adopt());
    assert_eq!(scene.silent(), []);
}

/// Each is within the gap, and yet the counter may stand still in the ledger for 5.3 s between their commits.
#[test]
fn two_slow_beats_in_a_row_are_a_gap() {
    let scene = scene(); // The owner.
    let start = scene.clock.tick();
    scene.liveness.confirmed(start, &[]); // Beat 1: sent, committed, confirmed at 0.
    scene.clock.advance(MOMENT);
    let first_sent = scene.clock.tick(); // Beat 2: committed at once; its confirmation is late by 2.9 s.
    scene.clock.advance(Duration::from_millis(100));
    let recorded = scene.clock.tick(); // An operation is recorded meanwhile.
    scene.clock.advance(Duration::from_millis(2_800));
    scene.liveness.confirmed(first_sent, &[]);
    let second_sent = scene.clock.tick(); // Beat 3: sent at 2.9 s, reaches the ledger at 5.3 s only.
    scene.clock.advance(Duration::from_millis(2_400));
    // At 5.1 s an adopter saw the counter of beat 2 standing for 5 s, in its own statement too, and adopted.
    scene.liveness.confirmed(second_sent, &[]);
    assert!(!scene.may_send(recorded), "sent after it was adopted");
}
