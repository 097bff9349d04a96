//! Sale, authorization and verification: what begins with a card.

use http::StatusCode;
use uuid::Uuid;

use super::super::json::Fields;
use super::super::site::{Reply, Twist};
use super::Desk;
use super::answer::{self, Shown};
use super::books::{Change, Entry, EntryKind, EntryState};
use super::card::{self, CardOnFile, Number, Presented, RISK_DECLINE_EMAIL};
use super::refusal::{NO_CARD_FOR_TOKEN, NO_DEVICE, Problem, decline_text, error};
use super::rules::{DeclineForm, Device, SequenceRule};

pub(super) const AMOUNT_MIN: i64 = 50;
pub(super) const AMOUNT_MAX: i64 = 99_999_999;
/// "Duplicate request": the same amount on the same card, too soon.
const TOO_QUICK: &str = "D0008";
const REPLAY_WINDOW_MS: i64 = 30 * 60 * 1000;

/// The top-level fields that every creation shares.
struct Common {
    device: Device,
    amount: i64,
    sequence_number: Option<String>,
    order_number: Option<String>,
    statement: Option<String>,
}

/// The card of a request, with what has to be added to the books for it.
struct Filed {
    card: CardOnFile,
    new: Option<Change>,
    pan: Option<String>,
}

impl Desk<'_> {
    pub(super) fn create(
        &mut self,
        kind: EntryKind,
        body: &Fields,
        twist: Option<&Twist>,
    ) -> Result<Reply, Problem> {
        let common = self.common(kind, body)?;
        let sale = kind == EntryKind::Sale;
        let risk_only = sale && body.flag("RiskProcessingOnly")?.unwrap_or(false);
        let (expected_payments, risk_email) = if sale { self.risk(body)? } else { (None, None) };
        let presented = Presented::read(body)?;
        let filed = self.file(&presented)?;
        if let Some(reply) = self.seen_before(kind, &common, &filed.card)? {
            return Ok(reply);
        }
        let too_quick = self.is_quick_repeat(&common, &filed.card);
        if too_quick && self.rules.decline_form == DeclineForm::Unprocessable {
            return Err(Problem::Code(TOO_QUICK));
        }

        let risk_email = risk_email.or(presented.email).unwrap_or_default();
        let risky = risk_email.eq_ignore_ascii_case(RISK_DECLINE_EMAIL);
        let expiry = filed.card.expiry.as_str();
        let objection = if too_quick {
            Some(TOO_QUICK.to_owned())
        } else if let Some(Twist::Decline { code, .. }) = twist {
            Some(code.clone().unwrap_or_else(|| "D2020".to_owned()))
        } else if risky {
            Some("E6054".to_owned())
        } else {
            card::issuer_objection(
                filed.pan.as_deref(),
                expiry,
                presented.cvv.as_deref(),
                &answer::year_month(self.now_ms),
            )
            .map(str::to_owned)
        };
        let approved = match (&objection, twist) {
            (Some(_), _) => 0,
            (None, Some(Twist::HalfApproved)) => common.amount / 2,
            (None, _) => common.amount,
        };
        let partial = objection.is_none() && approved < common.amount;
        let (batch, mut changes) = self.batch_for(kind, &common.device.guid);
        let number = self.next_number();
        let entry = Entry {
            guid: self.ledger.chance.uuid().to_string(),
            kind,
            state: match (&objection, risk_only) {
                (Some(_), _) => EntryState::Declined,
                (None, true) => EntryState::RiskOnly,
                (None, false) => EntryState::Approved,
            },
            device: common.device.guid,
            sequence_number: common.sequence_number,
            order_number: common.order_number,
            amount: common.amount,
            approved: if risk_only { 0 } else { approved },
            effective: if risk_only { 0 } else { approved },
            parent: None,
            batch,
            at_ms: self.now_ms,
            code: objection.unwrap_or_else(|| {
                if risk_only {
                    "ARP00"
                } else if partial {
                    "A0002"
                } else {
                    "A0000"
                }
                .to_owned()
            }),
            authorization_code: format!("TAS{:03}", number % 1000),
            reference_number: number,
            card: Some(filed.card),
            holder: presented.holder,
            statement: common.statement,
            reason: None,
            expected_payments,
            request: self.request,
        };
        changes.extend(filed.new);
        changes.push(Change::entry(entry.clone()));
        self.ledger.commit(changes)?;
        let shown = Shown {
            twist,
            risky,
            zip: presented.zip.as_deref(),
            cvv_given: presented.cvv.is_some(),
        };
        Ok(self.created(&entry, &shown))
    }

    /// The answer to a creation, by what the books say of it.
    fn created(&self, entry: &Entry, shown: &Shown<'_>) -> Reply {
        let unprocessable = match shown.twist {
            Some(Twist::Decline { unprocessable, .. }) => *unprocessable,
            _ => self.rules.decline_form == DeclineForm::Unprocessable,
        };
        // A refusal by the risk engine is a result of its own, shown with its block.
        if entry.state == EntryState::Declined && unprocessable && !shown.risky {
            return error(StatusCode::UNPROCESSABLE_ENTITY, &decline_text(&entry.code));
        }
        let status = if entry.kind == EntryKind::Verify {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        Reply::json(status, self.render_created(entry, shown))
    }

    pub(super) fn device(&self, body: &Fields) -> Result<Device, Problem> {
        let Some(guid) = body.text("DeviceGuid")? else {
            return Err(Problem::Model(vec![(
                "DeviceGuid",
                "The DeviceGuid field is required.".to_owned(),
            )]));
        };
        self.rules
            .device(&guid)
            .cloned()
            .ok_or_else(|| Problem::text(NO_DEVICE))
    }

    /// An amount within the limits. `what` is the transaction's name in the message.
    pub(super) fn limited(amount: i64, what: &str) -> Result<i64, Problem> {
        match amount {
            ..=0 => Err(Problem::Text(format!(
                "The {what} amount must be greater than zero"
            ))),
            AMOUNT_MIN..=AMOUNT_MAX => Ok(amount),
            _ => Err(Problem::text(
                "The field Amount must be between 0.5 and 999999.99.",
            )),
        }
    }

    /// Sequence and order number, within their limits.
    pub(super) fn references(body: &Fields) -> Result<(Option<String>, Option<String>), Problem> {
        let sequence_number = body.text("SequenceNumber")?.filter(|text| !text.is_empty());
        let order_number = body.text("OrderNumber")?.filter(|text| !text.is_empty());
        let mut faults = Vec::new();
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if sequence_number
            .as_ref()
            .is_some_and(|text| text.len() > 100 || !plain(text))
        {
            faults.push((
                "SequenceNumber",
                "The field must be at most 100 letters and digits.".to_owned(),
            ));
        }
        let orderly = |byte: u8| byte.is_ascii_alphanumeric() || b"._/- ".contains(&byte);
        if order_number
            .as_ref()
            .is_some_and(|text| text.len() > 50 || !text.bytes().all(orderly))
        {
            faults.push((
                "OrderNumber",
                "The field must be at most 50 letters, digits, spaces or ._/-.".to_owned(),
            ));
        }
        if faults.is_empty() {
            Ok((sequence_number, order_number))
        } else {
            Err(Problem::Model(faults))
        }
    }

    fn common(&self, kind: EntryKind, body: &Fields) -> Result<Common, Problem> {
        let device = self.device(body)?;
        let amount = if kind == EntryKind::Verify {
            0
        } else {
            let amount = body.amount("Amount")?;
            let missing =
                || Problem::Model(vec![("Amount", "The Amount field is required.".to_owned())]);
            Self::limited(amount.ok_or_else(missing)?, answer::name(kind))?
        };
        let (sequence_number, order_number) = Self::references(body)?;
        let statement = body.text("StatementDescription")?;
        if statement.as_ref().is_some_and(|text| text.len() > 25) {
            let objection =
                "The field StatementDescription must have a maximum length of 25.".to_owned();
            return Err(Problem::Model(vec![("StatementDescription", objection)]));
        }
        Ok(Common {
            device,
            amount,
            sequence_number,
            order_number,
            statement,
        })
    }

    /// Expected payments, and the e-mail address that the risk engine sees.
    fn risk(&self, body: &Fields) -> Result<(Option<i64>, Option<String>), Problem> {
        let payments = body
            .object("ConnexPayTransaction")?
            .unwrap_or_default()
            .integer("ExpectedPayments")?;
        let risk = body.object("RiskData")?.unwrap_or_default();
        let mut faults = Vec::new();
        if self.rules.risk_data_required {
            if payments.is_none() {
                let objection = "The ExpectedPayments field is required.".to_owned();
                faults.push(("ConnexPayTransaction.ExpectedPayments", objection));
            }
            for (name, path) in [
                ("Gender", "RiskData.Gender"),
                ("ProductType", "RiskData.ProductType"),
                ("ProductItem", "RiskData.ProductItem"),
            ] {
                if risk.text(name)?.is_none_or(|text| text.is_empty()) {
                    faults.push((path, format!("The {name} field is required.")));
                }
            }
        }
        if risk
            .text("Gender")?
            .is_some_and(|gender| gender != "M" && gender != "F")
        {
            faults.push((
                "RiskData.Gender",
                "The field Gender must be M or F.".to_owned(),
            ));
        }
        if faults.is_empty() {
            Ok((payments, risk.text("Email")?))
        } else {
            Err(Problem::Model(faults))
        }
    }

    fn file(&self, presented: &Presented) -> Result<Filed, Problem> {
        match &presented.number {
            Number::Token(token) => {
                let known = self
                    .ledger
                    .card(token)
                    .ok_or_else(|| Problem::text(NO_CARD_FOR_TOKEN))?;
                let expiry = presented
                    .expiry
                    .clone()
                    .unwrap_or_else(|| known.expiry.clone());
                Ok(Filed {
                    card: CardOnFile {
                        expiry,
                        ..known.clone()
                    },
                    new: None,
                    pan: None,
                })
            }
            Number::Pan(pan) => {
                let (digest, known) = self.ledger.token_of(pan);
                let last_four = pan[pan.len() - 4..].to_owned();
                let card = CardOnFile {
                    token: known.map_or_else(
                        || new_token(self.ledger.chance.uuid(), &last_four),
                        |card| card.token.clone(),
                    ),
                    first_four: pan[..4].to_owned(),
                    last_four,
                    brand: card::brand(pan).to_owned(),
                    expiry: presented.expiry.clone().unwrap_or_default(),
                };
                let new = (known != Some(&card)).then(|| Change::Card {
                    digest,
                    card: card.clone(),
                });
                Ok(Filed {
                    card,
                    new,
                    pan: Some(pan.clone()),
                })
            }
        }
    }

    /// The answer that a used sequence number gets, by the rule in force.
    fn seen_before(
        &self,
        kind: EntryKind,
        common: &Common,
        card: &CardOnFile,
    ) -> Result<Option<Reply>, Problem> {
        let (Some(sequence), true) = (
            &common.sequence_number,
            self.rules.sequence != SequenceRule::Free,
        ) else {
            return Ok(None);
        };
        let Some(first) = self.used(&common.device, sequence) else {
            return Ok(None);
        };
        let same_card = first
            .card
            .as_ref()
            .is_some_and(|known| known.token == card.token);
        let same = first.kind == kind && first.amount == common.amount && same_card;
        if same && self.rules.sequence == SequenceRule::Replay {
            return Ok(Some(self.created(first, &Shown::default())));
        }
        Err(Problem::Code(seen(first)))
    }

    /// Follow-ups that carry a used sequence number are not run again, and get no first result either.
    pub(super) fn refuse_used_sequence(
        &self,
        device: &Device,
        sequence: Option<&str>,
    ) -> Result<(), Problem> {
        let used = sequence
            .filter(|_| self.rules.sequence != SequenceRule::Free)
            .and_then(|sequence| self.used(device, sequence));
        used.map_or(Ok(()), |first| Err(Problem::Code(seen(first))))
    }

    /// The newest transaction of that device with this number that still counts.
    fn used(&self, device: &Device, sequence: &str) -> Option<&Entry> {
        let forgets = self.rules.sequence == SequenceRule::Replay;
        self.ledger.with_sequence(sequence).rfind(|entry| {
            entry.device == device.guid
                && !(forgets && self.now_ms - entry.at_ms > REPLAY_WINDOW_MS)
        })
    }

    /// Whether it looks like one that was approved just now.
    fn is_quick_repeat(&self, common: &Common, card: &CardOnFile) -> bool {
        let window_ms = i64::try_from(self.rules.duplicate_window_s)
            .unwrap_or(i64::MAX / 1000)
            .saturating_mul(1000);
        window_ms > 0
            && common.amount > 0
            && self
                .ledger
                .entries
                .iter()
                .rev()
                .take_while(|entry| self.now_ms - entry.at_ms < window_ms)
                .any(|entry| {
                    matches!(entry.kind, EntryKind::Sale | EntryKind::AuthOnly)
                        && entry.is_approved()
                        && entry.amount == common.amount
                        && entry
                            .card
                            .as_ref()
                            .is_some_and(|known| known.token == card.token)
                })
    }

    /// For authorization code and reference number; grows with the books, so it is the same after a restart.
    pub(super) fn next_number(&self) -> i64 {
        FIRST_NUMBER.saturating_add(i64::try_from(self.ledger.entries.len()).unwrap_or(0))
    }
}

/// The code for a repeat, by what became of the first.
fn seen(first: &Entry) -> &'static str {
    match first.state {
        EntryState::Declined => "D0003",
        EntryState::Approved if first.effective == 0 && first.amount > 0 => "D0009",
        EntryState::Approved | EntryState::RiskOnly => "D0001",
    }
}

const FIRST_NUMBER: i64 = 16_286_858;

fn new_token(random: Uuid, last_four: &str) -> String {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    // The first byte picks a letter: an all-digit token could be taken for a card number.
    let first = char::from(LETTERS[10 + usize::from(random.as_bytes()[0]) % 52]);
    let rest = random.as_bytes()[1..12]
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
    std::iter::once(first)
        .chain(rest)
        .chain(last_four.chars())
        .collect()
}
