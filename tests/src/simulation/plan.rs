//! What a seed decides before anything happens: the world's figures, its bad weather, and what callers want.

use std::time::Duration;

use gateway_core::operation::Verb;

use super::ambush::Ambush;
use super::caller::READY;
use super::dice::Dice;
use crate::simulators::connexpay::{DeclineForm, SequenceRule};

/// One history, before it is played.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) replicas: usize,
    pub(super) figures: Figures,
    pub(super) account: AccountPlan,
    pub(super) spells: Vec<Spell>,
    pub(super) blows: Vec<(Duration, Blow)>,
    pub(super) ambush: Option<Ambush>,
    pub(super) odds: Odds,
    pub(super) wishes: Vec<Wish>,
    /// From here on nothing goes wrong any more, and every replica runs.
    pub(super) calm_at: Duration,
    /// For whoever throws while the history is played.
    pub(super) dice: Dice,
}

/// Spans of one world. Scaled, so that a history is short; their order is that of `config/production.toml`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    pub(super) upstream_timeout: Duration,
    pub(super) horizon: Duration,
    pub(super) beat_every: Duration,
    pub(super) scan_every: Duration,
    pub(super) ask_every: Duration,
    pub(super) repeat_every: Duration,
    pub(super) token_lifetime: Duration,
}

/// How the one account behaves, at the processor and in our configuration alike.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Copy, Debug)]
pub(super) struct AccountPlan {
    pub(super) sequence: SequenceRule,
    pub(super) resend_identical: bool,
    pub(super) trust_429: bool,
    pub(super) timeout_reversal: bool,
    pub(super) partial_captures: bool,
    pub(super) single_token: bool,
    pub(super) decline_form: DeclineForm,
    pub(super) returns_capped: bool,
    pub(super) duplicate_window: Duration,
    pub(super) search_lag: Duration,
    pub(super) batch_closes_after: Option<Duration>,
}

/// How often something goes wrong with one call, of a thousand, until it is calm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Odds {
    /// With a request that moves money.
    pub(super) money: u64,
    /// With a question, or a reversal.
    pub(super) asking: u64,
    /// With a call to the ledger.
    pub(super) ledger: u64,
    /// That a call to the ledger takes a while.
    pub(super) slow_ledger: u64,
    /// That a grant of the lock is lost soon.
    pub(super) lock: u64,
    /// That a request waits for a connection before it is sent.
    pub(super) checkout: u64,
}

impl Odds {
    pub(super) const NONE: Self = Self {
        money: 0,
        asking: 0,
        ledger: 0,
        slow_ledger: 0,
        lock: 0,
        checkout: 0,
    };
}

/// A time during which somebody cannot reach something, or stands still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spell {
    pub(super) what: Trouble,
    /// Of one replica, or of all.
    pub(super) replica: Option<usize>,
    pub(super) from: Duration,
    pub(super) to: Duration,
    /// How many of a thousand calls hang until it is over; the others are refused.
    pub(super) hangs: u64,
}

impl Spell {
    pub(super) fn lasts(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    pub(super) fn troubles(&self, what: Trouble, replica: usize, at: Duration) -> bool {
        self.what == what
            && self.replica.is_none_or(|of| of == replica)
            && (self.from..self.to).contains(&at)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    LedgerAway,
    UpstreamAway,
    LockAway,
    Stopped,
}

/// Something that happens at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    /// The replica dies after so many polls more, and is started anew after a while.
    Crash {
        replica: usize,
        polls: u64,
        back_after: Duration,
    },
    /// The replica's wall clock is set, by so many seconds.
    ClockStep { replica: usize, seconds: i64 },
    /// The lock forgets every lease.
    LockFlush,
    /// The processor closes its batch: what is in it is settled.
    BatchClose,
    /// The processor kills every access token.
    TokensRevoked,
}

/// One create that somebody wants, with all that is done about it.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) key: String,
    /// [`Verb::Sale`], [`Verb::Authorize`] or [`Verb::Verify`].
    pub(super) verb: Verb,
    /// Minor units; zero for a verification.
    pub(super) minor: i64,
    /// Which of the sandbox's cards.
    pub(super) card: usize,
    pub(super) order: Option<String>,
    pub(super) once_per_order: bool,
    pub(super) begins: Duration,
    /// So many callers ask for it at once.
    pub(super) copies: usize,
    /// Where it is asked for first.
    pub(super) replica: usize,
    /// After it began.
    pub(super) cancelled_after: Option<Duration>,
    /// Somebody uses its key for another request, once it is approved.
    pub(super) reused: bool,
    pub(super) follow_ups: Vec<FollowUpWish>,
    pub(super) dice: Dice,
}

