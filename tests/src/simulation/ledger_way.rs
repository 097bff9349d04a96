//! One replica's way to the ledger, with what goes wrong on it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::dice::{Dice, SharedDice};
use super::faults::FaultKind;
use super::log::Place;
use super::plan::Trouble;
use super::world::World;
use crate::memory_store::{Call, Ending, Fate, FaultPlan, Wait};

pub(super) struct LedgerWay {
    pub(super) world: Arc<World>,
    pub(super) place: Place,
    pub(super) dice: SharedDice,
}

impl fmt::Debug for LedgerWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LedgerWay of {}", self.place)
    }
}

impl FaultPlan for LedgerWay {
    fn fate(&self, _: Call) -> Fate {
        let world = &self.world;
        let now = world.log.now();
        if let Some(spell) = world.troubles(Trouble::LedgerAway, self.place.replica, now) {
            let left = spell.to.saturating_sub(now);
            return self.dice.with(|dice| self.away(left, spell.hangs, dice));
        }
        let odds = world.odds();
        self.dice.with(|dice| {
            if dice.chance(odds.ledger) {
                return self.struck(dice);
            }
            let mut fate = Fate::default();
            if dice.chance(odds.slow_ledger) {
                let most = dice.weighted(&[(5, 6), (60, 3), (1_500, 1)]);
                fate.before = Some(pause(dice.millis(0, most)));
                fate.after = Some(pause(dice.millis(0, most)));
                if most > 1_000 {
                    world.struck(FaultKind::LedgerSlow, Some(self.place));
                }
            }
            fate
        })
    }
}

impl LedgerWay {
    /// No connection, or one that is silent until the way is open again.
    fn away(&self, left: Duration, hangs: u64, dice: &mut Dice) -> Fate {
        if dice.chance(hangs) {
            self.world.struck(FaultKind::LedgerSilent, Some(self.place));
            Fate {
                before: Some(pause(left)),
                ending: Ending::LostUnwritten,
                after: None,
            }
        } else {
            self.world
                .struck(FaultKind::LedgerUnreachable, Some(self.place));
            Fate {
                before: Some(pause(dice.millis(1, 300))),
                ending: Ending::Unreachable,
                after: None,
            }
        }
    }

    fn struck(&self, dice: &mut Dice) -> Fate {
        let (kind, ending) = dice.weighted(&[
            ((FaultKind::LedgerContended, Ending::Contended), 2),
            ((FaultKind::LedgerUnreachable, Ending::Unreachable), 1),
            ((FaultKind::LedgerLostUnwritten, Ending::LostUnwritten), 2),
            (
                (FaultKind::LedgerLostHalfWritten, Ending::LostHalfWritten),
                2,
            ),
            ((FaultKind::LedgerLostWritten, Ending::LostWritten), 3),
        ]);
        self.world.struck(kind, Some(self.place));
        Fate {
            before: Some(pause(dice.millis(0, 20))),
            ending,
            after: Some(pause(dice.millis(0, 2_000))),
        }
    }
}

fn pause(span: Duration) -> Wait {
    Box::pin(sleep(span))
}
