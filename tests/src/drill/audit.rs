//! The audit: what callers were told, against the ledger, against the processor's books.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gateway_core::operation::Verb;
use sqlx::PgConnection;
use sqlx::types::Uuid;

use super::certainty::{Certainty, timeline};
use super::notes::{GONE, Note, Notes};
use super::rig::Rig;
use crate::simulators::connexpay::{Books, Position};
use crate::stack::{Doing, StackError};
use crate::world::Tolerance;

const CREATED: u16 = 201;
const TIMELINES_MAX: usize = 5;

/// One row of the ledger's operations.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Row {
    key: String,
    id: Uuid,
    state: String,
    payment: Option<Uuid>,
    amount: i64,
    cancelled: bool,
    /// It was being undone by a refund, and that is parked.
    refund_parked: bool,
    /// It was being undone by a refund. That is sent at most once: where it is lost, a person decides.
    refunding: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Audit {
    pub(super) payments: usize,
    pub(super) intents: usize,
    /// The processor did something more often than callers were told, in either direction.
    pub(super) doubles: Vec<String>,
    /// Callers were told of something that the ledger or the books do not have.
    pub(super) losses: Vec<String>,
    /// Money stands that nobody was told of, or that no record explains.
    pub(super) orphans: Vec<String>,
    /// With a person, as the fault matrix has it; not known to be wrong.
    pub(super) parked: usize,
    /// Without an end, in the ledger or for its caller.
    pub(super) open: Vec<String>,
    /// One key, two truths; or ledger and books that differ otherwise.
    pub(super) contradictions: Vec<String>,
    pub(super) certainty: Certainty,
    /// What happened to some operations that have no end.
    pub(super) timelines: Vec<String>,
}

impl Row {
    fn is_over(&self) -> bool {
        !matches!(self.state.as_str(), "recorded" | "unknown" | "parked")
    }

    /// As the fault matrix has it: what was never learned, or stood and was cancelled, was being undone by a refund that was
    /// lost.
    fn is_with_a_person(&self) -> bool {
        self.refunding && self.state == "parked" || self.refund_parked
    }
}

/// What callers were told of one payment, and so what must stand of it.
#[derive(Debug, Default)]
struct Expected {
    reference: String,
    sale: bool,
    approved: Option<i64>,
    gone: bool,
    captured: Option<i64>,
    voided: bool,
    refunded: i64,
    undone: u64,
    /// What has no end may have been done.
    open: u64,
}

impl Expected {
    /// Net and held, as the books count.
    fn stands(&self) -> (i64, i64) {
        match (self.approved, self.captured) {
            _ if self.gone || self.voided => (0, 0),
            (None, _) => (0, 0),
            (Some(sold), _) if self.sale => (sold - self.refunded, 0),
            (Some(_), Some(captured)) => (captured - self.refunded, 0),
            (Some(held), None) => (0, held),
        }
    }

    /// The processor did something more often than callers were told, whatever it comes to: what was charged twice and given
    /// back once is a double, too.
    fn has_double(&self, is: &Position) -> bool {
        let charged_more = is.captures > 1 || is.sales + is.authorizations > 1 + is.captures;
        let stood = self.approved.is_some() && !self.gone;
        let undone_more = is.net < 0 || stood && is.voids + is.returns > self.undone + self.open;
        charged_more || undone_more
    }
}

impl Audit {
    pub(super) async fn of(rig: &Rig, notes: &Notes) -> Result<Self, StackError> {
        let mut ledger = rig.ledger().await?;
        let rows = operations(&mut ledger).await?;
        let references = references(&mut ledger).await?;
        let books = rig.world.simulators.connexpay().books();
        let notes_of_keys = notes.all();
        let mut audit = Self {
            payments: references.len(),
            intents: notes_of_keys.len(),
            contradictions: notes.contradictions(),
            certainty: Certainty::read(&mut ledger).await?,
            ..Self::default()
        };
        audit.certainty.callers(&notes_of_keys);
        for row in rows
            .values()
            .filter(|row| !row.is_over())
            .take(TIMELINES_MAX)
        {
            audit.timelines.extend(timeline(&mut ledger, row.id).await?);
        }
        let mut expected: BTreeMap<Uuid, Expected> = BTreeMap::new();
        for (key, note) in &notes_of_keys {
            audit.hold(key, note, rows.get(key), &references, &mut expected);
        }
        let mut parked = BTreeSet::new();
        for row in rows.values() {
            if row.is_with_a_person() {
                audit.parked += 1;
                parked.extend(row.payment);
            } else if !row.is_over() {
                let what = format!("op_{} is {}", row.id.simple(), row.state);
                audit.open.push(what);
            }
            if !notes_of_keys.contains_key(&row.key) {
                let what = format!("nobody used the key {} of op_{}", row.key, row.id.simple());
                audit.contradictions.push(what);
            }
        }
        audit.weigh(&expected, &parked, &books);
        let known: BTreeSet<&String> = references.values().collect();
        for (reference, position) in &books.positions {
            let charged = position.sales + position.authorizations > 0;
            // Even where all of it was undone: nothing is sent before it is written down.
            if charged && !known.contains(reference) {
                let what = format!("no payment is {reference}: {position:?}");
                audit.orphans.push(what);
            }
        }
        // The same once more, from the ledger's own view, to the entry.
        let ledger_url = rig.ledger_url();
        let differences = rig.world.differences_at(&ledger_url, Tolerance::Final);
        let differences = differences.await;
        let parked: Vec<_> = parked.iter().map(|id| id.simple().to_string()).collect();
        let of_parked = |what: &String| parked.iter().any(|payment| what.contains(payment));
        let differences = differences.into_iter().filter(|what| !of_parked(what));
        audit.contradictions.extend(differences);
        Ok(audit)
    }

