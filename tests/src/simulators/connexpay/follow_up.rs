//! Capture, void, return and timeout reversal: what acts on an earlier transaction.

use http::StatusCode;

use super::super::json::Fields;
use super::super::site::{Reply, Twist};
use super::Desk;
use super::answer;
use super::books::{Change, Entry, EntryKind, EntryState};
use super::refusal::{
    AMOUNT_EXCEEDED, AUTH_CAPTURED, CAPTURE_OTHER_ACCOUNT, CAPTURED_ALREADY, FOREIGN_DEVICE,
    NO_AUTH_TO_CAPTURE, NOT_SETTLED, Problem, RETURN_NO_SALE, RETURN_OTHER_ACCOUNT, RETURN_TOO_OLD,
    SALE_VOIDED, SETTLED, VOID_NOTHING, VOID_TOO_MANY, decline_text, error,
};
use super::rules::{DeclineForm, Device};

const RETURN_AGE_MAX_MS: i64 = 180 * 24 * 60 * 60 * 1000;
const VOID_REASONS: [&str; 6] = [
    "POST_AUTH_USER_DECLINE",
    "DEVICE_TIMEOUT",
    "DEVICE_UNAVAILABLE",
    "PARTIAL_REVERSAL",
    "TORN_TRANSACTIONS",
    "POST_AUTH_CHIP_DECLINE",
];
/// Marks a void that came from a timeout reversal.
const BY_TIMEOUT_REVERSAL: &str = "timeout_reversal";