/// A capture, void or refund that somebody wants of an approved payment.
#[derive(Clone, Debug)]
pub(super) struct FollowUpWish {
    pub(super) key: String,
    /// [`Verb::Capture`], [`Verb::Void`] or [`Verb::Refund`].
    pub(super) verb: Verb,
    /// Of the payment's amount, percent.
    pub(super) share: i64,
    /// After the payment was approved.
    pub(super) after: Duration,
    pub(super) copies: usize,
    pub(super) dice: Dice,
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        // Some worlds have no weather at all: there every caller must be served at once.
        let is_fair = dice.chance(60);
        let replicas = dice.weighted(&[(1, 2), (2, 5), (3, 3)]);
        let figures = Figures::thrown(&mut dice);
        let account = AccountPlan::thrown(&mut dice);
        let active = dice.millis(1_000, 10_000);
        let mut calm_at = active + dice.millis(1_000, 6_000);
        let mut wishes = wishes(&mut dice, replicas, active);
        let mut ambush = None;
        let (odds, spells, mut blows) = if is_fair {
            let rush = dice.chance(500).then(|| rush(&mut dice, &mut wishes));
            (Odds::NONE, Vec::new(), rush.into_iter().collect())
        } else {
            // One strike at the worst moment shows most where nothing else goes wrong.
            let alone = dice.chance(300);
            if alone || dice.chance(300) {
                let thrown = Ambush::thrown(&mut dice, figures.horizon);
                calm_at += thrown.lasts;
                ambush = Some(thrown);
            }
            let (mut spells, mut blows) = weather(&mut dice, replicas, calm_at);
            if alone {
                spells.clear();
                blows.clear();
            }
            come_back(&mut dice, &spells, &mut wishes);
            (Odds::thrown(&mut dice, alone), spells, blows)
        };
        for _ in 0..dice.below(3) {
            blows.push((dice.millis(0, millis(calm_at)), Blow::BatchClose));
        }
        let refunds = |wish: &&Wish| wish.follow_ups.iter().any(|of| of.verb == Verb::Refund);
        if let Some(wish) = wishes.iter().find(refunds) {
            // Nothing is refunded before its batch is closed.
            let closes = READY + wish.begins + dice.millis(500, 8_000);
            blows.push((closes, Blow::BatchClose));
        }
        blows.push((calm_at, Blow::BatchClose));
        blows.sort_by_key(|(at, _)| *at);
        Self {
            seed,
            replicas,
            figures,
            account,
            spells,
            blows,
            ambush,
            odds,
            wishes,
            calm_at,
            dice: dice.fork(),
        }
    }

    pub(super) fn is_fair(&self) -> bool {
        self.odds == Odds::NONE
            && self.spells.is_empty()
            && self.ambush.is_none()
            && self
                .blows
                .iter()
                .all(|(_, blow)| matches!(blow, Blow::BatchClose | Blow::TokensRevoked))
    }

    /// Whether `what` troubles that replica at `at`.
    pub(super) fn troubles(&self, what: Trouble, replica: usize, at: Duration) -> Option<Spell> {
        let mut spells = self.spells.iter().copied();
        spells.find(|spell| spell.troubles(what, replica, at))
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).expect("spans of a history are short")
}

