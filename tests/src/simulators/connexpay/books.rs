//! The books of simulated ConnexPay: every transaction with what is left of it, on disk before it is answered.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::card::CardOnFile;
use super::surroundings::Chance;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    Sale,
    AuthOnly,
    Capture,
    Void,
    Return,
    Verify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryState {
    Approved,
    Declined,
    /// Only the risk check ran; no money is meant by it.
    RiskOnly,
}

/// One transaction. Amounts are minor units; times are Unix milliseconds on the simulator's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub guid: String,
    pub kind: EntryKind,
    pub state: EntryState,
    pub device: String,
    pub sequence_number: Option<String>,
    pub order_number: Option<String>,
    /// What the request asked for.
    pub amount: i64,
    /// What was approved: 0 when declined, less than `amount` when partially approved.
    pub approved: i64,
    /// What is left of it after voids and returns.
    pub effective: i64,
    /// Sale → its capture, if it came from one; capture → authorization; void and return → what they act on.
    pub parent: Option<String>,
    pub batch: Option<String>,
    pub at_ms: i64,
    /// `A0000` and the like, or the decline code.
    pub code: String,
    pub authorization_code: String,
    /// Void, return and capture repeat that of their parent.
    pub reference_number: i64,
    pub card: Option<CardOnFile>,
    pub holder: Option<String>,
    pub statement: Option<String>,
    /// Why it was voided; `timeout_reversal` for a void that came from there.
    pub reason: Option<String>,
    pub expected_payments: Option<i64>,
    /// The journal number of the request it came from.
    pub request: u64,
}

impl Entry {
    pub fn is_approved(&self) -> bool {
        self.state == EntryState::Approved
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub guid: String,
    pub number: String,
    pub device: String,
    pub opened_ms: i64,
    pub closed_ms: Option<i64>,
}

/// What one reference has done to the cardholder's money, computed from the entries alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Sales less voids and returns, minor units: what the cardholder has really paid.
    pub net: i64,
    /// Authorized and neither captured nor voided, minor units.
    pub held: i64,
    /// Approved sales, those of captures included: more than one is a double charge unless all but one are undone.
    pub sales: u64,
    /// Approved authorizations.
    pub authorizations: u64,
    pub captures: u64,
    pub voids: u64,
    pub returns: u64,
    /// Refusals that were recorded.
    pub declines: u64,
}

/// The omniscient truth at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    pub entries: Vec<Entry>,
    pub batches: Vec<Batch>,
    /// By the reference of the sale or authorization at the root: its sequence number, else its order number,
    /// else its id.
    pub positions: BTreeMap<String, Position>,
}

impl Books {
    /// The position of a reference; all zeros when nothing carries it.
    pub fn position(&self, reference: &str) -> Position {
        self.positions.get(reference).cloned().unwrap_or_default()
    }

    pub fn entry(&self, guid: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.guid == guid)
    }

    /// The entries of one kind, oldest first.
    pub fn of(&self, kind: EntryKind) -> Vec<&Entry> {
        self.entries
            .iter()
            .filter(|entry| entry.kind == kind)
            .collect()
    }

    /// What all references together come to, minor units.
    pub fn net(&self) -> i64 {
        self.positions.values().map(|position| position.net).sum()
    }
}

/// One change of the books. What belongs together is one line of the file: all of it or nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    /// The first line: under which key card numbers are compared.
    Salt(String),
    /// New, or instead of the entry of the same id.
    Entry(Box<Entry>),
    Batch(Batch),
    Card {
        digest: String,
        card: CardOnFile,
    },
    Token {
        digest: String,
        expires_ms: i64,
    },
    TokenDead {
        digest: String,
    },
}

impl Change {
    pub(super) fn entry(entry: Entry) -> Self {
        Self::Entry(Box::new(entry))
    }
}

/// The books in memory with their file.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) entries: Vec<Entry>,
    index: HashMap<String, usize>,
    /// Places of the entries that act on an entry, and of those that carry a sequence number, oldest first.
    children: HashMap<String, Vec<usize>>,
    by_sequence: HashMap<String, Vec<usize>>,
    /// The same of those that carry an order number, in any case of its letters.
    by_order: HashMap<String, Vec<usize>>,
    pub(super) batches: Vec<Batch>,
    cards: HashMap<String, CardOnFile>,
    tokens_of_cards: HashMap<String, String>,
    /// Digest of each living access token, with its end.
    pub(super) tokens: HashMap<String, i64>,
    salt: String,
    /// Where its ids come from.
    pub(super) chance: Chance,
    file: Option<File>,
}

