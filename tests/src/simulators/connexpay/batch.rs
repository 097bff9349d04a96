//! Batches: what is open can be voided, what is closed is settled and can be returned.

use http::StatusCode;

use super::super::json::{Fields, Object, array};
use super::super::site::Reply;
use super::Desk;
use super::answer::{unzoned, zoned};
use super::books::{Batch, Change, Entry, EntryKind};
use super::refusal::{NO_OPEN_BATCH, Problem};
use super::search::{counted, day};

impl Desk<'_> {
    /// The open batch of the device, with the change that opens it where there is none. A verification has none.
    pub(super) fn batch_for(&self, kind: EntryKind, device: &str) -> (Option<String>, Vec<Change>) {
        if kind == EntryKind::Verify {
            return (None, Vec::new());
        }
        if let Some(open) = self.ledger.open_batch(device) {
            return (Some(open.guid.clone()), Vec::new());
        }
        let batch = Batch {
            guid: self.ledger.chance.uuid().to_string(),
            number: format!("{}", 201_781_801 + self.ledger.batches.len()),
            device: device.to_owned(),
            opened_ms: self.now_ms,
            closed_ms: None,
        };
        (Some(batch.guid.clone()), vec![Change::Batch(batch)])
    }

    /// Closes the batches whose day is over.
    pub(super) fn close_due_batches(&mut self) -> Result<(), Problem> {
        let Some(after_s) = self.rules.batch_close_after_s else {
            return Ok(());
        };
        let after_ms = i64::try_from(after_s)
            .unwrap_or(i64::MAX / 1000)
            .saturating_mul(1000);
        let due =
            |batch: &&Batch| batch.closed_ms.is_none() && self.now_ms - batch.opened_ms >= after_ms;
        let closing = self.ledger.batches.iter().filter(due);
        // It closed when its time was up, not when somebody looked.
        let at = |batch: &Batch| Some(batch.opened_ms.saturating_add(after_ms));
        let changes: Vec<Change> = closing
            .map(|batch| {
                Change::Batch(Batch {
                    closed_ms: at(batch),
                    ..batch.clone()
                })
            })
            .collect();
        if !changes.is_empty() {
            self.ledger.commit(changes)?;
        }
        Ok(())
    }

    pub(super) fn close_batch(&mut self, body: &Fields) -> Result<Reply, Problem> {
        let device = self.device(body)?;
        let open = self
            .ledger
            .open_batch(&device.guid)
            .cloned()
            .ok_or_else(|| Problem::text(NO_OPEN_BATCH))?;
        self.ledger.commit(vec![Change::Batch(Batch {
            closed_ms: Some(self.now_ms),
            ..open.clone()
        })])?;
        let total = |kind| {
            let of_kind = self
                .members(&open)
                .filter(|entry| entry.kind == kind && entry.effective != 0);
            of_kind.fold((0_i64, 0_i64), |(count, sum), entry| {
                (count + 1, sum + entry.effective)
            })
        };
        let (sales, returns) = (total(EntryKind::Sale), total(EntryKind::Return));
        let info = Object::new()
            .text("siccode", "5999")
            .number("saleCount", sales.0)
            .amount("saleAmount", sales.1)
            .number("returnCount", returns.0)
            .amount("returnAmount", returns.1);
        let body = Object::new()
            .text("deviceGuid", &device.guid)
            .text("guid", &open.guid)
            .text("status", "PASS")
            .text("responseCode", "A0000")
            .text("responseMessage", "Success")
            .text("closureDate", &zoned(self.now_ms))
            .raw("batchInfo", &info.finish());
        Ok(Reply::json(StatusCode::OK, body.finish()))
    }

    pub(super) fn search_batches(&self, body: &Fields) -> Result<Reply, Problem> {
        let device = self.device(body)?;
        let (Some(from), Some(to)) = (day(body, "StartDate")?, day(body, "EndDate")?) else {
            return Err(Problem::Model(vec![(
                "StartDate",
                "StartDate and EndDate are required.".to_owned(),
            )]));
        };
        let row = |batch: &Batch| {
            let closed_ms = batch
                .closed_ms
                .filter(|closed_ms| batch.device == device.guid && from <= *closed_ms)?;
            if closed_ms >= to.saturating_add(DAY_MS) {
                return None;
            }
            let sum = |kind| {
                self.members(batch)
                    .filter(|entry| entry.kind == kind)
                    .map(|entry| entry.effective)
                    .sum::<i64>()
            };
            // Batch search rows carry no transaction id.
            let rows = self.members(batch).map(|entry| transaction(entry, false));
            Some(
                Object::new()
                    .text("batchNumber", &batch.number)
                    .text("closureDate", &unzoned(closed_ms))
                    .amount(
                        "batchTotalAmount",
                        sum(EntryKind::Sale) - sum(EntryKind::Return),
                    )
                    .raw("transactions", &array(rows))
                    .finish(),
            )
        };
        let rows: Vec<String> = self.ledger.batches.iter().filter_map(row).collect();
        if rows.is_empty() {
            return Ok(Reply::empty(StatusCode::NO_CONTENT));
        }
        Ok(Reply::json(StatusCode::OK, counted(rows)))
    }

    pub(super) fn batch_transactions(&self, guid: &str) -> Result<Reply, Problem> {
        let batch = self
            .ledger
            .batches
            .iter()
            .find(|batch| batch.guid == guid)
            .ok_or(Problem::NoEntity("Batch"))?;
        let rows = self.members(batch).map(|entry| transaction(entry, true));
        Ok(Reply::json(StatusCode::OK, array(rows)))
    }

    /// Approved transactions of the batch that its lists show.
    fn members(&self, batch: &Batch) -> impl Iterator<Item = &Entry> {
        self.ledger.entries.iter().filter(move |entry| {
            entry.batch.as_ref() == Some(&batch.guid)
                && entry.is_approved()
                && entry.kind != EntryKind::Capture
        })
    }
}

pub(super) const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn transaction(entry: &Entry, with_guid: bool) -> String {
    let kind = match entry.kind {
        EntryKind::AuthOnly => "Auth Only",
        EntryKind::Void => "Void",
        EntryKind::Return => "Return",
        _ => "Sale",
    };
    let object = Object::new().text("transactionType", kind);
    let object = if with_guid {
        object.text("transactionGuid", &entry.guid)
    } else {
        object
    };
    let card = entry.card.as_ref();
    object
        .text("transactionDatetime", &unzoned(entry.at_ms))
        .optional("lastFour", card.map(|card| card.last_four.as_str()))
        .optional("cardType", card.map(|card| card.brand.as_str()))
        .amount("amount", entry.approved)
        .finish()
}