impl Desk<'_> {
    pub(super) fn capture(
        &mut self,
        body: &Fields,
        twist: Option<&Twist>,
    ) -> Result<Reply, Problem> {
        let device = self.device(body)?;
        let (sequence_number, order_number) = Self::references(body)?;
        self.refuse_used_sequence(&device, sequence_number.as_deref())?;
        let Some(guid) = body.text("AuthOnlyGuid")? else {
            return Err(Problem::Model(vec![(
                "AuthOnlyGuid",
                "The AuthOnlyGuid field is required.".to_owned(),
            )]));
        };
        let auth = self.ledger.find(EntryKind::AuthOnly, &guid).cloned();
        let auth = auth.ok_or_else(|| Problem::text(NO_AUTH_TO_CAPTURE))?;
        if !self.same_account(&device, &auth) {
            return Err(Problem::text(CAPTURE_OTHER_ACCOUNT));
        }
        if self.ledger.child(EntryKind::Capture, &auth.guid).is_some() {
            return Err(Problem::text(CAPTURED_ALREADY));
        }
        if !auth.is_approved() || auth.effective == 0 || !self.is_ready(&auth) {
            return Err(Problem::Code("D0007"));
        }
        let wanted = if self.rules.partial_capture {
            body.amount("NewAmount")?
        } else {
            None
        };
        let amount = wanted.map_or(Ok(auth.effective), |amount| {
            Self::limited(amount, "Capture")
        })?;
        if amount > auth.effective {
            return Err(Problem::text(AMOUNT_EXCEEDED));
        }
        let capture = self.follow(EntryKind::Capture, &auth, &device, amount, twist);
        let capture = Entry {
            sequence_number,
            order_number,
            card: None,
            ..capture
        };
        if capture.state == EntryState::Declined {
            return self.record_decline(&capture, twist);
        }
        let (batch, mut changes) = self.batch_for(EntryKind::Sale, &device.guid);
        let capture = Entry {
            batch: batch.clone(),
            ..capture
        };
        let sale = Entry {
            guid: self.ledger.chance.uuid().to_string(),
            kind: EntryKind::Sale,
            parent: Some(capture.guid.clone()),
            sequence_number: None,
            order_number: capture
                .order_number
                .clone()
                .or_else(|| auth.order_number.clone()),
            card: auth.card.clone(),
            holder: auth.holder.clone(),
            ..capture.clone()
        };
        changes.push(Change::entry(capture.clone()));
        changes.push(Change::entry(sale));
        self.ledger.commit(changes)?;
        Ok(Reply::json(StatusCode::OK, self.render(&capture, twist)))
    }

    pub(super) fn void(&mut self, body: &Fields, twist: Option<&Twist>) -> Result<Reply, Problem> {
        let device = self.device(body)?;
        let (sequence_number, order_number) = Self::references(body)?;
        self.refuse_used_sequence(&device, sequence_number.as_deref())?;
        let target = self.void_target(body)?.clone();
        let reason = body.text("VoidReason")?.filter(|reason| !reason.is_empty());
        if reason
            .as_ref()
            .is_some_and(|reason| !VOID_REASONS.contains(&reason.as_str()))
        {
            return Err(Problem::Model(vec![(
                "VoidReason",
                "The field VoidReason is invalid.".to_owned(),
            )]));
        }
        if !self.same_account(&device, &target) {
            return Err(Problem::text(FOREIGN_DEVICE));
        }
        self.check_voidable(&target)?;
        let void = self.follow(EntryKind::Void, &target, &device, target.effective, twist);
        let void = Entry {
            sequence_number,
            order_number,
            reason,
            ..void
        };
        if void.state == EntryState::Declined {
            return self.record_decline(&void, twist);
        }
        let void = self.commit_void(void, &target)?;
        Ok(Reply::json(StatusCode::CREATED, self.render(&void, twist)))
    }

    pub(super) fn refund(
        &mut self,
        body: &Fields,
        twist: Option<&Twist>,
    ) -> Result<Reply, Problem> {
        let device = self.device(body)?;
        let (sequence_number, order_number) = Self::references(body)?;
        self.refuse_used_sequence(&device, sequence_number.as_deref())?;
        let (guid, number) = (body.text("SaleGuid")?, body.integer("SaleReferenceNumber")?);
        let sale = match (&guid, number) {
            (Some(guid), None) => self.ledger.find(EntryKind::Sale, guid),
            (None, Some(number)) => self.ledger.find_by_reference(EntryKind::Sale, number),
            _ => return Err(Problem::text(RETURN_NO_SALE)),
        };
        let sale = sale
            .ok_or_else(|| Problem::text("Invalid Sale GUID"))?
            .clone();
        let missing =
            || Problem::Model(vec![("Amount", "The Amount field is required.".to_owned())]);
        let amount = Self::limited(body.amount("Amount")?.ok_or_else(missing)?, "Return")?;
        if !self.same_account(&device, &sale) {
            return Err(Problem::text(RETURN_OTHER_ACCOUNT));
        }
        if !sale.is_approved() {
            return Err(Problem::Code("D0005"));
        }
        if self.ledger.child(EntryKind::Void, &sale.guid).is_some() {
            return Err(Problem::text(SALE_VOIDED));
        }
        if !self.ledger.is_settled(&sale) {
            return Err(Problem::text(NOT_SETTLED));
        }
        if self.now_ms - sale.at_ms > RETURN_AGE_MAX_MS {
            return Err(Problem::text(RETURN_TOO_OLD));
        }
        let cap = if self.rules.returns_capped_in_sum {
            sale.effective
        } else {
            sale.approved
        };
        if amount > cap {
            return Err(Problem::text(AMOUNT_EXCEEDED));
        }
        let refund = self.follow(EntryKind::Return, &sale, &device, amount, twist);
        let refund = Entry {
            sequence_number,
            order_number,
            ..refund
        };
        if refund.state == EntryState::Declined {
            return self.record_decline(&refund, twist);
        }
        let (batch, mut changes) = self.batch_for(EntryKind::Return, &device.guid);
        let refund = Entry { batch, ..refund };
        changes.push(Change::entry(Entry {
            effective: sale.effective - refund.approved,
            ..sale
        }));
        changes.push(Change::entry(refund.clone()));
        self.ledger.commit(changes)?;
        Ok(Reply::json(StatusCode::OK, self.render(&refund, twist)))
    }

    pub(super) fn reverse(
        &mut self,
        body: &Fields,
        twist: Option<&Twist>,
    ) -> Result<Reply, Problem> {
        let device = self.device(body)?;
        let Some(sequence) = body
            .text("SequenceNumber")?
            .filter(|sequence| !sequence.is_empty())
        else {
            return Err(Problem::Model(vec![(
                "SequenceNumber",
                "The SequenceNumber field is required.".to_owned(),
            )]));
        };
        let reaches_authorizations = self.rules.reversal_reaches_authorizations;
        let ours = |entry: &Entry| {
            (entry.kind == EntryKind::Sale
                || reaches_authorizations && entry.kind == EntryKind::AuthOnly)
                && entry.device == device.guid
        };
        // Several sales may share the number: the newest that still stands, else the newest at all.
        let standing = self
            .ledger
            .with_sequence(&sequence)
            .rfind(|entry| ours(entry) && entry.is_approved() && entry.effective != 0);
        let newest = || {
            self.ledger
                .with_sequence(&sequence)
                .rfind(|entry| ours(entry))
        };
        let target = standing.or_else(newest).cloned();
        let target =
            target.ok_or_else(|| Problem::text("No Sale could be found for the given Id"))?;
        if let Some(Twist::Decline { code, .. }) = twist {
            let code = code.as_deref().unwrap_or("D0004");
            return Ok(error(StatusCode::UNPROCESSABLE_ENTITY, &decline_text(code)));
        }
        self.check_voidable(&target)?;
        let void = self.follow(EntryKind::Void, &target, &device, target.effective, None);
        self.commit_void(
            Entry {
                reason: Some(BY_TIMEOUT_REVERSAL.to_owned()),
                ..void
            },
            &target,
        )?;
        Ok(Reply::json(
            StatusCode::OK,
            r#""Device Guid and Sequence Number combination found and voided.""#,
        ))
    }

    fn void_target(&self, body: &Fields) -> Result<&Entry, Problem> {
        let mut named = Vec::new();
        for (kind, guid, number) in [
            (EntryKind::Sale, "SaleGuid", "SaleReferenceNumber"),
            (
                EntryKind::AuthOnly,
                "AuthOnlyGuid",
                "AuthOnlyReferenceNumber",
            ),
            (EntryKind::Return, "ReturnGuid", "ReturnReferenceNumber"),
        ] {
            if let Some(guid) = body.text(guid)? {
                named.push((kind, self.ledger.find(kind, &guid)));
            }
            if let Some(number) = body.integer(number)? {
                named.push((kind, self.ledger.find_by_reference(kind, number)));
            }
        }
        match named.as_slice() {
            [] => Err(Problem::text(VOID_NOTHING)),
            [(_, Some(target))] => Ok(target),
            [(kind, None)] => Err(Problem::Text(format!(
                "Invalid {} GUID",
                answer::name(*kind)
            ))),
            _ => Err(Problem::text(VOID_TOO_MANY)),
        }
    }

    fn check_voidable(&self, target: &Entry) -> Result<(), Problem> {
        let name = answer::name(target.kind);
        let captured = target.kind == EntryKind::AuthOnly
            && self
                .ledger
                .child(EntryKind::Capture, &target.guid)
                .is_some();
        if !target.is_approved() || !self.is_ready(target) {
            return Err(Problem::Text(format!(
                "{name} cannot be voided because it was not processed"
            )));
        }
        if captured {
            return Err(Problem::text(AUTH_CAPTURED));
        }
        if self.ledger.child(EntryKind::Void, &target.guid).is_some() {
            return Err(Problem::Code("D0009"));
        }
        // A hold outlives its day's batch: it is good for about five business days, and there is nothing in it to settle.
        if target.kind != EntryKind::AuthOnly && self.ledger.is_settled(target) {
            return Err(Problem::text(SETTLED));
        }
        Ok(())
    }

    fn commit_void(&mut self, void: Entry, target: &Entry) -> Result<Entry, Problem> {
        let (batch, mut changes) = self.batch_for(EntryKind::Void, &void.device.clone());
        let void = Entry { batch, ..void };
        changes.push(Change::entry(Entry {
            effective: 0,
            ..target.clone()
        }));
        let parent = target
            .parent
            .as_deref()
            .and_then(|guid| self.ledger.get(guid));
        match (target.kind, parent) {
            // Voiding what a capture collected voids the authorization as well.
            (EntryKind::Sale, Some(capture)) => {
                changes.push(Change::entry(Entry {
                    effective: 0,
                    ..capture.clone()
                }));
                if let Some(auth) = capture
                    .parent
                    .as_deref()
                    .and_then(|guid| self.ledger.get(guid))
                {
                    changes.push(Change::entry(Entry {
                        effective: 0,
                        ..auth.clone()
                    }));
                }
            }
            (EntryKind::Return, Some(sale)) => {
                let effective = sale.effective + target.effective;
                changes.push(Change::entry(Entry {
                    effective,
                    ..sale.clone()
                }));
            }
            _ => {}
        }
        changes.push(Change::entry(void.clone()));
        self.ledger.commit(changes)?;
        Ok(void)
    }

    /// A transaction that acts on `parent`, approved unless a fault declines or halves it. Not in the books yet.
    fn follow(
        &self,
        kind: EntryKind,
        parent: &Entry,
        device: &Device,
        amount: i64,
        twist: Option<&Twist>,
    ) -> Entry {
        let declined = match twist {
            Some(Twist::Decline { code, .. }) => {
                Some(code.clone().unwrap_or_else(|| "D2026".to_owned()))
            }
            _ => None,
        };
        let state = if declined.is_some() {
            EntryState::Declined
        } else {
            EntryState::Approved
        };
        // A void has no amount to halve.
        let halved = matches!(twist, Some(Twist::HalfApproved)) && kind != EntryKind::Void;
        let (approved, code) = match declined {
            Some(code) => (0, code),
            None if halved => (amount / 2, "A0002".to_owned()),
            None => (amount, "A0000".to_owned()),
        };
        Entry {
            guid: self.ledger.chance.uuid().to_string(),
            kind,
            state,
            device: device.guid.clone(),
            sequence_number: None,
            order_number: None,
            amount,
            approved,
            effective: approved,
            parent: Some(parent.guid.clone()),
            batch: None,
            at_ms: self.now_ms,
            code,
            authorization_code: parent.authorization_code.clone(),
            reference_number: parent.reference_number,
            card: parent.card.clone(),
            holder: parent.holder.clone(),
            statement: parent.statement.clone(),
            reason: None,
            expected_payments: None,
            request: self.request,
        }
    }

    fn record_decline(&mut self, entry: &Entry, twist: Option<&Twist>) -> Result<Reply, Problem> {
        self.ledger.commit(vec![Change::entry(entry.clone())])?;
        let unprocessable = match twist {
            Some(Twist::Decline { unprocessable, .. }) => *unprocessable,
            _ => self.rules.decline_form == DeclineForm::Unprocessable,
        };
        if unprocessable {
            return Ok(error(
                StatusCode::UNPROCESSABLE_ENTITY,
                &decline_text(&entry.code),
            ));
        }
        Ok(Reply::json(StatusCode::OK, self.render(entry, twist)))
    }

    fn same_account(&self, device: &Device, entry: &Entry) -> bool {
        self.rules
            .device(&entry.device)
            .is_some_and(|other| other.merchant_guid == device.merchant_guid)
    }

    fn is_ready(&self, entry: &Entry) -> bool {
        let lag = i64::try_from(self.rules.authorization_ready_after_ms).unwrap_or(i64::MAX);
        entry.kind != EntryKind::AuthOnly || self.now_ms - entry.at_ms >= lag
    }
}