impl Figures {
    fn thrown(dice: &mut Dice) -> Self {
        let of = |millis: u64| Duration::from_millis(millis);
        Self {
            upstream_timeout: dice.millis(1_000, 3_000),
            horizon: dice.millis(8_000, 16_000),
            beat_every: of(dice.weighted(&[(500, 1), (1_000, 3)])),
            scan_every: of(dice.weighted(&[(300, 1), (1_000, 3)])),
            ask_every: of(dice.weighted(&[(200, 1), (500, 2), (1_000, 3)])),
            repeat_every: dice.millis(3_000, 6_000),
            token_lifetime: of(dice.weighted(&[(3_600_000, 3), (20_000, 2), (6_000, 1)])),
        }
    }
}

impl AccountPlan {
    fn thrown(dice: &mut Dice) -> Self {
        let sequence = dice.weighted(&[
            (SequenceRule::Free, 5),
            (SequenceRule::Unique, 2),
            (SequenceRule::Replay, 3),
        ]);
        Self {
            sequence,
            resend_identical: sequence == SequenceRule::Replay && dice.chance(500),
            trust_429: dice.chance(500),
            timeout_reversal: dice.chance(700),
            partial_captures: dice.chance(700),
            single_token: dice.chance(400),
            decline_form: dice.pick(&[DeclineForm::Unprocessable, DeclineForm::Success]),
            returns_capped: dice.chance(500),
            duplicate_window: if dice.chance(200) {
                dice.millis(5_000, 20_000)
            } else {
                Duration::ZERO
            },
            search_lag: if dice.chance(200) {
                dice.millis(500, 3_000)
            } else {
                Duration::ZERO
            },
            batch_closes_after: dice.chance(200).then(|| dice.millis(5_000, 30_000)),
        }
    }
}

impl Odds {
    /// `alone`: beside an ambush, which then shall not be one fault among many of the ledger.
    fn thrown(dice: &mut Dice, alone: bool) -> Self {
        Self {
            money: dice.pick(&[0, 100, 300, 600]),
            asking: dice.pick(&[0, 50, 250, 600]),
            ledger: if alone {
                0
            } else {
                dice.pick(&[0, 0, 20, 100])
            },
            slow_ledger: dice.pick(&[100, 300]),
            lock: dice.pick(&[0, 200]),
            checkout: dice.pick(&[0, 100, 300]),
        }
    }
}

/// Refused at once; or silent, until the other side is given up; or either.
pub(super) const HANGS: [u64; 3] = [0, 400, 1_000];

fn weather(
    dice: &mut Dice,
    replicas: usize,
    calm_at: Duration,
) -> (Vec<Spell>, Vec<(Duration, Blow)>) {
    let end = millis(calm_at);
    let mut spells = Vec::new();
    for _ in 0..dice.below(4) {
        let what = dice.weighted(&[
            (Trouble::LedgerAway, 4),
            (Trouble::UpstreamAway, 2),
            (Trouble::LockAway, 2),
            (Trouble::Stopped, 4),
        ]);
        let of_all = what != Trouble::Stopped && dice.chance(500);
        let replica = (!of_all).then(|| dice.index(replicas));
        let from = dice.millis(0, end - 500);
        let to = (from + dice.millis(200, 12_000)).min(calm_at);
        spells.push(Spell {
            what,
            replica,
            from,
            to,
            hangs: dice.pick(&HANGS),
        });
    }
    let mut blows = Vec::new();
    for _ in 0..dice.below(3) {
        let blow = match dice.below(10) {
            0..=4 => Blow::Crash {
                replica: dice.index(replicas),
                polls: 1 + dice.below(60),
                back_after: dice.millis(200, 8_000),
            },
            5..=6 => Blow::ClockStep {
                replica: dice.index(replicas),
                seconds: i64::try_from(dice.below(601)).unwrap_or(0) - 300,
            },
            7 => Blow::LockFlush,
            _ => Blow::TokensRevoked,
        };
        blows.push((dice.millis(0, end - 200), blow));
    }
    (spells, blows)
}