    /// Holds a note against its row, and adds what it was told to what must stand.
    fn hold(
        &mut self,
        key: &str,
        note: &Note,
        row: Option<&Row>,
        references: &HashMap<Uuid, String>,
        expected: &mut BTreeMap<Uuid, Expected>,
    ) {
        let Some(told) = note.told else {
            if row.is_some_and(Row::is_with_a_person) {
                return;
            }
            let state = row.map(|row| row.state.as_str());
            let (verb, heard) = (note.verb, &note.heard);
            let what = format!("{key} ({verb:?}) has no final answer: {state:?}, heard {heard}");
            self.open.push(what);
            if let Some(payment) = row.and_then(|row| row.payment) {
                expected.entry(payment).or_default().open += 1;
            }
            return;
        };
        if !matches!(told, CREATED | 402 | 409 | GONE) {
            let what = format!("{key} ({:?}) was refused: {told}", note.verb);
            self.contradictions.push(what);
        }
        let recorded = matches!(told, CREATED | 402 | GONE);
        let Some(row) = row else {
            if recorded {
                self.losses
                    .push(format!("{key} was told {told}, and is not in the ledger"));
            }
            return;
        };
        let id = row.id.simple();
        let fits = match told {
            CREATED => row.state == "approved",
            402 => matches!(row.state.as_str(), "declined" | "failed" | "reversed"),
            GONE => row.cancelled,
            // It was refused: what the row says came before, and came to nothing.
            _ => matches!(row.state.as_str(), "not_sent" | "declined" | "failed"),
        };
        // What was approved or failed before it was cancelled stays so; the row says both.
        if !fits {
            let what = format!("{key} was told {told}, and op_{id} is {}", row.state);
            self.losses.push(what);
        }
        if note.cancelled && !row.cancelled {
            let what = format!("{key} was cancelled, and op_{id} does not know");
            self.losses.push(what);
        }
        let Some(payment) = row.payment else { return };
        let of = expected.entry(payment).or_default();
        let approved = told == CREATED;
        match note.verb {
            Verb::Sale | Verb::Authorize => {
                of.reference = references.get(&payment).cloned().unwrap_or_default();
                of.sale = note.verb == Verb::Sale;
                of.approved = approved.then_some(note.minor);
                of.gone = note.cancelled || told == GONE;
            }
            Verb::Capture if approved => of.captured = Some(note.minor),
            Verb::Void if approved => {
                of.voided = true;
                of.undone += 1;
            }
            Verb::Refund if approved => {
                of.refunded += note.minor;
                of.undone += 1;
            }
            _ => {}
        }
        if approved && note.verb != Verb::Void && row.amount != note.minor {
            let what = format!("{key} asked for {}, and has {}", note.minor, row.amount);
            self.losses.push(what);
        }
    }

    /// `parked`: nothing is said of what stands of these.
    fn weigh(
        &mut self,
        expected: &BTreeMap<Uuid, Expected>,
        parked: &BTreeSet<Uuid>,
        books: &Books,
    ) {
        for (payment, of) in expected {
            let is = books.position(&of.reference);
            let (net, held) = of.stands();
            let kind = if of.has_double(&is) {
                &mut self.doubles
            } else if of.open > 0 || parked.contains(payment) || (net, held) == (is.net, is.held) {
                continue;
            } else if is.net + is.held > net + held && of.approved.is_none() {
                &mut self.orphans
            } else {
                &mut self.losses
            };
            let id = payment.simple();
            kind.push(format!(
                "pay_{id}: callers were told of net {net}, held {held}; {is:?}"
            ));
        }
    }
}

async fn operations(ledger: &mut PgConnection) -> Result<HashMap<String, Row>, StackError> {
    // Reversals have keys of the gateway's own.
    let rows: Vec<Row> = sqlx::query_as(
        "select o.key, o.id, o.state, o.payment, o.amount, o.cancel_requested_at is not null as cancelled,
             coalesce(r.reversal_form ->> 'form' = 'refund', false) as refunding,
             coalesce(r.reversal_form ->> 'form' = 'refund' and r.state = 'parked', false) as refund_parked
         from operation o left join operation r on r.reverses = o.id
         where o.verb <> 'reversal'",
    )
    .fetch_all(ledger)
    .await
    .doing(|| "reading the ledger's operations".to_owned())?;
    Ok(rows.into_iter().map(|row| (row.key.clone(), row)).collect())
}

async fn references(ledger: &mut PgConnection) -> Result<HashMap<Uuid, String>, StackError> {
    let rows: Vec<(Uuid, String)> = sqlx::query_as("select id, reference from payment")
        .fetch_all(ledger)
        .await
        .doing(|| "reading the ledger's payments".to_owned())?;
    Ok(rows.into_iter().collect())
}
