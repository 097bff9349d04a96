//! Trouble that lies in wait for a moment of the product's own, which trouble by the clock would rarely meet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::dice::Dice;
use super::faults::FaultKind;
use super::log::{Place, What};
use super::plan::{HANGS, Spell, Trouble};
use super::wire::Aim;
use super::world::{World, look};

/// What a request that moves money has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// It has a connection, and is about to ask whether it may leave.
    BeforeSend,
    /// It has left.
    Sent,
    /// Its answer is there, and nobody has written it down.
    Heard,
    /// It has no answer.
    Unheard,
}

/// Decided by the seed: which trouble begins when some request comes to a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ambush {
    moment: Moment,
    /// Which requests it waits for; any, if absent.
    aim: Option<Aim>,
    /// Lets so many pass.
    passes: u64,
    what: Trouble,
    of_all: bool,
    pub(super) lasts: Duration,
    hangs: u64,
}

impl Ambush {
    /// `horizon`: so long nobody can be asked, in the one kind that outlasts it.
    pub(super) fn thrown(dice: &mut Dice, horizon: Duration) -> Self {
        let moment = dice.weighted(&[
            (Moment::BeforeSend, 3),
            (Moment::Sent, 2),
            (Moment::Heard, 4),
            (Moment::Unheard, 2),
        ]);
        // Longer than a replica may be silent; for an owner that comes back, while what it left is still being looked into.
        let silent = dice.millis(5_200, 10_000);
        let (what, of_all, lasts) = match moment {
            Moment::BeforeSend => (Trouble::Stopped, false, silent),
            Moment::Sent | Moment::Heard => {
                let (what, of_all) = dice.weighted(&[
                    ((Trouble::Stopped, false), 4),
                    ((Trouble::LedgerAway, true), 3),
                    ((Trouble::LedgerAway, false), 1),
                ]);
                (what, of_all, silent)
            }
            Moment::Unheard => {
                let lasts = horizon + dice.millis(3_000, 8_000);
                (Trouble::UpstreamAway, true, lasts)
            }
        };
        Self {
            moment,
            aim: dice.weighted(&[
                (None, 2),
                (Some(Aim::Create), 4),
                (Some(Aim::FollowUp), 3),
                (Some(Aim::Reverse), 1),
            ]),
            passes: dice.below(3),
            what,
            of_all,
            lasts,
            hangs: dice.pick(&HANGS),
        }
    }

    fn waits_for(&self, moment: Moment, aim: Aim) -> bool {
        let moves_money = matches!(aim, Aim::Create | Aim::FollowUp | Aim::Reverse);
        moment == self.moment && moves_money && self.aim.is_none_or(|wanted| wanted == aim)
    }
}

/// How far the ambush of a world has come.
#[derive(Debug, Default)]
pub(super) struct Sprung(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    passed: u64,
    spell: Option<Spell>,
}

impl Sprung {
    /// The trouble that began, if it did.
    pub(super) fn spell(&self) -> Option<Spell> {
        self.state().spell
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// A request of that replica has come to `moment`. Where that stops its machine, nothing there goes on behind this.
    pub(super) async fn reached(self: &Arc<Self>, moment: Moment, aim: Aim, place: Place) {
        let Some(ambush) = &self.plan.ambush else {
            return;
        };
        let now = self.log.now();
        if !ambush.waits_for(moment, aim) || now >= self.plan.calm_at {
            return;
        }
        let spell = Spell {
            what: ambush.what,
            replica: (!ambush.of_all).then_some(place.replica),
            from: now,
            to: (now + ambush.lasts).min(self.plan.calm_at),
            hangs: ambush.hangs,
        };
        {
            let mut state = self.sprung.state();
            state.passed += 1;
            if state.passed != ambush.passes + 1 {
                return;
            }
            state.spell = Some(spell);
        }
        self.struck(FaultKind::Ambush, Some(place));
        let life = self.life(place.replica);
        if ambush.what != Trouble::Stopped || life.place != place {
            return;
        }
        self.struck(FaultKind::Stop, Some(place));
        self.log.note(What::Stopped(place));
        life.machine.stop();
        let world = Arc::clone(self);
        tokio::spawn(async move {
            sleep(spell.lasts()).await;
            look(&world, place.replica);
        });
        tokio::task::yield_now().await;
    }
}