/// Everybody asks the same replica at once, whose access token has just died.
fn rush(dice: &mut Dice, wishes: &mut [Wish]) -> (Duration, Blow) {
    let (begins, replica) = wishes
        .first()
        .map_or((Duration::ZERO, 0), |wish| (wish.begins, wish.replica));
    for wish in wishes {
        wish.begins = begins + dice.millis(0, 50);
        wish.replica = replica;
    }
    (READY + begins, Blow::TokensRevoked)
}

/// A replica that was away for longer than others wait is asked for something new as soon as it is back.
fn come_back(dice: &mut Dice, spells: &[Spell], wishes: &mut [Wish]) {
    for spell in spells {
        let Some(replica) = spell.replica else {
            continue;
        };
        let is_long = spell.lasts() > Duration::from_secs(5);
        let of_replica = matches!(spell.what, Trouble::Stopped | Trouble::LedgerAway);
        let after = dice.millis(1, 900);
        if is_long && of_replica && dice.chance(600) {
            let number = dice.index(wishes.len());
            let wish = &mut wishes[number];
            wish.begins = (spell.to + after).saturating_sub(READY);
            wish.replica = replica;
        }
    }
}

fn wishes(dice: &mut Dice, replicas: usize, active: Duration) -> Vec<Wish> {
    let count = dice.weighted(&[(1, 5), (2, 4), (3, 3), (5, 1), (7, 1)]);
    // Few amounts and cards, so that payments look alike: only our reference tells them apart.
    let amounts: Vec<i64> = (0..2).map(|_| thrown_amount(dice)).collect();
    (0..count)
        .map(|number| {
            let verb = dice.weighted(&[(Verb::Sale, 10), (Verb::Authorize, 8), (Verb::Verify, 1)]);
            let key = format!("key-{number}");
            let order = dice.chance(300).then(|| format!("order-{}", dice.below(3)));
            let mut wish = Wish {
                verb,
                minor: match verb {
                    Verb::Verify => 0,
                    _ if dice.chance(700) => dice.pick(&amounts),
                    _ => thrown_amount(dice),
                },
                card: dice.index(2),
                once_per_order: order.is_some() && dice.chance(500),
                order,
                begins: dice.millis(0, millis(active)),
                copies: dice.weighted(&[(1, 6), (2, 3), (3, 1)]),
                replica: dice.index(replicas),
                cancelled_after: dice.chance(200).then(|| dice.millis(0, 9_000)),
                reused: dice.chance(150),
                follow_ups: Vec::new(),
                dice: dice.fork(),
                key,
            };
            if verb != Verb::Verify {
                wish.follow_ups = follow_ups(dice, &wish.key, verb);
            }
            wish
        })
        .collect()
}

fn thrown_amount(dice: &mut Dice) -> i64 {
    i64::try_from(1_000 + dice.below(90) * 100).expect("small")
}

fn follow_ups(dice: &mut Dice, key: &str, verb: Verb) -> Vec<FollowUpWish> {
    let count = dice.weighted(&[(0, 4), (1, 3), (2, 2), (3, 1)]);
    // Some want the same at once, and more of it than there is.
    let raced = dice.chance(300).then(|| {
        let verb = if verb == Verb::Authorize {
            Verb::Capture
        } else {
            Verb::Refund
        };
        (verb, dice.millis(0, 8_000))
    });
    (0..count)
        .map(|number| {
            let any = if verb == Verb::Authorize {
                dice.weighted(&[(Verb::Capture, 6), (Verb::Void, 2), (Verb::Refund, 3)])
            } else {
                dice.weighted(&[(Verb::Void, 2), (Verb::Refund, 5)])
            };
            let after = dice.millis(0, 10_000);
            let share = dice.pick(&[100, 60, 40, 25]);
            let (verb, after) = raced.unwrap_or((any, after));
            FollowUpWish {
                key: format!("{key}-{}-{number}", verb.as_str()),
                verb,
                share: if raced.is_some() {
                    share.max(60)
                } else {
                    share
                },
                after,
                copies: dice.weighted(&[(1, 7), (2, 2)]),
                dice: dice.fork(),
            }
        })
        .collect()
}