impl Ledger {
    /// Reads the books kept in `dir`, or begins them; without `dir` they live in memory.
    pub(super) fn open(dir: Option<&Path>, chance: Chance) -> io::Result<Self> {
        let mut ledger = Self {
            chance,
            ..Self::default()
        };
        if let Some(dir) = dir {
            fs::create_dir_all(dir)?;
            let path = dir.join("connexpay.jsonl");
            let mut file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .open(&path)?;
            let whole = ledger.replay(&fs::read(&path)?)?;
            // A line without its end was being written when the process died; nothing was answered for it.
            file.set_len(whole)?;
            file.flush()?;
            ledger.file = Some(file);
        }
        if ledger.salt.is_empty() {
            let salt = ledger.chance.uuid().to_string();
            ledger.commit(vec![Change::Salt(salt)])?;
        }
        Ok(ledger)
    }

    /// Returns how many bytes of the file are whole lines.
    fn replay(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        for line in bytes[..whole]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let changes: Vec<Change> = serde_json::from_slice(line)?;
            for change in changes {
                self.apply(change);
            }
        }
        u64::try_from(whole).map_err(io::Error::other)
    }

    /// Writes the changes, then makes them true. A write that reached the kernel survives the end of this process.
    pub(super) fn commit(&mut self, changes: Vec<Change>) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            let mut line = serde_json::to_vec(&changes)?;
            line.push(b'\n');
            file.write_all(&line)?;
        }
        for change in changes {
            self.apply(change);
        }
        Ok(())
    }

    /// Forgets everything but the access tokens: callers need not log in again because the books are emptied.
    pub(super) fn empty(&mut self) -> io::Result<()> {
        let file = self.file.take();
        if let Some(file) = &file {
            file.set_len(0)?;
        }
        let tokens = std::mem::take(&mut self.tokens);
        let chance = std::mem::take(&mut self.chance);
        *self = Self {
            chance,
            file,
            ..Self::default()
        };
        let salt = Change::Salt(self.chance.uuid().to_string());
        let kept = tokens
            .into_iter()
            .map(|(digest, expires_ms)| Change::Token { digest, expires_ms });
        self.commit(std::iter::once(salt).chain(kept).collect())
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Salt(salt) => self.salt = salt,
            Change::Entry(entry) => {
                if let Some(&place) = self.index.get(&entry.guid) {
                    self.entries[place] = *entry;
                } else {
                    let place = self.entries.len();
                    self.index.insert(entry.guid.clone(), place);
                    if let Some(parent) = &entry.parent {
                        self.children.entry(parent.clone()).or_default().push(place);
                    }
                    if let Some(sequence) = &entry.sequence_number {
                        let places = self.by_sequence.entry(sequence.clone()).or_default();
                        places.push(place);
                    }
                    if let Some(order) = &entry.order_number {
                        let places = self.by_order.entry(order.to_ascii_lowercase());
                        places.or_default().push(place);
                    }
                    self.entries.push(*entry);
                }
            }
            Change::Batch(batch) => match self
                .batches
                .iter_mut()
                .find(|known| known.guid == batch.guid)
            {
                Some(known) => *known = batch,
                None => self.batches.push(batch),
            },
            Change::Card { digest, card } => {
                self.tokens_of_cards.insert(digest, card.token.clone());
                self.cards.insert(card.token.clone(), card);
            }
            Change::Token { digest, expires_ms } => {
                self.tokens.insert(digest, expires_ms);
            }
            Change::TokenDead { digest } => {
                self.tokens.remove(&digest);
            }
        }
    }

    pub(super) fn get(&self, guid: &str) -> Option<&Entry> {
        self.index.get(guid).map(|&place| &self.entries[place])
    }

    /// By any case of the id, and only of that kind.
    pub(super) fn find(&self, kind: EntryKind, guid: &str) -> Option<&Entry> {
        self.get(&guid.to_ascii_lowercase())
            .filter(|entry| entry.kind == kind)
    }

    /// Reference numbers repeat: the newest of that kind counts.
    pub(super) fn find_by_reference(
        &self,
        kind: EntryKind,
        reference_number: i64,
    ) -> Option<&Entry> {
        let mut newest = self.entries.iter().rev();
        newest.find(|entry| entry.kind == kind && entry.reference_number == reference_number)
    }

    /// The entries that carry this sequence number, oldest first.
    pub(super) fn with_sequence(&self, sequence: &str) -> impl DoubleEndedIterator<Item = &Entry> {
        let places = self
            .by_sequence
            .get(sequence)
            .map_or(&[][..], Vec::as_slice);
        places.iter().map(|&place| &self.entries[place])
    }

    /// The entries that carry this order number, oldest first; all of them where none is asked for.
    pub(super) fn with_order(&self, order: Option<&str>) -> impl Iterator<Item = &Entry> {
        let of_order = order.map(|order| {
            let places = self.by_order.get(&order.to_ascii_lowercase());
            let places = places.map_or(&[][..], Vec::as_slice);
            places.iter().map(|&place| &self.entries[place])
        });
        let all = order.is_none().then(|| self.entries.iter());
        of_order
            .into_iter()
            .flatten()
            .chain(all.into_iter().flatten())
    }

    /// The newest approved entry of that kind that acts on `parent`.
    pub(super) fn child(&self, kind: EntryKind, parent: &str) -> Option<&Entry> {
        let places = self.children.get(parent)?;
        let mut newest = places.iter().rev().map(|&place| &self.entries[place]);
        newest.find(|entry| entry.kind == kind && entry.is_approved())
    }

    pub(super) fn card(&self, token: &str) -> Option<&CardOnFile> {
        self.cards.get(token)
    }

    /// The token that stands for this card number, with the digest under which it is known.
    pub(super) fn token_of(&self, pan: &str) -> (String, Option<&CardOnFile>) {
        let digest = super::super::digest(format!("{}:{pan}", self.salt).as_bytes());
        let card = self
            .tokens_of_cards
            .get(&digest)
            .and_then(|token| self.cards.get(token));
        (digest, card)
    }

    pub(super) fn open_batch(&self, device: &str) -> Option<&Batch> {
        self.batches
            .iter()
            .rev()
            .find(|batch| batch.device == device && batch.closed_ms.is_none())
    }

    pub(super) fn is_settled(&self, entry: &Entry) -> bool {
        self.batches
            .iter()
            .any(|batch| Some(&batch.guid) == entry.batch.as_ref() && batch.closed_ms.is_some())
    }

    pub(super) fn books(&self) -> Books {
        let mut positions: BTreeMap<String, Position> = BTreeMap::new();
        let captured: HashSet<&str> = self
            .entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Capture && entry.is_approved())
            .filter_map(|capture| capture.parent.as_deref())
            .collect();
        for entry in &self.entries {
            let position = positions.entry(self.root_reference(entry)).or_default();
            if entry.state == EntryState::Declined {
                position.declines += 1;
            }
            if !entry.is_approved() {
                continue;
            }
            let acted_on = || {
                entry
                    .parent
                    .as_ref()
                    .and_then(|parent| self.get(parent))
                    .map(|parent| parent.kind)
            };
            match entry.kind {
                EntryKind::Sale => {
                    position.sales += 1;
                    position.net += entry.approved;
                }
                EntryKind::AuthOnly => {
                    position.authorizations += 1;
                    if !captured.contains(entry.guid.as_str()) {
                        position.held += entry.effective;
                    }
                }
                EntryKind::Capture => position.captures += 1,
                EntryKind::Void => {
                    position.voids += 1;
                    match acted_on() {
                        Some(EntryKind::Sale) => position.net -= entry.approved,
                        Some(EntryKind::Return) => position.net += entry.approved,
                        _ => {}
                    }
                }
                EntryKind::Return => {
                    position.returns += 1;
                    position.net -= entry.approved;
                }
                EntryKind::Verify => {}
            }
        }
        Books {
            entries: self.entries.clone(),
            batches: self.batches.clone(),
            positions,
        }
    }

    fn root_reference(&self, entry: &Entry) -> String {
        let mut root = entry;
        while let Some(parent) = root.parent.as_ref().and_then(|parent| self.get(parent)) {
            root = parent;
        }
        root.sequence_number
            .as_ref()
            .or(root.order_number.as_ref())
            .unwrap_or(&root.guid)
            .clone()
    }
}
